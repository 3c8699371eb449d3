"""All three ops equal the float64 reference, without tolerance, on integers.

The integers are so small that every sum is exact in the accumulator, in any order. What
is left is one rounding to the type of the result, which the reference makes as well.
"""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import reference
import tf_dwgrad
from numerics import (
    OPS,
    assert_same,
    integer_operands,
    reference_ops,
    run_ops,
    tensors,
)
from reference import DTYPES, Case, random_case


def check_exact(case, seed=0):
    """Compares the three ops with the reference on integers drawn with `seed`."""
    x, w, dy = integer_operands(case, np.random.default_rng(seed))
    got = run_ops(case, x, w, dy)
    want = reference_ops(case, x, w, dy)
    for name in OPS:
        with np.errstate(over="ignore"):  # half overflows to inf, on both sides
            rounded = want[name].astype(DTYPES[case.dtype])
        assert_same(got[name], rounded, f"{name} in check_exact({case}, seed={seed})")


def check_random_case(seed):
    check_exact(random_case(np.random.default_rng(seed)), seed)


@pytest.mark.parametrize("seed", range(400))
def test_random_case(seed):
    check_random_case(seed)


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(1000, 4000))
def test_random_case_sweep(seed):
    check_random_case(seed)


def test_random_cases_cover_the_space():
    """The default run meets every pair of properties that the kernels tell apart."""
    cases = [random_case(np.random.default_rng(seed)) for seed in range(400)]
    properties = {
        "dtype": lambda c: c.dtype,
        "layout": lambda c: c.data_format,
        "padding": lambda c: c.padding,
        "unequal strides": lambda c: c.strides[0] != c.strides[1],
        "dilated": lambda c: max(c.dilations) > 1,
        "multiplied": lambda c: c.multiplier > 1,
        "odd channels": lambda c: c.channels % 2 == 1,
        "large filter": lambda c: max(c.kernel) > 8,
    }
    for (a, of_a), (b, of_b) in itertools.combinations(properties.items(), 2):
        want = {(va, vb) for va in map(of_a, cases) for vb in map(of_b, cases)}
        assert {(of_a(c), of_b(c)) for c in cases} == want, f"{a} x {b}"
    assert {c.dtype for c in cases} == set(DTYPES)
    assert {c.padding for c in cases} == {"SAME", "VALID", "EXPLICIT"}


def definition(case, x, w, dy):
    """The three ops as the specification's formulas, one product at a time."""
    y = np.zeros(case.output_shape)
    dx = np.zeros(case.input_shape)
    dw = np.zeros(case.filter_shape)
    pad_h, pad_w = case.pad_before(0), case.pad_before(1)
    (stride_h, stride_w), (dilation_h, dilation_w) = case.strides, case.dilations
    batch, out_h, out_w, _ = case.output_shape
    taps = list(np.ndindex(case.filter_shape))
    for b, i, j in np.ndindex(batch, out_h, out_w):
        for r, s, c, q in taps:
            row = i * stride_h - pad_h + r * dilation_h
            col = j * stride_w - pad_w + s * dilation_w
            if 0 <= row < case.size[0] and 0 <= col < case.size[1]:
                k = c * case.multiplier + q
                y[b, i, j, k] += x[b, row, col, c] * w[r, s, c, q]
                dw[r, s, c, q] += x[b, row, col, c] * dy[b, i, j, k]
    for b, row, col in np.ndindex(batch, *case.size):
        for r, s, c, q in taps:
            i, i_rest = divmod(row + pad_h - r * dilation_h, stride_h)
            j, j_rest = divmod(col + pad_w - s * dilation_w, stride_w)
            if i_rest == 0 and j_rest == 0 and 0 <= i < out_h and 0 <= j < out_w:
                k = c * case.multiplier + q
                dx[b, row, col, c] += dy[b, i, j, k] * w[r, s, c, q]
    return {"forward": y, "input_gradient": dx, "filter_gradient": dw}


