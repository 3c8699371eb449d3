"""enable() and disable(): TensorFlow's ops on our kernels, and back again.

What is switched is the whole process, so most of it happens in processes of its own.
"""

import collections
import json
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
import test_errors
import tf_dwgrad
from builtin_ops import builtin_op, to_nhwc
from isolation import TESTS, IsolatedProcess, run_python
from numerics import (
    OPS,
    integer_operands,
    normal_operands,
    reference_ops,
    tensors,
)
from reference import DTYPES, Case

FUNCTIONS = dict(zip(OPS, tf_dwgrad.enabling.OPS, strict=True))


@pytest.fixture(autouse=True)
def disabled_afterwards():
    yield
    tf_dwgrad.disable()
    assert not tf_dwgrad.is_enabled()


@pytest.fixture(scope="module", params=["1", "0"], ids=["oneDNN", "no oneDNN"])
def process(request):
    """A process with or without oneDNN."""
    process = IsolatedProcess(TF_ENABLE_ONEDNN_OPTS=request.param)
    yield process
    process.close()


# --- Every way to the ops ----------------------------------------------------------


@pytest.fixture(scope="module", params=["1", "0"], ids=["oneDNN", "no oneDNN"])
def matrix(request, tmp_path_factory):
    """The report of enable_matrix.py."""
    completed = run_python(
        TESTS / "enable_matrix.py",
        tmp_path_factory.mktemp("matrix"),
        environment={"TF_ENABLE_ONEDNN_OPTS": request.param},
    )
    report = json.loads(completed.stdout)
    if report["onednn"] != (request.param == "1"):
        pytest.skip("this TensorFlow has no oneDNN to switch on")
    return report


def test_every_way_to_the_ops_is_served(matrix):
    problems = []
    for name, way in matrix["ways"].items():
        compiled = way["route"] == "jit"
        if compiled and not matrix["jit"]:
            continue
        ours = {op: n for op, _, route, n in way["calls"] if route == way["route"]}
        # TensorFlow's kernels served as many, before and after; XLA has its own.
        theirs = {op: n for op, _, route, n in way["delegated"] if route == "delegated"}
        expected = theirs
        if way["expected"] is not None:
            expected = dict(zip(FUNCTIONS.values(), way["expected"], strict=True))
            expected = {op: n for op, n in expected.items() if n}
        if (
            not ours
            or (ours != expected and (expected or not compiled))
            or theirs != ({} if compiled else expected)
            # Nothing was served otherwise.
            or len(ours) != len(way["calls"])
            or len(theirs) != len(way["delegated"])
        ):
            problems.append(f"{name}: {way}")
    assert not problems, "\n".join(problems)
    assert len(matrix["ways"]) >= 25


def test_what_was_compiled_before_stays(matrix):
    assert matrix["compiled before"] == []


def test_every_way_gives_the_same_results(matrix):
    for name, way in matrix["ways"].items():
        assert way["largest"] > 0, name
        # Exact on integers; Keras starts from real weights, and the roundings of two
        # steps of gradient descent at 0.01 stay below this.
        bound = 1e-6 * way["largest"] if "keras" in name else 0
        assert way["difference"] <= bound, (name, way)


def test_the_built_in_bits_are_back(matrix):
    assert matrix["untouched"]


# --- What our kernels do, they do behind these names --------------------------------


def cases():
    """All types, layouts and paddings, with attributes the built-in ignores."""
    for dtype in DTYPES:
        yield Case(2, (9, 10), 8, 1, (3, 3), dtype=dtype)
        yield Case(1, (8, 9), 3, 2, (3, 2), (2, 1), (1, 3), dtype=dtype)
    for data_format in ("NHWC", "NCHW"):
        yield Case(2, (9, 8), 4, 1, (3, 3), dilations=(2, 2), data_format=data_format)
        yield Case(2, (9, 8), 5, 2, (3, 3), (2, 2), (2, 3), data_format=data_format)
        yield Case(1, (9, 8), 4, 1, (3, 3), (3, 1), padding="VALID")
        yield Case(
            2,
            (9, 8),
            6,
            3,
            (3, 4),
            (2, 1),
            (1, 2),
            padding="EXPLICIT",
            pads=((2, 0), (1, 3)),
            data_format=data_format,
        )


