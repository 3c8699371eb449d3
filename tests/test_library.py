"""The shared library: how it is found, checked and opened, and what it consists of."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import tensorflow as tf
import tf_dwgrad
from isolation import TESTS, run_python
from tf_dwgrad import _library, info

CC = TESTS.parent / "cc"
PACKAGE = Path(tf_dwgrad.__file__).parent


# --- Finding it -------------------------------------------------------------------


def test_the_path_is_that_of_the_package():
    path = Path(tf_dwgrad.op_library_path())
    assert path == PACKAGE / "_tf_dwgrad_ops.so" or os.environ.get(
        "TF_DWGRAD_OP_LIBRARY"
    )
    assert path.is_file()


def test_the_environment_variable_overrides_the_path(monkeypatch):
    monkeypatch.setenv("TF_DWGRAD_OP_LIBRARY", "/some/where/else.so")
    assert tf_dwgrad.op_library_path() == "/some/where/else.so"
    monkeypatch.setenv("TF_DWGRAD_OP_LIBRARY", "")
    assert tf_dwgrad.op_library_path() == str(PACKAGE / "_tf_dwgrad_ops.so")


def test_the_library_offers_the_three_ops():
    library = tf.load_op_library(tf_dwgrad.op_library_path())
    names = {name for name in dir(library) if name.startswith("dwgrad")}
    assert {name for name in names if not name.endswith("_eager_fallback")} == {
        "dwgrad_depthwise_conv2d",
        "dwgrad_depthwise_conv2d_backprop_input",
        "dwgrad_depthwise_conv2d_backprop_filter",
    }


# --- Checking its version ---------------------------------------------------------


@pytest.mark.parametrize("running", ["2.21.0", "2.21.1", "2.21.0-rc1", "2.21"])
def test_another_patch_release_is_accepted(running):
    _library.check_version("2.21.0", running)


@pytest.mark.parametrize(
    ("built_for", "running"),
    [("2.20.0", "2.21.0"), ("2.21.0", "2.22.0"), ("2.21.0", "3.21.0")],
)
def test_another_minor_release_is_refused(built_for, running):
    with pytest.raises(ImportError) as error:
        _library.check_version(built_for, running)
    message = str(error.value)
    assert built_for in message
    assert running in message
    assert _library.rebuild_command() in message
    assert "pip install --no-build-isolation" in message


# Imports the package from a folder that is given, in each of several broken states;
# one process does all, for TensorFlow takes seconds to import.
IMPORT_EACH = """
import json, os, sys
import tensorflow as tf
real_load = tf.load_op_library
outcomes = []
for state in json.loads(sys.argv[1]):
    opened = []
    tf.load_op_library = lambda path: opened.append(path) or real_load(path)
    for name in [m for m in sys.modules if m.split(".")[0] == "tf_dwgrad"]:
        del sys.modules[name]
    os.environ.update(state["environment"])
    sys.path.insert(0, state["folder"])
    try:
        import tf_dwgrad
        outcome = ["imported", tf_dwgrad.op_library_path()]
    except BaseException as error:
        outcome = [type(error).__name__, str(error)]
    sys.path.pop(0)
    for name in state["environment"]:
        del os.environ[name]
    outcomes.append([*outcome, opened])
