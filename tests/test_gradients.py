"""Derivatives of the ops: first, second and third order, in both directions.

The ops are linear in each operand, so on integers both the tape's derivatives and
central differences with a step of 1/2 are exact, and are compared without tolerance.
"""

import dataclasses

import numpy as np
import pytest
import reference
import tensorflow as tf
import tf_dwgrad
from numerics import assert_same, integer_operands, shape_in_layout, tensors
from reference import DTYPES, Case, random_case

# Small: compute_gradient runs the function twice per element of every operand.
CASES = [
    Case(1, (3, 4), 2, 1, (2, 2)),
    Case(2, (4, 3), 1, 2, (2, 3), (1, 1), (2, 1)),
    Case(1, (5, 4), 1, 2, (2, 2), (2, 1), (1, 2), data_format="NCHW"),
    Case(1, (5, 6), 2, 1, (2, 2), (1, 2), (2, 3), "VALID"),
    Case(1, (5, 5), 1, 2, (3, 2), (3, 2), (1, 2), "VALID", data_format="NCHW"),
    Case(1, (3, 4), 2, 1, (2, 3), (2, 3), (2, 1), "EXPLICIT", ((1, 2), (2, 0))),
    Case(1, (3, 3), 1, 2, (2, 2), padding="EXPLICIT", pads=((0, 1), (1, 0))),
]


def forward(case):
    return lambda x, w: tf_dwgrad.depthwise_conv2d(x, w, **case.forward_attrs)


def input_gradient(case):
    return lambda w, dy: tf_dwgrad.depthwise_conv2d_backprop_input(
        shape_in_layout(case), w, dy, **case.attrs
    )


def filter_gradient(case):
    return lambda x, dy: tf_dwgrad.depthwise_conv2d_backprop_filter(
        x, case.filter_shape, dy, **case.attrs
    )


def op_and_operands(name, case, x, w, dy):
    """One of the three ops, as a function of its two operands, and those."""
    if name == "forward":
        return forward(case), [x, w]
    if name == "input_gradient":
        return input_gradient(case), [w, dy]
    return filter_gradient(case), [x, dy]


def small_operands(case, seed=0):
    """Tensors of one-digit integers, so that third powers stay exact in float32."""
    rng = np.random.default_rng(seed)
    shapes = (case.input_shape, case.filter_shape, case.output_shape)
    arrays = (rng.integers(-3, 4, shape) for shape in shapes)
    return tensors(case, *(array.astype(DTYPES[case.dtype]) for array in arrays))


def check_exactly(function, operands, context):
    """The derivatives of `function` equal central differences, bit for bit."""
    theoretical, numerical = tf.test.compute_gradient(function, operands, delta=0.5)
    for position, (tape, differences) in enumerate(
        zip(theoretical, numerical, strict=True)
    ):
        assert_same(tape, differences, f"{context}, operand {position}")
    assert any(np.any(tape) for tape in theoretical), f"{context}: all zero"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["forward", "input_gradient", "filter_gradient"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_first_order(case, name, dtype):
    case = dataclasses.replace(case, dtype=dtype)
    function, operands = op_and_operands(name, case, *small_operands(case))
    check_exactly(function, operands, f"{name} of {case}")


def gradient_of_square(function):
    """The gradient of the sum of squares: the op and both its derivatives, composed."""

    def gradient(a, b):
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            loss = tf.reduce_sum(function(a, b) ** 2)
        gradients = tape.gradient(loss, [a, b])
        return tf.concat([tf.reshape(g, [-1]) for g in gradients], axis=0)

    return gradient


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["forward", "input_gradient", "filter_gradient"])
@pytest.mark.parametrize("case", CASES[:6], ids=str)
def test_second_order(case, name, dtype):
    """The function is quadratic in each operand, so central differences stay exact."""
    case = dataclasses.replace(case, dtype=dtype)
    function, operands = op_and_operands(name, case, *small_operands(case))
    function = gradient_of_square(function)
    check_exactly(function, operands, f"second order, {name} of {case}")