def judge_served(names):
    """How often the ops' results, eager and in functions, were wrong; and the calls."""
    wrong = []
    tf_dwgrad.reset_counters()
    with tf_dwgrad.enabled():
        for case in cases():
            x, w, dy = integer_operands(case, np.random.default_rng(0))
            want = reference_ops(case, x, w, dy)
            operands = tensors(case, x, w, dy)
            for name in names:
                op = builtin_op(name, case)
                for mode, call in (("eager", op), ("graph", tf.function(op))):
                    try:
                        got = to_nhwc(case, name, call(*operands))
                    except tf.errors.OpError as error:
                        wrong.append(f"{mode} {name} of {case}: {error}")
                        continue
                    if (
                        got.shape != want[name].shape
                        or not (got == want[name].astype(DTYPES[case.dtype])).all()
                    ):
                        wrong.append(f"{mode} {name} of {case}")
    return wrong, dict(tf_dwgrad.counters())


def test_all_attributes_behind_the_built_in_names(process):
    wrong, counted = process.call(judge_served, OPS)
    assert not wrong, "\n".join(wrong)
    calls = 2 * len(list(cases()))
    assert sum(counted.values()) == calls * len(OPS)
    assert {call.route for call in counted} == {"built-in name"}
    assert {call.dtype for call in counted} == set(DTYPES)


def fused(activation):
    """A bias and an activation after a convolution, in one function."""

    @tf.function
    def apply(x, w, bias):
        y = tf.nn.depthwise_conv2d(x, w, [1, 1, 1, 1], "SAME")
        return activation(tf.nn.bias_add(y, bias))

    return apply


ACTIVATIONS = {
    "none": lambda x: x,
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
    "elu": tf.nn.elu,
    "leaky_relu": lambda x: tf.nn.leaky_relu(x, 0.25),
}


def judge_fused(dtype):
    """By activation: the largest difference from the ops one by one, and the calls."""
    rng = np.random.default_rng(0)
    x = tf.constant(rng.integers(-2, 3, (2, 7, 6, 5)), dtype)
    w = tf.constant(rng.integers(-2, 3, (3, 3, 5, 2)), dtype)
    bias = tf.constant(rng.integers(-3, 4, 10), dtype)
    x = tf.tensor_scatter_nd_update(x, [[0, 0, 0, 0]], [tf.cast(np.nan, dtype)])
    report = {}
    with tf_dwgrad.enabled():
        for name, activation in ACTIVATIONS.items():
            tf_dwgrad.reset_counters()
            got = fused(activation)(x, w, bias).numpy().astype(float)
            calls = dict(tf_dwgrad.counters())
            y = tf.nn.depthwise_conv2d(x, w, [1, 1, 1, 1], "SAME")
            want = activation(tf.nn.bias_add(y, bias)).numpy().astype(float)
            assert np.isnan(want).any()
            assert (np.isnan(got) == np.isnan(want)).all(), name
            report[name] = np.nanmax(np.abs(got - want)), calls
    return report


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bias_and_activation_are_added_as_tensorflow_does(process, dtype):
    for name, (difference, calls) in process.call(judge_fused, dtype).items():
        # The exponential is another function than TensorFlow's.
        assert difference <= (2.0**-8 if name == "elu" else 0), name
        assert calls == {("depthwise_conv2d", dtype, "built-in name"): 1}, name


# --- Errors ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def enabled_process():
    """A process with oneDNN, whose own kernels would end it."""
    process = IsolatedProcess(TF_ENABLE_ONEDNN_OPTS="1", TF_DWGRAD_ENABLE="1")
    yield process
    process.close()


def ends_before_any_kernel(op, row, way):
    """Whether TensorFlow ends the process before it comes to look for a kernel.

    It does where it converts the attributes for oneDNN's kernels to int32, and, for the
    gradients, where it estimates the cost of a graph whose strides are 0.
    """
    numbers = [*row.changes.get("strides", []), *row.changes.get("dilations", [])]
    if any(not -(2**31) <= number < 2**31 for number in numbers):
        return True
    return op != "forward" and way != "built-in eager" and 0 in numbers


@pytest.mark.parametrize("op", test_errors.OPS)
def test_bad_calls_of_the_built_in_ops(enabled_process, op):
    # What they say is not compared: TensorFlow's checks of attributes and its shape
    # functions come before the kernels, with words of their own.
    for of_op, row in test_errors.ROWS:
        arguments = {**test_errors.good_call(op, row.data_format), **row.changes}
        for way in ("built-in eager", "built-in unknown"):
            if of_op != op or ends_before_any_kernel(op, row, way):
                continue
            kind, message = enabled_process.call_or_fail(
                test_errors.attempt, op, arguments, way
            )
            assert kind in (*row.errors, "TypeError"), (row.name, way, kind, message)