print(json.dumps(outcomes))
"""


def copy_package(folder):
    target = folder / "tf_dwgrad"
    shutil.copytree(
        PACKAGE, target, ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    return target


@pytest.fixture(scope="module")
def broken_imports(tmp_path_factory):
    """What an import of the package gives when something of it is broken."""
    states, real = {}, json.loads((PACKAGE / "build_info.json").read_text())

    def state(name, version=None, library=None, environment=None):
        folder = tmp_path_factory.mktemp("site")
        package = copy_package(folder)
        if version is None:
            (package / "build_info.json").unlink()
        else:
            built = {**real, "tensorflow": version}
            (package / "build_info.json").write_text(json.dumps(built))
        if library is not None:
            (package / "_tf_dwgrad_ops.so").write_bytes(library)
        states[name] = {"folder": str(folder), "environment": environment or {}}

    state("old", "2.20.0", b"garbage")
    state("garbage", tf.__version__, b"garbage")
    state("no library", tf.__version__)
    state("no build info", None, b"garbage")
    state("old, unchecked", "2.20.0", b"garbage", {"TF_DWGRAD_SKIP_VERSION_CHECK": "1"})
    # Last: it opens the real library.
    real_path = str(PACKAGE / "_tf_dwgrad_ops.so")
    state("override", "2.20.0", b"garbage", {"TF_DWGRAD_OP_LIBRARY": real_path})

    environment = {
        "TF_DWGRAD_OP_LIBRARY": "",
        "TF_DWGRAD_SKIP_VERSION_CHECK": "",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    completed = run_python(
        "-c", IMPORT_EACH, json.dumps(list(states.values())), environment=environment
    )
    outcomes = json.loads(completed.stdout)
    return dict(zip(states, outcomes, strict=True))


def test_the_version_is_checked_before_the_library_is_opened(broken_imports):
    kind, message, opened = broken_imports["old"]
    assert kind == "ImportError"
    assert "2.20.0" in message
    assert tf.__version__ in message
    assert "pip install --no-build-isolation" in message
    assert opened == []


def test_a_library_that_cannot_be_opened_is_an_import_error(broken_imports):
    kind, message, opened = broken_imports["garbage"]
    assert kind == "ImportError"
    assert "_tf_dwgrad_ops.so" in message
    assert "pip install --no-build-isolation" in message
    assert len(opened) == 1


@pytest.mark.parametrize("what", ["no library", "no build info"])
def test_an_unbuilt_package_says_how_to_build_it(broken_imports, what):
    kind, message, _ = broken_imports[what]
    assert kind == "ImportError"
    missing = "build_info.json" if what == "no build info" else "_tf_dwgrad_ops.so"
    assert missing in message
    assert "pip install --no-build-isolation" in message


def test_the_check_can_be_skipped(broken_imports):
    # It goes on to open the file, which here is garbage.
    kind, message, opened = broken_imports["old, unchecked"]
    assert kind == "ImportError"
    assert "2.20.0" not in message
    assert len(opened) == 1


def test_an_overriding_library_is_opened_instead(broken_imports):
    kind, path, opened = broken_imports["override"]
    assert kind == "imported", path
    assert path == str(PACKAGE / "_tf_dwgrad_ops.so")
    assert opened == [path]


# --- The command line -------------------------------------------------------------


def test_info_prints_the_facts():
    completed = run_python("-m", "tf_dwgrad", "info", cwd=TESTS)
    facts = dict(
        re.split(r" {2,}", line, maxsplit=1)
        for line in completed.stdout.strip().splitlines()
    )
    built = tf_dwgrad.build_info()
    assert facts["tf_dwgrad"] == tf_dwgrad.__version__
    assert facts["running TensorFlow"] == tf.__version__
    assert facts["built for TensorFlow"] == built["tensorflow"]
    assert facts["compiler"] == built["compiler"]
    assert facts["library"] == tf_dwgrad.op_library_path()
    assert facts["ops"].split(", ") == [
        "DwgradDepthwiseConv2d",
        "DwgradDepthwiseConv2dBackpropInput",
        "DwgradDepthwiseConv2dBackpropFilter",
    ]
    assert info.cpu_model() in facts["CPU"]
    assert facts["CPU kernels"].startswith(f"{_library.cpu_isa()}: ")


@pytest.mark.parametrize("limit", ["generic", "sse9"])
def test_info_says_why_these_kernels_were_chosen(limit):
    completed = run_python(
        "-m", "tf_dwgrad", "info", environment={"TF_DWGRAD_MAX_ISA": limit}, cwd=TESTS
    )
    line = re.search(r"^CPU kernels +(\w+): (.*)$", completed.stdout, re.M)
    best = _library.usable_cpu_isas()[0]
    isa, reason = line.groups()
    if limit == "generic":
        assert isa == "generic"
        assert reason.startswith("TF_DWGRAD_MAX_ISA=generic caps it") == (
            best != "generic"
        )
    else:
        assert isa == best
        assert reason.startswith("the best of ")
        assert "TF_DWGRAD_MAX_ISA=sse9 is unknown here and ignored" in reason


def test_an_unknown_command_is_refused():
    completed = run_python("-m", "tf_dwgrad", "nonsense", check=False, cwd=TESTS)
    assert completed.returncode == 2
    assert "nonsense" in completed.stderr
    assert "info" in completed.stderr


# --- What it consists of ----------------------------------------------------------


def symbols(option):
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    output = subprocess.run(
        ["nm", "-D", option, tf_dwgrad.op_library_path()],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [line.split()[-1] for line in output.splitlines()]


def test_the_library_uses_none_of_tensorflow_s_depthwise_kernels():
    undefined = symbols("--undefined-only")
    # The list is really that of an op library.
    assert any("OpKernel" in symbol for symbol in undefined)
    forbidden = re.compile(r"DepthwiseConv|LaunchDepthwise|dnnl|mkldnn", re.IGNORECASE)
    assert [symbol for symbol in undefined if forbidden.search(symbol)] == []


def test_the_library_exports_nothing_of_others():
    # A symbol that TensorFlow has, too, could take its place, or the other way round.
    defined = symbols("--defined-only")
    assert {name for name in defined if not name.startswith("tf_dwgrad@@")} == {
        "tf_dwgrad_calls",
        "tf_dwgrad_cpu_isa",
        "tf_dwgrad_cpu_isa_reason",
        "tf_dwgrad_cpu_workspace_bytes",
        "tf_dwgrad_cuda_architectures",
        "tf_dwgrad_cuda_version",
        "tf_dwgrad_register_builtin_names",
        "tf_dwgrad_reset_calls",
        "tf_dwgrad_compute_on_cpu",
        "tf_dwgrad_serve_builtin_names",
        "tf_dwgrad_serves_builtin_names",
        "tf_dwgrad_usable_cpu_isas",
    }


def includes(path):
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.M)


SOURCES = sorted(
    path
    for path in CC.rglob("*")
    if path.suffix in (".h", ".hpp", ".cc", ".cpp", ".cu", ".cuh", ".inc")
)
FREE_OF_TENSORFLOW = [
    path
    for path in SOURCES
    if path.name.startswith("conv_geometry.")
    or path.name == "gather_plan.h"
    or path.name.startswith(("cpu_kernel_entry.", "call_counters."))
    or path.name in ("builtin_names.h", "custom_call.h", "number_formats.h")
    or path.name == "pool_parallel_for.h"
    or path.parent in (CC / "kernels" / "cpu", CC / "kernels" / "gpu")
]


def test_the_lists_of_sources_are_not_empty():
    names = {path.name for path in FREE_OF_TENSORFLOW}
    assert {"conv_geometry.h", "conv_geometry.cc", "gather_plan.h"} <= names
    assert {"cpu_kernel.cc", "kernel_problem.h", "gpu_kernel.h"} <= names
    assert "depthwise_conv_op.cc" in {path.name for path in SOURCES}
    op = CC / "kernels" / "depthwise_conv_op.cc"
    assert any(header.startswith("tensorflow/") for header in includes(op))


@pytest.mark.parametrize(
    "path", FREE_OF_TENSORFLOW, ids=lambda path: path.relative_to(CC).as_posix()
)
def test_the_kernels_do_not_know_tensorflow(path):
    # The test: they compile, and are tested, without it.
    others = re.compile(r"(tensorflow|unsupported|eigen3?|absl|tsl|xla)/|Eigen", re.I)
    assert [header for header in includes(path) if others.match(header)] == []
    # What they include of this project must be as free as they are.
    for header in includes(path):
        if header.startswith("cc/"):
            assert CC.parent / header in FREE_OF_TENSORFLOW, header


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if path.suffix in (".cc", ".cpp")],
    ids=lambda path: path.relative_to(CC).as_posix(),
)
def test_the_c_compiler_sees_no_cuda(path):
    # TensorFlow brings CUDA's headers, of another release than nvcc's.
    assert [header for header in includes(path) if "cuda" in header.lower()] == []


@pytest.mark.parametrize(
    "path", SOURCES, ids=lambda path: path.relative_to(CC).as_posix()
)
def test_no_source_includes_tensorflow_s_depthwise_headers(path):
    ours = [header for header in includes(path) if header.startswith("cc/")]
    for header in includes(path):
        if header not in ours:
            assert "depthwise_conv" not in header
