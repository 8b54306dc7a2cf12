"""FWHM of the PSF of a PET or SPECT, along each axis of its grid, from how far its MRI must be blurred to explain it.

The PET's own spectrum does not tell: smooth uptake and blurred uptake look alike. With shares of tissue `g_k` in the
MRI, and an uptake of each that varies slowly (a second-order polynomial),

    H y = sum_k c_k(r) H G_v (g_k o T) + error,    G_v a Gaussian of variances v along the PET's axes, T rigid,

v and T are where the error is least, found by Gauss and Newton's steps, c regressed in each. H takes away what is
slower than a Gaussian of 14 mm FWHM, for the MRI does not explain regional uptake, which would pass for blur. A PET
that was moved seems blurred, and where contrast is low a motion seems to sharpen: v is found in the place that is given
and in that which fits best, and the span of both is the interval.

Detail of the MRI that the uptake has not passes for blur, too. Most of it is at borders, where a voxel that holds csf
and bone is as bright as grey matter: the outermost 6 mm of what takes up the tracer do not count, and shares are told
by what is nearby (`classes_nearby`). On phantoms of heads the first takes 9 % off the width, the second 2 %, and no
correction by a constant is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.errors import GeometryError
from medfuse.physics.operators.blur import FWHM_PER_SIGMA
from medfuse.physics.operators.cosine import along_all
from medfuse.physics.space import Grid
from medfuse.volumes.classes import classes_nearby, sided, within_uptake
from medfuse.volumes.proposals import windows
from medfuse.volumes.slices import slices_mm

_FINE, _STEP = 2.0, 2.4  # mm, to which the MRI is averaged; the largest step at which it is blurred
_SLOW = 14.0  # mm FWHM, of what is taken away
_TISSUE = 0.3  # share of tissue, blurred, from which a voxel of the PET counts
_CUT = 0.2  # of the uptake, from which it reaches to an end of the MRI
_DEEP = 6.0  # mm below the border of the uptake, from which it counts
_FEWEST = 2000  # voxels of the PET that tell
_ROUNDS, _SETTLED, _STILL = 10, 0.05, 0.1  # of the width; mm of it, and of the place
_MOST = 40_000  # voxels of the PET that are looked at
_WIDEST = 16.0  # mm
_OUTLIER = 3.0  # robust std, from which data count less
_BLOCK = 20.0  # mm: noise and what the model leaves out are independent from one block to the next
_OWN = 0.04  # of the width, std of what the model leaves out, over and above that
_SURE = 1.64  # std
_RIDGE = 1e-6
_LEAST_EXPLAINED = 0.4  # of the variance; all but 2 of 400 scans of phantoms of heads have more
_LEAST_SURE = 1.2  # mm, half an interval


class PsfEstimate(NamedTuple):
    """What is known of a PSF.

    Attributes:
        fwhm_mm: Full width at half maximum along each axis of the PET's grid, extent of the voxels included, mm.
        low: Lower ends of an interval of about 90 %, mm.
        high: Upper ends.
        given: Widths in the place that was given, mm.
        refined: Widths in the place that fits best, mm.
        moved_mm: How far that is from the one that was given, root mean square over the voxels that count.
        explained: Share of the variance of the PET, of what is faster than 14 mm, that the MRI explains.
        refused: Why the widths should not be used; empty where they may.
    """

    fwhm_mm: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    given: tuple[float, ...]
    refined: tuple[float, ...]
    moved_mm: float
    explained: float
    refused: str


class _TooFewError(Exception):
    """Tissue and uptake share too few voxels."""


class _Place(NamedTuple):
    """Where the PET lies: `world = origin + axes q`, q in mm along its axes from its middle."""

    axes: Tensor
    origin: Tensor


class _Fit(NamedTuple):
    variances: Tensor  # mm^2 along each axis
    std: Tensor  # of the FWHM, mm
    place: _Place
    explained: float
    settled: bool


@torch.no_grad()
def measure_psf(
    pet: Tensor,
    pet_grid: Grid,
    mri: Tensor,
    mri_grid: Grid,
    transform: Sequence[Sequence[float]] | Tensor | None = None,
    *,
    refine: bool = True,
    slices: Sequence[float] | None = None,
) -> PsfEstimate:
    """Measure the PSF of a PET by its MRI.

    Args:
        pet: The PET as it was reconstructed, never resampled, **[*pet]**; any unit.
        pet_grid: Its grid, mm.
        mri: The MRI **[*image]**; any unit.
        mri_grid: Its grid, mm.
        transform: **[4, 4]**, rigid; maps points of the PET's world to the MRI's, mm. None: one world.
        refine: Whether the PET may lie elsewhere; if not, the widths are those in the place that is given.
        slices: Over how many mm the MRI's values are means along each axis, where that counts, else 0, see `slices_mm`;
            None: as its grid says.

    Raises:
        GeometryError: The PET lies outside the MRI's field of view.
        ImageError: An MRI without signal.
    """
    why = f"too few voxels of tissue are in both fields of view (less than {_FEWEST}) to tell the PSF"
    few = PsfEstimate((), (), (), (), (), 0.0, 0.0, why)
    if pet.numel() < _FEWEST:
        return few
    scene = _Scene(pet, pet_grid, mri, mri_grid, transform, slices_mm(mri_grid) if slices is None else slices)
    if scene.counted_at_first() < _FEWEST:
        return few
    start = torch.tensor([max(6.0, 1.5 * s) / FWHM_PER_SIGMA for s in pet_grid.spacing]).double().square()
    try:
        here = scene.fit(start, scene.place, moving=False)
        there = scene.fit(here.variances, scene.place, moving=True) if refine else here
    except _TooFewError:
        return few
    return _judged(scene, here, there)


def _judged(scene: _Scene, here: _Fit, there: _Fit) -> PsfEstimate:
    given, refined = (f.variances.sqrt() * FWHM_PER_SIGMA for f in (here, there))
    spread = _SURE * (torch.maximum(here.std, there.std).square() + (_OWN * refined).square()).sqrt()
    low, high = torch.minimum(given, refined) - spread, torch.maximum(given, refined) + spread
    first, second = tuple(given.tolist()), tuple(refined.tolist())
    ends = tuple(low.tolist()), tuple(high.tolist())
    doubt = _doubt(here, there, high - low)
    return PsfEstimate(second, *ends, first, second, scene.moved(there.place), there.explained, doubt)


def _doubt(here: _Fit, there: _Fit, width: Tensor) -> str:
    """Return why an estimate should not be used."""
    if there.explained < _LEAST_EXPLAINED:
        return (
            f"the MRI explains {there.explained:.0%} of the detail of the data, less than {_LEAST_EXPLAINED:.0%}, and "
            "tells nothing of the PSF"
        )
    if not (here.settled and there.settled):
        return "no width of the PSF explains the data best"
    if float(width.max()) / 2 > _LEAST_SURE:
        return (
            f"the width of the PSF is not known to better than {float(width.max()) / 2:.1f} mm: the registration is in "
            "doubt, or the contrast too low"
        )
    return ""


class _Scene:
    """A PET and the shares of tissue about it."""

    def __init__(
        self,
        pet: Tensor,
        pet_grid: Grid,
        mri: Tensor,
        mri_grid: Grid,
        transform: Sequence[Sequence[float]] | Tensor | None,
        slices: Sequence[float],
    ) -> None:
        motion = torch.eye(4).double() if transform is None else torch.as_tensor(transform, dtype=torch.float64)
        mri, affine = _coarse(mri.float(), mri_grid)
        self.mri_affine = affine
        pet, pet_affine = _within(pet.float(), motion @ torch.tensor(pet_grid.affine).double(), mri.shape, affine)
        self.spacing = pet_affine[:3, :3].norm(dim=0)
        middle = (torch.tensor(pet.shape).double() - 1) / 2
        self.place = _Place(pet_affine[:3, :3] / self.spacing, pet_affine[:3, :3] @ middle + pet_affine[:3, 3])
        self.y = pet / pet.max().clamp_min(1e-30)
        self.mri_spacing = affine[:3, :3].norm(dim=0)
        beyond = torch.tensor(slices).double().square() - torch.tensor(mri_grid.spacing).double().square()
        self.overlap = (
            beyond.clamp_min(0) / 12
        )  # mm^2, by which slices that are thicker than their distance are blurred
        self.features = self._features(mri)
        self.parts = [math.ceil(float(s) / _STEP - 1e-6) for s in self.spacing]
        self.step = self.spacing / torch.tensor(self.parts)
        at = [(torch.arange(n) - (n - 1) / 2) * float(s) for n, s in zip(pet.shape, self.spacing, strict=True)]
        self.at = torch.stack(torch.meshgrid(*at, indexing="ij"))  # mm along the PET's axes
        self.size = [float(a[-1]) + 1e-6 for a in at]
        slow = [windows(n, _SLOW / FWHM_PER_SIGMA / float(s)) for n, s in zip(pet.shape, self.spacing, strict=True)]
        self.slow = [rows.float() for rows in slow]
        self.shape = tuple(pet.shape)
        self.deep = within_uptake(self.y, self.spacing.tolist(), _DEEP)
        self.deep &= self._away_from_cuts(mri.shape)
        self.lattice: Tensor | None = None
        self.polynomials = _polynomials(torch.stack(torch.meshgrid(*self._fine(), indexing="ij")), self.size)

    def _features(self, mri: Tensor) -> Tensor:
        """Return the shares of tissue **[K, *image]**, without that of the air; what lies beyond the uptake is one."""
        shares = classes_nearby(mri, self.mri_spacing.tolist())
        uptake = self._seen_by_mri(mri.shape)
        found = sided(shares, uptake, self.mri_spacing.tolist())
        self.within = len(shares) - 1
        within, beyond = found[1 : len(shares)], found[len(shares) + 1 :]
        return torch.cat([within, beyond.sum(0, keepdim=True)]) if len(beyond) else within

    def _seen_by_mri(self, shape: Sequence[int]) -> Tensor:
        index = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in shape), indexing="ij"), -1)
        world = index @ self.mri_affine[:3, :3].mT + self.mri_affine[:3, 3]
        q = (world - self.place.origin) @ self.place.axes / self.spacing  # voxels from the middle
        half = torch.tensor(self.y.shape).double() / 2
        return _sampled(self.y[None], q / half)[0].clamp_min(0)

    def _away_from_cuts(self, shape: Sequence[int]) -> Tensor:
        """Return the voxels of the PET **[*pet]** that see nothing of what lies beyond an end of the MRI within a body.

        Uptake beyond is in the data, and in no feature: a narrower PSF would explain what the features lack.
        """
        level = _CUT * self.y[self.deep].median() if bool(self.deep.any()) else torch.tensor(torch.inf)
        uptake = F.avg_pool3d(self.y[None, None], 3, 1, 1, count_include_pad=False)[0, 0] > level
        world = self.at.double().movedim(0, -1) @ self.place.axes.mT + self.place.origin
        inverse = torch.linalg.inv(self.mri_affine)
        index = world @ inverse[:3, :3].mT + inverse[:3, 3]
        away = torch.ones(self.shape, dtype=torch.bool)
        for axis, (count, step) in enumerate(zip(shape, self.mri_spacing.tolist(), strict=True)):
            for off in (index[..., axis] + 0.5, count - 0.5 - index[..., axis]):
                if bool(uptake[off * step < float(self.spacing.max())].any()):
                    away &= off * step > _SLOW
        return away

    def counted_at_first(self) -> int:
        """Return how many voxels of the PET hold tissue that counts, about."""
        tissue = self.features.sum(0) > _TISSUE
        inside = float(tissue.sum()) * float(self.mri_spacing.prod() / self.spacing.prod())
        return int(min(inside, float(self.deep.sum())))

    def brought(self, place: _Place) -> Tensor:
        """Return the features on a grid along the PET's axes, of steps of 2.4 mm at most, **[K, *fine]**."""
        q = torch.stack(torch.meshgrid(*self._fine(), indexing="ij"), -1).double()
        world = q @ place.axes.mT + place.origin
        inverse = torch.linalg.inv(self.mri_affine)
        index = world @ inverse[:3, :3].mT + inverse[:3, 3]
        size = torch.tensor(self.features.shape[1:]).double()
        return _sampled(self.features, 2 * (index + 0.5) / size - 1)

    def _fine(self) -> list[Tensor]:
        """Return where the fine samples lie along each axis of the PET, from its middle, mm."""
        sizes = zip(self.shape, self.parts, self.step.tolist(), strict=True)
        return [(torch.arange(n * p) - (n * p - 1) / 2) * s for n, p, s in sizes]

    def own(self, place: _Place) -> Tensor:
        """Return the variance, mm^2, that voxels of the MRI and their interpolation have along the PET's axes."""
        along = self.mri_affine[:3, :3] / self.mri_spacing
        turn = place.axes.mT @ along
        variance: Tensor = turn.square() @ (self.mri_spacing.square() / 4 + self.overlap)
        return variance

    def fit(self, variances: Tensor, place: _Place, *, moving: bool) -> _Fit:
        """Return what explains the PET best, in the place that is given or near it."""
        settled, fine = False, self.brought(place)
        for number in range(_ROUNDS):
            fine = self.brought(place) if moving and number else fine
            step, std, explained = self._step(variances, place, fine, moving=moving)
            least = self.own(place) + self.step.square() / 12 + 0.01
            most = (_WIDEST / FWHM_PER_SIGMA) ** 2
            wanted = (variances + step[:3]).clamp(variances / 2, variances * 2)
            after = torch.minimum(torch.maximum(wanted, least), torch.full_like(wanted, most))
            change = FWHM_PER_SIGMA * (after.sqrt() - variances.sqrt()).abs().max()
            variances = after
            before = place
            if moving:
                place = _moved(place, step[3:])
            settled = bool(change < _SETTLED) and self.moved(place, before) < _STILL
            if settled:
                break
        return _Fit(variances, std, place, explained, settled)

    def moved(self, place: _Place, before: _Place | None = None) -> float:
        """Return by how much a place is off another, root mean square over the voxels that count, mm."""
        before, q = before or self.place, self.at[:, self.counted].double()
        off = place.axes @ q + place.origin[:, None] - before.axes @ q - before.origin[:, None]
        return float(off.square().sum(0).mean().sqrt())

    def _thinned(self, mask: Tensor) -> Tensor:
        """Return a mask of about 40,000 voxels at most, on a lattice that stays the same."""
        if self.lattice is None:
            every = max(1, round(int(mask.sum()) / _MOST))
            self.lattice = (
                torch.stack(torch.meshgrid(*map(torch.arange, mask.shape), indexing="ij")).sum(0) % every == 0
            )
        return mask & self.lattice

    def _fast(self, maps: Tensor) -> Tensor:
        """Return maps **[N, *pet]** without what is slow."""
        return maps - along_all(self.slow, maps[:, None])[:, 0]

    def _step(self, variances: Tensor, place: _Place, fine: Tensor, *, moving: bool) -> tuple[Tensor, Tensor, float]:
        """Return the change of variances and place that fits best, the std of the widths, and what is explained."""
        g = (variances - self.own(place) - self.step.square() / 12).clamp_min(0.01)
        rows = [
            _kernels(n, p, float(s), float(v)) for n, p, s, v in zip(self.shape, self.parts, self.step, g, strict=True)
        ]
        seen = along_all([r[0] for r in rows], fine[:, None])[:, 0]
        mask = self.counted = self._thinned(self.deep & (seen.sum(0) > _TISSUE))
        if int(mask.sum()) < _FEWEST:
            raise _TooFewError
        at = self.at[:, mask]
        fast = self._fast(torch.cat([seen, self.y[None]]))[:, mask]
        target = fast[-1]
        within = fast[: self.within, None] * _polynomials(at, self.size)
        design = torch.cat([within.flatten(0, 1), fast[self.within : -1]])
        weight = torch.ones_like(target)
        for _ in range(2):
            c = _solved(design, target, weight)
            left = target - c @ design
            weight = 1 / (1 + (left / (1.4826 * left.abs().median() * _OUTLIER).clamp_min(1e-12)).square())
        c = _solved(design, target, weight)
        left = target - c @ design
        levels = c[: len(within) * 10].reshape(-1, 10) @ self.polynomials.flatten(1)
        x = (levels.reshape(-1, *fine.shape[1:]) * fine[: self.within]).sum(0)
        x = (x + torch.tensordot(c[len(within) * 10 :], fine[self.within :], 1))[None, None]
        columns = [along_all([rows[b][2 if a == b else 0] for b in range(3)], x)[0, 0] for a in range(3)]
        if moving:
            slopes = [along_all([rows[b][1 if a == b else 0] for b in range(3)], x)[0, 0] for a in range(3)]
            turns = torch.linalg.cross(self.at.flatten(1), torch.stack(slopes).flatten(1), dim=0)
            columns += slopes + list(turns.reshape(3, *self.shape))
        both = torch.cat([self._fast(torch.stack(columns))[:, mask], design])
        size = both.square().mean(1).sqrt().clamp_min(1e-12)
        both = both / size[:, None]
        normal = ((both * weight) @ both.mT).double()
        inverse = torch.linalg.inv(normal + _RIDGE * torch.diag(normal.diagonal() + 1e-9))
        step = inverse @ (both @ (weight * left)).double()
        block = (at / _BLOCK).round().long() + 50
        block = torch.unique((block[0] * 100 + block[1]) * 100 + block[2], return_inverse=True)[1]
        still = left - step.float() @ both
        scores = (
            torch.zeros(int(block.max()) + 1, len(both)).index_add_(0, block, (both * (weight * still)).mT).double()
        )
        covariance = inverse @ (scores.mT @ scores) @ inverse
        many = slice(len(columns))
        std = covariance.diagonal()[:3].clamp_min(0).sqrt() / size[:3].double()
        explained = 1 - float((weight * left.square()).sum() / (weight * target.square()).sum())
        return step[many] / size[many].double(), std * FWHM_PER_SIGMA / (2 * variances.sqrt()), explained


