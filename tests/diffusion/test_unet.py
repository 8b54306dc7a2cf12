from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from medfuse.diffusion import FusionModel, GainNetwork
from medfuse.diffusion.unet import FusionUNet, PixelNorm, ResidualBlock
from medfuse.inferers import FusionInferer


def strong(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give a network weights with which every layer matters; as it is made, its blocks start near zero."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            fan = p[0].numel() if p.ndim > 1 else 16
            p.copy_(torch.randn(p.shape, generator=g) / fan**0.5 + (0.5 if p.ndim == 1 else 0.0))
    return network.eval()


def small(seed: int = 0) -> FusionUNet:
    return strong(FusionUNet(widths=(8, 8), encoder_blocks=(1, 1), decoder_blocks=(1,), embedding=8), seed)


def features(*size: int, batch: int = 1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 12, *size, generator=g), torch.randn(batch, 25, generator=g)


@pytest.fixture(scope="module")
def full() -> FusionUNet:
    return FusionUNet().eval()


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def test_it_has_two_to_three_million_parameters(full):
    assert 2e6 <= sum(p.numel() for p in full.parameters()) <= 3e6


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (16, 16), (17, 31), (33, 8)])
def test_any_size_comes_out_as_it_went_in(full, size):
    image, condition = features(*size, batch=2)
    out = full(image, condition)
    assert out.shape == (2, 6, *size)
    assert bool(out.isfinite().all())


def test_it_starts_almost_silent(full):
    """The first steps of training are those of the physics alone."""
    assert float(full(*features(32, 32)).abs().max()) < 0.05


def test_a_missing_condition_is_one_of_zeros():
    net, (image, condition) = small(), features(12, 12)
    assert torch.equal(net(image), net(image, torch.zeros_like(condition)))
    assert not torch.allclose(net(image), net(image, condition), rtol=1e-2)


