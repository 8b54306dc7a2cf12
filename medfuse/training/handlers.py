"""Training: handlers that MONAI and Ignite do not have, what a resumed run goes on from, and the export of weights."""

from __future__ import annotations

import csv
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.inferers import SimpleInferer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from medfuse.errors import BundleError
from medfuse.io import atomic_path
from medfuse.training.degrade import DegradeBatch


class Bfloat16Inferer(SimpleInferer):
    """A SimpleInferer whose convolutions run in bfloat16 on any device, where MONAI's `amp` is for CUDA alone.

    It needs no scaling of the loss, as bfloat16 has the range of float32. Gradients and weights stay float32.
    """

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return what the network makes of the inputs."""
        with torch.autocast(inputs.device.type, torch.bfloat16):
            found: Tensor = super().__call__(inputs, network, *args, **kwargs)
        return found


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


class BestWeights:
    """Keep the weights of the best validation so far in one file, whole at any time.

    MONAI 1.6.1's `CheckpointSaver` compares with scores of its own, which no checkpoint holds: after a resume the first
    validation replaces the best weights, even by worse ones. This handler goes by the evaluator's `best_metric_epoch`,
    which `TrainingState` brings back.
    """

    def __init__(self, network: nn.Module, path: str | Path) -> None:
        """Make it.

        Args:
            network: What the evaluator judges.
            path: Where to write its state dict, atomically.
        """
        self.network, self.path = network, Path(path)

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator with a key metric."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: SupervisedEvaluator) -> None:
        """Write, if this validation is the best."""
        if engine.state.best_metric_epoch == engine.state.epoch and idist.get_rank() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.path) as temporary:
                torch.save(self.network.state_dict(), temporary)


class TimeLimit:
    """End a training with the first epoch that is complete after some hours, counted over all that was resumed.

    Its `share` of the time is what a learning rate may follow, where the number of iterations is not known before.
    """

    def __init__(self, hours: float) -> None:
        """Make it.

        Raises:
            BundleError: The time is not positive.
        """
        if not hours > 0:
            raise BundleError(f"the hours of a training must be positive, got {hours}; give some.")
        self.seconds, self._spent, self._start = 3600.0 * hours, 0.0, time.monotonic()

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _begin(self) -> None:
        self._start = time.monotonic()

    def __call__(self, engine: Engine) -> None:
        """End the training, if its time is over."""
        if self.share() >= 1:
            engine.terminate()

    def spent(self) -> float:
        """Return the seconds that the training has taken so far."""
        return self._spent + time.monotonic() - self._start

    def share(self) -> float:
        """Return the share of its time that is spent, 0..1."""
        return min(self.spent() / self.seconds, 1.0)

    def state_dict(self) -> dict[str, float]:
        """Return the time that is spent, as a checkpoint holds it."""
        return {"spent": self.spent()}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Count on from another run's time."""
        self._spent = float(state["spent"])


class Curve:
    """Append one line of CSV for each validation: iteration, seconds, learning rate, loss, PSNR of each scenario.

    Attach it to the evaluator, whose additional metrics `psnr1` and `psnr2` tell of each image.
    """

    def __init__(
        self,
        path: str | Path,
        trainer: SupervisedTrainer,
        scenarios: Sequence[str],
        limit: TimeLimit,
    ) -> None:
        """Make it.

        Args:
            path: The file; a run that is resumed goes on with it.
            trainer: What is validated; its last output holds the loss.
            scenarios: Scenario of each image of the validation, in order.
            limit: What tells the time.
        """
        self.path, self.trainer, self.limit = Path(path), trainer, limit
        self.scenarios = np.array(list(scenarios))

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: SupervisedEvaluator) -> None:
        """Write a line."""
        trainer = self.trainer
        row: dict[str, Any] = {
            "iteration": trainer.state.iteration,
            "seconds": round(self.limit.spent()),
            "learning_rate": f"{trainer.optimizer.param_groups[0]['lr']:.3g}",
        }
        output = trainer.state.output
        loss = (output[0] if isinstance(output, list) else output or {}).get("loss")
        row["loss"] = "" if loss is None else f"{float(loss):.4f}"
        for name in dict.fromkeys(self.scenarios.tolist()):
            for i in (1, 2):
                values = torch.as_tensor(engine.state.metric_details[f"psnr{i}"]).flatten()
                row[f"{name} {i}"] = f"{float(values[torch.from_numpy(self.scenarios == name)].mean()):.3f}"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.is_file()
        with self.path.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, row)
            if new:
                writer.writeheader()
            writer.writerow(row)


