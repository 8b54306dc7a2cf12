"""Training: a handler that MONAI and Ignite do not have, and the export of weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import nn

from medfuse.io import atomic_path


class GradientClip:
    """Scale the gradients down to a largest global norm, after each backward pass of a `SupervisedTrainer`.

    A batch whose gradients are not finite is passed over: one such step would ruin the weights for good.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], max_norm: float = 1.0) -> None:
        self.parameters, self.max_norm = list(parameters), max_norm

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Clip."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        if not bool(norm.isfinite()):
            for parameter in self.parameters:
                parameter.grad = None  # the optimizer leaves such parameters alone
            engine.logger.warning(
                "the gradients of iteration %d are not finite; it was passed over", engine.state.iteration
            )


def export_weights(checkpoint: str | Path, path: str | Path) -> Path:
    """Write the averaged weights of a training checkpoint as a bundle's `model.pt`: a state dict in half precision.

    Args:
        checkpoint: What the trainer saved, with its averaged network under `ema`; or what validation saved, that
            network alone.
        path: Where to write, atomically.

    Returns:
        The path that was written.
    """
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    state = saved.get("ema", saved)
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    with atomic_path(path) as temporary:
        torch.save(half, temporary)
    return Path(path)
