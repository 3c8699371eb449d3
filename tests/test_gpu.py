"""The GPU kernels: what holds without a GPU, and their results where there is one."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_dwgrad
from isolation import TESTS, run_python
from numerics import (
    OPS,
    assert_same,
    assert_within,
    integer_operands,
    normal_operands,
    reference_ops,
    rounding_bounds,
    run_ops,
)
from reference import DTYPES, Case, random_case
from tensorflow.python.framework import kernels
from tf_dwgrad import info
from tf_dwgrad._library import cuda_architectures, cuda_version

ROOT = TESTS.parent

needs_gpu_kernels = pytest.mark.skipif(
    not cuda_version(),
    reason=f"the library has no GPU kernels: {info.gpu_kernels()}",
)
needs_gpu = pytest.mark.skipif(
    not cuda_version() or not tf.config.list_physical_devices("GPU"),
    reason=f"TensorFlow sees no GPU, or GPU kernels: {info.gpu_kernels()}",
)

SIZES = {
    "DwgradDepthwiseConv2d": [],
    "DwgradDepthwiseConv2dBackpropInput": ["input_sizes"],
    "DwgradDepthwiseConv2dBackpropFilter": ["filter_sizes"],
}


# --- What is registered -----------------------------------------------------------


def registered(op, device):
    """The types of an op's kernels for a device, with what they want in host memory."""
    found = {}
    for kernel in kernels.get_registered_kernels_for_op(op).kernel:
        if kernel.device_type == device:
            (constraint,) = kernel.constraint
            assert constraint.name == "T"
            (dtype,) = constraint.allowed_values.list.type
            assert dtype not in found
            found[tf.as_dtype(dtype).name] = list(kernel.host_memory_arg)
    return found


@pytest.mark.parametrize("op", SIZES)
@pytest.mark.parametrize(
    "device", ["CPU", pytest.param("GPU", marks=needs_gpu_kernels)]
)
def test_every_type_has_a_kernel_that_wants_sizes_on_the_host(op, device):
    assert registered(op, device) == dict.fromkeys(DTYPES, SIZES[op])


@pytest.mark.skipif(bool(cuda_version()), reason="the library has GPU kernels")
@pytest.mark.parametrize("op", SIZES)
def test_without_cuda_nothing_is_registered_for_gpus(op):
    assert registered(op, "GPU") == {}


# --- What the library consists of -------------------------------------------------