@pytest.mark.parametrize(
    "case",
    [
        Case(1, (5, 6), 2, 1, (3, 2)),
        Case(2, (6, 5), 1, 2, (3, 3), (2, 1), (1, 2), "VALID"),
        Case(1, (7, 4), 3, 2, (2, 3), (3, 2), (2, 3)),
        Case(1, (4, 5), 2, 1, (2, 2), (1, 3), (3, 1), "EXPLICIT", ((2, 0), (1, 3))),
        Case(1, (2, 3), 1, 3, (5, 4), (1, 2)),
        Case(1, (6, 6), 1, 1, (2, 2), (4, 3), (1, 1)),
    ],
    ids=str,
)
def test_reference_is_the_definition(case):
    """The yardstick itself, against loops that share nothing with it."""
    x, w, dy = integer_operands(case, np.random.default_rng(0))
    want = definition(case, x, w, dy)
    got = reference_ops(case, x, w, dy)
    for name in OPS:
        assert_same(got[name], want[name], f"reference.{name}({case})")


def _tf(input_shape, filter_shape, stride=1, padding="SAME", dilations=(1, 1)):
    """A configuration as TensorFlow's tests write it down."""
    batch, height, width, channels = input_shape
    explicit = not isinstance(padding, str)
    return Case(
        batch,
        (height, width),
        channels,
        filter_shape[3],
        tuple(filter_shape[:2]),
        (stride, stride),
        dilations,
        "EXPLICIT" if explicit else padding,
        padding if explicit else ((0, 0), (0, 0)),
    )


