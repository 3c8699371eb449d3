"""The ops inside graphs: shapes known and unknown, loops, vectorisation, grappler."""

import itertools

import numpy as np
import pytest
import reference
import tensorflow as tf
import tf_dwgrad

LIBRARY = tf.load_op_library(tf_dwgrad.op_library_path())
PADDINGS = {
    "SAME": {"padding": "SAME"},
    "VALID": {"padding": "VALID"},
    "EXPLICIT": {"padding": "EXPLICIT", "pads": ((2, 1), (0, 3))},
}
LAYOUTS = ("NHWC", "NCHW")


def make_case(data_format="NHWC", padding="SAME", **changes):
    return reference.Case(
        **{
            "batch": 2,
            "size": (9, 8),
            "channels": 4,
            "multiplier": 3,
            "kernel": (3, 2),
            "strides": (2, 1),
            "dilations": (1, 3),
            "data_format": data_format,
            **PADDINGS[padding],
            **changes,
        }
    )


def small_ints(shape, seed):
    """Integers whose sums of products are exact in float32, whatever the order."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def operands(case):
    """x, w and dy in NHWC."""
    shapes = (case.input_shape, case.filter_shape, case.output_shape)
    return [small_ints(shape, seed) for seed, shape in enumerate(shapes)]


def layout_shape(case, shape):
    return list(case.to_layout(np.empty(shape, np.int8)).shape)


def expected_results(case, x, w, dy):
    """The three results in the case's layout."""
    return (
        case.to_layout(reference.forward(case, x, w)),
        case.to_layout(reference.input_gradient(case, w, dy)),
        reference.filter_gradient(case, x, dy),
    )


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("data_format", LAYOUTS)
def test_unknown_sizes_give_right_numbers(data_format, padding):
    # One graph, traced once without sizes, must serve all of them.
    case = make_case(data_format, padding)
    spec = [None, None, None, 4] if data_format == "NHWC" else [None, 4, None, None]

    @tf.function(
        input_signature=[tf.TensorSpec(spec), tf.TensorSpec(case.filter_shape)]
    )
    def value_and_gradients(x, w):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = tf_dwgrad.depthwise_conv2d(x, w, **case.forward_attrs)
            # The gradient of this is y itself: no second random operand is needed.
            loss = tf.reduce_sum(y * tf.stop_gradient(y)) / 2
        dx, dw = tape.gradient(loss, [x, w])
        return y, 2 * dx, 2 * dw

    for batch, size in ((1, (9, 8)), (3, (14, 7)), (2, (6, 11))):
        case = make_case(data_format, padding, batch=batch, size=size)
        x, w, _ = operands(case)
        results = value_and_gradients(case.to_layout(x), w)
        dy = reference.forward(case, x, w)
        for result, right in zip(
            results, expected_results(case, x, w, dy), strict=True
        ):
            np.testing.assert_array_equal(result, right)
    assert value_and_gradients.experimental_get_tracing_count() == 1


def test_sizes_known_only_at_run_time():
    case = make_case()
    x, w, dy = operands(case)
    unknown = tf.TensorSpec(None)
    sizes = tf.TensorSpec(None, tf.int32)

    @tf.function(input_signature=[sizes, unknown, unknown])
    def input_gradient(input_sizes, w, dy):
        return tf_dwgrad.depthwise_conv2d_backprop_input(
            input_sizes, w, dy, **case.attrs
        )

    @tf.function(input_signature=[unknown, sizes, unknown])
    def filter_gradient(x, filter_sizes, dy):
        return tf_dwgrad.depthwise_conv2d_backprop_filter(
            x, filter_sizes, dy, **case.attrs
        )

    _, dx, dw = expected_results(case, x, w, dy)
    np.testing.assert_array_equal(input_gradient(case.input_shape, w, dy), dx)
    np.testing.assert_array_equal(filter_gradient(x, case.filter_shape, dy), dw)


# --- Static shapes ----------------------------------------------------------------


