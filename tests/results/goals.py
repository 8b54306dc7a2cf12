"""The goals that the figures are held against, and which of them are missed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from results.images import ANATOMY, SCENARIOS
from results.phantoms import RIDGES
from results.rules import kept
from results.tables import OURS, PET_MRI_STEPS, Scoreboard, at, scoreboard, table

_DIGITS = 3  # of what a rule keeps
_SMALLEST, _UNTOUCHED = 4.0, 45.0  # radius of a lesion, px, that must be recovered; PSNR of what was not degraded, dB


@dataclass(frozen=True)
class Goal:
    """A bound on some figures.

    Attributes:
        text: What is bounded, the bound included.
        figures: The figures, by the place where each was measured.
        least: The bound from below.
        most: The bound from above.
        digits: Digits after the point.
    """

    text: str
    figures: Mapping[str, float]
    least: float = -math.inf
    most: float = math.inf
    digits: int = 2

    def row(self) -> tuple[str, str, str]:
        """Return the goal, the range of its figures, and those that miss it."""
        shown = {k: f"{round(v, self.digits) + 0.0:.{self.digits}f}" for k, v in self.figures.items()}
        low, high = (shown[f(self.figures, key=self.figures.__getitem__)] for f in (min, max))
        missed = [f"{k} {shown[k]}" for k, v in self.figures.items() if not self.least <= v <= self.most]
        reached = low if low == high else f"{low} to {high}"
        return self.text, reached, f"**{', '.join(missed)}**" if missed else "none"


def goals_table(goals: Iterable[Goal]) -> str:
    """Tabulate goals."""
    return table(("goal", "reached", "missed"), [goal.row() for goal in goals])


def pet_mri_goals(
    results: Mapping[str, Any], peers: Mapping[str, Any], methods: Sequence[str], metrics: Sequence[str]
) -> list[Goal]:
    """Return the goals of PET and MRI."""
    chosen, phantoms = at(results["scenarios"], PET_MRI_STEPS), results["phantoms"]
    own = {name: figures["sources"] for name, figures in results["scenarios"].items()}
    gains = _gains(chosen, peers, {"1": "MRI", "2": "function"})
    asked = {"noise": (1.5, 2.0), "blur": (1.0, 0.0), "composite": (1.5, 2.0)}
    restored = [
        Goal(f"{name}: the {source} gains {least:g} dB or more", {source: gains[name, source]}, least=least)
        for name, bounds in asked.items()
        for source, least in zip(("MRI", "function"), bounds, strict=True)
    ]
    regions = [key.removesuffix(f", {OURS}") for key in phantoms if key.startswith("bias of") and key.endswith(OURS)]
    inside = [region for region in regions if "interior" in region]
    whole = [region for region in regions if region not in inside]
    lesions = [k.removesuffix(f", {OURS}") for k in phantoms if k.startswith("contrast recovery") and k.endswith(OURS)]
    large = [lesion for lesion in lesions if float(lesion.split()[-2]) >= _SMALLEST]

    def bias(region: str, method: str = OURS) -> float:
        return abs(phantoms[f"{region}, {method}"])

    def named(region: str) -> str:
        return region.removeprefix("bias of ").removeprefix("the interior of ").removesuffix(", %")

    def alone(start: str) -> dict[str, float]:
        return {k.rsplit(", ", 1)[1]: v for k, v in phantoms.items() if k.startswith(start)}

    return [
        *restored,
        _untouched(chosen, ("1", "2")),
        Goal("degradations that are no preset: dB gained, more than 0", _improved(results["unseen"]), least=1e-3),
        Goal("wrong parameters: dB gained, more than 0", _improved(results["wrong"]), least=1e-3),
        *_legible(chosen, own, peers, methods, metrics),
        Goal("phantoms: total, 0.99 to 1.01", {OURS: phantoms[f"total, {OURS}"]}, least=0.99, most=1.01, digits=3),
        Goal(
            "phantoms: bias of the interior of a large region, %, at most 5",
            {named(r): bias(r) for r in inside},
            most=5,
        ),
        *(
            Goal(
                f"phantoms: % by which bias of {part} large region is less than that of the {wiener}, at least 0",
                {named(r): bias(r, wiener) - bias(r) for r in regions},
                least=0,
            )
            for wiener in RIDGES
            for part, regions in (("the interior of a", inside), ("a whole", whole))
        ),
        Goal(
            "phantoms: contrast recovery of lesions of 4 px and more over that of the input, at least 0",
            {k.split(", ")[1]: phantoms[f"{k}, {OURS}"] - phantoms[f"{k}, input"] for k in large},
            least=0,
        ),
        Goal(
            "phantoms: contrast recovery of lesions of the PET alone, more than 0",
            {k.split(", ")[1]: phantoms[f"{k}, {OURS}"] for k in lesions if "pet_" in k},
            least=1e-3,
        ),
        Goal(
            "phantoms: PET changed by a lesion of the MRI alone, %, at most 5",
            alone("PET changed by a lesion of the MRI"),
            most=5,
        ),
        Goal("phantoms: chi-square, corrected, 0.9 to 1.1", alone("chi-square"), least=0.9, most=1.1),
    ]


def infrared_visible_goals(
    chosen: Mapping[str, Any], peers: Mapping[str, Any], methods: Sequence[str], metrics: Sequence[str]
) -> list[Goal]:
    """Return the goals of infrared and visible images; the classical figures of R, G and B are among the peers'."""
    sources = {"1": "luma", "1_R": "R", "1_G": "G", "1_B": "B", "2": "infrared"}
    gains = _gains(chosen, peers, sources)
    restored = [
        Goal(
            f"{name}: each channel gains {least:g} dB or more",
            {s: gains[name, s] for s in sources.values()},
            least=least,
        )
        for name, least in {"noise": 1.0, "blur": 0.0, "composite": 1.0}.items()
    ]
    hue = {k: chosen["clean"][key]["mean"] for k, key in (("Cb, Cr", "hue"), ("CIELAB", "hue_lab"))}
    return [
        *restored,
        _untouched(chosen, sources),
        *_fused(chosen, peers, methods, metrics, best=("VIF", "Qabf")),
        Goal("clean: hue, degrees, at most 2", hue, most=2),
    ]


