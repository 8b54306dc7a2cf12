"""The network as a file that other programs run: torch.export (.pt2), ONNX (.onnx), or TorchScript (.ts, deprecated).

What is exported is `forward` with its weights: **[B, 12, H, W]** and a condition **[B, 25]** to **[B, 6, H, W]**, for
any batch and for sides that are multiples of 16 px from 32 on. A TorchScript export holds the schedule and the gains,
too, and serves the inferer in the network's place; the program of a .pt2 serves in place of the network's `denoiser`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medfuse.diffusion.features import CHANNELS, CONDITION
from medfuse.diffusion.model import FusionModel
from medfuse.errors import BundleError

FORMATS = (".pt2", ".onnx", ".ts")
TOLERANCE = 1e-4
"""How far an export may be off the network, absolutely and relative to its largest output."""
_ONNX = ("onnx", "onnxscript", "onnxruntime")
_SIZES = ((1, 32, 48), (2, 64, 32))  # on which an export is compared

Run = Callable[[Tensor, Tensor], Tensor]


def export_network(network: FusionModel, path: str | Path) -> float:
    """Export a network in the format that the suffix names, read the file back and compare it with the network.

    Args:
        network: With its weights, on the CPU, in float32 and for evaluation.
        path: `.pt2`, `.onnx` or `.ts`; replaced if there is one.

    Returns:
        The largest deviation that was found, relative to the largest output where that is above 1.

    Raises:
        BundleError: Another suffix, packages that are missing, or an export that deviates by more than `TOLERANCE`;
            then no file is left.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise BundleError(f"an export must end with one of {', '.join(FORMATS)}, got {path.name!r}; rename it.")
    if path.suffix == ".onnx" and (missing := [name for name in _ONNX if find_spec(name) is None]):
        raise BundleError(f"ONNX must come with its packages, got no {', '.join(missing)}; install medfuse[onnx].")
    whole: Any = copy.deepcopy(network)
    network = whole.to(memory_format=torch.contiguous_format)  # of other layouts a .pt2 says that they are incomplete
    with torch.no_grad():
        run = {".pt2": _program, ".onnx": _onnx, ".ts": _script}[path.suffix](network, path)
        deviation = max(_deviation(network, run, size) for size in _SIZES)
    if deviation > TOLERANCE:
        path.unlink()
        raise BundleError(f"an export must be within {TOLERANCE} of the network, got {deviation:.1e}; report it.")
    return deviation


def _program(network: FusionModel, path: Path) -> Run:
    torch.export.save(torch.export.export(network, _example(*_SIZES[1]), dynamic_shapes=_shapes()), path)
    run: Run = torch.export.load(path).module()
    return run


def _script(network: FusionModel, path: Path) -> Run:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        torch.jit.script(network).save(str(path))
        run: Run = torch.jit.load(str(path))
    return run


def _onnx(network: FusionModel, path: Path) -> Run:
    import onnxruntime

    torch.onnx.export(
        network,
        _example(*_SIZES[1]),
        str(path),
        input_names=["image", "condition"],
        output_names=["pred"],
        dynamic_shapes=_shapes(),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(image: Tensor, condition: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"image": image.numpy(), "condition": condition.numpy()})[0])

    return run


def _shapes() -> dict[str, dict[int, object]]:
    batch, height, width = (
        torch.export.Dim(name, min=low) for name, low in (("batch", 1), ("rows", 2), ("columns", 2))
    )
    return {"image": {0: batch, 2: 16 * height, 3: 16 * width}, "condition": {0: batch}}


def _example(batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.rand(batch, len(CHANNELS), height, width, generator=draw), torch.rand(
        batch, len(CONDITION), generator=draw
    )


def _deviation(network: FusionModel, run: Run, size: tuple[int, int, int]) -> float:
    expected = network(*_example(*size))
    return float((run(*_example(*size)) - expected).abs().max() / expected.abs().max().clamp_min(1.0))
