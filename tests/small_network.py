"""A network so small that a test can run it often, and what it is given."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medfuse.diffusion import FusionModel
from medfuse.diffusion.unet import FusionUNet

NOISE = {"version": 1, "source1": [{"noise": {"sigma": 0.05}}], "source2": [{"noise": {"sigma": 0.1}}]}
COMPOSITE = {
    "version": 1,
    "source1": [{"blur": {"sigma_px": 1.0}}, {"noise": {"sigma": 0.03}}],
    "source2": [{"downsample": {"factor": 2}}, {"noise": {"kind": "poisson", "counts": 200}}],
}
KEYS = {"source1", "source2", "fused", "weight", "std1", "std2"}
PROVEN = {"proven_blur", "proven_noise", "converged"}
BLURRED = {"version": 1, "source1": [{"blur": {"sigma_px": 2.5}}]}


def small_network() -> FusionModel:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = FusionModel(FusionUNet(widths=(8, 8), encoder_blocks=(1, 1), decoder_blocks=(1,), embedding=8))
        for p in (model.denoiser.head.weight, model.gain.layers[2].weight):
            nn.init.normal_(p, std=0.02)
    return model.eval().requires_grad_(False)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def assert_same(a: dict, b: dict, atol: float = 2e-5) -> None:
    assert set(a) == set(b)
    for key in a:
        assert a[key].shape == b[key].shape, key
        assert torch.allclose(a[key].float(), b[key].float(), atol=atol, rtol=1e-4), key
