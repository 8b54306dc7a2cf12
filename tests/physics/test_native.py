"""What is said of a PET on its scanner's own grid."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from medfuse.errors import DegradationError
from medfuse.physics import ScannerNoise, in_plane, parse_degradation, parse_native

GOOD = {"grid": "native", "psf": {"fwhm_mm": [6, 6, 5]}, "noise": {"sigma": 0.1, "unit": "input"}}


def test_the_values_are_read():
    noise = {"kind": "poisson", "sigma": 0.1, "unit": "input", "fwhm_mm": [5, 5, 4]}
    found = parse_native({**GOOD, "noise": noise})
    assert found.psf_fwhm_mm == (6.0, 6.0, 5.0)
    assert found.noise == ScannerNoise(0.1, "poisson", (5.0, 5.0, 4.0))
    assert parse_native({**GOOD, "psf": {"fwhm_mm": 6}}).psf_fwhm_mm == (6.0, 6.0, 6.0)


def test_a_fraction_is_that_of_full_range():
    """Poisson-like: the std at full range is so much of full range."""
    found = parse_native({**GOOD, "noise": {"kind": "poisson", "sigma": 0.05}}, scale=40.0).noise
    assert float(found.std(torch.tensor(40.0))) == pytest.approx(0.05 * 40.0)
    assert parse_native({**GOOD, "noise": {"sigma": 0.05}}, scale=40.0).noise.sigma == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": "mri"}, "must be `native`"),
        ({"psf": {"fwhm_mm": [6, 6]}}, "one finite number or three"),
        ({"psf": {"fwhm_mm": [6, 6, math.inf]}}, "at most|finite"),
        ({"psf": {"fwhm_mm": 21}}, "at most 20 mm"),
        ({"psf": {"fwhm_mm": 0}}, "above 0"),
        ({"psf": 6}, "must be a mapping"),
        ({"psf": {}}, "add fwhm_mm"),
        ({"noise": {"sigma": 0, "unit": "input"}}, "must be positive"),
        ({"noise": {"sigma": 0.1, "kind": "rician", "unit": "input"}}, "gaussian or poisson or table"),
        ({"noise": {"sigma": 0.1, "unit": "SUV"}}, "`fraction` or `input`"),
        ({"noise": {"sigma": 0.1}}, "source's range"),
        ({"noise": {"sgima": 0.1}}, "write sigma"),
        ({"blur": {}}, "unknown"),
    ],
)
def test_what_is_refused(changes, words):
    with pytest.raises(DegradationError, match=words):
        parse_native({**GOOD, **changes})


def test_it_is_no_steps_of_a_slice():
    """A pair of 2-D images has no grid of a scanner; the bundles take it out before, see `in_plane`."""
    with pytest.raises(DegradationError, match="must be of source 2 of a pair of volumes"):
        parse_degradation({"version": 1, "source2": GOOD})
    assert parse_degradation(in_plane({"version": 1, "source2": GOOD})).source2.steps == ()


def test_a_table_of_std_over_the_signal():
    """Log-linear between its rows, held beyond them, as a noise level function is stated."""
    stated = {"kind": "table", "signal": [1, 4], "sigma": [0.1, 0.4], "fwhm_mm": 5}
    found = parse_native({**GOOD, "noise": {**stated, "unit": "input"}}).noise
    std = found.std(torch.tensor([-1.0, 0.5, 1.0, 2.0, 4.0, 9.0]))
    assert std.tolist() == pytest.approx([0.1, 0.1, 0.1, 0.2, 0.4, 0.4])
    part = parse_native({**GOOD, "noise": {**stated, "signal": [0.1, 0.4], "sigma": [0.01, 0.04]}}, scale=10.0).noise
    assert part.std(torch.tensor([1.0, 2.0])).tolist() == pytest.approx([0.1, 0.2])
    assert found.scaled(4.0).std(torch.tensor(0.5)) == pytest.approx(0.2 / 4)


def test_a_table_warns_not_of_how_a_signal_lies_in_memory():
    signal = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    noise = ScannerNoise(1.0, "table", table=((0.1, 0.1), (0.9, 0.3)))
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # or torch says it once
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(noise.std(signal.mT), noise.std(signal).mT)
    finally:
        torch.set_warn_always(always)


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        ({"signal": [1, 4], "sigma": [0.1]}, "lists of one length"),
        ({"signal": [1, 4], "sigma": 0.1}, "lists of one length"),
        ({"sigma": [0.1, 0.2]}, "must come with `kind: table`"),
        ({"signal": [4, 1], "sigma": [0.1, 0.2]}, "rising"),
        ({"signal": [1, 1], "sigma": [0.1, 0.2]}, "rising"),
        ({"signal": [1], "sigma": [0.1]}, "two rows"),
        ({"signal": [1, 4], "sigma": [0.1, -0.2]}, "positive"),
        ({"signal": [0, 4], "sigma": [0.1, 0.2]}, "positive"),
        ({"signal": ["a", 4], "sigma": [0.1, 0.2]}, "`signal` of `source2` must be a number"),
        ({"signal": [1, 4], "sigma": [0.1, 0.2], "growth": 0.7}, "kind: poisson"),
        ({"signal": [1, 4], "sigma": [0.1, 0.2], "kind": "poisson"}, "must come with `kind: table`"),
        ({"sigma": [0.1, 0.2], "kind": "poisson"}, "one number each"),
        ({"sigma": 0.1, "kind": "poisson", "growth": [0.1, 0.2]}, "one number each"),
    ],
)
def test_what_is_no_table(noise, words):
    with pytest.raises(DegradationError, match=words):
        parse_native({**GOOD, "noise": {"kind": "table", "unit": "input", **noise}})
