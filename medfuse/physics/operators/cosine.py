"""The cosine transform in which symmetric blur and decimation are diagonal.

Half-sample reflection at the borders and a kernel that is symmetric along each axis make the orthonormal type-II cosine
basis the eigenbasis of the filter. Decimation by `s` about the centres of blocks folds the frequencies `k` of the large
grid (`N = s n`) onto those of the small one: `k = 2 n m + q` lands on `q`, `k = 2 n m - q` on `q` likewise, each with a
sign, and odd multiples of `n` vanish. Hence `B B'` is diagonal, axis by axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

_AT_ONCE = 2**21  # samples that a Fourier transform takes at once
_SHORT = 256  # samples, up to which products with halves of the basis are faster than a Fourier transform
_SHORTEST = 128  # samples, up to which one product with the whole basis is faster


def cosine_basis(n: int, like: Tensor, frequencies: Tensor | None = None) -> Tensor:
    """Return the orthonormal type-II cosine basis, one row a frequency, in the dtype of `like`.

    Args:
        n: Number of samples.
        like: Gives device and dtype.
        frequencies: Those that are wanted, integers **[*shape]**; all n where None.

    Returns:
        **[*shape, n]**.
    """
    samples = torch.arange(n, device=like.device, dtype=torch.float64)
    k = samples if frequencies is None else frequencies.to(samples)
    scale = torch.full_like(k, math.sqrt(2.0 / n)).masked_fill(k == 0, math.sqrt(1.0 / n))
    return (torch.cos(math.pi / n * k[..., None] * (samples + 0.5)) * scale[..., None]).to(like.dtype)


def apply_along(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """Apply `matrix` **[m, n]** or **[B, m, n]** along spatial axis `axis` of `x` **[B, C, *spatial]**."""
    if matrix.ndim == 3:
        matrix = matrix.reshape(len(matrix), *([1] * (x.ndim - 3)), *matrix.shape[1:])
    if axis == x.ndim - 3:
        return torch.matmul(x, matrix.mT)
    if matrix.ndim > 2:
        return torch.matmul(matrix, x.movedim(axis + 2, -2)).movedim(-2, axis + 2)
    found = torch.matmul(matrix, x.flatten(axis + 3))  # the axes after it in one, and nothing copied
    return found.reshape(*x.shape[: axis + 2], len(matrix), *x.shape[axis + 3 :])


def slow_waves(sizes: Sequence[int], counts: Sequence[int], like: Tensor) -> list[Tensor]:
    """Return the lowest rows of the cosine basis of each axis, **[count, n]**."""
    return [_slowest(n, k, like.dtype, like.device) for n, k in zip(sizes, counts, strict=True)]


@lru_cache(maxsize=16)
def _slowest(n: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the lowest rows of the basis of an axis, made once; gradients of others may pass through it."""
    with torch.inference_mode(False):
        return cosine_basis(n, torch.empty(0, dtype=dtype, device=device), torch.arange(count, device=device))


def along_all(matrices: Sequence[Tensor], x: Tensor) -> Tensor:
    """Apply a matrix along each spatial axis of `x` **[B, C, *spatial]**."""
    for axis, matrix in enumerate(matrices):
        x = apply_along(matrix, x, axis)
    return x


