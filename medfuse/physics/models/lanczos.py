"""One Krylov space that answers for every strength of a correction.

For symmetric, positive semi-definite `K` and a start `r`, `k` rounds give orthonormal vectors `Q` and a tridiagonal
`T = Q' K Q` with `r = |r| q_1`, so that `f(K) r` is nearly `|r| Q f(T) e_1`. All solves `(P K + I)^-1 r`, whatever P,
then cost no further application of K.

Reference: Golub and Meurant, Matrices, Moments and Quadrature (2010), chapters 3 and 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class KrylovSpace:
    """What Lanczos found.

    Attributes:
        basis: Orthonormal vectors **[k]** of the shape of the start.
        values: Eigenvalues of `T`, **[k]** float64.
        vectors: Its eigenvectors, **[k, k]** float64, one a column.
        norm: Norm of the start.
        following: Length of what the next round would have added, `|K q_k - Q T e_k|`.
    """

    basis: list[Tensor]
    values: Tensor
    vectors: Tensor
    norm: float
    following: float

    def coefficients(self, strength: float) -> Tensor:
        """Return the coefficients **[k]** of `(P K + I)^-1 r` in the basis."""
        return self.vectors @ (self.vectors[0] / (strength * self.values + 1.0)) * self.norm

    def solve(self, strength: float) -> Tensor:
        """Return `(P K + I)^-1 r`, of the shape of the start."""
        total = torch.zeros_like(self.basis[0])
        for weight, vector in zip(self.coefficients(strength).tolist(), self.basis, strict=True):
            total.add_(vector, alpha=weight)
        return total

    def left(self, strength: float) -> float:
        """Return `|r - (P K + I) u|` of the solution `u`, which is orthogonal to the space."""
        return strength * self.following * abs(float(self.coefficients(strength)[-1]))

    def square(self, strength: float) -> float:
        """Return `|r - P K u|^2` of the solution `u`, what it leaves of the equation included."""
        return float(self.coefficients(strength).square().sum()) + self.left(strength) ** 2


def lanczos(
    apply: Callable[[Tensor], Tensor], start: Tensor, *, strength: float, tolerance: float, iterations: int
) -> KrylovSpace:
    """Build the space, until `(P K + I)^-1 r` has settled for the largest strength that will be asked for.

    Args:
        apply: `K`, on tensors of the shape of `start`.
        start: `r`.
        strength: P.
        tolerance: The solution's residual, of its norm, at which to stop.
        iterations: Most applications of K.
    """
    norm = float(start.double().norm())
    basis = [start / max(norm, 1e-30)]
    diagonal: list[float] = []
    off: list[float] = []
    while True:
        v = apply(basis[-1])
        diagonal.append(_dot(v, basis[-1]))
        for _ in range(2):  # twice is enough, in float32 too
            for q in basis:
                v = v - _dot(v, q) * q
        tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        if off:
            side = torch.tensor(off, dtype=torch.float64)
            tridiagonal = tridiagonal + torch.diag(side, 1) + torch.diag(side, -1)
        values, vectors = torch.linalg.eigh(tridiagonal)
        following = float(v.double().norm())
        space = KrylovSpace(basis, values.clamp_min(0.0), vectors, norm, following)
        settled = space.left(strength) <= tolerance * float(space.coefficients(strength).norm())
        done = settled or following <= 1e-6 * max(diagonal)
        if done or len(basis) >= iterations:
            return space
        off.append(following)
        basis.append(v / following)


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.flatten(), b.flatten()))
