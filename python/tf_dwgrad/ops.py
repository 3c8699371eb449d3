"""Depthwise 2-D convolution and its gradients, as functions on tensors.

The three ops are each other's derivatives, and their gradients are registered here, so
that derivatives of any order exist for every combination of attributes.
"""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import tensorflow as tf

from tf_dwgrad._library import load_ops

_ops = load_ops()

Padding = str | Sequence[Sequence[int]]

_INT32 = tf.int32

# After a large op the caches hold none of this: every line of Python that an eager call
# runs, and every object that it touches, then waits for memory. So the usual arguments
# pass the checks below by few lines.


def _ints(argument: str, values: Any) -> list[int]:
    """The list of Python ints that an attribute wants."""
    try:
        if isinstance(values, str):
            raise TypeError
        result = []
        for value in values:
            if type(value) is not int:
                # bool is an int and 1.0 == 1, but both are mistakes here.
                if isinstance(value, bool) or int(value) != value:
                    raise TypeError
                value = int(value)
            if not -(2**63) <= value < 2**63:
                raise ValueError
            result.append(value)
        return result
    except (TypeError, ValueError):
        raise ValueError(
            f"{argument} must be a list of 64-bit integers, but got {values!r}"
        ) from None


def _sizes(argument: str, sizes: Any) -> Any:
    """`sizes` unchanged, after the checks that TensorFlow's conversion lacks."""
    if getattr(sizes, "dtype", None) is _INT32:
        return sizes
    if tf.is_tensor(sizes):
        raise TypeError(
            f"{argument} must be of type int32, but is of type {sizes.dtype.name}"
        )
    if isinstance(sizes, (list, tuple, np.ndarray)):
        # The conversion wraps what does not fit into int32: 2^32 + 1 becomes 1.
        for size in sizes:
            if isinstance(size, Integral) and not 0 <= size < 2**31:
                raise ValueError(
                    f"{argument} must hold integers between 0 and {2**31 - 1}, but "
                    f"got {sizes!r}"
                )
    return sizes


def _padding_attrs(padding: Padding) -> tuple[str, list[int]]:
    """The attributes `padding` and `explicit_paddings` for a `padding` argument."""
    if isinstance(padding, str):
        name = padding.upper()
        if name not in ("SAME", "VALID"):
            raise ValueError(
                "padding must be 'SAME', 'VALID' or a list of four pairs such as "
                f"[[0, 0], [1, 1], [1, 1], [0, 0]], but got {padding!r}"
            )
        return name, []
    try:
        pairs = [_ints("padding", pair) for pair in padding]
    except (TypeError, ValueError):
        pairs = []
    if [len(pair) for pair in pairs] != [2, 2, 2, 2]:
        raise ValueError(
            "padding must be 'SAME', 'VALID' or a list of four pairs, [before, after] "
            f"for each dimension in the order of data_format, but got {padding!r}"
        )
    flat = [value for pair in pairs for value in pair]
    return "EXPLICIT", flat


def _attrs(
    strides: Any, padding: Padding, data_format: str, dilations: Any
) -> tuple[Any, ...]:
    """The attributes of the three ops, in their order."""
    return (
        _ints("strides", strides),
        *_padding_attrs(padding),
        data_format,
        _ints("dilations", dilations),
    )


