"""What is measured: an op on layers with a batch, an element type and a layout."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tf_dwgrad.layer_table import Layer, load_layers

DTYPES = {"float32": 4, "bfloat16": 2, "half": 2, "float64": 8}
LAYOUTS = ("NHWC", "NCHW")
OPS_IN_WORDS = {
    "input_gradient": "input gradient",
    "filter_gradient": "filter gradient",
    "forward": "forward op",
}

# Every layer is of one kind: the first that fits.
KINDS = {
    "dilated": lambda layer: layer.dilations != (1, 1),
    "multiplier": lambda layer: layer.multiplier > 1,
    "3x3-s1": lambda layer: layer.kernel == (3, 3) and layer.strides == (1, 1),
    "3x3-s2": lambda layer: layer.kernel == (3, 3) and layer.strides == (2, 2),
    "5x5": lambda layer: layer.kernel == (5, 5),
    "7x7": lambda layer: layer.kernel == (7, 7),
    "large": lambda layer: max(layer.kernel) >= 9,
    "other": lambda layer: True,
}
KINDS_IN_WORDS = {
    "dilated": "dilated",
    "multiplier": "depth multiplier > 1",
    "3x3-s1": "3x3, stride 1",
    "3x3-s2": "3x3, stride 2",
    "5x5": "5x5",
    "7x7": "7x7",
    "large": "a side of 9 and more",
    "other": "other",
}


@dataclass(frozen=True)
class Case:
    """A layer with what the table leaves open."""

    layer: Layer
    batch: int
    dtype: str
    layout: str
    op: str = "input_gradient"

    def __str__(self) -> str:
        layer = self.layer
        size = "x".join(map(str, self.input_shape))
        return f"{layer.model} {layer.name}, {self.dtype} {self.layout} {size}"

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` needs."""
        names = {"model": self.layer.model, "layer": self.layer.name}
        return {
            **names,
            "batch": self.batch,
            "dtype": self.dtype,
            "layout": self.layout,
            "op": self.op,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Case":
        """Finds the layer in the table by its names."""
        layers = load_layers(data["model"])
        layer = next(layer for layer in layers if layer.name == data["layer"])
        return cls(layer, data["batch"], data["dtype"], data["layout"], data["op"])

    @property
    def input_shape(self) -> list[int]:
        """Of the input, in the case's layout."""
        return self.layer.input_shape(self.batch, self.layout)

    @property
    def output_shape(self) -> list[int]:
        """Of the output, in the case's layout."""
        return self.layer.output_shape(self.batch, self.layout)

    @property
    def kind(self) -> str:
        """The name in ``KINDS``."""
        return next(name for name, fits in KINDS.items() if fits(self.layer))

    @property
    def bytes(self) -> int:
        """Of input, output and filter, or their gradients: each op moves all once."""
        elements = map(
            math.prod, (self.input_shape, self.output_shape, self.layer.filter_shape)
        )
        return DTYPES[self.dtype] * sum(elements)

    @property
    def flop(self) -> int:
        """Floating-point operations: two for each product of an element and a tap.

        Taps that fall outside the image are no work. All three ops do the same.
        """
        layer = self.layer
        channels = layer.channels * layer.multiplier
        return 2 * self.batch * channels * valid_taps(layer, 0) * valid_taps(layer, 1)


@functools.cache
def valid_taps(layer: Layer, axis: int) -> int:
    """The pairs of an output position and a tap that meet the image, along an axis."""
    size, kernel = layer.size[axis], layer.kernel[axis]
    stride, dilation = layer.strides[axis], layer.dilations[axis]
    outputs = layer.output_shape(1)[1 + axis]
    before = layer.pads[axis][0]
    if layer.padding == "SAME":
        effective = (kernel - 1) * dilation + 1
        before = max((outputs - 1) * stride + effective - size, 0) // 2
    starts = np.arange(outputs)[:, np.newaxis] * stride - before
    positions = starts + np.arange(kernel) * dilation
    return int(np.count_nonzero((positions >= 0) & (positions < size)))


def _shape(layer: Layer) -> tuple:
    """What two layers have in common that are the same to a kernel."""
    return (*layer.input_shape(1), *layer.filter_shape, str(layer.attributes()))


@dataclass(frozen=True)
class Choice:
    """The cases to measure, each shape once, and the layers they stand for."""

    cases: list[Case]
    layers: list[Layer]

    def models_of(self, case: Case) -> list[str]:
        """The chosen models with layers of the case's shape, once for each layer."""
        shape = _shape(case.layer)
        return [layer.model for layer in self.layers if _shape(layer) == shape]


def choose(
    models: Sequence[str] = (),
    kinds: Sequence[str] = (),
    dtypes: Sequence[str] = ("float32",),
    layouts: Sequence[str] = ("NHWC",),
    batch: int = 16,
    max_elements: float = 6e6,
    op: str = "input_gradient",
) -> Choice:
    """The cases that the command's options ask for.

    Args:
        models: names in the table; empty for all.
        kinds: keys of ``KINDS``; empty for all.
        dtypes: keys of ``DTYPES``.
        layouts: of ``LAYOUTS``.
        batch: images.
        max_elements: the batch is reduced so that dX has no more elements than this;
            half as many in float64, whose results would be larger than the others'.
        op: a key of ``OPS_IN_WORDS``.

    Returns:
        Cases, layer by layer within a layout within a type.

    Raises:
        ValueError: if there is no such model, or no layer is left.
    """
    layers = (
        [layer for model in dict.fromkeys(models) for layer in load_layers(model)]
        if models
        else load_layers()
    )
    if kinds:
        layers = [layer for layer in layers if Case(layer, 1, "", "").kind in kinds]
    if not layers:
        raise ValueError("no layer of the table is of these models and kinds")
    distinct: dict[tuple, Layer] = {}
    for layer in layers:
        distinct.setdefault(_shape(layer), layer)
    cases = []
    for dtype in dict.fromkeys(dtypes):
        limit = max_elements / max(1, DTYPES[dtype] / 4)
        for layout in dict.fromkeys(layouts):
            for layer in distinct.values():
                most = int(min(batch, limit // math.prod(layer.input_shape(1))))
                cases.append(Case(layer, max(1, most), dtype, layout, op))
    return Choice(cases, layers)