def run_tool(*command):
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(
        [*command, tf_dwgrad.op_library_path()],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@needs_gpu_kernels
def test_the_library_has_device_code():
    assert ".nv_fatbin" in run_tool("readelf", "--sections", "--wide")


def test_the_cuda_runtime_comes_from_nowhere_else():
    # TensorFlow exports the names of the runtime's functions, for another release.
    undefined = run_tool("nm", "-D", "--undefined-only")
    assert "OpKernel" in undefined
    assert re.findall(r"\b_*cu(?:da)?[A-Z]\w*", undefined) == []
    # No driver is needed to load it, nor the runtime's own library.
    needed = re.findall(r"NEEDED.*\[(.*)\]", run_tool("readelf", "--dynamic"))
    assert "libtensorflow_framework.so.2" in needed
    assert [name for name in needed if re.search("cuda|nv", name)] == []


@needs_gpu_kernels
def test_without_a_gpu_the_library_serves_the_cpu():
    completed = run_python(
        "-c",
        """
import tensorflow as tf, tf_dwgrad
assert not tf.config.list_physical_devices("GPU")
x, w = tf.ones([1, 4, 4, 2]), tf.ones([3, 3, 2, 1])
print(tf_dwgrad.depthwise_conv2d(x, w, [1] * 4, "VALID").numpy().tolist())
""",
        cwd=TESTS,
    )
    assert completed.stdout.strip() == str([[[[9.0, 9.0]] * 2] * 2])


# --- What it tells of itself ------------------------------------------------------


def test_info_tells_of_the_gpu_kernels(monkeypatch):
    monkeypatch.setattr(info, "cuda_version", lambda: "")
    assert info.gpu_kernels() == "none: built without CUDA"
    assert info.gpu_kernels("there is no nvcc").endswith("CUDA, there is no nvcc")
    monkeypatch.setattr(info, "cuda_version", lambda: "13.0.88")
    monkeypatch.setattr(
        info, "cuda_architectures", lambda: ["75-real", "90-virtual", "120"]
    )
    assert info.gpu_kernels() == (
        "CUDA 13.0.88 for compute capability 7.5, PTX of 9.0, 12.0, PTX of 12.0"
    )


def test_info_tells_of_this_library():
    completed = run_python("-m", "tf_dwgrad", "info", cwd=TESTS)
    line = re.search(r"^GPU kernels +(.*)$", completed.stdout, re.M)[1]
    if cuda_version():
        assert re.fullmatch(r"\d+(\.\d+)+", cuda_version())
        assert cuda_architectures()
        assert line == info.gpu_kernels()
    else:
        assert line.startswith("none: built without CUDA")


# --- How the build decides --------------------------------------------------------


def configure(folder, choice, nvcc):
    """Configures the tests of the TensorFlow-free code; status and output."""
    # Of the environment, which need not be on the PATH.
    folders = [str(Path(sys.executable).parent), os.environ["PATH"]]
    cmake = shutil.which("cmake", path=os.pathsep.join(folders))
    if cmake is None:
        pytest.skip("cmake is not installed")
    completed = subprocess.run(
        [
            cmake,
            *("-S", ROOT, "-B", folder, "-DTF_DWGRAD_BUILD_LIBRARY=OFF"),
            *(f"-DTF_DWGRAD_CUDA={choice}", f"-DCMAKE_CUDA_COMPILER={nvcc}"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    # Sentences are wrapped.
    return completed.returncode, " ".join(completed.stdout.split())


def test_without_nvcc_the_build_is_for_the_cpu_unless_told_otherwise(tmp_path):
    nvcc = tmp_path / "nvcc"
    status, output = configure(tmp_path / "build", "AUTO", nvcc)
    assert status == 0
    assert f"GPU kernels: no, because '{nvcc}' does not run" in output
    status, output = configure(tmp_path / "build", "ON", nvcc)
    assert status != 0
    assert f"TF_DWGRAD_CUDA=ON needs nvcc 12.0 or newer, but '{nvcc}'" in output
    assert 'pip install "cuda-toolkit[nvcc,cccl]' in output
    status, output = configure(tmp_path / "build", "OFF", nvcc)
    assert status == 0
    assert "GPU kernels: no, because TF_DWGRAD_CUDA=OFF" in output


def test_an_nvcc_that_is_too_old_is_refused(tmp_path):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho '#$ TOP=/'\necho 'Build V11.8.89'\n")
    nvcc.chmod(0o755)
    _, output = configure(tmp_path / "build", "AUTO", nvcc)
    assert f"'{nvcc}' is of CUDA 11.8.89, and 12.0 or newer is needed" in output


# --- Results, on a GPU ------------------------------------------------------------


@needs_gpu
def test_the_gpu_is_exact_on_integers():
    rng = np.random.default_rng(0)
    for _ in range(300):
        case = random_case(rng)
        operands = integer_operands(case, rng)
        with tf.device("/GPU:0"):
            got = run_ops(case, *operands)
        for op, want in reference_ops(case, *operands).items():
            with np.errstate(over="ignore"):
                rounded = want.astype(DTYPES[case.dtype])
            assert_same(got[op], rounded, f"{op} of {case}")


@needs_gpu
def test_the_gpu_rounds_no_more_than_it_must_and_always_alike():
    rng = np.random.default_rng(1)
    for _ in range(100):
        case = random_case(rng)
        operands = normal_operands(case, rng)
        with tf.device("/GPU:0"):
            got, again = run_ops(case, *operands), run_ops(case, *operands)
        want = reference_ops(case, *operands, np.longdouble)
        bounds = rounding_bounds(case, *operands, want)
        for op in OPS:
            assert_within(got[op], want[op], bounds[op], f"{op} of {case}")
            assert got[op].tobytes() == again[op].tobytes(), f"{op} of {case}"


@needs_gpu
def test_empty_operands_give_zeros_on_the_gpu():
    case = Case(0, (5, 6), 3, 2, (3, 3))
    x, w, dy = normal_operands(case, np.random.default_rng(0))
    with tf.device("/GPU:0"):
        got = run_ops(case, x, w, dy)
    assert got["forward"].shape == case.output_shape
    assert got["input_gradient"].shape == case.input_shape
    assert_same(got["filter_gradient"], np.zeros(case.filter_shape, "f"), case)


@needs_gpu
def test_an_operand_may_start_anywhere_on_the_gpu():
    """A slice that shares its buffer is aligned to its elements only."""
    case = Case(3, (5, 5), 3, 1, (3, 3), dtype="float16")
    operands = integer_operands(case, np.random.default_rng(0))
    x, w, _ = (tf.constant(operand) for operand in operands)

    @tf.function
    def of_slices(x):
        return [
            tf_dwgrad.depthwise_conv2d(part, w, [1] * 4, "SAME")
            for part in tf.split(x, 3)
        ]

    with tf.device("/GPU:0"):
        got = tf.concat(of_slices(x), axis=0).numpy()
    want = reference_ops(case, *operands)["forward"].astype(np.float16)
    assert_same(got, want, case)
