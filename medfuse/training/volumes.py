"""Phantoms of whole heads with sharp truths: an MRI, the uptake that a PET scanner measures, and lesions, in 3-D.

A head is drawn on a grid that is finer than that of its MRI, each fine voxel of one tissue, so that its borders are
sharp and the voxels of the MRI hold mixtures of tissue, as real ones do. MRI and truth are means over the fine voxels;
what a scanner measures is made from the fine uptake itself (`medfuse.training.scans`): nothing on the grid of the MRI,
the truth included, explains the data exactly.

    uptake = level of the tissue x regional variation (30 mm) x texture (6 to 14 mm), lesions replaced

Variation and texture do not show in the MRI. Twins share all but the lesions that are left out: anatomy, levels, noise.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from medfuse.errors import GeometryError
from medfuse.physics.space import Grid
from medfuse.training.brains import Brain, Volume
from medfuse.training.phantoms import CONTRASTS, Lesion, rotation, smooth_field


class Tissue(IntEnum):
    """Tissue of a voxel; index of its share in `HeadPhantom.shares` plus 1."""

    AIR = 0
    GREY = 1
    WHITE = 2
    CSF = 3
    DEEP = 4
    SKULL = 5
    SCALP = 6


BRAIN = (Tissue.GREY, Tissue.WHITE, Tissue.CSF, Tissue.DEEP)
ALL_LESIONS = frozenset(Lesion)
_RADII = (3.0, 12.0)  # mm
_GAP = 8.0  # mm between the surfaces of lesions: none lies in what the PSF spreads of another
_AMOUNTS = 0.4  # least difference of uptake that is a lesion, white matter being 1


@dataclass(frozen=True)
class Sphere:
    """A spherical lesion.

    Attributes:
        kind: Where it shows.
        centre: Position in the world of the MRI, mm.
        radius: mm.
        uptake: What it takes up, white matter being 1; NaN where the MRI alone shows it.
        intensity: Its MRI intensity; NaN where the PET alone shows it.
    """

    kind: Lesion
    centre: tuple[float, float, float]
    radius: float
    uptake: float
    intensity: float


@dataclass(frozen=True)
class HeadPhantom:
    """What is known of a head.

    Attributes:
        grid: Grid of the MRI, mm.
        mri: MRI with bias and Rician noise, shape of `grid`, about 0..1, float32.
        pet: True uptake, mean over each voxel of `grid`, float32; white matter takes up about 1.
        shares: Share of each `Tissue` but air, **[6, *grid]**, 0..1, float32, as it is without lesions.
        lesions: All lesions, those that were left out included.
        marks: 1 + index of the lesion whose sphere holds the middle of a voxel, 0 for none, **[*grid]**, int16; those
            that were left out are marked, too.
        fine_grid: The finer grid on which the head was drawn.
        fine_pet: True uptake there, float32: what a scanner measures.
    """

    grid: Grid
    mri: Volume
    pet: Volume
    shares: Volume
    lesions: tuple[Sphere, ...]
    marks: NDArray[np.int16]
    fine_grid: Grid
    fine_pet: Volume

    @property
    def labels(self) -> NDArray[np.uint8]:
        """The `Tissue` of which a voxel holds most, **[*grid]**, borders included; without lesions."""
        air = 1 - self.shares.sum(0)
        return np.asarray(np.concatenate([air[None], self.shares]).argmax(0), np.uint8)


@dataclass(frozen=True, eq=False)
class Head:
    """A head before its lesions are put in: `phantom` gives it with all, with some and without.

    Attributes:
        grid: Grid of the MRI, mm.
        fine: Fine voxels along an edge of its voxels.
        fine_grid: Grid of the arrays that follow, where nothing else is said.
        tissue: `Tissue` of each voxel, uint8.
        uptake: Uptake without texture.
        texture: Root mean square of the texture, which is `pattern` times that.
        pattern: Smooth random field of unit variance.
        intensity: MRI before bias and noise.
        bias: Bias of the MRI, on its own grid.
        noise: Noise of both channels of the MRI, **[2, *grid]**.
        lesions: Its lesions, which do not touch.
    """

    grid: Grid
    fine: int
    fine_grid: Grid
    tissue: NDArray[np.uint8]
    uptake: Volume
    texture: float
    pattern: Volume
    intensity: Volume
    bias: Volume
    noise: Volume
    lesions: tuple[Sphere, ...]

    @cached_property
    def shares(self) -> Volume:
        """Share of each `Tissue` but air in the voxels of the MRI, **[6, *grid]**."""
        return np.stack([self.mean((self.tissue == t).astype(np.float32)) for t in Tissue if t != Tissue.AIR])

    def phantom(self, *, without: Collection[Lesion] = (), texture: float | None = None) -> HeadPhantom:
        """Return the head with its lesions but those of the kinds `without`; noise and all else stay the same.

        Args:
            without: Kinds of lesions that are left out.
            texture: Root mean square of the texture, in place of that which was drawn.
        """
        pet = self.uptake * np.exp(np.float32(self.texture if texture is None else texture) * self.pattern)
        mri = self.intensity.copy()
        marks = np.zeros(self.grid.shape, np.int16)
        for k, lesion in enumerate(self.lesions):
            window, inside = _ball(self.grid, lesion.centre, lesion.radius)
            marks[window][inside] = k + 1
            if lesion.kind in without:
                continue
            window, inside = _ball(self.fine_grid, lesion.centre, lesion.radius)
            if lesion.kind is not Lesion.MRI:
                pet[window][inside] = lesion.uptake
            if lesion.kind in (Lesion.BOTH, Lesion.MRI):
                mri[window][inside] = lesion.intensity
        clean = self.mean(mri) * self.bias
        rician = np.hypot(clean + self.noise[0], self.noise[1]).astype(np.float32)
        return HeadPhantom(self.grid, rician, self.mean(pet), self.shares, self.lesions, marks, self.fine_grid, pet)

    def mean(self, image: Volume) -> Volume:
        """Return the mean of a fine image over each voxel of the MRI."""
        f = self.fine
        parts = (image[i::f, j::f, k::f] for i in range(f) for j in range(f) for k in range(f))
        return np.asarray(sum(parts) / np.float32(f**3), np.float32)


def draw_head(
    brain: Brain,
    *,
    seed: int | Sequence[int],
    shape: tuple[int, int, int] = (182, 218, 182),
    spacing: float = 1.0,
    fine: int = 2,
    contrast: str | None = None,
    variation: float | None = None,
    texture: float | None = None,
    lesions: int | Sequence[tuple[Lesion, float]] | None = None,
    deformation: float = 1.0,
    mri_noise: float | None = None,
    bare: bool = False,
) -> Head:
    """Draw a head: a brain deformed strongly and smoothly, skull and scalp round it, its lesions.

    What is not given is drawn at random. A seed gives one head, whatever the texture, contrast and lesions are.

    Args:
        brain: Brain that it is drawn from.
        seed: Seed of everything random.
        shape: Shape of the MRI.
        spacing: Edge of a voxel of the MRI, mm.
        fine: Fine voxels along that edge, 2 or more; 1 draws the head on the grid of the MRI itself.
        contrast: `t1`, `t2` or `pd`.
        variation: Root mean square of the regional variation of the uptake, with knots 30 mm apart; 0.04 to 0.12.
        texture: That of its texture, with knots 6 to 14 mm apart; 0 to 0.2.
        lesions: Kinds and radii, mm, the hardest to place first, or their number; 24 to 48 for an adult's head. A
            lesion for which there is no place is left out.
        deformation: Factor of the deformation: 1 is 5 mm in waves of 60 mm and 1.2 mm in those of 25 mm, turned by up
            to 12 degrees, sizes up to 10 % off, and the sides exchanged every other time; 0 is none.
        mri_noise: Std of the noise of the MRI; 0.01 to 0.04.
        bare: Whether the brain is all there is, in MRI and uptake.

    Raises:
        GeometryError: A grid that holds no brain; an unknown contrast.
    """
    if contrast is not None and contrast not in CONTRASTS:
        raise GeometryError(f"The contrast must be one of {', '.join(CONTRASTS)}, got {contrast!r}; choose one.")
    if fine < 1 or not spacing > 0:
        raise GeometryError(
            f"`fine` must be 1 or more and `spacing` positive, got {fine} and {spacing}; choose others."
        )
    streams = [np.random.default_rng([*np.atleast_1d(seed).tolist(), k]) for k in range(8)]
    grid = _centred(shape, spacing)
    fine_grid = _centred([n * fine for n in shape], spacing / fine)
    t1, tissue = _anatomy(brain, fine_grid, deformation, streams[0])
    if not (tissue > 0).any():
        raise GeometryError(f"The grid must hold brain, got none in {shape} voxels of {spacing:g} mm; choose another.")
    if not bare:
        _wrap(tissue, fine_grid, streams[1])
    levels = streams[2]
    uptake = _uptake(tissue, fine_grid, levels, variation, streams[3])
    drawn_texture, knots = levels.uniform(0, 0.2), levels.uniform(6, 14)
    pattern = smooth_field(fine_grid.shape, knots * fine / spacing, streams[4])
    drawn_noise = levels.uniform(0.01, 0.04)
    drawn = str(levels.choice(list(CONTRASTS)))
    intensity = _intensity(t1, tissue, contrast or drawn, levels)
    bias = np.exp(levels.uniform(0, 0.1) * smooth_field(shape, 90 / spacing, levels)).astype(np.float32)
    noise = (drawn_noise if mri_noise is None else mri_noise) * streams[5].standard_normal((2, *shape)).astype(
        np.float32
    )
    plan = _plan(lesions, streams[6])
    placed = _place(plan, tissue, fine_grid, uptake, intensity, streams[7])
    amount = drawn_texture if texture is None else texture
    return Head(grid, fine, fine_grid, tissue, uptake, amount, pattern, intensity, bias, noise, placed)


def _centred(shape: Sequence[int], spacing: float) -> Grid:
    """Return a grid whose middle is the origin of the world."""
    rows = [[spacing if i == j else 0.0 for j in range(3)] + [-(shape[i] - 1) / 2 * spacing] for i in range(3)]
    return Grid(tuple(shape), tuple(map(tuple, [*rows, [0.0, 0.0, 0.0, 1.0]])))


def _anatomy(brain: Brain, grid: Grid, deformation: float, rng: Generator) -> tuple[Volume, NDArray[np.uint8]]:
    """Return the deformed T1, and the tissue of each voxel: that of which it has most."""
    step = grid.spacing[0]
    turn = rotation(deformation * rng.uniform(-12, 12, 3))
    turn = turn @ np.diag(1 + deformation * rng.uniform(-0.1, 0.1, 3)) * (step / 1.0)
    if deformation and rng.random() < 0.5:
        turn[0] = -turn[0]
    centre = (np.array(brain.t1.shape) - 1) / 2
    middle = (np.array(grid.shape) - 1) / 2
    at = np.empty((3, *grid.shape), np.float32)
    for axis in range(3):
        lines = [turn[axis, d] * (np.arange(n) - middle[d]) for d, n in enumerate(grid.shape)]
        at[axis] = lines[0][:, None, None] + lines[1][:, None] + lines[2] + centre[axis]
        for amplitude, scale in ((5.0, 60), (1.2, 25)):
            field = smooth_field(grid.shape, scale / step, rng)
            if deformation:
                at[axis] += deformation * amplitude * field
    t1, *shares = _interpolated(np.concatenate([brain.t1[None], brain.tissues]), at)
    inside = sum(shares) > np.float32(0.5)  # more than half of it must be brain
    most = np.zeros(grid.shape, np.float32)
    tissue = np.zeros(grid.shape, np.uint8)
    for number, share in zip(BRAIN, shares, strict=True):
        more = inside & (share > most)
        tissue[more], most[more] = number, share[more]
    return t1, tissue


def _interpolated(maps: Volume, at: Volume) -> Volume:
    """Interpolate maps **[C, D, H, W]** linearly at indices **[3, *grid]**; 0 beyond them."""
    size = torch.tensor(maps.shape[1:]) - 1
    points = 2 * torch.from_numpy(at).movedim(0, -1) / size - 1
    source, points = torch.from_numpy(maps)[None], points.flip(-1)[None]
    planes = [F.grid_sample(source, part, align_corners=True)[0] for part in torch.split(points, 16, 1)]
    return torch.cat(planes, 1).numpy()


def _wrap(tissue: NDArray[np.uint8], grid: Grid, rng: Generator) -> None:
    """Put csf, skull and scalp round the brain, in place."""
    coarse = max(round(1.5 / grid.spacing[0]), 1)  # distances are found on every so manyth voxel, and interpolated
    step = grid.spacing[0] * coarse
    brain = ndimage.binary_closing(tissue[::coarse, ::coarse, ::coarse] > 0, iterations=3)
    distance = (step * ndimage.distance_transform_edt(~brain)).astype(np.float32)
    distance += 0.8 * smooth_field(brain.shape, 24 / step, rng)
    factors = np.array(grid.shape) / np.array(brain.shape)
    matrix = 1 / coarse if not np.allclose(factors, 1) else 1.0
    outer = ndimage.affine_transform(distance, np.full(3, matrix), output_shape=grid.shape, order=1, mode="nearest")
    inner, bone, scalp = np.cumsum([rng.uniform(1, 3), rng.uniform(3, 7), rng.uniform(3, 8)])
    for number, end in ((Tissue.SCALP, scalp), (Tissue.SKULL, bone), (Tissue.CSF, inner)):
        outside = tissue == Tissue.AIR if number == Tissue.SCALP else (tissue == Tissue.AIR) | (tissue > Tissue.DEEP)
        tissue[outside & (outer < end)] = number


def _uptake(
    tissue: NDArray[np.uint8], grid: Grid, levels: Generator, variation: float | None, stream: Generator
) -> Volume:
    """Return the uptake before texture and lesions."""
    grey = levels.uniform(3, 5)
    by_tissue = {
        Tissue.GREY: grey,
        Tissue.WHITE: 1.0,
        Tissue.CSF: levels.uniform(0.05, 0.4),
        Tissue.DEEP: grey * levels.uniform(0.95, 1.2),
        Tissue.SKULL: levels.uniform(0.1, 0.3),
        Tissue.SCALP: levels.uniform(0.2, 0.6),
    }
    table = np.array([by_tissue.get(t, 0.0) for t in Tissue], np.float32)
    drawn = levels.uniform(0.04, 0.12)
    field = smooth_field(grid.shape, 30 / grid.spacing[0], stream)
    return np.asarray(table[tissue] * np.exp((drawn if variation is None else variation) * field), np.float32)


def _intensity(t1: Volume, tissue: NDArray[np.uint8], contrast: str, levels: Generator) -> Volume:
    """Return the MRI before bias and noise: levels of the tissues, and for T1 the template's texture."""
    grey, white, csf = np.array(CONTRASTS[contrast]) * levels.uniform(0.92, 1.08, 3)
    deep = grey + levels.uniform(0.1, 0.35) * (white - grey)
    table = np.array([0.0, grey, white, csf, deep, levels.uniform(0.02, 0.1), levels.uniform(0.4, 1.0)], np.float32)
    amount = levels.uniform(0.3, 0.8)
    image = table[tissue]
    if contrast == "t1":
        counts = np.maximum(np.bincount(tissue.ravel(), minlength=len(Tissue)), 1)
        means = np.bincount(tissue.ravel(), t1.ravel(), minlength=len(Tissue)) / counts
        residual = np.clip(t1 - means.astype(np.float32)[tissue], -0.1, 0.1)
        image += np.float32(amount) * np.where(np.isin(tissue, BRAIN), residual, 0)
    return np.asarray(image, np.float32)


