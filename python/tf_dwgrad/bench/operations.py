"""What is computed in a case: the operands, our call, TensorFlow's, and the check.

There is a subclass of :class:`Operation` for each op; :func:`operation_of` knows which.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import tf_dwgrad
from tf_dwgrad.bench.cases import LAYOUTS, OPS_IN_WORDS, Case
from tf_dwgrad.comparison import difference_over_bound


class CheckFailed(Exception):
    """A result differs by more than rounding explains; says which and by how much."""


def _to_layout(nhwc: tf.Tensor, layout: str) -> tf.Tensor:
    return nhwc if layout == "NHWC" else tf.transpose(nhwc, [0, 3, 1, 2])


class Operation(ABC):
    """An op of a case, on random operands.

    Attributes:
        case: the case.
        input, filter, dy: the operands; each op takes two of them.
    """

    def __init__(self, case: Case):
        """Draws the operands."""
        self.case = case
        layer, rng = case.layer, np.random.default_rng(0)
        dtype = tf.as_dtype(case.dtype)

        def draw(shape: list[int]) -> tf.Tensor:
            return tf.cast(rng.standard_normal(shape, np.float32), dtype)

        self._dy = draw(layer.output_shape(case.batch))
        self.filter = draw(layer.filter_shape)
        self._input = draw(layer.input_shape(case.batch))
        self.dy = _to_layout(self._dy, case.layout)
        self.input = _to_layout(self._input, case.layout)
        self._input_sizes = {
            layout: tf.constant(layer.input_shape(case.batch, layout))
            for layout in LAYOUTS
        }
        self._filter_sizes = tf.constant(layer.filter_shape)
        self._attributes = layer.attributes(case.layout)

    @property
    @abstractmethod
    def terms(self) -> int:
        """At most so many products make up an element of the result."""

    @property
    @abstractmethod
    def operands(self) -> tuple[tf.Tensor, tf.Tensor]:
        """What the op reads."""

    @property
    @abstractmethod
    def result_shape(self) -> list[int]:
        """What the op writes."""

    @abstractmethod
    def ours(self) -> tf.Tensor:
        """This package's result."""

    def builtin(self) -> tf.Tensor:
        """What TensorFlow's op of the same name computes."""
        return self._builtin(self.case.layout, self.input, self.filter, self.dy)

    @abstractmethod
    def _builtin(
        self, layout: str, input: tf.Tensor, filter: tf.Tensor, dy: tf.Tensor
    ) -> tf.Tensor:
        """TensorFlow's op of the same name, which ignores dilations."""

    @abstractmethod
    def _composite(
        self, layout: str, input: tf.Tensor, filter: tf.Tensor, dy: tf.Tensor
    ) -> tf.Tensor:
        """TensorFlow's answer through tf.nn.depthwise_conv2d, dilated or not."""

    def composite(self) -> tf.Tensor:
        """TensorFlow's result through tf.nn.depthwise_conv2d.

        The op ignores dilations; this takes the image apart instead, and is right.
        """
        return self._in_graph(self.input, self.filter, self.dy)

    @functools.cached_property
    def _in_graph(self) -> Callable[..., tf.Tensor]:
        # A graph leaves out what the result does not need, as the forward convolution.
        return tf.function(functools.partial(self._composite, self.case.layout))

    def check(self) -> float:
        """Compares our result with TensorFlow's, in at least float32 and NHWC.

        Returns:
            The largest difference relative to what rounding explains.

        Raises:
            CheckFailed: if that is more than 1.
        """
        wide = tf.float64 if self.case.dtype == "float64" else tf.float32
        operands = [tf.cast(x, wide) for x in (self._input, self.filter, self._dy)]
        right = (
            self._builtin if self.case.layer.dilations == (1, 1) else self._composite
        )
        expected, products = (
            self._to_result_layout(right("NHWC", *values))
            for values in (operands, [tf.abs(x) for x in operands])
        )
        error = difference_over_bound(self.terms, self.ours(), expected, products)
        if not error <= 1:
            raise CheckFailed(
                f"{self.case}: the {OPS_IN_WORDS[self.case.op]} is off by {error:g} "
                "times what rounding explains"
            )
        return error

    def _to_result_layout(self, nhwc: tf.Tensor) -> tf.Tensor:
        return _to_layout(nhwc, self.case.layout)

    def _forward(self, layout: str, input: tf.Tensor, filter: tf.Tensor) -> tf.Tensor:
        layer = self.case.layer
        attributes: dict[str, Any] = layer.attributes(layout)
        attributes["dilations"] = layer.dilations
        return tf.nn.depthwise_conv2d(input, filter, **attributes)


