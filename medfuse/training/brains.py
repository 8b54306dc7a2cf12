"""Brains that phantoms of volumes are drawn from: two templates that are read from disk, and one that is a formula.

| brain | where it is from |
|---|---|
| `icbm152` | ICBM152 2009a, average of 152 people; `t1`, `gm` and `wm.nii.gz` of one folder, from McGill or `nilearn` |
| `colin27` | one person scanned 27 times; `ch2bet.nii.gz` of Debian's package `mricron-data` |
| `analytic` | ellipsoids with a folded cortex, made of a formula: no data |

Nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medfuse.errors import BundleError
from medfuse.training.phantoms import load_atlas

Volume = NDArray[np.float32]

COLIN27 = Path("/usr/share/mricron/templates/ch2bet.nii.gz")
"""Where Debian's package `mricron-data` puts the skull-stripped Colin27."""

# Half axes and middle of the ellipsoid that holds the deep nuclei, MNI mm; grey matter in it is deep.
_DEEP_AXES, _DEEP_CENTRE = (31, 31, 19), (0, -6, 4)
_RIM = 18  # mm below the surface of the brain, where thin grey is the border of ventricle and white matter
_FOLD, _SULCUS, _CORTEX = 8.0, 14.0, 3.2  # mm: scale of folds, depth of sulci, thickness of the cortex of the formula
_MARGIN = 3  # voxels of air round a brain


@dataclass(frozen=True)
class Brain:
    """Tissues of a brain on a grid of 1 mm, axes (right, anterior, superior), cut to the brain.

    Attributes:
        name: Its name.
        t1: T1 image without skull, shape `[D, H, W]`, range 0..1, zero outside.
        tissues: Share of (grey, white, csf, deep grey), shape `[4, D, H, W]`, range 0..1; their sum is the brain.
    """

    name: str
    t1: Volume
    tissues: Volume


def icbm152(folder: str | Path) -> Brain:
    """Load the ICBM152 template from `t1`, `gm` and `wm.nii.gz`, 8 bit, of a folder.

    `nilearn.datasets.load_mni152_template`, `load_mni152_gm_template` and `load_mni152_wm_template` hold them, too.

    Raises:
        BundleError: A volume is missing.
        GeometryError: They are not on one grid.
    """
    atlas = load_atlas(folder)
    affine = nib.as_closest_canonical(nib.load(Path(folder) / "t1.nii.gz")).affine
    inside = _solid(atlas.t1 > 0.02)
    csf = np.clip(1 - atlas.gm - atlas.wm, 0, 1)
    return _brain("icbm152", atlas.t1, np.stack([atlas.gm, atlas.wm, csf]) * inside, affine)


def colin27(path: str | Path = COLIN27) -> Brain:
    """Load Colin27 without its skull, and find its tissues by intensity.

    Shares of tissue go linearly from one mean intensity of (csf, grey, white) to the next. Thin grey well below the
    surface is the border of ventricle and white matter, and becomes white.

    Raises:
        BundleError: The file is missing.
    """
    if not Path(path).is_file():
        raise BundleError(f"Colin27 must be at {path}, got no file; install Debian's package mricron-data.")
    image = nib.as_closest_canonical(nib.load(path))
    t1 = np.asarray(image.dataobj, np.float32)
    inside = _solid(t1 > 0.05 * t1.max())
    csf, grey, white = _means(t1[inside])
    t1 = t1 * inside / white
    csf, grey = csf / white, grey / white
    to_white = np.clip((t1 - grey) / (1 - grey), 0, 1)
    to_csf = np.clip((grey - t1) / (grey - csf), 0, 1)
    shares = np.stack([1 - to_white - to_csf, to_white, to_csf]) * inside
    deep_down = ndimage.distance_transform_edt(inside) > _RIM
    thin = deep_down & (shares[0] > 0.5) & ~ndimage.binary_opening(shares[0] > 0.5, iterations=2)
    shares[1][thin] += shares[0][thin]
    shares[0][thin] = 0
    return _brain("colin27", np.clip(t1, 0, 1.2) / 1.2, shares, image.affine)


def brains_of(dataset_dir: str | Path, colin: str | Path = "") -> list[Brain]:
    """Load the brains that can be had: ICBM152 of `volumes/mni152` in the data folder, and Colin27.

    Args:
        dataset_dir: Folder of the data.
        colin: Colin27; where it is empty, where Debian's package puts it, if it is there.

    Raises:
        BundleError: There is no ICBM152, or no Colin27 where it was said to be.
    """
    template = icbm152(Path(dataset_dir) / "volumes" / "mni152")
    return [template, colin27(colin or COLIN27)] if colin or COLIN27.is_file() else [template]


