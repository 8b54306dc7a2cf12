"""PET-MRI phantoms with known lesions, drawn from the tissue maps of a brain template.

A phantom is a matched pair on one grid: an MRI of random contrast (T1-, T2- or PD-like, with the template's texture)
and an FDG-like PET (grey to white matter about 4:1), with lesions that show in both, in the PET or in the MRI alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.random import Generator
from scipy import ndimage

from medfuse.errors import BundleError, GeometryError

PLANES = ("sagittal", "coronal", "axial")

# Nominal (grey, white, csf) MRI intensities of each contrast; every phantom jitters them.
CONTRASTS = {"t1": (0.60, 0.85, 0.20), "t2": (0.60, 0.42, 0.95), "pd": (0.88, 0.70, 0.95)}
# Share of each `Lesion`: hardly any shows in both, or a network would take every lesion of the MRI for one of the PET.
_LESION_SHARES = (0.1, 0.3, 0.3, 0.3)
_FWHM_TO_SIGMA = 1 / (2 * np.sqrt(2 * np.log(2)))


class Lesion(IntEnum):
    """Label of a lesion in `Phantom.labels`, by where it shows; 0 is no lesion."""

    BOTH = 1
    PET_HOT = 2
    PET_COLD = 3
    MRI = 4


@dataclass(frozen=True)
class Atlas:
    """A skull-stripped template on an isotropic grid with axes (right, anterior, superior).

    Attributes:
        t1: T1 image, shape `[D, H, W]`, range 0..1, zero outside the brain.
        gm: Grey-matter probability, same shape, range 0..1.
        wm: White-matter probability, same shape, range 0..1.
    """

    t1: np.ndarray
    gm: np.ndarray
    wm: np.ndarray


@dataclass(frozen=True)
class Phantom:
    """A matched PET-MRI pair with its truth.

    Attributes:
        mri: MRI, shape of the tissue maps, about 0..1, float32.
        pet: Uptake, same shape, float32; 1 is the mean uptake of white matter.
        labels: `Lesion` of each pixel, same shape, uint8, 0 for none.
    """

    mri: np.ndarray
    pet: np.ndarray
    labels: np.ndarray


def load_atlas(folder: str | Path) -> Atlas:
    """Load `t1.nii.gz`, `gm.nii.gz` and `wm.nii.gz` (8 bit, ICBM152) of a folder.

    Args:
        folder: Folder that holds the three volumes on one grid.

    Returns:
        The template in canonical (right, anterior, superior) order.

    Raises:
        BundleError: A volume is missing.
        GeometryError: The volumes are not on one grid.
    """
    images = []
    for name in ("t1", "gm", "wm"):
        path = Path(folder) / f"{name}.nii.gz"
        if not path.is_file():
            raise BundleError(f"The atlas folder must hold {path.name}, got none; copy it there.")
        images.append(nib.as_closest_canonical(nib.load(path)))
    if len({image.shape for image in images}) > 1 or not all(np.allclose(i.affine, images[0].affine) for i in images):
        raise GeometryError("The atlas volumes must be on one grid, got several; resample them to the T1.")
    t1, gm, wm = (np.asarray(image.dataobj, dtype=np.float32) / 255 for image in images)
    return Atlas(t1, gm, wm)


def random_slice(atlas: Atlas, plane: str, *, seed: int | Sequence[int], size: int = 208) -> tuple[np.ndarray, ...]:
    """Cut a random, slightly oblique and smoothly deformed slice through a template.

    Args:
        atlas: Template.
        plane: `sagittal`, `coronal` or `axial`; the cut is tilted by up to 12 degrees from it.
        seed: Seed of everything random.
        size: Side of the square slice, px of the template's voxel size.

    Returns:
        `(t1, gm, wm)` of the cut, each of shape `[size, size]`, range 0..1; rows run downwards in space.

    Raises:
        GeometryError: The plane is unknown.
    """
    if plane not in PLANES:
        raise GeometryError(f"The plane must be one of {', '.join(PLANES)}, got {plane!r}; choose one of them.")
    rng = np.random.default_rng(seed)
    normal = PLANES.index(plane)
    shape = np.array(atlas.t1.shape)
    first, second = (axis for axis in range(3) if axis != normal)

    # Slice axes (row, column, normal) as columns: rows follow the second axis downwards, columns the first.
    axes = np.zeros((3, 3))
    axes[second, 0], axes[first, 1], axes[normal, 2] = -1, 1, 1
    axes = rotation(rng.uniform(-12, 12, 3)) @ axes / rng.uniform(0.88, 1.15)
    centre = (shape - 1) / 2
    centre[normal] = shape[normal] * rng.uniform(0.22, 0.78)
    centre += rng.uniform(-6, 6, 3) * (np.arange(3) != normal)

    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    points = np.stack([rows, columns, np.zeros_like(rows)])
    coordinates = np.tensordot(axes, points, 1) + centre[:, None, None]
    coordinates += np.stack([3 * smooth_field((size, size), 40, rng) for _ in range(3)])
    t1 = ndimage.map_coordinates(atlas.t1, coordinates, order=3, prefilter=False)
    gm, wm = (ndimage.map_coordinates(tissue, coordinates, order=1) for tissue in (atlas.gm, atlas.wm))
    return np.clip(t1, 0, 1), gm, wm


def make_phantom(
    t1: np.ndarray,
    gm: np.ndarray,
    wm: np.ndarray,
    *,
    seed: int | Sequence[int],
    lesions: int | None = None,
    deformation: float = 3.0,
    contrast: str | None = None,
    fwhm: float | None = None,
) -> Phantom:
    """Draw a PET-MRI phantom on the grid of a slice or volume of tissue maps.

    The same seed with `lesions=0` gives the lesion-free twin: the same pair, different in the lesions alone.

    Args:
        t1: Skull-stripped T1 image, shape `[H, W]` or `[D, H, W]`, range 0..1, isotropic pixels.
        gm: Grey-matter probability, same shape, range 0..1.
        wm: White-matter probability, same shape, range 0..1.
        seed: Seed of everything random.
        lesions: Number of lesions tried; 0 to 6 at random if none is given. One that would touch another is left out.
        deformation: Root mean square of the smooth random deformation, px; 0 for none.
        contrast: MRI contrast, `t1`, `t2` or `pd`; random if none is given.
        fwhm: Resolution of the PET that is taken for the truth, px; 1.5 to 5 at random if none is given.

    Returns:
        The pair and its lesion labels.

    Raises:
        GeometryError: The maps differ in shape, are not 2-D or 3-D, or hold no brain; or the contrast is unknown.
    """
    if t1.ndim not in (2, 3) or not t1.shape == gm.shape == wm.shape:
        raise GeometryError(
            f"The maps must be 2-D or 3-D and of one shape, got {t1.shape}, {gm.shape}, {wm.shape}; resample them."
        )
    if contrast is not None and contrast not in CONTRASTS:
        raise GeometryError(f"The contrast must be one of {', '.join(CONTRASTS)}, got {contrast!r}; choose one.")
    if not (gm + wm > 0.5).any():
        raise GeometryError("The tissue maps must hold brain tissue, got none; choose another slice.")
    rng = np.random.default_rng(seed)
    if deformation > 0:
        t1, gm, wm = _deform((t1, gm, wm), deformation, rng)
    tissues = _tissues(t1, gm, wm, hardness=rng.uniform(1, 4))
    rings = _head(tissues.sum(0) > 0.5, rng) if rng.random() < 0.6 else np.zeros((2, *t1.shape))
    mri = _draw_mri(t1, tissues, rings, contrast or rng.choice(list(CONTRASTS)), rng)
    pet = _draw_pet(tissues, rings, rng)
    drawn = rng.uniform(1.5, 5)
    sigma = (drawn if fwhm is None else fwhm) * _FWHM_TO_SIGMA
    labels = np.zeros(t1.shape, np.uint8)
    number = int(rng.integers(7))
    _add_lesions(mri, pet, labels, tissues, number if lesions is None else lesions, rng)
    pet = ndimage.gaussian_filter(pet, sigma)
    return Phantom(mri.astype(np.float32), pet.astype(np.float32), labels)


def random_phantoms(atlas: Atlas, count: int, *, seed: int, size: int = 208) -> list[Phantom]:
    """Draw 2-D phantoms through a template, the planes in turn.

    Args:
        atlas: Template.
        count: Number of phantoms.
        seed: Seed; phantom k depends on `(seed, k)` only.
        size: Side of the square slices, px.

    Returns:
        The phantoms, `sagittal`, `coronal`, `axial`, `sagittal`, ... Every other one has a PET as sharp as its tissues,
        of at most 1.5 px FWHM: what a scanner blurs is a truth of sharp borders, and a network that never saw one
        would restore the blurred PET of another scanner.
    """
    splines = Atlas(ndimage.spline_filter(atlas.t1, order=3, output=np.float32), atlas.gm, atlas.wm)
    phantoms = []
    for k in range(count):
        cut = _slice_with_brain(splines, PLANES[k % 3], (seed, k, 0), size)
        fwhm = float(np.random.default_rng((seed, k, 2)).uniform(0, 1.5)) if k % 2 else None
        phantoms.append(make_phantom(*cut, seed=(seed, k, 1), deformation=0, fwhm=fwhm))
    return phantoms


def _slice_with_brain(atlas: Atlas, plane: str, seed: tuple[int, ...], size: int) -> tuple[np.ndarray, ...]:
    """Cut a random slice; one that misses the brain, as rarely happens near its ends, is drawn again."""
    for again in range(100):
        t1, gm, wm = random_slice(atlas, plane, seed=(*seed, again) if again else seed, size=size)
        if (gm + wm > 0.5).any():
            return t1, gm, wm
    raise GeometryError("A slice of the atlas must hold brain tissue, got none in 100 draws; check its tissue maps.")


def insert_lesions(mri: np.ndarray, pet: np.ndarray, count: int, rng: Generator) -> None:
    """Draw soft lesions into a pair, each into one of its images alone, where that image shows something.

    Six of ten are drawn into the MRI, and of those of the PET two of three are cold. So a network learns that a border
    in one image says little of the other one, and that a lesion of the PET, hot or cold, needs no counterpart.

    Args:
        mri: MRI **[H, W]**, changed in place.
        pet: Functional image of the same shape, changed in place: a cold lesion has 0.05 to 0.7 of the uptake around
            it, a hot one 1.2 to 2.5 of it; that may exceed the range of the image.
        count: Number of lesions.
        rng: Source of all randomness.
    """
    for _ in range(count):
        image = mri if rng.random() < 0.6 else pet
        places = np.flatnonzero(image > 0.1 * image.max())
        if not len(places):
            continue
        centre = np.array(np.unravel_index(rng.choice(places), image.shape))
        window, soft = _soft_ellipsoid(image.shape, centre, rng, softness=(0.3, 1.5))
        there = image[window]
        if image is mri:
            level = _other_intensity(there, soft, rng)
        else:
            level = _mean(there, soft) * (rng.uniform(1.2, 2.5) if rng.random() < 0.35 else rng.uniform(0.05, 0.7))
        there += soft * (level - there)


def rotation(degrees: np.ndarray) -> np.ndarray:
    """Rotation matrix `[3, 3]` of three successive rotations about the axes, degrees."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[[i, j], [i, j]] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def smooth_field(shape: Sequence[int], scale: float, rng: Generator) -> np.ndarray:
    """Smooth random field of zero mean and unit variance: a cubic B-spline with random knots every `scale` px."""
    field = rng.standard_normal([int(np.ceil(n / scale)) + 4 for n in shape]).astype(np.float32)
    for axis, n in enumerate(shape):
        distance = np.abs((np.arange(n) / scale + 1.5)[:, None] - np.arange(field.shape[axis]))
        near, far = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance).clip(min=0) ** 3 / 6
        basis = np.where(distance < 1, near, far) / np.sqrt(151 / 315)  # 151/315: mean sum of squared cubic B-splines
        field = np.moveaxis(np.tensordot(basis.astype(np.float32), field, (1, axis)), 0, axis)
    return field