def depthwise_conv2d_backprop_input(
    input_sizes: Any,
    filter: Any,
    out_backprop: Any,
    strides: Sequence[int],
    padding: Padding,
    data_format: str = "NHWC",
    dilations: Sequence[int] = (1, 1, 1, 1),
    name: str | None = None,
) -> tf.Tensor:
    """Computes the gradient of depthwise 2-D convolution with respect to its input.

    With ``k = c * depth_multiplier + q`` the result is::

        dX[b, y, x, c] = sum over q, r, s of
            out_backprop[b, i, j, k] * filter[r, s, c, q]
        where i * stride_h = y + pad_top  - r * dilation_h
              j * stride_w = x + pad_left - s * dilation_w

    over the integers ``i``, ``j`` inside ``out_backprop``. It has the signature of
    ``tf.nn.depthwise_conv2d_backprop_input``; unlike it, it honours ``dilations``,
    unequal strides, ``"NCHW"`` on the CPU and explicit paddings, in any combination.

    Half and bfloat16 are accumulated in float32 and rounded once. The result is
    bitwise the same from run to run and for any number of threads.

    Args:
        input_sizes: int32 vector of 4 elements: the shape of ``input``, in the order
            of ``data_format``.
        filter: ``[filter_height, filter_width, in_channels, depth_multiplier]``, of
            type half, bfloat16, float32 or float64.
        out_backprop: the gradient with respect to the output, of the type of
            ``filter``: ``[batch, out_height, out_width, in_channels *
            depth_multiplier]`` for NHWC, ``[batch, in_channels * depth_multiplier,
            out_height, out_width]`` for NCHW.
        strides: 4 positive integers (pixels) in the order of ``data_format``; 1 for
            batch and depth.
        padding: ``"SAME"``, ``"VALID"``, or explicit pixels ``[[0, 0], [top, bottom],
            [left, right], [0, 0]]`` in the order of ``data_format``.
        data_format: ``"NHWC"`` or ``"NCHW"``.
        dilations: 4 positive integers in the order of ``data_format``; 1 for batch and
            depth.
        name: a name for the operation.

    Returns:
        A tensor of shape ``input_sizes`` and the type of ``filter``.

    Raises:
        tf.errors.InvalidArgumentError: if shapes and attributes do not fit together;
            the message names the argument, what was given and what was expected.
        ValueError: the same, where Python or the construction of a graph sees it.
        tf.errors.ResourceExhaustedError: if the result cannot be allocated.

    Example:
        >>> filter = tf.ones([3, 3, 2, 1])
        >>> dy = tf.ones([1, 4, 4, 2])
        >>> dx = tf_dwgrad.depthwise_conv2d_backprop_input(
        ...     [1, 8, 8, 2], filter, dy, strides=[1, 2, 2, 1], padding="SAME",
        ...     dilations=[1, 2, 2, 1])
        >>> dx.shape
        TensorShape([1, 8, 8, 2])

    Source: the op ``DepthwiseConv2dNativeBackpropInput`` of TensorFlow.
    """
    return _ops.dwgrad_depthwise_conv2d_backprop_input(
        _sizes("input_sizes", input_sizes),
        filter,
        out_backprop,
        *_attrs(strides, padding, data_format, dilations),
        name,
    )


def depthwise_conv2d_backprop_filter(
    input: Any,
    filter_sizes: Any,
    out_backprop: Any,
    strides: Sequence[int],
    padding: Padding,
    data_format: str = "NHWC",
    dilations: Sequence[int] = (1, 1, 1, 1),
    name: str | None = None,
) -> tf.Tensor:
    """Computes the gradient of depthwise 2-D convolution with respect to its filter.

    With ``k = c * depth_multiplier + q`` the result is::

        dW[r, s, c, q] = sum over b, i, j of out_backprop[b, i, j, k] *
            input[b, i * stride_h - pad_top  + r * dilation_h,
                     j * stride_w - pad_left + s * dilation_w, c]

    over the positions inside ``input``. Half and bfloat16 are accumulated in float32
    and rounded once; the result is bitwise the same for any number of threads.

    Args:
        input: ``[batch, in_height, in_width, in_channels]`` for NHWC, ``[batch,
            in_channels, in_height, in_width]`` for NCHW, of type half, bfloat16,
            float32 or float64.
        filter_sizes: int32 vector of 4 elements: the shape of the filter,
            ``[filter_height, filter_width, in_channels, depth_multiplier]``.
        out_backprop: the gradient with respect to the output, of the type of
            ``input`` and in the order of ``data_format``.
        strides: as in :func:`depthwise_conv2d_backprop_input`.
        padding: as in :func:`depthwise_conv2d_backprop_input`.
        data_format: ``"NHWC"`` or ``"NCHW"``.
        dilations: as in :func:`depthwise_conv2d_backprop_input`.
        name: a name for the operation.

    Returns:
        A tensor of shape ``filter_sizes`` and the type of ``input``.

    Raises:
        tf.errors.InvalidArgumentError: if shapes and attributes do not fit together.
        ValueError: the same, where Python or the construction of a graph sees it.
        tf.errors.ResourceExhaustedError: if the result cannot be allocated.

    Example:
        >>> dw = tf_dwgrad.depthwise_conv2d_backprop_filter(
        ...     tf.ones([1, 8, 8, 2]), [3, 3, 2, 1], tf.ones([1, 8, 4, 2]),
        ...     strides=[1, 1, 2, 1], padding="SAME")
        >>> dw.shape
        TensorShape([3, 3, 2, 1])

    Source: the op ``DepthwiseConv2dNativeBackpropFilter`` of TensorFlow.
    """
    return _ops.dwgrad_depthwise_conv2d_backprop_filter(
        input,
        _sizes("filter_sizes", filter_sizes),
        out_backprop,
        *_attrs(strides, padding, data_format, dilations),
        name,
    )


