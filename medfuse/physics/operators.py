r"""Linear (and non-linear) observation operators `y = A x`.

An operator acts on tensors `[B, C, *spatial]` with two or three spatial axes of any size. It is immutable. Its numeric
parameters are numbers, or tensors whose first axis is the batch, so that each sample of a batch can have its own.
`A @ B` applies `B` first. Only `forward` and `adjoint` are ever required of an operator.

Blur and decimation form a family of their own, `SpectralOperator`: their kernels are symmetric along each axis and
images are continued by half-sample reflection (`... b a | a b c ...`, which scipy calls "reflect"), hence the type-II
cosine transform diagonalises them, and `A A'` with them. See `medfuse.physics.spectral`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial, reduce

import torch
from torch import Tensor

from medfuse.errors import DegradationError, GeometryError
from medfuse.physics.spectral import analysis_matrix, apply_along, cosine_basis, reflect_index

Parameter = float | Sequence[float] | Tensor
FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))


class Operator(ABC):
    """An observation `x -> h(x)`, linear or not."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Observe `x` **[B, C, *spatial]**."""

    def out_spatial(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the spatial shape of the observation of an image of shape `spatial`."""
        return tuple(spatial)

    def derivative(self, x: Tensor) -> LinearOperator:
        """Return the Jacobian at `x` as a linear operator; a linear operator is its own derivative."""
        return Jacobian(self, x)

    def __call__(self, x: Tensor) -> Tensor:
        """Observe `x`."""
        return self.forward(x)


class LinearOperator(Operator):
    """A linear observation with its adjoint."""

    @abstractmethod
    def adjoint(self, y: Tensor, spatial: Sequence[int] | None = None) -> Tensor:
        """Apply the transpose.

        Args:
            y: **[B, C, *out_spatial]**.
            spatial: Shape of the domain; needed only where it does not follow from the shape of `y`
                (down-sampling of a size that is no multiple of the factor).

        Returns:
            **[B, C, *spatial]**.
        """

    def in_spatial(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the natural domain of an observation of shape `spatial`."""
        return tuple(spatial)

    def derivative(self, x: Tensor) -> LinearOperator:
        """Return itself."""
        return self

    def power_gains(self, omega: Tensor, spatial: Sequence[int]) -> Tensor:
        """Return the power with which cosine waves along each axis pass, **[b, D, K]**; 1 where nothing is lost.

        Args:
            omega: Angular frequencies, radians per pixel, **[K]**.
            spatial: Shape of the image; only operators that are not shift-invariant depend on it.
        """
        ndim = len(spatial)
        waves = []
        for d, n in enumerate(spatial):
            j = torch.arange(n, device=omega.device, dtype=omega.dtype) + 0.5
            wave = torch.cos(omega[:, None] * j)
            waves.append(wave.reshape(-1, *([1] * d), n, *([1] * (ndim - d - 1))).expand(-1, *spatial))
        x = torch.stack(waves).flatten(0, 1)[None]
        axes = tuple(range(2, ndim + 2))
        return (self.forward(x).square().mean(axes) / x.square().mean(axes)).unflatten(1, (ndim, len(omega)))

    def white_gain(self, spatial: Sequence[int], like: Tensor) -> Tensor:
        """Return the mean variance **[b]** of white noise of unit variance after the operator, `trace(A A') / n`.

        The default is a Monte Carlo estimate with a fixed seed.
        """
        generator = torch.Generator().manual_seed(0)
        x = torch.randn((1, 8, *spatial), generator=generator, dtype=torch.float64).to(like)
        return self.forward(x).square().flatten(1).mean(1)

    def __matmul__(self, other: LinearOperator) -> LinearOperator:
        """Return the operator that applies `other` first, then this one."""
        return compose(self, other)


class Jacobian(LinearOperator):
    """Derivative of a non-linear operator at a point, by forward- and reverse-mode differentiation."""

    def __init__(self, operator: Operator, x: Tensor) -> None:
        self._operator = operator
        self._x = x.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Return the directional derivative along `x`."""
        return torch.func.jvp(self._operator.forward, (self._x,), (x,))[1]

    def adjoint(self, y: Tensor, spatial: Sequence[int] | None = None) -> Tensor:
        """Return the gradient of `<h(x), y>`."""
        return torch.func.vjp(self._operator.forward, self._x)[1](y)[0]

    def out_spatial(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the operator's own output shape."""
        return self._operator.out_spatial(spatial)


class Gamma(Operator):
    """Point-wise power `sign(x) |x|^gamma`: the simplest non-linear observation."""

    def __init__(self, gamma: float) -> None:
        if not gamma > 0:
            raise DegradationError(f"gamma must be positive, got {gamma}.")
        self.gamma = float(gamma)

    def forward(self, x: Tensor) -> Tensor:
        """Observe `x`."""
        return x.sign() * x.abs().pow(self.gamma)


# ----------------------------------------------------------------------------------------------- blur and decimation
class SpectralOperator(LinearOperator):
    """Symmetric separable filter followed by decimation: `A = S_s H`.

    Sub-classes state the decimation and the frequency response along an axis. Everything else follows: with the
    orthonormal cosine bases `C` of the large and of the small grid, `A = C_small' B` where `B = fold(h C_large)` maps
    an image to the cosine coefficients of its observation, and `B B'` is diagonal.

    Reference: Zhao et al., Fast single image super-resolution using a new analytical solution (TIP 2016), carried over
    from periodic to half-sample symmetric borders.
    """

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

    def analysis(self, spatial: Sequence[int], like: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return, for each axis, `B` **[b, n, N]** and the diagonal of `B B'` **[b, n]** (exact where it divides)."""
        ndim = len(spatial)
        factors = self.factors(ndim)
        axes = zip(range(ndim), spatial, factors, strict=True)
        return [analysis_matrix(partial(self.response, axis=d, ndim=ndim), n, s, like) for d, n, s in axes]

    def out_spatial(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the decimated shape, rounded up."""
        return tuple(-(-n // s) for n, s in zip(spatial, self.factors(len(spatial)), strict=True))

    def in_spatial(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the shape before decimation, a multiple of the factor."""
        return tuple(n * s for n, s in zip(spatial, self.factors(len(spatial)), strict=True))

    def power_gains(self, omega: Tensor, spatial: Sequence[int]) -> Tensor:
        """Return the squared frequency response, **[b, D, K]**."""
        ndim = len(spatial)
        rows = torch.broadcast_tensors(*(self.response(omega, d, ndim) for d in range(ndim)))
        return torch.stack(rows, 1).square()

    def white_gain(self, spatial: Sequence[int], like: Tensor) -> Tensor:
        """Return `trace(A A') / n` exactly, **[b]** (for a size that the decimation divides, else to the border)."""
        gains = [gram.mean(-1) for _, gram in self.analysis(self.in_spatial(self.out_spatial(spatial)), like)]
        return reduce(torch.mul, gains)

    def _matrices(self, spatial: Sequence[int], like: Tensor) -> list[Tensor]:
        return [cosine_basis(b.shape[-2], like).T @ b for b, _ in self.analysis(spatial, like)]

    def forward(self, x: Tensor) -> Tensor:
        """Filter and decimate `x` **[B, C, *spatial]**."""
        for axis, matrix in enumerate(self._matrices(x.shape[2:], x)):
            x = apply_along(matrix, x, axis)
        return x

    def adjoint(self, y: Tensor, spatial: Sequence[int] | None = None) -> Tensor:
        """Apply the transpose to `y` **[B, C, *out_spatial]**."""
        spatial = self.in_spatial(y.shape[2:]) if spatial is None else tuple(spatial)
        if self.out_spatial(spatial) != tuple(y.shape[2:]):
            raise GeometryError(
                f"the observation of an image of shape {spatial} must have shape {self.out_spatial(spatial)}, "
                f"got {tuple(y.shape[2:])}; pass the image's own shape as `spatial`."
            )
        for axis, matrix in enumerate(self._matrices(spatial, y)):
            y = apply_along(matrix.mT, y, axis)
        return y


class Identity(SpectralOperator):
    """The source as it is."""

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

    def factors(self, ndim: int) -> tuple[int, ...]:
        """Return the factor of each axis."""
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


# ------------------------------------------------------------------------------------------------- everything else
class Convolution(LinearOperator):
    """Convolution with any kernel, on an image continued by half-sample reflection."""

    def __init__(self, kernel: Tensor) -> None:
        """Make a convolution.

        Args:
            kernel: **[b, *k]** with odd sizes and its origin in the centre; b = 1 or the batch size.

        Raises:
            DegradationError: An even size or a non-finite value.
        """
        if any(k % 2 == 0 for k in kernel.shape[1:]):
            raise DegradationError(f"a kernel must have odd sizes, got {tuple(kernel.shape[1:])}.")
        if not bool(torch.isfinite(kernel).all()):
            raise DegradationError("a kernel must be finite, got NaN or infinity.")
        self.kernel = kernel

    def _transfer(self, padded: Sequence[int], like: Tensor) -> Tensor:
        kernel = self.kernel.to(like)
        return torch.fft.rfftn(kernel, s=tuple(padded), dim=tuple(range(1, kernel.ndim)))[:, None]

    def _extension(self, spatial: Sequence[int], device: torch.device) -> list[Tensor]:
        if self.kernel.ndim - 1 != len(spatial):
            raise GeometryError(f"an image must have the kernel's {self.kernel.ndim - 1} axes, got {len(spatial)}.")
        return [reflect_index(n, k // 2, device) for n, k in zip(spatial, self.kernel.shape[1:], strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x` **[B, C, *spatial]**."""
        spatial = x.shape[2:]
        for d, index in enumerate(self._extension(spatial, x.device)):
            x = x.index_select(d + 2, index)
        dims, padded = tuple(range(2, x.ndim)), x.shape[2:]
        y = torch.fft.irfftn(torch.fft.rfftn(x, dim=dims) * self._transfer(padded, x), s=padded, dim=dims)
        return y[(..., *(slice(p - n, None) for p, n in zip(padded, spatial, strict=True)))]

    def adjoint(self, y: Tensor, spatial: Sequence[int] | None = None) -> Tensor:
        """Apply the transpose to `y` **[B, C, *spatial]**."""
        shape = y.shape[2:]
        extension = self._extension(shape, y.device)
        padded = tuple(len(index) for index in extension)
        widths = [w for p, n in reversed(list(zip(padded, shape, strict=True))) for w in (p - n, 0)]
        dims = tuple(range(2, y.ndim))
        spectrum = torch.fft.rfftn(torch.nn.functional.pad(y, widths), dim=dims)
        x = torch.fft.irfftn(spectrum * self._transfer(padded, y).conj(), s=padded, dim=dims)
        for d, index in enumerate(extension):
            x = x.new_zeros((*x.shape[: d + 2], shape[d], *x.shape[d + 3 :])).index_add(d + 2, index, x)
        return x


class MotionBlur(Convolution):
    """Uniform motion along a line in the plane of two axes."""

    def __init__(
        self, length: float | Tensor, angle: float | Tensor, *, ndim: int = 2, plane: tuple[int, int] = (-2, -1)
    ) -> None:
        """Make a motion blur.

        Args:
            length: Length of the path in pixels (at least 1), a number or a tensor **[B]**.
            angle: Degrees, counter-clockwise from the second axis of the plane, a number or a tensor **[B]**.
            ndim: Number of spatial axes.
            plane: The two spatial axes (rows, columns) in which the motion takes place.

        Raises:
            DegradationError: A length below 1, or a value that is not finite.
        """
        size, turn = torch.broadcast_tensors(
            torch.as_tensor(length, dtype=torch.float64).reshape(-1),
            torch.as_tensor(angle, dtype=torch.float64).reshape(-1),
        )
        if not bool((size >= 1).all() & size.isfinite().all() & turn.isfinite().all()):
            raise DegradationError(
                f"the length of a motion must be at least 1 px and its angle finite, got {length} and {angle}."
            )
        self.length, self.angle = size, turn
        planar = torch.stack(
            [_line_kernel(float(n), float(a), float(size.max())) for n, a in zip(size, turn, strict=True)]
        )
        shape = [1] * ndim
        shape[plane[0]], shape[plane[1]] = planar.shape[1], planar.shape[2]
        if plane[0] % ndim > plane[1] % ndim:
            planar = planar.mT
        super().__init__(planar.reshape(len(planar), *shape))


class Mask(LinearOperator):
    """Pixels that were measured (1) and that were not (0): dead pixels, missing data."""

    def __init__(self, mask: Tensor) -> None:
        """Make a mask from a tensor **[*spatial]** or **[b, 1, *spatial]** of zeros and ones."""
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        """Blank what was not measured."""
        return x * self.mask.to(x)

    def adjoint(self, y: Tensor, spatial: Sequence[int] | None = None) -> Tensor:
        """Blank what was not measured."""
        return y * self.mask.to(y)


class MissingSlices(LinearOperator):
    """Slices along one axis that were not measured, for images of any size."""

    def __init__(self, indices: Sequence[int], axis: int) -> None:
        self.indices, self.axis = tuple(indices), axis

    def forward(self, x: Tensor) -> Tensor:
        """Blank the missing slices."""
        n = x.shape[self.axis + 2]
        if any(not -n <= i < n for i in self.indices):
            raise GeometryError(f"missing slices must lie within the {n} of axis {self.axis}, got {self.indices}.")
        keep = x.new_ones(n)
        keep[[i % n for i in self.indices]] = 0.0
        return x * keep.reshape([-1 if d == self.axis + 2 else 1 for d in range(x.ndim)])

    def adjoint(self, y: Tensor, spatial: Sequence[int] | None = None) -> Tensor:
        """Blank the missing slices."""
        return self.forward(y)


class Composition(LinearOperator):
    """Operators applied one after another."""

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        self.operators = tuple(operators)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the first, then the next, and so on."""
        return reduce(lambda v, op: op.forward(v), self.operators, x)

    def adjoint(self, y: Tensor, spatial: Sequence[int] | None = None) -> Tensor:
        """Apply the adjoints in reverse order."""
        spatial = self.in_spatial(y.shape[2:]) if spatial is None else spatial
        shapes = [tuple(spatial)]
        for op in self.operators[:-1]:
            shapes.append(op.out_spatial(shapes[-1]))
        for op, shape in zip(reversed(self.operators), reversed(shapes), strict=True):
            y = op.adjoint(y, shape)
        return y

    def out_spatial(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the shape after the last operator."""
        return reduce(lambda s, op: op.out_spatial(s), self.operators, tuple(spatial))

    def in_spatial(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the natural domain before the first operator."""
        return reduce(lambda s, op: op.in_spatial(s), reversed(self.operators), tuple(spatial))


def compose(*operators: LinearOperator) -> LinearOperator:
    """Compose as in a product of matrices: the last operator acts first. Neighbouring spectral operators merge."""
    flat: list[LinearOperator] = []
    for op in reversed(operators):
        flat += op.operators if isinstance(op, (Composition, SpectralChain)) else [op]
    merged: list[LinearOperator] = []
    for op in flat:
        if isinstance(op, Identity):
            continue
        last = merged[-1] if merged else None
        if isinstance(op, SpectralOperator) and isinstance(last, SpectralOperator):
            parts = last.operators if isinstance(last, SpectralChain) else (last,)
            merged[-1] = SpectralChain((*parts, op))
        else:
            merged.append(op)
    if not merged:
        return Identity()
    return merged[0] if len(merged) == 1 else Composition(merged)


# ---------------------------------------------------------------------------------------------------------- helpers
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


def _line_kernel(length: float, angle: float, longest: float) -> Tensor:
    """Sample a centred line of unit mass with bilinear weights, 16 points per pixel."""
    radius = math.ceil(longest / 2) + 1
    points = max(math.ceil(length * 16), 1)
    t = ((torch.arange(points, dtype=torch.float64) + 0.5) / points - 0.5) * (length - 1)
    y = radius - t * math.sin(math.radians(angle))
    x = radius + t * math.cos(math.radians(angle))
    kernel = torch.zeros(2 * radius + 1, 2 * radius + 1, dtype=torch.float64)
    for dy in (0, 1):
        for dx in (0, 1):
            row, column = y.floor().long() + dy, x.floor().long() + dx
            weight = (1 - (y - row).abs()) * (1 - (x - column).abs())
            kernel.index_put_((row, column), weight, accumulate=True)
    return kernel / kernel.sum()
