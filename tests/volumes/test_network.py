"""The network for volumes: bounded by what is proposed, blind to units, silent where it was not trained."""

from __future__ import annotations

import pytest
import torch

from medfuse.errors import BundleError
from medfuse.physics import Grid, ScannerNoise, ScannerSampling, VolumeModel
from medfuse.volumes import Proposals, by_rule
from medfuse.volumes.gate import significance
from medfuse.volumes.network import CHANNELS, TrainedEstimator, VolumeUNet, blended, load_estimator, pooling
from medfuse.volumes.proposals import guidance, guided, mr_free
from medfuse.volumes.rim import Rim

SIDE = 17  # odd: the U-Net halves it


def network(seed=0) -> VolumeUNet:
    """Return a network that says something, as a trained one does."""
    torch.manual_seed(seed)
    net = VolumeUNet()
    torch.nn.init.normal_(net.out.weight, std=0.5)
    return net


def proposals(*, spacing=2.0, fwhm=6.0, unit=1.0, mri_unit=1.0, side=SIDE) -> Proposals:
    grid, native = Grid.of_spacing((side,) * 3, (spacing,) * 3), Grid.of_spacing((9, 9, 9), (side * spacing / 9,) * 3)
    operator = ScannerSampling(grid, native, (fwhm,) * 3)
    at = (torch.arange(side) - side // 2) * spacing
    radius = (at[:, None, None] ** 2 + at[:, None] ** 2 + at**2).sqrt()
    shares = torch.stack([radius > 14, (radius <= 14) & (radius > 8), radius <= 8]).float()
    mri, truth = shares[1] * 0.6 + shares[2] * 0.9, shares[1] * 4 + shares[2]
    draw = torch.randn((9, 9, 9), generator=torch.Generator().manual_seed(0)) * 0.2
    y = (operator.forward(truth[None, None])[0, 0] + draw) * unit
    model = VolumeModel(operator, y, ScannerNoise(0.2 * unit))
    ys = torch.stack([y, y + draw.flip(0) * unit])
    free, shown = mr_free(model, ys, least=3, most=3).x, guided(model, guidance(model, shares), ys)
    alike = 0.6 * shown + 0.4 * free
    gate = (radius / 40).clamp(0, 1)
    left = [significance(model, stack[0]) for stack in (shown, alike)]
    return Proposals(shown, free, alike, alike, gate, *left, mri * mri_unit, model, ys, Rim((0, 0, 0), (0, 0, 0)))


def test_it_has_the_size_that_its_page_tells():
    assert 225_000 < sum(p.numel() for p in VolumeUNet().parameters()) < 230_000


def test_the_estimate_stays_within_what_the_proposals_differ_by_nearby():
    given, net = proposals(), network()
    alike, shown, free = (stack[:1, None] for stack in (given.alike, given.guided, given.mr_free))
    apart = torch.nn.functional.max_pool3d((alike - free).abs() + (alike - shown).abs(), 3, 1, 1)
    for said in (-50.0, 50.0):  # a network that says the utmost
        x = blended(alike, shown, free, torch.full((1, 3, *[SIDE] * 3), said))
        assert bool(((x - alike).abs() <= 2 * apart + 1e-5).all())
        assert float((x - alike).abs().max()) > float(apart.max()) / 2
    same = blended(alike, alike, alike, net.said(torch.randn(1, len(CHANNELS), *[SIDE] * 3)))
    assert torch.equal(same, alike.clamp_min(0)), "where proposals agree nothing is added"


@pytest.mark.parametrize(("channel", "takes"), [(0, "mr_free"), (1, "guided")])
def test_it_can_take_either_proposal(channel, takes):
    given = proposals()
    said = torch.zeros(1, 3, *[SIDE] * 3)
    said[:, channel] = 50.0
    x = blended(*(stack[:1, None] for stack in (given.alike, given.guided, given.mr_free)), said)
    assert torch.allclose(x[0, 0], getattr(given, takes)[0].clamp_min(0), atol=1e-5)


def test_a_new_network_changes_nothing_of_the_rule():
    given = proposals()
    assert torch.allclose(TrainedEstimator(VolumeUNet())(given), by_rule(given).clamp_min(0), atol=1e-6)


def test_units_do_not_matter():
    net = TrainedEstimator(network())
    x, other = net(proposals()), net(proposals(unit=3e4, mri_unit=700.0))
    assert torch.allclose(x, other / 3e4, atol=2e-3 * float(x.max()))
    assert x.shape == (2, SIDE, SIDE, SIDE)
    assert not torch.allclose(x, by_rule(proposals()), atol=0.01)


@pytest.mark.parametrize(("options", "known"), [
    ({}, (1, 1, 1)), ({"spacing": 1.0, "side": 30}, (2, 2, 2)), ({"spacing": 0.7, "side": 30}, (3, 3, 3)),
    ({"spacing": 3.0}, None), ({"fwhm": 12.0}, None), ({"mri_unit": 0.0}, None),
])  # fmt: skip
def test_fine_voxels_are_put_together_and_the_rule_takes_what_training_never_saw(options, known):
    given = proposals(**options)
    assert pooling(given) == known
    x = TrainedEstimator(network())(given)
    assert torch.equal(x, by_rule(given)) == (known is None)
    assert x.shape == given.guided.shape
    assert bool(x.isfinite().all())


def test_weights_are_loaded_from_a_plain_state_dict_alone(tmp_path):
    net = network()
    torch.save({k: v.half() for k, v in net.state_dict().items()}, tmp_path / "volumes.pt")
    found = load_estimator(tmp_path / "volumes.pt")
    assert torch.allclose(found(proposals()), TrainedEstimator(net)(proposals()), atol=0.02)
    with pytest.raises(BundleError, match="must be a file, got none"):
        load_estimator(tmp_path / "none.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(BundleError, match="must be the state dict of a VolumeUNet"):
        load_estimator(tmp_path / "other.pt")
