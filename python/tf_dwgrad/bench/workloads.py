"""Models whose training steps are measured, and the steps."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import tensorflow as tf

CLASSES = 10
MODES = ("eager", "function", "jit")
PRECISIONS = ("float32", "mixed_bfloat16", "float64")


def _application(name: str) -> Callable[[int], keras.Model]:
    def build(size: int) -> keras.Model:
        make = getattr(keras.applications, name)
        return make(weights=None, input_shape=(size, size, 3), classes=CLASSES)

    return build


def _classifier(inputs, features) -> keras.Model:
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    # Not in 16 bits.
    dtype = "float64" if keras.config.dtype_policy().name == "float64" else "float32"
    outputs = keras.layers.Dense(CLASSES, activation="softmax", dtype=dtype)(pooled)
    return keras.Model(inputs, outputs)


def _normalized(layer, x, activation="relu"):
    x = keras.layers.BatchNormalization()(layer(x))
    return keras.layers.Activation(activation)(x) if activation else x


def _deeplab_head(size: int) -> keras.Model:
    """The pyramid of dilated separable convolutions of DeepLabV3+, and its decoder.

    Chen et al., "Encoder-Decoder with Atrous Separable Convolution", 2018. It reads
    features of an eighth of the image's size.
    """
    layers = keras.layers
    inputs = layers.Input((size, size, 3))
    stem = layers.Conv2D(128, 8, strides=8, use_bias=False)
    x = _normalized(stem, inputs)
    branches = [_normalized(layers.Conv2D(128, 1, use_bias=False), x)]
    for rate in (6, 12, 18):
        depthwise = layers.DepthwiseConv2D(
            3, padding="same", dilation_rate=rate, use_bias=False
        )
        branch = _normalized(depthwise, x)
        branches.append(_normalized(layers.Conv2D(128, 1, use_bias=False), branch))
    x = layers.Concatenate()(branches)
    x = _normalized(layers.Conv2D(128, 1, use_bias=False), x)
    for _ in range(2):
        x = _normalized(
            layers.DepthwiseConv2D(3, padding="same", use_bias=False),
            layers.UpSampling2D(2)(x),
        )
        x = _normalized(layers.Conv2D(64, 1, use_bias=False), x)
    return _classifier(inputs, x)


def _replknet_block(size: int) -> keras.Model:
    """A block of RepLKNet with a filter of 31x31, and its feed-forward block.

    Ding et al., "Scaling Up Your Kernels to 31x31", 2022. It reads features of a
    quarter of the image's size.
    """
    layers = keras.layers
    channels = 128
    inputs = layers.Input((size, size, 3))
    x = _normalized(layers.Conv2D(channels, 4, strides=4, use_bias=False), inputs)
    y = layers.BatchNormalization()(x)
    y = _normalized(layers.Conv2D(channels, 1, use_bias=False), y)
    depthwise = layers.DepthwiseConv2D(31, padding="same", use_bias=False)
    y = _normalized(depthwise, y)
    y = _normalized(layers.Conv2D(channels, 1, use_bias=False), y, None)
    x = layers.Add()([x, y])
    y = layers.BatchNormalization()(x)
    y = _normalized(layers.Conv2D(4 * channels, 1, use_bias=False), y, "gelu")
    y = _normalized(layers.Conv2D(channels, 1, use_bias=False), y, None)
    return _classifier(inputs, layers.Add()([x, y]))


@dataclass(frozen=True)
class Workload:
    """A model to train: how it is made for images of a size, and on how many."""

    build: Callable[[int], keras.Model]
    size: int
    batch: int


MODELS = {
    "MobileNetV2": Workload(_application("MobileNetV2"), 160, 8),
    "MobileNetV3Large": Workload(_application("MobileNetV3Large"), 160, 8),
    "EfficientNetB0": Workload(_application("EfficientNetB0"), 160, 8),
    "Xception": Workload(_application("Xception"), 160, 8),
    "ConvNeXtTiny": Workload(_application("ConvNeXtTiny"), 160, 8),
    "DeepLabV3+ head": Workload(_deeplab_head, 256, 8),
    "RepLKNet block": Workload(_replknet_block, 224, 2),
}


class Training:
    """A model with random weights, random images, and steps of gradient descent.

    Two of the same arguments start from the same weights and see the same images.
    """

    def __init__(
        self,
        name: str,
        precision: str,
        mode: str,
        batch: int,
        size: int,
        learning_rate: float = 1e-3,
    ):
        """Builds the model.

        Args:
            name: a key of ``MODELS``.
            precision: one of ``PRECISIONS``, a name of a Keras dtype policy.
            mode: one of ``MODES``.
            batch: images in a step.
            size: height and width of an image in pixels.
            learning_rate: what gradients are multiplied by.
        """
        self._learning_rate = learning_rate
        before = keras.config.dtype_policy()
        keras.utils.set_random_seed(0)
        keras.config.set_dtype_policy(precision)
        try:
            self.model = MODELS[name].build(size)
        finally:
            keras.config.set_dtype_policy(before)
        dtype = "float64" if precision == "float64" else "float32"
        self._images = tf.random.stateless_uniform(
            [batch, size, size, 3], [1, 2], dtype=dtype
        )
        self._labels = tf.random.stateless_uniform(
            [batch], [3, 4], 0, CLASSES, dtype=tf.int32
        )
        self._step = self._eager_step
        if mode != "eager":
            self._step = tf.function(self._eager_step, jit_compile=mode == "jit")

    def _eager_step(self) -> tf.Tensor:
        with tf.GradientTape() as tape:
            probabilities = self.model(self._images, training=True)
            losses = keras.losses.sparse_categorical_crossentropy(
                self._labels, probabilities
            )
            loss = tf.reduce_mean(losses)
        weights = [weight.value for weight in self.model.trainable_weights]
        for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
            weight.assign_sub(tf.cast(self._learning_rate * gradient, weight.dtype))
        return loss

    def step(self) -> float:
        """Trains on all images once and returns the loss before."""
        return float(self._step())