def _deform(images: Sequence[np.ndarray], amplitude: float, rng: Generator) -> list[np.ndarray]:
    """Warp images of one shape by one smooth random displacement of `amplitude` px."""
    shape = images[0].shape
    grid = np.indices(shape, dtype=np.float32)
    for axis in range(len(shape)):
        grid[axis] += amplitude * smooth_field(shape, 40, rng)
    return [ndimage.map_coordinates(image.astype(np.float32), grid, order=1) for image in images]


def _tissues(t1: np.ndarray, gm: np.ndarray, wm: np.ndarray, *, hardness: float) -> np.ndarray:
    """(grey, white, csf) fractions `[3, *shape]`; `hardness` above 1 undoes some of a template's averaging."""
    brain = ndimage.gaussian_filter((t1 > 0.02).astype(np.float32), 1.0)
    fractions = np.stack([gm, wm, np.clip(brain - gm - wm, 0, 1)])
    powers = np.clip(fractions, 0, 1) ** hardness
    return np.asarray(powers / np.maximum(powers.sum(0), 1e-6) * brain)


def _head(brain: np.ndarray, rng: Generator) -> np.ndarray:
    """(subarachnoid csf, scalp) fractions `[2, *shape]` of a simple head round the brain, with dark bone between."""
    distance = ndimage.distance_transform_edt(~brain).astype(np.float32)
    distance += 0.8 * smooth_field(brain.shape, 24, rng)
    inner, bone, scalp = rng.uniform(1, 3), rng.uniform(3, 7), rng.uniform(3, 8)

    def shell(low: float, high: float) -> np.ndarray:
        return np.asarray(np.clip(distance - low + 0.5, 0, 1) * np.clip(high - distance + 0.5, 0, 1))

    return np.asarray(np.stack([shell(0.5, inner), shell(inner + bone, inner + bone + scalp)]) * ~brain)


