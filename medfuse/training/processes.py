"""Training in several processes, one for each GPU: each sees its share of a batch, all make the same step."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import nn

from medfuse.errors import BundleError


def start_processes() -> int:
    """Join the processes that `torchrun` has started, by NCCL where there is CUDA, else by gloo; return the rank.

    Raises:
        BundleError: `torchrun` has not started this process.
    """
    if "LOCAL_RANK" not in os.environ:
        raise BundleError("several processes must be started by `torchrun --nproc_per_node=N -m monai.bundle run ...`.")
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(process_device())
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank()


def process_count() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_device() -> torch.device:
    """Return the device of this process: the GPU of its local rank, or the CPU."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def stop_processes() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


class AverageGradients:
    """Average the gradients over all processes after each backward pass: the step of one process with the whole batch.

    For losses that are means over a batch, of which each process has an equal share. The network stays what it is, as
    the sampler calls more of it than `forward`, which is all that `DistributedDataParallel` offers. A parameter that
    has no gradient in a process counts there as 0; one that has none in any keeps none.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer, before what uses the gradients."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine | None = None) -> None:
        """Average."""
        if not dist.is_initialized() or dist.get_world_size() == 1 or not self.parameters:
            return
        first = self.parameters[0]
        there = torch.tensor([p.grad is not None for p in self.parameters], dtype=torch.float32, device=first.device)
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in self.parameters])
        for values in (there, flat):
            dist.all_reduce(values)
        parts = torch.split(flat / dist.get_world_size(), [p.numel() for p in self.parameters])
        for parameter, part, count in zip(self.parameters, parts, there.tolist(), strict=True):
            if count:
                parameter.grad = part.view_as(parameter).clone(memory_format=torch.preserve_format)
