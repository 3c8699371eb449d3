"""What is computed: sizes and attributes, as the launchers and the reference want them.

Pairs are (height, width).
"""

import random
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launchers import Axis, Problem

PYTHON = Path(__file__).resolve().parents[2] / "python"


def _without_tensorflow() -> None:
    """Lets parts of tf_dwgrad be imported where the package as a whole cannot be."""
    for name in ("tf_dwgrad", "tf_dwgrad.bench"):
        if name not in sys.modules:
            module = types.ModuleType(name)
            module.__path__ = [str(PYTHON.joinpath(*name.split(".")))]
            sys.modules[name] = module


_without_tensorflow()

from tf_dwgrad.bench.cases import Case  # noqa: E402


@dataclass(frozen=True)
class Shape:
    """A depthwise convolution."""

    batch: int
    size: tuple[int, int]
    channels: int
    multiplier: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]
    layout: str = "NHWC"

    @property
    def output_size(self) -> tuple[int, int]:
        """Of the output image."""
        return tuple(
            (size + sum(pads) - (kernel - 1) * dilation - 1) // stride + 1
            for size, kernel, stride, dilation, pads in zip(
                self.size,
                self.kernel,
                self.strides,
                self.dilations,
                self.pads,
                strict=True,
            )
        )

    @property
    def input_shape(self) -> list[int]:
        """In the shape's layout."""
        return self._in_layout(self.size, self.channels)

    @property
    def output_shape(self) -> list[int]:
        """In the shape's layout."""
        return self._in_layout(self.output_size, self.channels * self.multiplier)

    @property
    def filter_shape(self) -> list[int]:
        """``[filter_height, filter_width, in_channels, depth_multiplier]``."""
        return [*self.kernel, self.channels, self.multiplier]

    def _in_layout(self, size: tuple[int, int], depth: int) -> list[int]:
        if self.layout == "NHWC":
            return [self.batch, *size, depth]
        return [self.batch, depth, *size]

    def problem(self) -> Problem:
        """For the launchers."""
        rows, cols = (
            Axis(
                self.size[axis],
                self.output_size[axis],
                self.kernel[axis],
                self.strides[axis],
                self.dilations[axis],
                self.pads[axis][0],
            )
            for axis in (0, 1)
        )
        return Problem(
            self.batch,
            self.channels,
            self.multiplier,
            rows,
            cols,
            self.layout == "NHWC",
        )

    def operand_shapes(self, op: str) -> tuple[list[int], list[int], list[int]]:
        """Of the launcher's two operands and of its result."""
        if op == "forward":
            return self.input_shape, self.filter_shape, self.output_shape
        if op == "input_gradient":
            return self.filter_shape, self.output_shape, self.input_shape
        return self.input_shape, self.output_shape, self.filter_shape


def shape_of(case: Case) -> Shape:
    """The shape of a layer of the table."""
    layer = case.layer
    pads = layer.pads
    if layer.padding == "SAME":
        output = layer.output_shape(1)[1:3]
        pads = tuple(
            _same_pads(*sizes)
            for sizes in zip(
                layer.size,
                output,
                layer.kernel,
                layer.strides,
                layer.dilations,
                strict=True,
            )
        )
    return Shape(
        case.batch,
        layer.size,
        layer.channels,
        layer.multiplier,
        layer.kernel,
        layer.strides,
        layer.dilations,
        pads,
        case.layout,
    )


def _same_pads(
    size: int, output: int, kernel: int, stride: int, dilation: int
) -> tuple[int, int]:
    total = max((output - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def random_shapes(count: int, seed: int) -> Iterator[Shape]:
    """Draws shapes with a non-empty output from the whole space, mostly small."""
    rng = random.Random(seed)

    def pair(*choices: int) -> tuple[int, int]:
        return rng.choice(choices), rng.choice(choices)

    while count > 0:
        kernel, size = pair(*range(1, 8)), pair(*range(1, 40))
        channels = rng.choice((1, 2, 3, 4, 7, 8, 16, 24, 33, 64, 96, 128, 130))
        kind = rng.randrange(6)
        if kind == 0:
            kernel, channels = pair(*range(9, 52)), rng.choice((1, 3, 8, 32))
        elif kind == 1:
            kernel = (3, 3)
        elif kind == 2:
            kernel = rng.choice(((5, 5), (7, 7), (9, 9), (11, 11), (13, 13)))
        square = rng.random() < 0.6
        strides = rng.choice(((1, 1), (2, 2))) if square else pair(1, 1, 2, 3, 4)
        dilations = (1, 1) if square else pair(1, 1, 2, 3)
        largest = max(kernel) // 2 + 1
        shape = Shape(
            rng.randrange(1, 5),
            size,
            channels,
            rng.choice((1, 1, 1, 1, 2, 3, 8)),
            kernel,
            strides,
            dilations,
            (pair(*range(largest)), pair(*range(largest))),
            rng.choice(("NHWC", "NCHW")),
        )
        if min(shape.output_size) > 0:
            count -= 1
            yield shape