def _solved(design: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    weighted = design * weight
    normal = (weighted @ design.mT).double()
    normal = normal + _RIDGE * torch.diag(normal.diagonal() + normal.diagonal().mean())
    found: Tensor = torch.linalg.solve(normal, (weighted @ target).double())
    return found.float()


def _polynomials(at: Tensor, size: Sequence[float]) -> Tensor:
    """Return all polynomials up to the second order, **[10, ...]**."""
    x, y, z = (a / s for a, s in zip(at, size, strict=True))
    return torch.stack([torch.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z])


def _kernels(n: int, parts: int, step: float, variance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the means of fine samples about n voxels, **[n, n parts]**, by a Gaussian, and its changes.

    A fine sample is constant over its step. The changes are that with the place, per mm, and with the variance, per
    mm^2.
    """
    fine = (torch.arange(n * parts).double() - (n * parts - 1) / 2) * step
    middle = (torch.arange(n).double() - (n - 1) / 2) * (step * parts)
    std = math.sqrt(variance)
    edges = torch.cat([fine - step / 2, fine[-1:] + step / 2])
    z = (edges - middle[:, None]) / std
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    mean = torch.special.ndtr(z).diff(dim=1)
    slope = (-density / std).diff(dim=1)
    wider = (-density * z / (2 * variance)).diff(dim=1)
    return mean.float(), slope.float(), wider.float()


def _sampled(maps: Tensor, at: Tensor) -> Tensor:
    """Return maps **[K, X, Y, Z]** at points **[..., 3]**, from -1 to 1 over their extent, linear, 0 beyond."""
    points = at.flip(-1).float()[None]
    return F.grid_sample(maps[None], points, align_corners=False)[0]


def _coarse(mri: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return an MRI averaged to voxels of about 2 mm, and its affine."""
    factors = [max(1, min(int(_FINE / s + 0.2), n)) for s, n in zip(grid.spacing, mri.shape, strict=True)]
    affine = torch.tensor(grid.affine).double()
    if max(factors) == 1:
        return mri, affine
    change = torch.eye(4).double()
    for axis, f in enumerate(factors):
        change[axis, axis], change[axis, 3] = f, (f - 1) / 2
    return F.avg_pool3d(mri[None, None], factors)[0, 0], affine @ change


def _within(pet: Tensor, affine: Tensor, shape: Sequence[int], mri_affine: Tensor) -> tuple[Tensor, Tensor]:
    """Leave out what of a PET lies outside the MRI's field of view."""
    index = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in pet.shape), indexing="ij"), -1)
    at = torch.linalg.inv(mri_affine) @ affine
    there = index @ at[:3, :3].mT + at[:3, 3]
    inside = ((there > -0.5) & (there < torch.tensor(shape).double() - 0.5)).all(-1)
    if not bool(inside.any()):
        raise GeometryError("the PET must lie within the MRI's field of view, got none of it there; check the affines.")
    some = torch.nonzero(inside)
    low, high = some.amin(0), some.amax(0) + 1
    part = pet[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))].contiguous()
    shift = torch.eye(4).double()
    shift[:3, 3] = low.double()
    return part, affine @ shift


def _moved(place: _Place, step: Tensor) -> _Place:
    """Return a place after a motion along the PET's axes, mm, and about them."""
    a, b, c = step[3:].tolist()
    turn = torch.linalg.matrix_exp(torch.tensor([[0, -c, b], [c, 0, -a], [-b, a, 0]], dtype=torch.float64))
    return _Place(place.axes @ turn, place.origin + place.axes @ step[:3].clamp(-2, 2))