def depthwise_conv2d(
    input: Any,
    filter: Any,
    strides: Sequence[int],
    padding: Padding,
    data_format: str | None = None,
    dilations: int | Sequence[int] | None = None,
    name: str | None = None,
) -> tf.Tensor:
    """Depthwise 2-D convolution, with the signature of ``tf.nn.depthwise_conv2d``.

    With ``k = c * depth_multiplier + q`` the result is::

        output[b, i, j, k] = sum over r, s of filter[r, s, c, q] *
            input[b, i * stride_h - pad_top  + r * dilation_h,
                     j * stride_w - pad_left + s * dilation_w, c]

    Strides may be unequal and may come together with dilations, in both layouts; the
    gradients, of any order, are those of this package.

    Args:
        input: ``[batch, in_height, in_width, in_channels]`` for NHWC, ``[batch,
            in_channels, in_height, in_width]`` for NCHW, of type half, bfloat16,
            float32 or float64.
        filter: ``[filter_height, filter_width, in_channels, depth_multiplier]``, of
            the type of ``input``.
        strides: as in :func:`depthwise_conv2d_backprop_input`.
        padding: as in :func:`depthwise_conv2d_backprop_input`.
        data_format: ``"NHWC"`` (the default) or ``"NCHW"``.
        dilations: one integer or 2 integers, for height and width; 1 by default.
        name: a name for the operation.

    Returns:
        ``[batch, out_height, out_width, in_channels * depth_multiplier]``, or with
        the channels second for NCHW.

    Raises:
        tf.errors.InvalidArgumentError: if shapes and attributes do not fit together.
        ValueError: the same, where Python or the construction of a graph sees it.
        tf.errors.ResourceExhaustedError: if the result cannot be allocated.

    Example:
        >>> y = tf_dwgrad.depthwise_conv2d(
        ...     tf.ones([1, 9, 9, 2]), tf.ones([3, 3, 2, 4]), strides=[1, 2, 1, 1],
        ...     padding="VALID", dilations=[2, 3])
        >>> y.shape
        TensorShape([1, 3, 3, 8])

    Source: ``tf.nn.depthwise_conv2d``, the op ``DepthwiseConv2dNative``.
    """
    data_format = "NHWC" if data_format is None else data_format
    if dilations is None:
        dilations = 1
    pair = [dilations] * 2 if isinstance(dilations, int) else dilations
    pair = _ints("dilations", pair)
    if len(pair) != 2:
        raise ValueError(
            "dilations must be one integer or 2 integers, for height and width, but "
            f"got {dilations!r}"
        )
    full = [1, 1, *pair] if data_format == "NCHW" else [1, *pair, 1]
    return _ops.dwgrad_depthwise_conv2d(
        input,
        filter,
        *_attrs(strides, padding, data_format, full),
        name,
    )


def _attrs_of(op: tf.Operation) -> dict[str, Any]:
    """The attributes that an op shares with its derivatives."""
    return {
        "strides": op.get_attr("strides"),
        "padding": op.get_attr("padding"),
        "explicit_paddings": op.get_attr("explicit_paddings"),
        "data_format": op.get_attr("data_format"),
        "dilations": op.get_attr("dilations"),
    }


@tf.RegisterGradient("DwgradDepthwiseConv2d")
def _gradient_of_forward(op, grad):
    input, filter = op.inputs
    attrs = _attrs_of(op)
    return [
        _ops.dwgrad_depthwise_conv2d_backprop_input(
            tf.shape(input), filter, grad, **attrs
        ),
        _ops.dwgrad_depthwise_conv2d_backprop_filter(
            input, tf.shape(filter), grad, **attrs
        ),
    ]


@tf.RegisterGradient("DwgradDepthwiseConv2dBackpropInput")
def _gradient_of_backprop_input(op, grad):
    _, filter, out_backprop = op.inputs
    attrs = _attrs_of(op)
    return [
        None,
        _ops.dwgrad_depthwise_conv2d_backprop_filter(
            grad, tf.shape(filter), out_backprop, **attrs
        ),
        _ops.dwgrad_depthwise_conv2d(grad, filter, **attrs),
    ]


@tf.RegisterGradient("DwgradDepthwiseConv2dBackpropFilter")
def _gradient_of_backprop_filter(op, grad):
    input, _, out_backprop = op.inputs
    attrs = _attrs_of(op)
    return [
        _ops.dwgrad_depthwise_conv2d_backprop_input(
            tf.shape(input), grad, out_backprop, **attrs
        ),
        None,
        _ops.dwgrad_depthwise_conv2d(input, grad, **attrs),
    ]