def analytic(size: float = 1.0) -> Brain:
    """Return a brain of ellipsoids with a folded cortex, deep nuclei and ventricles, from a formula alone.

    Args:
        size: Its size; 1 is that of an adult, half axes of 66, 82 and 60 mm.
    """
    axes = np.array([66.0, 82.0, 60.0]) * size
    half = np.ceil(axes).astype(int) + _MARGIN + 1
    x, y, z = (np.arange(-h, h + 1, dtype=np.float32).reshape(np.roll((-1, 1, 1), d)) for d, h in enumerate(half))
    unit = np.sqrt((x / axes[0]) ** 2 + (y / axes[1]) ** 2 + (z / axes[2]) ** 2)
    depth = (1 - unit) * float(axes.mean())  # about mm below the surface
    u, v, w = x / _FOLD, y / _FOLD, z / _FOLD
    gyroid = np.sin(u) * np.cos(v) + np.sin(v) * np.cos(w) + np.sin(w) * np.cos(u)
    # mm from the nearest cleft between folds, to whose bottom it is `_SULCUS` mm from the surface
    cleft = np.hypot(np.abs(gyroid) * 0.75 * _FOLD, np.clip(depth - _SULCUS, 0, None)) - 0.8
    pial = np.minimum(depth - 1.5, cleft)

    def ellipsoid(centre: tuple[float, float, float], half_axes: tuple[float, float, float]) -> Volume:
        a, c = np.array(half_axes) * size, np.array(centre) * size
        r = np.sqrt(((np.abs(x) - c[0]) / a[0]) ** 2 + ((y - c[1]) / a[1]) ** 2 + ((z - c[2]) / a[2]) ** 2)
        return _soft((1 - r) * float(a.min()))

    inside = _soft(depth)
    ventricle = ellipsoid((9, -5, 10), (6, 25, 9))
    csf = np.maximum(_soft(-pial), ventricle)
    deep = np.maximum(ellipsoid((22, 2, 0), (7, 16, 10)), ellipsoid((12, -18, 2), (8, 11, 8))) * (1 - csf)
    grey = _soft(_CORTEX - pial) * (1 - csf) * (1 - deep)
    tissues = np.stack([grey, 1 - csf - deep - grey, csf, deep]).clip(0) * inside
    t1 = np.tensordot(np.array([0.6, 0.85, 0.2, 0.66], np.float32), tissues, 1)
    return Brain("analytic", t1.astype(np.float32), tissues.astype(np.float32))


def _brain(name: str, t1: Volume, shares: Volume, affine: NDArray[np.float64]) -> Brain:
    """Cut to the brain, and part the deep nuclei from the cortex by their place in MNI space."""
    mm = [(affine[d, d] * np.arange(n) + affine[d, 3]).reshape(np.roll((-1, 1, 1), d)) for d, n in enumerate(t1.shape)]
    radius = sum(((at - c) / a) ** 2 for at, c, a in zip(mm, _DEEP_CENTRE, _DEEP_AXES, strict=True))
    grey, white, csf = shares
    tissues = np.stack([grey * (radius >= 1), white, csf, grey * (radius < 1)]).astype(np.float32)
    found = ndimage.find_objects((shares.sum(0) > 0.5).astype(np.uint8))[0]
    cut = tuple(slice(max(s.start - _MARGIN, 0), s.stop + _MARGIN) for s in found)
    return Brain(name, np.ascontiguousarray(t1[cut], np.float32), np.ascontiguousarray(tissues[:, *cut]))


def _solid(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest piece of a mask, its holes filled."""
    pieces, _ = ndimage.label(ndimage.binary_opening(mask, iterations=2))
    largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    return np.asarray(ndimage.binary_fill_holes(ndimage.binary_dilation(largest, iterations=2) & mask))


def _means(values: Volume) -> tuple[float, float, float]:
    """Return the mean intensities of (csf, grey, white), by k-means."""
    means = np.percentile(values, [5, 45, 85])
    for _ in range(30):
        nearest = np.abs(values[:, None] - means).argmin(1)
        means = np.array([values[nearest == k].mean() for k in range(3)])
    return float(means[0]), float(means[1]), float(means[2])


def _soft(depth: Volume, width: float = 0.5) -> Volume:
    """Return the share of a voxel that is on the positive side of a border, given its distance from it, mm."""
    return np.asarray(np.clip(depth / (2 * width) + 0.5, 0, 1), np.float32)
