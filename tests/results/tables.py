"""Tables of figures, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from results.images import SCENARIOS

OURS = "medfuse"
FLOORS = ("maximum", "copy")
PET_MRI_STEPS, INFRARED_STEPS = 1, 3  # those of the bundles
_DEGRADED = tuple(name for name in SCENARIOS if name != "clean")
_WORST = -9.0  # in place of a figure that is not defined
_FAR = 0.05  # of the best


def at(scenarios: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Return the figures of each scenario with so many steps."""
    return {name: figures[str(steps)] for name, figures in scenarios.items()}


def restoration(chosen: Mapping[str, Any], peers: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """Tabulate the PSNR of the sources, which are named by the keys of their figures."""
    rows = []
    for name in _DEGRADED:
        ours, classical = chosen[name], peers[name]["classical"]
        for key, source in sources.items():
            mean, (low, high) = ours[f"r{key}_PSNR"]["mean"], ours[f"r{key}_PSNR"]["interval"]
            before, other = ours[f"d{key}_PSNR"]["mean"], classical.get(f"r{key}_PSNR")
            shown = ("-" if other is None else f"{other:.2f}", f"**{mean:.2f}** ({low:.1f} to {high:.1f})")
            gains = (f"{mean - before:+.2f}", "-" if other is None else f"{mean - max(before, other):+.2f}")
            rows.append((name, source, f"{before:.2f}", *shown, *gains))
    head = ("scenario", "source", "degraded", "classical", OURS, "over degraded", "over the better of both")
    return table(head, rows)


def parts(chosen: Mapping[str, Any], sources: Mapping[str, str], parts_are: str) -> str:
    """Tabulate the PSNR of the sources by part of the dev set."""
    names = list(chosen["noise"]["r1_PSNR"][parts_are])
    rows = []
    for name in _DEGRADED:
        for key, source in sources.items():
            ours = chosen[name][f"r{key}_PSNR"][parts_are]
            rows.append((name, source, *(f"{ours[s]:.1f}" for s in names)))
    return table(("scenario", "source", *names), rows)


def steps(scenarios: Mapping[str, Any]) -> str:
    """Tabulate PSNR and SSIM by the number of steps."""
    tried = [t for t in scenarios[next(iter(SCENARIOS))] if t.isdigit()]
    rows = []
    for name in SCENARIOS:
        cells = []
        for ours in (scenarios[name][t] for t in tried):
            cells.append(" / ".join(f"{ours[k]['mean']:.2f}" for k in ("r1_PSNR", "r2_PSNR")))
            cells[-1] += f", {ours['SSIM']['mean']:.3f}"
        rows.append((name, *cells))
    return table(("scenario", *(f"T = {t}" for t in tried)), rows)


def fusion(
    chosen: Mapping[str, Any],
    peers: Mapping[str, Any],
    methods: Sequence[str],
    metrics: Sequence[str],
    *,
    floors: Sequence[str] = FLOORS,
) -> list[str]:
    """Tabulate the fused images of each scenario beside those of other methods and floors."""
    return [_fusion(name, chosen[name], peers[name], methods, metrics, floors) for name in SCENARIOS]


@dataclass(frozen=True)
class Scoreboard:
    """Scores of one scenario's fused images.

    Attributes:
        scores: By method, medfuse first and the floors last, and by metric; None where a figure is not defined.
        best: The best score of each metric, of the methods that are no floors.
        ranks: Mean rank of each of these methods over the metrics.
    """

    scores: Mapping[str, Mapping[str, float | None]]
    best: Mapping[str, float]
    ranks: Mapping[str, float]

    def lead(self, metric: str) -> float:
        """Return by what share medfuse is above the best of the others in a metric; below 0 where it is behind."""
        ours = _known(self.scores[OURS][metric])
        other = max(_known(self.scores[m][metric]) for m in self.ranks if m != OURS)
        return (ours - other) / abs(other)


def scoreboard(
    ours: Mapping[str, Any],
    peers: Mapping[str, Any],
    methods: Sequence[str],
    metrics: Sequence[str],
    floors: Sequence[str] = FLOORS,
) -> Scoreboard:
    """Compare the fused images of a scenario with those of other methods and floors."""
    scores: dict[str, dict[str, float | None]] = {OURS: {k: ours[k]["mean"] for k in metrics}}
    for method in (*methods, *floors):
        known = {k: peers[method].get(k) for k in metrics}
        scores[method] = {**known, "SSIM_min": min(peers[method]["SSIM_1"], peers[method]["SSIM_2"])}
    ranked = [OURS, *methods]
    known = {m: {k: _known(scores[m][k]) for k in metrics} for m in ranked}
    ranks = {m: sum(1 + sum(known[o][k] > known[m][k] for o in ranked) for k in metrics) / len(metrics) for m in ranked}
    return Scoreboard(scores, {k: max(known[m][k] for m in ranked) for k in metrics}, ranks)


def _known(score: float | None) -> float:
    return score or _WORST


def _fusion(
    name: str,
    ours: Mapping[str, Any],
    peers: Mapping[str, Any],
    methods: Sequence[str],
    metrics: Sequence[str],
    floors: Sequence[str],
) -> str:
    board = scoreboard(ours, peers, methods, metrics, floors)
    rows = []
    for method, values in board.scores.items():
        ranked = method in board.ranks
        cells = [
            "-" if v is None else f"**{v:.3f}**" if ranked and v == board.best[k] else f"{v:.3f}"
            for k, v in values.items()
        ]
        rows.append((method, *cells, f"{board.ranks[method]:.2f}" if ranked else "floor"))
        if method == OURS:
            intervals = (ours[k]["interval"] for k in metrics)
            rows.append(("95 % interval", *(f"{low:.3f} to {high:.3f}" for low, high in intervals), ""))
    behind = {k: 1 - _known(board.scores[OURS][k]) / board.best[k] for k in metrics}
    far = ", ".join(f"{k} ({100 * part:.1f} %)" for k, part in behind.items() if part > _FAR) or "none"
    return f"### {name}\n\n{table(('method', *metrics, 'rank'), rows)}\nMore than 5 % below the best: {far}.\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
