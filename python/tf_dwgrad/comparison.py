"""How this package's results and times are compared with TensorFlow's.

The demo and the benchmark both check before they time, and time in the same way.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

# The relative error of rounding to float32: half the distance from 1 to the next.
ROUNDOFF = 2.0**-24

# The same for every type of the ops, and for the type that they add up in.
_ROUNDOFFS = {
    tf.float16: 2.0**-11,
    tf.bfloat16: 2.0**-8,
    tf.float32: ROUNDOFF,
    tf.float64: 2.0**-53,
}
_HALF_OF_SMALLEST_HALF = 2.0**-25

_WARM_UP_CALLS, _FEWEST_CALLS, _MOST_CALLS = 3, 9, 200
# Functions so slow that this does not suffice for the fewest calls make fewer.
_MOST_SECONDS = 5.0

# Alone on a machine, the quartiles differ by a few percent.
_STEADY_SPREAD = 1.5


def difference_over_bound(
    terms: int, ours: tf.Tensor, theirs: tf.Tensor, products: tf.Tensor
) -> float:
    """The largest difference of two results relative to what rounding explains.

    A sum of n products with roundoff u, in any order, is off by less than about n * u
    times the sum of the absolute ``products``; n + 2 covers the terms of higher order
    and the rounding of the result. Both sides round. A 16-bit result is a float32 sum
    that is rounded once more.

    Args:
        terms: at most so many products make up an element.
        ours: a result of this package.
        theirs: the one to compare with, of the same shape: of the same type, or for
            16 bits in float32.
        products: the result for the absolute values of the operands.

    Returns:
        At most 1 if rounding explains every difference.
    """
    sum_roundoff = min(_ROUNDOFFS[ours.dtype], ROUNDOFF)
    want = theirs.numpy().astype(np.float64)
    bound = 2 * (terms + 2) * sum_roundoff * products.numpy().astype(np.float64)
    if ours.dtype in (tf.float16, tf.bfloat16):
        bound += _ROUNDOFFS[ours.dtype] * (np.abs(want) + bound)
    if ours.dtype == tf.float16:
        # Its subnormal numbers have a fixed spacing.
        bound += _HALF_OF_SMALLEST_HALF
    difference = np.abs(ours.numpy().astype(np.float64) - want)
    # No products: both are exactly zero.
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.where(difference == 0, 0, difference / bound)))


@dataclass(frozen=True)
class Times:
    """Seconds per call: the median, the quartiles around it, and of how many calls."""

    median: float
    lower: float
    upper: float
    calls: int

    @property
    def unsteady(self) -> bool:
        """Whether the quartiles are so far apart that something interfered."""
        return self.upper > _STEADY_SPREAD * self.lower

    @classmethod
    def of(cls, record: Sequence[float]) -> "Times":
        """Summarises the seconds that each call took."""
        if len(record) == 1:
            return cls(record[0], record[0], record[0], 1)
        lower, median, upper = statistics.quantiles(record, n=4, method="inclusive")
        return cls(median, lower, upper, len(record))


def time_in_turn(
    functions: Sequence[Callable[[], Any]],
    seconds: float,
    calls_per_turn: int = 1,
    pause: float = 0.0,
) -> list[Times]:
    """Calls the functions in turn for about ``seconds`` and returns their times.

    Whatever else slows the machine down meets all of them alike.

    Args:
        functions: what to call.
        seconds: for all of them together.
        calls_per_turn: how often a function is called before it is the next one's turn.
        pause: if not 0, a turn begins with so many seconds of sleep and an untimed
            call. For functions whose threads go on spinning after a call, which would
            slow down the next function's.

    Returns:
        The times of each function.
    """
    start = time.perf_counter()
    # Let the allocator settle: the first calls touch fresh pages.
    for _ in range(_WARM_UP_CALLS):
        for function in functions:
            function()
        if time.perf_counter() - start > _MOST_SECONDS / _FEWEST_CALLS:
            break
    times: list[list[float]] = [[] for _ in functions]
    start = time.perf_counter()
    while True:
        calls, elapsed = len(times[0]), time.perf_counter() - start
        limit = _MOST_SECONDS if calls < _FEWEST_CALLS else seconds
        if calls and (elapsed > limit or calls >= _MOST_CALLS):
            return [Times.of(record) for record in times]
        for function, record in zip(functions, times, strict=True):
            if pause:
                time.sleep(pause)
                function()
            for _ in range(calls_per_turn):
                begin = time.perf_counter()
                function()
                record.append(time.perf_counter() - begin)


def median_times(functions: Sequence[Callable[[], Any]], seconds: float) -> list[float]:
    """The median seconds of each function, called in turn for about ``seconds``."""
    return [times.median for times in time_in_turn(functions, seconds)]
