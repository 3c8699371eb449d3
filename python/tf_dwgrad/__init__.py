"""Gradients of depthwise 2-D convolution for TensorFlow.

The functions compute with this package's own kernels: right for every stride, dilation,
padding, layout and depth multiplier, in half, bfloat16, float32 and float64.
"""

import importlib
from typing import Any

from tf_dwgrad._library import build_info, op_library_path
from tf_dwgrad.enabling import (
    Call,
    counters,
    disable,
    enable,
    enable_if_asked,
    enabled,
    is_enabled,
    reset_counters,
)
from tf_dwgrad.ops import (
    depthwise_conv2d,
    depthwise_conv2d_backprop_filter,
    depthwise_conv2d_backprop_input,
)

__version__ = "0.1.0"

__all__ = [
    "Call",
    "build_info",
    "counters",
    "depthwise_conv2d",
    "depthwise_conv2d_backprop_filter",
    "depthwise_conv2d_backprop_input",
    "disable",
    "enable",
    "enabled",
    "is_enabled",
    "keras",
    "op_library_path",
    "reset_counters",
]

enable_if_asked()


def __getattr__(name: str) -> Any:
    # Importing Keras takes seconds, which users of the functions need not spend.
    if name == "keras":
        return importlib.import_module("tf_dwgrad.keras")
    raise AttributeError(f"module 'tf_dwgrad' has no attribute {name!r}")
