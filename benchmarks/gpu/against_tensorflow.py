"""The input gradient on the GPU against TensorFlow's own op, where there is a GPU.

Each result is checked, then both sides are timed in turn, several calls at a time with
a wait for the GPU at their end::

    python benchmarks/gpu/against_tensorflow.py --output benchmarks/results/<device>

Needs tf_dwgrad installed with GPU kernels, and a TensorFlow that sees the GPU.
"""

import argparse
import datetime
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import tensorflow as tf
from tf_dwgrad._library import cuda_version
from tf_dwgrad.bench import plots, report
from tf_dwgrad.bench.cases import DTYPES, KINDS, LAYOUTS, Case, choose
from tf_dwgrad.bench.operations import CheckFailed, InputGradient
from tf_dwgrad.bench.peers import Builtin, Comparison, Unavailable
from tf_dwgrad.comparison import Times, time_in_turn

# As many calls as hide what it costs to wait for the GPU.
CALLS = 10


class OnDevice(InputGradient):
    """The input gradient, several times over, until the device has done it."""

    def __init__(self, case: Case, calls: int = CALLS):
        """Draws the operands, on the device that is current."""
        super().__init__(case)
        self._calls = calls

    def ours(self) -> tf.Tensor:
        """This package's result."""
        return self._repeat(super().ours)

    def builtin(self) -> tf.Tensor:
        """What TensorFlow's op of the same name computes."""
        return self._repeat(super().builtin)

    def composite(self) -> tf.Tensor:
        """TensorFlow's input gradient through tf.nn.depthwise_conv2d."""
        return self._repeat(super().composite)

    def _repeat(self, call: Callable[[], tf.Tensor]) -> tf.Tensor:
        for _ in range(self._calls):
            result = call()
        tf.test.experimental.sync_devices()
        return result


def _per_call(times: Times, calls: int) -> Times:
    return replace(
        times,
        median=times.median / calls,
        lower=times.lower / calls,
        upper=times.upper / calls,
    )


def measure(case: Case, seconds: float, calls: int = CALLS) -> report.Result:
    """Checks and times a case on the current device.

    Raises:
        CheckFailed: if our result is wrong.
    """
    operation, peer = OnDevice(case, calls), Builtin()
    error = operation.check()
    comparisons, missing = {}, {}
    try:
        both = peer.compare(operation, seconds)
        comparison = Comparison(
            _per_call(both.ours, calls), _per_call(both.theirs, calls), both.note
        )
        comparisons[peer.name] = comparison
        ours = comparison.ours
    except Unavailable as reason:
        missing[peer.name] = str(reason)
        (times,) = time_in_turn([operation.ours], seconds)
        ours = _per_call(times, calls)
    return report.Result(case, error, ours, comparisons, missing, None)


def main(arguments: list[str] | None = None) -> int:
    """Measures what the arguments ask for.

    Returns:
        The exit status: 0, or 1 after a sentence about what went wrong.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", help="only this model's layers")
    parser.add_argument("--only", action="append", choices=KINDS)
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument("--layout", action="append", choices=LAYOUTS)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--max-elements", type=float, default=5e7)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--output", type=Path, help="a folder for CSV, JSON and plots")
    parsed = parser.parse_args(arguments)

    if not cuda_version():
        print("tf_dwgrad was built without CUDA: see 'python -m tf_dwgrad info'")
        return 1
    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        print("TensorFlow sees no GPU")
        return 1
    # Nothing may quietly run on the CPU.
    tf.config.set_soft_device_placement(False)
    details = tf.config.experimental.get_device_details(devices[0])
    title = f"{details.get('device_name', 'GPU')}, TensorFlow {tf.__version__}"
    choice = choose(
        parsed.model or (),
        parsed.only or (),
        parsed.dtype or tuple(DTYPES),
        parsed.layout or LAYOUTS,
        parsed.batch,
        parsed.max_elements,
    )
    peer = Builtin()
    table = report.Table([peer])
    print(title, table.header(), sep="\n")
    results = []
    try:
        with tf.device("/GPU:0"):
            for case in choice.cases:
                results.append(measure(case, parsed.seconds))
                print(table.line(results[-1]), flush=True)
    except CheckFailed as error:
        print(f"failed: {error}")
        return 1
    for line in report.summary(results, choice, [peer]):
        print(line)
    if parsed.output:
        parsed.output.mkdir(parents=True, exist_ok=True)
        facts = {
            "device": {name: str(value) for name, value in details.items()},
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(),
            "tensorflow": tf.__version__,
        }
        report.write_csv(parsed.output / "tensorflow.csv", results, title)
        report.write_json(parsed.output / "tensorflow.json", results, None, facts)
        if plots.available():
            plots.save(parsed.output, results, [peer], None, title)
    return 0


if __name__ == "__main__":
    sys.exit(main())
