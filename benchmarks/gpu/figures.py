"""What was measured, as a summary, as JSON and as plots."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PEERS = {
    "cudnn_nhwc": "cuDNN, channels last",
    "cudnn_nchw": "cuDNN, contiguous",
    "native_nhwc": "PyTorch's own, channels last",
    "native_nchw": "PyTorch's own, contiguous",
}
BEST_PEER = "best of PyTorch"

Row = dict[str, Any]


def ratio(row: Row, peer: str) -> float | None:
    """How many times faster we are than a peer, or than the best of all."""
    seconds = row["seconds"]
    if peer == BEST_PEER:
        times = [seconds[name] for name in PEERS if name in seconds]
    else:
        times = [seconds[peer]] if peer in seconds else []
    return min(times) / seconds["ours"] if times else None


def share_of_copy(row: Row) -> float:
    """1 if the op takes as long as copying as many bytes."""
    return row["seconds"]["copy"] / row["seconds"]["ours"]


def share_of_multiply_adds(row: Row, rates: dict[str, float]) -> float:
    """1 if the taps inside the image keep the multiply-add units busy."""
    rate = rates["float64" if row["dtype"] == "float64" else "float32"]
    return row["flop"] / rate / row["seconds"]["ours"]


def groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows by op, type and layout, over which nothing is averaged."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(f"{row['op']} {row['dtype']} {row['layout']}", []).append(row)
    return found


def summary(rows: Sequence[Row], rates: dict[str, float]) -> list[str]:
    """Geometric means against each peer, the slowest layers, the shares of bounds."""
    lines = []
    for title, chosen in groups(rows).items():
        lines += ["", f"{title}: {len(chosen)} layers"]
        for peer in (BEST_PEER, *PEERS):
            known = sorted(
                (value, f"{row['model']} {row['layer']}")
                for row in chosen
                if (value := ratio(row, peer)) is not None
            )
            if not known:
                lines.append(f"  {PEERS.get(peer, peer)}: n/a")
                continue
            mean = statistics.geometric_mean(value for value, _ in known)
            slower = sum(value < 1 for value, _ in known)
            lines.append(
                f"  {PEERS.get(peer, peer)}: geometric mean {mean:.2f}x, lowest "
                f"{known[0][0]:.2f}x ({known[0][1]}), slower in {slower} of "
                f"{len(known)}"
            )
        for kind in dict.fromkeys(row["kind"] for row in chosen):
            of_kind = [row for row in chosen if row["kind"] == kind]
            copy = statistics.geometric_mean(map(share_of_copy, of_kind))
            adds = statistics.geometric_mean(
                share_of_multiply_adds(row, rates) for row in of_kind
            )
            lines.append(
                f"  {kind}: {len(of_kind)} layers, {copy:.0%} of the copy, {adds:.0%} "
                "of the multiply-adds"
            )
    return lines


def write_json(path: Path, rows: Sequence[Row], facts: dict[str, Any]) -> None:
    """All there is."""
    path.write_text(json.dumps({"machine": facts, "results": rows}, indent=1) + "\n")


def save_plots(folder: Path, rows: Sequence[Row], title: str) -> list[Path]:
    """A picture per op, type and layout: speed-ups, and shares of the copy.

    Returns:
        The files; none without matplotlib.
    """
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot

    written = []
    for name, chosen in groups(rows).items():
        ordered = sorted(chosen, key=lambda row: ratio(row, BEST_PEER) or 0)
        figure, (above, below) = pyplot.subplots(
            2, 1, figsize=(10, 7), sharex=True, layout="constrained"
        )
        positions = range(len(ordered))
        ratios = [ratio(row, BEST_PEER) or float("nan") for row in ordered]
        above.bar(positions, [value - 1 for value in ratios], bottom=1)
        above.axhline(1, color="black", lw=1)
        above.set(yscale="log", ylabel="best PyTorch's time over ours")
        below.plot(positions, [share_of_copy(row) for row in ordered], "o", ms=3)
        below.axhline(1, color="black", lw=1)
        below.set(ylabel="copy's time over ours", xlabel=f"{len(ordered)} layers")
        below.set_ylim(bottom=0)
        for panel in (above, below):
            panel.grid(axis="y", alpha=0.3)
        figure.suptitle(f"{name}\n{title}", fontsize=9)
        path = folder / f"{name.replace(' ', '_').lower()}.png"
        figure.savefig(path, dpi=120)
        pyplot.close(figure)
        written.append(path)
    return written
