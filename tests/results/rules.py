"""What the fused image keeps of the anatomy under uptake: by each rule of medfuse, and by methods in a few lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results.images import SCENARIOS, Dev, read
from scipy.ndimage import convolve1d
from torch import Tensor

from medfuse.bundles import load_spec
from medfuse.metrics import Images, floors, measure
from medfuse.pipeline import fuse_images, load_fusion

OTHER_RULES = ("predicted", "convex")
_BURT = np.array([1, 4, 6, 4, 1]) / 16
_LEVELS = 4
_STEPS = 3


def pyramid(first: Tensor, second: Tensor) -> Tensor:
    """Fuse **[1, 1, H, W]** by Laplacian pyramids: the stronger detail of each level, the mean of both bases.

    Reference:
        Burt and Adelson, The Laplacian pyramid as a compact image code (IEEE Trans. Commun. 1983).
    """
    base = [x[0, 0].numpy() for x in (first, second)]
    details = []
    for _ in range(_LEVELS):
        lower = [_filtered(x)[::2, ::2] for x in base]
        a, b = (x - _raised(y, x.shape) for x, y in zip(base, lower, strict=True))
        details.append(np.where(np.abs(a) >= np.abs(b), a, b))
        base = lower
    fused = (base[0] + base[1]) / 2
    for detail in reversed(details):
        fused = _raised(fused, detail.shape) + detail
    return torch.from_numpy(fused.clip(0, 1))[None, None]


def _filtered(x: np.ndarray) -> np.ndarray:
    return np.asarray(convolve1d(convolve1d(x, _BURT, 0, mode="mirror"), _BURT, 1, mode="mirror"))


def _raised(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    wide = np.zeros(shape)
    wide[::2, ::2] = 4 * x
    return _filtered(wide)


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "maximum": torch.maximum,
    "average": lambda a, b: floors(a, b)["average"],
    "Laplacian pyramid": pyramid,
}


def of_methods(dev: Dev, metrics: tuple[str, ...]) -> dict[str, Any]:
    """Return the means of metrics of what simple methods make of the clean pairs, in 8 bits."""
    result: dict[str, Any] = {}
    for name, method in METHODS.items():
        rows = []
        for stem in dev.names:
            a, b = (read(dev.clean / kind / f"{stem}.png") for kind in dev.kinds)
            fused = (method(a, b) * 255).round() / 255
            images = Images.of(fused, a, b, data_range=1.0)
            rows.append({k: float(v) for k, v in measure(images, (*metrics, "SSIM_1", "SSIM_2")).items()})
        result[name] = _means(rows)
    return result


def of_rules(dev: Dev, bundle: str, work: Path) -> dict[str, Any]:
    """Return the figures of the rules that are not the default, by scenario; T = 3, which `predicted` is worth."""
    result: dict[str, Any] = {}
    for rule in OTHER_RULES:
        fusion = load_fusion(bundle, device="cpu", fusion_rule=rule)
        for scenario, preset in SCENARIOS.items():
            degraded, spec, out = dev.degraded(scenario), load_spec(preset, bundle), work / f"{rule}_{scenario}"
            fuse_images(*(degraded / k for k in dev.kinds), out, bundle=fusion, degradation=spec, steps=_STEPS)
            result.setdefault(rule, {})[scenario] = dev.judge(out, degraded)
    return result


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.nanmean([row[key] for row in rows])) for key in rows[0]}


def kept(chosen: Mapping[str, Any], own: Mapping[str, Mapping[str, float]]) -> dict[tuple[str, str], float]:
    """Return what the rule keeps of what the restored sources have, over what it keeps of clean ones.

    Args:
        chosen: Figures of each scenario.
        own: What each restored source has of its own detail, see `Dev.sources`.
    """
    clean = chosen["clean"]
    shares = {}
    for name in (s for s in SCENARIOS if s != "clean"):
        ours = chosen[name]
        for key, own_figure in own[name].items():
            shares[name, key] = ours[key]["mean"] / (clean[key]["mean"] * own_figure)
        shares[name, "uptake_rank"] = ours["uptake_rank"]["mean"] / clean["uptake_rank"]["mean"]
    return shares
