"""How much of a model's training step its depthwise convolutions take."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import keras

from tf_dwgrad.bench.cases import OPS_IN_WORDS, Case
from tf_dwgrad.bench.operations import operation_of
from tf_dwgrad.comparison import median_times
from tf_dwgrad.layer_table import Layer


@dataclass(frozen=True)
class DepthwiseTimes:
    """Seconds that the depthwise ops of a step take, one after the other."""

    ours: float
    builtin: float


def _all_layers(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _all_layers(layer)
        else:
            yield layer


def depthwise_layers(model: keras.Model) -> list[Layer]:
    """The depthwise and separable convolutions of a channels-last model.

    Grouped ``Conv2D`` layers are none of them: without this package, no depthwise op
    computes them.

    Returns:
        Each shape once, with the number of layers that have it.
    """
    counts: Counter[Layer] = Counter()
    for layer in _all_layers(model):
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            kernel = layer.kernel
        elif isinstance(layer, keras.layers.SeparableConv2D):
            kernel = layer.depthwise_kernel
        else:
            continue
        _, height, width, channels = layer.input.shape
        counts[
            Layer(
                model=model.name,
                name="",
                size=(height, width),
                channels=channels,
                multiplier=kernel.shape[3],
                kernel=tuple(kernel.shape[:2]),
                strides=tuple(layer.strides),
                dilations=tuple(layer.dilation_rate),
                padding=layer.padding.upper(),
            )
        ] += 1
    return [replace(layer, count=count) for layer, count in counts.items()]


def time_depthwise_ops(
    model: keras.Model, batch: int, dtype: str, seconds: float
) -> DepthwiseTimes | None:
    """Times the three ops of each depthwise layer outside of the model.

    Args:
        model: a model of fixed image size, channels last.
        batch: images in a step.
        dtype: what the layers compute in.
        seconds: for each op and shape.

    Returns:
        The sums of the medians over all layers, or None if there are none.
    """
    layers = depthwise_layers(model)
    if not layers:
        return None
    ours = builtin = 0.0
    for layer in layers:
        for op in OPS_IN_WORDS:
            operation = operation_of(Case(layer, batch, dtype, "NHWC", op))
            # Keras, too, gets dilations right in another way than by the op.
            dilated = layer.dilations != (1, 1)
            theirs = operation.composite if dilated else operation.builtin
            times = median_times([operation.ours, theirs], seconds)
            ours += layer.count * times[0]
            builtin += layer.count * times[1]
    return DepthwiseTimes(ours, builtin)