SAYS = {
    "input_sizes": ([1, 8, 8], "input_sizes must have 4 elements"),
    "strides": ([1, 1, 1], "strides must have 4 elements"),
    "filter": (test_errors.Tensor((3, 3, 7, 5)), "filter"),
}


@pytest.mark.parametrize("argument", SAYS)
def test_errors_name_the_argument(enabled_process, argument):
    value, says = SAYS[argument]
    arguments = test_errors.good_call("backprop_input", "NHWC")
    kind, message = enabled_process.call_or_fail(
        test_errors.attempt,
        "backprop_input",
        {**arguments, argument: value},
        "built-in eager",
    )
    assert kind == "InvalidArgumentError"
    assert says in message


# --- On and off --------------------------------------------------------------------


def bits_before_during_after():
    """The bytes of all ops' results, for all types, before, while and after."""
    results = []
    all_operands = [
        (case, normal_operands(case, np.random.default_rng(0)))
        for case in (
            Case(2, (14, 13), 16, 1, (3, 3), (2, 2)),
            Case(1, (9, 8), 5, 2, (5, 5), padding="VALID"),
        )
    ]

    def collect():
        bits = []
        for case, operands in all_operands:
            for dtype in DTYPES:
                tensors_of_type = [tf.cast(t, dtype) for t in tensors(case, *operands)]
                for name in OPS:
                    op = builtin_op(name, case)
                    for call in (op, tf.function(op)):
                        bits.append(call(*tensors_of_type).numpy().tobytes())
        return bits

    results.append(collect())
    tf_dwgrad.enable()
    results.append(collect())
    tf_dwgrad.disable()
    results.append(collect())
    return results


def test_disable_restores_the_built_in_bit_by_bit(process):
    before, during, after = process.call(bits_before_during_after)
    assert before == after
    assert before != during, "nothing was switched"


def test_errors_are_tensorflows_again():
    # The kernel was made while ours served, and would not have been made by TensorFlow.
    filter, y = tf.ones([3, 3, 2, 1]), tf.ones([1, 8, 4, 2])
    call = tf.function(
        lambda: tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
            input_sizes=[1, 8, 8, 2],
            filter=filter,
            out_backprop=y,
            strides=[1, 1, 2, 1],
            padding="EXPLICIT",
            explicit_paddings=[0, 0, 1, 1, 1, 1, 0, 0],
        )
    )
    with tf_dwgrad.enabled():
        assert call().shape == (1, 8, 8, 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="equal length strides"):
        call()
    with tf_dwgrad.enabled():
        assert call().shape == (1, 8, 8, 2)


def served():
    """Whether a call goes to our kernel now."""
    before = tf_dwgrad.counters()
    tf.nn.depthwise_conv2d(
        tf.ones([1, 4, 4, 2]), tf.ones([3, 3, 2, 1]), [1, 1, 1, 1], "SAME"
    )
    new = tf_dwgrad.counters() - before
    (call,) = new
    return call.route == "built-in name"


def test_nesting_and_repetition():
    assert not tf_dwgrad.is_enabled()
    with tf_dwgrad.enabled():
        assert served()
        with tf_dwgrad.enabled():
            assert served()
        assert served()
        # A block is not ended by what is not its end.
        tf_dwgrad.disable()
        assert served()
    assert not served()
    tf_dwgrad.enable()
    tf_dwgrad.enable()
    with tf_dwgrad.enabled():
        pass
    assert served()
    tf_dwgrad.disable()
    assert not served()
    tf_dwgrad.disable()
    assert not served()


def test_a_block_that_raises_ends():
    with pytest.raises(KeyError), tf_dwgrad.enabled():
        raise KeyError
    assert not tf_dwgrad.is_enabled()


