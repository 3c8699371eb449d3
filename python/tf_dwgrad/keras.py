"""Keras layers that compute with this package's ops.

They are Keras's own layers in everything but the convolution: same arguments, weights,
``get_config`` and saved files. Import this module before ``keras.models.load_model``
opens a model that uses them.
"""

import keras
import tensorflow as tf

from tf_dwgrad._library import xla_failure
from tf_dwgrad.ops import depthwise_conv2d


def _require_tensorflow_backend(layer: keras.layers.Layer) -> None:
    if keras.backend.backend() != "tensorflow":
        raise ImportError(
            f"tf_dwgrad.keras.{type(layer).__name__} runs on Keras's tensorflow "
            f"backend, but the backend is {keras.backend.backend()!r}; set the "
            "environment variable KERAS_BACKEND=tensorflow"
        )


def _depthwise(layer: keras.layers.Layer, inputs, kernel) -> tf.Tensor:
    """The depthwise convolution that the layer's attributes describe."""
    channels_last = layer.data_format == "channels_last"
    strides = [1, *layer.strides, 1] if channels_last else [1, 1, *layer.strides]
    return depthwise_conv2d(
        inputs,
        keras.ops.convert_to_tensor(kernel),
        strides=strides,
        padding=layer.padding.upper(),
        data_format="NHWC" if channels_last else "NCHW",
        dilations=layer.dilation_rate,
    )


def _bias_and_activation(layer: keras.layers.Layer, outputs: tf.Tensor) -> tf.Tensor:
    if layer.use_bias:
        shape = [1, 1, 1, 1]
        shape[-1 if layer.data_format == "channels_last" else 1] = -1
        outputs = keras.ops.add(outputs, keras.ops.reshape(layer.bias, shape))
    return outputs if layer.activation is None else layer.activation(outputs)


@keras.saving.register_keras_serializable(package="tf_dwgrad")
class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """``keras.layers.DepthwiseConv2D`` on this package's ops.

    The arguments are those of Keras's layer. In addition, ``strides`` may be unequal
    and larger than 1 together with ``dilation_rate``, and
    ``data_format="channels_first"`` works on the CPU.

    Input: ``[batch, height, width, channels]``, or ``[batch, channels, height, width]``
    for channels_first, of type half, bfloat16, float32 or float64. Output: the same
    with ``channels * depth_multiplier`` channels.

    Raises:
        ValueError: for arguments that Keras's layer refuses.
        ImportError: if Keras runs on another backend than TensorFlow.

    Example:
        >>> layer = tf_dwgrad.keras.DepthwiseConv2D(
        ...     3, strides=2, dilation_rate=2, padding="same")
        >>> layer(tf.ones([1, 9, 9, 4])).shape
        TensorShape([1, 5, 5, 4])

    Source: ``keras.layers.DepthwiseConv2D``.
    """

    def __init__(self, *args, **kwargs):
        _require_tensorflow_backend(self)
        super().__init__(*args, **kwargs)
        # Without XLA kernels, Keras must be kept from compiling the ops.
        self.supports_jit = xla_failure() is None

    def call(self, inputs):
        """Convolves ``inputs``, adds the bias and applies the activation."""
        return _bias_and_activation(self, _depthwise(self, inputs, self.kernel))


@keras.saving.register_keras_serializable(package="tf_dwgrad")
class SeparableConv2D(keras.layers.SeparableConv2D):
    """``keras.layers.SeparableConv2D`` with this package's depthwise convolution.

    The arguments are those of Keras's layer; ``strides`` and ``dilation_rate`` may be
    combined and ``data_format="channels_first"`` works on the CPU, as in
    :class:`DepthwiseConv2D`. The pointwise convolution is Keras's.

    Input: ``[batch, height, width, channels]``, or ``[batch, channels, height, width]``
    for channels_first, of type half, bfloat16, float32 or float64. Output: the same
    with ``filters`` channels.

    Raises:
        ValueError: for arguments that Keras's layer refuses.
        ImportError: if Keras runs on another backend than TensorFlow.

    Example:
        >>> layer = tf_dwgrad.keras.SeparableConv2D(8, 3, strides=(2, 1))
        >>> layer(tf.ones([1, 9, 9, 4])).shape
        TensorShape([1, 4, 7, 8])

    Source: ``keras.layers.SeparableConv2D``.
    """

    def __init__(self, *args, **kwargs):
        _require_tensorflow_backend(self)
        super().__init__(*args, **kwargs)
        self.supports_jit = xla_failure() is None

    def call(self, inputs):
        """Convolves ``inputs`` twice, adds the bias and applies the activation."""
        outputs = keras.ops.conv(
            _depthwise(self, inputs, self.depthwise_kernel),
            self.pointwise_kernel,
            strides=1,
            padding="valid",
            data_format=self.data_format,
        )
        return _bias_and_activation(self, outputs)
