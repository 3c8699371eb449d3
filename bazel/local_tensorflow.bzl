"""TensorFlow as a Python wheel brings it: headers and the framework library.

The environment variable TF_DWGRAD_PYTHON chooses the Python.
"""

_MINIMUM_VERSION = [2, 21]

_BUILD = """
cc_library(
    name = "framework",
    srcs = ["{library}"],
    # All files: the headers include .inc files and ones without an extension.
    textual_hdrs = glob(["include/**"]),
    defines = {defines},
    includes = ["include"],
    visibility = ["//visibility:public"],
)
"""

def _run(rctx, command, failure):
    result = rctx.execute(
        command,
        # PYTHONPATH may hold another Python's packages.
        environment = {"PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if result.return_code != 0:
        fail(failure)
    return result.stdout

def _local_tensorflow_impl(rctx):
    python = rctx.os.environ.get("TF_DWGRAD_PYTHON", "python3")
    version, include_dir, library_dir, compile_options, _, link_options = _run(
        rctx,
        [python, rctx.path(Label("//:cmake/tensorflow_probe.py"))],
        ("'{0}' cannot import tensorflow; install it with " +
         "'{0} -m pip install tensorflow'").format(python),
    ).splitlines()

    if [int(part) for part in version.split(".")[:2]] < _MINIMUM_VERSION:
        fail("'%s' has TensorFlow %s; 2.21 or later is needed" % (python, version))

    # Links to files rather than to the folder, so that the BUILD files in it,
    # which would hide their folders from the glob, can go.
    _run(rctx, ["cp", "-rs", include_dir, "include"], "cannot link to TensorFlow's headers")
    _run(
        rctx,
        ["find", "include", "(", "-name", "BUILD", "-o", "-name", "BUILD.bazel", ")", "-delete"],
        "cannot delete the BUILD files among TensorFlow's headers",
    )
    library = link_options.replace("-l:", "")
    rctx.symlink(library_dir + "/" + library, library)

    defines = []
    for option in compile_options.split(";"):
        if not option.startswith("-D"):
            fail("TensorFlow asks for the unknown compiler option '%s'" % option)
        defines.append(option[len("-D"):])

    # TensorFlow's headers lay out some classes differently without NDEBUG, and
    # its wheels are built with it.
    defines.append("NDEBUG")
    rctx.file("BUILD", _BUILD.format(library = library, defines = defines))

local_tensorflow = repository_rule(
    implementation = _local_tensorflow_impl,
    environ = ["TF_DWGRAD_PYTHON"],
    # Looks again in every new Bazel process: pip may have replaced TensorFlow.
    local = True,
)