def _draw_mri(t1: np.ndarray, tissues: np.ndarray, rings: np.ndarray, contrast: str, rng: Generator) -> np.ndarray:
    """MRI of random contrast: tissue intensities, the template's texture, a head, a mild bias field."""
    levels = np.array(CONTRASTS[contrast]) * rng.uniform(0.88, 1.12, 3)
    mri = np.tensordot(levels, tissues, 1)
    inside = tissues.sum(0) > 0.9
    basis = tissues[:, inside].T
    texture = np.zeros_like(mri)
    texture[inside] = t1[inside] - basis @ np.linalg.lstsq(basis, t1[inside], rcond=None)[0]
    mri += texture * (rng.uniform(0.7, 1.4) if contrast == "t1" else rng.uniform(-1, 1))
    scalp = rng.uniform(0.4, 1.0) * (1 + 0.15 * smooth_field(t1.shape, 10, rng))
    mri += levels[2] * rings[0] + scalp * rings[1]
    return np.asarray(np.maximum(mri * np.exp(rng.uniform(0, 0.1) * smooth_field(t1.shape, 90, rng)), 0))


def _draw_pet(tissues: np.ndarray, rings: np.ndarray, rng: Generator) -> np.ndarray:
    """Uptake before the point spread, regionally varied; that of white matter is 1."""
    shape = tissues.shape[1:]
    grey = rng.uniform(2.5, 5)
    pet = np.tensordot([grey, 1, rng.uniform(0.05, 0.6)], tissues, 1)
    pet += rings[1] * rng.uniform(0.1, 0.6)
    pet *= np.exp(rng.uniform(0.05, 0.15) * smooth_field(shape, 30, rng))
    return pet


