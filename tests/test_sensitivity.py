"""What changes where widths, or else levels, are wrong by 20 %."""

import math

import pytest
import torch

from medfuse.inferers.sensitivity import FACTORS, as_record, changes, changes_of, scaled, variants
from medfuse.physics import parse_degradation

SPEC = {
    "version": 1,
    "source1": [{"blur": {"sigma_px": 2.0}}, {"noise": {"sigma": 0.05}}],
    "source2": [{"noise": {"kind": "poisson", "counts": 144}}, {"downsample": {"factor": 2}}],
}


def test_widths_or_levels_are_scaled_and_the_others_stay():
    """Counts are 1 over a squared std: noise 1.2 times as strong has counts / 1.44."""
    stated = parse_degradation(SPEC)
    first, second = scaled(stated, FACTORS["more"], "levels")
    assert first.steps[0] is stated.source1.steps[0]
    assert first.steps[1].sigma.flatten()[0] == pytest.approx(0.06)
    assert second.steps[0].counts.flatten()[0] == pytest.approx(100)
    first, second = scaled(stated, FACTORS["more"], "widths")
    assert first.steps[0].sigma.flatten()[0] == pytest.approx(2.4)
    assert first.steps[1] is stated.source1.steps[1]
    assert second.steps == stated.source2.steps


def test_a_kind_that_nobody_stated_is_not_restored_again_nor_told():
    """Of source 2 no blur is stated; without any, widths are not varied at all, and of nothing, nothing is."""
    stated, x = parse_degradation(SPEC), torch.full((1, 8, 8), 0.5)
    others = [None if other is None else [x + 0.1, x + 0.2] for other in variants(stated)]
    first, second = (as_record(changes_of([x, x], others, stated)[0, :, :, k], scale=10.0) for k in (0, 1))
    assert set(first) == {"widths", "levels"}
    assert first["widths"]["less"]["mean"] == pytest.approx(1.0, rel=1e-4)
    assert set(second) == {"levels"}
    assert second["levels"]["more"]["rms"] == pytest.approx(2.0, rel=1e-4)
    noisy = parse_degradation({"version": 1, "source1": [{"noise": {"sigma": 0.05}}]})
    assert [other is None for other in variants(noisy)] == [True, True, False, False]
    assert list(variants(parse_degradation(None))) == [None] * 4


def test_changes_are_of_what_the_source_shows():
    """Half of the image is shown; there 0.3 and -0.1 in equal parts: mean 0.1, root mean square sqrt(0.05)."""
    x = torch.zeros(1, 40, 40)
    x[:, :20] = 0.5
    other = x + 9.0 * (x == 0)
    other[:, :20, ::2] += 0.3
    other[:, :20, 1::2] -= 0.1
    found = changes(x, other)[0]
    assert found.tolist() == pytest.approx([0.05**0.5, 0.1, 0.3], rel=1e-4)
    record = as_record(torch.stack([found, 2 * found, found * math.nan, found]).unflatten(0, (2, 2)), scale=10.0)
    assert record["widths"]["less"]["mean"] == pytest.approx(1.0, rel=1e-4)
    assert record["widths"]["more"]["largest"] == pytest.approx(6.0, rel=1e-4)
    assert set(record) == {"widths"}
