"""The joint observation model of two degraded sources and their fusion, and the correction that enforces it.

Each source is observed as `y = A x + n` with noise of covariance `R`, see `medfuse.physics.models.source`. The fusion
row of the model, `0 = f - m x1 - (1 - m) x2`, is enforced by `correct`, in one of three forms. The default, `cut`, lets
each source be ruled by its own data and the fusion by the sources; nothing flows back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medfuse.errors import DegradationError
from medfuse.physics.degradation import JointDegradation
from medfuse.physics.models.bind import bind
from medfuse.physics.models.conjugate_gradients import conjugate_gradient
from medfuse.physics.models.source import SourceModel, spread

CORRECTIONS = ("cut", "joint", "paper", "none")


class JointObservation:
    """Both sources' observations and the fusion row that ties the fused image to them."""

    def __init__(self, source1: SourceModel, source2: SourceModel) -> None:
        self.source1, self.source2 = source1, source2

    @classmethod
    def from_images(
        cls, inputs: Tensor, degradation: JointDegradation, *, blur_share: Tensor | None = None
    ) -> JointObservation:
        """Bind both channels of a batch on the reference grid.

        Args:
            inputs: **[B, 2, *spatial]**; a low-resolution source is replicated to the grid, each sample `s x s`.
            degradation: What happened to each source.
            blur_share: Share of its stated width that the blur of each source has, **[B, 2]**; None: as the data allow.
        """
        shares = (None, None) if blur_share is None else blur_share.unbind(1)
        return cls(
            *(
                bind(part, part.observed(inputs[:, i : i + 1]), inputs.shape[2:], blur_share=share)
                for i, (part, share) in enumerate(zip(degradation, shares, strict=True))
            )
        )

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter((self.source1, self.source2))

    def correct(
        self,
        x0: Sequence[Tensor],
        weight: Tensor,
        *,
        variances: Sequence[Tensor],
        fusion_gain: Tensor,
        form: str = "cut",
    ) -> list[Tensor]:
        """Correct an estimate of the state by the joint observation model.

        Args:
            x0: Estimate of x1, x2 and f, each **[B, 1, *spatial]**.
            weight: Fusion weight `m` of source 1, **[B, 1, *spatial]**, 0..1.
            variances: Error variance of the estimate of each source, **[B]**.
            fusion_gain: Gain `g` of the fusion row, **[B]**, 0..1.
            form: `cut`; `joint` (all three solved together: the fusion then acts back on the sources; for comparison);
                `paper` (the paper's block inverse with full weight, for comparison); `none`.

        Returns:
            The corrected state, likewise.
        """
        if form == "none":
            return list(x0)
        if form == "paper":
            return self._paper(x0, weight)
        if form == "joint":
            return self._joint(torch.cat(list(x0), 1), weight, variances, fusion_gain)
        if form != "cut":
            raise DegradationError(f"the form of the correction must be one of {CORRECTIONS}, got {form!r}.")
        x1, x2 = (m.update(x, p) for m, x, p in zip(self, x0, variances, strict=False))
        f = x0[2]
        return [x1, x2, torch.lerp(f, torch.lerp(x2, x1, weight), spread(fusion_gain, f))]

    def _paper(self, x0: Sequence[Tensor], weight: Tensor) -> list[Tensor]:
        """Subtract the paper's block inverse of the residual, [[A1+, 0, 0], [0, A2+, 0], [m A1+, (1-m) A2+, I]]."""
        x1, x2, f = x0
        d1 = self.source1.pseudo_inverse(self.source1.residual(x1))
        d2 = self.source2.pseudo_inverse(self.source2.residual(x2))
        gap = f - weight * x1 - (1 - weight) * x2
        return [x1 + d1, x2 + d2, f + weight * d1 + (1 - weight) * d2 - gap]

    def _joint(self, x0: Tensor, weight: Tensor, variances: Sequence[Tensor], fusion_gain: Tensor) -> list[Tensor]:
        """Minimise the sum of all three data terms and of the distance to the estimate, each over its variance.

        The fusion row has the variance that gives it the gain g for a fused estimate of unit variance ratio:
        `R_f = P_f (1 - g) / g`, with `P_f` the mean of the sources' variances.
        """
        p1, p2 = (spread(v, x0) for v in variances)
        pf = 0.5 * (p1 + p2)
        g = spread(fusion_gain, x0).clamp(1e-6, 1 - 1e-6)
        rf = pf * (1 - g) / g

        def information(model: SourceModel, x: Tensor) -> Tensor:
            forward = model.observe(x)
            return model.back(model.solve(forward.new_zeros(len(forward)), forward))

        def apply(d: Tensor) -> Tensor:
            d1, d2, df = (d[:, i : i + 1] for i in range(3))
            gap = (df - weight * d1 - (1 - weight) * d2) / rf
            return torch.cat(
                [
                    information(self.source1, d1) + d1 / p1 - weight * gap,
                    information(self.source2, d2) + d2 / p2 - (1 - weight) * gap,
                    df / pf + gap,
                ],
                1,
            )

        x1, x2, f = (x0[:, i : i + 1] for i in range(3))
        zero = x0.new_zeros(len(x0))
        gap = (f - weight * x1 - (1 - weight) * x2) / rf
        pulls = [m.back(m.solve(zero, m.residual(x))) for m, x in ((self.source1, x1), (self.source2, x2))]
        rhs = torch.cat([pulls[0] + weight * gap, pulls[1] + (1 - weight) * gap, -gap], 1)
        tolerance = 1e-13 if x0.dtype == torch.float64 else 1e-5
        x0 = x0 + conjugate_gradient(apply, rhs, tolerance=tolerance, max_iterations=1000)
        return list(x0.split(1, 1))