@pytest.mark.parametrize("case", [CASES[2], CASES[3], CASES[5]], ids=str)
@pytest.mark.parametrize("name", ["forward", "input_gradient", "filter_gradient"])
def test_third_order(case, name):
    """d/da of (d/da of (d/db of sum f(a, b)^3) . v), against differences of the second.

    The second derivative is quadratic in a and b.
    """
    case = dataclasses.replace(case, dtype="float64")
    function, operands = op_and_operands(name, case, *small_operands(case))
    direction = tf.reshape(tf.range(tf.size(operands[1])) % 5 - 2, operands[1].shape)
    direction = tf.cast(direction, tf.float64)

    def second(a, b):
        with tf.GradientTape() as outer:
            outer.watch(a)
            with tf.GradientTape() as inner:
                inner.watch(b)
                loss = tf.reduce_sum(function(a, b) ** 3)
            along = tf.reduce_sum(inner.gradient(loss, b) * direction)
        return outer.gradient(along, a)

    theoretical, numerical = tf.test.compute_gradient(
        lambda a: second(a, operands[1]), operands[:1], delta=0.5
    )
    assert_same(theoretical[0], numerical[0], f"third order, {name} of {case}")
    assert np.any(theoretical[0])


@pytest.mark.parametrize("name", ["forward", "input_gradient", "filter_gradient"])
def test_first_order_on_reals(name):
    """The same on normal numbers, where only rounding separates the two."""
    case = dataclasses.replace(CASES[3], dtype="float64")
    rng = np.random.default_rng(0)
    shapes = (case.input_shape, case.filter_shape, case.output_shape)
    operands = tensors(case, *(rng.standard_normal(shape) for shape in shapes))
    function, operands = op_and_operands(name, case, *operands)
    theoretical, numerical = tf.test.compute_gradient(function, operands, delta=0.5)
    for tape, differences in zip(theoretical, numerical, strict=True):
        # Hundreds of float64 roundings of numbers below 10, 1.1e-16 each.
        np.testing.assert_allclose(tape, differences, rtol=0, atol=1e-13)


