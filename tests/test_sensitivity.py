"""What changes where widths and levels are wrong by 20 %."""

import pytest
import torch

from medfuse.inferers.sensitivity import FACTORS, as_record, changes, scaled
from medfuse.physics import parse_degradation


def test_widths_and_levels_are_scaled_and_what_was_not_stated_stays():
    """Counts are 1 over a squared std: noise 1.2 times as strong has counts / 1.44."""
    spec = {"version": 1, "source1": [{"blur": {"sigma_px": 2.0}}, {"noise": {"sigma": 0.05}}]}
    spec["source2"] = [{"noise": {"kind": "poisson", "counts": 144}}]
    first, second = scaled(parse_degradation(spec), FACTORS["more"])
    assert first.steps[0].sigma.flatten()[0] == pytest.approx(2.4)
    assert first.steps[1].sigma.flatten()[0] == pytest.approx(0.06)
    assert second.steps[0].counts.flatten()[0] == pytest.approx(100)
    assert scaled(parse_degradation(None), FACTORS["less"]).source1.steps == ()


def test_changes_are_of_what_the_source_shows():
    """Half of the image is shown; there 0.3 and -0.1 in equal parts: mean 0.1, root mean square sqrt(0.05)."""
    x = torch.zeros(1, 40, 40)
    x[:, :20] = 0.5
    other = x + 9.0 * (x == 0)
    other[:, :20, ::2] += 0.3
    other[:, :20, 1::2] -= 0.1
    found = changes(x, other)[0]
    assert found.tolist() == pytest.approx([0.05**0.5, 0.1, 0.3], rel=1e-4)
    record = as_record(torch.stack([found, 2 * found]), scale=10.0)
    assert record["less"]["mean"] == pytest.approx(1.0, rel=1e-4)
    assert record["more"]["largest"] == pytest.approx(6.0, rel=1e-4)
