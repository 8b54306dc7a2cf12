"""The bench on PET on its own grid: what it measures of what is known, its counterparts, and its page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from results.volume_measures import figures, flicker, interval, lesions, seeds_interval
from results.volume_page import PEERS, volumes_page
from results.volume_peers import METHODS, mri_regions, true_regions
from results.volume_scenes import ScanSetting, head, problem

from medfuse.training.brains import analytic

PAGES = Path(__file__).resolve().parents[1] / "docs" / "explanation"


@pytest.fixture(scope="module")
def scanned():
    return problem(head(analytic(), 0, shape=(42, 51, 42), spacing=4.0), ScanSetting(), texture=0.08, seed=0)


def test_the_truth_itself_has_no_error(scanned):
    twins = [scanned.phantoms[name].pet for name in ("all", "none", "no MRI-only", "all")]
    stack = torch.from_numpy(np.stack(twins))
    found = figures(scanned, stack)
    perfect = {"gradients": 1.0}
    for name in ("RMSE", "RMSE, lesion-free", "bias grey, %", "bias white, %", "total, %", "gradients"):
        assert found[name] == pytest.approx(perfect.get(name, 0.0), abs=1e-5)
    assert found["degrees of freedom"] == pytest.approx(0, abs=1e-6)
    rows = lesions(scanned, stack)
    assert {row["kind"] for row in rows} == {"hot", "cold", "MRI-only"}
    for row in rows:
        expected = {"contrast": 100.0, "changed": 0.0, "error": 0.0}
        for key in expected.keys() & row.keys():
            assert row[key] == pytest.approx(expected[key], abs=1e-3)


def test_a_tenth_too_much_is_a_bias_of_ten_percent(scanned):
    stack = 1.1 * torch.from_numpy(np.stack([scanned.phantoms[n].pet for n in ("all", "none", "no MRI-only", "all")]))
    found = figures(scanned, stack)
    for name in ("bias grey, %", "bias white, %", "total, %"):
        assert found[name] == pytest.approx(10, abs=1e-3)
    assert all(row["contrast"] == pytest.approx(110, abs=0.01) for row in lesions(scanned, stack) if "contrast" in row)


def test_gradients_tell_a_stack_whose_slices_waver():
    image = np.zeros((8, 8, 8))
    image[..., ::2] = 1
    assert flicker(image + np.arange(8)[:, None, None], np.ones_like(image, bool)) == pytest.approx(2.0)


@pytest.mark.full
def test_counterparts_do_what_they_are_known_for(scanned):
    found = {name: figures(scanned, METHODS[name](scanned)[0]) for name in METHODS if not name.startswith("medfuse")}
    error = {name: f["RMSE, lesion-free"] for name, f in found.items()}
    for name in ("Wiener", "Richardson-Lucy", "Van Cittert", "iterative Yang, true"):
        assert error[name] < error["resampled"]
    for name in ("Van Cittert", "GTM, true"):
        assert abs(found[name]["bias grey, %"]) < abs(found["resampled"]["bias grey, %"])
    assert 0 < found["Van Cittert"]["degrees of freedom"] < 0.6
    assert found["GTM, true"]["degrees of freedom"] < 0.05  # some 40 regions alone


def test_regions_of_the_mri_are_mostly_the_true_ones(scanned):
    found, true = mri_regions(scanned)[1], true_regions(scanned)[0]
    grey, white = scanned.phantoms["none"].shares[:2] > 0.9  # voxels of 4 mm that are not mixed
    assert np.isin(found[grey], range(1, 25)).mean() > 0.7  # the first 24 parcels are grey
    assert np.isin(found[white], range(25, 33)).mean() > 0.8
    assert len(np.unique(true)) > 30


def test_intervals():
    assert interval([1.0, 1.0, 1.0])["interval"] == [1.0, 1.0]
    found = seeds_interval([1.0, 2.0, 3.0])
    assert found["mean"] == 2 and found["interval"] == pytest.approx([2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5])


def test_the_page_is_made_of_its_figures():
    page = PAGES / "volumes.md"
    if not page.exists():
        pytest.skip("the page has not been made yet: python tests/results --only volumes")
    peers = json.loads(PEERS.read_text()) if PEERS.exists() else None
    results = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert page.read_text(encoding="utf-8") == volumes_page(results, peers)
