"""Fits what `medfuse.regions.intervals` needs, and counts how often its intervals hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from medfuse.io.atomic import atomic_file
from medfuse.regions.intervals import LEVELS

CALIBRATION = Path(__file__).resolve().parents[2] / "medfuse" / "regions" / "calibration.json"
_TINY = 1e-4  # of full range: below it no error is told from another


@dataclass(frozen=True, eq=False)
class Voxels:
    """Voxels of a case: what it counts as, size of their errors **[N]**, features **[N, 3]**, and a kind **[N]**.

    `steps` is one of `medfuse.regions.intervals.KINDS`, of which each is calibrated by itself; empty for all as one.
    """

    of: str
    error: np.ndarray
    features: np.ndarray
    kind: np.ndarray | None = None
    steps: str = ""


@dataclass(frozen=True, eq=False)
class Regions:
    """Regions of a case: what it counts as, its steps, and a row of `region_row` for each **[N]**."""

    of: str
    steps: str
    kind: np.ndarray
    voxels: np.ndarray
    error: np.ndarray
    drawn: np.ndarray
    invented: np.ndarray
    corrected: np.ndarray
    independent: np.ndarray

    @classmethod
    def of_rows(cls, of: str, rows: Sequence[tuple[Any, ...]], steps: str = "") -> Regions:
        """Make them of a row for each region."""
        return cls(of, steps, *(np.array(column) for column in zip(*rows, strict=True)))


def region_row(
    kind: str,
    region: np.ndarray,
    *,
    error: np.ndarray,
    draws: np.ndarray,
    invented: np.ndarray,
    corrected: np.ndarray,
    std: np.ndarray,
    level: float = 1.0,
) -> tuple[Any, ...]:
    """Return what counts of a region, fractions of full range.

    Its kind and number of voxels; sizes of the means of the error, of the draws (root mean square, by `level`), of what
    was invented, of what was corrected, the restored less the given source; and the deviation as if its voxels were
    independent.
    """
    count = int(region.sum())
    drawn = level * float(np.sqrt(np.mean([draw[region].mean() ** 2 for draw in draws])))
    means = [abs(float(values[region].mean())) for values in (invented, corrected)]
    alone = float(np.sqrt(np.square(std[region]).mean() / count))
    return kind, count, abs(float(error[region].mean())), drawn, *means, alone


def fitted_voxels(error: np.ndarray, features: np.ndarray, *, homogeneous: bool = False) -> dict[str, Any]:
    """Return powers and factors: the scale of a Laplace variable by the features, then the quantiles of the ratio.

    Homogeneous: the powers sum up to 1, so that an image of twice the values has twice the deviation.
    """
    if homogeneous:
        own = features[:, :1]
        found = fitted_voxels(error * np.exp(-own[:, 0]), features[:, 1:] - own)
        one, two = found["powers"]
        return {"powers": [round(1 - one - two, 4), one, two], "factors": found["factors"]}
    known = np.column_stack([np.ones(len(error)), features - features.mean(0)])

    def loss(b: np.ndarray) -> tuple[float, np.ndarray]:
        log = known @ b
        ratio = (error + _TINY) * np.exp(-log)
        return float((log + ratio).mean()), known.T @ (1 - ratio) / len(error)

    start = np.zeros(known.shape[1])
    start[0] = np.log(np.mean(error + _TINY))
    powers = minimize(loss, start, jac=True, method="L-BFGS-B").x[1:]
    return {"powers": powers.round(4).tolist(), "factors": _quantiles(error * np.exp(-features @ powers))}


def fitted_regions(found: Regions, *, lesions: bool = False) -> dict[str, Any]:
    """Return terms and factors, likewise; the term of the draws is 1, which the factors scale.

    Args:
        found: Of all cases.
        lesions: Whether the lesions, which are fewer, count as much as all other regions together.
    """
    weights = np.ones(len(found.error))
    if lesions:
        of_lesions = found.kind == "lesion"
        weights[of_lesions] = (~of_lesions).sum() / of_lesions.sum()
    weights /= weights.sum()
    squares = np.stack([found.drawn**2, found.invented**2, found.corrected**2], 1)
    error = found.error + _TINY

    def loss(t: np.ndarray) -> tuple[float, np.ndarray]:
        shares = np.exp(2 * t)
        scale = np.sqrt(squares @ shares + _TINY**2)
        slope = (1 / scale - error / scale**2) / scale
        return float(weights @ (np.log(scale) + error / scale)), ((weights * slope) @ squares) * shares

    terms = minimize(loss, np.full(3, -0.5), jac=True, method="L-BFGS-B", bounds=[(-6.0, 4.0)] * 3).x
    _, invented, corrected = np.exp(terms - terms[0]).round(3).tolist()
    deviation = np.sqrt(squares @ np.array([1.0, invented**2, corrected**2]))
    factors = _quantiles(found.error / np.maximum(deviation, 1e-9), weights)
    return {"draws": 1.0, "invented": invented, "corrected": corrected, "factors": factors}


def report(
    voxels: Sequence[Voxels],
    regions: Sequence[Regions],
    *,
    calibrating: Callable[[str], bool],
    plain: bool = False,
    homogeneous: bool = False,
    lesions: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what was calibrated, by steps, and how often intervals hold, %, by what cases count as and by kind.

    Args:
        voxels: Of all cases.
        regions: Likewise.
        calibrating: Whether cases that count as something are of the calibration.
        homogeneous: As `fitted_voxels`.
        lesions: As `fitted_regions`.
        plain: The features are the logarithm of a deviation alone; nothing but factors is found.
    """
    known: dict[str, Any] = {"voxel": {}, "region": {}}
    for steps in dict.fromkeys(v.steps for v in voxels if calibrating(v.of)):
        own = [v for v in voxels if calibrating(v.of) and v.steps == steps]
        error, features = (np.concatenate([getattr(v, key) for v in own]) for key in ("error", "features"))
        if plain:
            factors = _quantiles(error * np.exp(-features[:, 0]))
            known["voxel"][steps] = {"powers": [1.0], "factors": factors}
        else:
            known["voxel"][steps] = fitted_voxels(error, features, homogeneous=homogeneous)
        some = [r for r in regions if calibrating(r.of) and r.steps == steps]
        if some:
            known["region"][steps] = fitted_regions(_joined(some), lesions=lesions)
    table: dict[str, Any] = {"levels": LEVELS, **known}
    for of in dict.fromkeys(v.of for v in voxels):
        same = [v for v in voxels if v.of == of]
        error = np.concatenate([v.error for v in same])
        widths = np.concatenate([_of_voxels(v, known["voxel"][v.steps]) for v in same])
        row = _held(error, widths)
        thirds = np.array_split(np.argsort(widths[:, -1]), 3)
        row["thirds"] = [coverage(error[t], widths[t])[-1] for t in thirds]
        if same[0].kind is not None:
            kinds = np.concatenate([v.kind for v in same if v.kind is not None])
            row["kinds"] = {str(k): coverage(error[kinds == k], widths[kinds == k])[-1] for k in np.unique(kinds)}
        table[f"voxels, {of}"] = row
    for of in dict.fromkeys(r.of for r in regions):
        same = [r for r in regions if r.of == of]
        found, widths = _joined(same), np.concatenate([_of_regions(r, known["region"][r.steps]) for r in same])
        for kind in np.unique(found.kind):
            i = found.kind == kind
            alone = coverage(found.error[i], 1.96 * found.independent[i, None])[0]
            held = {"count": int(i.sum()), **_held(found.error[i], widths[i])}
            table[f"regions, {of}, {kind}"] = held | {"as if voxels were independent, 95": alone}
    return known, table


