"""What this machine can do at most: copying memory, and multiplying and adding.

Both are measured in the run whose results are held against them, by a small library
beside the op library.
"""

import bisect
import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tf_dwgrad._library import op_library_path
from tf_dwgrad.bench.cases import DTYPES, Case

LIBRARY = "_tf_dwgrad_machine.so"

# Source and destination together: from what fits into the first cache to what fits
# into none.
COPY_SIZES = [2**exponent for exponent in range(16, 29)]

# Other programs interfere; the best try is the one they left alone.
_TRIES, _SECONDS = 8, 0.01


@dataclass(frozen=True)
class Bound:
    """The least seconds that a case can take, and what it is that takes them."""

    seconds: float
    by: str


@dataclass(frozen=True)
class Machine:
    """The measured limits, for a number of threads.

    Attributes:
        copy: bytes per second, read and written ones both counted, by how many bytes
            source and destination have together.
        multiply_add: floating-point operations per second, by the bytes of an element.
        vectors: what that was measured with.
    """

    copy: dict[int, float]
    multiply_add: dict[int, float]
    vectors: str

    def copy_bandwidth(self, size: float) -> float:
        """Bytes per second for a copy of this many bytes, between two measured ones."""
        sizes = list(self.copy)
        at = bisect.bisect_left(sizes, size)
        if at == 0 or at == len(sizes):
            return self.copy[sizes[max(0, at - 1)]]
        low, high = sizes[at - 1], sizes[at]
        share = math.log(size / low) / math.log(high / low)
        return self.copy[low] ** (1 - share) * self.copy[high] ** share

    def flop_rate(self, dtype: str) -> float:
        """Floating-point operations per second; 16-bit types compute in float32."""
        return self.multiply_add[max(4, DTYPES[dtype])]

    def flop_seconds(self, case: Case) -> float:
        """The time to compute what the case does, without moving it."""
        return case.flop / self.flop_rate(case.dtype)

    def bound(self, case: Case) -> Bound:
        """The time to move or to compute what the case does, whichever is longer."""
        copy = case.bytes / self.copy_bandwidth(case.bytes)
        multiply_add = self.flop_seconds(case)
        if copy >= multiply_add:
            return Bound(copy, "copy")
        return Bound(multiply_add, "FMA")


def machine_library() -> ctypes.CDLL | None:
    """The library that measures, if it is there; its header says what it offers."""
    path = Path(op_library_path()).with_name(LIBRARY)
    try:
        library = ctypes.CDLL(str(path))
    except OSError:
        return None
    for name, size in (
        ("tf_dwgrad_copy_bandwidth", ctypes.c_int64),
        ("tf_dwgrad_multiply_add_peak", ctypes.c_int),
    ):
        function = getattr(library, name)
        function.argtypes = [size, ctypes.c_int, ctypes.c_double]
        function.restype = ctypes.c_double
    library.tf_dwgrad_move.argtypes = [ctypes.c_void_p, ctypes.c_int64] * 2
    library.tf_dwgrad_move.argtypes += [ctypes.c_int, ctypes.c_int]
    library.tf_dwgrad_move.restype = None
    library.tf_dwgrad_widest_vectors.restype = ctypes.c_char_p
    return library


def measure_machine(threads: int) -> Machine | None:
    """Measures for this many threads, in a few seconds.

    Returns:
        The limits, or None if the library for it is not there.
    """
    library = machine_library()
    if library is None:
        return None

    def keep_best(function: Callable[[int, int, float], float], rates: dict) -> None:
        for size in rates:
            rates[size] = max(rates[size], function(size, threads, _SECONDS))

    copy = dict.fromkeys(COPY_SIZES, 0.0)
    multiply_add = {4: 0.0, 8: 0.0}
    # A size's tries lie apart: interference can outlast several.
    for _ in range(_TRIES):
        keep_best(library.tf_dwgrad_copy_bandwidth, copy)
        keep_best(library.tf_dwgrad_multiply_add_peak, multiply_add)
    # What is copied fast is not copied slower where there is less of it.
    for smaller, larger in zip(COPY_SIZES[-2::-1], COPY_SIZES[:0:-1], strict=True):
        copy[smaller] = max(copy[smaller], copy[larger])
    return Machine(copy, multiply_add, library.tf_dwgrad_widest_vectors().decode())
