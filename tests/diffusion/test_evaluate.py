from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from medfuse.diffusion import Evaluator, FusionModel, FusionState, sample
from medfuse.diffusion.evaluate import in_windows
from medfuse.diffusion.unet import FusionUNet
from medfuse.errors import DegradationError, GeometryError
from medfuse.inferers.settings import LIMIT
from medfuse.physics import JointObservation, parse_degradation

PRESETS = sorted(Path(__file__).parents[2].glob("configs/degradation/*.yaml"))


def rand(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def trained(denoiser: FusionUNet) -> FusionModel:
    """Return a model whose parts all have a say, as after training."""
    model = FusionModel(denoiser)
    for name, p in model.named_parameters():
        if name.endswith(("conv2.weight", "head.weight", "film.weight", "layers.2.weight")):
            nn.init.normal_(p, std=0.05)
    return model.eval().requires_grad_(False)


@pytest.fixture
def network(seeded) -> FusionModel:
    return trained(FusionUNet(widths=(8, 12, 12), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1), embedding=8))


class Spy(nn.Module):
    """Count what a network is asked."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = denoiser, []
        self.reach, self.multiple = denoiser.reach, denoiser.multiple

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        self.seen.append(tuple(image.shape))
        return self.inner(image, condition)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"widths": (4,), "encoder_blocks": (1,), "decoder_blocks": ()},
        {"widths": (4, 4), "encoder_blocks": (1, 3), "decoder_blocks": (2,)},
        {"widths": (4, 4, 4), "encoder_blocks": (2, 1, 1), "decoder_blocks": (1, 2)},
    ],
    ids=["default", "one level", "two levels", "three levels"],
)
def test_the_reach_of_a_network_is_what_it_states(seeded, options):
    denoiser = FusionUNet(**{"widths": (4, 4, 4, 4), **options}, embedding=4).double()
    for p in denoiser.parameters():
        nn.init.normal_(p, std=0.3)
    size = 2 * (-(-denoiser.reach // denoiser.multiple) + 1) * denoiser.multiple
    touched = {}
    for side, place in (("after", size // 2), ("before", size // 2 - 1)):
        image = rand(1, 12, denoiser.multiple, size, dtype=torch.float64).requires_grad_()
        denoiser(image, rand(1, 25, dtype=torch.float64))[..., place].sum().backward()
        touched[side] = image.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    assert size // 2 - int(touched["after"].min()) == denoiser.reach
    assert int(touched["before"].max()) - (size // 2 - 1) == denoiser.reach


@pytest.mark.parametrize("shape", [(1, 300, 260), (2, 211, 333), (1, 40, 700), (3, 97, 64), (1, 701, 33)])
@pytest.mark.parametrize("limit", [96**2, 200**2])
def test_windows_give_what_the_whole_image_gives(network, shape, limit):
    batch, *size = shape
    image, condition = rand(batch, 12, *size), rand(batch, 25)
    whole = network(image, condition)
    assert torch.allclose(in_windows(network, image.split([3, 5, 4], 1), condition, limit=limit), whole, atol=1e-5)


def test_no_window_is_larger_than_the_limit_and_no_small_image_is_cut(network):
    spy = FusionModel(Spy(network.denoiser))
    for shape, limit in (((4, 12, 100, 120), 48_000), ((1, 12, 500, 90), None)):
        in_windows(spy, [rand(*shape)], rand(shape[0], 25), limit=limit)
        assert spy.denoiser.seen == [shape]
        spy.denoiser.seen.clear()
    in_windows(spy, [rand(4, 12, 100, 120)], rand(4, 25), limit=24_000)
    assert spy.denoiser.seen == [(2, 12, 100, 120)] * 2
    spy.denoiser.seen.clear()
    in_windows(spy, [rand(1, 12, 400, 600)], rand(1, 25), limit=96_000)
    assert max(h * w for _, _, h, w in spy.denoiser.seen) <= 48_000  # half, as the image by itself is too large


def test_an_image_of_megapixels_is_whole_and_others_come_after_it():
    """Windows of a 1024 x 1024 image would be five times its pixels; side by side, two would take the memory of two."""

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.reach, self.multiple, self.seen = 176, 16, []

        def forward(self, image, condition):
            self.seen.append(tuple(image.shape))
            return image

    network = FusionModel(Small())
    image = torch.rand(2, 1, 1024, 1024)
    assert torch.equal(in_windows(network, [image], rand(2, 25), limit=LIMIT), image)
    assert network.denoiser.seen == [(1, 1, 1024, 1024)] * 2


def test_a_torchscript_export_is_cut_as_well(network):
    script = torch.jit.script(network)
    image, condition = rand(1, 12, 300, 260), rand(1, 25)
    assert script.denoiser.reach == network.denoiser.reach
    cut = in_windows(script, [image], condition, limit=128**2)
    assert torch.allclose(cut, network(image, condition), atol=1e-5)
    assert not torch.equal(cut, network(image, condition))  # rounding tells that it was cut


def test_a_network_that_does_not_state_its_reach_is_run_on_the_whole():
    class Mean(nn.Module):
        def forward(self, image: Tensor, condition: Tensor) -> Tensor:
            return image[:, :6].mean((2, 3), keepdim=True).expand(-1, -1, *image.shape[2:])

    image = rand(1, 12, 60, 50)
    expected = Mean()(image, rand(1, 25))
    assert torch.equal(in_windows(FusionModel(Mean()), [image], rand(1, 25), limit=100), expected)


def restored(network, inputs, degradation, *, steps=3, **options) -> FusionState:
    observation = JointObservation.from_images(degradation.continued(inputs), degradation)
    *_, final = sample(network, observation, steps=steps, evaluate=Evaluator(**options))
    return final


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_a_restored_image_does_not_show_that_it_was_cut(network, preset):
    degradation = parse_degradation(yaml.safe_load(preset.read_text())["degradation"])
    inputs = rand(1, 2, 501, 699)
    whole = restored(network, inputs, degradation, steps=2)
    cut = restored(network, inputs, degradation, steps=2, limit=300**2)
    assert (cut.x - whole.x).abs().max() < 1e-3
    assert (cut.weight - whole.weight).abs().max() < 1e-3
    assert (cut.log_variance - whole.log_variance).abs().max() < 1e-3


def test_in_bfloat16_a_cut_changes_less_than_bfloat16_itself(network):
    degradation = parse_degradation({"version": 1, "source1": [{"noise": {"sigma": 0.05}}]})
    inputs = rand(1, 2, 211, 157)
    exact = restored(network, inputs, degradation).x
    whole = restored(network, inputs, degradation, autocast=torch.bfloat16).x
    cut = restored(network, inputs, degradation, autocast=torch.bfloat16, limit=128**2).x
    assert (cut - whole).abs().max() < (whole - exact).abs().max()


# -------------------------------------------------------------------------------------------------------------- volumes
@pytest.mark.parametrize("plane", [(0, 1), (1, 2), (0, 2), (2, 0)])
def test_a_volume_is_its_slices_in_the_plane_of_the_network(network, plane):
    """Each with the condition of its volume."""
    volume, condition = rand(2, 12, 6, 9, 7), rand(2, 25)
    (across,) = {0, 1, 2} - set(plane)
    whole = Evaluator(plane=plane)(network, volume.split([4, 8], 1), condition)
    assert whole.shape == (2, 6, 6, 9, 7)
    for k in range(volume.shape[across + 2]):
        image = volume.select(across + 2, k)
        expected = network(image.mT if plane == (2, 0) else image, condition)
        found = whole.select(across + 2, k)
        assert torch.allclose(found.mT if plane == (2, 0) else found, expected, atol=1e-5)


def test_a_volume_is_sampled_as_a_whole_with_the_same_network(network):
    """The physics see three axes, the network two; without a blur across slices both ways are the same."""
    degradation = parse_degradation({"version": 1, "source1": [{"noise": {"sigma": 0.05}}]})
    volume = rand(1, 2, 4, 12, 10)
    observation = JointObservation.from_images(volume, degradation)
    *_, whole = sample(network, observation, steps=2, evaluate=Evaluator(plane=(1, 2)))
    assert whole.x.shape == (1, 3, 4, 12, 10)
    for model, x in zip(observation, whole.images, strict=False):
        assert float(model.chi2(x).max()) <= 1 + 1e-3  # of the volume, not of each slice


@pytest.mark.parametrize(
    ("options", "error"),
    [({"views": 5}, DegradationError), ({"limit": 0}, DegradationError), ({"plane": (1, 1)}, GeometryError)],
)
def test_an_impossible_way_to_run_a_network_is_refused(options, error):
    with pytest.raises(error, match="must be"):
        Evaluator(**options)
