from __future__ import annotations

import math

import pytest
import torch

from medfuse.errors import GeometryError, ImageError
from medfuse.metrics import regional_quantitation, total_ratio


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(1, 1, 1, -1)


REFERENCE = row(2, 2, 8, 12, 1, 1)
ESTIMATE = row(2, 3, 6, 10, 1, 3)
LABELS = row(1, 1, 2, 2, 0, 3).int()


def test_numbers_of_regions_are_those_computed_by_hand():
    result = regional_quantitation(REFERENCE, ESTIMATE, LABELS, background=1)
    assert result["regions"].tolist() == [1, 2, 3]
    hot = {k: float(v[0, 1]) for k, v in result.items() if k != "regions"}
    expected = {
        "n": 2,
        "mean_ref": 10,
        "mean_est": 8,
        "std_est": 2,
        "bias_pct": -20,
        "max_bias_pct": 100 * (10 / 12 - 1),
        "rmse_pct": 20,
        "cov_ref": 0.2,
        "cov_est": 0.25,
        "contrast_ref": 4,
        "contrast_est": 8 / 2.5 - 1,
        "CRC": (8 / 2.5 - 1) / 4,
        "CNR_est": (8 - 2.5) / 0.5,
    }
    assert hot == pytest.approx(expected)
    assert math.isnan(float(result["CRC"][0, 0]))  # the background itself


def test_total_is_the_ratio_of_sums_in_any_unit_and_number_of_dimensions():
    assert float(total_ratio(REFERENCE, ESTIMATE)) == pytest.approx(25 / 26)
    volume = torch.rand(2, 1, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(total_ratio(volume, 0.25 * volume), torch.full((2,), 0.25, dtype=torch.float64))
    assert total_ratio(REFERENCE * 0, ESTIMATE).isnan().all()


def test_volumes_are_measured_like_images_and_samples_apart():
    generator = torch.Generator().manual_seed(0)
    reference = 1 + torch.rand(2, 1, 4, 5, 6, generator=generator)
    labels = torch.randint(0, 3, (2, 1, 4, 5, 6), generator=generator)
    together = regional_quantitation(reference, reference.square(), labels, background=1)
    for i in range(2):
        flat = [x[i : i + 1].flatten(2)[:, :, None] for x in (reference, reference.square(), labels)]
        alone = regional_quantitation(*flat, background=1)
        for key in set(alone) - {"regions"}:
            assert torch.allclose(together[key][i], alone[key][0], equal_nan=True), key


def test_a_region_that_is_absent_is_nan_and_a_missing_background_leaves_no_contrast():
    result = regional_quantitation(REFERENCE, ESTIMATE, LABELS, regions=(2, 9))
    assert result["n"].tolist() == [[2, 0]]
    for key in ("mean_ref", "bias_pct", "max_bias_pct", "rmse_pct", "cov_est"):
        assert result[key][0, 0].isfinite()
        assert result[key][0, 1].isnan()
    assert result["CRC"].isnan().all()


def test_equal_contrast_has_no_recovery():
    result = regional_quantitation(row(2, 2, 2, 2), row(2, 2, 3, 3), row(1, 1, 2, 2).int(), background=1)
    assert result["CRC"][0, 1].isnan()
    assert float(result["contrast_est"][0, 1]) == pytest.approx(0.5)


def test_wrong_input_is_refused():
    with pytest.raises(GeometryError, match="reference and estimate must both be"):
        regional_quantitation(REFERENCE, ESTIMATE[..., 1:], LABELS)
    with pytest.raises(GeometryError, match="labels must be"):
        regional_quantitation(REFERENCE, ESTIMATE, LABELS[..., 1:])
    with pytest.raises(ImageError, match="integers"):
        regional_quantitation(REFERENCE, ESTIMATE, LABELS + 0.5)
    with pytest.raises(ImageError, match="hold a region"):
        regional_quantitation(REFERENCE, ESTIMATE, LABELS * 0)
    with pytest.raises(ImageError, match="finite"):
        total_ratio(REFERENCE * math.nan, ESTIMATE)