def static_shape(function, *specs):
    """The shape that is inferred while the function is traced, afresh each time."""
    function = tf.function(function.python_function)
    return function.get_concrete_function(*specs).structured_outputs.shape


def masks(known_dims):
    """All ways to leave some of the dimensions unknown."""
    return itertools.product([True, False], repeat=known_dims)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("data_format", LAYOUTS)
def test_static_shape_of_forward(data_format, padding):
    case = make_case(data_format, padding)
    function = tf.function(
        lambda x, w: tf_dwgrad.depthwise_conv2d(x, w, **case.forward_attrs)
    )
    full = layout_shape(case, case.output_shape)
    x_shape = layout_shape(case, case.input_shape)
    channel_dim = 3 if data_format == "NHWC" else 1
    spatial = [dim for dim in (1, 2, 3) if dim != channel_dim]
    filter_spec = tf.TensorSpec(case.filter_shape)
    for known in masks(4):
        shape = [n if k else None for n, k in zip(x_shape, known, strict=True)]
        expected = [n if k else None for n, k in zip(full, known, strict=True)]
        expected[channel_dim] = full[channel_dim]  # the filter knows it
        inferred = static_shape(function, tf.TensorSpec(shape), filter_spec)
        assert inferred.as_list() == expected

    # Without the filter's sizes only SAME knows those of the output.
    unknown = tf.TensorSpec([None, None, None, None])
    inferred = static_shape(function, tf.TensorSpec(x_shape), unknown).as_list()
    expected = [case.batch, None, None, None]
    if padding == "SAME":
        for dim in spatial:
            expected[dim] = full[dim]
    assert inferred == expected
    nothing = tf.TensorSpec(None)
    assert static_shape(function, nothing, nothing).as_list() == [None] * 4


@pytest.mark.parametrize("data_format", LAYOUTS)
def test_static_shape_of_input_gradient(data_format):
    case = make_case(data_format)
    full = layout_shape(case, case.input_shape)
    w = tf.TensorSpec(case.filter_shape)
    dy = tf.TensorSpec(layout_shape(case, case.output_shape))
    nothing = tf.TensorSpec(None)
    channel_dim = 3 if data_format == "NHWC" else 1

    def gradient_with(make_sizes):
        return tf.function(
            lambda w, dy: tf_dwgrad.depthwise_conv2d_backprop_input(
                make_sizes(dy), w, dy, **case.attrs
            )
        )

    constant = gradient_with(lambda dy: full)
    assert static_shape(constant, w, dy).as_list() == full
    assert static_shape(constant, nothing, nothing).as_list() == full

    # tf.stack of known and unknown parts, as models write it.
    partial = gradient_with(lambda dy: tf.stack([tf.shape(dy)[0], *full[1:]]))
    assert static_shape(partial, nothing, nothing).as_list() == [None, *full[1:]]
    some_batch = tf.TensorSpec([None, *dy.shape[1:]])
    assert static_shape(partial, w, some_batch).as_list() == [None, *full[1:]]
    assert static_shape(partial, w, dy).as_list() == full

    # Of a shape nobody knows, the operands still tell batch and channels.
    sizes = tf.TensorSpec([4], tf.int32)
    function = tf.function(
        lambda sizes, w, dy: tf_dwgrad.depthwise_conv2d_backprop_input(
            sizes, w, dy, **case.attrs
        )
    )
    expected = [None] * 4
    assert static_shape(function, sizes, nothing, nothing).as_list() == expected
    expected[0], expected[channel_dim] = case.batch, case.channels
    assert static_shape(function, sizes, w, dy).as_list() == expected
    unknown_rank = tf.TensorSpec(None, tf.int32)
    assert static_shape(function, unknown_rank, w, dy).as_list() == expected


