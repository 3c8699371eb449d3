"""Times the kernels beside PyTorch's and beside copying as many bytes.

Every call is timed by CUDA events, in turn with the others', with the second-level
cache filled with something else before it, as between the layers of a model.
"""

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from check import TORCH, current_stream, normals
from launchers import BEST, Launchers, LaunchFailed
from problems import Shape, shape_of
from tf_dwgrad.bench.cases import Case

# More than any second-level cache of today, and writing it takes longer than
# putting a call of PyTorch's on the stream.
_FLUSH_BYTES = 512 << 20
_WARM_UP = 3


def time_in_turn(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The median seconds of each call."""
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    for _ in range(_WARM_UP):
        for call in calls.values():
            call()
    events: dict[str, list] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            # It keeps the GPU busy until the call is on the stream.
            flush.zero_()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            events[name].append((begin, end))
    torch.cuda.synchronize()
    return {
        name: statistics.median(begin.elapsed_time(end) for begin, end in pairs) / 1e3
        for name, pairs in events.items()
    }


def symmetric_pads(shape: Shape) -> list[int] | None:
    """PyTorch's padding, the same on both sides, that gives the same output size.

    Where TensorFlow pads otherwise it computes as much, not the same. None if there is
    no such padding.
    """
    pads = []
    for axis in (0, 1):
        stride, wanted = shape.strides[axis], shape.output_size[axis]
        effective = (shape.kernel[axis] - 1) * shape.dilations[axis] + 1
        for pad in range(effective):
            if (shape.size[axis] + 2 * pad - effective) // stride + 1 == wanted:
                pads.append(pad)
                break
        else:
            return None
    return pads


def torch_operands(
    shape: Shape, tensors: dict[str, torch.Tensor], channels_last: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Input, filter and gradient of the output, as PyTorch wants them."""

    def image(tensor: torch.Tensor) -> torch.Tensor:
        nchw = tensor.permute(0, 3, 1, 2) if shape.layout == "NHWC" else tensor
        order = torch.channels_last if channels_last else torch.contiguous_format
        return nchw.contiguous(memory_format=order)

    # [h, w, c, q] to [c * q, 1, h, w]
    filter = tensors["filter"].permute(2, 3, 0, 1).flatten(0, 1).unsqueeze(1)
    order = torch.channels_last if channels_last else torch.contiguous_format
    return (
        image(tensors["input"]),
        filter.contiguous(memory_format=order),
        image(tensors["out_backprop"]),
    )


def torch_calls(
    op: str, shape: Shape, tensors: dict[str, torch.Tensor]
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """PyTorch's ways to compute an op, by name: cuDNN's and its own, in two layouts."""
    pads = symmetric_pads(shape)
    if pads is None:
        return
    strides, dilations = list(shape.strides), list(shape.dilations)
    for channels_last in (True, False):
        x, w, dy = torch_operands(shape, tensors, channels_last)

        def compute(x=x, w=w, dy=dy) -> Any:
            if op == "forward":
                return torch.nn.functional.conv2d(
                    x, w, None, strides, pads, dilations, shape.channels
                )
            mask = [op == "input_gradient", op == "filter_gradient", False]
            return torch.ops.aten.convolution_backward(
                dy,
                x,
                w,
                None,
                strides,
                pads,
                dilations,
                False,
                [0, 0],
                shape.channels,
                mask,
            )

        for cudnn in (True, False):

            def call(compute=compute, cudnn=cudnn) -> Any:
                with torch.backends.cudnn.flags(
                    enabled=cudnn, benchmark=True, allow_tf32=False
                ):
                    return compute()

            where = "cudnn" if cudnn else "native"
            yield f"{where}_{'nhwc' if channels_last else 'nchw'}", call


def our_call(
    launchers: Launchers,
    op: str,
    shape: Shape,
    dtype: str,
    variant: int,
    tensors: dict[str, torch.Tensor],
) -> Callable[[], None]:
    """A launch of our kernel, with the result and the workspace at hand."""
    problem = shape.problem()
    names = {
        "forward": ("input", "filter"),
        "input_gradient": ("filter", "out_backprop"),
        "filter_gradient": ("input", "out_backprop"),
    }[op]
    result = torch.empty(
        shape.operand_shapes(op)[2], dtype=TORCH[dtype], device=tensors["input"].device
    )
    size = launchers.workspace_bytes(op, problem, dtype, variant)
    workspace = torch.empty(size, dtype=torch.uint8, device=result.device)
    operands = (*(tensors[name].data_ptr() for name in names), result.data_ptr())

    def call(keep=(result, workspace)) -> None:
        launchers.launch(
            op,
            problem,
            dtype,
            variant,
            operands,
            (workspace.data_ptr(), size),
            current_stream(result.device),
        )

    return call


def copy_call(size: int, device: str) -> Callable[[], Any]:
    """A copy on the device that moves ``size`` bytes, read and written together."""
    source = torch.zeros(max(1, size // 2), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def multiply_add_rates(launchers: Launchers) -> dict[str, float]:
    """The floating-point operations per second of registers alone, by type."""
    blocks = 16 * torch.cuda.get_device_properties(0).multi_processor_count
    rates = {}
    for dtype in ("float32", "float64"):
        result = torch.empty(256 * blocks, dtype=TORCH[dtype], device="cuda")

        def call(dtype=dtype, result=result) -> int:
            return launchers.multiply_add(dtype, blocks, 1000, result.data_ptr())

        rates[dtype] = call() / time_in_turn({"": call}, 10)[""]
    return rates


def measure(
    launchers: Launchers,
    op: str,
    case: Case,
    repeats: int,
    variants: bool,
    device: str = "cuda",
) -> dict[str, Any]:
    """Everything about a case, flat, with times in seconds.

    Args:
        launchers: the library.
        op: which.
        case: the layer, its batch, type and layout.
        repeats: calls per median.
        variants: time not only the variant that is chosen.
        device: where.
    """
    shape, dtype = shape_of(case), case.dtype
    tensors = {
        name: normals(sizes, dtype, device)
        for name, sizes in (
            ("input", shape.input_shape),
            ("filter", shape.filter_shape),
            ("out_backprop", shape.output_shape),
        )
    }
    calls: dict[str, Callable[[], Any]] = {
        "ours": our_call(launchers, op, shape, dtype, BEST, tensors),
        "copy": copy_call(case.bytes, device),
    }
    unavailable = {}
    for name, call in torch_calls(op, shape, tensors):
        try:
            call()
            calls[name] = call
        except RuntimeError as error:
            unavailable[name] = str(error).splitlines()[0]
    if variants:
        for number, name in enumerate(launchers.variants(op)):
            if launchers.applies(op, shape.problem(), dtype, number):
                call = our_call(launchers, op, shape, dtype, number, tensors)
                try:
                    call()
                    calls[f"variant {name}"] = call
                except LaunchFailed as error:
                    unavailable[f"variant {name}"] = str(error)
    return {
        "model": case.layer.model,
        "layer": case.layer.name,
        "kind": case.kind,
        "op": op,
        "dtype": dtype,
        "layout": case.layout,
        "batch": case.batch,
        "size": list(case.layer.size),
        "channels": case.layer.channels,
        "multiplier": case.layer.multiplier,
        "kernel": list(case.layer.kernel),
        "stride": case.layer.strides[0],
        "dilation": case.layer.dilations[0],
        "bytes": case.bytes,
        "flop": case.flop,
        "chosen": launchers.chosen(op, shape.problem(), dtype),
        "seconds": time_in_turn(calls, repeats),
        "unavailable": unavailable,
    }
