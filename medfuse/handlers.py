"""Handlers for MONAI's engines that MONAI and Ignite do not have."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import nn


class GradientClip:
    """Scale the gradients down to a largest global norm, after each backward pass of a `SupervisedTrainer`."""

    def __init__(self, parameters: Iterable[nn.Parameter], max_norm: float = 1.0) -> None:
        self.parameters, self.max_norm = list(parameters), max_norm

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Clip."""
        torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