@pytest.mark.parametrize("data_format", LAYOUTS)
def test_static_shape_of_filter_gradient(data_format):
    case = make_case(data_format)
    full = list(case.filter_shape)
    x = tf.TensorSpec(layout_shape(case, case.input_shape))
    dy = tf.TensorSpec(layout_shape(case, case.output_shape))
    nothing = tf.TensorSpec(None)

    constant = tf.function(
        lambda x, dy: tf_dwgrad.depthwise_conv2d_backprop_filter(
            x, full, dy, **case.attrs
        )
    )
    assert static_shape(constant, x, dy).as_list() == full
    assert static_shape(constant, nothing, nothing).as_list() == full

    from_shape = tf.function(
        lambda x, w, dy: tf_dwgrad.depthwise_conv2d_backprop_filter(
            x, tf.shape(w), dy, **case.attrs
        )
    )
    partial = tf.TensorSpec([None, 2, None, 3])
    inferred = static_shape(from_shape, nothing, partial, nothing)
    assert inferred.as_list() == [None, 2, None, 3]
    # Input and output tell the channels and the multiplier.
    unknown = tf.TensorSpec([None] * 4)
    inferred = static_shape(from_shape, x, unknown, dy)
    assert inferred.as_list() == [None, None, case.channels, case.multiplier]


def test_second_order_shapes_are_known_as_far_as_the_input_is():
    case = make_case()

    @tf.function(input_signature=[tf.TensorSpec([None, 9, 8, 4])])
    def second_order(x):
        w = tf.ones(case.filter_shape)
        with tf.GradientTape() as outer:
            outer.watch(w)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = tf_dwgrad.depthwise_conv2d(x, w, **case.forward_attrs) ** 2
            dx = inner.gradient(y, x)
            assert dx.shape.as_list() == [None, 9, 8, 4]
        dw = outer.gradient(dx, w)
        assert dw.shape.as_list() == list(case.filter_shape)
        return dw

    second_order(tf.ones([2, 9, 8, 4]))


WRONG_AT_CONSTRUCTION = {
    "rank": lambda lib, x, w, dy, a: lib.dwgrad_depthwise_conv2d(x[0], w, **a),
    "channels": lambda lib, x, w, dy, a: lib.dwgrad_depthwise_conv2d(
        x, w[:, :, :3], **a
    ),
    "sizes": lambda lib, x, w, dy, a: lib.dwgrad_depthwise_conv2d_backprop_input(
        [2, 9, 9, 4], w, dy, **a
    ),
    "batch": lambda lib, x, w, dy, a: lib.dwgrad_depthwise_conv2d_backprop_filter(
        x[:1], w.shape, dy, **a
    ),
    "stride": lambda lib, x, w, dy, a: lib.dwgrad_depthwise_conv2d(
        x, w, **{**a, "strides": [1, 0, 1, 1]}
    ),
    # A part that is known suffices to see that it cannot fit.
    "known part of sizes": lambda lib, x, w, dy, a: (
        lib.dwgrad_depthwise_conv2d_backprop_input(
            tf.stack([tf.shape(dy)[0], 9, 9, 4]), w, dy, **a
        )
    ),
}


@pytest.mark.parametrize("what", WRONG_AT_CONSTRUCTION)
def test_wrong_shapes_are_value_errors_at_construction(what):
    case = make_case()
    x, w, dy = map(tf.constant, operands(case))
    with tf.Graph().as_default(), pytest.raises(ValueError, match=r"must|equal"):
        # A bare graph: nothing runs, so only the shape function can object.
        x, w, dy = (tf.ones(tensor.shape) for tensor in (x, w, dy))
        WRONG_AT_CONSTRUCTION[what](LIBRARY, x, w, dy, case.raw_attrs)


# --- Control flow, vectorisation, optimisation ------------------------------------


def three_calls(case):
    """Each op as a function of one tensor whose first axis is to be vectorised."""
    x, w, dy = operands(case)
    x_shape = layout_shape(case, case.input_shape)
    return {
        "forward": (
            lambda x: tf_dwgrad.depthwise_conv2d(x, w, **case.forward_attrs),
            case.to_layout(x),
        ),
        "backprop_input": (
            lambda dy: tf_dwgrad.depthwise_conv2d_backprop_input(
                x_shape, w, dy, **case.attrs
            ),
            case.to_layout(dy),
        ),
        "backprop_filter": (
            lambda dy: tf_dwgrad.depthwise_conv2d_backprop_filter(
                case.to_layout(x), case.filter_shape, dy, **case.attrs
            ),
            case.to_layout(dy),
        ),
    }


