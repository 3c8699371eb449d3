"""The right results in float64, written from the definition with PyTorch.

Tap by tap, on whole images; nothing is shared with the kernels. Tensors are in the
shape's layout.
"""

from collections.abc import Iterator

import torch
from problems import Shape


def _positions(shape: Shape, axis: int, tap: int) -> tuple[slice, slice]:
    """The output's and the input's positions that a tap of the filter connects."""
    size, output = shape.size[axis], shape.output_size[axis]
    stride = shape.strides[axis]
    first = tap * shape.dilations[axis] - shape.pads[axis][0]
    # 0 <= first + i * stride < size
    low = max(0, -(first // stride))
    high = min(output, -((first - size) // stride))
    if low >= high:
        return slice(0, 0), slice(0, 0)
    start = first + low * stride
    return slice(low, high), slice(start, first + (high - 1) * stride + 1, stride)


def _taps(shape: Shape) -> Iterator[tuple]:
    for r in range(shape.kernel[0]):
        out_rows, in_rows = _positions(shape, 0, r)
        for s in range(shape.kernel[1]):
            out_cols, in_cols = _positions(shape, 1, s)
            everything = slice(None)
            yield (
                (r, s),
                (everything, out_rows, out_cols),
                (everything, in_rows, in_cols),
            )


def _to_nhwc(tensor: torch.Tensor, shape: Shape) -> torch.Tensor:
    tensor = tensor.double()
    return tensor if shape.layout == "NHWC" else tensor.permute(0, 2, 3, 1)


def _to_layout(tensor: torch.Tensor, shape: Shape) -> torch.Tensor:
    return tensor if shape.layout == "NHWC" else tensor.permute(0, 3, 1, 2)


def _by_channel(tensor: torch.Tensor, shape: Shape) -> torch.Tensor:
    return tensor.unflatten(-1, (shape.channels, shape.multiplier))


def expected(
    op: str, shape: Shape, first: torch.Tensor, second: torch.Tensor
) -> torch.Tensor:
    """The result of an op for the launcher's two operands."""

    def zeros(*sizes: int) -> torch.Tensor:
        return torch.zeros(sizes, dtype=torch.float64, device=first.device)

    image = (shape.batch, *shape.size, shape.channels)
    output = (shape.batch, *shape.output_size, shape.channels, shape.multiplier)
    if op == "forward":
        x, w, y = _to_nhwc(first, shape), second.double(), zeros(*output)
        for tap, outside, inside in _taps(shape):
            y[outside] += x[inside].unsqueeze(-1) * w[tap]
        return _to_layout(y.flatten(-2), shape)
    dy = _by_channel(_to_nhwc(second, shape), shape)
    if op == "input_gradient":
        w, dx = first.double(), zeros(*image)
        for tap, outside, inside in _taps(shape):
            dx[inside] += (dy[outside] * w[tap]).sum(-1)
        return _to_layout(dx, shape)
    x, dw = _to_nhwc(first, shape), zeros(*shape.filter_shape)
    for tap, outside, inside in _taps(shape):
        dw[tap] = (x[inside].unsqueeze(-1) * dy[outside]).sum((0, 1, 2))
    return dw
