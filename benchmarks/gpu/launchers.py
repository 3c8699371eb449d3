"""The GPU kernels without TensorFlow: their launchers, built by nvcc, called by ctypes.

The interface is that of cc/kernels/gpu/gpu_kernel.h.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# In the order of the enumerations ConvOp and ElementType.
OPS = ("forward", "input_gradient", "filter_gradient")
DTYPES = ("half", "bfloat16", "float32", "float64")

BEST = -1


class LaunchFailed(Exception):
    """What the CUDA runtime said of a launch."""


class BuildFailed(Exception):
    """What the compiler said, or that there is none."""


class Axis(ctypes.Structure):
    """GpuConvAxis."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in ("in_", "out", "filter", "stride", "dilation", "pad_before")
    )


class Problem(ctypes.Structure):
    """GpuConvProblem."""

    _fields_ = (
        ("batch", ctypes.c_int64),
        ("in_depth", ctypes.c_int64),
        ("depth_multiplier", ctypes.c_int64),
        ("rows", Axis),
        ("cols", Axis),
        ("channels_last", ctypes.c_int64),
    )


def build(folder: Path, architecture: str = "native", jobs: int | None = None) -> Path:
    """Compiles the launchers into a shared library.

    Args:
        folder: where it goes, with the objects; made if need be.
        architecture: what nvcc's ``-arch`` takes: ``native`` is that of the GPUs here.
        jobs: how many files are compiled at once; by default one per core.

    Returns:
        The library's path.

    Raises:
        BuildFailed: if there is no nvcc, or it fails.
    """
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    if nvcc is None:
        raise BuildFailed(
            "there is no nvcc: put it on the PATH or name it in the variable CUDACXX"
        )
    folder.mkdir(parents=True, exist_ok=True)
    flags = ["-std=c++17", "-O3", f"-arch={architecture}", "-lineinfo", f"-I{ROOT}"]
    sources = [
        *sorted((ROOT / "cc" / "kernels" / "gpu").glob("*.cu")),
        Path(__file__).with_name("multiply_add.cu"),
    ]
    objects = [folder / f"{source.stem}.o" for source in sources]

    def compile_one(source: Path, target: Path) -> None:
        _run([nvcc, *flags, "-Xcompiler=-fPIC", "-c", source, "-o", target])

    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        list(pool.map(compile_one, sources, objects))
    library = folder / "tf_dwgrad_gpu.so"
    _run([nvcc, *flags, "-shared", *objects, "-o", library])
    return library


def _run(command: Sequence) -> None:
    completed = subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if completed.returncode != 0:
        raise BuildFailed(f"'{command[0]}' failed:\n{completed.stdout}")


class Launchers:
    """The functions of a library that :func:`build` made.

    An op is one of ``OPS``, an element type one of ``DTYPES``, a variant a number below
    the length of :meth:`variants` or ``BEST``. Operands are addresses in the memory of
    the device.
    """

    def __init__(self, path: Path):
        """Opens the library."""
        self._library = ctypes.CDLL(str(path))
        number, pointer = ctypes.c_int, ctypes.c_void_p
        problem = ctypes.POINTER(Problem)
        of_problem = [problem, number, number]
        operands = [pointer] * 3
        self._launch = {
            op: self._function(name, [*of_problem, *operands, *rest, pointer])
            for op, name, rest in (
                ("forward", "Forward", []),
                ("input_gradient", "BackpropInput", []),
                ("filter_gradient", "BackpropFilter", [pointer, ctypes.c_int64]),
            )
        }
        self._workspace = self._function(
            "BackpropFilterWorkspace", of_problem, ctypes.c_int64
        )
        self._count = self._function("VariantCount", [number])
        self._name = self._function("VariantName", [number] * 2, ctypes.c_char_p)
        self._applies = self._function("VariantApplies", [number, *of_problem])
        self._choose = self._function("ChooseVariant", [number, problem, number])
        self._error = self._function("ErrorString", [number], ctypes.c_char_p)

    def _function(self, name: str, arguments: list, result: type = ctypes.c_int):
        function = getattr(self._library, f"TfDwgradGpu{name}")
        function.argtypes, function.restype = arguments, result
        return function

    def variants(self, op: str) -> list[str]:
        """The names of an op's variants, by number."""
        number = OPS.index(op)
        return [
            self._name(number, variant).decode()
            for variant in range(self._count(number))
        ]

    def applies(self, op: str, problem: Problem, dtype: str, variant: int) -> bool:
        """Whether a variant can do a problem."""
        type_ = DTYPES.index(dtype)
        return bool(self._applies(OPS.index(op), ctypes.byref(problem), type_, variant))

    def chosen(self, op: str, problem: Problem, dtype: str) -> str:
        """The name of the variant that is best for a problem."""
        variant = self._choose(
            OPS.index(op), ctypes.byref(problem), DTYPES.index(dtype)
        )
        return self.variants(op)[variant]

    def workspace_bytes(self, op: str, problem: Problem, dtype: str, variant: int):
        """What :meth:`launch` wants as workspace."""
        if op != "filter_gradient":
            return 0
        return self._workspace(ctypes.byref(problem), DTYPES.index(dtype), variant)

    def launch(
        self,
        op: str,
        problem: Problem,
        dtype: str,
        variant: int,
        operands: Sequence[int],
        workspace: tuple[int, int] = (0, 0),
        stream: int = 0,
    ) -> None:
        """Puts an op on a stream.

        Args:
            op: which.
            problem: sizes and attributes.
            dtype: of all operands.
            variant: which, or ``BEST``.
            operands: the addresses of the op's two operands and of its result.
            workspace: address and size of what :meth:`workspace_bytes` asks for.
            stream: a cudaStream_t.

        Raises:
            LaunchFailed: if the launcher returns an error.
        """
        rest = workspace if op == "filter_gradient" else ()
        error = self._launch[op](
            ctypes.byref(problem),
            DTYPES.index(dtype),
            variant,
            *operands,
            *rest,
            stream,
        )
        if error:
            raise LaunchFailed(f"{op}: {self._error(error).decode()} ({error})")

    def multiply_add(self, dtype: str, blocks: int, rounds: int, result: int) -> int:
        """Puts the kernel that only multiplies and adds on the default stream.

        Returns:
            How many floating-point operations it does.
        """
        function = self._library.TfDwgradMultiplyAdd
        function.argtypes = [ctypes.c_int] * 3 + [ctypes.c_void_p]
        function.restype = ctypes.c_int64
        return function(dtype == "float64", blocks, rounds, result)