def cosine_transform(x: Tensor, axis: int, *, inverse: bool = False) -> Tensor:
    """Return the orthonormal type-II cosine transform of `x` **[B, C, *spatial]** along a spatial axis, or its inverse.

    Reference:
        Makhoul, A fast cosine transform in one and two dimensions (IEEE TASSP 1980); for the halves, Chen, Smith and
        Fralick, A fast computational algorithm for the discrete cosine transform (IEEE Trans Commun 1977).
    """
    n = x.shape[axis + 2]
    if n <= _SHORTEST:
        basis = _short_basis(n, x.dtype, x.device)
        return apply_along(basis.T if inverse else basis, x, axis)
    if n <= _SHORT and (inverse or axis < x.ndim - 3):
        return _transform_by_halves(x, axis, inverse=inverse)
    x = x.movedim(axis + 2, -1)
    if x.numel() > _AT_ONCE and x.shape[-2] > 1:  # large images leave room for little beside themselves
        y, rows = torch.empty_like(x), max(1, _AT_ONCE * x.shape[-2] // x.numel())
        for some in (slice(i, i + rows) for i in range(0, x.shape[-2], rows)):
            y[..., some, :] = _fast_cosine_transform(x[..., some, :], inverse=inverse)
        return y.movedim(-1, axis + 2)
    return _fast_cosine_transform(x, inverse=inverse).movedim(-1, axis + 2)


@lru_cache(maxsize=8)
def _short_basis(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the whole basis of a short axis, made once; gradients of others may pass through it."""
    with torch.inference_mode(False):
        return cosine_basis(n, torch.empty(0, dtype=dtype, device=device))


@lru_cache(maxsize=8)
def _halves(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return even and odd rows of a basis up to the middle of the axis; even ones once more, the middle halved."""
    with torch.inference_mode(False):
        half = cosine_basis(n, torch.empty(0, dtype=dtype, device=device))[:, : (n + 1) // 2]
        even, odd = half[::2].contiguous(), half[1::2].contiguous()
        once = even.clone()
        if n % 2:
            once[:, -1] *= 0.5
        return even, odd, once


def _transform_by_halves(x: Tensor, axis: int, *, inverse: bool) -> Tensor:
    """Transform by half as many products: even waves are the same from both ends of an axis, odd ones change sign."""
    d, n = axis + 2, x.shape[axis + 2]
    even, odd, once = _halves(n, x.dtype, x.device)
    every = [slice(None)] * d
    if inverse:
        same = apply_along(even.mT, x[(*every, slice(0, None, 2))], axis)
        other = apply_along(odd.mT, x[(*every, slice(1, None, 2))], axis)
        back = (same - other).narrow(d, 0, n // 2).flip(d)
        return torch.cat([same + other, back], d)
    there, back = x.narrow(d, 0, (n + 1) // 2), x.narrow(d, n // 2, (n + 1) // 2).flip(d)
    same, other = apply_along(once, there + back, axis), apply_along(odd, there - back, axis)
    if n % 2:
        other = torch.cat([other, torch.zeros_like(other.narrow(d, 0, 1))], d)
    return torch.stack([same, other], d + 1).flatten(d, d + 1).narrow(d, 0, n)


def cosine_waves(x: Tensor, *, inverse: bool = False) -> Tensor:
    """Return the cosine coefficients of an image **[B, C, *spatial]**, or the image of its coefficients."""
    for axis in range(x.ndim - 2):
        x = cosine_transform(x, axis, inverse=inverse)
    return x


def _fast_cosine_transform(x: Tensor, *, inverse: bool) -> Tensor:
    """Transform along the last axis by a Fourier transform of its length."""
    n = x.shape[-1]
    half = n // 2
    turn = _turn(n, x.dtype, x.device)
    if inverse:
        waves = torch.complex(x[..., : half + 1], F.pad(-x[..., n - half :].flip(-1), (1, 0))).div_(turn)
        x = torch.fft.irfft(waves, n)
        there, back = x[..., : n - half], F.pad(x[..., n - half :].flip(-1), (0, n % 2))
        return torch.stack([there, back], -1).flatten(-2)[..., :n]
    # there along the even samples, and back along the odd ones
    waves = torch.fft.rfft(torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1)).mul_(turn)
    return torch.cat([waves.real, -waves.imag[..., 1 : n - half].flip(-1)], -1)


@lru_cache(maxsize=8)
def _turn(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return what makes cosine waves of the Fourier coefficients of n samples, **[n // 2 + 1]**, complex."""
    with torch.inference_mode(False):
        k = torch.arange(n // 2 + 1, device=device, dtype=torch.float64)
        turn = torch.polar(torch.full_like(k, math.sqrt(2.0 / n)), -0.5 * math.pi / n * k)
        turn[0] *= math.sqrt(0.5)
        return turn.to(dtype.to_complex())


def reflect_index(n: int, radius: int, device: torch.device | None = None) -> Tensor:
    """Return the indices **[n + 2 radius]** that continue `n` samples by half-sample reflection."""
    i = torch.arange(-radius, n + radius, device=device) % (2 * n)
    return torch.where(i < n, i, 2 * n - 1 - i)


class Analysis:
    """The map `B` from an axis of an image to the cosine coefficients of its observation, filtered and decimated.

    `B = fold(h C)`: the cosine transform, the response, and the sum of the coefficients that decimation makes one.

    Attributes:
        gram: The diagonal of `B B'`, **[b, n]**.
    """

    def __init__(self, response: Callable[[Tensor], Tensor], size: int, factor: int, like: Tensor) -> None:
        """Make the map.

        Args:
            response: Frequency response **[b, K]** at angular frequencies **[K]**, radians per sample.
            size: Number of samples of the image along the axis. Where it is no multiple of the factor, the image is
                continued by half-sample reflection up to the next multiple, and `B B'` is no longer diagonal.
            factor: Decimation.
            like: Gives device and dtype.
        """
        self._size, self._factor = size, factor
        small = -(-size // factor)
        large = small * factor
        k = torch.arange(large, device=like.device)
        part, q = k // small, k % small
        backwards = (part % 2 == 1) & (q > 0)
        self._order = torch.where(backwards, (2 * part + 1) * small - k, k)  # its own inverse
        weight = (1 - 2 * ((part + 1) // 2 % 2)).to(torch.float64) / math.sqrt(factor)
        weight[(q == 0) & (part > 0)] *= math.sqrt(2.0)
        weight[(q == 0) & (part % 2 == 1)] = 0.0
        omega = (k.to(torch.float64) * (math.pi / large)).to(like.dtype)
        h = response(omega) * weight.to(like.dtype)
        h = torch.where(h.abs() < torch.finfo(h.dtype).tiny ** 0.25, 0.0, h)  # no subnormal numbers: they are slow
        self._gains = h[:, self._order].reshape(len(h), factor, small)
        self.gram = self._gains.square().sum(1)
        self._slow: dict[int, Tensor] = {}

    def forward(self, x: Tensor, axis: int) -> Tensor:
        """Apply `B` along a spatial axis of `x` **[B, C, *spatial]**."""
        if self._gains[0].numel() != self._size:
            x = x.index_select(axis + 2, self._continued(x.device))
        waves = cosine_transform(x, axis)
        if self._factor == 1:
            return waves * self._along(axis, x.ndim).squeeze(axis + 2)
        waves = torch.unflatten(waves.index_select(axis + 2, self._order), axis + 2, self._gains.shape[1:])
        return (waves * self._along(axis, x.ndim)).sum(axis + 2)

    def adjoint(self, r: Tensor, axis: int) -> Tensor:
        """Apply `B'` along a spatial axis of coefficients `r` **[B, C, *spatial]**."""
        waves = (r.unsqueeze(axis + 2) * self._along(axis, r.ndim)).flatten(axis + 2, axis + 3)
        if self._factor > 1:
            waves = waves.index_select(axis + 2, self._order)
        x = cosine_transform(waves, axis, inverse=True)
        if self._gains[0].numel() == self._size:
            return x
        shape = (*x.shape[: axis + 2], self._size, *x.shape[axis + 3 :])
        return x.new_zeros(shape).index_add(axis + 2, self._continued(x.device), x)

    def slow(self, count: int, like: Tensor) -> Tensor:
        """Return the rows of `B` that give the lowest coefficients, **[b, count, size]**, for a size it divides."""
        if self._gains.requires_grad:  # what is made without gradients must not stand in for what has them
            return self._lowest(count, like)
        if count not in self._slow:
            with torch.inference_mode(False), torch.no_grad():  # it is kept: gradients of others may pass it later
                self._slow[count] = self._lowest(count, torch.empty(0, dtype=like.dtype, device=like.device))
        return self._slow[count]

    def _lowest(self, count: int, like: Tensor) -> Tensor:
        frequencies = self._order.reshape(self._gains.shape[1:])[:, :count]
        return (self._gains[..., :count, None] * cosine_basis(self._size, like, frequencies)).sum(1)

    def _along(self, axis: int, ndim: int) -> Tensor:
        """Return the gains, shaped for coefficients **[B, C, *spatial]** whose `axis` is cut in `factor` parts."""
        return self._gains.reshape(
            len(self._gains), *([1] * (axis + 1)), *self._gains.shape[1:], *([1] * (ndim - axis - 3))
        )

    def _continued(self, device: torch.device) -> Tensor:
        """Return the indices that continue the axis to a multiple of the factor."""
        beyond = self._gains[0].numel() - self._size
        return reflect_index(self._size, beyond, device)[beyond:]
