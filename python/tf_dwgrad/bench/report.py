"""What was measured, as a table, a summary and files."""

import csv
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tf_dwgrad.bench.cases import KINDS, KINDS_IN_WORDS, Case, Choice
from tf_dwgrad.bench.machine import Machine
from tf_dwgrad.bench.peers import Builtin, Comparison, Copy, Peer
from tf_dwgrad.comparison import Times

_WORST = 3
_UNSTEADY = "other programs seem to run, and these figures mean little"


@dataclass(frozen=True)
class Result:
    """What is known of a case.

    Attributes:
        case: the case.
        error: the largest difference from the right result, relative to what rounding
            explains.
        ours: the times of this package, from the first comparison.
        comparisons: by the peer's name.
        missing: why there is none, by the peer's name.
        machine: to hold the times against; None if it was not measured.
    """

    case: Case
    error: float
    ours: Times
    comparisons: dict[str, Comparison]
    missing: dict[str, str]
    machine: Machine | None

    @property
    def bytes_per_second(self) -> float:
        """Of all operands and the result, each counted once."""
        return self.case.bytes / self.ours.median

    @property
    def flop_per_second(self) -> float:
        """Of the taps inside the image."""
        return self.case.flop / self.ours.median

    @property
    def bound(self) -> str:
        """What the machine's limit is: ``"copy"``, ``"FMA"`` or unknown."""
        return self.machine.bound(self.case).by if self.machine else ""

    @property
    def share_of_bound(self) -> float | None:
        """1 if nothing could be faster on this machine."""
        if self.machine is None:
            return None
        return self.machine.bound(self.case).seconds / self.ours.median

    @property
    def unsteady(self) -> bool:
        """Whether something interfered with one of the times."""
        sides = [(c.ours, c.theirs) for c in self.comparisons.values()]
        return any(times.unsteady for pair in [(self.ours,), *sides] for times in pair)

    def ratio(self, peer: str) -> float | None:
        """How many times faster than the peer; None without a comparison."""
        comparison = self.comparisons.get(peer)
        return comparison.ratio if comparison else None

    @property
    def builtin_over_bound(self) -> float | None:
        """How much faster than the built-in an op at the machine's limit would be.

        It would take as long as :class:`Copy` in turn with us, unless we are faster, or
        as multiplying and adding. None without those two comparisons.
        """
        builtin, copy = self.ratio(Builtin.name), self.ratio(Copy.name)
        if builtin is None or copy is None:
            return None
        multiply_add = self.machine.flop_seconds(self.case) if self.machine else 0.0
        return builtin / max(min(copy, 1.0), multiply_add / self.ours.median)

    def row(self) -> dict[str, Any]:
        """Everything, flat."""
        case, layer = self.case, self.case.layer
        row = {
            "op": case.op,
            "model": layer.model,
            "layer": layer.name,
            "kind": case.kind,
            "dtype": case.dtype,
            "layout": case.layout,
            "batch": case.batch,
            "dX": _sizes(*layer.size, layer.channels),
            "multiplier": layer.multiplier,
            "filter": _sizes(*layer.kernel),
            "stride": layer.strides[0],
            "dilation": layer.dilations[0],
            "padding": layer.padding,
            "bytes": case.bytes,
            "flop": case.flop,
            "error_over_bound": _rounded(self.error),
            **_times("tf_dwgrad", self.ours),
            "GB_per_s": _rounded(self.bytes_per_second, 1e-9),
            "GFLOP_per_s": _rounded(self.flop_per_second, 1e-9),
            "bound": self.bound,
            "share_of_bound": _rounded(self.share_of_bound),
        }
        for peer in [*self.comparisons, *self.missing]:
            comparison = self.comparisons.get(peer)
            row |= _times(peer, comparison.theirs if comparison else None)
            # The ratio is of this time, not of one measured beside another peer.
            ours = comparison.ours.median if comparison else None
            row[f"tf_dwgrad_beside_{peer}_ms"] = _rounded(ours, 1e3)
            row[f"{peer}_ratio"] = _rounded(self.ratio(peer))
            row[f"{peer}_note"] = comparison.note if comparison else self.missing[peer]
        if Copy.name in self.comparisons:
            row["builtin_over_bound"] = _rounded(self.builtin_over_bound)
        return row


def _times(side: str, times: Times | None) -> dict[str, Any]:
    median, lower, upper, calls = (
        (times.median, times.lower, times.upper, times.calls) if times else [None] * 4
    )
    return {
        f"{side}_ms": _rounded(median, 1e3),
        f"{side}_lower_quartile_ms": _rounded(lower, 1e3),
        f"{side}_upper_quartile_ms": _rounded(upper, 1e3),
        f"{side}_calls": calls,
    }


def _rounded(value: float | None, factor: float = 1.0) -> float | None:
    return None if value is None else float(f"{value * factor:.4g}")


def _sizes(*sizes: int) -> str:
    return "x".join(map(str, sizes))


# --- The table --------------------------------------------------------------------


