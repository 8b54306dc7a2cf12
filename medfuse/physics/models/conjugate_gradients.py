"""Conjugate gradients for symmetric positive definite systems, one per sample of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Solution(NamedTuple):
    """What a solve gives.

    Attributes:
        x: The solution.
        converged: Whether it was reached, **[B]**; always so in closed form.
    """

    x: Tensor
    converged: Tensor


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each sample, shaped to broadcast against the arguments."""
    return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)


def none_left(active: Tensor) -> bool:
    """Tell whether no sample is still active, where that saves anything.

    On other devices than a CPU it would make the program wait for all that was asked before; the iterations that are
    left change nothing, and are taken.
    """
    return active.device.type == "cpu" and not bool(active.any())


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor],
    rhs: Tensor,
    *,
    start: Tensor | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 200,
) -> Solution:
    """Solve `apply(x) = rhs` for every sample of a batch.

    Args:
        apply: A symmetric positive definite map on tensors of the shape of `rhs`; it must not mix samples.
        rhs: **[B, ...]**.
        start: Where to start, of the shape of `rhs`; zero where absent.
        tolerance: Each sample stops when its residual is below `tolerance * |rhs|`.
        max_iterations: Bound on the number of iterations.

    Returns:
        The solution, of the shape of `rhs`, and whether each sample's residual has fallen below the tolerance, as the
        iterations keep it. The solution is differentiable: the iterations are unrolled.

    Reference:
        Hestenes and Stiefel, Methods of conjugate gradients for solving linear systems (1952).
    """
    scale = inner(rhs, rhs).detach().sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    rhs = rhs / scale  # so that neither the squares nor their gradients leave the range of float32
    x = torch.zeros_like(rhs) if start is None else start / scale
    r = rhs if start is None else rhs - apply(x)
    p, rr = r, inner(r, r)
    for _ in range(max_iterations):
        active = rr > tolerance**2
        if not bool(active.any()):
            break
        ap = apply(p)
        alpha = torch.where(active, rr / torch.where(active, inner(p, ap), 1.0), 0.0)
        x = x + alpha * p
        r = r - alpha * ap
        previous, rr = rr, inner(r, r)
        p = r + torch.where(active, rr / torch.where(active, previous, 1.0), 0.0) * p
    return Solution(x * scale, (rr.detach() <= tolerance**2).flatten())
