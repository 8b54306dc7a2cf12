"""How far restored sources explain their data: chi-square and residual, by what the data proved."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medfuse.diffusion import FusionModel
from medfuse.diffusion.unet import FusionUNet
from medfuse.inferers import FusionInferer, VolumeFusionInferer
from medfuse.physics import (
    Agreement,
    GaussianBlur,
    JointDegradation,
    JointObservation,
    fit,
    parse_degradation,
    replicate,
)

NOISE = {"noise": {"kind": "gaussian", "sigma": 0.05}}
STEPS = {
    "noise": [NOISE],
    "blur, noise": [{"blur": {"sigma_px": 1.5}}, NOISE],
    "decimation, noise": [{"downsample": {"factor": 2}}, NOISE],
    "noise, decimation": [NOISE, {"downsample": {"factor": 2}}],
    "motion, noise": [{"motion": {"length_px": 3.0, "angle_deg": 30.0}}, NOISE],
}


def agreement(inputs: Tensor, restored: Tensor, stated: JointDegradation, *shares: float) -> Agreement:
    blur = torch.tensor(shares or (1.0, 1.0)).expand(len(inputs), -1)
    return JointObservation(*fit(stated, inputs, blur=blur).models).agreement(restored.split(1, 1))


@pytest.fixture(scope="module")
def network() -> FusionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FusionModel(
            FusionUNet(widths=(8, 8), encoder_blocks=(1, 1), decoder_blocks=(1,), embedding=8)
        ).requires_grad_(False)


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_residuals_of_the_truth_are_the_noise(steps, generator):
    joint = parse_degradation({"version": 1, "source2": steps})
    truth = torch.rand(6, 1, 32, 48, generator=generator)
    y = replicate(joint.source2.simulate(truth, generator), joint.source2.operator, truth.shape[2:])
    chi2, residual = agreement(torch.cat([truth, y], 1), torch.cat([truth, truth], 1), joint)
    assert not chi2[:, 0].any() and not residual[:, 0].any()  # nothing happened to it
    left = residual[:, 1].float()
    assert residual.shape == (6, 2, 32, 48) and residual.dtype == torch.float16
    assert float(left.mean()) == pytest.approx(0, abs=0.05)
    assert float(left.square().mean()) == pytest.approx(1, rel=0.06)
    assert float(left.square().mean()) == pytest.approx(float(chi2[:, 1].mean()), rel=0.05)


@pytest.mark.parametrize("side", [192, 191])
def test_a_blur_is_told_of_as_the_sampler_narrowed_it_at_any_size(side, generator):
    told = [{"blur": {"sigma_px": 2.5}}, {"downsample": {"factor": 2}}]
    joint = parse_degradation({"version": 1, "source1": told})
    truth = GaussianBlur(0.7).forward(torch.rand(1, 2, side, side, generator=generator))
    given = parse_degradation({"version": 1, "source1": [{"blur": {"sigma_px": 1.2}}, told[1]]})
    y = truth.clone()
    y[:, :1] = replicate(given.source1.simulate(truth[:, :1], generator), given.source1.operator, truth.shape[2:])
    with torch.no_grad():
        found = FusionInferer(joint, steps=1)(y, FusionModel(FusionUNet()), agreement=True)
    assert float(found["proven_blur"][0, 0]) < 0.7
    assert 0 < float(found["chi2"][0, 0]) < 10  # by the blur as stated it is 800
    assert found["chi2"].shape == (1, 2, 1, 1) and found["residual"].shape == y.shape


def test_residuals_are_those_of_the_blur_that_was_undone(generator):
    truth = GaussianBlur(0.7).forward(torch.rand(3, 2, 96, 96, generator=generator))
    blurred = GaussianBlur(1.0).forward(truth)
    told = parse_degradation({"version": 1, "source1": [{"blur": {"sigma_px": 2.0}}], "source2": [NOISE]})
    narrowed, as_stated = (agreement(blurred, truth, told, *shares)[1][:, 0] for shares in ((0.5, 1.0), (1.0, 1.0)))
    assert float(narrowed.abs().max()) < 0.01 < float(as_stated.abs().max())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_of_a_volume_there_is_one_chi_square_and_a_residual_for_each_voxel(network, axis, generator):
    joint = parse_degradation({"version": 1, "source2": [NOISE]})
    volume = torch.rand(1, 2, 16, 16, 16, generator=generator)
    inner = FusionInferer(joint, steps=1, amp=False)
    result = VolumeFusionInferer(inner, spatial_dim=axis, std=False)(volume, network, agreement=True)
    slices = inner(volume[0].movedim(axis + 1, 0), network, agreement=True)
    assert result["chi2"].shape == (1, 2, 1, 1, 1) and result["residual"].shape == volume.shape
    torch.testing.assert_close(result["chi2"].flatten(), slices["chi2"].mean(0).flatten(), rtol=1e-4, atol=0)
    expected = slices["residual"].movedim(0, axis + 1)[None]
    torch.testing.assert_close(result["residual"], expected, rtol=0, atol=5e-3)
    assert not {"chi2", "residual"} & set(inner(volume[..., 0], network))


def test_a_residual_beyond_float16_is_its_largest_value():
    joint = parse_degradation({"version": 1, "source2": [{"noise": {"sigma": 1e-6}}]})
    y, x = torch.zeros(1, 2, 8, 8), torch.full((1, 2, 8, 8), 1e4)
    assert float(agreement(y, x, joint).residual[:, 1].max()) == -torch.finfo(torch.float16).max
