"""The command's options, and what is done in which order."""

import argparse
import datetime
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import tensorflow as tf

import tf_dwgrad
from tf_dwgrad._library import cpu_isa
from tf_dwgrad.bench import models, plots, report
from tf_dwgrad.bench.cases import (
    DTYPES,
    KINDS,
    LAYOUTS,
    OPS_IN_WORDS,
    Case,
    Choice,
    choose,
)
from tf_dwgrad.bench.machine import LIBRARY, Machine, measure_machine
from tf_dwgrad.bench.operations import CheckFailed, operation_of
from tf_dwgrad.bench.peers import (
    ONEDNN,
    Builtin,
    Comparison,
    Composite,
    Copy,
    Native,
    Peer,
    Torch,
    Unavailable,
    Xla,
)
from tf_dwgrad.bench.progress import Progress
from tf_dwgrad.bench.report import Result
from tf_dwgrad.bench.workloads import MODES
from tf_dwgrad.comparison import time_in_turn
from tf_dwgrad.info import cpu_model
from tf_dwgrad.layer_table import Layer


class BenchFailed(Exception):
    """What went wrong, as a sentence for the user."""


# Whom --peers can name, and how each is made for a number of threads.
_MORE_PEERS: dict[str, Callable[[int], Peer]] = {
    Native.name: Native,
    Xla.name: lambda threads: Xla(),
    Torch.name: Torch,
    Composite.name: lambda threads: Composite(),
    Copy.name: Copy,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    which = parser.add_argument_group("what is measured")
    which.add_argument(
        "--op",
        choices=OPS_IN_WORDS,
        default="input_gradient",
        help="the op (default input_gradient)",
    )
    which.add_argument(
        "--models",
        action="store_true",
        help="training steps of whole models, with and without enable(), rather than "
        "single layers; bfloat16 is Keras's mixed_bfloat16",
    )
    which.add_argument(
        "--mode",
        action="append",
        choices=MODES,
        help="how the models' steps run (repeatable; default all)",
    )
    which.add_argument(
        "--image-size",
        type=_positive(int),
        help="height and width of the models' images (default: each model's own)",
    )
    which.add_argument(
        "--model", action="append", help="only this model's layers (repeatable)"
    )
    which.add_argument(
        "--only", action="append", choices=KINDS, help="only this kind (repeatable)"
    )
    which.add_argument(
        "--dtype",
        action="append",
        choices=DTYPES,
        help="element type (repeatable; default float32, for models also bfloat16)",
    )
    which.add_argument(
        "--layout",
        action="append",
        choices=LAYOUTS,
        help="order of dimensions (repeatable; default NHWC)",
    )
    which.add_argument(
        "--batch",
        type=_positive(int),
        help="images (default 16; with --models each model's own)",
    )
    which.add_argument(
        "--max-elements",
        type=_positive(float),
        default=6e6,
        help="reduce the batch of layers whose dX would have more (default 6e6; half "
        "as many in float64)",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--threads",
        type=_positive(int),
        help="threads of TensorFlow's pool (default: all cores)",
    )
    how.add_argument(
        "--native", action="store_true", help="oneDNN off in all of TensorFlow"
    )
    how.add_argument(
        "--peers",
        nargs="*",
        choices=_MORE_PEERS,
        metavar="PEER",
        help="compare also with TensorFlow without oneDNN (native), under XLA (xla), "
        "with its right gradient where there are dilations (composite), with PyTorch "
        "(torch), and with moving the same bytes (copy); without names, with all that "
        "exist",
    )
    how.add_argument(
        "--seconds",
        type=_positive(float),
        help="time per layer and peer (default 0.3), or per model (default 5)",
    )
    how.add_argument(
        "--calls-per-turn",
        type=_positive(int),
        default=1,
        help="call either side so often before it is the other's turn (default 1: "
        "every call finds the caches as the other side left them, and pays for "
        "writing back what is in them; with 5, most find them as its own kind did)",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--csv", type=Path, help="write a row per layer to this file")
    files.add_argument("--json", type=Path, help="the same and more about the machine")
    files.add_argument(
        "--plots",
        type=Path,
        help="save plots of speed-ups and rooflines here",
    )


def _positive(number: type) -> Callable[[str], Any]:
    """What turns an option's text into a number above 0."""

    def convert(text: str) -> Any:
        value = number(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be above 0, but is {text}")
        return value

    convert.__name__ = number.__name__  # For the message about what is no number.
    return convert


def run(arguments: argparse.Namespace) -> int:
    """Measures, prints and writes what the arguments ask for.

    Returns:
        The exit status: 0, or 1 after one sentence about what went wrong.
    """
    if arguments.native and os.environ.get(ONEDNN) != "0":
        # TensorFlow reads the variable while it is loaded.
        environment = {**os.environ, ONEDNN: "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-m", "tf_dwgrad", *sys.argv[1:]]
        return subprocess.run(command, env=environment, check=False).returncode
    try:
        _run(arguments)
    except (BenchFailed, CheckFailed) as error:
        print(f"tf_dwgrad bench: {error}", file=sys.stderr)
        return 1
    return 0


def _run_models(arguments: argparse.Namespace) -> None:
    try:
        cases = models.choose(
            arguments.model or (),
            arguments.dtype or (),
            arguments.mode or (),
            arguments.batch,
            arguments.image_size,
        )
    except ValueError as error:
        raise BenchFailed(error) from None
    _prepare_files(arguments)
    tf.get_logger().setLevel("ERROR")
    if arguments.threads:
        tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    facts = _facts(arguments.threads or len(os.sched_getaffinity(0)))
    title = _title(facts)
    print(title)
    results = []
    try:
        for result in models.measure_all(cases, arguments.seconds or 5.0):
            results.append(result)
    except KeyboardInterrupt:
        if not results:
            raise
        print(f"interrupted after {len(results)} of {len(cases)} cases")
    if arguments.csv:
        models.write_csv(arguments.csv, results, title)
        print(f"written: {arguments.csv}")
    if arguments.json:
        models.write_json(arguments.json, results, facts)
        print(f"written: {arguments.json}")
    if arguments.plots:
        print(f"written: {models.save_plot(arguments.plots, results, title)}")


def _run(arguments: argparse.Namespace) -> None:
    if arguments.models:
        _run_models(arguments)
        return
    choice = _choice(arguments)
    _prepare_files(arguments)
    # A graph for each case is meant.
    tf.get_logger().setLevel("ERROR")
    if arguments.threads:
        tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    threads = arguments.threads or len(os.sched_getaffinity(0))

    facts = _facts(threads)
    facts["calls_per_turn"] = arguments.calls_per_turn
    title = _title(facts)
    print(title)
    print(f"a call for a single pixel takes {facts['single_pixel_ms']} ms")
    machine = measure_machine(threads)
    print(_limits(machine))
    with ExitStack() as stack:
        peers = _peers(choice, arguments.peers, threads)
        for peer in peers:
            stack.enter_context(closing(peer))
        results = _measure_all(
            choice,
            peers,
            machine,
            arguments.seconds or 0.3,
            arguments.calls_per_turn,
        )
    for line in report.summary(results, choice, peers):
        print(line)

    for path, write in (
        (arguments.csv, lambda path: report.write_csv(path, results, title)),
        (arguments.json, lambda path: report.write_json(path, results, machine, facts)),
    ):
        if path:
            write(path)
            print(f"written: {path}")
    if arguments.plots:
        for path in plots.save(arguments.plots, results, peers, machine, title):
            print(f"written: {path}")


def _choice(arguments: argparse.Namespace) -> Choice:
    try:
        return choose(
            arguments.model or (),
            arguments.only or (),
            arguments.dtype or ("float32",),
            arguments.layout or ("NHWC",),
            arguments.batch or 16,
            arguments.max_elements,
            arguments.op,
        )
    except ValueError as error:
        raise BenchFailed(error) from None


def _prepare_files(arguments: argparse.Namespace) -> None:
    """Finds out before the measuring what would prevent the writing."""
    if arguments.plots and not plots.available():
        raise BenchFailed(
            f"the plots need matplotlib: run '{sys.executable} -m pip install "
            '"tf_dwgrad[bench]"\''
        )
    files = [path.parent for path in (arguments.csv, arguments.json) if path]
    for folder in [*files, *([arguments.plots] if arguments.plots else [])]:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BenchFailed(
                f"cannot make the folder {folder}: {error.strerror}"
            ) from None


def _facts(threads: int) -> dict[str, Any]:
    """What a reader of the figures has to know about how they came about."""
    versions = {"tf_dwgrad": tf_dwgrad.__version__, "tensorflow": tf.__version__}
    for package in ("keras", "numpy", "torch"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "minutes"),
        "cpu": cpu_model(),
        "logical_cores": os.cpu_count(),
        "threads": threads,
        "kernels": cpu_isa(),
        "onednn": "off" if os.environ.get(ONEDNN) == "0" else "default",
        "versions": versions,
        "single_pixel_ms": _single_pixel_ms(),
    }


def _single_pixel_ms() -> float:
    """What a call costs apart from the work, which small layers do not get below."""
    pixel = Layer("", "", (1, 1), 1, 1, (1, 1), (1, 1), (1, 1), "VALID")
    operation = operation_of(Case(pixel, 1, "float32", "NHWC"))
    (times,) = time_in_turn([operation.ours], 0.1)
    return round(times.median * 1e3, 4)


def _title(facts: dict[str, Any]) -> str:
    versions = facts["versions"]
    onednn = "oneDNN off" if facts["onednn"] == "off" else "default"
    calls = facts.get("calls_per_turn", 1)
    turns = f", {calls} calls per turn" if calls > 1 else ""
    return (
        f"{facts['cpu']}, {facts['threads']} threads, TensorFlow "
        f"{versions['tensorflow']} ({onednn}), tf_dwgrad {versions['tf_dwgrad']} "
        f"({facts['kernels']}){turns}"
    )


def _limits(machine: Machine | None) -> str:
    if machine is None:
        return f"no {LIBRARY} beside the op library: the machine's limits are unknown"
    copy = ", ".join(
        f"{machine.copy_bandwidth(size) / 1e9:.0f} GB/s of {name}"
        for size, name in ((2**18, "256 KB"), (2**22, "4 MB"), (2**28, "256 MB"))
    )
    single, double = (machine.flop_rate(name) / 1e9 for name in ("float32", "float64"))
    return (
        f"this machine copies {copy} (read and written, both counted) and multiplies "
        f"and adds at {single:.0f} GFLOP/s, in float64 {double:.0f} ({machine.vectors})"
    )


def _peers(choice: Choice, names: Sequence[str] | None, threads: int) -> list[Peer]:
    """The built-in and those named, or all if no name is given but a list.

    Says which are missing.
    """
    chosen = [] if names is None else list(dict.fromkeys(names or _MORE_PEERS))
    if not names and not any(case.kind == "dilated" for case in choice.cases):
        chosen = [name for name in chosen if name != Composite.name]
    peers: list[Peer] = [Builtin()]
    for name in chosen:
        try:
            peers.append(_MORE_PEERS[name](threads))
        except Unavailable as reason:
            print(reason)
    for peer in peers:
        print(f"{peer.name}: {peer.description}")
    return peers


def _measure_all(
    choice: Choice,
    peers: list[Peer],
    machine: Machine | None,
    seconds: float,
    calls_per_turn: int,
) -> list[Result]:
    """Measures the cases and prints a line for each; an interruption ends it early."""
    results: list[Result] = []
    table = report.Table(peers)
    print(table.header(), flush=True)
    with closing(Progress(len(choice.cases))) as progress:
        try:
            for case in choice.cases:
                progress.begin(f"{case.layer.model} {case.layer.name}")
                results.append(measure(case, peers, machine, seconds, calls_per_turn))
                progress.done(table.line(results[-1]))
        except KeyboardInterrupt:
            if not results:
                raise
    if len(results) < len(choice.cases):
        print(f"interrupted after {len(results)} of {len(choice.cases)} layers")
    return results


def measure(
    case: Case,
    peers: list[Peer],
    machine: Machine | None,
    seconds: float,
    calls_per_turn: int = 1,
) -> Result:
    """Checks a case, then times it against each peer that can do it.

    Raises:
        CheckFailed: if the result is wrong.
    """
    operation = operation_of(case)
    error = operation.check()
    comparisons: dict[str, Comparison] = {}
    missing: dict[str, str] = {}
    for peer in peers:
        try:
            comparisons[peer.name] = peer.compare(operation, seconds, calls_per_turn)
        except Unavailable as reason:
            missing[peer.name] = str(reason)
    if Builtin.name in comparisons:
        ours = comparisons[Builtin.name].ours
    else:
        (ours,) = time_in_turn([operation.ours], seconds)
    return Result(case, error, ours, comparisons, missing, machine)
