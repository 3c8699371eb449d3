"""Whom a case is compared with.

Each comparison times both sides in one process, in turn, and the ratio is of those two
times, so that a machine whose speed drifts slows both down.
"""

import dataclasses
import functools
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tf_dwgrad.bench.cases import DTYPES, Case
from tf_dwgrad.bench.machine import machine_library
from tf_dwgrad.bench.operations import Operation
from tf_dwgrad.comparison import Times, time_in_turn

ONEDNN = "TF_ENABLE_ONEDNN_OPTS"


class Unavailable(Exception):
    """Why a peer cannot do a case, or cannot be used at all."""


@dataclass(frozen=True)
class Comparison:
    """The times of both sides, and how the peer's came about if that needs saying."""

    ours: Times
    theirs: Times
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times faster this package is."""
        return self.theirs.median / self.ours.median

    def to_json(self) -> dict[str, Any]:
        """The inverse of :meth:`from_json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Comparison":
        """The inverse of :meth:`to_json`."""
        return cls(Times(**data["ours"]), Times(**data["theirs"]), data["note"])


def _with_fastest(
    ours: Times, theirs: Iterable[Times], notes: Iterable[str]
) -> Comparison:
    """With the peer's fastest way, which a note names."""
    best, note = min(zip(theirs, notes, strict=True), key=lambda pair: pair[0].median)
    return Comparison(ours, best, note)


class Peer(Protocol):
    """Something to compare with.

    Attributes:
        name: a word, for columns.
        description: what it is, for the reader.
    """

    name: str
    description: str

    def compare(
        self, operation: Operation, seconds: float, calls_per_turn: int = 1
    ) -> Comparison:
        """Times both sides for about so many seconds, so many calls at a time.

        Raises:
            Unavailable: if the peer cannot do it.
        """

    def close(self) -> None:
        """Frees what the peer holds."""


def _reason(error: Exception) -> str:
    """The first line of a message, without the names of nodes that TensorFlow adds."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"^\{\{.*?\}\} ?| ?\[Op:.*$", "", line)


class Builtin:
    """TensorFlow's op of the same name, as this process has it."""

    name = "builtin"

    def __init__(self):
        """Looks up what this process was started with."""
        onednn = "off" if os.environ.get(ONEDNN) == "0" else "as by default"
        self.description = f"TensorFlow {tf.__version__}'s own op, oneDNN {onednn}"

    def compare(
        self, operation: Operation, seconds: float, calls_per_turn: int = 1
    ) -> Comparison:
        """See :class:`Peer`."""
        dilated = operation.case.kind == "dilated"
        note = "wrong: ignores dilations" if dilated else ""
        call = operation.builtin
        try:
            call()
        except (tf.errors.OpError, ValueError) as error:
            # Without SAME padding the shapes of the gradient that it takes for the
            # dilated one do not fit.
            if not dilated:
                raise Unavailable(_reason(error)) from error
            return Composite().compare(operation, seconds, calls_per_turn)
        times = time_in_turn([operation.ours, call], seconds, calls_per_turn)
        return Comparison(*times, note)

    def close(self) -> None:
        """See :class:`Peer`."""


class Composite:
    """TensorFlow's gradient of tf.nn.depthwise_conv2d, where there are dilations."""

    name = "composite"
    description = "TensorFlow's gradient of tf.nn.depthwise_conv2d, for dilations"

    def compare(
        self, operation: Operation, seconds: float, calls_per_turn: int = 1
    ) -> Comparison:
        """See :class:`Peer`."""
        if operation.case.kind != "dilated":
            raise Unavailable("without dilations it is the built-in")
        try:
            operation.composite()
        except (tf.errors.OpError, ValueError) as error:
            raise Unavailable(_reason(error)) from error
        both = [operation.ours, operation.composite]
        times = time_in_turn(both, seconds, calls_per_turn)
        return Comparison(*times, "through tf.nn.depthwise_conv2d")

    def close(self) -> None:
        """See :class:`Peer`."""


class Xla:
    """TensorFlow's op of the same name, compiled by XLA."""

    name = "xla"
    description = "TensorFlow's own op under jit_compile=True"

    def compare(
        self, operation: Operation, seconds: float, calls_per_turn: int = 1
    ) -> Comparison:
        """See :class:`Peer`."""
        compiled = tf.function(operation.builtin, jit_compile=True)
        try:
            compiled()
        except (tf.errors.OpError, ValueError) as error:
            raise Unavailable(_reason(error)) from error
        times = time_in_turn([operation.ours, compiled], seconds, calls_per_turn)
        return Comparison(*times)

    def close(self) -> None:
        """See :class:`Peer`."""


class Copy:
    """The least that an op does: a call of TensorFlow, and every byte moved once.

    The operands are read and a new tensor is written in the order of memory, by plain
    threads, in the faster of two ways: through the caches or past them.
    """

    name = "copy"
    description = "reading the operands and writing a result, nothing else"

    def __init__(self, threads: int):
        """Raises Unavailable without the library that measures the machine."""
        self._threads, self._library = threads, machine_library()
        if self._library is None:
            raise Unavailable("the library that measures this machine is not there")

    def calls(self, operation: Operation) -> dict[str, Callable[[], tf.Tensor]]:
        """By the way to write, functions that return a tensor of the result's size."""
        operands = [_memory(tf.bitcast(x, tf.uint8)) for x in operation.operands]
        size = math.prod(operation.result_shape) * DTYPES[operation.case.dtype]

        def call(past_caches: bool) -> tf.Tensor:
            # From TensorFlow's allocator, as the op's result.
            result = tf.raw_ops.Empty(shape=[size], dtype=tf.uint8)
            target = _memory(result)
            for source, written in zip(operands, (target, target[:0]), strict=True):
                self._library.tf_dwgrad_move(
                    source.ctypes.data,
                    source.size,
                    written.ctypes.data,
                    written.size,
                    self._threads,
                    past_caches,
                )
            return result

        return {
            "through the caches": functools.partial(call, False),
            "past the caches": functools.partial(call, True),
        }

    def compare(
        self, operation: Operation, seconds: float, calls_per_turn: int = 1
    ) -> Comparison:
        """See :class:`Peer`."""
        calls = self.calls(operation)
        ours, *theirs = time_in_turn(
            [operation.ours, *calls.values()], seconds, calls_per_turn
        )
        return _with_fastest(ours, theirs, calls)

    def close(self) -> None:
        """See :class:`Peer`."""


def _memory(tensor: tf.Tensor) -> np.ndarray:
    """The elements of a tensor of bytes, not a copy of them."""
    return np.frombuffer(memoryview(tensor), np.uint8)


class Torch:
    """PyTorch, in the faster one of its two layouts, on tensors prepared beforehand."""

    name = "torch"

    # For so long its threads may wait for work without sleeping.
    _PAUSE, _FEWEST_CALLS = 0.02, 5

    def __init__(self, threads: int):
        """Raises Unavailable if PyTorch is not installed."""
        if importlib.util.find_spec("torch") is None:
            raise Unavailable("PyTorch is not installed: 'pip install torch'")
        import torch

        torch.set_num_threads(threads)
        self._torch = torch
        self.description = f"PyTorch {torch.__version__}'s convolution_backward"

    def calls(self, operation: Operation) -> dict[str, Any]:
        """By layout, functions that compute the operation.

        Raises:
            Unavailable: if the padding has no counterpart.
        """
        torch, case = self._torch, operation.case
        layer = case.layer

        def channels_first(tensor: tf.Tensor):
            converted = torch.from_dlpack(tensor)
            return converted.permute(0, 3, 1, 2) if case.layout == "NHWC" else converted

        channels = layer.channels * layer.multiplier
        filter = torch.from_dlpack(operation.filter).permute(2, 3, 0, 1)
        filter = filter.reshape(channels, 1, *layer.kernel).contiguous()
        pads = [_symmetric_pad(case, axis) for axis in (0, 1)]
        geometry = (layer.strides, pads, layer.dilations)

        def call_in(memory_format):
            x, dy = (
                channels_first(tensor).contiguous(memory_format=memory_format)
                for tensor in (operation.input, operation.dy)
            )
            if case.op == "forward":
                return lambda: torch.nn.functional.conv2d(
                    x, filter, None, *geometry, layer.channels
                )
            result = ("input_gradient", "filter_gradient").index(case.op)
            wanted = [result == 0, result == 1, False]
            return lambda: torch.ops.aten.convolution_backward(
                dy, x, filter, None, *geometry, False, [0, 0], layer.channels, wanted
            )[result]

        return {
            "channels last": call_in(torch.channels_last),
            "contiguous": call_in(torch.contiguous_format),
        }

    def compare(
        self, operation: Operation, seconds: float, calls_per_turn: int = 1
    ) -> Comparison:
        """See :class:`Peer`."""
        calls = self.calls(operation)
        try:
            with self._torch.inference_mode():
                ours, *theirs = time_in_turn(
                    [operation.ours, *calls.values()],
                    seconds,
                    max(calls_per_turn, self._FEWEST_CALLS),
                    self._PAUSE,
                )
        except RuntimeError as error:
            raise Unavailable(_reason(error)) from error
        return _with_fastest(ours, theirs, calls)

    def close(self) -> None:
        """See :class:`Peer`."""


def _symmetric_pad(case: Case, axis: int) -> int:
    """The same pad on both sides for PyTorch that gives the case's output size.

    Where TensorFlow pads unequally, that shifts the image by a pixel: the numbers are
    others, the work is the same.

    Raises:
        Unavailable: if no pad gives the size.
    """
    layer = case.layer
    size, stride = layer.size[axis], layer.strides[axis]
    effective = (layer.kernel[axis] - 1) * layer.dilations[axis] + 1
    outputs = layer.output_shape(1)[1 + axis]
    total = max(0, (outputs - 1) * stride + effective - size)
    pad = (total + 1) // 2
    if (size + 2 * pad - effective) // stride + 1 != outputs:
        raise Unavailable("PyTorch has no such padding")
    return pad


class Native:
    """TensorFlow's op of the same name without oneDNN, in a process of its own.

    That is decided when TensorFlow is loaded. The other process times both sides.
    """

    name = "native"
    description = "TensorFlow's own op with oneDNN off, in a process of its own"

    def __init__(self, threads: int):
        """Raises Unavailable if this process has oneDNN off itself."""
        if os.environ.get(ONEDNN) == "0":
            raise Unavailable("oneDNN is off here: it is the built-in")
        self._threads = threads
        self._process: subprocess.Popen | None = None

    def compare(
        self, operation: Operation, seconds: float, calls_per_turn: int = 1
    ) -> Comparison:
        """See :class:`Peer`."""
        answer = self._ask(
            {
                "case": operation.case.to_json(),
                "seconds": seconds,
                "calls_per_turn": calls_per_turn,
            }
        )
        if "unavailable" in answer:
            raise Unavailable(answer["unavailable"])
        return Comparison.from_json(answer)

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """A line to the process, which is started if need be, and one from it."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tf_dwgrad.bench.worker", str(self._threads)],
                env={**os.environ, ONEDNN: "0", "TF_CPP_MIN_LOG_LEVEL": "3"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            # The built-in may end the process on what it does not like.
            status = self._process.wait()
            self._process = None
            raise Unavailable(f"the process ended with status {status}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None
