r"""Blur and decimation, the family of operators that is solved in closed form.

Kernels are symmetric along each axis and images are continued by half-sample reflection (`... b a | a b c ...`, which
scipy calls "reflect"), hence the type-II cosine transform diagonalises them, and `A A'` with them. See
`medfuse.physics.operators.cosine`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial, reduce

import torch
from torch import Tensor

from medfuse.errors import DegradationError, GeometryError
from medfuse.physics.operators.base import Composition, LinearOperator
from medfuse.physics.operators.cosine import Analysis, cosine_transform

Parameter = float | Sequence[float] | Tensor
FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))


class SpectralOperator(LinearOperator):
    """Symmetric separable filter followed by decimation: `A = S_s H`.

    Sub-classes state the decimation and the frequency response along an axis. Everything else follows: with the
    orthonormal cosine bases `C` of the large and of the small grid, `A = C_small' B` where `B = fold(h C_large)` maps
    an image to the cosine coefficients of its observation, and `B B'` is diagonal.

    Reference: Zhao et al., Fast single image super-resolution using a new analytical solution (TIP 2016), carried over
    from periodic to half-sample symmetric borders.
    """

    @property
    def shift_invariant(self) -> bool:
        """It is, up to the decimation."""
        return True

    def factors(self, ndim: int) -> tuple[int, ...]:
        """Return the decimation along each of `ndim` axes."""
        return (1,) * ndim

    @abstractmethod
    def response(self, omega: Tensor, axis: int, ndim: int) -> Tensor:
        """Return the real frequency response along an axis, **[b, K]** with b = 1 or the batch size.

        Args:
            omega: Angular frequencies, radians per sample of the operator's input grid, **[K]**.
            axis: Spatial axis, from 0.
            ndim: Number of spatial axes.
        """

    def divides(self, spatial: Sequence[int]) -> bool:
        """Tell whether the decimation divides the shape, so that `A A'` is diagonal."""
        return all(n % s == 0 for n, s in zip(spatial, self.factors(len(spatial)), strict=True))

    @property
    def signature(self) -> Hashable | None:
        """What is equal for operators of equal responses and factors; None where that cannot be told cheaply."""
        return None

    def analysis(self, spatial: Sequence[int], like: Tensor) -> list[Analysis]:
        """Return `B` of each axis of an image of shape `spatial`; it is kept for operators of equal responses."""
        if self.signature is None:
            return _analysis(self, spatial, like)
        return _kept_analysis(_Wanted((type(self), self.signature), tuple(spatial), like.dtype, like.device, self))

    def out_spatial(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the decimated shape, rounded up."""
        return tuple(-(-n // s) for n, s in zip(spatial, self.factors(len(spatial)), strict=True))

    def in_spatial(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the shape before decimation, a multiple of the factor."""
        return tuple(n * s for n, s in zip(spatial, self.factors(len(spatial)), strict=True))

    def followed_by(self, later: LinearOperator) -> LinearOperator | None:
        """Return the chain of both, where `later` is of the family."""
        if not isinstance(later, SpectralOperator):
            return None
        parts = [op.operators if isinstance(op, SpectralChain) else (op,) for op in (self, later)]
        return SpectralChain((*parts[0], *parts[1]))

    def power_gains(self, omega: Tensor, spatial: Sequence[int]) -> Tensor:
        """Return the squared frequency response, **[b, D, K]**."""
        ndim = len(spatial)
        rows = torch.broadcast_tensors(*(self.response(omega, d, ndim) for d in range(ndim)))
        return torch.stack(rows, 1).square()

    def white_gain(self, spatial: Sequence[int], like: Tensor) -> Tensor:
        """Return `trace(A A') / n` exactly, **[b]** (for a size that the decimation divides, else to the border)."""
        analysis = self.analysis(self.in_spatial(self.out_spatial(spatial)), like)
        return reduce(torch.mul, [along.gram.mean(-1) for along in analysis])

    def forward(self, x: Tensor) -> Tensor:
        """Filter and decimate `x` **[B, C, *spatial]**."""
        for axis, along in enumerate(self.analysis(x.shape[2:], x)):
            x = cosine_transform(along.forward(x, axis), axis, inverse=True)
        return x

    def adjoint(self, y: Tensor, spatial: Sequence[int] | None = None) -> Tensor:
        """Apply the transpose to `y` **[B, C, *out_spatial]**.

        Raises:
            GeometryError: `y` is no observation of an image of shape `spatial`.
        """
        spatial = self.in_spatial(y.shape[2:]) if spatial is None else tuple(spatial)
        if self.out_spatial(spatial) != tuple(y.shape[2:]):
            raise GeometryError(
                f"the observation of an image of shape {spatial} must have shape {self.out_spatial(spatial)}, "
                f"got {tuple(y.shape[2:])}; pass the image's own shape as `spatial`."
            )
        for axis, along in enumerate(self.analysis(spatial, y)):
            y = along.adjoint(cosine_transform(y, axis), axis)
        return y


def _analysis(operator: SpectralOperator, spatial: Sequence[int], like: Tensor) -> list[Analysis]:
    ndim = len(spatial)
    axes = zip(range(ndim), spatial, operator.factors(ndim), strict=True)
    return [Analysis(partial(operator.response, axis=d, ndim=ndim), n, s, like) for d, n, s in axes]


@dataclass(frozen=True)
class _Wanted:
    """What an analysis depends on, and an operator of that signature to make it by."""

    signature: Hashable
    spatial: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    operator: SpectralOperator = field(compare=False)


@lru_cache(maxsize=64)
def _kept_analysis(wanted: _Wanted) -> list[Analysis]:
    """Return the analysis of operators that are met again and again, made once; gradients of others may pass it."""
    with torch.inference_mode(False), torch.no_grad():
        return _analysis(wanted.operator, wanted.spatial, torch.empty(0, dtype=wanted.dtype, device=wanted.device))


class Identity(SpectralOperator):
    """The source as it is."""

    is_identity = True

    @property
    def signature(self) -> Hashable | None:
        """Nothing."""
        return ()

    def response(self, omega: Tensor, axis: int, ndim: int) -> Tensor:
        """Return ones."""
        return torch.ones_like(omega)[None]

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`."""
        return x

    def adjoint(self, y: Tensor, spatial: Sequence[int] | None = None) -> Tensor:
        """Return `y`."""
        return y


class GaussianBlur(SpectralOperator):
    """Gaussian point spread function, sampled on the pixel grid and normalised (mass 1, never negative)."""

    def __init__(self, sigma: Parameter) -> None:
        """Make a blur.

        Args:
            sigma: Standard deviation in pixels: a number; one number per axis; a tensor **[B]** (one per sample) or
                **[B, D]** (per sample and axis).

        Raises:
            DegradationError: A negative or non-finite width.
        """
        self.sigma = _per_axis(sigma, "the blur's sigma")
        self._radius = max(1, math.ceil(5.0 * float(self.sigma.max())))

    @property
    def signature(self) -> Hashable | None:
        """Its widths, where they are at hand: those on another device would have to be fetched."""
        if self.sigma.device.type != "cpu" or self.sigma.requires_grad:
            return None
        return self.sigma.dtype, *map(tuple, self.sigma.tolist())

    @classmethod
    def from_fwhm(cls, fwhm: Parameter, spacing: Sequence[float]) -> GaussianBlur:
        """Make a blur from a full width at half maximum in mm and the voxel size in mm of each axis."""
        width = _per_axis(fwhm, "the blur's FWHM")
        return cls(width / FWHM_PER_SIGMA / torch.tensor([float(s) for s in spacing], dtype=torch.float64))

    def response(self, omega: Tensor, axis: int, ndim: int) -> Tensor:
        """Return the cosine sum over the kernel's taps."""
        sigma = _axis_column(self.sigma, axis, ndim, "the blur's sigma").to(omega)
        taps = torch.arange(-self._radius, self._radius + 1, device=omega.device, dtype=omega.dtype)
        kernel = torch.exp(-0.5 * (taps / sigma[:, None].clamp_min(1e-3)) ** 2)
        kernel = kernel * (taps.abs() <= (5.0 * sigma[:, None]).ceil().clamp_min(1.0))
        return (kernel / kernel.sum(-1, keepdim=True)) @ torch.cos(taps[:, None] * omega)


class Downsample(SpectralOperator):
    """Decimation after averaging over blocks, or after an antialiased bicubic filter (Keys, a = -0.5)."""

    def __init__(self, factor: int | Sequence[int], kind: str = "average") -> None:
        """Make a down-sampling.

        Args:
            factor: Integer factor of every axis, or one for each.
            kind: `average` (mean of each block) or `bicubic` (kernel widened by the factor, as Pillow and MATLAB do).

        Raises:
            DegradationError: A factor below 1 or an unknown kind.
        """
        self.factor = (factor,) if isinstance(factor, int) else tuple(int(f) for f in factor)
        if any(f < 1 for f in self.factor):
            raise DegradationError(f"a down-sampling factor must be an integer of at least 1, got {factor}.")
        if kind not in ("average", "bicubic"):
            raise DegradationError(f"the kind of down-sampling must be `average` or `bicubic`, got {kind!r}.")
        self.kind = kind

    @property
    def signature(self) -> Hashable | None:
        """Its factors and its filter."""
        return self.factor, self.kind

    def factors(self, ndim: int) -> tuple[int, ...]:
        """Return the factor of each axis.

        Raises:
            DegradationError: There are neither one factor nor as many as axes.
        """
        if len(self.factor) not in (1, ndim):
            raise DegradationError(f"the down-sampling must have 1 or {ndim} factors, got {self.factor}.")
        return self.factor * ndim if len(self.factor) == 1 else self.factor

    def response(self, omega: Tensor, axis: int, ndim: int) -> Tensor:
        """Return the response of the averaging or bicubic kernel about the centre of a block."""
        s = self.factors(ndim)[axis]
        if s == 1:
            return torch.ones_like(omega)[None]
        if self.kind == "average":
            taps = torch.arange(s, device=omega.device, dtype=omega.dtype) - (s - 1) / 2
            kernel = torch.ones_like(taps)
        else:
            taps = torch.arange(4 * s, device=omega.device, dtype=omega.dtype) - (4 * s - 1) / 2
            taps = taps if s % 2 == 0 else taps - 0.5
            kernel = _keys_cubic(taps / s)
        return ((kernel / kernel.sum()) @ torch.cos(taps[:, None] * omega))[None]


class SpectralChain(SpectralOperator):
    """Several filters and decimations, applied in order, as one member of the family."""

    def __init__(self, operators: Sequence[SpectralOperator]) -> None:
        self.operators = tuple(operators)

    @property
    def signature(self) -> Hashable | None:
        """Those of its operators, in order, if all have one."""
        each = [(type(op), op.signature) for op in self.operators]
        return None if any(signature is None for _, signature in each) else tuple(each)

    def factors(self, ndim: int) -> tuple[int, ...]:
        """Return the product of the decimations."""
        parts = [op.factors(ndim) for op in self.operators]
        return tuple(math.prod(f[d] for f in parts) for d in range(ndim))

    def response(self, omega: Tensor, axis: int, ndim: int) -> Tensor:
        """Return the product of the responses, each at the frequency of its own grid."""
        total = torch.ones_like(omega)[None]
        scale = 1
        for op in self.operators:
            total = total * op.response(omega * scale, axis, ndim)
            scale *= op.factors(ndim)[axis]
        return total

    def forward(self, x: Tensor) -> Tensor:
        """Filter and decimate `x`; one operator after another where the decimation does not divide its shape."""
        return super().forward(x) if self.divides(x.shape[2:]) else Composition(self.operators).forward(x)

    def adjoint(self, y: Tensor, spatial: Sequence[int] | None = None) -> Tensor:
        """Apply the transpose to `y` **[B, C, *out_spatial]**."""
        spatial = self.in_spatial(y.shape[2:]) if spatial is None else tuple(spatial)
        return super().adjoint(y, spatial) if self.divides(spatial) else Composition(self.operators).adjoint(y, spatial)


def _per_axis(value: Parameter, name: str) -> Tensor:
    """Bring a parameter to the shape [b, 1 or D]."""
    if isinstance(value, Tensor):
        tensor = value.reshape(-1, 1) if value.ndim < 2 else value
    else:
        values = [float(value)] if isinstance(value, (int, float)) else [float(v) for v in value]
        tensor = torch.tensor([values], dtype=torch.float64)
    if tensor.ndim != 2 or not bool(torch.isfinite(tensor).all()) or bool((tensor < 0).any()):
        raise DegradationError(f"{name} must be finite and not negative, of shape [], [B] or [B, D], got {value}.")
    return tensor


def _axis_column(value: Tensor, axis: int, ndim: int, name: str) -> Tensor:
    if value.shape[1] not in (1, ndim):
        raise DegradationError(f"{name} must have 1 or {ndim} values per sample, got {value.shape[1]}.")
    return value[:, axis if value.shape[1] == ndim else 0]


def _keys_cubic(t: Tensor, a: float = -0.5) -> Tensor:
    t = t.abs()
    inner = (a + 2) * t**3 - (a + 3) * t**2 + 1
    outer = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return torch.where(t <= 1, inner, torch.where(t < 2, outer, torch.zeros_like(t)))
