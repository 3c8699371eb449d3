"""``bench --models``: training steps of whole models, with and without ``enable()``."""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

import tf_dwgrad
from tf_dwgrad.bench.depthwise_share import DepthwiseTimes, time_depthwise_ops
from tf_dwgrad.bench.operations import CheckFailed
from tf_dwgrad.bench.progress import Progress
from tf_dwgrad.bench.workloads import MODELS, MODES, Training
from tf_dwgrad.comparison import Times, time_in_turn

# What the command line's element types mean for a model.
PRECISIONS = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float64": "float64",
}
# What their depthwise layers compute in.
_DTYPES = {precision: dtype for dtype, precision in PRECISIONS.items()}
# Of the time that a model gets, for each depthwise op that is timed alone.
_SHARE_OF_SECONDS = 0.02
# The first losses with and without the package differ by roundings alone.
_LOSS_TOLERANCE = {"float32": 1e-3, "mixed_bfloat16": 0.1, "float64": 1e-9}

_COLORS = {"eager": "#0072b2", "function": "#009e73", "jit": "#d55e00"}


@dataclass(frozen=True)
class Case:
    """A model, how it computes, and on what."""

    model: str
    precision: str
    mode: str
    batch: int
    size: int


@dataclass(frozen=True)
class Result:
    """The times of a step with and without the package, and the calls it served.

    ``depthwise`` is what the depthwise ops of a step take by themselves; None under
    XLA, which fuses them, and for a model that has none without this package.
    """

    case: Case
    on: Times
    off: Times
    calls: int
    depthwise: DepthwiseTimes | None = None

    @property
    def ratio(self) -> float:
        """How many times faster a step is with the package."""
        return self.off.median / self.on.median

    @property
    def bound(self) -> float | None:
        """The ratio if the depthwise ops took no time at all with the package."""
        if self.depthwise is None or self.depthwise.builtin >= self.off.median:
            return None
        return self.off.median / (self.off.median - self.depthwise.builtin)

    def row(self) -> dict[str, Any]:
        """Everything, flat."""
        return {
            "model": self.case.model,
            "precision": self.case.precision,
            "mode": self.case.mode,
            "batch": self.case.batch,
            "size": self.case.size,
            "calls_served": self.calls,
            "enabled_ms": round(self.on.median * 1e3, 3),
            "disabled_ms": round(self.off.median * 1e3, 3),
            "ratio": round(self.ratio, 3),
            "depthwise_enabled_ms": self.depthwise
            and round(self.depthwise.ours * 1e3, 3),
            "depthwise_disabled_ms": self.depthwise
            and round(self.depthwise.builtin * 1e3, 3),
            "bound": self.bound and round(self.bound, 3),
            "enabled_quartiles_ms": [
                round(t * 1e3, 3) for t in (self.on.lower, self.on.upper)
            ],
            "disabled_quartiles_ms": [
                round(t * 1e3, 3) for t in (self.off.lower, self.off.upper)
            ],
            "steps": self.on.calls,
            "unsteady": self.on.unsteady or self.off.unsteady,
        }


def choose(
    models: Sequence[str],
    dtypes: Sequence[str],
    modes: Sequence[str],
    batch: int | None,
    size: int | None,
) -> list[Case]:
    """Returns the cases that the options name; nothing named means all.

    Raises:
        ValueError: for a model or type that there is not.
    """
    for name in models:
        if name not in MODELS:
            raise ValueError(f"no model '{name}'; there are {', '.join(MODELS)}")
    for dtype in dtypes:
        if dtype not in PRECISIONS:
            raise ValueError(
                f"models are trained in {', '.join(PRECISIONS)}, not in {dtype}"
            )
    return [
        Case(name, PRECISIONS[dtype], mode, batch or work.batch, size or work.size)
        for name, work in MODELS.items()
        if not models or name in models
        for dtype in dtypes or ("float32", "bfloat16")
        for mode in modes or MODES
    ]