def race(seconds):
    """Steps of four threads while eight switch; what was wrong, steps and calls."""
    case = Case(2, (16, 15), 8, 1, (3, 3))
    x, w, dy = integer_operands(case, np.random.default_rng(0))
    operands = tensors(case, x, w, dy)
    want = reference_ops(case, x, w, dy)
    problems = []

    def train(stop, made):
        ops = {name: builtin_op(name, case) for name in OPS}
        functions = {name: tf.function(op) for name, op in ops.items()}
        calls = 0
        while not stop.is_set():
            for name in OPS:
                for op in (ops[name], functions[name]):
                    if not (op(*operands).numpy() == want[name]).all():
                        problems.append(name)
                    calls += 1
        made.append(calls)

    def switch(stop, number):
        while not stop.is_set():
            if number % 3 == 0:
                tf_dwgrad.enable()
            elif number % 3 == 1:
                tf_dwgrad.disable()
            else:
                with tf_dwgrad.enabled():
                    stop.wait(0.001)
            stop.wait(0.0005)

    def guarded(function, *args):
        try:
            function(*args)
        except Exception as error:
            problems.append(repr(error))

    def run_phase(num_switchers, then):
        stop, made = threading.Event(), []
        tf_dwgrad.reset_counters()
        work = [(train, stop, made)] * 4
        work += [(switch, stop, number) for number in range(num_switchers)]
        threads = [threading.Thread(target=guarded, args=args) for args in work]
        for thread in threads:
            thread.start()
        stop.wait(seconds)
        then()
        stop.wait(seconds)
        stop.set()
        for thread in threads:
            thread.join()
        routes = collections.Counter()
        for call, n in tf_dwgrad.counters().items():
            routes[call.route] += n
        return sum(made), dict(routes)

    # The first call, which registers the kernels, is made while others train.
    first = run_phase(0, tf_dwgrad.enable)
    return problems, first, run_phase(8, lambda: None)


def test_switching_from_eight_threads_while_others_train(process):
    problems, first, switched = process.call(race, 0.7)
    assert not problems
    calls, routes = first
    assert 0 < routes["built-in name"] < calls
    calls, routes = switched
    assert set(routes) == {"built-in name", "delegated"}
    assert min(routes.values()) > 10
    assert sum(routes.values()) == calls


def count_in_threads(threads, calls):
    x, w = tf.ones([1, 4, 4, 2]), tf.ones([3, 3, 2, 1])

    def work():
        for _ in range(calls):
            tf_dwgrad.depthwise_conv2d(x, w, [1, 1, 1, 1], "SAME")

    tf_dwgrad.reset_counters()
    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def test_counters_count_every_call_of_every_thread():
    count_in_threads(8, 100)
    assert tf_dwgrad.counters() == {("depthwise_conv2d", "float32", "plugin op"): 800}
    tf_dwgrad.reset_counters()
    assert not tf_dwgrad.counters()
    assert tf_dwgrad.counters()["depthwise_conv2d", "float32", "jit"] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_counters_tell_ops_and_types_apart(dtype):
    case = Case(1, (4, 4), 2, 1, (3, 3), dtype=dtype)
    operands = tensors(case, *integer_operands(case, np.random.default_rng(0)))
    for name in OPS:
        with tf_dwgrad.enabled():
            tf_dwgrad.reset_counters()
            builtin_op(name, case)(*operands)
        assert tf_dwgrad.counters() == {(FUNCTIONS[name], dtype, "built-in name"): 1}


# --- The environment variable --------------------------------------------------------

STATE = "import tf_dwgrad; print(tf_dwgrad.is_enabled())"


@pytest.mark.parametrize(
    ("value", "enabled"), [("1", "True"), ("0", "False"), ("", "False")]
)
def test_environment_variable(value, enabled):
    completed = run_python("-c", STATE, environment={"TF_DWGRAD_ENABLE": value})
    assert completed.stdout.strip() == enabled


def test_environment_variable_of_another_value():
    environment = {"TF_DWGRAD_ENABLE": "yes"}
    completed = run_python("-c", STATE, environment=environment, check=False)
    assert completed.returncode == 1
    assert "TF_DWGRAD_ENABLE must be 0 or 1, but is 'yes'" in completed.stderr


BEFORE_KERAS = """
import sys
import tf_dwgrad
name = "keras.src.backend.tensorflow.nn"
imported_by_tensorflow = name in sys.modules
tf_dwgrad.enable()
import keras
nn = sys.modules[name]
enabled = nn.conv
tf_dwgrad.disable()
print(imported_by_tensorflow, enabled is nn.conv, enabled.__wrapped__ is nn.conv)
"""


def test_keras_may_be_imported_later():
    # TensorFlow imports Keras itself unless it is told to use Keras 2.
    environment = {"TF_USE_LEGACY_KERAS": "1"}
    completed = run_python("-c", BEFORE_KERAS, environment=environment)
    assert completed.stdout.split() == ["False", "False", "True"]


