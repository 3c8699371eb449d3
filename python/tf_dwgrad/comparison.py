"""How this package's results and times are compared with TensorFlow's.

The demo and the benchmark both check before they time, and time in the same way.
"""

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf_dwgrad.layer_table import Layer

# The relative error of rounding to float32: half the distance from 1 to the next.
ROUNDOFF = 2.0**-24

_FEWEST_CALLS, _MOST_CALLS = 9, 200


def difference_over_bound(
    layer: Layer, ours: tf.Tensor, theirs: tf.Tensor, products: tf.Tensor
) -> float:
    """The largest difference of two results relative to what rounding explains.

    A sum of n products with roundoff u, in any order, is off by less than about n * u
    times the sum of the absolute ``products``; n + 2 covers the terms of higher order
    and the rounding of the result. Both sides round.

    Args:
        layer: gives the number of products.
        ours: a float32 input gradient.
        theirs: the one to compare with, of the same shape.
        products: the input gradient of the absolute values.

    Returns:
        At most 1 if rounding explains every difference.
    """
    bound = 2 * (layer.terms + 2) * ROUNDOFF * products.numpy().astype(np.float64)
    difference = np.abs(ours.numpy().astype(np.float64) - theirs.numpy())
    # No products: both are exactly zero.
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.where(difference == 0, 0, difference / bound)))


def median_times(
    functions: Sequence[Callable[[], tf.Tensor]], seconds: float
) -> list[float]:
    """The median seconds of each function, called in turn for about ``seconds``.

    Whatever else slows the machine down meets all of them alike.
    """
    # Let the allocator settle: the first calls touch fresh pages.
    for _ in range(3):
        for function in functions:
            function()
    times: list[list[float]] = [[] for _ in functions]
    end = time.perf_counter() + seconds
    while len(times[0]) < _FEWEST_CALLS or (
        time.perf_counter() < end and len(times[0]) < _MOST_CALLS
    ):
        for function, record in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            record.append(time.perf_counter() - start)
    return [statistics.median(record) for record in times]
