"""Any metric as a MONAI metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from monai.metrics import CumulativeIterationMetric
from torch import Tensor

from medfuse.errors import GeometryError, MedfuseError
from medfuse.metrics.images import Images
from medfuse.metrics.table import METRICS, measure

Function = Callable[[Tensor, Tensor], Tensor | Mapping[str, Tensor]]


class FusionMetric(CumulativeIterationMetric):
    """One metric or several, for a loop of your own or MONAI's engines through `IgniteMetricHandler`.

    The prediction is the fused image **[B, 1, H, W]**, or restored source 1, restored source 2 and fused image
    **[B, 3, H, W]**, as in the state of the sampler. The target are both clean sources **[B, 2, H, W]**, or those and
    both degraded ones **[B, 4, H, W]**. Metrics that need restored or degraded sources want the larger forms.

    The buffer holds **[N, M]**, a row for each image and a column for each metric. Where a metric is not defined for
    an image it is NaN, and the mean leaves it out; with no image at all, the mean is NaN.

    A metric of which less is better needs that said to whoever picks the best model: its `direction` is in `METRICS`.
    """

    def __init__(
        self,
        metrics: str | Sequence[str] | Function,
        *,
        data_range: float | None = None,
        reduction: Literal["mean", "none"] = "mean",
    ) -> None:
        """Choose metrics.

        Args:
            metrics: Name or names out of `METRICS`; or a function of prediction and target that returns **[B]** or
                **[B, M]**, the same M for every batch, such as one of a residual or of regions (which must then be
                named), which the table lists but does not feed.
            data_range: Full range of the images: 1.0 for 0..1. Required with names.
            reduction: What `aggregate` returns: the mean over images, or each image.

        Raises:
            MedfuseError: If a name is unknown, a metric takes no images, or the range is missing.
        """
        super().__init__()
        if reduction not in ("mean", "none"):
            raise MedfuseError(f"reduction must be 'mean' or 'none', got {reduction!r}; choose one of them.")
        self.reduction = reduction
        self.names: tuple[str, ...] = ()
        self.function: Function
        if callable(metrics):
            self.function = metrics
            return
        self.names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        for name in self.names:
            if name not in METRICS:
                raise MedfuseError(f"A metric must be one of {', '.join(METRICS)}, got {name!r}; choose one of them.")
            if {"residual", "regions", "colours"} & set(METRICS[name].needs):
                raise MedfuseError(
                    f"A metric by name must be one of fused image and sources, got {name!r}; give a function instead."
                )
        if not self.names or data_range is None:
            raise MedfuseError("metrics and data_range must be given, got none; give 1.0 for images in 0..1.")
        self.data_range = float(data_range)
        self.function = self._by_name

    def _by_name(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the named metrics, **[B, M]**."""
        if prediction.ndim != 4 or prediction.shape[1] not in (1, 3):
            raise GeometryError(
                f"The prediction must be [B, 1, H, W] or [B, 3, H, W], got {tuple(prediction.shape)}; "
                "give the fused image, or both restored sources and the fused image."
            )
        if target.ndim != 4 or target.shape[1] not in (2, 4) or len(target) != len(prediction):
            raise GeometryError(
                f"The target must be [B, 2, H, W] or [B, 4, H, W] with the batch of the prediction, got "
                f"{tuple(target.shape)}; stack both clean sources, and both degraded ones."
            )
        channels, clean = torch.split(prediction, 1, 1), torch.split(target, 1, 1)
        images = Images.of(
            channels[-1],
            clean[0],
            clean[1],
            data_range=self.data_range,
            degraded=(clean[2], clean[3]) if len(clean) == 4 else (None, None),
            restored=(channels[0], channels[1]) if len(channels) == 3 else (None, None),
        )
        return torch.stack(list(measure(images, self.names).values()), 1)

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        if y is None or kwargs:
            raise GeometryError(f"A metric must be given prediction and target alone, got {y} and {sorted(kwargs)}.")
        values = self.function(y_pred.as_subclass(Tensor), y.as_subclass(Tensor))
        if isinstance(values, Mapping):
            values = torch.stack(list(values.values()), 1)
        return values[:, None] if values.ndim == 1 else values

    def aggregate(self, reduction: str | None = None) -> Tensor:
        """Return the means over images **[M]**, one number for one metric; or the whole buffer with "none".

        Raises:
            MedfuseError: It has seen no images.
        """
        values = CumulativeIterationMetric.get_buffer(self)
        if not isinstance(values, Tensor):
            raise MedfuseError("A metric must have seen images before it is read, got none; call it first.")
        if (reduction or self.reduction) == "none":
            return values
        means = torch.nanmean(values, 0)
        return means[0] if len(means) == 1 else means