def coverage(error: np.ndarray, widths: np.ndarray) -> list[float]:
    """Return the share of errors within half widths **[N, L]**, %, at each level."""
    return [round(100 * float((error <= width).mean()), 1) for width in widths.T]


def held(table: dict[str, Any], cases: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the share of regions within 95 %, %, by what cases count as and by kind; the first are told right.

    Args:
        table: As `report` returns it.
        cases: What is looked at.
    """
    return {
        "told right" if k == 0 else of: {
            name.rsplit(", ", 1)[1]: row["coverage"][-1]
            for name, row in table.items()
            if name.startswith(f"regions, {of}, ")
        }
        for k, of in enumerate(cases)
    }


def kept(folder: Path | None, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return what was made under a name: from the folder where it is there; else make it, and keep it there."""
    if folder is None:
        return make()
    path = folder / f"{name}.npz"
    if not path.exists():
        found = make()
        with atomic_file(path) as file:
            np.savez(file, **found)
    with np.load(path) as there:
        return dict(there)


def write(found: dict[str, Any]) -> None:
    """Put what was calibrated into the package, beside what is there."""
    known = json.loads(CALIBRATION.read_text()) if CALIBRATION.exists() else {}
    CALIBRATION.write_text(json.dumps(known | found, indent=1, sort_keys=True) + "\n")


def _of_voxels(voxels: Voxels, fitted: dict[str, Any]) -> np.ndarray:
    """Return half widths **[N, L]** at each level."""
    return np.exp(voxels.features @ np.array(fitted["powers"]))[:, None] * np.array(fitted["factors"])


def _of_regions(regions: Regions, fitted: dict[str, Any]) -> np.ndarray:
    """Return half widths **[N, L]** at each level."""
    terms = np.array([fitted[key] for key in ("draws", "invented", "corrected")])
    parts = np.stack([regions.drawn, regions.invented, regions.corrected], 1)
    return np.sqrt((parts * terms) ** 2 @ np.ones(3))[:, None] * np.array(fitted["factors"])


def _held(error: np.ndarray, widths: np.ndarray) -> dict[str, Any]:
    """Return the coverage, and the mean width at 95 % over that of a constant of the same coverage."""
    found = coverage(error, widths)
    constant = max(float(np.quantile(error, found[-1] / 100)), 1e-9)
    return {"coverage": found, "width over constant": round(float(widths[:, -1].mean()) / constant, 2)}


def _quantiles(ratio: np.ndarray, weights: np.ndarray | None = None) -> list[float]:
    method = "linear" if weights is None else "inverted_cdf"
    return [round(float(v), 4) for v in np.quantile(ratio, LEVELS, weights=weights, method=method)]


def _joined(regions: Sequence[Regions]) -> Regions:
    keys = ("kind", "voxels", "error", "drawn", "invented", "corrected", "independent")
    return Regions(
        regions[0].of, regions[0].steps, *(np.concatenate([getattr(r, key) for r in regions]) for key in keys)
    )