# --- Keras -------------------------------------------------------------------------


def integers(shape, seed):
    return np.random.default_rng(seed).integers(-2, 3, shape).astype("float32")


def layer_results(layer, x):
    """Output and gradients of a layer, eagerly, on integers."""
    if not layer.built:
        layer.build(x.shape)
    layer.set_weights(
        [integers(w.shape, seed) for seed, w in enumerate(layer.get_weights())]
    )
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        loss = tf.reduce_sum(y * integers(y.shape, 9))
    return [
        y.numpy(),
        *(g.numpy() for g in tape.gradient(loss, [x, *layer.trainable_variables])),
    ]


def calls_of(route):
    return {
        call.op: n for call, n in tf_dwgrad.counters().items() if call.route == route
    }


DEPTHWISE = {
    "grouped": (
        keras.layers.Conv2D,
        {"filters": 6, "kernel_size": 3, "groups": 6},
        "built-in name",
    ),
    "grouped, more filters": (
        keras.layers.Conv2D,
        {"filters": 18, "kernel_size": (3, 2), "groups": 6, "padding": "same"},
        "built-in name",
    ),
    "grouped, strides": (
        keras.layers.Conv2D,
        {"filters": 6, "kernel_size": 3, "groups": 6, "strides": (2, 2)},
        "built-in name",
    ),
    "grouped, dilations": (
        keras.layers.Conv2D,
        {"filters": 12, "kernel_size": 3, "groups": 6, "dilation_rate": 2},
        "plugin op",
    ),
    "strides and dilations": (
        keras.layers.DepthwiseConv2D,
        {"kernel_size": 3, "strides": 2, "dilation_rate": 2, "padding": "same"},
        "plugin op",
    ),
    "separable, strides and dilations": (
        keras.layers.SeparableConv2D,
        {"filters": 3, "kernel_size": 2, "strides": 2, "dilation_rate": (1, 3)},
        "plugin op",
    ),
}


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("name", DEPTHWISE)
def test_keras_layers_that_are_depthwise(name, data_format):
    kind, arguments, route = DEPTHWISE[name]
    layer = kind(**arguments, data_format=data_format)
    x = integers((2, 11, 10, 6), 7)
    x = x if data_format == "channels_last" else x.transpose(0, 3, 1, 2)
    tf_dwgrad.reset_counters()
    expected = layer_results(layer, x)
    assert not calls_of(route)
    with tf_dwgrad.enabled():
        tf_dwgrad.reset_counters()
        results = layer_results(layer, x)
        assert calls_of(route) == dict.fromkeys(FUNCTIONS.values(), 1)
    assert len(results) == len(expected)
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, right)


@pytest.mark.parametrize(
    "arguments",
    [
        {"filters": 6, "kernel_size": 3},
        {"filters": 6, "kernel_size": 3, "groups": 3},
        {"filters": 6, "kernel_size": 3, "groups": 2},
    ],
    ids=str,
)
def test_other_convolutions_stay_kerass(arguments):
    layer = keras.layers.Conv2D(**arguments)
    x = integers((2, 7, 6, 6), 0)
    expected = layer_results(layer, x)
    with tf_dwgrad.enabled():
        tf_dwgrad.reset_counters()
        results = layer_results(layer, x)
        assert not tf_dwgrad.counters()
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, right)


def test_one_channel_is_an_ordinary_convolution():
    with tf_dwgrad.enabled():
        tf_dwgrad.reset_counters()
        keras.layers.Conv2D(4, 3)(tf.ones([1, 5, 5, 1]))
        assert not tf_dwgrad.counters()


def test_an_empty_output_is_still_refused():
    kernel = tf.ones([6, 6, 1, 6])
    with tf_dwgrad.enabled(), pytest.raises(ValueError):
        keras.src.backend.nn.conv(tf.ones([1, 5, 5, 6]), kernel)


def test_mixed_precision():
    layer = keras.layers.Conv2D(6, 3, groups=6, dtype="mixed_bfloat16")
    with tf_dwgrad.enabled():
        tf_dwgrad.reset_counters()
        y = layer(tf.ones([1, 5, 5, 6]))
        assert y.dtype == tf.bfloat16
        assert tf_dwgrad.counters() == {
            ("depthwise_conv2d", "bfloat16", "built-in name"): 1
        }


