"""The layers: Keras's own in everything but the convolution."""

import json

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
import tf_dwgrad
from isolation import TESTS, run_python
from tf_dwgrad import keras as dwgrad_layers

LAYERS = ("DepthwiseConv2D", "SeparableConv2D")


def make(module, name, /, **arguments):
    if name == "SeparableConv2D":
        arguments = {"filters": 5, **arguments}
    return getattr(module, name)(**arguments)


def small_ints(shape, seed):
    """Integers whose sums of products are exact in float32, whatever the order."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


def input_for(layer, seed=0):
    """An input of [2, 13, 11, 3] in the layer's layout."""
    x = small_ints((2, 13, 11, 3), seed)
    return x if layer.data_format == "channels_last" else x.transpose(0, 3, 1, 2)


def with_integer_weights(layer, x):
    layer.build(x.shape)
    layer.set_weights(
        [small_ints(w.shape, seed) for seed, w in enumerate(layer.get_weights(), 1)]
    )
    return layer


def output_and_gradients(layer, x, seed=9):
    """The output and the gradients of its product with random integers."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        loss = tf.reduce_sum(tf.cast(y, tf.float32) * small_ints(y.shape, seed))
    return [y, *tape.gradient(loss, [x, *layer.trainable_variables])]


CONFIGURATIONS = [
    {"kernel_size": 3},
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": (1, 5), "padding": "same", "depth_multiplier": 4},
    {"kernel_size": (4, 2), "depth_multiplier": 2},
    {"kernel_size": 3, "strides": 2},
    {"kernel_size": 3, "strides": 2, "padding": "same", "depth_multiplier": 2},
    {"kernel_size": 2, "strides": (3, 3), "padding": "same"},
    {"kernel_size": 3, "dilation_rate": 2},
    {"kernel_size": 3, "dilation_rate": 3, "padding": "same"},
    {"kernel_size": (3, 2), "dilation_rate": (2, 3), "padding": "same"},
    {"kernel_size": 5, "use_bias": False, "padding": "same"},
    {"kernel_size": 15, "padding": "same"},
    {"kernel_size": 3, "activation": "relu", "padding": "same"},
    # Keras computes these at stride 1 and throws most of the result away.
    {"kernel_size": 3, "strides": 2, "dilation_rate": 2, "padding": "same"},
    {"kernel_size": (2, 3), "strides": 2, "dilation_rate": (1, 3)},
    {"kernel_size": 3, "strides": (2, 3), "dilation_rate": (2, 1), "padding": "same"},
]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("arguments", CONFIGURATIONS, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_equals_keras(name, arguments, data_format):
    # On integers both are exact, so that equal means equal.
    arguments = {**arguments, "data_format": data_format}
    own, theirs = (make(m, name, **arguments) for m in (dwgrad_layers, keras.layers))
    x = input_for(own)
    with_integer_weights(own, x)
    theirs.build(x.shape)
    theirs.set_weights(own.get_weights())
    results = output_and_gradients(own, x)
    expected = output_and_gradients(theirs, x)
    assert len(results) == len(expected) == 2 + len(own.get_weights())
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, right)
    assert np.any(results[1]), "a gradient of zeros proves nothing"
    assert own.compute_output_shape(x.shape) == results[0].shape


@pytest.mark.parametrize("name", LAYERS)
def test_equals_keras_on_reals_within_rounding(name):
    arguments = {"kernel_size": 5, "padding": "same", "depth_multiplier": 2}
    rng = np.random.default_rng(4)
    own, theirs = (make(m, name, **arguments) for m in (dwgrad_layers, keras.layers))
    absolute = make(keras.layers, name, **arguments, dtype="float64")
    x = rng.standard_normal((2, 13, 11, 3)).astype(np.float32)
    for layer in (own, theirs, absolute):
        layer.build(x.shape)
    weights = [rng.standard_normal(w.shape) for w in own.get_weights()]
    own.set_weights(weights)
    theirs.set_weights(weights)
    absolute.set_weights([np.abs(w) for w in weights])
    results = output_and_gradients(own, x)
    expected = output_and_gradients(theirs, x)

    # A sum of n products, in any order, is off by less than n * eps / 2 times the sum
    # of the products' absolute values, for each of the two layers. The longest chain
    # here sums 2 * 13 * 11 positions, or 25 taps, 6 channels and 5 filters.
    positive_x = tf.constant(np.abs(x).astype(np.float64))
    with tf.GradientTape() as tape:
        tape.watch(positive_x)
        y = absolute(positive_x)
        loss = tf.reduce_sum(y * np.abs(small_ints(y.shape, 9)))
    sums = [y, *tape.gradient(loss, [positive_x, *absolute.trainable_variables])]
    terms = 2 * 13 * 11 + 25 + 6 + 5 + 2
    for result, right, magnitude in zip(results, expected, sums, strict=True):
        error = np.abs(result.numpy() - right.numpy())
        bound = terms * np.finfo(np.float32).eps * magnitude.numpy()
        np.testing.assert_array_less(error, bound)


# --- What Keras's layers cannot do, or not everywhere ------------------------------


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    ("strides", "dilations"),
    [((2, 1), (1, 1)), ((1, 3), (2, 1)), ((2, 3), (3, 2)), ((4, 4), (2, 2))],
)
def test_strides_and_dilations_against_the_reference(
    strides, dilations, padding, data_format
):
    case = reference.Case(
        batch=2,
        size=(13, 11),
        channels=3,
        multiplier=2,
        kernel=(3, 4),
        strides=strides,
        dilations=dilations,
        padding=padding.upper(),
        data_format="NHWC" if data_format == "channels_last" else "NCHW",
    )
    layer = dwgrad_layers.DepthwiseConv2D(
        case.kernel,
        strides=strides,
        dilation_rate=dilations,
        padding=padding,
        depth_multiplier=2,
        data_format=data_format,
    )
    x = small_ints(case.input_shape, 0)
    with_integer_weights(layer, case.to_layout(x))
    w, bias = layer.get_weights()
    results = output_and_gradients(layer, case.to_layout(x))
    y, dx, dw, dbias = (result.numpy() for result in results)
    dy = case.from_layout(small_ints(y.shape, 9))

    expected = reference.forward(case, x, w) + bias
    np.testing.assert_array_equal(case.from_layout(y), expected)
    dx = case.from_layout(dx)
    np.testing.assert_array_equal(dx, reference.input_gradient(case, w, dy))
    np.testing.assert_array_equal(dw, reference.filter_gradient(case, x, dy))
    np.testing.assert_array_equal(dbias, dy.sum(axis=(0, 1, 2)))


def test_the_convolution_is_this_packages():
    # Equal results could also come from a layer that only inherits.
    for name in LAYERS:
        layer = make(dwgrad_layers, name, kernel_size=3)
        x = tf.constant(input_for(layer))
        layer.build(x.shape)

        @tf.function
        def train(x, layer=layer):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x)
            return tape.gradient(y, [x, *layer.trainable_variables])

        graph = train.get_concrete_function(x).graph
        types = {op.type for op in graph.get_operations()}
        assert {
            "DwgradDepthwiseConv2d",
            "DwgradDepthwiseConv2dBackpropInput",
            "DwgradDepthwiseConv2dBackpropFilter",
        } <= types
        assert not any(kind.startswith("DepthwiseConv2dNative") for kind in types)


# --- Configuration and files ------------------------------------------------------


def full_arguments(name):
    arguments = {
        "kernel_size": (3, 5),
        "strides": (2, 1),
        "padding": "same",
        "data_format": "channels_last",
        "dilation_rate": (2, 3),
        "depth_multiplier": 2,
        "activation": "relu",
        "use_bias": True,
        "depthwise_initializer": "he_normal",
        "bias_initializer": "ones",
        "depthwise_regularizer": keras.regularizers.L2(0.5),
        "bias_regularizer": keras.regularizers.L1(0.25),
        "activity_regularizer": keras.regularizers.L1(0.125),
        "depthwise_constraint": keras.constraints.NonNeg(),
        "bias_constraint": keras.constraints.MaxNorm(3),
        "name": "the_name",
        "trainable": False,
        "dtype": "mixed_bfloat16",
    }
    if name == "SeparableConv2D":
        arguments |= {
            "filters": 7,
            "pointwise_initializer": "glorot_normal",
            "pointwise_regularizer": keras.regularizers.L2(0.75),
            "pointwise_constraint": keras.constraints.UnitNorm(),
        }
    return arguments


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("full", [False, True], ids=["defaults", "all arguments"])
def test_config_is_keras_s_and_round_trips(name, full):
    arguments = full_arguments(name) if full else {"kernel_size": 3, "name": "n"}
    own, theirs = (make(m, name, **arguments) for m in (dwgrad_layers, keras.layers))
    assert own.get_config() == theirs.get_config()
    again = type(own).from_config(own.get_config())
    assert type(again) is type(own)
    assert again.get_config() == own.get_config()
    # A configuration written for Keras's layer makes this package's.
    assert type(own).from_config(theirs.get_config()).get_config() == own.get_config()


@pytest.mark.parametrize("name", LAYERS)
def test_weights_have_keras_s_names_shapes_and_order(name):
    own, theirs = (
        make(m, name, **{**full_arguments(name), "trainable": True})
        for m in (dwgrad_layers, keras.layers)
    )
    for layer in (own, theirs):
        layer.build((None, 9, 9, 3))

    def describe(layer):
        return [(w.name, tuple(w.shape), w.dtype) for w in layer.weights]

    assert describe(own) == describe(theirs)
    # Regularisation acts on them.
    x = tf.ones([1, 9, 9, 3])
    theirs.set_weights(own.get_weights())
    own(x)
    theirs(x)
    for one, other in zip(own.losses, theirs.losses, strict=True):
        assert abs(float(one) - float(other)) <= 2**-7 * abs(float(other))


def small_model(module):
    inputs = keras.Input([None, None, 3])
    y = module.DepthwiseConv2D(
        3, strides=2, dilation_rate=2, padding="same", depth_multiplier=2
    )(inputs)
    y = module.SeparableConv2D(4, 3, strides=(1, 2), padding="same")(y)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(y))


LOAD = """
import sys
import tf_dwgrad.keras
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
assert type(model.layers[1]) is tf_dwgrad.keras.DepthwiseConv2D, model.layers
assert type(model.layers[2]) is tf_dwgrad.keras.SeparableConv2D, model.layers
np.save(sys.argv[3], model(np.load(sys.argv[2])))
"""


def test_save_and_load(tmp_path):
    model = small_model(dwgrad_layers)
    x = np.random.default_rng(0).standard_normal((2, 12, 10, 3)).astype(np.float32)
    expected = model(x).numpy()
    path = tmp_path / "model.keras"
    model.save(path)
    np.testing.assert_array_equal(keras.models.load_model(path)(x), expected)

    # A fresh process knows the layers once it has imported the module.
    np.save(tmp_path / "x.npy", x)
    files = (path, tmp_path / "x.npy", tmp_path / "y.npy")
    run_python("-c", LOAD, *files)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)


def test_loading_without_the_module_says_what_is_missing(tmp_path):
    path = tmp_path / "model.keras"
    small_model(dwgrad_layers).save(path)
    script = "import sys, keras; keras.models.load_model(sys.argv[1])"
    completed = run_python("-c", script, path, check=False)
    assert completed.returncode == 1
    assert "Could not locate class 'DepthwiseConv2D'" in completed.stderr
    assert "'module': 'tf_dwgrad.keras'" in completed.stderr


def test_weights_move_between_this_layer_and_keras_s(tmp_path):
    own, theirs = small_model(dwgrad_layers), small_model(keras.layers)
    x = np.random.default_rng(0).standard_normal((2, 12, 10, 3)).astype(np.float32)
    theirs.save_weights(tmp_path / "w.weights.h5")
    own.load_weights(tmp_path / "w.weights.h5")
    # Some hundred roundings of 6e-8 each; other weights would be off by about 1.
    np.testing.assert_allclose(own(x), theirs(x), rtol=1e-5, atol=1e-6)
    for one, other in zip(own.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


# --- Mixed precision --------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("compute", ["float16", "bfloat16"])
def test_mixed_precision(name, compute):
    arguments = {"kernel_size": 3, "padding": "same", "dilation_rate": 2, "strides": 2}
    mixed = make(dwgrad_layers, name, **arguments, dtype=f"mixed_{compute}")
    full = make(dwgrad_layers, name, **arguments)
    absolute = make(dwgrad_layers, name, **arguments, dtype="float64")
    rng = np.random.default_rng(5)
    x = rng.standard_normal((2, 13, 11, 3)).astype(np.float32)
    for layer in (mixed, full, absolute):
        layer.build(x.shape)
    weights = [rng.standard_normal(w.shape) / 4 for w in full.get_weights()]
    mixed.set_weights(weights)
    full.set_weights(weights)
    absolute.set_weights([np.abs(w) for w in weights])
    assert {w.dtype for w in mixed.weights} == {"float32"}
    assert mixed.compute_dtype == compute

    y = mixed(x)
    assert y.dtype == compute
    # Rounding to the type happens to x, to each kernel, after each convolution and
    # after the bias: six times at most, each within half an eps of what is summed.
    # Keras's pointwise convolution may accumulate its 3 channels in the type.
    eps = float(np.finfo(np.float16).eps) if compute == "float16" else 2.0**-7
    bound = (6 + 3) * eps / 2 * absolute(np.abs(x).astype(np.float64)).numpy()
    error = np.abs(tf.cast(y, tf.float32).numpy() - full(x).numpy())
    np.testing.assert_array_less(error, 1.01 * bound + 1e-6)
    # Rounded to 16 bits, and not computed in float32 all the way.
    assert error.max() > eps / 16

    gradients = output_and_gradients(mixed, x)[2:]
    assert all(gradient.dtype == tf.float32 for gradient in gradients)
    for gradient, right in zip(
        gradients, output_and_gradients(full, x)[2:], strict=True
    ):
        # Loose: the sum over positions has been bounded elsewhere.
        scale = np.abs(right.numpy()).max()
        assert np.abs(gradient.numpy() - right.numpy()).max() < 16 * eps * scale


# --- Models -----------------------------------------------------------------------


def test_fit_follows_keras():
    own, theirs = small_model(dwgrad_layers), small_model(keras.layers)
    theirs.set_weights(own.get_weights())
    start = own.get_weights()
    rng = np.random.default_rng(1)
    x = rng.standard_normal((8, 12, 10, 3)).astype(np.float32)
    y = rng.standard_normal((8, 4)).astype(np.float32)
    losses = []
    for model in (own, theirs):
        model.compile(keras.optimizers.SGD(0.05), "mse")
        history = model.fit(x, y, batch_size=4, epochs=2, verbose=0, shuffle=False)
        losses.append(history.history["loss"])
    assert losses[0][1] < losses[0][0]
    # Four steps of rounding; a wrong gradient moves both far more.
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    for before, one, other in zip(
        start, own.get_weights(), theirs.get_weights(), strict=True
    ):
        assert np.any(before != one)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_fit_with_mixed_precision_and_jit_asked_for():
    # jit_compile="auto" may choose XLA, and must not where XLA lacks the ops.
    inputs = keras.Input([8, 8, 3], dtype="float32")
    y = dwgrad_layers.DepthwiseConv2D(3, dtype="mixed_float16")(inputs)
    model = keras.Model(inputs, keras.layers.GlobalMaxPooling2D(dtype="float32")(y))
    model.compile("adam", "mse", jit_compile="auto")
    model.fit(np.ones((4, 8, 8, 3)), np.zeros((4, 3)), epochs=1, verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights())


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_symbolic_shapes(name, data_format):
    shape = [None, None, 3] if data_format == "channels_last" else [3, None, None]
    arguments = {
        "kernel_size": 3,
        "strides": (2, 1),
        "dilation_rate": 2,
        "data_format": data_format,
    }
    outputs = []
    for module in (dwgrad_layers, keras.layers):
        inputs = keras.Input(shape)
        layer = make(module, name, **arguments)
        outputs.append((layer(inputs).shape, layer.count_params()))
        if module is dwgrad_layers:
            model = keras.Model(inputs, layer(inputs))
    assert outputs[0] == outputs[1]
    lines = []
    model.summary(print_fn=lambda line, **_: lines.append(line))
    assert name in "\n".join(lines)
    x = input_for(layer)
    expected = layer.compute_output_shape(x.shape)
    assert model(x).shape == expected
    assert model.predict(x, verbose=0).shape == expected


def test_known_sizes_stay_known():
    inputs = keras.Input([13, 11, 3])
    y = dwgrad_layers.DepthwiseConv2D(3, strides=(2, 1), dilation_rate=2)(inputs)
    assert y.shape == (None, 5, 7, 3)


# --- What is refused --------------------------------------------------------------

BAD_ARGUMENTS = [
    {"depth_multiplier": 0},
    {"kernel_size": 0},
    {"kernel_size": (1, 2, 3)},
    {"strides": 0},
    {"strides": -1},
    {"strides": (1, 2, 3)},
    {"dilation_rate": 0},
    {"padding": "causal"},
    {"data_format": "NHWC"},
    {"no_such_argument": 1},
]


@pytest.mark.parametrize("bad", BAD_ARGUMENTS, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_invalid_arguments_are_refused_as_by_keras(name, bad):
    messages = []
    for module in (dwgrad_layers, keras.layers):
        with pytest.raises(ValueError) as error:
            make(module, name, **{"kernel_size": 3, **bad})
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("shape", [(2, 9, 10), (1, 2, 2, 3)], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_invalid_inputs_are_refused_as_by_keras(name, shape):
    messages = []
    for module in (dwgrad_layers, keras.layers):
        layer = make(module, name, kernel_size=3, name="layer")
        with pytest.raises(ValueError) as error:
            layer(tf.ones(shape))
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("name", LAYERS)
def test_another_backend_is_refused(name, monkeypatch):
    # No other backend is installed here, so Keras is made to claim one.
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ImportError, match=f"{name}.*'torch'.*KERAS_BACKEND=tensorflow"):
        make(dwgrad_layers, name, kernel_size=3)


def test_the_package_offers_the_module_lazily():
    assert tf_dwgrad.keras is dwgrad_layers
    script = (
        "import json, sys, tf_dwgrad; name = 'tf_dwgrad.keras';"
        "before = name in sys.modules; tf_dwgrad.keras.DepthwiseConv2D;"
        "print(json.dumps([before, name in sys.modules]))"
    )
    completed = run_python("-c", script, cwd=TESTS)
    assert json.loads(completed.stdout) == [False, True]
