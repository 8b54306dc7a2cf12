"""Corrections: how a prediction of both sources and their fusion is made to agree with the data, in each form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from medfuse.errors import DegradationError
from medfuse.physics.collaborative import MOST, collaborated
from medfuse.physics.evidence.local_means import settled_in_place
from medfuse.physics.evidence.slow_waves import settled_slowly
from medfuse.physics.models.conjugate_gradients import conjugate_gradient
from medfuse.physics.models.source import SourceModel, spread

Settle = Sequence[float | None]
_MOST_DEVIATIONS = 100  # beyond which nothing would ever settle
_PATCHES = (0, *(2**k for k in range(MOST.bit_length())))


class Prediction(NamedTuple):
    """What is predicted of a state before its data correct it.

    Attributes:
        x0: x1, x2 and f, each **[B, 1, *spatial]**; a list is taken over, so that each goes once it is replaced.
        weight: m, fusion weight of source 1, **[B, 1, *spatial]**, 0..1.
        variances: P1 and P2, error variances of x1 and x2, **[B]** each.
        gain: g of the fusion row, **[B]**, 0..1.
        last: Whether the data have the last word.
        log_variance: Log-variance of the error of x1 and x2 in each pixel, **[B, 2, *spatial]**, where it is known.
    """

    x0: Sequence[Tensor]
    weight: Tensor
    variances: Sequence[Tensor]
    gain: Tensor
    last: bool = False
    log_variance: Tensor | None = None


class Corrected(NamedTuple):
    """A corrected state.

    Attributes:
        x: Source 1, source 2 and fused, each **[B, 1, *spatial]**.
        converged: Whether the solve of each source has converged, **[B, 2]**.
    """

    x: list[Tensor]
    converged: Tensor


class Correction(Protocol):
    """What all forms of the correction have in common."""

    def __call__(self, sources: Sequence[SourceModel], predicted: Prediction) -> Corrected:
        """Correct a prediction by the models of both sources."""


@dataclass(frozen=True)
class _Settling:
    """What `Cut` and `Joint` share: in the last step the data have the last word."""

    settle: Settle = (None, None)

    def __post_init__(self) -> None:
        """Refuse an impossible settling, with a `DegradationError`."""
        check_settle(self.settle)

    def _settled(self, i: int, source: SourceModel, predicted: Prediction) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return `x0` and the variance of source i, and the residual of `x0` where it was needed.

        In the last step `x0` is settled, and the variance raised to where the data are explained.
        """
        x, variance = predicted.x0[i], predicted.variances[i]
        if not predicted.last:
            return x, variance, None
        x, deviations = settled_slowly(source, x), self.settle[i]
        if deviations is not None:
            x = settled_in_place(source, x, deviations)
        residual = source.residual(x)
        return x, torch.maximum(variance, source.consistency(x, residual)), residual


@dataclass(frozen=True)
class Cut(_Settling):
    """Each source is ruled by its own data, the fused image by the sources; nothing flows back. The default.

    `x_i = x0_i + P_i A_i' (P_i A_i A_i' + R_i)^-1 (y_i - A_i x0_i)`, `f = f0 + g (m x1 + (1 - m) x2 - f0)`. In the last
    step the sources settle first, P_i is raised to where the chi-square of the residual is at most 1, and patches of
    x_i that are alike are filtered together.

    Attributes:
        settle: Standard deviations, for each source, by which the local mean of what it leaves of its data must exceed
            the noise to be believed in the last step, 0 to 100; None: slow waves settle alone.
        patches: How many patches that are alike are filtered together in the last step, see
            `medfuse.physics.collaborative`; 0: none are.
    """

    patches: int = 0

    def __post_init__(self) -> None:
        """Refuse what is impossible, with a `DegradationError`."""
        super().__post_init__()
        check_patches(self.patches)

    def __call__(self, sources: Sequence[SourceModel], predicted: Prediction) -> Corrected:
        """Correct a prediction."""
        x = predicted.x0 if isinstance(predicted.x0, list) else list(predicted.x0)
        converged = []
        for i, source in enumerate(sources):
            x[i], solved = source.update(*self._settled(i, source, predicted._replace(x0=x)))
            converged.append(solved)
            if predicted.last and predicted.log_variance is not None:
                x[i] = collaborated(source, x[i], predicted.log_variance[:, i : i + 1], self.patches)
        x1, x2, f = x
        fused = torch.lerp(f, torch.lerp(x2, x1, predicted.weight), spread(predicted.gain, f))
        return Corrected([x1, x2, fused], torch.stack(converged, 1))


