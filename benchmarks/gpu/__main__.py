"""Checks and times the GPU kernels on a machine with a GPU, nvcc and PyTorch.

TensorFlow is not needed::

    python benchmarks/gpu check        # every variant against a float64 reference
    python benchmarks/gpu sanitize     # the same, briefly, under compute-sanitizer
    python benchmarks/gpu time         # against PyTorch, over the table of layers
"""

import argparse
import datetime
import math
import shutil
import subprocess
import sys
from pathlib import Path

from launchers import DTYPES, OPS, ROOT, BuildFailed, Launchers, LaunchFailed, build
from problems import random_shapes, shape_of
from tf_dwgrad.bench.cases import KINDS, LAYOUTS, choose

RESULTS = ROOT / "benchmarks" / "results"


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="hold the results against a reference")
    check.add_argument("--cases", type=int, default=300, help="random cases")
    check.add_argument("--layers", type=int, default=20, help="layers of the table")
    check.add_argument("--seed", type=int, default=0, help="of the random cases")
    check.add_argument(
        "--device", default="cuda", choices=("cuda", "cpu"), help=argparse.SUPPRESS
    )
    sanitize = commands.add_parser("sanitize", help="look for wrong memory accesses")
    sanitize.add_argument("--cases", type=int, default=20, help="random cases")
    time = commands.add_parser("time", help="against PyTorch and a copy")
    time.add_argument("--op", action="append", choices=OPS, help="default: all")
    time.add_argument("--dtype", action="append", choices=DTYPES, help="default: all")
    time.add_argument("--layout", action="append", choices=LAYOUTS, help="default: all")
    time.add_argument("--model", action="append", help="only this model's layers")
    time.add_argument("--only", action="append", choices=KINDS, help="only this kind")
    time.add_argument("--batch", type=int, default=32, help="images (default 32)")
    time.add_argument("--max-elements", type=float, default=5e7, help="of dX")
    time.add_argument("--repeats", type=int, default=20, help="calls per median")
    time.add_argument("--variants", action="store_true", help="time each variant")
    time.add_argument("--output", type=Path, help="instead of benchmarks/results/...")
    for command in (check, sanitize, time):
        command.add_argument("--library", type=Path, help="one that is built already")
    return parser.parse_args(arguments)


def _library(arguments: argparse.Namespace) -> Path:
    if arguments.library:
        return arguments.library
    print("building the kernels", flush=True)
    return build(ROOT / "build" / "gpu")


def _check(arguments: argparse.Namespace, library: Path) -> None:
    from check import check_all

    launchers = Launchers(library)
    layers = [shape_of(case) for case in choose(batch=1, max_elements=1).cases]
    # The random shapes cover what the smallest do not.
    layers.sort(key=lambda shape: math.prod((*shape.input_shape, *shape.kernel)))
    shapes = [*random_shapes(arguments.cases, arguments.seed)]
    shapes += layers[: arguments.layers]
    checked = check_all(launchers, shapes, arguments.device)
    for (op, variant, dtype), count in sorted(checked.items()):
        print(f"{op:<16} {variant:<20} {dtype:<9} {count:>6} right")
    for op in OPS:
        missing = {name for name in launchers.variants(op)} - {
            variant for of, variant, _ in checked if of == op
        }
        for variant in sorted(missing):
            print(f"{op:<16} {variant:<20} was never applicable")


def _sanitize(arguments: argparse.Namespace, library: Path) -> int:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        print("there is no compute-sanitizer: it comes with CUDA's toolkit")
        return 1
    command = [sys.executable, str(Path(__file__).parent), "check"]
    command += ["--cases", str(arguments.cases), "--library", str(library)]
    for tool in ("memcheck", "racecheck", "initcheck", "synccheck"):
        print(f"compute-sanitizer {tool}", flush=True)
        # Our kernels, not PyTorch's.
        options = ["--tool", tool, "--error-exitcode", "3"]
        options += ["--kernel-regex", "kns=tf_dwgrad"]
        status = subprocess.run([sanitizer, *options, *command], check=False).returncode
        if status:
            return status
    return 0


def _time(arguments: argparse.Namespace, library: Path) -> None:
    import figures
    import torch
    from timing import measure, multiply_add_rates

    launchers = Launchers(library)
    device = torch.cuda.get_device_name()
    facts = {
        "device": device,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "minutes"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "multiply_adds": multiply_add_rates(launchers),
    }
    folder = arguments.output or RESULTS / device.replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    cases = choose(
        arguments.model or (),
        arguments.only or (),
        arguments.dtype or DTYPES,
        arguments.layout or LAYOUTS,
        arguments.batch,
        arguments.max_elements,
    ).cases
    rows = []
    for case in cases:
        for op in arguments.op or OPS:
            row = measure(launchers, op, case, arguments.repeats, arguments.variants)
            rows.append(row)
            best = figures.ratio(row, figures.BEST_PEER)
            print(
                f"{op:<16} {case!s:<64.64} {row['chosen']:<12} "
                f"{row['seconds']['ours'] * 1e6:>9.1f} us "
                f"{figures.share_of_copy(row):>5.0%} of copy "
                f"{f'{best:.2f}x' if best else 'n/a':>8}",
                flush=True,
            )
            # After each layer: a machine may be taken away.
            figures.write_json(folder / "timings.json", rows, facts)
    for line in figures.summary(rows, facts["multiply_adds"]):
        print(line)
    for path in (folder / "timings.json", *figures.save_plots(folder, rows, device)):
        print(f"written: {path}")


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit status: 0, or 1 after a sentence about what went wrong.
    """
    parsed = _arguments(arguments)
    try:
        import torch
    except ImportError:
        print("the GPU benchmark needs PyTorch: run 'pip install torch'")
        return 1
    if getattr(parsed, "device", "cuda") == "cuda" and not torch.cuda.is_available():
        print("PyTorch sees no GPU")
        return 1
    from check import CheckFailed

    try:
        library = _library(parsed)
        if parsed.command == "sanitize":
            return _sanitize(parsed, library)
        (_check if parsed.command == "check" else _time)(parsed, library)
    except (BuildFailed, CheckFailed, LaunchFailed, ValueError) as error:
        print(f"failed: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
