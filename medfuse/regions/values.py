"""Values of a PET, given and restored: whole image and labelled regions, in its unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from scipy.fft import irfftn, next_fast_len, rfftn

from medfuse.errors import GeometryError

PEAK_ML = 1.0
_BLOCK = 1 << 20  # voxels of a volume that are looked at at once
_LARGE = 1 << 24  # voxels, from which one volume is measured after the other
_FEWEST = 7  # voxels in the sphere of a peak; with fewer, a peak is hardly more than the maximum


def region_values(
    given: Any, restored: Any, *, affine: Any, labels: Any = None, inside: Any = None
) -> list[dict[str, Any]]:
    """Return the figures of a source and of its restoration, region by region.

    Mean, standard deviation (of the voxels, over n), maximum, peak and total. The peak is the largest mean over a
    sphere of 1 ml whose centre lies in the region, as SUVpeak of PERCIST and the global intensity peak of IBSI; of a
    sphere that leaves what was measured, over its voxels within. It is None where the voxels are too coarse for such a
    sphere. The total is mean times volume: of an SUV the total lesion glycolysis (TLG), in ml.

    Args:
        given: The source **[X, Y, Z]** in its unit, finite.
        restored: The same, restored.
        affine: **[4, 4]**, voxel index to mm.
        labels: Label of each voxel **[X, Y, Z]**, rounded to integers, 0 for none; **[L, X, Y, Z]** where regions
            overlap, each in one layer; or None.
        inside: Voxels that were measured, bool **[X, Y, Z]**: the others do not count in the whole image, nor in the
            sphere of a peak; None for all. Labels are to hold none of the others.

    Returns:
        The whole image (`label` None), then each label above 0, ascending: `label`, `volume_ml`, and under `given` and
        `restored` each `mean`, `sd`, `max`, `peak` and `tlg`.

    Raises:
        GeometryError: If the shapes differ.

    Reference:
        Wahl et al., From RECIST to PERCIST (J Nucl Med 2009): SUVpeak; Zwanenburg et al. (Radiology 2020), reference
        manual of IBSI, global intensity peak (0F91), whose implementations count in a sphere what lies in the image;
        Larson et al. (Clin Positron Imaging 1999): TLG.
    """
    volumes = {"given": as_array(given), "restored": as_array(restored)}
    layers = layers_of(labels)
    measured = None if inside is None else as_array(inside).astype(bool)
    shapes = {v.shape for v in (*volumes.values(), *layers)}
    if len(shapes) > 1:
        raise GeometryError(f"Volumes and labels must share a grid, got {sorted(shapes)}; resample them.")
    affine = as_array(affine).astype(np.float64)
    sphere = _sphere(np.linalg.norm(affine[:3, :3], axis=0))
    millilitres = voxel_ml(affine)
    found = labels_in(layers)
    at_once = len(volumes) if next(iter(volumes.values())).size <= _LARGE else 1  # each takes memory
    with ThreadPoolExecutor(at_once, "medfuse-regions") as pool:
        rows_of = pool.map(lambda volume: _figures(volume, layers, found, sphere, measured), volumes.values())
    figures = dict(zip(volumes, rows_of, strict=True))
    regions = []
    for row, label in enumerate((None, *found)):
        volume_ml = float(figures["given"][row].pop("voxels") * millilitres)
        figures["restored"][row].pop("voxels")
        each = {kind: rows[row] | {"tlg": rows[row]["mean"] * volume_ml} for kind, rows in figures.items()}
        regions.append({"label": label, "volume_ml": volume_ml, **each})
    return regions


def as_array(values: Any) -> np.ndarray:
    """Return values as an array, also those of a tensor on any device."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def layers_of(labels: Any) -> tuple[np.ndarray, ...]:
    """Return labels as volumes **[X, Y, Z]**; none for None."""
    if labels is None:
        return ()
    marks = as_array(labels)
    return tuple(marks) if marks.ndim == 4 else (marks,)


def labels_in(layers: Sequence[np.ndarray]) -> list[int]:
    """Return the labels above 0 of some volumes, ascending."""
    return sorted({int(v) for layer in layers for plane in layer for v in np.unique(np.rint(plane)) if v > 0})


def voxel_ml(affine: Any) -> float:
    """Return the volume of a voxel in ml."""
    return float(abs(np.linalg.det(np.asarray(affine, dtype=np.float64)[:3, :3])) / 1000.0)