class Table:
    """A line per result."""

    def __init__(self, peers: Sequence[Peer]):
        """Each peer gets a column."""
        self._peers = [peer.name for peer in peers]

    def header(self) -> str:
        """The names of the columns."""
        return (
            f"{'model':<20} {'dX':>12} {'M':<2} {'filter':>6} {'s':<2} {'d':<3}"
            f"{'ms':>9}{_ratio_columns(self._peers)} {'GB/s':>7} {'GFLOP/s':>8} "
            "share of bound"
        )

    def line(self, result: Result) -> str:
        """The result's line."""
        layer = result.case.layer
        ratios = "".join(f"{_number(result.ratio(name)):>13}" for name in self._peers)
        share = _percent(result.share_of_bound)
        return (
            f"{layer.model:<20.20} {_sizes(*layer.size, layer.channels):>12} "
            f"{layer.multiplier:<2} {_sizes(*layer.kernel):>6} {layer.strides[0]:<2} "
            f"{layer.dilations[0]:<3}{result.ours.median * 1e3:>9.3f}{ratios} "
            f"{result.bytes_per_second / 1e9:>7.1f} "
            f"{result.flop_per_second / 1e9:>8.1f} {share:>9} {result.bound:<4}"
            f"{'  unsteady' if result.unsteady else ''}"
        ).rstrip()


def _ratio_columns(peers: Sequence[str]) -> str:
    """The peer's time over ours."""
    return "".join(f"{'vs ' + name:>13}" for name in peers)


def _number(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def _percent(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:.0%}" if value >= 0.1 else f"{value:.1%}"


# --- The summary ------------------------------------------------------------------


def summary(
    results: Sequence[Result], choice: Choice, peers: Sequence[Peer]
) -> list[str]:
    """Geometric means for each type and layout, and what stands out."""
    lines: list[str] = []
    for title, chosen in grouped(results).items():
        lines += ["", f"{title}: geometric means"]
        lines += _means(chosen, choice, [peer.name for peer in peers])
        for peer in peers:
            lines += _standing_of(peer, chosen)
        lines += _farthest_from_bound(chosen)
        unsteady = sum(result.unsteady for result in chosen)
        if unsteady:
            lines += ["", f"unsteady: {unsteady} of {len(chosen)}; {_UNSTEADY}"]
    return lines


def grouped(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results by type and layout, which are not averaged over."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        title = f"{result.case.dtype} {result.case.layout}"
        groups.setdefault(title, []).append(result)
    return groups


def _means(
    results: Sequence[Result], choice: Choice, peers: Sequence[str]
) -> list[str]:
    """By model, where a shape counts for each layer that has it; by kind; of all."""
    with_copy = Copy.name in peers

    def line(name: str, members: Sequence[Result]) -> str:
        means = [_mean(result.ratio(peer) for result in members) for peer in peers]
        share = _mean(result.share_of_bound for result in members)
        numbers = "".join(f"{_number(mean):>13}" for mean in means)
        if with_copy:
            limit = _mean(result.builtin_over_bound for result in members)
            numbers += f"{_number(limit):>15}"
        return f"{name:<27} {len(members):>6}{numbers} {_percent(share):>15}"

    columns = _ratio_columns(peers)
    if with_copy:
        columns += f"{'builtin/bound':>15}"
    lines = [f"{'':<27} {'layers':>6}{columns} {'share of bound':>15}"]
    models = [(choice.models_of(result.case), result) for result in results]
    for model in dict.fromkeys(layer.model for layer in choice.layers):
        members = [r for names, r in models for name in names if name == model]
        lines.append(line(model, members))
    lines.append("")
    for kind in KINDS:
        members = [result for result in results if result.case.kind == kind]
        if members:
            lines.append(line(KINDS_IN_WORDS[kind], members))
    return [*lines, line("all, each shape once", results)]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.geometric_mean(known) if known else None


def _standing_of(peer: Peer, results: Sequence[Result]) -> list[str]:
    """How often we are slower than a peer, where worst, and why it cannot do some."""
    compared = [result for result in results if peer.name in result.comparisons]
    compared.sort(key=lambda result: result.comparisons[peer.name].ratio)
    slower = sum(result.comparisons[peer.name].ratio < 1 for result in compared)
    lines = ["", f"{peer.name} ({peer.description}):"]
    if compared:
        lines.append(f"  slower than it in {slower} of {len(compared)}; lowest ratios:")
    for result in compared[:_WORST]:
        lines.append(f"  {_number(result.ratio(peer.name)):>6}  {result.case}")
    reasons = [result.missing.get(peer.name) for result in results]
    for reason, count in Counter(filter(None, reasons)).items():
        lines.append(f"  n/a in {count}: {reason}")
    return lines


def _farthest_from_bound(results: Sequence[Result]) -> list[str]:
    known = [result for result in results if result.share_of_bound is not None]
    if not known:
        return []
    known.sort(key=lambda result: result.share_of_bound)
    lines = ["", "the smallest shares of what the machine could do:"]
    for result in known[:_WORST]:
        share, bound = _percent(result.share_of_bound), result.bound
        lines.append(f"  {share:>6} of {bound:<4}  {result.case}")
    return lines


# --- The files --------------------------------------------------------------------


def write_csv(path: Path, results: Sequence[Result], machine_line: str) -> None:
    """A row per result, after a comment about the machine."""
    rows = [result.row() for result in results]
    # Peers come in another order where the first one failed.
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="") as file:
        file.write(f"# {machine_line}\n")
        writer = csv.DictWriter(file, fieldnames=columns)
        writer.writeheader()
        writer.writerows(rows)


def write_json(
    path: Path, results: Sequence[Result], machine: Machine | None, facts: dict
) -> None:
    """The same rows, and all that is known about the machine."""
    if machine:
        facts = {
            **facts,
            "vectors": machine.vectors,
            "FLOP_per_s": {
                f"{8 * size} bits": _rounded(rate)
                for size, rate in machine.multiply_add.items()
            },
            "copied_bytes_per_s": {
                size: _rounded(rate) for size, rate in machine.copy.items()
            },
        }
    document = {"machine": facts, "results": [result.row() for result in results]}
    path.write_text(json.dumps(document, indent=1) + "\n")
