"""The depthwise layers of published models, as a table of shapes.

``depthwise_layers.csv`` beside this file has a row per layer. Checks and timings on
these layers are about what users compute.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TABLE = Path(__file__).with_name("depthwise_layers.csv")

_NO_PADS = ((0, 0), (0, 0))


@dataclass(frozen=True)
class Layer:
    """One depthwise convolution of a model; pairs are (height, width).

    Attributes:
        model: the model's name.
        name: the layer's name, unique within the model.
        size: the input image.
        channels: of the input.
        multiplier: output channels per input channel.
        kernel: the filter.
        strides: between output pixels.
        dilations: between filter taps.
        padding: ``"SAME"``, ``"VALID"`` or ``"EXPLICIT"``.
        pads: for explicit padding, ((top, bottom), (left, right)).
        count: how many such layers the model has.
    """

    model: str
    name: str
    size: tuple[int, int]
    channels: int
    multiplier: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    padding: str
    pads: tuple[tuple[int, int], tuple[int, int]] = _NO_PADS
    count: int = 1

    @property
    def filter_shape(self) -> list[int]:
        """``[filter_height, filter_width, in_channels, depth_multiplier]``."""
        return [*self.kernel, self.channels, self.multiplier]

    @property
    def terms(self) -> int:
        """At most so many products make up an element of the input gradient."""
        return self.kernel[0] * self.kernel[1] * self.multiplier

    def input_shape(self, batch: int, data_format: str = "NHWC") -> list[int]:
        """The input's shape, in the order of ``data_format``."""
        return _in_order(data_format, batch, *self.size, self.channels)

    def output_shape(self, batch: int, data_format: str = "NHWC") -> list[int]:
        """The output's shape, in the order of ``data_format``."""
        channels = self.channels * self.multiplier
        size = self._output_size(0), self._output_size(1)
        return _in_order(data_format, batch, *size, channels)

    def attributes(self, data_format: str = "NHWC") -> dict[str, Any]:
        """The attributes as the gradient functions of this package want them.

        ``tf.nn.depthwise_conv2d_backprop_input`` takes the same, ``padding`` included.
        """
        padding: Any = self.padding
        if padding == "EXPLICIT":
            top_bottom, left_right = (list(pair) for pair in self.pads)
            padding = _in_order(data_format, [0, 0], top_bottom, left_right, [0, 0])
        return {
            "strides": _in_order(data_format, 1, *self.strides, 1),
            "padding": padding,
            "data_format": data_format,
            "dilations": _in_order(data_format, 1, *self.dilations, 1),
        }

    def _output_size(self, axis: int) -> int:
        size, stride = self.size[axis], self.strides[axis]
        if self.padding == "SAME":
            return -(-size // stride)
        effective = (self.kernel[axis] - 1) * self.dilations[axis] + 1
        # VALID has no pads, and ceil((n - e + 1) / s) = floor((n - e) / s) + 1.
        return (size + sum(self.pads[axis]) - effective) // stride + 1


def _in_order(data_format: str, batch: Any, height: Any, width: Any, depth: Any):
    """The four values in the order of ``data_format``."""
    if data_format == "NHWC":
        return [batch, height, width, depth]
    if data_format == "NCHW":
        return [batch, depth, height, width]
    raise ValueError(f"data_format must be 'NHWC' or 'NCHW', but got {data_format!r}")


def _parse(row: dict[str, str]) -> Layer:
    padding, pads = row["padding"], _NO_PADS
    if padding not in ("SAME", "VALID"):
        top, bottom, left, right = (int(pixels) for pixels in padding.split(":"))
        padding, pads = "EXPLICIT", ((top, bottom), (left, right))
    stride, dilation = int(row["stride"]), int(row["dilation"])
    return Layer(
        model=row["model"],
        name=row["layer"],
        size=(int(row["h"]), int(row["w"])),
        channels=int(row["c"]),
        multiplier=int(row["mult"]),
        kernel=(int(row["kh"]), int(row["kw"])),
        strides=(stride, stride),
        dilations=(dilation, dilation),
        padding=padding,
        pads=pads,
        count=int(row["count"]),
    )


def load_layers(model: str | None = None) -> list[Layer]:
    """Reads the table.

    Args:
        model: the only model to return the layers of; all by default.

    Returns:
        The layers in the order of the table.

    Raises:
        ValueError: if the table has no such model.

    Example:
        >>> layer = load_layers("MobileNetV2")[1]
        >>> layer.input_shape(batch=8), layer.output_shape(batch=8)
        ([8, 112, 112, 96], [8, 56, 56, 96])
    """
    with _TABLE.open(newline="") as table:
        layers = [_parse(row) for row in csv.DictReader(table)]
    if model is None:
        return layers
    chosen = [layer for layer in layers if layer.model == model]
    if not chosen:
        models = "; ".join(sorted({layer.model for layer in layers}))
        raise ValueError(
            f"no layers of model {model!r} in the table, which has: {models}"
        )
    return chosen