def _figures(
    volume: np.ndarray,
    layers: Sequence[np.ndarray],
    labels: Sequence[int],
    sphere: np.ndarray | None,
    measured: np.ndarray | None,
) -> list[dict[str, Any]]:
    """Return voxels, mean, deviation, maximum and peak of the whole image, then of each label, in float64.

    Where the highest mean over the sphere lies is found in float32; its value is then taken in float64.
    """
    count = len(labels) + 1
    known, level = np.array(labels), float(volume.mean(dtype=np.float64))  # squares are taken about it
    voxels, total, squares = np.zeros(count), np.zeros(count), np.zeros(count)
    highest, peak = np.full(count, -np.inf), np.full(count, -np.inf)
    for planes, means in _blocks(volume, sphere, measured):
        values = volume[..., planes].astype(np.float64)
        off = values.ravel() - level
        seen = np.arange(off.size) if measured is None else np.flatnonzero(measured[..., planes])
        whole = off[seen]
        if whole.size:
            voxels[0] += whole.size
            highest[0] = max(highest[0], values.ravel()[seen].max())
            total[0] += whole.sum()
            squares[0] += whole @ whole
            if means is not None and sphere is not None:
                place = int(seen[means.ravel()[seen].argmax()])
                peak[0] = max(peak[0], _mean_about(volume, place, planes, sphere, measured))
        for layer in layers:
            own = _rows(layer[..., planes], known).ravel()
            (inside,) = np.nonzero(own >= 0)
            where, some = own[inside], off[inside]
            voxels += np.bincount(where, minlength=count)
            total += np.bincount(where, some, count)
            squares += np.bincount(where, some**2, count)
            np.maximum.at(highest, where, values.ravel()[inside])
            if means is not None and sphere is not None:
                seen, best = means.ravel()[inside], np.full(count, -np.inf, np.float32)
                np.maximum.at(best, where, seen)
                (tops,) = np.nonzero(seen == best[where])
                rows, first = np.unique(where[tops], return_index=True)
                for row, place in zip(rows, inside[tops[first]], strict=True):
                    peak[row] = max(peak[row], _mean_about(volume, int(place), planes, sphere, measured))
    mean = total / np.maximum(voxels, 1)
    spread = np.sqrt(np.maximum(squares / np.maximum(voxels, 1) - mean**2, 0.0))
    return [
        {
            "voxels": int(voxels[row]),
            "mean": float(level + mean[row]),
            "sd": float(spread[row]),
            "max": float(highest[row]),
            "peak": None if sphere is None else float(peak[row]),
        }
        for row in range(count)
    ]


def _rows(marks: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the row of each voxel's label, from 1; -1 for none."""
    own = np.rint(marks).astype(np.int64)
    return np.where(own > 0, np.searchsorted(known, own) + 1, -1)


def _blocks(
    volume: np.ndarray, sphere: np.ndarray | None, measured: np.ndarray | None
) -> Iterator[tuple[slice, np.ndarray | None]]:
    """Give some planes after others, and the mean over a sphere about each of their voxels, float32; None without one.

    What lies beyond the volume, or was not measured, counts in no sphere.
    """
    many = max(1, _BLOCK // (volume.shape[0] * volume.shape[1]))
    spectrum, sizes = np.empty(0), (0, 0, 0)
    for first in range(0, volume.shape[2], many):
        planes = slice(first, min(first + many, volume.shape[2]))
        if sphere is None:
            yield planes, None
            continue
        reach = [n // 2 for n in sphere.shape]
        around = slice(max(planes.start - reach[2], 0), planes.stop + reach[2])
        values = volume[..., around].astype(np.float32)
        there = np.ones_like(values) if measured is None else measured[..., around].astype(np.float32)
        sides = zip(values.shape, reach, sphere.shape, strict=True)  # a thin volume is smaller than the sphere
        x, y, z = (next_fast_len(max(n + r, most), real=True) for n, r, most in sides)
        wanted = (x, y, z)
        if wanted != sizes:  # the first and the last planes have less around them
            centred = np.zeros(wanted, np.float32)
            centred[tuple(slice(n) for n in sphere.shape)] = sphere
            spectrum, sizes = rfftn(np.roll(centred, [-r for r in reach], (0, 1, 2))), wanted
        own = np.s_[: volume.shape[0], : volume.shape[1], planes.start - around.start : planes.stop - around.start]
        values *= there
        sums, shares = (_convolved(v, spectrum, sizes)[own].copy() for v in (values, there))
        yield planes, sums / np.maximum(shares, np.float32(sphere.max() / 2))  # at its centre one was measured


def _convolved(volume: np.ndarray, spectrum: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Return a volume, continued by zeros to some sizes, convolved with what has a spectrum."""
    waves = rfftn(volume, sizes)
    waves *= spectrum
    return np.asarray(irfftn(waves, sizes, overwrite_x=True))


def _mean_about(
    volume: np.ndarray, place: int, planes: slice, sphere: np.ndarray, measured: np.ndarray | None
) -> float:
    """Return the mean over what was measured of a sphere about one voxel, in float64.

    Args:
        volume: **[X, Y, Z]**.
        place: Number of the voxel among those of the planes.
        planes: Some planes of the volume.
        sphere: Weights.
        measured: Which voxels were, **[X, Y, Z]**; None for all.
    """
    x, y, z = np.unravel_index(place, (*volume.shape[:2], planes.stop - planes.start))
    starts = [int(c) - n // 2 for c, n in zip((x, y, z + planes.start), sphere.shape, strict=True)]
    around = tuple(slice(max(s, 0), s + n) for s, n in zip(starts, sphere.shape, strict=True))
    values, cut = volume[around].astype(np.float64), [max(-s, 0) for s in starts]
    weights = sphere[tuple(slice(c, c + n) for c, n in zip(cut, values.shape, strict=True))]
    weights = weights if measured is None else weights * measured[around]
    return float((values * weights).sum() / weights.sum())


def _sphere(spacing: np.ndarray) -> np.ndarray | None:
    """Return a mean over 1 ml as a kernel; None where it would hold too few voxels."""
    radius = (3.0 * 1000.0 * PEAK_ML / (4.0 * np.pi)) ** (1.0 / 3.0)  # mm
    reach = [int(radius // s) for s in spacing]
    index = np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij")
    inside = sum((i * s) ** 2 for i, s in zip(index, spacing, strict=True)) <= radius**2
    return None if inside.sum() < _FEWEST else inside / inside.sum()
