"""Every metric equals the independent evaluator, on real images with black backgrounds."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from medfuse.metrics import METRICS, Images, measure, regional_quantitation, residual_statistics, total_ratio

PAIRS = ("pet_21", "spect_36042", "ct_21018", "spect_21005")
TOLERANCE = {"EN": 1e-4, "MI": 1e-4}  # of fractions, values a hair from a tie may go to the other bin
TOLERANCE |= dict.fromkeys(("Qabf", "QabfW", "deg_Qabf", "edge_1", "edge_2"), 1e-6)  # nearly equal gradients are equal
Reader = Callable[[str, str], np.ndarray]


def tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))[None, None]


def planes(rgb: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]


def fusions(a: np.ndarray, b: np.ndarray, d1: np.ndarray, d2: np.ndarray) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(5).normal(0, 8, a.shape)
    return {
        "average": (a + b) / 2,
        "maximum": np.maximum(a, b),
        "copy": a,
        "copy of source 2": b,
        "noisy": 0.6 * d1 + 0.5 * d2 + noise,
        "black": np.zeros_like(a),
    }


def colour(grey: np.ndarray, tint: np.ndarray) -> np.ndarray:
    """Return a picture with colourless, coloured and saturated pixels."""
    return np.stack([grey, 0.7 * grey, np.where(tint > 60, 255 - grey, 0.7 * grey)], -1)


def compare(fe: ModuleType, read: Reader, name: str, window: tuple[slice, slice]) -> None:
    kinds = ("clean/mri", "clean/fun", "deg/noise/mri", "deg/noise/fun")
    a, b, d1, d2 = (read(kind, name)[window] for kind in kinds)
    r1, r2 = (a + 2 * d1) / 3, (3 * b + d2) / 4 - 5
    for kind, f in fusions(a, b, d1, d2).items():
        pet, fused = colour(b, b), colour(f, a)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the evaluator divides by zero where it means to
            theirs = fe.evaluate(a, b, f, d1, d2, r1, r2, None, "paper") | fe.colour(pet, fused)
        images = Images.of(
            tensor(f),
            tensor(a),
            tensor(b),
            data_range=255.0,
            degraded=(tensor(d1), tensor(d2)),
            restored=(tensor(r1), tensor(r2)),
            colours=(planes(pet), planes(fused)),
        )
        ours = {k: float(v) for k, v in measure(images).items()}
        assert set(theirs) <= set(ours)
        for metric, expected in theirs.items():
            rel = TOLERANCE.get(metric, 1e-8)
            assert ours[metric] == pytest.approx(expected, rel=rel, abs=1e-9, nan_ok=True), (name, kind, metric)


@pytest.mark.parametrize("name", PAIRS)
def test_every_metric_equals_the_evaluator_on_a_part_of_a_real_pair(instrument, dev_image, name):
    compare(instrument, dev_image, name, (slice(20, 120), slice(70, 181)))


@pytest.mark.full
@pytest.mark.parametrize("name", [*PAIRS, "pet_06", "spect_36033", "ct_37021"])
def test_every_metric_equals_the_evaluator_on_whole_real_pairs(instrument, dev_image, name):
    compare(instrument, dev_image, name, (slice(None), slice(None)))


def test_directions_are_those_of_the_evaluator(instrument):
    for metric, direction in instrument.DIRECTION.items():
        assert METRICS[metric].direction == direction


@pytest.mark.parametrize("seed", [0, 1])
def test_residuals_are_judged_as_the_evaluator_judges_them(instrument, seed):
    rng = np.random.default_rng(seed)
    residual = rng.normal(0.3, 2, (40, 53))
    residual[:, 1:] += 0.4 * residual[:, :-1]
    sigma = 2.0 if seed else rng.uniform(1, 3, residual.shape)
    theirs = instrument.residual_stats(residual, sigma)
    ours = residual_statistics(tensor(residual), sigma if seed else tensor(sigma))
    assert set(theirs) == set(ours)
    for key, expected in theirs.items():
        assert float(ours[key]) == pytest.approx(expected, rel=1e-10, abs=1e-12), key


@pytest.mark.parametrize("background", [None, 3])
def test_regions_are_measured_as_the_evaluator_measures_them(instrument, background):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, (30, 31))
    reference = 1.0 + labels + rng.normal(0, 0.2, labels.shape)
    estimate = 0.9 * reference + rng.normal(0, 0.4, labels.shape)
    theirs = instrument.quant(reference, estimate, labels, background)
    ours = regional_quantitation(tensor(reference), tensor(estimate), tensor(labels), background=background)
    assert float(total_ratio(tensor(reference), tensor(estimate))) == pytest.approx(theirs["total_ratio"], rel=1e-12)
    assert ours["regions"].tolist() == [1, 2, 3]
    for i, region in enumerate((1, 2, 3)):
        for key in ("contrast_ref", "contrast_est", "CRC", "CNR_est"):
            theirs[region].setdefault(key, math.nan)
        for key, expected in theirs[region].items():
            assert float(ours[key][0, i]) == pytest.approx(expected, rel=1e-10, nan_ok=True), (region, key)