@dataclass(frozen=True)
class Joint(_Settling):
    """All three are solved together: the fusion then acts back on the sources. For comparison.

    Minimises the sum of both data terms, of the fusion row and of the distance to the estimate, each over its variance.
    The fusion row has the variance that gives it the gain g for a fused estimate of unit variance ratio:
    `R_f = P_f (1 - g) / g`, with `P_f` the mean of the sources' variances. The last step is that of `Cut`.

    Attributes:
        settle: As in `Cut`.
    """

    def __call__(self, sources: Sequence[SourceModel], predicted: Prediction) -> Corrected:
        """Correct a prediction."""
        x, variances = list(predicted.x0), list(predicted.variances)
        for i, source in enumerate(sources):
            x[i], variances[i], _ = self._settled(i, source, predicted)
        start, weight = torch.cat(x, 1), predicted.weight
        p1, p2 = (spread(v, start) for v in variances)
        pf = 0.5 * (p1 + p2)
        g = spread(predicted.gain, start).clamp(1e-6, 1 - 1e-6)
        rf = pf * (1 - g) / g
        zero = start.new_zeros(len(start))

        def information(model: SourceModel, x: Tensor) -> Tensor:
            return model.back(model.solve(zero, model.observe(x)).x)

        def apply(d: Tensor) -> Tensor:
            d1, d2, df = (d[:, i : i + 1] for i in range(3))
            gap = (df - weight * d1 - (1 - weight) * d2) / rf
            return torch.cat(
                [
                    information(sources[0], d1) + d1 / p1 - weight * gap,
                    information(sources[1], d2) + d2 / p2 - (1 - weight) * gap,
                    df / pf + gap,
                ],
                1,
            )

        x1, x2, f = (start[:, i : i + 1] for i in range(3))
        gap = (f - weight * x1 - (1 - weight) * x2) / rf
        pulls = [m.back(m.solve(zero, m.residual(x)).x) for m, x in zip(sources, (x1, x2), strict=True)]
        rhs = torch.cat([pulls[0] + weight * gap, pulls[1] + (1 - weight) * gap, -gap], 1)
        tolerance = 1e-13 if start.dtype == torch.float64 else 1e-5
        change, converged = conjugate_gradient(apply, rhs, tolerance=tolerance, max_iterations=1000)
        return Corrected(list((start + change).chunk(3, 1)), converged[:, None].expand(-1, 2))


@dataclass(frozen=True)
class Paper:
    """The paper's block inverse of the residual, with full weight; the last step is not corrected. For comparison.

    Subtracts `[[A1+, 0, 0], [0, A2+, 0], [m A1+, (1 - m) A2+, I]]` times the residual of the whole state.
    """

    def __call__(self, sources: Sequence[SourceModel], predicted: Prediction) -> Corrected:
        """Correct a prediction."""
        if predicted.last:
            return Free()(sources, predicted)
        (x1, x2, f), weight = predicted.x0, predicted.weight
        d1, d2 = (m.pseudo_inverse(m.residual(x)) for m, x in zip(sources, (x1, x2), strict=True))
        gap = f - weight * x1 - (1 - weight) * x2
        return Corrected([x1 + d1, x2 + d2, f + weight * d1 + (1 - weight) * d2 - gap], _nothing_solved(f))


@dataclass(frozen=True)
class Free:
    """Nothing is corrected, in no step. For comparison."""

    def __call__(self, sources: Sequence[SourceModel], predicted: Prediction) -> Corrected:
        """Return the prediction."""
        return Corrected(list(predicted.x0), _nothing_solved(predicted.x0[0]))


CORRECTIONS: dict[str, Callable[[Settle, int], Correction]] = {
    "cut": Cut,
    "joint": lambda settle, patches: Joint(settle),
    "paper": lambda settle, patches: Paper(),
    "none": lambda settle, patches: Free(),
}
"""The words of the configurations, and what each makes of a settling and a number of patches."""


def correction(form: str, settle: Settle = (None, None), patches: int = 0) -> Correction:
    """Return a correction by its name.

    Args:
        form: `cut`, `joint`, `paper` or `none`.
        settle: As in `Cut`; the last two have no use for it.
        patches: As in `Cut`; the others have no use for it.

    Raises:
        DegradationError: There is no such form, or the settling or the number of patches is impossible.
    """
    if form not in CORRECTIONS:
        raise DegradationError(f"the form of the correction must be one of {tuple(CORRECTIONS)}, got {form!r}.")
    check_settle(settle)
    check_patches(patches)
    return CORRECTIONS[form](settle, patches)


def check_settle(settle: Any) -> None:
    """Refuse an impossible settling, with a `DegradationError`."""
    if not isinstance(settle, list | tuple) or len(settle) != 2 or not all(map(_is_deviations, settle)):
        raise DegradationError(
            f"settle must be two numbers of standard deviations, each 0 to {_MOST_DEVIATIONS} or null, got {settle!r}."
        )


def check_patches(patches: Any) -> None:
    """Refuse an impossible number of patches, with a `DegradationError`."""
    if type(patches) is not int or patches not in _PATCHES:
        raise DegradationError(f"patches must be one of {_PATCHES}, got {patches!r}.")


def _is_deviations(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value <= _MOST_DEVIATIONS)


def _nothing_solved(like: Tensor) -> Tensor:
    return torch.ones(len(like), 2, dtype=torch.bool, device=like.device)
