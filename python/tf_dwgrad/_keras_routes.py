"""Keras's convolutions that are depthwise but do not say so to TensorFlow.

Keras 3 gives a grouped convolution to XLA on the CPU, and computes a depthwise one with
strides and dilations without the strides, to throw most of the result away. While the
package is enabled, both go to one depthwise op.
"""

import functools
from typing import Any

import tensorflow as tf

from tf_dwgrad.ops import depthwise_conv2d

# Where layers and ``keras.ops`` look the functions up at every call.
MODULE = "keras.src.backend.tensorflow.nn"

_DTYPES = (tf.float16, tf.bfloat16, tf.float32, tf.float64)

_module: Any = None
_originals: dict[str, Any] = {}
_routes: dict[str, Any] = {}


def attach(module) -> None:
    """Remembers Keras's module and what its functions are."""
    global _module
    _module = module
    for name, route in (
        ("conv", _conv),
        ("depthwise_conv", _depthwise_conv),
        ("separable_conv", _separable_conv),
    ):
        original = getattr(module, name)
        _originals[name] = original
        _routes[name] = functools.wraps(original)(functools.partial(route, original))


def set_routed(routed: bool) -> None:
    """Puts our functions into Keras's module, or Keras's own back."""
    for name, original in _originals.items():
        setattr(_module, name, _routes[name] if routed else original)


def _pair(value) -> tuple[int, ...] | None:
    """Strides or dilations for height and width; None if they are something else."""
    pair = (value, value) if isinstance(value, int) else tuple(value or (1, 1))
    return pair if len(pair) == 2 else None


def _depthwise(inputs, kernel, strides, padding, data_format, dilations) -> tf.Tensor:
    nchw = data_format == "channels_first"
    strides = [1, 1, *strides] if nchw else [1, *strides, 1]
    data_format = "NCHW" if nchw else "NHWC"
    if max(dilations) > 1:
        # Not by TensorFlow's name: a graph that is loaded without this package would
        # have gradients that ignore the dilations.
        return depthwise_conv2d(
            inputs, kernel, strides, padding, data_format, list(dilations)
        )
    return tf.raw_ops.DepthwiseConv2dNative(
        input=inputs,
        filter=kernel,
        strides=strides,
        padding=padding.upper(),
        data_format=data_format,
    )


def _conv(
    original,
    inputs,
    kernel,
    strides=1,
    padding="valid",
    data_format=None,
    dilation_rate=1,
):
    """Keras's ``conv``, but one channel per group is a depthwise convolution."""
    if _is_depthwise(inputs, kernel, strides, data_format, dilation_rate):
        data_format = _module.backend.standardize_data_format(data_format)
        x, filters = map(_module.convert_to_tensor, (inputs, kernel))
        channels = x.shape[_channel_axis(data_format)]
        rows, cols, _, out_channels = filters.shape
        filters = tf.reshape(filters, [rows, cols, channels, out_channels // channels])
        if x.dtype == filters.dtype and x.dtype in _DTYPES:
            result = _depthwise(
                x,
                filters,
                _pair(strides),
                padding,
                data_format,
                _pair(dilation_rate),
            )
            # Of an empty result Keras says which arguments are to blame.
            if result.shape.num_elements() != 0:
                return result
    return original(inputs, kernel, strides, padding, data_format, dilation_rate)


def _is_depthwise(inputs, kernel, strides, data_format, dilation_rate) -> bool:
    """Whether a convolution has two dimensions and one channel in each group."""
    if len(inputs.shape) != 4 or len(kernel.shape) != 4 or kernel.shape[2] != 1:
        return False
    data_format = _module.backend.standardize_data_format(data_format)
    channels = inputs.shape[_channel_axis(data_format)]
    if channels is None or channels == 1 or kernel.shape[3] % channels != 0:
        return False
    return _pair(strides) is not None and _pair(dilation_rate) is not None


def _channel_axis(data_format: str) -> int:
    return 1 if data_format == "channels_first" else 3


def _strided_and_dilated(inputs, strides, dilation_rate) -> bool:
    """Whether Keras would compute without the strides and subsample."""
    pairs = _pair(strides), _pair(dilation_rate)
    return len(inputs.shape) == 4 and all(pair and max(pair) > 1 for pair in pairs)


def _depthwise_conv(
    original,
    inputs,
    kernel,
    strides=1,
    padding="valid",
    data_format=None,
    dilation_rate=1,
):
    """Keras's ``depthwise_conv``, with strides and dilations in one op."""
    if not _strided_and_dilated(inputs, strides, dilation_rate):
        return original(inputs, kernel, strides, padding, data_format, dilation_rate)
    return _depthwise(
        _module.convert_to_tensor(inputs),
        _module.convert_to_tensor(kernel),
        _pair(strides),
        padding,
        _module.backend.standardize_data_format(data_format),
        _pair(dilation_rate),
    )


def _separable_conv(
    original,
    inputs,
    depthwise_kernel,
    pointwise_kernel,
    strides=1,
    padding="valid",
    data_format=None,
    dilation_rate=1,
):
    """Keras's ``separable_conv``, with strides and dilations in one op."""
    attributes = (strides, padding, data_format, dilation_rate)
    if not _strided_and_dilated(inputs, strides, dilation_rate):
        return original(inputs, depthwise_kernel, pointwise_kernel, *attributes)
    outputs = _depthwise_conv(original, inputs, depthwise_kernel, *attributes)
    return _module.conv(outputs, pointwise_kernel, data_format=data_format)
