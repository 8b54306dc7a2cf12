from __future__ import annotations

import math

import pytest
import torch

from medfuse.diffusion import MonotoneSchedule


def learned(seed: int) -> MonotoneSchedule:
    """Return a schedule with increments of any size, as training might leave them."""
    schedule = MonotoneSchedule().double()
    with torch.no_grad():
        schedule.increments.copy_(3 * torch.randn(12, generator=torch.Generator().manual_seed(seed)) - 1)
    return schedule


def test_it_starts_as_a_power_of_its_final_value():
    s = torch.linspace(0, 1, 37, dtype=torch.float64)
    assert torch.allclose(MonotoneSchedule(knots=5, final=0.3).double()(s), 0.3**s, rtol=1e-6)


@pytest.mark.parametrize("final", [0.01, 0.125, 0.9])
def test_its_ends_are_one_and_the_final_value(final):
    first, last = MonotoneSchedule(final=final)(torch.tensor([0.0, 1.0])).tolist()
    assert first == 1.0
    assert last == pytest.approx(final, rel=1e-5)


def test_three_steps_start_from_the_papers_alphas():
    alpha_bar = MonotoneSchedule()(torch.arange(4) / 3)
    assert torch.allclose(alpha_bar, torch.tensor([1, 0.5, 0.25, 0.125]), rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_it_falls_whatever_was_learned(seed):
    alpha_bar = learned(seed)(torch.linspace(0, 1, 500, dtype=torch.float64))
    assert alpha_bar[0] == 1
    assert bool((alpha_bar.diff() < 0).all())
    assert bool((alpha_bar > 0).all())


@pytest.mark.parametrize("seed", range(3))
def test_any_number_of_steps_looks_at_the_same_function(seed):
    schedule = learned(seed)
    for steps in (1, 2, 3, 5, 8):
        few, many = (schedule(torch.arange(n + 1, dtype=torch.float64) / n) for n in (steps, 6 * steps))
        assert torch.allclose(few, many[::6], rtol=1e-12)


def test_its_logarithm_is_linear_between_knots():
    schedule = learned(0)
    log = schedule(torch.linspace(0, 1, 12 * 4 + 1, dtype=torch.float64)).log()
    assert torch.allclose(log[4:].diff().unfold(0, 4, 4).std(-1), torch.zeros(11, dtype=torch.float64), atol=1e-12)


def test_times_of_any_shape_and_beyond_the_ends():
    schedule = MonotoneSchedule()
    assert schedule(torch.zeros(2, 3)).shape == (2, 3)
    assert schedule(torch.tensor(0.5)).shape == ()
    assert torch.equal(schedule(torch.tensor([-1.0, 2.0])), schedule(torch.tensor([0.0, 1.0])))


def test_every_increment_can_be_learned():
    schedule = MonotoneSchedule()
    schedule(torch.tensor(1.0)).backward()
    assert bool((schedule.increments.grad < 0).all())
    assert math.isclose(float(schedule.increments.grad.std()), 0.0, abs_tol=1e-6)
