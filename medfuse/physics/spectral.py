"""The cosine transform in which symmetric blur and decimation are diagonal.

Half-sample reflection at the borders and a kernel that is symmetric along each axis make the orthonormal type-II cosine
basis the eigenbasis of the filter. Decimation by `s` about the centres of blocks folds the frequencies `k` of the large
grid (`N = s n`) onto those of the small one: `k = 2 n m + q` lands on `q`, `k = 2 n m - q` on `q` likewise, each with a
sign, and odd multiples of `n` vanish. Hence `B B'` is diagonal, axis by axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def cosine_basis(n: int, like: Tensor) -> Tensor:
    """Return the orthonormal type-II cosine basis **[n, n]**, one row a frequency, in the dtype of `like`."""
    k = torch.arange(n, device=like.device, dtype=torch.float64)
    basis = torch.cos(math.pi / n * k[:, None] * (k + 0.5)) * math.sqrt(2.0 / n)
    basis[0] = math.sqrt(1.0 / n)
    return basis.to(like.dtype)


def reflect_index(n: int, radius: int, device: torch.device | None = None) -> Tensor:
    """Return the indices **[n + 2 radius]** that continue `n` samples by half-sample reflection."""
    i = torch.arange(-radius, n + radius, device=device) % (2 * n)
    return torch.where(i < n, i, 2 * n - 1 - i)


def analysis_matrix(
    response: Callable[[Tensor], Tensor], size: int, factor: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Build the matrix from an axis of an image to the cosine coefficients of its observation.

    Args:
        response: Frequency response **[b, K]** at angular frequencies **[K]**, radians per sample.
        size: Number of samples of the image along the axis. Where it is no multiple of the factor, the image is
            continued by half-sample reflection up to the next multiple, and `B B'` is no longer diagonal.
        factor: Decimation.
        like: Gives device and dtype.

    Returns:
        `B` **[b, n, N]** and, for a multiple, the diagonal of `B B'` **[b, n]**.
    """
    small = -(-size // factor)
    large = small * factor
    k = torch.arange(large, device=like.device)
    q = k % (2 * small)
    wraps = k // (2 * small)
    target = torch.where(q <= small, q, 2 * small - q)
    weight = (1 - 2 * ((wraps + (q > small)) % 2)).to(torch.float64) / math.sqrt(factor)
    weight[(target == 0) & (k > 0)] *= math.sqrt(2.0)
    weight[target == small] = 0.0
    weight = weight.to(like.dtype)
    omega = (k.to(torch.float64) * (math.pi / large)).to(like.dtype)
    h = response(omega) * weight
    h = torch.where(h.abs() < torch.finfo(h.dtype).tiny ** 0.25, 0.0, h)  # no subnormal numbers: they are slow
    rows = h[:, :, None] * cosine_basis(large, like)
    if factor == 1:
        b, gram = rows, h**2
    else:
        target = target.clamp_max(small - 1)
        b = rows.new_zeros(len(rows), small, large).index_add(1, target, rows)
        gram = h.new_zeros(len(h), small).index_add(1, target, h**2)
    if large != size:
        index = reflect_index(size, large - size, like.device)[large - size :]
        b = b.new_zeros(*b.shape[:2], size).index_add(2, index, b)
    return b, gram


def apply_along(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """Apply `matrix` **[m, n]** or **[b, m, n]** along spatial axis `axis` of `x` **[B, C, *spatial]**."""
    if matrix.ndim == 3 and len(matrix) == 1:
        matrix = matrix[0]
    elif matrix.ndim == 3:
        matrix = matrix.reshape(len(matrix), *([1] * (x.ndim - 3)), *matrix.shape[1:])
    if axis == x.ndim - 3:
        return torch.matmul(x, matrix.mT)
    return torch.matmul(matrix, x.movedim(axis + 2, -2)).movedim(-2, axis + 2)