def test_kerass_functions_are_back_after_disable():
    from keras.src.backend.tensorflow import nn

    names = ("conv", "depthwise_conv", "separable_conv")
    originals = [getattr(nn, name) for name in names]
    with tf_dwgrad.enabled():
        assert not any(
            getattr(nn, name) is original
            for name, original in zip(names, originals, strict=True)
        )
    assert [getattr(nn, name) for name in names] == originals


def test_functions_keep_what_they_were_traced_with():
    layer = keras.layers.Conv2D(6, 3, groups=6)
    x = tf.ones([1, 5, 5, 6])
    layer.build(x.shape)
    before, during = tf.function(layer), tf.function(layer)
    before(x)
    with tf_dwgrad.enabled():
        during(x)
        tf_dwgrad.reset_counters()
        before(x)
        assert not tf_dwgrad.counters()
    tf_dwgrad.reset_counters()
    np.testing.assert_allclose(during(x), before(x), rtol=1e-6, atol=1e-6)
    assert calls_of("delegated") == {"depthwise_conv2d": 1}


def small_model():
    keras.utils.set_random_seed(1)
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((16, 16, 3)),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.LayerNormalization(),
            layers.Conv2D(8, 5, padding="same", groups=8),
            layers.Activation("gelu"),
            layers.SeparableConv2D(12, 3, padding="same", dilation_rate=2),
            layers.DepthwiseConv2D(3, strides=2, dilation_rate=2, padding="same"),
            layers.Activation("relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )


def losses(steps=20):
    model = small_model()
    model.compile("adam", "mse")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 16, 16, 3)).astype("float32")
    y = rng.standard_normal((8, 4)).astype("float32")
    return [float(model.train_on_batch(x, y)) for _ in range(steps)]


def test_loss_curves_agree_to_rounding():
    expected = losses()
    with tf_dwgrad.enabled():
        tf_dwgrad.reset_counters()
        ours = losses()
        served_by = calls_of("built-in name")
    assert served_by == dict.fromkeys(FUNCTIONS.values(), 60)
    # Each step adds a few roundings of float32 (6e-8), and Adam's division by a square
    # root enlarges those of small gradients.
    np.testing.assert_allclose(ours, expected, rtol=1e-4)
    assert expected[-1] < expected[0]


# --- Files ---------------------------------------------------------------------------

LOAD = """
import sys
import numpy as np
import tensorflow as tf
folder = sys.argv[1]
arrays = np.load(folder + "/arrays.npz")
loaded = tf.saved_model.load(folder + "/model")
results = loaded.signatures["train"](x=arrays["x"], y=arrays["y"])
assert "tf_dwgrad" not in sys.modules
np.savez(folder + "/results.npz", **{k: v.numpy() for k, v in results.items()})
"""


def test_saved_models_load_without_the_package(tmp_path):
    layer = keras.layers.Conv2D(6, 3, groups=6, padding="same")
    depthwise = keras.layers.DepthwiseConv2D(3, padding="same")

    class Model(tf.Module):
        def __init__(self):
            super().__init__()
            layer.build((None, 8, 8, 6))
            depthwise.build((None, 8, 8, 6))
            self.weights = [
                w.value for w in layer.trainable_weights + depthwise.trainable_weights
            ]

        @tf.function(input_signature=[tf.TensorSpec([2, 8, 8, 6])] * 2)
        def train(self, x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((depthwise(layer(x)) - y) ** 2)
            gradients = tape.gradient(loss, self.weights)
            return {f"d{i}": g for i, g in enumerate(gradients)} | {"loss": loss}

    arrays = {name: integers((2, 8, 8, 6), seed) for seed, name in enumerate("xy")}
    np.savez(tmp_path / "arrays.npz", **arrays)
    with tf_dwgrad.enabled():
        tf_dwgrad.reset_counters()
        model = Model()
        expected = {k: v.numpy() for k, v in model.train(**arrays).items()}
        assert calls_of("built-in name") == {
            "depthwise_conv2d": 2,
            "depthwise_conv2d_backprop_input": 1,
            "depthwise_conv2d_backprop_filter": 2,
        }
        tf.saved_model.save(
            model, tmp_path / "model", signatures={"train": model.train}
        )
    run_python("-c", LOAD, tmp_path, cwd=tmp_path)
    results = np.load(tmp_path / "results.npz")
    assert set(results.files) == set(expected)
    for name, right in expected.items():
        np.testing.assert_allclose(results[name], right, rtol=1e-4, atol=1e-5)
