"""Holds every variant of every kernel against the reference.

Small integers must come out exactly, random numbers within what rounding explains.
Results start as NaN and lie between guards, so that an element that is not written, or
one that is written beyond the end, shows; each launch is done twice and must give the
same bits.
"""

from collections import Counter
from collections.abc import Iterable

import torch
from expected import expected
from launchers import BEST, DTYPES, OPS, Launchers
from problems import Shape

TORCH = {
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
# Half the distance from 1 to the next number.
ROUNDOFF = {
    "half": 2.0**-11,
    "bfloat16": 2.0**-8,
    "float32": 2.0**-24,
    "float64": 2.0**-53,
}
_HALF_OF_SMALLEST_HALF = 2.0**-25

# Elements before and after a result; an odd place in memory tries unaligned operands.
_GUARD, _GUARD_VALUE = 64, 77.0


class CheckFailed(Exception):
    """A result is wrong; says which and by how much."""


def integers(shape: list[int], dtype: str, largest: int, device: str) -> torch.Tensor:
    """Random integers of at most that size."""
    values = torch.randint(-largest, largest + 1, shape, device=device)
    return values.to(TORCH[dtype])


def normals(shape: list[int], dtype: str, device: str) -> torch.Tensor:
    """Normally distributed numbers."""
    wide = torch.float64 if dtype == "float64" else torch.float32
    return torch.randn(shape, dtype=wide, device=device).to(TORCH[dtype])


def terms(op: str, shape: Shape) -> int:
    """At most so many products make up an element of the result."""
    taps = shape.kernel[0] * shape.kernel[1]
    if op == "forward":
        return taps
    if op == "input_gradient":
        return taps * shape.multiplier
    return shape.batch * shape.output_size[0] * shape.output_size[1]


def current_stream(device: torch.device) -> int:
    """PyTorch's stream, as a cudaStream_t."""
    return torch.cuda.current_stream().cuda_stream if device.type == "cuda" else 0


def run(
    launchers: Launchers,
    op: str,
    shape: Shape,
    dtype: str,
    variant: int,
    operands: tuple[torch.Tensor, torch.Tensor],
    misalign: int = 0,
) -> torch.Tensor:
    """A variant's result, with what it must not touch looked at.

    Args:
        launchers: the library.
        op: which.
        shape: sizes and attributes.
        dtype: the elements' type.
        variant: which, or ``BEST``.
        operands: on the device.
        misalign: by how many elements the result lies off a multiple of 128 bytes.

    Raises:
        CheckFailed: if anything was written beside the result or the workspace.
    """
    first, second = operands
    problem = shape.problem()
    result_shape = shape.operand_shapes(op)[2]
    elements = 1
    for size in result_shape:
        elements *= size
    space = torch.full(
        (elements + 2 * _GUARD + misalign,),
        _GUARD_VALUE,
        dtype=first.dtype,
        device=first.device,
    )
    start = _GUARD + misalign
    result = space[start : start + elements]
    result.fill_(torch.nan)
    size = launchers.workspace_bytes(op, problem, dtype, variant)
    # NaN in every type.
    workspace = torch.full((size + 256,), 0xFF, dtype=torch.uint8, device=first.device)
    launchers.launch(
        op,
        problem,
        dtype,
        variant,
        (first.data_ptr(), second.data_ptr(), result.data_ptr()),
        (workspace.data_ptr(), size),
        current_stream(first.device),
    )
    guards = torch.cat((space[:start], space[start + elements :]))
    if not (guards == _GUARD_VALUE).all() or not (workspace[size:] == 0xFF).all():
        raise CheckFailed(f"{op} writes beyond its result or workspace: {shape}")
    return result.view(result_shape)


def check_one(
    launchers: Launchers,
    op: str,
    shape: Shape,
    dtype: str,
    variant: int,
    device: str,
    misalign: int = 0,
) -> float:
    """Checks a variant on a shape.

    Returns:
        The largest error of random data relative to its bound, at most 1.

    Raises:
        CheckFailed: if a result is wrong.
    """
    count = terms(op, shape)
    name = launchers.variants(op)[variant] if variant != BEST else "best"
    context = f"{op}, variant {name}, {dtype}, {shape}"
    unit = ROUNDOFF["float64" if dtype == "float64" else "float32"]
    shapes = shape.operand_shapes(op)[:2]

    largest = int(min((1 / unit / max(count, 1)) ** 0.5, 9))
    if largest >= 1:
        operands = tuple(integers(s, dtype, largest, device) for s in shapes)
        want = expected(op, shape, *operands)
        got = run(launchers, op, shape, dtype, variant, operands, misalign)
        wrong = got != want.to(TORCH[dtype])
        if wrong.any():
            raise CheckFailed(
                f"{context}: {int(wrong.sum())} of {wrong.numel()} elements are not "
                f"exact, the first at {wrong.nonzero()[0].tolist()}"
            )

    operands = tuple(normals(s, dtype, device) for s in shapes)
    got = run(launchers, op, shape, dtype, variant, operands, misalign)
    again = run(launchers, op, shape, dtype, variant, operands, misalign)
    # As bytes, for which NaN is NaN.
    if not torch.equal(_bytes(got), _bytes(again)):
        raise CheckFailed(f"{context}: a second launch gives other bits")
    want = expected(op, shape, *operands)
    products = expected(op, shape, *(operand.abs() for operand in operands))
    # A sum of n products in any order is off by less than about n * unit times the sum
    # of their absolute values.
    bound = ROUNDOFF[dtype] * want.abs() + (count + 2) * unit * products
    if dtype == "half":
        bound += _HALF_OF_SMALLEST_HALF
    error = (got.double() - want).abs()
    # Written so that a NaN is an error; where nothing is added both are 0.
    if not (error <= bound).all():
        at = (~(error <= bound)).nonzero()[0].tolist()
        raise CheckFailed(f"{context}: the error exceeds rounding, first at {at}")
    return float((error / bound).nan_to_num(0).max()) if error.numel() else 0.0


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def check_all(
    launchers: Launchers,
    shapes: Iterable[Shape],
    device: str,
    dtypes: Iterable[str] = DTYPES,
) -> Counter:
    """Checks every variant that applies to any of the shapes, in every type.

    Returns:
        How many times each (op, variant, type) was checked.

    Raises:
        CheckFailed: at the first wrong result.
    """
    checked: Counter = Counter()
    for number, shape in enumerate(shapes):
        for op in OPS:
            for dtype in dtypes:
                for variant, name in enumerate(launchers.variants(op)):
                    if launchers.applies(op, shape.problem(), dtype, variant):
                        check_one(launchers, op, shape, dtype, variant, device)
                        checked[op, name, dtype] += 1
                # The choice, where operands need not be aligned.
                check_one(launchers, op, shape, dtype, BEST, device, number % 3)
                checked[op, "best", dtype] += 1
    return checked
