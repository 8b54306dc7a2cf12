"""What each part of the method is worth: parts switched off, and weights trained a little further without them.

The variants that need training start from the shipped weights, take the same patches, and so are a lower bound of the
difference that a training from scratch would make. `python tests/results/ablation.py --bench BENCH --data DATA` writes
`docs/explanation/ablation.json`, from which the results page takes its table.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results.images import SCENARIOS, Dev, read

from medfuse.bundles import bundle_dir, load_spec
from medfuse.inferers import FusionInferer
from medfuse.io import write_json
from medfuse.metrics import Images, measure
from medfuse.physics import SourceModel, SpectralModel, parse_degradation, replicate
from medfuse.pipeline import load_fusion, sha256
from medfuse.training import DegradeBatch
from medfuse.training.datasets import RandomPatches, slice_pairs
from medfuse.training.degrade import degrade, draw_steps

PATH = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "ablation.json"
METRICS = ("r1_PSNR", "r2_PSNR", "SSIM", "VIF", "Qabf")
_DEGRADED = tuple(name for name in SCENARIOS if name != "clean")
_SEED = 7
_GRADIENTS = slice(5, 7)  # of the network's input channels

Prepare = Callable[[Tensor], tuple[Tensor, Tensor, dict[str, Any]]]


class WithoutGradients(nn.Module):
    """A network that does not see `A'(A x - y)`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.alpha_bar, self.gains = network.alpha_bar, network.gains

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        """Run the network with those channels at 0."""
        image = image.clone()
        image[:, _GRADIENTS] = 0
        return self.network(image, condition)


@dataclass(frozen=True)
class Variant:
    """A variant of the method: settings, what is taken away, what the network sees, on what it is trained further."""

    settings: Mapping[str, Any]
    scenarios: Sequence[str] = _DEGRADED
    trained: bool = False
    blind: bool = False
    only: str | None = None
    without: str | None = None


PARTS = {  # where a part is, and what stands for it when it is taken away
    "_bias": (SourceModel, None),
    "settle": (SpectralModel, lambda model, x0, local=None: x0),
}
VARIANTS = {
    "as shipped": Variant({}),
    "the mean of the noise not subtracted": Variant({}, without="_bias"),
    "local means not settled": Variant({"settle": (None, None)}),
    "nothing settled": Variant({}, without="settle"),
    "correction: joint": Variant({"correction": "joint"}),
    "correction: the paper's": Variant({"correction": "paper"}),
    "correction: none": Variant({"correction": "none"}),
    "fused: convex": Variant({"fusion_rule": "convex"}),
    "views: 2": Variant({"views": 2}),
    "views: 4": Variant({"views": 4}),
    "trained: as shipped": Variant({}, trained=True),
    "trained: correction none": Variant({"correction": "none"}, trained=True),
    "trained: correction the paper's": Variant({"correction": "paper"}, trained=True),
    "trained: without gradient features": Variant({}, trained=True, blind=True),
    "trained: fused convex": Variant({"fusion_rule": "convex"}, trained=True),
    **{f"trained: {name} only": Variant({}, (name,), trained=True, only=name) for name in _DEGRADED},
}


def ablation(bench: Path, data: Path, *, iterations: int) -> dict[str, Any]:
    """Return, by variant and scenario, the mean of each metric over the dev set."""
    dev, shipped = Dev(bench, data), load_fusion(device="cpu")
    patches = RandomPatches(slice_pairs(data, split="train"), size=96, length=8 * iterations, seed=_SEED)
    figures: dict[str, Any] = {}
    for name, variant in VARIANTS.items():
        variant = replace(variant, settings={"settle": shipped.inferer.settings["settle"], **variant.settings})
        network: nn.Module = copy.deepcopy(shipped.network)
        if variant.blind:
            network = WithoutGradients(network)
        if variant.trained:
            _train(network, variant, patches, iterations, name)
        inferer = FusionInferer(steps=3, **variant.settings)
        with _taken_away(variant.without):
            figures[name] = {scenario: _score(dev, scenario, network, inferer) for scenario in variant.scenarios}
    return {"weights_sha256": sha256(shipped.weights), "iterations": iterations, "variants": figures}