@pytest.mark.parametrize("op", ["forward", "backprop_input", "backprop_filter"])
def test_vectorized_map_equals_the_loop(op):
    function, operand = three_calls(make_case())[op]
    stacked = tf.constant(np.stack([operand, 2 * operand, -operand]))
    looped = tf.stack([function(one) for one in stacked])
    vectorised = tf.vectorized_map(function, stacked)
    np.testing.assert_array_equal(vectorised, looped)
    # Not the zeros that would equal any loop.
    assert np.any(looped.numpy())


def test_vectorized_map_without_fallback_refuses_clearly():
    # No converter is registered: without the while_loop it must say which op it lacks.
    function, operand = three_calls(make_case())["backprop_input"]
    with pytest.raises(ValueError, match="DwgradDepthwiseConv2dBackpropInput"):
        tf.vectorized_map(
            function, tf.stack([operand, operand]), fallback_to_while_loop=False
        )


@pytest.mark.parametrize("op", ["forward", "backprop_input", "backprop_filter"])
def test_while_loop(op):
    function, operand = three_calls(make_case())[op]

    def float_of(i):
        return tf.cast(i, tf.float32)

    @tf.function
    def summed(operand, steps):
        total = tf.zeros_like(function(operand))
        _, total = tf.while_loop(
            lambda i, total: i < steps,
            lambda i, total: (i + 1, total + function(operand * float_of(i))),
            [tf.constant(0), total],
        )
        return total

    np.testing.assert_array_equal(
        summed(operand, tf.constant(4)), 6 * function(operand)
    )


def test_gradient_through_a_while_loop():
    case = make_case(strides=(1, 1), multiplier=1)
    x, w, _ = operands(case)
    w = np.sign(w)

    @tf.function
    def gradient(x, steps):
        with tf.GradientTape() as tape:
            tape.watch(x)
            _, y = tf.while_loop(
                lambda i, y: i < steps,
                lambda i, y: (
                    i + 1,
                    tf_dwgrad.depthwise_conv2d(y, w, **case.forward_attrs),
                ),
                [tf.constant(0), x],
            )
        return tape.gradient(y, x)

    dy = np.ones(case.output_shape)
    for _ in range(3):
        dy = reference.input_gradient(case, w, dy)
    np.testing.assert_array_equal(gradient(tf.constant(x), tf.constant(3)), dy)


@pytest.mark.parametrize("data_format", LAYOUTS)
def test_constant_operands_survive_grappler(data_format):
    # Grappler computes such a graph while it optimises it.
    case = make_case(data_format)
    x, w, dy = operands(case)
    x_layout, dy_layout = case.to_layout(x), case.to_layout(dy)

    @tf.function
    def constants():
        return (
            tf_dwgrad.depthwise_conv2d(x_layout, w, **case.forward_attrs),
            tf_dwgrad.depthwise_conv2d_backprop_input(
                x_layout.shape, w, dy_layout, **case.attrs
            ),
            tf_dwgrad.depthwise_conv2d_backprop_filter(
                x_layout, w.shape, dy_layout, **case.attrs
            ),
        )

    for _ in range(2):
        for result, right in zip(
            constants(), expected_results(case, x, w, dy), strict=True
        ):
            np.testing.assert_array_equal(result, right)


def test_identical_calls_in_one_graph_agree():
    # Common subexpressions are merged: the ops must not be stateful.
    function, operand = three_calls(make_case())["backprop_input"]
    both = tf.function(lambda v: function(v) - function(v))
    np.testing.assert_array_equal(both(operand), 0)
    graph = both.get_concrete_function(tf.constant(operand)).graph
    ops = [op for op in graph.get_operations() if op.type.startswith("Dwgrad")]
    assert len(ops) == 2
    assert not any(op.op_def.is_stateful for op in ops)