class InputGradient(Operation):
    """The gradient with respect to the input."""

    @property
    def terms(self) -> int:
        """See :class:`Operation`."""
        return self.case.layer.terms

    @property
    def operands(self) -> tuple[tf.Tensor, tf.Tensor]:
        """See :class:`Operation`."""
        return self.dy, self.filter

    @property
    def result_shape(self) -> list[int]:
        """See :class:`Operation`."""
        return self.case.input_shape

    def ours(self) -> tf.Tensor:
        """See :class:`Operation`."""
        return tf_dwgrad.depthwise_conv2d_backprop_input(
            self._input_sizes[self.case.layout],
            self.filter,
            self.dy,
            **self._attributes,
        )

    def _builtin(
        self, layout: str, input: tf.Tensor, filter: tf.Tensor, dy: tf.Tensor
    ) -> tf.Tensor:
        return tf.nn.depthwise_conv2d_backprop_input(
            self._input_sizes[layout],
            filter,
            dy,
            **self.case.layer.attributes(layout),
        )

    def _composite(
        self, layout: str, input: tf.Tensor, filter: tf.Tensor, dy: tf.Tensor
    ) -> tf.Tensor:
        x = tf.zeros(self.case.layer.input_shape(self.case.batch, layout), dy.dtype)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = self._forward(layout, x, filter)
        return tape.gradient(y, x, dy)


class FilterGradient(Operation):
    """The gradient with respect to the filter."""

    @property
    def terms(self) -> int:
        """See :class:`Operation`."""
        batch, rows, cols, _ = self.case.layer.output_shape(self.case.batch)
        return batch * rows * cols

    @property
    def operands(self) -> tuple[tf.Tensor, tf.Tensor]:
        """See :class:`Operation`."""
        return self.input, self.dy

    @property
    def result_shape(self) -> list[int]:
        """See :class:`Operation`."""
        return self.case.layer.filter_shape

    def ours(self) -> tf.Tensor:
        """See :class:`Operation`."""
        return tf_dwgrad.depthwise_conv2d_backprop_filter(
            self.input, self._filter_sizes, self.dy, **self._attributes
        )

    def _builtin(
        self, layout: str, input: tf.Tensor, filter: tf.Tensor, dy: tf.Tensor
    ) -> tf.Tensor:
        layer = self.case.layer
        return tf.nn.depthwise_conv2d_backprop_filter(
            input, self._filter_sizes, dy, **layer.attributes(layout)
        )

    def _composite(
        self, layout: str, input: tf.Tensor, filter: tf.Tensor, dy: tf.Tensor
    ) -> tf.Tensor:
        w = tf.zeros(self.case.layer.filter_shape, dy.dtype)
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = self._forward(layout, input, w)
        return tape.gradient(y, w, dy)

    def _to_result_layout(self, nhwc: tf.Tensor) -> tf.Tensor:
        return nhwc  # The filter is the same in both.


class Forward(Operation):
    """The convolution itself."""

    @property
    def terms(self) -> int:
        """See :class:`Operation`."""
        return self.case.layer.kernel[0] * self.case.layer.kernel[1]

    @property
    def operands(self) -> tuple[tf.Tensor, tf.Tensor]:
        """See :class:`Operation`."""
        return self.input, self.filter

    @property
    def result_shape(self) -> list[int]:
        """See :class:`Operation`."""
        return self.case.output_shape

    def ours(self) -> tf.Tensor:
        """See :class:`Operation`."""
        attributes = {**self._attributes, "dilations": self.case.layer.dilations}
        return tf_dwgrad.depthwise_conv2d(self.input, self.filter, **attributes)

    def _builtin(
        self, layout: str, input: tf.Tensor, filter: tf.Tensor, dy: tf.Tensor
    ) -> tf.Tensor:
        return tf.compat.v1.nn.depthwise_conv2d_native(
            input, filter, **self.case.layer.attributes(layout)
        )

    def _composite(
        self, layout: str, input: tf.Tensor, filter: tf.Tensor, dy: tf.Tensor
    ) -> tf.Tensor:
        return self._forward(layout, input, filter)


_OPERATIONS = {
    "input_gradient": InputGradient,
    "filter_gradient": FilterGradient,
    "forward": Forward,
}


def operation_of(case: Case) -> Operation:
    """The operation that a case asks for, with operands."""
    return _OPERATIONS[case.op](case)
