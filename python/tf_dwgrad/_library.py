"""Finds, checks and opens the shared libraries: the ops, and the ops under XLA."""

import ctypes
import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

_PACKAGE = Path(__file__).resolve().parent
# Lets a library built elsewhere (by Bazel, say) stand in for the installed one.
OVERRIDE = "TF_DWGRAD_OP_LIBRARY"
_SKIP_CHECK = "TF_DWGRAD_SKIP_VERSION_CHECK"

_ops: Any = None
_xla_failure: str | None = None


def op_library_path() -> str:
    """Returns the path of the shared library that holds the ops.

    A program that does not import this package, such as a server, gets the ops with
    ``tf.load_op_library`` on this file. The environment variable
    ``TF_DWGRAD_OP_LIBRARY`` overrides the path.

    Example:
        >>> lib = tf.load_op_library(tf_dwgrad.op_library_path())
        >>> lib.dwgrad_depthwise_conv2d_backprop_input  # doctest: +SKIP
    """
    return os.environ.get(OVERRIDE) or str(_PACKAGE / "_tf_dwgrad_ops.so")


def xla_library_path() -> str:
    """Returns the path of the library that lets XLA compile the ops on the CPU.

    It lies beside :func:`op_library_path` and needs it. A program that does not import
    this package opens it with ``tf.load_library`` (in C++ ``Env::LoadDynamicLibrary``
    or ``TF_LoadLibrary``), after that one and at any time, before or after XLA first
    compiles.
    """
    return str(Path(op_library_path()).with_name("_tf_dwgrad_xla.so"))


def xla_failure() -> str | None:
    """Returns None if the ops compile under ``jit_compile=True``, or else why not."""
    load_ops()
    return _xla_failure


def build_info() -> dict[str, str]:
    """Returns what the installed library was built with: TensorFlow, compiler, date.

    Raises:
        ImportError: if the package was not built.
    """
    path = _PACKAGE / "build_info.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ImportError(
            f"tf_dwgrad is not built: {path} does not exist; run "
            f"'{rebuild_command()}' in the source tree"
        ) from None


def cpu_isa() -> str:
    """Returns the instruction set whose kernels run here, such as ``"avx2"``.

    It is the best that the CPU has; the environment variable ``TF_DWGRAD_MAX_ISA``
    caps it.
    """
    return library().tf_dwgrad_cpu_isa().decode()


def cpu_isa_reason() -> str:
    """Returns the sentence that says why :func:`cpu_isa` was chosen."""
    return library().tf_dwgrad_cpu_isa_reason().decode()


def usable_cpu_isas() -> list[str]:
    """Returns all instruction sets that this CPU could be made to use, best first."""
    return library().tf_dwgrad_usable_cpu_isas().decode().split(",")


def cuda_version() -> str:
    """Returns the CUDA release that compiled the GPU kernels; empty without any."""
    return library().tf_dwgrad_cuda_version().decode()


def cuda_architectures() -> list[str]:
    """Returns the GPUs that the GPU kernels were compiled for.

    Each is a compute capability without its dot, as machine code (``"80-real"``) or as
    PTX (``"90-virtual"``), which the driver compiles for newer GPUs.
    """
    return library().tf_dwgrad_cuda_architectures().decode().split()


@functools.cache
def library() -> ctypes.CDLL:
    """Returns the op library as a set of C functions."""
    load_ops()
    opened = ctypes.CDLL(op_library_path())
    for name in (
        "tf_dwgrad_cpu_isa",
        "tf_dwgrad_cpu_isa_reason",
        "tf_dwgrad_usable_cpu_isas",
        "tf_dwgrad_cuda_version",
        "tf_dwgrad_cuda_architectures",
        "tf_dwgrad_register_builtin_names",
    ):
        getattr(opened, name).restype = ctypes.c_char_p
    opened.tf_dwgrad_calls.restype = ctypes.c_int64
    return opened


@functools.cache
def xla_library() -> ctypes.CDLL:
    """Returns the XLA library as a set of C functions; see :func:`xla_failure`."""
    opened = ctypes.CDLL(xla_library_path())
    opened.tf_dwgrad_register_builtin_names_xla.restype = ctypes.c_char_p
    return opened


def rebuild_command() -> str:
    """Returns the command that builds the package for the running TensorFlow."""
    return (
        f"{sys.executable} -m pip install --no-build-isolation --force-reinstall "
        "--no-deps ."
    )


def check_version(built_for: str, running: str) -> None:
    """Raises ImportError unless both versions have the same major and minor part.

    TensorFlow's C++ interface changes with every minor release: a library built for
    another one may fail to load or, worse, load and misbehave.
    """
    if built_for.split(".")[:2] != running.split(".")[:2]:
        raise ImportError(
            f"tf_dwgrad was built for TensorFlow {built_for} but TensorFlow {running} "
            f"is running; rebuild it with '{rebuild_command()}' in the source tree"
        )


def load_ops() -> Any:
    """Returns the module of op functions, opening the library on the first call."""
    global _ops, _xla_failure
    if _ops is not None:
        return _ops
    path = op_library_path()
    if not os.environ.get(OVERRIDE) and os.environ.get(_SKIP_CHECK) != "1":
        check_version(build_info()["tensorflow"], tf.__version__)
    try:
        _ops = tf.load_op_library(path)
    except (tf.errors.NotFoundError, OSError) as error:
        raise ImportError(
            f"tf_dwgrad cannot open {path} with TensorFlow {tf.__version__}: {error}; "
            f"rebuild it with '{rebuild_command()}' in the source tree"
        ) from error
    _xla_failure = _load_xla()
    return _ops


def _load_xla() -> str | None:
    """Opens the XLA library and returns why that failed, if it did.

    All else works without it, so a failure is told only to those who ask.
    """
    path = xla_library_path()
    if not os.path.exists(path):
        built_without = ""
        if not os.environ.get(OVERRIDE):
            built_without = build_info().get("xla_failure", "")
        return built_without or f"there is no {path}"
    try:
        tf.load_library(path)
    except (tf.errors.OpError, OSError) as error:
        return f"{path} cannot be opened: {error}"
    return None