@runtime_checkable
class _Ordered(Protocol):
    """Data that are drawn in order and say where they start, as `RandomPatches`."""

    start: int


class TrainingState:
    """What a resumed training goes on from, beside networks, optimizer and scheduler: the best validation, all draws.

    It is one more object of a checkpoint, after the trainer. With the draws (place in the training data, degradations,
    global generators) a run that was resumed after an epoch ends with the weights of one that was never interrupted.
    """

    def __init__(self, trainer: SupervisedTrainer, evaluator: SupervisedEvaluator, best: BestWeights) -> None:
        """Make it.

        Args:
            trainer: Its data are `RandomPatches`, in order; its batches are prepared by a `DegradeBatch`.
            evaluator: What judges the weights.
            best: What keeps the best of them.

        Raises:
            BundleError: The trainer's data or what prepares them are others.
        """
        loader, degrade = trainer.data_loader, trainer.prepare_batch
        if not (isinstance(loader, DataLoader) and isinstance(loader.dataset, _Ordered)):
            raise BundleError("the trainer's data must be `RandomPatches` in a data loader; change its configuration.")
        if not isinstance(degrade, DegradeBatch):
            raise BundleError(f"a `DegradeBatch` must prepare the batches, got {degrade!r}; change the configuration.")
        self.trainer, self.evaluator, self.best = trainer, evaluator, best
        self._patches, self._degrade = loader.dataset, degrade
        self._batch = (loader.batch_size or 1) * idist.get_world_size()
        self._resumed_at = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state, of tensors and plain values alone: `torch.load` takes it with `weights_only`."""
        seen = (self.trainer.state.iteration - self._resumed_at) * self._batch
        numpy: dict[str, Any] = np.random.get_state(legacy=False)  # noqa: NPY002
        return {
            "best_metric": float(self.evaluator.state.best_metric),
            "best_metric_epoch": int(self.evaluator.state.best_metric_epoch),
            "next_patch": self._patches.start + seen,
            "degradations": self._degrade.state_dict(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": numpy | {"state": {k: torch.as_tensor(v) for k, v in numpy["state"].items()}},
            "python": random.getstate(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Where the best weights are no longer there, the next validation is the best."""
        if self.best.path.is_file():
            self.evaluator.state.best_metric = state["best_metric"]
            self.evaluator.state.best_metric_epoch = state["best_metric_epoch"]
        self._patches.start = state["next_patch"]
        self._resumed_at = self.trainer.state.iteration
        if idist.get_rank() == 0:  # the others draw by seeds of their own
            self._degrade.load_state_dict(state["degradations"])
        torch.set_rng_state(state["torch"].cpu())
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
        numpy = state["numpy"]
        np.random.set_state(numpy | {"state": {k: v.cpu().numpy() for k, v in numpy["state"].items()}})  # noqa: NPY002
        random.setstate(state["python"])


def export_weights(
    checkpoint: str | Path, path: str | Path, *, share: float = 1.0, start: Mapping[str, Tensor] | None = None
) -> Path:
    """Write the averaged weights of a training checkpoint as a bundle's `model.pt`: a state dict in half precision.

        w = share * averaged + (1 - share) * start

    Args:
        checkpoint: What the trainer saved, with its averaged network under `ema`; or what validation saved, that
            network alone.
        path: Where to write, atomically.
        share: What the averaged weights count, 0 to 1; the rest is of those that the training began with.
        start: The weights that it began with, of the same network; needed for a share below 1.

    Returns:
        The path that was written.

    Raises:
        BundleError: The share is none, or the weights that it began with are missing.

    Reference:
        Wortsman et al., Robust fine-tuning of zero-shot models (CVPR 2022).
    """
    if not 0 <= share <= 1 or (share < 1 and start is None):
        raise BundleError(
            f"the share must be between 0 and 1, and below 1 come with the weights of the start, got {share}; "
            "give `pretrained` as it was for the training."
        )
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    state = saved.get("ema", saved)
    if share < 1 and start is not None:
        state = {k: share * v + (1 - share) * start[k].to(v) if v.is_floating_point() else v for k, v in state.items()}
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    with atomic_path(path) as temporary:
        torch.save(half, temporary)
    return Path(path)