def _plan(lesions: int | Sequence[tuple[Lesion, float]] | None, rng: Generator) -> list[tuple[Lesion, float]]:
    drawn = int(rng.integers(24, 49))
    if not (lesions is None or isinstance(lesions, int)):
        return list(lesions)
    number = drawn if lesions is None else lesions
    kinds = rng.choice(4, number, p=(0.1, 0.3, 0.3, 0.3)) + 1
    radii = _RADII[0] + (_RADII[1] - _RADII[0]) * rng.random(number) ** 2  # small ones are more
    order = np.argsort(-radii)
    return [(Lesion(int(kinds[k])), float(radii[k])) for k in order]


def _place(
    plan: Sequence[tuple[Lesion, float]],
    tissue: NDArray[np.uint8],
    grid: Grid,
    uptake: Volume,
    intensity: Volume,
    rng: Generator,
) -> tuple[Sphere, ...]:
    """Find a place for each lesion, within the brain and away from the others; draw its levels."""
    coarse = max(round(2.0 / grid.spacing[0]), 1)
    brain = np.isin(tissue[::coarse, ::coarse, ::coarse], BRAIN)
    depth = ndimage.distance_transform_edt(np.pad(brain, 1))[1:-1, 1:-1, 1:-1] * grid.spacing[0] * coarse
    solid = brain & (tissue[::coarse, ::coarse, ::coarse] != Tissue.CSF)
    spheres: list[Sphere] = []
    for kind, radius in plan:
        places = np.argwhere(solid & (depth > radius)) * coarse
        for _ in range(60 if len(places) else 0):
            centre = grid.position(places[rng.integers(len(places))].tolist())
            if all(np.linalg.norm(np.subtract(centre, s.centre)) > radius + s.radius + _GAP for s in spheres):
                break
        else:
            continue
        window, inside = _ball(grid, centre, radius)
        local = float(uptake[window][inside].mean())
        hot = kind is Lesion.PET_HOT or (kind is Lesion.BOTH and rng.random() < 0.7)
        factor = rng.uniform(1.5, 3) if hot else rng.uniform(0.05, 0.4)
        change = max(abs(local * factor - local), _AMOUNTS)
        level = local + change if hot else max(local - change, 0.02)
        shown = _other(float(intensity[window][inside].mean()), rng)
        spheres.append(
            Sphere(
                kind,
                (centre[0], centre[1], centre[2]),
                radius,
                np.nan if kind is Lesion.MRI else level,
                shown if kind in (Lesion.BOTH, Lesion.MRI) else np.nan,
            )
        )
    return tuple(spheres)


def _other(local: float, rng: Generator) -> float:
    """Draw an MRI intensity that differs from `local`."""
    change, darker = rng.uniform(0.15, 0.4), rng.random() < 0.5
    return local - change if local - change > 0.05 and (local > 0.7 or darker) else local + change


def _ball(grid: Grid, centre: Sequence[float], radius: float) -> tuple[tuple[slice, ...], NDArray[np.bool_]]:
    """Return a window of a centred grid, and which of its voxels have their middle within a sphere."""
    step = grid.spacing[0]
    at = np.subtract(centre, grid.position((0, 0, 0))) / step
    reach = radius / step
    window = tuple(
        slice(max(int(np.floor(c - reach)), 0), min(int(np.ceil(c + reach)) + 1, n))
        for c, n in zip(at, grid.shape, strict=True)
    )
    offsets = np.meshgrid(
        *((np.arange(w.start, w.stop) - c) ** 2 for w, c in zip(window, at, strict=True)), indexing="ij", sparse=True
    )
    return window, np.asarray(sum(offsets) <= reach**2)