def _gains(
    chosen: Mapping[str, Any], peers: Mapping[str, Any], sources: Mapping[str, str]
) -> dict[tuple[str, str], float]:
    """Return by how many dB each source gains over the better of the degraded and the classical one."""
    gains = {}
    for name in (s for s in SCENARIOS if s != "clean"):
        ours, classical = chosen[name], peers[name]["classical"]
        for key, source in sources.items():
            others = (ours[f"d{key}_PSNR"]["mean"], classical[f"r{key}_PSNR"])
            gains[name, source] = ours[f"r{key}_PSNR"]["mean"] - max(others)
    return gains


def _untouched(chosen: Mapping[str, Any], keys: Iterable[str]) -> Goal:
    least = min(chosen["clean"][f"r{key}_PSNR"]["mean"] for key in keys)
    return Goal(f"clean: sources at {_UNTOUCHED:g} dB or more", {"the least": least}, least=_UNTOUCHED, digits=0)


def _improved(experiments: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{name}, {source}": ours[f"r{i}_PSNR"]["mean"] - ours[f"d{i}_PSNR"]["mean"]
        for name, ours in experiments.items()
        for i, source in ((1, "MRI"), (2, "function"))
    }


def _legible(
    chosen: Mapping[str, Any],
    own: Mapping[str, Mapping[str, float]],
    peers: Mapping[str, Any],
    methods: Sequence[str],
    metrics: Sequence[str],
) -> list[Goal]:
    """Return the goals of a fused image in which both sources can be read, beside the published methods."""
    clean, boards = chosen["clean"], _boards(chosen, peers, methods, metrics)
    shares = kept(chosen, own)
    bounds = {"anatomy_corr": (0.82, 1.0), "anatomy_gain": (0.8, 1.1), "function_gain": (0.78, 1.1)}
    return [
        *(
            Goal(f"fused, clean: {key}, {low:g} to {high:g}", {key: clean[key]["mean"]}, low, high, _DIGITS)
            for key, (low, high) in {**bounds, "uptake_rank": (0.87, 1.0)}.items()
        ),
        Goal(
            "fused: share of the restored sources' detail that is kept, over that of clean ones, at least 0.9",
            {f"{s}, {k}": v for (s, k), v in shares.items() if k in bounds},
            least=0.9,
        ),
        Goal(
            "fused: rank of the uptake over that of clean sources, at least 0.99",
            {s: v for (s, k), v in shares.items() if k == ANATOMY[-1]},
            least=0.99,
            digits=_DIGITS,
        ),
        Goal(
            "fused: % above the best published method in SSIM, SCD, QG, at least 0",
            {f"{s}, {k}": 100 * board.lead(k) for s, board in boards.items() for k in ("SSIM", "SCD", "QG")},
            least=0,
        ),
        Goal(
            "fused: Qabf less that of the best published method, at least -0.01",
            {s: chosen[s]["Qabf"]["mean"] - max(peers[s][m]["Qabf"] for m in methods) for s in SCENARIOS},
            least=-0.01,
            digits=_DIGITS,
        ),
        Goal(
            "fused: SSIM_min less that of IFCNN, at least 0",
            {
                s: chosen[s]["SSIM_min"]["mean"] - (board.scores["IFCNN"]["SSIM_min"] or 0)
                for s, board in boards.items()
            },
            least=0,
            digits=_DIGITS,
        ),
    ]


def _boards(
    chosen: Mapping[str, Any], peers: Mapping[str, Any], methods: Sequence[str], metrics: Sequence[str]
) -> dict[str, Scoreboard]:
    return {s: scoreboard(chosen[s], peers[s], methods, metrics) for s in SCENARIOS}


def _fused(
    chosen: Mapping[str, Any],
    peers: Mapping[str, Any],
    methods: Sequence[str],
    metrics: Sequence[str],
    *,
    best: Sequence[str],
) -> list[Goal]:
    """Return the goals of the fused image, beside the methods that are no floors."""
    boards = _boards(chosen, peers, methods, metrics)
    lead = {(s, k): 100 * board.lead(k) for s, board in boards.items() for k in metrics}
    others = [k for k in metrics if k not in best]
    rank = {s: min(board.ranks[m] for m in methods) - board.ranks[OURS] for s, board in boards.items()}
    return [
        Goal(
            f"fused: % above the best other method in {', '.join(best)}, at least 0",
            {f"{s}, {k}": lead[s, k] for s in boards for k in best},
            least=0,
        ),
        Goal(
            f"fused: % above the best other method in {', '.join(others)}, at least -5",
            {f"{s}, {k}": lead[s, k] for s in boards for k in others},
            least=-5,
        ),
        Goal("fused: mean rank before that of the best other method, at least 0", rank, least=0),
    ]