# tensorflow/python/kernel_tests/nn_ops/depthwise_conv_op_base.py: ConfigsToTest,
# ConfigsToTestExplicit, CheckGradConfigsToTest, CheckGradConfigsToTestExplicit; then
# what tensorflow/compiler/tests/depthwise_conv_op_test.py adds to them.
TENSORFLOW_CASES = [
    _tf([4, 5, 5, 48], [1, 1, 48, 2]),
    _tf([4, 8, 8, 84], [1, 3, 84, 1]),
    _tf([4, 17, 17, 48], [3, 1, 48, 4]),
    _tf([4, 9, 27, 8], [3, 3, 8, 1]),
    _tf([4, 31, 31, 7], [3, 3, 7, 1]),
    _tf([4, 35, 35, 2], [5, 5, 2, 1]),
    _tf([4, 147, 147, 2], [3, 3, 2, 8], 3, "VALID"),
    _tf([3, 299, 299, 3], [3, 2, 3, 8], 2),
    _tf([5, 183, 183, 1], [5, 5, 1, 2], 2),
    _tf([5, 183, 183, 1], [5, 5, 1, 2], dilations=(2, 2)),
    _tf([5, 41, 35, 2], [4, 7, 2, 2], 1, "VALID", (3, 2)),
    _tf([4, 5, 5, 48], [1, 1, 48, 2], 1, ((1, 2), (3, 4))),
    _tf([4, 1, 1, 3], [3, 3, 3, 2], 1, ((10, 20), (15, 25))),
    _tf([4, 9, 27, 8], [3, 3, 8, 1], 1, ((3, 4), (4, 2))),
    _tf([4, 31, 31, 7], [3, 3, 7, 1], 1, ((0, 0), (0, 0))),
    _tf([3, 299, 299, 3], [3, 2, 3, 8], 2, ((1, 2), (3, 5))),
    _tf([5, 183, 183, 1], [5, 5, 1, 2], 3, ((3, 2), (1, 0))),
    _tf([5, 29, 31, 1], [5, 4, 1, 2], 1, ((3, 2), (1, 0)), (2, 3)),
    _tf([4, 5, 5, 48], [3, 3, 48, 1], 1, ((0, 2), (0, 2))),
    _tf([1, 8, 7, 2], [8, 7, 2, 1], 1, ((0, 7), (3, 3))),
    _tf([2, 4, 3, 2], [3, 2, 2, 1], 1, ((2, 0), (1, 0))),
    _tf([2, 5, 8, 1], [4, 4, 1, 2]),
    _tf([4, 5, 5, 1], [2, 2, 1, 2], 2, "VALID"),
    _tf([2, 4, 4, 2], [3, 1, 2, 2]),
    _tf([1, 15, 15, 2], [1, 3, 2, 1]),
    _tf([2, 15, 16, 1], [3, 3, 1, 2], 3, "VALID"),
    _tf([2, 5, 8, 1], [4, 3, 1, 2], dilations=(1, 2)),
    _tf([1, 3, 1, 2], [2, 1, 2, 1]),
    _tf([2, 2, 3, 2], [2, 1, 2, 1]),
    _tf([2, 2, 3, 1], [2, 2, 1, 1]),
    _tf([2, 5, 8, 1], [4, 4, 1, 2], 1, ((0, 1), (2, 3))),
    _tf([4, 5, 5, 1], [2, 2, 1, 2], 2, ((3, 1), (5, 0))),
    _tf([2, 4, 4, 2], [3, 1, 2, 2], 1, ((4, 1), (3, 4))),
    _tf([1, 15, 15, 2], [1, 3, 2, 1], 1, ((3, 0), (2, 8))),
    _tf([2, 15, 16, 1], [3, 3, 1, 2], 3, ((0, 0), (10, 0))),
    _tf([2, 5, 8, 1], [3, 4, 1, 2], 1, ((3, 1), (2, 3)), (2, 1)),
    _tf([2, 5, 5, 48], [2, 2, 48, 8]),
    _tf([3, 299, 299, 3], [2, 2, 3, 8], 2),
    _tf([4, 6, 6, 48], [1, 1, 48, 2], dilations=(2, 2)),
    _tf([4, 8, 8, 84], [1, 3, 84, 1], dilations=(2, 2)),
    _tf([4, 36, 36, 2], [5, 5, 2, 1], 2, dilations=(4, 4)),
    _tf([4, 148, 148, 2], [4, 4, 2, 8], 2, dilations=(2, 2)),
    _tf([3, 300, 300, 3], [2, 2, 3, 8], 1, "VALID", (4, 4)),
]


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize(
    ("index", "dtype"),
    [
        (index, dtype)
        for index, case in enumerate(TENSORFLOW_CASES)
        for dtype in DTYPES
        # The large ones run in float32 only, for time.
        if dtype == "float32" or math.prod(case.output_shape) < 400_000
    ],
)
def test_configuration_of_tensorflows_tests(index, dtype, data_format):
    case = TENSORFLOW_CASES[index]
    check_exact(dataclasses.replace(case, data_format=data_format, dtype=dtype))


def test_output_sizes_of_tensorflows_tests():
    """The sizes that TensorFlow's tests state, where one is easily off by one."""
    stated = {6: (49, 49), 7: (150, 150), 8: (92, 92), 10: (32, 23), 15: (150, 153)}
    stated |= {16: (62, 60), 17: (26, 23), 31: (4, 5), 41: (74, 74), 42: (296, 296)}
    for index, size in stated.items():
        case = TENSORFLOW_CASES[index]
        assert case.output_shape[1:3] == size
        shapes = (case.input_shape, case.filter_shape, case.output_shape)
        x, w, _ = tensors(case, *(np.zeros(shape, np.float32) for shape in shapes))
        y = tf_dwgrad.depthwise_conv2d(x, w, **case.forward_attrs)
        assert tuple(y.shape) == case.output_shape


def _named(*args, **kwargs):
    """The configuration in both layouts and all types."""
    return [
        Case(*args, **kwargs, data_format=data_format, dtype=dtype)
        for data_format in ("NHWC", "NCHW")
        for dtype in DTYPES
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 3)])
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("channels", [1, 3, 7, 17, 33, 64])
def test_channels(channels, multiplier, strides, data_format, dtype):
    """Channel counts beside the vector widths: whole vectors, rests, less than one."""
    check_exact(
        Case(
            2,
            (9, 8),
            channels,
            multiplier,
            (3, 3),
            strides,
            data_format=data_format,
            dtype=dtype,
        )
    )


