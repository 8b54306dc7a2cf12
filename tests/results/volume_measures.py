"""What is measured of a restored volume whose truth is known, in uptake units: white matter takes up 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from results.volume_scenes import Problem, brain_mask
from torch import Tensor

from medfuse.training.phantoms import Lesion
from medfuse.training.volumes import Tissue

REGIONS = {"grey": Tissue.GREY, "white": Tissue.WHITE, "deep": Tissue.DEEP}
_NAMES = {Lesion.PET_HOT: "hot", Lesion.PET_COLD: "cold", Lesion.MRI: "MRI-only"}


def rmse(x: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Return the root mean square error in a mask."""
    return float(np.sqrt(np.mean((x - truth)[mask].astype(np.float64) ** 2)))


def flicker(x: np.ndarray, mask: np.ndarray) -> float:
    """Return the mean square difference of neighbours through the plane over that within it, in a mask."""
    squares = []
    for axis in range(3):
        a, b = (np.moveaxis(v, axis, 0) for v in (x.astype(np.float64), mask))
        squares.append(np.mean((a[1:] - a[:-1])[b[1:] & b[:-1]] ** 2))
    return float(squares[2] / (0.5 * (squares[0] + squares[1])))


def figures(p: Problem, stack: Tensor) -> dict[str, float]:
    """Return the figures of a restored stack, by name, of the voxels that the PET measured."""
    xs, measured = stack.numpy(), p.operator.seen.numpy()
    brain, whole, twin = measured & brain_mask(p.labels), p.phantoms["all"].pet, p.phantoms["none"].pet
    found = {
        "RMSE": rmse(xs[0], whole, brain),
        "RMSE, lesion-free": rmse(xs[1], twin, brain),
        **{f"bias {n}, %": bias(xs[1], twin, measured & (p.labels == k)) for n, k in REGIONS.items()},
        "total, %": bias(xs[0], whole, measured),
        "gradients": flicker(xs[0], brain) / flicker(whole, brain),
    }
    return found | (chi_square(p, stack) if len(stack) > 3 else {})


def bias(x: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Return by how many percent the mean of a whole region, its borders included, is off."""
    return float(100 * (x[mask].mean(dtype=np.float64) / truth[mask].mean(dtype=np.float64) - 1))


def chi_square(p: Problem, stack: Tensor) -> dict[str, float]:
    """Return the chi-square on the PET's grid, and the same corrected for the degrees of freedom.

    They are told by a draw of the noise, which the last of the stack was given on top: of its square, what is not left.
    """
    model = p.model.at(stack[0])
    chi2, df = model.chi2(stack[0]), model.followed(p.probe, stack[3] - stack[0])
    return {"chi-square": chi2, "degrees of freedom": df, "corrected chi-square": chi2 / max(1 - df, 0.05)}


def lesions(p: Problem, stack: Tensor) -> list[dict[str, float | str]]:
    """Return each lesion's kind, radius and figures, in percent.

    `contrast`: difference to the twin without lesions, over that of the truth. `changed`: of an MRI-only lesion, what
    is restored with it less what is restored without it, same noise, over the truth's mean. `error`: mean error there.
    """
    xs, head = stack.numpy(), p.phantoms["all"]
    whole, twin = head.pet, p.phantoms["none"].pet
    rows: list[dict[str, float | str]] = []
    for k, lesion in enumerate(head.lesions):
        inside = head.marks == k + 1
        row: dict[str, float | str] = {"kind": _NAMES[lesion.kind], "radius": lesion.radius}
        mean = whole[inside].mean(dtype=np.float64)
        if lesion.kind is Lesion.MRI:
            row["changed"] = float(100 * (xs[0] - xs[2])[inside].mean(dtype=np.float64) / mean)
        else:
            row["contrast"] = float(
                100 * (xs[0] - xs[1])[inside].mean(dtype=np.float64) / (whole - twin)[inside].mean(dtype=np.float64)
            )
        row["error"] = float(100 * (xs[0] - whole)[inside].mean(dtype=np.float64) / mean)
        rows.append(row)
    return rows


def interval(values: Sequence[float]) -> dict[str, float | int | list[float]]:
    """Return mean and 95 % bootstrap interval of the mean."""
    v = np.asarray(values, float)
    draws = np.random.default_rng(0).choice(v, (2000, len(v))).mean(1)
    low, high = np.percentile(draws, [2.5, 97.5]).tolist()
    return {"mean": float(v.mean()), "interval": [low, high], "n": len(v)}


def seeds_interval(values: Sequence[float]) -> dict[str, float | int | list[float] | None]:
    """Return mean and 95 % interval of Student's t over a few seeds; there is none of a single one."""
    v = np.asarray(values, float)
    if len(v) < 2:
        return {"mean": float(v.mean()), "interval": None, "n": len(v)}
    half = _STUDENT[min(len(v) - 2, len(_STUDENT) - 1)] * v.std(ddof=1) / np.sqrt(len(v))
    return {"mean": float(v.mean()), "interval": [float(v.mean() - half), float(v.mean() + half)], "n": len(v)}


_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Quantiles 0.975 of Student's t for 1, 2, ... degrees of freedom."""
