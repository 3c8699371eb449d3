"""What the tests about numbers share: operands, running the ops, judging results.

Operands and results are NHWC NumPy arrays, whatever the case's data format.
"""

import math

import numpy as np
import reference
import tensorflow as tf
import tf_dwgrad
from reference import DTYPES

OPS = ("forward", "input_gradient", "filter_gradient")

# Half the distance from 1 to the next number: the relative error of one rounding.
ROUNDOFF = {
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
    "float32": 2.0**-24,
    "float64": 2.0**-53,
}


def accumulator_roundoff(dtype):
    """The same for the type in which the ops promise to add up."""
    return ROUNDOFF["float64" if dtype == "float64" else "float32"]


def most_terms(case):
    """At least as many products as any element of a result sums."""
    taps = case.kernel[0] * case.kernel[1]
    positions = case.batch * case.output_size(0) * case.output_size(1)
    return max(taps * case.multiplier, positions)


def integer_operands(case, rng):
    """Integers (x, w, dy) whose products and sums the accumulators hold exactly.

    Whatever the order of summation, then, the only rounding is the one to the type of
    the result. The magnitude varies from case to case: -1, 0, 1; one digit; as large as
    exactness permits (for half, as large as keeps most results finite).
    """
    terms = most_terms(case)
    largest = math.sqrt(1 / accumulator_roundoff(case.dtype) / terms)
    if case.dtype == "float16":
        largest = min(largest, math.sqrt(65504 / math.sqrt(terms)))
    largest = int(min(largest, 1 / ROUNDOFF[case.dtype]))
    assert largest >= 1, f"{case} sums too many products to be exact"
    magnitude = int(rng.choice([1, min(9, largest), largest, largest]))
    return tuple(
        rng.integers(-magnitude, magnitude + 1, shape).astype(DTYPES[case.dtype])
        for shape in (case.input_shape, case.filter_shape, case.output_shape)
    )


def normal_operands(case, rng, scale=1.0):
    """Normally distributed (x, w, dy), rounded to the case's type."""
    return tuple(
        (scale * rng.standard_normal(shape)).astype(DTYPES[case.dtype])
        for shape in (case.input_shape, case.filter_shape, case.output_shape)
    )


def shape_in_layout(case):
    """The value of `input_sizes`: the input's shape in the case's data format."""
    batch, height, width, channels = case.input_shape
    if case.data_format == "NHWC":
        return [batch, height, width, channels]
    return [batch, channels, height, width]


def tensors(case, x, w, dy):
    """The operands as the ops want them."""
    return (
        tf.constant(case.to_layout(x)),
        tf.constant(w),
        tf.constant(case.to_layout(dy)),
    )


def ops_of(case):
    """The package's three ops as one function of (x, w, dy) in the case's layout."""

    def three_ops(x, w, dy):
        return (
            tf_dwgrad.depthwise_conv2d(x, w, **case.forward_attrs),
            tf_dwgrad.depthwise_conv2d_backprop_input(
                shape_in_layout(case), w, dy, **case.attrs
            ),
            tf_dwgrad.depthwise_conv2d_backprop_filter(
                x, list(case.filter_shape), dy, **case.attrs
            ),
        )

    return three_ops


def run_ops(case, x, w, dy, jit=False):
    """The package's three results, by the names in OPS; from XLA if `jit`."""
    three_ops = ops_of(case)
    if jit:
        three_ops = tf.function(three_ops, jit_compile=True)
    y, dx, dw = three_ops(*tensors(case, x, w, dy))
    return {
        "forward": case.from_layout(y.numpy()),
        "input_gradient": case.from_layout(dx.numpy()),
        "filter_gradient": dw.numpy(),
    }


def reference_ops(case, x, w, dy, precision=np.float64):
    """The same three results from the reference."""
    return {
        "forward": reference.forward(case, x, w, precision),
        "input_gradient": reference.input_gradient(case, w, dy, precision),
        "filter_gradient": reference.filter_gradient(case, x, dy, precision),
    }


def rounding_bounds(case, x, w, dy, want, accumulator=None):
    """How far rounding may take each element of the three results from `want`.

    A sum of n products, computed in any order with roundoff u, is off by less than
    about n * u * (sum of the absolute products); n + 2 covers the terms of higher
    order. Then comes the rounding to the type of the result, and half's subnormals have
    a fixed spacing of 2^-24. `accumulator` overrides u.
    """
    u = accumulator or accumulator_roundoff(case.dtype)
    products = reference_ops(case, abs(x), abs(w), abs(dy))
    bounds = {}
    for name, terms in zip(OPS, reference.terms(case), strict=True):
        bound = (
            ROUNDOFF[case.dtype] * abs(want[name]) + (terms + 2) * u * products[name]
        )
        bounds[name] = bound + (2.0**-25 if case.dtype == "float16" else 0.0)
    return bounds


def _first(wrong, got, want):
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    return (
        f"{np.count_nonzero(wrong)} of {wrong.size} elements are wrong, the first at "
        f"{index}: got {got[index]}, want {want[index]}"
    )


def assert_same(got, want, context):
    """Equality without tolerance; NaN equals NaN, and -0 equals 0."""
    assert got.shape == want.shape, f"{context}: shape {got.shape}, want {want.shape}"
    assert got.dtype == want.dtype, f"{context}: dtype {got.dtype}, want {want.dtype}"
    # float64 holds every number of the other types.
    with np.errstate(invalid="ignore"):
        wide_got, wide_want = got.astype(np.float64), want.astype(np.float64)
    same = (wide_got == wide_want) | (np.isnan(wide_got) & np.isnan(wide_want))
    assert same.all(), f"{context}: {_first(~same, got, want)}"


def assert_within(got, want, bound, context):
    """|got - want| <= bound, element by element; `want` is finite and more precise."""
    assert got.shape == want.shape, f"{context}: shape {got.shape}, want {want.shape}"
    # Written so that a NaN is an error.
    wrong = ~(abs(got.astype(want.dtype) - want) <= bound)
    if wrong.any():
        index = tuple(np.argwhere(wrong)[0])
        raise AssertionError(
            f"{context}: {_first(wrong, got, want)}, at most {bound[index]:.3g} apart"
        )