@pytest.mark.parametrize(
    "case",
    [
        *_named(1, (4, 5), 3, 1, (9, 8)),
        *_named(2, (3, 2), 5, 2, (7, 7), (2, 2), (2, 2)),
        *_named(1, (1, 1), 8, 1, (5, 5)),
        *_named(1, (2, 3), 4, 1, (5, 6), padding="EXPLICIT", pads=((3, 3), (2, 4))),
    ],
    ids=str,
)
def test_filter_larger_than_image(case):
    check_exact(case)


@pytest.mark.parametrize(
    "case",
    [
        *_named(2, (1, 40), 5, 1, (1, 9)),
        *_named(2, (6, 40), 5, 2, (1, 15), (1, 2), (1, 2)),
        *_named(2, (40, 6), 5, 1, (15, 1), (2, 1), (2, 1)),
        *_named(1, (40, 1), 17, 1, (31, 1)),
        *_named(1, (9, 50), 3, 1, (5, 31), padding="VALID"),
    ],
    ids=str,
)
def test_narrow_filter(case):
    check_exact(case)


@pytest.mark.parametrize(
    "case",
    [
        *_named(1, (33, 35), 7, 1, (31, 31)),
        *_named(1, (34, 32), 3, 2, (31, 31), (2, 2)),
        *_named(1, (14, 14), 16, 1, (31, 31)),
        *_named(1, (40, 33), 4, 1, (31, 29), (1, 2), (1, 1), "VALID"),
    ],
    ids=str,
)
def test_31x31(case):
    check_exact(case)


@pytest.mark.parametrize(
    "case",
    [
        *_named(2, (11, 13), 5, 1, (2, 1), (3, 4)),
        *_named(1, (12, 12), 3, 3, (1, 1), (5, 2)),
        *_named(1, (14, 15), 4, 1, (3, 3), (4, 5), padding="VALID"),
        # Strides and dilations with a common divisor: a tap never sees half the pixels.
        *_named(1, (12, 11), 4, 1, (3, 3), (2, 2), (2, 4)),
        *_named(
            1, (13, 12), 3, 2, (4, 4), (4, 6), (2, 3), "EXPLICIT", ((1, 5), (5, 0))
        ),
    ],
    ids=str,
)
def test_pixels_that_no_tap_touches_are_zero(case):
    """Nothing is written there but zero, for which the op has to remember to write."""
    _, touches, _ = reference.terms(case)
    assert (touches == 0).any(), "the case is meant to leave pixels untouched"
    x, w, dy = (
        np.ones(shape, DTYPES[case.dtype])
        for shape in (case.input_shape, case.filter_shape, case.output_shape)
    )
    dx = run_ops(case, x, w, dy)["input_gradient"]
    assert (dx[touches == 0] == 0).all(), case
    assert (dx[touches > 0] > 0).all(), case
    check_exact(case)


@pytest.mark.parametrize(
    "case",
    [
        *_named(1, (5, 4), 2, 300, (3, 3)),
        *_named(2, (5, 6), 1, 300, (2, 3), (2, 1), (1, 2), "VALID"),
    ],
    ids=str,
)
def test_depth_multiplier_300(case):
    check_exact(case)


@pytest.mark.parametrize(
    "case",
    [
        *_named(1, (9, 600), 3, 1, (3, 3)),
        *_named(1, (3, 600), 2, 2, (3, 5), (1, 3), (1, 2)),
        *_named(1, (7, 7), 1030, 1, (3, 3)),
        *_named(9, (1, 1), 40, 1, (1, 1)),
    ],
    ids=str,
)
def test_longer_than_one_strip_or_block(case):
    """Rows and channel counts that the kernels cut into pieces."""
    check_exact(case)
