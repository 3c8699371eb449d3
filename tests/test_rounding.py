"""Real numbers: results within the rounding bound, and the edges of each number format.

The bound (numerics.rounding_bounds) is what accumulation in float32 (float64 for
float64) followed by one rounding can be off by; a kernel that adds up half in half
exceeds it.
"""

import dataclasses

import numpy as np
import pytest
from numerics import (
    OPS,
    ROUNDOFF,
    assert_same,
    assert_within,
    integer_operands,
    normal_operands,
    reference_ops,
    rounding_bounds,
    run_ops,
)
from reference import DTYPES, Case, random_case

# float64 results are judged against extended precision: its own rounding is 2^11 times
# finer, far below the two spare terms of the bound. Where the platform has none (long
# double is double), the reference may be off by as much as the op.
HAS_EXTENDED = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps


def check_rounding(case, seed):
    """Compares the three ops with the reference on normal data drawn with `seed`."""
    rng = np.random.default_rng(seed)
    # With half, sometimes so small that results and even operands are subnormal.
    scale = 2.0 ** -int(rng.choice([0, 0, 7, 13])) if case.dtype == "float16" else 1.0
    x, w, dy = normal_operands(case, rng, scale)
    got = run_ops(case, x, w, dy)
    precision = np.longdouble if case.dtype == "float64" else np.float64
    want = reference_ops(case, x, w, dy, precision)
    bounds = rounding_bounds(case, x, w, dy, want)
    slack = 1 if case.dtype != "float64" or HAS_EXTENDED else 2
    for name in OPS:
        context = f"{name} in check_rounding({case}, seed={seed})"
        assert_within(got[name], want[name], slack * bounds[name], context)


def check_random_case(seed):
    check_rounding(random_case(np.random.default_rng(seed)), seed)


@pytest.mark.parametrize("seed", range(10_000, 10_300))
def test_random_case(seed):
    check_random_case(seed)


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(11_000, 14_000))
def test_random_case_sweep(seed):
    check_random_case(seed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize(
    "case",
    [
        Case(8, (28, 28), 5, 1, (3, 3)),
        Case(1, (40, 40), 3, 1, (31, 31)),
        Case(2, (20, 20), 2, 150, (5, 5)),
    ],
    ids=["many pixels", "many taps", "many multipliers"],
)
def test_long_sums(case, data_format, dtype):
    """Sums of thousands of products, where accumulating in 16 bits would show most."""
    case = dataclasses.replace(case, data_format=data_format, dtype=dtype)
    check_rounding(case, seed=1)


def check_special_value(seed, special, case=None):
    """One Inf or NaN in each operand in turn reaches only what its products reach.

    The reference has no product for a tap outside the image, so a special value, or its
    product with a zero, shows up wherever an op has one too many. The rest is integers
    and compared without tolerance.
    """
    case = case or random_case(np.random.default_rng(seed))
    for position, operand in enumerate(("x", "w", "dy")):
        rng = np.random.default_rng(seed)
        operands = integer_operands(case, rng)
        values = operands[position]
        index = tuple(int(rng.integers(n)) for n in values.shape)
        values[index] = special
        with np.errstate(invalid="ignore", over="ignore"):
            want = reference_ops(case, *operands)
            got = run_ops(case, *operands)
            for name in OPS:
                context = (
                    f"{name} with {operand}{list(index)} = {special} in "
                    f"check_special_value(seed={seed}, special={special}): {case}"
                )
                rounded = want[name].astype(DTYPES[case.dtype])
                assert_same(got[name], rounded, context)


@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan], ids=str)
@pytest.mark.parametrize("seed", range(20_000, 20_040))
def test_special_value_reaches_only_its_products(seed, special):
    check_special_value(seed, special)