def _taken_away(part: str | None) -> AbstractContextManager[Any]:
    """Replace a part of the observation model by what stands for it."""
    if part is None:
        return nullcontext()
    owner, substitute = PARTS[part]
    return patch.object(owner, part, substitute)


def _train(network: nn.Module, variant: Variant, patches: RandomPatches, iterations: int, name: str) -> None:
    """Train further, at a rate that falls linearly to 0."""
    inferer = FusionInferer(steps=3, trajectory=True, **variant.settings)
    training = ConfigParser()
    training.read_config(bundle_dir("pet_mri_fusion") / "configs" / "train.json")
    training["seed"] = _SEED
    loss, prior = (training.get_parsed_content(key) for key in ("loss", "train::prepare_batch"))
    prepare = _by_prior(prior) if variant.only is None else _by_scenario(variant.only, training["train_steps"])
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-4, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, iterations)
    network.train().requires_grad_(True)
    for clean in tqdm(_batches(patches), total=iterations, desc=name):
        inputs, target, kwargs = prepare(clean)
        if variant.settings.get("fusion_rule") == "convex":
            kwargs.pop("until")  # the last step alone is convex
        optimizer.zero_grad()
        loss(inferer(inputs, network, **kwargs), target).backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        if bool(norm.isfinite()):  # as in the training, a batch without finite gradients is passed over
            optimizer.step()
        schedule.step()
    network.eval()


def _batches(patches: RandomPatches, size: int = 8) -> Iterator[Tensor]:
    for start in range(0, len(patches), size):
        yield torch.stack([patches[i]["image"] for i in range(start, start + size)])


def _by_prior(prior: DegradeBatch) -> Prepare:
    """Return what degrades a clean batch as the training does."""

    def prepare(clean: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        inputs, target, _, kwargs = prior({"image": clean})
        return inputs, target, kwargs

    return prepare


def _by_scenario(name: str, steps: Sequence[int]) -> Prepare:
    """Return what degrades a clean batch by one scenario alone."""
    degradation, generator = parse_degradation(load_spec(name)), torch.Generator().manual_seed(_SEED)

    def prepare(clean: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        inputs = degrade(clean, degradation, generator, stored=True)
        return inputs, clean, {"degradation": degradation, **draw_steps(steps, generator)}

    return prepare


def _score(dev: Dev, scenario: str, network: nn.Module, inferer: FusionInferer) -> dict[str, float]:
    degradation, rows = parse_degradation(load_spec(SCENARIOS[scenario])), []
    for name in dev.names:
        clean = [read(dev.clean / kind / f"{name}.png") for kind in ("mri", "fun")]
        size = clean[0].shape[2:]
        degraded = [
            replicate(read(dev.degraded(scenario) / kind / f"{name}.png"), part.operator, size)
            for kind, part in zip(("mri", "fun"), degradation, strict=True)
        ]
        with torch.inference_mode():
            out = inferer(torch.cat(degraded, 1).float(), network, degradation=degradation)
        fused, *restored = ((out[k].double().clamp(0, 1) * 255).round() / 255 for k in ("fused", "source1", "source2"))
        images = Images.of(fused, *clean, data_range=1.0, restored=tuple(restored))
        rows.append({k: float(v) for k, v in measure(images, METRICS).items()})
    return {k: sum(row[k] for row in rows) / len(rows) for k in METRICS}


def main() -> None:
    """Run all variants and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=300)
    options = parser.parse_args()
    write_json(PATH, ablation(options.bench, options.data, iterations=options.iterations))
    print(f"wrote {PATH.name}")


if __name__ == "__main__":
    main()