def _add_lesions(
    mri: np.ndarray, pet: np.ndarray, labels: np.ndarray, tissues: np.ndarray, count: int, rng: Generator
) -> None:
    """Draw soft ellipsoidal lesions of radius 2 to 8 px into fresh arrays, at random places in the brain."""
    places = np.flatnonzero(tissues[0] + tissues[1] > 0.5)
    for _ in range(count):
        kind = Lesion(int(rng.choice(4, p=_LESION_SHARES)) + 1)
        centre = np.array(np.unravel_index(rng.choice(places), labels.shape))
        window, soft = _soft_ellipsoid(labels.shape, centre, rng, softness=(0.3, 0.7))
        hot = kind is Lesion.PET_HOT or (kind is Lesion.BOTH and rng.random() < 0.7)
        uptake = _mean(pet[window], soft) * rng.uniform(1.3, 2.5) if hot else rng.uniform(0.05, 0.5)
        intensity = _other_intensity(mri[window], soft, rng)
        if labels[window][soft > 0.05].any():
            continue
        if kind is not Lesion.MRI:
            pet[window] += soft * (uptake - pet[window])
        if kind in (Lesion.BOTH, Lesion.MRI):
            mri[window] += soft * (intensity - mri[window])
        labels[window][soft > 0.5] = kind


def _soft_ellipsoid(
    shape: Sequence[int], centre: np.ndarray, rng: Generator, *, softness: tuple[float, float]
) -> tuple[tuple[slice, ...], np.ndarray]:
    """Window round an ellipsoid of radius 2 to 8 px, and its mask there, 0..1; `softness` is that of its edge, px."""
    radii = rng.uniform(2, 8) * rng.uniform(0.8, 1.25, len(shape))
    reach = np.ceil(radii + 5).astype(int)
    window = tuple(slice(max(c - r, 0), c + r + 1) for c, r in zip(centre, reach, strict=True))
    offsets = [(np.arange(shape[a])[w] - centre[a]) / radii[a] for a, w in enumerate(window)]  # in units of the radius
    distance = np.sqrt(sum(g**2 for g in np.meshgrid(*offsets, indexing="ij", sparse=True)))
    return window, 1 / (1 + np.exp(np.clip((distance - 1) * radii.mean() / rng.uniform(*softness), -30, 30)))


def _other_intensity(mri: np.ndarray, soft: np.ndarray, rng: Generator) -> float:
    """Draw an intensity of a lesion that differs from what is there, darker or brighter."""
    local = _mean(mri, soft)
    change = rng.uniform(0.15, 0.4)
    return local - change if local - change > 0.05 and (local > 0.7 or rng.random() < 0.5) else local + change


def _mean(image: np.ndarray, soft: np.ndarray) -> float:
    return float((image * soft).sum() / soft.sum())