@pytest.mark.parametrize("special", [np.inf, np.nan], ids=str)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("filter_size", [(2, 3), (3, 3), (4, 5), (5, 3)], ids=str)
@pytest.mark.parametrize("steps", [(1, 1), (1, 2), (2, 1)], ids=str)
def test_special_value_where_rows_are_paired(steps, filter_size, seed, special):
    """Channels enough for the kernels that multiply two rows of bfloat16 at a time."""
    stride, dilation = steps
    case = Case(
        1,
        (6, 7),
        64,
        1,
        filter_size,
        strides=(stride, stride),
        dilations=(dilation, dilation),
        dtype="bfloat16",
    )
    check_special_value(seed, special, case)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("special", [np.inf, np.nan], ids=str)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("filter_size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 13), (5, 61)], ids=str)
def test_special_value_where_vectors_run_along_rows(
    size, stride, filter_size, seed, special, dtype
):
    """Planes that are read beyond their rows, and masked."""
    case = Case(
        2,
        size,
        20,
        1,
        (filter_size, filter_size),
        strides=(stride, stride),
        data_format="NCHW",
        dtype=dtype,
    )
    check_special_value(seed, special, case)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("special", [np.inf, np.nan], ids=str)
def test_special_tap_by_hand(special, data_format, dtype):
    """The corner tap of a 3x3 SAME filter on 5x6: it misses one row and one column."""
    case = Case(1, (5, 6), 2, 1, (3, 3), data_format=data_format, dtype=dtype)
    x, w, dy = (
        np.ones(shape, DTYPES[dtype])
        for shape in (case.input_shape, case.filter_shape, case.output_shape)
    )
    w[0, 0, 1, 0] = special
    got = run_ops(case, x, w, dy)
    reached = ~np.isfinite(got["forward"].astype(np.float64))
    want = np.zeros(case.output_shape, bool)
    want[:, 1:, 1:, 1] = True  # the tap looks up and to the left
    assert (reached == want).all()
    reached = ~np.isfinite(got["input_gradient"].astype(np.float64))
    want = np.zeros(case.input_shape, bool)
    want[:, :-1, :-1, 1] = True
    assert (reached == want).all()
    # The filter gradient does not read the filter.
    assert np.isfinite(got["filter_gradient"].astype(np.float64)).all()


def every_pattern(dtype):
    """All 65536 numbers of a 16-bit type."""
    return np.arange(65536, dtype=np.uint16).view(DTYPES[dtype])


def is_subnormal(values):
    """Whether values are subnormal in float32, and so in bfloat16."""
    with np.errstate(invalid="ignore"):
        values = values.astype(np.float32)
        return (values != 0) & (abs(values) < 2.0**-126)


def apply_1x1(values, weights, data_format):
    """values * weights through each op, as 1x1 convolutions, one per channel."""
    dtype = {np.dtype(t): name for name, t in DTYPES.items()}[values.dtype]
    case = Case(1, (1, 1), values.size, 1, (1, 1), data_format=data_format, dtype=dtype)
    values, weights = values.reshape(1, 1, 1, -1), weights.reshape(1, 1, 1, -1)
    as_filter = weights.reshape(case.filter_shape)
    return {
        "forward": run_ops(case, values, as_filter, values)["forward"].ravel(),
        "input_gradient": run_ops(case, values, as_filter, values)[
            "input_gradient"
        ].ravel(),
        "filter_gradient": run_ops(case, weights, as_filter, values)[
            "filter_gradient"
        ].ravel(),
    }


def assert_same_up_to_flushing(got, want, may_flush, context):
    """Equality; but a bfloat16 result may be 0 in the places `may_flush`.

    TensorFlow's threads flush float32 subnormals to zero, which are bfloat16's as well.
    Half's are normal numbers in float32, so that nothing excuses losing them.
    """
    if got.dtype == DTYPES["bfloat16"]:
        flushed = may_flush & (got == 0)
        want = np.where(flushed, got, want)
    assert_same(got, want, context)


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_number_survives_multiplication_by_one(dtype, data_format):
    """Widening to float32 and rounding back loses nothing, subnormals included."""
    values = every_pattern(dtype)
    results = apply_1x1(values, np.ones_like(values), data_format)
    subnormal = is_subnormal(values)
    for name, got in results.items():
        assert_same_up_to_flushing(got, values, subnormal, name)


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize(
    ("dtype", "factors"),
    [
        ("float16", [0.5, 0.25, 0.75, 1.5, 1 + 2.0**-10, 2.0**-14, 3 * 2.0**-12, -2.0]),
        ("bfloat16", [0.5, 0.75, 1.5, 1 + 2.0**-7, 129.0, 2.0**-100, -(2.0**100)]),
    ],
)
def test_products_round_to_nearest_even(dtype, factors, data_format):
    """Every number times a factor: ties, subnormal results, overflow to infinity.

    The product of two 16-bit numbers is exact in float32 (when not subnormal there), so
    the result is one rounding away and leaves no choice.
    """
    values = every_pattern(dtype)
    for factor in factors:
        weight = DTYPES[dtype](factor)
        assert float(weight) == factor
        with np.errstate(all="ignore"):
            exact = values.astype(np.float32) * np.float32(factor)
            want = exact.astype(DTYPES[dtype])
        may_flush = is_subnormal(values) | is_subnormal(exact)
        results = apply_1x1(values, np.full_like(values, weight), data_format)
        for name, got in results.items():
            assert_same_up_to_flushing(got, want, may_flush, f"{name}, times {factor}")


def add_pairs(a, b, data_format):
    """a + b through each op, per channel: two taps, two multipliers, two images."""
    dtype = {np.dtype(t): name for name, t in DTYPES.items()}[a.dtype]
    channels = a.size
    options = {"padding": "VALID", "data_format": data_format, "dtype": dtype}
    ones = np.ones(2 * channels, a.dtype)
    taps = Case(1, (1, 2), channels, 1, (1, 2), **options)
    multipliers = Case(1, (1, 1), channels, 2, (1, 1), **options)
    images = Case(2, (1, 1), channels, 1, (1, 1), **options)
    two_rows, interleaved = np.concatenate([a, b]), np.stack([a, b], axis=-1)

    def result(name, case, x, w, dy):
        x = x.reshape(case.input_shape)
        w = w.reshape(case.filter_shape)
        dy = dy.reshape(case.output_shape)
        return run_ops(case, x, w, dy)[name].ravel()

    half = ones[:channels]
    return {
        "forward": result("forward", taps, two_rows, ones, half),
        "input_gradient": result(
            "input_gradient", multipliers, half, ones, interleaved
        ),
        "filter_gradient": result("filter_gradient", images, ones, half, two_rows),
    }


def check_sums(a, b, data_format):
    """a + b against float32 addition rounded to the type of a and b."""
    with np.errstate(all="ignore"):
        exact = a.astype(np.float32) + b.astype(np.float32)
        want = exact.astype(a.dtype)
    for name, got in add_pairs(a, b, data_format).items():
        assert_same_up_to_flushing(got, want, is_subnormal(exact), name)


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize(("dtype", "digits"), [("float16", 11), ("bfloat16", 8)])
def test_ties_go_to_even(dtype, digits, data_format):
    """Numbers with a unit in the last place of 2, plus 1 or a little more or less."""
    lower = np.arange(2.0**digits, 2.0 ** (digits + 1), 2.0)
    offsets = [1.0, 1 + 2.0 ** (1 - digits), 1 - 2.0**-digits]
    offsets += [-offset for offset in offsets]
    a = np.concatenate([lower] * len(offsets))
    b = np.repeat(offsets, lower.size)
    to_type = DTYPES[dtype]
    assert (a.astype(to_type) == a).all() and (b.astype(to_type) == b).all()
    check_sums(a.astype(to_type), b.astype(to_type), data_format)
    check_sums(-a.astype(to_type), b.astype(to_type), data_format)
    # By hand, so that a wrong rounding in NumPy could not hide one here.
    a, b = np.array([lower[0], lower[1]]), np.array([1.0, 1.0])
    sums = add_pairs(a.astype(to_type), b.astype(to_type), data_format)
    for got in sums.values():
        assert got.astype(np.float64).tolist() == [lower[0], lower[2]]


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums_of_random_patterns(dtype, data_format):
    """Any number plus any other, infinities and NaN among them."""
    rng = np.random.default_rng(0)
    a, b = rng.permutation(every_pattern(dtype)), rng.permutation(every_pattern(dtype))
    if dtype == "bfloat16":
        # A flushed operand may change the last digit of a sum that is not subnormal.
        keep = ~(is_subnormal(a) | is_subnormal(b))
        a, b = a[keep], b[keep]
    check_sums(a, b, data_format)


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_half_overflows_at_65520(data_format):
    """The largest half is 65504; from halfway to the next step on, infinity."""
    a = np.array([65504, 65504, 65504, -65504, -65504, 65504], np.float16)
    b = np.array([15.99, 16.0, 32.0, -15.99, -16.0, -65504], np.float16)
    assert b[0] < 16
    inf = np.inf
    for name, got in add_pairs(a, b, data_format).items():
        assert got.tolist() == [65504, inf, inf, -65504, -inf, 0], name


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_half_may_overflow_on_the_way(data_format):
    """Sums may leave the range of half and come back, since they are float32."""
    options = {"padding": "VALID", "data_format": data_format, "dtype": "float16"}
    case = Case(1, (1, 4), 3, 1, (1, 4), **options)
    x = np.ones(case.input_shape, np.float16)
    w = np.ones(case.filter_shape, np.float16)
    w[0, :, :, 0] *= np.array([60000, 60000, -60000, -59968], np.float16)[:, None]
    got = run_ops(case, x, w, np.ones(case.output_shape, np.float16))["forward"]
    assert (got == 32).all()


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_small_terms_are_not_lost(dtype, data_format):
    """A large term and many below half its last place add up, in float32."""
    case = Case(1, (1, 1), 2, 257, (1, 1), data_format=data_format, dtype=dtype)
    dy = np.full(case.output_shape, ROUNDOFF[dtype], DTYPES[dtype])
    dy.reshape(-1, 257)[:, 0] = 1
    x = np.ones(case.input_shape, DTYPES[dtype])
    w = np.ones(case.filter_shape, DTYPES[dtype])
    got = run_ops(case, x, w, dy)["input_gradient"]
    assert (got.astype(np.float64) == 1 + 256 * ROUNDOFF[dtype]).all()
