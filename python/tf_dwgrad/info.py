"""``python -m tf_dwgrad info``: what is installed and chosen on this machine."""

import os
import platform

import tensorflow as tf

import tf_dwgrad
from tf_dwgrad._library import (
    OVERRIDE,
    cpu_isa,
    cpu_isa_reason,
    cuda_architectures,
    cuda_version,
    xla_failure,
)


def cpu_model() -> str:
    """Returns the CPU's name, family and model as the operating system gives them.

    Virtual machines shorten the name; family and model still tell the generation.
    """
    facts: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo") as cpuinfo:
            for line in cpuinfo:
                name, _, value = line.partition(":")
                facts.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    return (
        f"{facts['model name']} (family {facts.get('cpu family', '?')}, "
        f"model {facts.get('model', '?')})"
    )


def gpu_kernels(no_cuda_because: str = "") -> str:
    """Returns what the GPU kernels were compiled with and for, or that there are none.

    Args:
        no_cuda_because: the reason that the build gave, if it is known.
    """
    if not cuda_version():
        return f"none: built without CUDA, {no_cuda_because}".removesuffix(", ")
    words = []
    for architecture in cuda_architectures():
        capability, _, form = architecture.partition("-")
        capability = f"{capability[:-1]}.{capability[-1]}"
        # Without a form it is both.
        if form != "virtual":
            words.append(capability)
        if form != "real":
            words.append(f"PTX of {capability}")
    return f"CUDA {cuda_version()} for compute capability {', '.join(words)}"


def describe() -> dict[str, str]:
    """Returns the facts that a bug report needs, by name."""
    # A library that stands in for the installed one says nothing of its build.
    build = {} if OVERRIDE in os.environ else tf_dwgrad.build_info()
    failure = xla_failure()
    devices = [device.device_type for device in tf.config.list_physical_devices()]
    return {
        "tf_dwgrad": tf_dwgrad.__version__,
        "library": tf_dwgrad.op_library_path(),
        "built for TensorFlow": build.get("tensorflow", "unknown"),
        "running TensorFlow": tf.__version__,
        "compiler": build.get("compiler", "unknown"),
        "target": build.get("target", "unknown"),
        "built on": build.get("build_date", "unknown"),
        "CPU": f"{cpu_model()}, {os.cpu_count()} logical cores",
        "CPU kernels": f"{cpu_isa()}: {cpu_isa_reason()}",
        "jit_compile on the CPU": f"no: {failure}" if failure else "yes",
        "GPU kernels": gpu_kernels(build.get("no_cuda_because", "")),
        "devices TensorFlow sees": ", ".join(devices),
        "ops": "DwgradDepthwiseConv2d, DwgradDepthwiseConv2dBackpropInput, "
        "DwgradDepthwiseConv2dBackpropFilter",
        "types": "half, bfloat16, float32, float64",
    }


def main() -> int:
    """Prints :func:`describe`, a line each."""
    facts = describe()
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    return 0
