"""What is computed in a case: the operands, our call, TensorFlow's, and the check.

An operation that is to be measured has the interface of :class:`InputGradient`.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import tf_dwgrad
from tf_dwgrad.bench.cases import Case
from tf_dwgrad.comparison import difference_over_bound


class CheckFailed(Exception):
    """A result differs by more than rounding explains; says which and by how much."""


def _to_layout(nhwc: tf.Tensor, layout: str) -> tf.Tensor:
    return nhwc if layout == "NHWC" else tf.transpose(nhwc, [0, 3, 1, 2])


class InputGradient:
    """The input gradient of a case, on random operands.

    Attributes:
        case: the case.
        filter, dy: the operands.
    """

    def __init__(self, case: Case):
        """Draws the operands."""
        self.case = case
        layer, rng = case.layer, np.random.default_rng(0)
        dtype = tf.as_dtype(case.dtype)
        self._dy = tf.cast(
            rng.standard_normal(layer.output_shape(case.batch), np.float32), dtype
        )
        self.filter = tf.cast(
            rng.standard_normal(layer.filter_shape, np.float32), dtype
        )
        self.dy = _to_layout(self._dy, case.layout)
        self._input_sizes = tf.constant(case.input_shape)
        self._attributes = layer.attributes(case.layout)

    def ours(self) -> tf.Tensor:
        """This package's result."""
        return tf_dwgrad.depthwise_conv2d_backprop_input(
            self._input_sizes, self.filter, self.dy, **self._attributes
        )

    def builtin(self) -> tf.Tensor:
        """What TensorFlow's op of the same name computes."""
        return tf.nn.depthwise_conv2d_backprop_input(
            self._input_sizes, self.filter, self.dy, **self._attributes
        )

    def composite(self) -> tf.Tensor:
        """TensorFlow's input gradient through tf.nn.depthwise_conv2d.

        The op ignores dilations; this takes the image apart instead, and is right.
        """
        return self._in_graph(self.filter, self.dy)

    @functools.cached_property
    def _in_graph(self) -> Callable[..., tf.Tensor]:
        # A graph leaves out the forward convolution, which the gradient does not need.
        return tf.function(
            lambda filter, dy: _through_forward(self.case, self.case.layout, filter, dy)
        )

    def check(self) -> float:
        """Compares our result with TensorFlow's, in at least float32 and NHWC.

        Returns:
            The largest difference relative to what rounding explains.

        Raises:
            CheckFailed: if that is more than 1.
        """
        wide = tf.float64 if self.case.dtype == "float64" else tf.float32
        filter, dy = tf.cast(self.filter, wide), tf.cast(self._dy, wide)
        error = difference_over_bound(
            self.case.layer.terms,
            self.ours(),
            self._expected(filter, dy),
            self._expected(tf.abs(filter), tf.abs(dy)),
        )
        if not error <= 1:
            raise CheckFailed(
                f"{self.case}: the input gradient is off by {error:g} times what "
                "rounding explains"
            )
        return error

    def _expected(self, filter: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        """TensorFlow's answer, in the way that is right; ``dy`` is NHWC."""
        layer = self.case.layer
        if layer.dilations == (1, 1):
            dx = tf.nn.depthwise_conv2d_backprop_input(
                layer.input_shape(self.case.batch), filter, dy, **layer.attributes()
            )
        else:
            dx = _through_forward(self.case, "NHWC", filter, dy)
        return _to_layout(dx, self.case.layout)


def _through_forward(
    case: Case, layout: str, filter: tf.Tensor, dy: tf.Tensor
) -> tf.Tensor:
    layer = case.layer
    x = tf.zeros(layer.input_shape(case.batch, layout), dy.dtype)
    attributes: dict[str, Any] = layer.attributes(layout)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.nn.depthwise_conv2d(
            x, filter, **{**attributes, "dilations": layer.dilations}
        )
    return tape.gradient(y, x, dy)
