"""Pictures of the results: the speed-up of each layer, and rooflines."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tf_dwgrad.bench.cases import KINDS, KINDS_IN_WORDS, OPS_IN_WORDS, Case
from tf_dwgrad.bench.machine import Machine
from tf_dwgrad.bench.peers import Peer
from tf_dwgrad.bench.report import Result, grouped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Told apart by those who see no red or no green as well.
_COLORS = dict(
    zip(
        KINDS,
        (
            "#000000",
            "#cc79a7",
            "#0072b2",
            "#56b4e9",
            "#009e73",
            "#f0b400",
            "#d55e00",
            "#999999",
        ),
        strict=True,
    )
)

# More names than this cannot be read.
_MOST_NAMES = 24


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def save(
    folder: Path,
    results: Sequence[Result],
    peers: Sequence[Peer],
    machine: Machine | None,
    title: str,
) -> list[Path]:
    """Draws the plots of each type and layout.

    Args:
        folder: where they go; it exists.
        results: what to draw.
        peers: each gets its bars; the rooflines show the first.
        machine: without it there are no rooflines.
        title: where the figures come from.

    Returns:
        The files.
    """
    import matplotlib

    matplotlib.use("Agg")
    written = []
    for name, chosen in grouped(results).items():
        suffix = f"{name.replace(' ', '_').lower()}.png"
        op = chosen[0].case.op
        heading = f"{OPS_IN_WORDS[op].capitalize()}, {name}"
        if op != "input_gradient":
            suffix = f"{op}_{suffix}"
        path = folder / f"speedup_{suffix}"
        if _save_speedups(path, chosen, peers, f"{heading}\n{title}"):
            written.append(path)
        if machine:
            path = folder / f"roofline_{suffix}"
            _save_roofline(path, chosen, peers[0], machine, f"{heading}\n{title}")
            written.append(path)
    return written


def _kinds_of(results: Sequence[Result]) -> list[str]:
    present = {result.case.kind for result in results}
    return [kind for kind in KINDS if kind in present]


def _save_speedups(
    path: Path, results: Sequence[Result], peers: Sequence[Peer], title: str
) -> bool:
    """A panel of sorted bars for each peer; False if none has any."""
    from matplotlib import pyplot

    peers = [p for p in peers if any(p.name in r.comparisons for r in results)]
    if not peers:
        return False
    named = len(results) <= _MOST_NAMES
    figure, panels = pyplot.subplots(
        len(peers),
        1,
        figsize=(10, 1 + (4.2 if named else 2.8) * len(peers)),
        squeeze=False,
        layout="constrained",
    )
    for panel, peer in zip(panels[:, 0], peers, strict=True):
        _draw_speedups(panel, results, peer, named)
    panels[0, 0].legend(fontsize=8, loc="upper left", ncols=2)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True


def _draw_speedups(
    panel: "Axes", results: Sequence[Result], peer: Peer, named: bool
) -> None:
    chosen = [result for result in results if peer.name in result.comparisons]
    chosen.sort(key=lambda result: result.comparisons[peer.name].ratio)
    ratios = np.array([result.comparisons[peer.name].ratio for result in chosen])
    kinds = np.array([result.case.kind for result in chosen])
    positions = np.arange(len(chosen))
    for kind in _kinds_of(chosen):
        of_kind = kinds == kind
        # From 1: what is slower hangs down.
        panel.bar(
            positions[of_kind],
            ratios[of_kind] - 1,
            0.85,
            bottom=1,
            color=_COLORS[kind],
            label=KINDS_IN_WORDS[kind],
        )
    panel.axhline(1, color="black", linewidth=1)
    mean = np.exp(np.mean(np.log(ratios)))
    panel.axhline(mean, color="black", linewidth=1, linestyle=":")
    panel.set_yscale("log")
    low, high = min(0.8, ratios.min() / 1.1), max(2, ratios.max() * 1.1)
    panel.set_ylim(low, high)
    steps = (1, 2, 5) if high / low > 10 else (1, 1.5, 2, 3, 4, 5, 7)
    ticks = [step * 10.0**e for e in range(-3, 5) for step in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    panel.set_yticks(ticks, [f"{tick:g}x" for tick in ticks])
    panel.minorticks_off()
    panel.set_title(
        f"time of {peer.description}, over tf_dwgrad's: "
        f"geometric mean {mean:.2f}x, lowest {ratios.min():.2f}x",
        fontsize=9,
    )
    if named:
        layers = [result.case.layer for result in chosen]
        one_model = len({layer.model for layer in layers}) == 1
        names = [
            layer.name if one_model else f"{layer.model} {layer.name}"
            for layer in layers
        ]
        panel.set_xticks(positions, names, rotation=35, ha="right", fontsize=7)
    else:
        panel.set_xticks([])
        panel.set_xlabel(f"{len(chosen)} layers")
    # Few bars would be blocks.
    half_width = max(len(chosen) + 1, _MOST_NAMES / 2) / 2
    middle = (len(chosen) - 1) / 2
    panel.set_xlim(middle - half_width, middle + half_width)
    panel.grid(axis="y", alpha=0.3)
    panel.set_axisbelow(True)


def _save_roofline(
    path: Path, results: Sequence[Result], peer: Peer, machine: Machine, title: str
) -> None:
    from matplotlib import pyplot
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    figure, panel = pyplot.subplots(figsize=(10, 6), layout="constrained")
    cases = [result.case for result in results]
    intensity = np.array([case.flop / case.bytes for case in cases])
    ours = np.array([result.flop_per_second / 1e9 for result in results])
    theirs = ours / [result.ratio(peer.name) or np.nan for result in results]
    bounds = [case.flop / machine.bound(case).seconds / 1e9 for case in cases]
    kinds = np.array([case.kind for case in cases])
    panel.set(
        xscale="log",
        yscale="log",
        xlabel="floating-point operations per byte of operands and result",
        ylabel="GFLOP/s (taps inside the image)",
    )
    panel.vlines(intensity, theirs, ours, color="lightgray", lw=0.8, zorder=1)
    panel.plot(intensity, bounds, "_", color="black", ms=7, label="a layer's bound")
    panel.plot(intensity, theirs, "x", color="gray", ms=4, label=peer.description)
    for kind in _kinds_of(results):
        panel.plot(
            intensity[kinds == kind],
            ours[kinds == kind],
            "o",
            color=_COLORS[kind],
            ms=5,
            label=f"tf_dwgrad, {KINDS_IN_WORDS[kind]}",
        )
    _draw_roofs(panel, cases, machine)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FormatStrFormatter("%g"))
        axis.set_minor_formatter(NullFormatter())
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8, loc="lower right")
    panel.set_title(title, fontsize=9)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _draw_roofs(panel: "Axes", cases: Sequence[Case], machine: Machine) -> None:
    """The peak, and copying as fast as for the smallest, middle and largest layer."""
    intensity = [case.flop / case.bytes for case in cases]
    left, right = min(intensity) / 1.6, max(intensity) * 1.6
    peak = machine.flop_rate(cases[0].dtype) / 1e9
    small = {"fontsize": 8, "color": "dimgray"}
    sizes = np.quantile([case.bytes for case in cases], [0, 0.5, 1], method="nearest")
    for size in dict.fromkeys(sizes):
        rate = machine.copy_bandwidth(size) / 1e9
        ridge = min(peak / rate, right)
        panel.plot([left, ridge], [left * rate, ridge * rate], color="gray", lw=1)
        panel.text(
            left * 1.03,
            left * 1.03 * rate * 1.05,
            f"a copy of {_in_words(size)}: {rate:.0f} GB/s",
            rotation=np.degrees(np.arctan2(rate, 1)),
            rotation_mode="anchor",
            transform_rotates_text=True,
            **small,
        )
    panel.axhline(peak, color="gray", lw=1)
    panel.text(
        right / 1.03,
        peak * 1.03,
        f"multiplying and adding: {peak:.0f} GFLOP/s ({machine.vectors})",
        ha="right",
        **small,
    )
    panel.set(xlim=(left, right), ylim=(None, 1.5 * peak))


def _in_words(size: float) -> str:
    """A number of bytes with two digits."""
    unit, name = (2**20, "MB") if size >= 2**20 else (2**10, "KB")
    return f"{float(f'{size / unit:.2g}'):g} {name}"
