"""Restore a PET on the MRI's grid from what its scanner measured on its own.

    x0 = gate MR-free + (1 - gate) guided,  then alike where the MRI is (`medfuse.volumes.bowsher`),
         then what an estimator makes of these, the rule nothing
    x  = max(x0 + P C B' (P B C B' + I)^-1 W (y - A x0), 0)

`C` is larger where the gate is open; P is the smallest at which the chi-square is what the degrees of freedom leave of
1. What positivity takes away is given back in a few further rounds, in which voxels at 0 stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from medfuse.errors import GeometryError, ImageError
from medfuse.physics.models.volume import VolumeModel
from medfuse.physics.operators.blur import FWHM_PER_SIGMA
from medfuse.physics.operators.cosine import along_all
from medfuse.physics.operators.scanner import ScannerSampling
from medfuse.physics.scanner_noise import ScannerNoise
from medfuse.physics.space import Grid
from medfuse.volumes.alignment import Alignment, align
from medfuse.volumes.bowsher import Likened, Neighbours, likened
from medfuse.volumes.classes import classes, sided
from medfuse.volumes.coarse import Coarse, blocks_of, pooled, stretched
from medfuse.volumes.doubts import believed, doubts, said
from medfuse.volumes.gate import gate, significance
from medfuse.volumes.level import AIR, active, bound, counted
from medfuse.volumes.noise import STEPS, measure_noise
from medfuse.volumes.proposals import MrFree, guidance, guided, landweber, mr_free, windows
from medfuse.volumes.rim import Rim
from medfuse.volumes.slices import of_blocks, slices_mm

_UNSURE = 4.0  # variance of the error of a proposal where the gate is open, over that where it is shut, less 1
_MARGIN = 2  # voxels of the data about those that count
_LEAST_OVERLAP = 0.01
_SHOWN = 0.99  # share of a voxel's kernel that must lie within the MRI, that it is one which the MRI shows
_SETTLING = 2  # rounds
_ROUNDS, _FEW = 2, 8  # further corrections under positivity, and the applications of each


class Proposals(NamedTuple):
    """What an estimator is given, **[S, *image]** or **[*image]** each, in units of the PET's brightest.

    Stacks have S = 2: of the data, and of the data with a draw of the noise added.

    Attributes:
        guided: The guided proposal, stacked.
        mr_free: The proposal of the data alone, stacked.
        strong: Alike where the MRI is, after the strong rounds, stacked.
        alike: The same after all rounds, stacked: the rule's estimate.
        gate: Where the data alone had their say in it, 0..1.
        evidence: Significance of what the guided proposal leaves of the data **[*data]**.
        strong_evidence: That of the strong rounds **[*data]**.
        mri: The MRI.
        model: The observation, in the same unit.
        ys: The data **[S, *data]** that the stacks are of.
        rim: What of the image lies beyond the MRI's field of view.
    """

    guided: Tensor
    mr_free: Tensor
    strong: Tensor
    alike: Tensor
    gate: Tensor
    evidence: Tensor
    strong_evidence: Tensor
    mri: Tensor
    model: VolumeModel
    ys: Tensor
    rim: Rim


Estimator = Callable[[Proposals], Tensor]
"""From proposals to the estimate that the data then correct, a stack **[S, *image]**."""


def by_rule(given: Proposals) -> Tensor:
    """Return what is alike where the MRI is."""
    return given.alike


@dataclass(frozen=True, eq=False)
class RestoredVolume:
    """A restored PET, and what is known of it.

    Attributes:
        restored: The PET on the MRI's grid **[*image]**, in its unit; 0 where it was not measured.
        chi2: Chi-square of the restored image on the PET's own grid: 1 on average for the true one. Of a PET without
            negative values, air has no say.
        df: Degrees of freedom that the estimate has used up, of the number of data, 0..1.
        gate: Where the data alone had their say in the rule's estimate **[*image]**, 0..1; 1 where guidance is off.
        measured: Voxels of the MRI's grid that the PET's field of view holds, bool **[*image]**.
        shares: `gate`: mean of the gate over the tissue. `outside`: voxels of the PET that reach out of the MRI's field
            of view, of all; they have no say. `unmeasured`: voxels of the MRI outside the PET's, of all. `null_space`:
            squared difference to the MR-free proposal over the square of the image: what the data alone do not show.
        alignment: The refined registration and the PSF's width; None where it was not asked.
        guided: Whether the MRI guided the restoration.
        findings: What the user must know, in plain words.
        notes: Limits of the data that are no fault, likewise.
        noise: The noise, as it was stated or measured, in the unit of the PET.
        residual: What the restoration leaves of the data, whitened, in std of the noise, interpolated **[*image]**.
        alone: The MR-free proposal **[*image]**, in its unit: what the data alone say.
        draws: By how much the restored PET comes out otherwise with other noise **[n, *image]**, likewise: the probe of
            the degrees of freedom, which costs nothing, then as many as were asked for.
        slices_mm: Over how many mm its values, as those of the MRI, are means along each axis, where that counts, else
            0; less of the PSF was undone there, as far as the voxels hold it.
    """

    restored: Tensor
    chi2: float
    df: float
    gate: Tensor
    measured: Tensor
    shares: dict[str, float]
    alignment: Alignment | None
    guided: bool
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    noise: ScannerNoise
    residual: Tensor
    alone: Tensor
    draws: Tensor
    slices_mm: tuple[float, ...]

    @property
    def corrected_chi2(self) -> float:
        """Chi-square, corrected for the degrees of freedom: `chi2 / (1 - df)`."""
        return self.chi2 / max(1.0 - self.df, 1e-6)


@torch.no_grad()
def restore_volume(
    pet: Tensor,
    pet_grid: Grid,
    mri: Tensor,
    mri_grid: Grid,
    transform: Sequence[Sequence[float]] | Tensor | None,
    psf_fwhm_mm: float | Sequence[float],
    noise: ScannerNoise | None,
    *,
    known: tuple[float, float] | None = None,
    refine: bool = True,
    guide: bool = True,
    estimator: Estimator = by_rule,
    name: str = "PET",
    draws: int = 0,
    slices: Sequence[float] | None = None,
) -> RestoredVolume:
    """Restore a PET on the MRI's grid from its own grid.

    Args:
        pet: The PET as it was reconstructed, never resampled, **[*pet]**; any unit.
        pet_grid: Its grid, mm.
        mri: The MRI **[*image]**; any unit. Blocks of about 0.8 mm are restored where voxels are finer than about
            0.5 mm, and larger ones where there are more than 32 million.
        mri_grid: Its grid, mm.
        transform: **[4, 4]**, rigid; maps points of the PET's world to the MRI's, mm. None: one world.
        psf_fwhm_mm: Full width at half maximum of the scanner's PSF along each axis of the PET's grid, mm, the
            extent of the voxels included.
        noise: The noise, in the unit of the PET; None: it is measured, see `measure_noise`. Where Poisson-like noise
            has no floor, that of the air is measured.
        known: Interval of a PSF that was measured, in parts of the given one: a width within it contradicts nothing.
        refine: Whether to refine the registration by the data.
        guide: Whether the MRI may guide at all.
        estimator: Makes the estimate from the proposals.
        name: What the first volume is called in findings and errors.
        draws: Number of times that the restored PET is observed and restored again (parametric bootstrap), each about
            as long as the first.
        slices: Over how many mm the MRI's values are means along each axis, where that counts, else 0, see `slices_mm`;
            None: as its grid says.

    Raises:
        GeometryError: Shapes and grids that do not fit, a sheared grid, a transform that is not rigid, fields of view
            that share less than 1 % of the PET.
        DegradationError: A PSF that is narrower than the voxels, or wider than 20 mm.
        ImageError: Values that are not finite, a PET without activity, an MRI without signal.
    """
    _check(pet, pet_grid, name)
    _check(mri, mri_grid, "MRI")
    thick = slices_mm(mri_grid) if slices is None else tuple(float(v) for v in slices)
    blocks = blocks_of(mri_grid, psf_fwhm_mm)
    if max(blocks) > 1:
        means, grid = pooled(mri.float()[None], blocks)[0], mri_grid.of_blocks(blocks)
        thick = of_blocks(thick, grid.spacing)
        found = restore_volume(
            pet, pet_grid, means, grid, transform, psf_fwhm_mm, noise, known=known, refine=refine, guide=guide,
            estimator=estimator, name=name, draws=draws, slices=thick,
        )  # fmt: skip
        return _spread(found, blocks, mri_grid, name)
    sources = (pet, mri), (pet_grid, mri_grid), (transform, psf_fwhm_mm, noise)
    options: dict[str, Any] = {"estimator": estimator, "name": name, "draws": draws, "thick": thick}
    tried = _tried(*sources, known=known, refine=refine, guide=guide, **options)
    if isinstance(tried, RestoredVolume):
        return tried
    alone = _tried(*sources, guide=False, **options)  # nor is the place believed that the MRI was moved to
    return replace(cast(RestoredVolume, alone), alignment=tried.alignment, findings=tried.why)


class _Doubted(NamedTuple):
    """Why the MRI shall not guide, and where it was moved to."""

    why: tuple[str, ...]
    alignment: Alignment | None


def _tried(
    images: tuple[Tensor, Tensor],
    grids: tuple[Grid, Grid],
    observed: tuple[Sequence[Sequence[float]] | Tensor | None, float | Sequence[float], ScannerNoise | None],
    *,
    known: tuple[float, float] | None = None,
    refine: bool = True,
    guide: bool,
    estimator: Estimator,
    name: str,
    draws: int,
    thick: tuple[float, ...],
) -> RestoredVolume | _Doubted:
    """Restore on the voxels that are given; where the MRI may not guide although it was to, tell why instead."""
    (pet, mri), (pet_grid, mri_grid), (transform, psf_fwhm_mm, noise) = images, grids, observed
    given, whole = pet.float(), ScannerSampling(mri_grid, pet_grid, psf_fwhm_mm, transform, thick)
    operator, pet = narrow, part = _cropped(whole, given)
    unit = float(pet[operator.inside].max())
    if not unit > 0:
        raise ImageError(
            f"the {name} must have activity within the MRI's field of view, got none; check the registration."
        )
    rim = Rim.of(whole, given, unit)
    if rim:
        operator, pet = _cropped(whole.like(image=rim.grid(mri_grid)), given)
    outside = 1.0 - float(operator.inside.sum()) / given.numel()
    findings: list[str] = []
    notes = []
    if outside > 0:
        notes.append(
            f"{outside:.1%} of the {name}'s voxels lie too far out of the MRI's field of view to have a say in the "
            "restoration"
        )
    if any(thick):
        notes.append(
            f"the slices of the MRI are {max(thick):.1f} mm thick, and the {name} was restored as means over them"
            + (": of its PSF less was undone across them, as far as the voxels hold it" if operator.narrowed else "")
        )
    coarse = Coarse.of(operator)
    first = landweber(coarse.operator, (pet / unit)[None], STEPS)
    if noise is None:  # of what the MRI shows: a hot spot beyond would pass for noise that grows
        begun = None if rim else first
        noise = measure_noise(Coarse.of(narrow).operator, part / unit, begun).scaled(1 / unit)
    rough = bound(coarse.operator, pet / unit, noise.scaled(unit), first.x[0])
    features = torch.empty(0)
    if guide:
        features = classes(mri.float(), spacing=mri_grid.spacing)
        features = sided(features, rim.within(coarse.spread(first.x)[0]), mri_grid.spacing)
    alignment = None
    if guide and refine:
        view, parts = _in_blocks(narrow, part / unit, noise.scaled(unit)) if rim else (rough, coarse)
        alignment = align(view, parts.pooled(features), whole.transform)._replace(known=known or (1.0, 1.0))
        findings += said(alignment, operator.fwhm_mm, name)
        guide = believed(alignment)
        if guide:
            operator = operator.like(transform=alignment.transform)
            coarse = Coarse.of(operator)
            first = landweber(coarse.operator, (pet / unit)[None], STEPS)
            rough = bound(coarse.operator, pet / unit, noise.scaled(unit), first.x[0])
    model = rough.on(operator, rough.observe(first.x[0]))
    draw = model.probe()
    ys = torch.stack([model.y, model.y + draw])
    free = mr_free(model, ys)
    unguided = free.x
    model = model.at(unguided[0])
    opened, x0 = torch.ones_like(unguided[0]), unguided
    beyond = rim.beyond(mri_grid).to(unguided.device)
    shown = model.observe((~beyond).to(unguided)) > _SHOWN if rim else model.inside
    shown = shown if bool(shown.any()) else model.inside
    tissue = ~beyond & (unguided[0] > 0.1 * rim.within(unguided[0]).max())
    if guide:
        features = rim.around(features)
        offered = guidance(model, features, coarse)
        proposal = guided(model, offered, ys)
        z = significance(model, proposal[0])
        opened = gate(model, z).masked_fill(beyond, 1.0)
        rough = rough.on(coarse.operator, model.observe(unguided[0]))
        why = doubts(rough, model, coarse.pooled(features), z, float(opened[tissue].mean()), name, shown=shown)
        if why:
            return _Doubted(tuple(why), alignment)
        del features, offered  # they need room
        proposals = _proposals(model, ys, free, proposal, opened, z, mri.float(), rim, alike=not any(thick))
        opened, x0 = proposals.gate, estimator(proposals)
        del proposals, proposal
    measured = operator.seen.to(x0.device)
    spread = (1 + _UNSURE * opened * guide) * measured
    result = model.corrected(x0[0], spread, probe=(draw, x0[1] - x0[0]))
    x, other = result.x.clamp_min(0.0), (result.x + result.change).clamp_min(0.0)
    for _ in range(_ROUNDS):
        result = model.corrected(x, spread * (x > 0), probe=(draw, other - x), iterations=_FEW)
        x, other = result.x.clamp_min(0.0), (result.x + result.change).clamp_min(0.0)
    x, other = settled(model, torch.stack([x, other]), ys)
    changes = [rim.within((other - x) * measured * unit)]
    for seed in range(1, draws + 1):
        seen = torch.where(model.inside, model.observe(x) + model.at(x).probe(seed), model.y) * unit
        where = (operator.range, mri, mri_grid, operator.transform, psf_fwhm_mm, noise)
        again = restore_volume(seen, *where, refine=False, guide=guide, estimator=estimator, name=name, slices=thick)
        changes.append(rim.within(measured) * (again.restored - rim.within(x) * unit))
    final = model.at(x)
    left, told = final.white(final.residual(x)), counted(final, x)
    if rim:  # what is told is of the MRI's field of view
        told = told & shown if told is not None and bool((told & shown).any()) else shown
    df = model.followed(draw, other - x, told)
    gated = float(opened[tissue].mean())
    residual = operator.lift(left[tuple(slice(n) for n in model.y.shape)][None, None])[0, 0]
    x, opened, measured, free_x, residual = map(rim.within, (x, opened, measured, unguided[0], residual))
    shares = {
        "gate": gated,
        "outside": outside,
        "unmeasured": 1.0 - float(measured.float().mean()),
        "null_space": float((x - free_x).square().sum() / x.square().sum().clamp_min(1e-30)),
    }
    return RestoredVolume(
        x * measured * unit,
        final.chi2_of(left, told),
        df,
        opened,
        measured,
        shares,
        alignment,
        guide,
        tuple(findings),
        tuple(notes),
        noise,
        residual,
        free_x * measured * unit,
        torch.stack(changes),
        thick,
    )


def _in_blocks(operator: ScannerSampling, y: Tensor, noise: ScannerNoise) -> tuple[VolumeModel, Coarse]:
    """Return the model of blocks of voxels, its level from the first steps of the data, and the blocks."""
    coarse = Coarse.of(operator)
    return bound(coarse.operator, y, noise, landweber(coarse.operator, y[None], STEPS).x[0]), coarse


def _proposals(
    model: VolumeModel,
    ys: Tensor,
    free: MrFree,
    guided: Tensor,
    gate: Tensor,
    z: Tensor,
    mri: Tensor,
    rim: Rim,
    *,
    alike: bool,
) -> Proposals:
    """Return what an estimator is given; each voxel of thick slices is a mixture of its own, and none are alike."""
    x, mri = torch.lerp(guided, free.x, gate), rim.around(mri[None])[0]
    found = Likened(x, gate, x, z)
    if alike:
        near = Neighbours.of(mri, model.operator.domain.spacing, active(model, x[0]))
        found = likened(model, near, ys, x, free, gate)
    return Proposals(guided, free.x, found.strong, found.x, found.gate, z, found.evidence, mri, model, ys, rim)


def settled(model: VolumeModel, xs: Tensor, ys: Tensor) -> Tensor:
    """Return estimates **[S, *image]** with the local means of their data **[S, *data]**, whatever noise was stated.

    `x <- x (S y + e) / (S A x + e)`, S a Gaussian mean of twice the PSF's width: noise hardly passes it, and an error
    of the uptake of a region does.
    """
    operator = model.operator
    rows = [
        windows(n, 2 * w / FWHM_PER_SIGMA / s).to(ys)
        for n, w, s in zip(ys.shape[1:], operator.fwhm_mm, operator.range.spacing, strict=True)
    ]
    for _ in range(_SETTLING):
        both = torch.stack([ys, operator.forward(xs[:, None])[:, 0]]) * model.inside
        told, seen = along_all(rows, both).clamp_min(0.0)
        floor = AIR * told.amax((1, 2, 3), keepdim=True)
        xs = operator.lift(((told + floor) / (seen + floor))[:, None])[:, 0].mul_(xs)
    return xs


def _spread(found: RestoredVolume, blocks: Sequence[int], grid: Grid, name: str) -> RestoredVolume:
    """Return what was restored of blocks of voxels, interpolated to the voxels."""

    def voxels(maps: Tensor) -> Tensor:
        return stretched(maps[None], blocks, grid.shape)[0]

    measured = voxels(found.measured.float()) >= 0.5
    edges = " x ".join(f"{b * s:.2f}" for b, s in zip(blocks, grid.spacing, strict=True))
    return replace(
        found,
        restored=voxels(found.restored) * measured,
        gate=voxels(found.gate),
        measured=measured,
        residual=voxels(found.residual),
        alone=voxels(found.alone) * measured,
        draws=torch.stack([voxels(draw) * measured for draw in found.draws]),
        notes=(*found.notes, f"the {name} was restored in blocks of {edges} mm, interpolated to the MRI's voxels"),
    )


def _check(volume: Tensor, grid: Grid, name: str) -> None:
    if tuple(volume.shape) != grid.shape:
        raise GeometryError(f"the {name} must have the shape of its grid {grid.shape}, got {tuple(volume.shape)}.")
    if not bool(torch.isfinite(volume).all()):
        raise ImageError(f"the {name} must be finite, got NaN or infinity; mask or replace these voxels.")


def _cropped(operator: ScannerSampling, pet: Tensor) -> tuple[ScannerSampling, Tensor]:
    """Leave out the PET far from the MRI: a whole body takes no longer than its head.

    Raises:
        GeometryError: Less than 1 % of the PET is left.
    """
    if float(operator.inside.float().mean()) < _LEAST_OVERLAP and int(operator.inside.sum()) < 1000:
        raise GeometryError(
            "at least 1 % of the PET must lie within the MRI's field of view, got "
            f"{operator.inside.float().mean():.1%}; check the affines and the transform."
        )
    index = torch.nonzero(operator.inside)
    low = (index.amin(0) - _MARGIN).clamp_min(0).tolist()
    high = [min(v + 1 + _MARGIN, n) for v, n in zip(index.amax(0).tolist(), pet.shape, strict=True)]
    grid = operator.range
    rows = [[*row[:3], p] for row, p in zip(grid.affine, grid.position(low), strict=False)]
    cut = Grid(tuple(b - a for a, b in zip(low, high, strict=True)), (*map(tuple, rows), grid.affine[3]))
    part = pet[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].contiguous()
    return operator.like(data=cut), part
