"""What a fused image keeps in the hot region: weights that were put in come out."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from metrics.conftest import BENCH
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from medfuse.metrics import anatomy_in_uptake, floors, measure, uptake_rank
from medfuse.metrics.images import Images

Y, X = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
HOT = 120 + 100 * torch.exp(-((X - 32) ** 2 + (Y - 32) ** 2) / 800)  # above 45 % of its maximum everywhere
ANATOMY = (120 + 40 * torch.cos(X))[None, None].double()
FUNCTION = (HOT + 9 * torch.cos(Y))[None, None].double()


def test_weights_of_both_details_are_found():
    """f = 0.8 a + 0.6 b has gains 0.8 and 0.6 whatever else is slow, as least squares are exact where nothing is left;
    its correlation is that of 0.8 cos x + (0.6 * 9 / 40) cos y with cos x, two waves at right angles."""
    values = anatomy_in_uptake(ANATOMY, FUNCTION, 0.8 * ANATOMY + 0.6 * FUNCTION + 20, data_range=255.0)
    assert float(values["anatomy_gain"]) == pytest.approx(0.8, abs=1e-9)
    assert float(values["function_gain"]) == pytest.approx(0.6, abs=1e-9)
    assert float(values["anatomy_corr"]) == pytest.approx(0.8 / np.hypot(0.8, 0.6 * 9 / 40), abs=5e-3)


def test_copies_have_gain_1_of_their_source_and_0_of_the_other():
    for fused, gains in ((ANATOMY, (1, 0)), (FUNCTION, (0, 1)), (ANATOMY * 0, (0, 0))):
        values = anatomy_in_uptake(ANATOMY, FUNCTION, fused, data_range=255.0)
        assert (float(values["anatomy_gain"]), float(values["function_gain"])) == pytest.approx(gains, abs=1e-9)
    assert float(anatomy_in_uptake(ANATOMY, FUNCTION, ANATOMY, data_range=255.0)["anatomy_corr"]) == pytest.approx(1)
    assert values["anatomy_corr"].isnan().all()  # of a black image there is no correlation


def test_what_lies_beyond_the_hot_region_does_not_count():
    cold = FUNCTION.clone()
    cold[..., :20] = 0
    changed = torch.where(X < 5, 200.0, ANATOMY)  # further from the region than the window of detail, 12 px, reaches
    kept, other = (anatomy_in_uptake(ANATOMY, cold, f, data_range=255.0) for f in (ANATOMY, changed))
    assert float(other["anatomy_corr"]) == pytest.approx(float(kept["anatomy_corr"]), abs=1e-12)
    small = anatomy_in_uptake(ANATOMY, FUNCTION * ((X - 30).abs() + (Y - 30).abs() < 3), ANATOMY, data_range=255.0)
    assert all(value.isnan().all() for value in small.values())  # less than 100 pixels


def test_gains_of_one_detail_in_both_sources_are_not_defined():
    values = anatomy_in_uptake(ANATOMY, ANATOMY, ANATOMY, data_range=255.0)
    assert values["anatomy_gain"].isnan().all() and values["function_gain"].isnan().all()
    assert float(values["anatomy_corr"]) == pytest.approx(1)


def test_the_rank_is_1_for_any_rising_change_and_its_negative_for_a_falling_one():
    function = (2 * X + 60)[None, None].double()
    for fused, rank in ((function, 1), (function.square() / 255, 1), (255 - function, -1)):
        assert float(uptake_rank(ANATOMY, function, fused, data_range=255.0)) == pytest.approx(rank, abs=1e-9)
    assert uptake_rank(ANATOMY, function, function * 0, data_range=255.0).isnan().all()


def test_equal_values_share_their_mean_rank():
    """As scipy's rank correlation has it: of two levels in blocks, smoothed, most values are equal."""
    function = torch.where(X < 32, 60.0, 180.0)[None, None].double()
    fused = torch.where(Y < 24, 40.0, 90.0)[None, None].double() + function / 2
    low = [gaussian_filter(x[0, 0].numpy(), 4).round(6).ravel() for x in (fused, function)]
    rounded = uptake_rank(ANATOMY, function, fused, data_range=255.0)
    assert float(rounded) == pytest.approx(spearmanr(*low)[0], abs=2e-3)


def test_batches_share_their_sources(pair):
    a, b = (x[:1] for x in pair)
    fused = torch.cat(list(floors(a, b).values()))
    together = measure(Images.of(fused, a, b, data_range=255.0), ["anatomy_corr", "uptake_rank"])
    for i in range(3):
        alone = measure(Images.of(fused[i : i + 1], a, b, data_range=255.0), ["anatomy_corr", "uptake_rank"])
        for name, value in alone.items():
            assert torch.allclose(together[name][i : i + 1], value, equal_nan=True)


@pytest.mark.parametrize("name", ["pet_21", "spect_36042", "ct_21018"])
def test_they_equal_the_independent_instrument_on_real_pairs(dev_image, name):
    path = BENCH / "anatomy.py"
    if not path.is_file():
        pytest.skip("the independent instrument is not here")
    spec = importlib.util.spec_from_file_location("anatomy", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    a, b = (dev_image(f"clean/{kind}", name) for kind in ("mri", "fun"))
    for fused in (np.maximum(a, b), (a + b) / 2, 0.7 * a + 0.2 * b):
        theirs = module.anatomy(a / 255, b / 255, fused / 255)
        images = Images.of(*(torch.from_numpy(x)[None, None] for x in (fused, a, b)), data_range=255.0)
        for metric, value in measure(images, theirs).items():
            assert float(value) == pytest.approx(theirs[metric], rel=1e-6), metric