def measure(case: Case, seconds: float) -> Result:
    """Compares the losses of the first step, then times further steps in turn.

    Raises:
        CheckFailed: if the model cannot be built for images of this size, if the
            losses differ, or if no call went to this package.
    """
    keras.utils.clear_session()
    arguments = (case.model, case.precision, case.mode, case.batch, case.size)
    try:
        without = Training(*arguments)
    except ValueError as error:
        raise CheckFailed(f"{case.model} on {case.size}x{case.size}: {error}") from None
    loss = without.step()

    def step_with() -> None:
        with tf_dwgrad.enabled():
            with_package.step()

    with tf_dwgrad.enabled():
        with_package = Training(*arguments)
        ours = with_package.step()
        if not abs(ours - loss) <= _LOSS_TOLERANCE[case.precision] * abs(loss):
            raise CheckFailed(f"{case}: the loss is {ours} and should be {loss}")
        tf_dwgrad.reset_counters()
        with_package.step()
        calls = sum(
            n for call, n in tf_dwgrad.counters().items() if call.route != "delegated"
        )
    if not calls:
        raise CheckFailed(f"{case}: none of the calls went to this package")
    on, off = time_in_turn([step_with, without.step], seconds)
    depthwise = None
    if case.mode != "jit":
        depthwise = time_depthwise_ops(
            without.model,
            case.batch,
            _DTYPES[case.precision],
            seconds * _SHARE_OF_SECONDS,
        )
    return Result(case, on, off, calls, depthwise)


def measure_all(cases: Sequence[Case], seconds: float) -> Iterator[Result]:
    """Measures the cases, prints a line for each and yields the results.

    Beside the ratio stand the milliseconds of the depthwise ops alone, without > with
    the package, and the ratio that a step would have if they took no time.
    """
    print(
        f"{'model':<18}{'precision':<16}{'mode':<10}{'batch x size':>13}"
        f"{'calls':>7}{'disabled ms':>13}{'enabled ms':>12}{'ratio':>8}"
        f"{'depthwise ms':>16}{'bound':>8}",
        flush=True,
    )
    with closing(Progress(len(cases), unit="model")) as progress:
        for case in cases:
            progress.begin(f"{case.model} {case.precision} {case.mode}")
            result = measure(case, seconds)
            unsteady = "  unsteady" if result.row()["unsteady"] else ""
            alone = bound = "-"
            if result.depthwise is not None:
                alone = (
                    f"{result.depthwise.builtin * 1e3:.1f}"
                    f" > {result.depthwise.ours * 1e3:.1f}"
                )
            if result.bound is not None:
                bound = f"{result.bound:.2f}x"
            progress.done(
                f"{case.model:<18}{case.precision:<16}{case.mode:<10}"
                f"{f'{case.batch} x {case.size}':>13}{result.calls:>7}"
                f"{result.off.median * 1e3:>13.1f}{result.on.median * 1e3:>12.1f}"
                f"{result.ratio:>7.2f}x{alone:>16}{bound:>8}{unsteady}"
            )
            yield result


def write_csv(path: Path, results: Sequence[Result], title: str) -> None:
    """A row for each result below a line that says where it comes from."""
    with path.open("w", newline="") as file:
        file.write(f"# {title}\n")
        writer = csv.DictWriter(file, list(results[0].row()), lineterminator="\n")
        writer.writeheader()
        writer.writerows(result.row() for result in results)


def write_json(path: Path, results: Sequence[Result], facts: dict[str, Any]) -> None:
    """The same rows, and all that is known about the machine."""
    document = {"machine": facts, "results": [result.row() for result in results]}
    path.write_text(json.dumps(document, indent=1) + "\n")


def save_plot(folder: Path, results: Sequence[Result], title: str) -> Path:
    """Draws a bar for each model and mode, a panel for each precision."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    precisions = list(dict.fromkeys(r.case.precision for r in results))
    figure, panels = pyplot.subplots(
        1, len(precisions), figsize=(6 * len(precisions), 5), squeeze=False
    )
    for panel, precision in zip(panels[0], precisions, strict=True):
        chosen = [r for r in results if r.case.precision == precision]
        models = list(dict.fromkeys(r.case.model for r in chosen))
        modes = [m for m in MODES if any(r.case.mode == m for r in chosen)]
        height = 0.8 / len(modes)
        for m, mode in enumerate(modes):
            of_mode = [r for r in chosen if r.case.mode == mode]
            bars = panel.barh(
                [models.index(r.case.model) + m * height for r in of_mode],
                [r.ratio for r in of_mode],
                height,
                color=_COLORS[mode],
                label=mode,
            )
            panel.bar_label(bars, [f"{r.ratio:.2f}x" for r in of_mode], padding=2)
        panel.set_yticks(
            [i + 0.4 - height / 2 for i in range(len(models))], labels=models
        )
        panel.invert_yaxis()
        panel.set_xscale("log")
        panel.margins(x=0.15)
        panel.axvline(1, color="black", linewidth=0.8)
        panel.set_xlabel("a training step's time disabled / enabled")
        panel.set_title(precision)
        panel.legend()
    figure.suptitle(title, fontsize=8)
    figure.tight_layout()
    path = folder / "models.png"
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path