def test_pixel_norm_is_layer_norm_at_each_pixel():
    norm, x = strong(PixelNorm(6)), torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0))
    for h, w in ((0, 0), (2, 3)):
        v = x[:, :, h, w]
        expected = (v - v.mean(1, keepdim=True)) / (v.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        assert torch.allclose(norm(x)[:, :, h, w], expected * norm.weight + norm.bias, rtol=1e-5, atol=1e-6)


def test_a_block_is_conditioned_by_scale_and_shift():
    block, x = strong(ResidualBlock(4, 3)), torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    a, b = (block(x, torch.full((1, 3), v)) for v in (0.0, 1.0))
    assert not torch.allclose(a, b, rtol=1e-2)
    assert a.shape == x.shape


def test_samples_of_a_batch_do_not_see_each_other():
    net, (image, condition) = small(), features(13, 18, batch=3)
    whole = net(image, condition)
    for b in range(3):
        assert torch.allclose(whole[b : b + 1], net(image[b : b + 1], condition[b : b + 1]), rtol=1e-4, atol=1e-5)


def test_memory_layout_does_not_matter():
    net, (image, condition) = small(), features(16, 20)
    laid_out = net.to(memory_format=torch.channels_last)(image.contiguous(memory_format=torch.channels_last), condition)
    assert torch.allclose(small()(image, condition), laid_out, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- locality
def reach(net: FusionUNet, image: torch.Tensor, condition: torch.Tensor, change: slice) -> torch.Tensor:
    """Return the columns of the output that a change of some input columns moves."""
    changed = image.clone()
    changed[..., change] += 3.0
    moved = (net(image, condition) - net(changed, condition)).abs().amax((0, 1, 2))
    return (moved > 0).nonzero().flatten()


def test_a_change_is_felt_near_it_and_nowhere_else():
    columns = reach(small(), *features(8, 96), slice(48, 52))
    assert len(columns) > 4
    assert 48 - 28 <= int(columns.min()) <= 48
    assert 51 <= int(columns.max()) <= 51 + 28


def test_a_change_far_outside_the_receptive_field_of_the_full_network_changes_nothing():
    net, (image, condition) = strong(FusionUNet()), features(16, 512)
    columns = reach(net, image, condition, slice(0, 64))
    assert 64 < int(columns.max()) < 64 + 184


def test_a_black_background_does_not_change_the_picture():
    """What a normalization over space would do: the same patch in a larger empty image gives another result."""
    net, (patch, condition) = small(), features(96, 96)
    patch = patch * torch.nn.functional.pad(torch.ones(32, 32), (32, 32, 32, 32))
    wide = torch.nn.functional.pad(patch, (64, 64, 64, 64))
    alone, surrounded = net(patch, condition)[..., 28:-28, 28:-28], net(wide, condition)[..., 92:-92, 92:-92]
    assert torch.allclose(alone, surrounded, rtol=1e-4, atol=1e-5)


def test_a_crop_agrees_with_the_whole_inside():
    """Crops start at a multiple of the network's grid, here 4."""
    net, (image, condition) = small(), features(96, 96)
    whole, crop = net(image, condition), net(image[..., 16:88, 8:80], condition)
    margin = 28
    assert torch.allclose(
        crop[..., margin:-margin, margin:-margin],
        whole[..., 16 + margin : 88 - margin, 8 + margin : 80 - margin],
        rtol=1e-4,
        atol=1e-5,
    )


# ---------------------------------------------------------------------------------------------------------------- gains
def test_gains_are_variances_and_fractions():
    gains, condition = GainNetwork(), features(1, 1, batch=50)[1]
    condition[:, 0] = 1.0  # the first step
    start = gains(condition)
    assert torch.allclose(start[:, :2], torch.full((50, 2), 0.02**2), rtol=1e-4)
    assert torch.allclose(start[:, 2], torch.full((50,), 0.5))
    assert torch.equal(start[:, 3:], torch.ones(50, 2))
    out = strong(gains)(100 * condition)
    assert bool((out[:, :2] > 0).all() & out.isfinite().all() & (out[:, 2:] >= 0).all() & (out[:, 2:] <= 1).all())


def test_variances_and_changes_fall_after_the_first_step():
    condition = torch.zeros(3, 25)
    condition[:, 0] = torch.tensor([1.0, 2 / 3, 1 / 3])
    out = GainNetwork()(condition)
    for column in (0, 1, 3, 4):
        assert bool((out[:, column].diff() < 0).all())
    assert float(out[2, 0] / out[0, 0]) < 1e-3  # the data do not count twice
    assert torch.equal(out[:, 2], out[:1, 2].expand(3))


# ---------------------------------------------------------------------------------------------------------- TorchScript
def scripted(model: FusionModel, size: tuple[int, int]) -> torch.jit.ScriptModule:
    return torch.jit.script(model)


def traced(model: FusionModel, size: tuple[int, int]) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # a trace keeps the padding of its example
        return torch.jit.trace(model, features(*size, batch=2))


@pytest.fixture(params=[scripted, traced])
def exported(request):
    model = FusionModel(small())
    return model.eval(), request.param(model.eval(), (16, 20))


def test_an_export_equals_the_module(exported):
    model, export = exported
    image, condition = features(16, 20, batch=2, seed=3)
    assert torch.allclose(model(image, condition), export(image, condition), rtol=1e-4, atol=1e-5)
    s = torch.linspace(0, 1, 7)
    assert torch.allclose(model.alpha_bar(s), export.alpha_bar(s))
    assert torch.allclose(model.gains(condition), export.gains(condition))


def test_an_export_serves_the_inferer(exported):
    model, export = exported
    inputs = torch.rand(2, 2, 16, 20, generator=torch.Generator().manual_seed(0))
    spec = {"version": 1, "source1": [{"noise": {"sigma": 0.05}}], "source2": [{"downsample": {"factor": 2}}]}
    inferer = FusionInferer(spec, amp=False)
    expected, result = (inferer(inputs=inputs, network=n) for n in (model, export))
    for key, value in expected.items():
        assert torch.allclose(value.float(), result[key].float(), rtol=1e-3, atol=1e-4), key


def test_a_script_takes_other_sizes_and_no_condition():
    model = FusionModel(small()).eval()
    export = torch.jit.script(model)
    for size in ((9, 7), (32, 16)):
        image, condition = features(*size)
        assert torch.allclose(model(image, condition), export(image, condition), rtol=1e-4, atol=1e-5)
        assert torch.allclose(model(image), export(image), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit.(load|save)` is deprecated:DeprecationWarning")
def test_the_full_network_can_be_scripted_and_saved(full, tmp_path):
    model = FusionModel(full).eval()
    torch.jit.script(model).save(tmp_path / "model.ts")
    loaded = torch.jit.load(tmp_path / "model.ts")
    image, condition = features(20, 16)
    assert torch.allclose(model(image, condition), loaded(image, condition), rtol=1e-4, atol=1e-6)
    assert torch.allclose(model.gains(condition), loaded.gains(condition))


def test_a_state_dict_restores_the_model_strictly():
    first, second = FusionModel(small(0)), FusionModel(small(1))
    assert {k.split(".")[0] for k in first.state_dict()} == {"denoiser", "schedule", "gain"}
    second.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(first(*features(8, 8)), second(*features(8, 8)))