@pytest.mark.parametrize("seed", range(30_000, 30_060))
def test_tape_equals_reference(seed):
    """Each op's two derivatives, along random integers, for any configuration."""
    case = random_case(np.random.default_rng(seed))
    context = f"test_tape_equals_reference({seed}): {case}"
    rng = np.random.default_rng(seed)
    x, w, dy = integer_operands(case, rng)
    gx, gw, gy = (rng.permutation(a.ravel()).reshape(a.shape) for a in (x, w, dy))
    # What to differentiate, along what, and what the derivatives are by definition.
    derivatives = {
        "forward": (
            gy,
            case.to_layout(reference.input_gradient(case, w, gy)),
            reference.filter_gradient(case, x, gy),
        ),
        "input_gradient": (
            gx,
            reference.filter_gradient(case, gx, dy),
            case.to_layout(reference.forward(case, gx, w)),
        ),
        "filter_gradient": (
            gw,
            case.to_layout(reference.input_gradient(case, gw, dy)),
            case.to_layout(reference.forward(case, x, gw)),
        ),
    }
    for name, (along, *want) in derivatives.items():
        function, operands = op_and_operands(name, case, *tensors(case, x, w, dy))
        if name != "filter_gradient":
            along = case.to_layout(along)
        with tf.GradientTape() as tape:
            tape.watch(operands)
            result = function(*operands)
        got = tape.gradient(result, operands, tf.constant(along))
        for position, (g, expected) in enumerate(zip(got, want, strict=True)):
            with np.errstate(over="ignore"):
                expected = expected.astype(DTYPES[case.dtype])
            assert_same(g.numpy(), expected, f"{name}, operand {position}, {context}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_nested_tapes_equal_reference(data_format, dtype):
    """Second derivatives of sum (y . y) / 2: mixed ones included, in every type."""
    case = Case(
        *(2, (6, 5), 3, 2, (2, 3), (2, 1), (1, 2)), data_format=data_format, dtype=dtype
    )
    rng = np.random.default_rng(0)
    shapes = (case.input_shape, case.filter_shape)
    x, w, vx, vw = (
        (rng.integers(-1, 2, shape) * (rng.random(shape) < 0.5)).astype(DTYPES[dtype])
        for shape in (*shapes, *shapes)
    )
    tx, tw = tf.constant(case.to_layout(x)), tf.constant(w)
    with tf.GradientTape() as outer:
        outer.watch([tx, tw])
        with tf.GradientTape() as inner:
            inner.watch([tx, tw])
            y = forward(case)(tx, tw)
            loss = tf.reduce_sum(tf.cast(y, tf.float64) ** 2) / 2
        dx, dw = inner.gradient(loss, [tx, tw])
        along = [tf.constant(case.to_layout(vx)), tf.constant(vw)]
        product = sum(
            tf.reduce_sum(tf.cast(g, tf.float64) * tf.cast(v, tf.float64))
            for g, v in zip((dx, dw), along, strict=True)
        )
    got_x, got_w = outer.gradient(product, [tx, tw])
    # The Hessian along (vx, vw), from y' = forward(vx, w) + forward(x, vw).
    y = reference.forward(case, x, w)
    moved = reference.forward(case, vx, w) + reference.forward(case, x, vw)
    assert abs(y).max() <= 256, "y has to be exact in bfloat16"
    want_x = reference.input_gradient(case, w, moved)
    want_x += reference.input_gradient(case, vw, y)
    want_w = reference.filter_gradient(case, x, moved)
    want_w += reference.filter_gradient(case, vx, y)
    assert max(abs(want_x).max(), abs(want_w).max()) <= 256
    to_type = DTYPES[dtype]
    assert_same(case.from_layout(got_x.numpy()), want_x.astype(to_type), str(case))
    assert_same(got_w.numpy(), want_w.astype(to_type), str(case))


@pytest.mark.parametrize("name", ["forward", "input_gradient", "filter_gradient"])
@pytest.mark.parametrize("case", [CASES[1], CASES[2], CASES[5]], ids=str)
def test_forward_mode(case, name):
    """Directional derivatives without a tape: f(da, b) + f(a, db)."""
    x, w, dy = small_operands(case)
    function, (a, b) = op_and_operands(name, case, x, w, dy)
    _, (da, db) = op_and_operands(name, case, *small_operands(case, seed=1))
    with tf.autodiff.ForwardAccumulator([a, b], [da, db]) as accumulator:
        result = function(a, b)
    got = accumulator.jvp(result).numpy()
    want = (function(da, b) + function(a, db)).numpy()
    assert np.any(want)
    assert_same(got, want, f"{name} of {case}")


@pytest.mark.parametrize("case", [CASES[1], CASES[2], CASES[5]], ids=str)
def test_forward_over_reverse(case):
    """A Hessian-vector product by ForwardAccumulator equals the one by nested tapes."""
    x, w, _ = small_operands(case)
    vx, vw, _ = small_operands(case, seed=1)
    with tf.autodiff.ForwardAccumulator([x, w], [vx, vw]) as accumulator:
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            loss = tf.reduce_sum(forward(case)(x, w) ** 2)
        gradients = tape.gradient(loss, [x, w])
    got = [accumulator.jvp(gradient) for gradient in gradients]
    with tf.GradientTape() as outer:
        outer.watch([x, w])
        with tf.GradientTape() as inner:
            inner.watch([x, w])
            loss = tf.reduce_sum(forward(case)(x, w) ** 2)
        dx, dw = inner.gradient(loss, [x, w])
        product = tf.reduce_sum(dx * vx) + tf.reduce_sum(dw * vw)
    want = outer.gradient(product, [x, w])
    for position in range(2):
        assert np.any(want[position])
        assert_same(got[position].numpy(), want[position].numpy(), str(case))


def test_a_wrong_derivative_is_noticed():
    """check_exactly can fail: a derivative that drops the dilations."""
    case = dataclasses.replace(CASES[1], dtype="float64")
    undilated = dataclasses.replace(case, dilations=(1, 1))
    x, w, _ = small_operands(case)

    @tf.custom_gradient
    def wrong(x, w):
        def gradient(dy):
            return input_gradient(undilated)(w, dy), filter_gradient(undilated)(x, dy)

        return forward(case)(x, w), gradient

    with pytest.raises(AssertionError, match="elements are wrong"):
        check_exactly(wrong, [x, w], "wrong")
