"""Noise that is measured where nobody stated it: its level, how it grows with the signal, and its kernel."""

from __future__ import annotations

import math

import pytest
import torch
from volumes.test_restore import PSF, made

from medfuse.errors import DegradationError
from medfuse.physics import Grid, ScannerNoise, ScannerSampling
from medfuse.volumes.level import no_louder
from medfuse.volumes.noise import measure_noise
from medfuse.volumes.proposals import landweber


def measured(noise, *, seed=0, lesion=True):
    case = made(seed=seed, noise=noise, lesion=lesion)
    operator = ScannerSampling(case.image, case.grid, PSF)
    return measure_noise(operator, torch.from_numpy(case.pet).float())


@pytest.mark.parametrize(
    "noise",
    [
        ScannerNoise(0.15),
        ScannerNoise(0.3, fwhm_mm=(5.0, 5.0, 4.0)),
        ScannerNoise(0.1, "poisson", (4.0, 5.0, 4.0), floor=0.02),
        ScannerNoise(0.06, "poisson", growth=0.9, floor=0.005),
    ],
    ids=["white", "coloured", "Poisson-like", "of an iterative reconstruction"],
)
def test_the_level_at_the_uptake_of_tissue_and_the_kernel(noise):
    """Within 10 % of the level, 1 mm of the kernel; where voxels are independent, a kernel narrower than 0.9 voxels."""
    found = measured(noise)
    signal = torch.tensor(4.0)
    assert float(found.std(signal)) == pytest.approx(float(noise.std(signal)), rel=0.1)
    for width, true in zip(found.fwhm_mm, noise.fwhm_mm, strict=True):
        assert width == pytest.approx(true, abs=1.0)
    assert (found.kind == "gaussian") == (noise.kind == "gaussian")
    if noise.kind == "poisson":
        assert found.growth == pytest.approx(noise.growth, abs=0.25)


@pytest.mark.parametrize("kernel", [(0.0, 0.0, 0.0), (5.0, 5.0, 4.0)], ids=["white", "coloured"])
def test_a_std_that_is_no_power_of_the_signal_is_a_table(kernel):
    """It grows in proportion to the signal up to 0.3, then hardly: within 15 % from there on, where tissue is."""
    noise = ScannerNoise(1.0, "table", kernel, table=((0.02, 0.02), (0.3, 0.3), (9.0, 0.36)))
    found = measured(noise)
    assert found.kind == "table"
    signal = torch.tensor([0.5, 1.0, 2.0, 4.0, 7.0])
    assert found.std(signal).tolist() == pytest.approx(noise.std(signal).tolist(), rel=0.15)
    stds = [std for _, std in found.table]
    assert stds == sorted(stds)


def test_a_level_above_what_the_data_leave_is_lowered_and_no_other_is_touched():
    """Chi-square tells it: of noise that is told half as strong again it is 1 / 1.5^2."""
    noise = ScannerNoise(0.3, fwhm_mm=(5.0, 5.0, 4.0))
    case = made(noise=noise)
    operator, y = ScannerSampling(case.image, case.grid, PSF), torch.from_numpy(case.pet).float()
    begun = landweber(operator, y[None], 10)
    tissue = operator.inside & (operator.forward(begun.x[:, None])[0, 0] > 1)
    found = no_louder(operator, y, noise.louder(1.5), begun, 10, tissue)
    assert found.sigma == pytest.approx(noise.sigma, rel=0.1)
    assert no_louder(operator, y, noise.louder(0.8), begun, 10, tissue).sigma == pytest.approx(0.8 * noise.sigma)


def test_the_unit_of_the_data_changes_nothing():
    case = made(noise=ScannerNoise(0.1, "poisson", growth=0.8))
    operator = ScannerSampling(case.image, case.grid, PSF)
    y = torch.from_numpy(case.pet).float()
    one, other = measure_noise(operator, y), measure_noise(operator, 5000 * y)
    assert other.scaled(5000).sigma == pytest.approx(one.sigma, rel=1e-2)
    assert other.fwhm_mm == pytest.approx(one.fwhm_mm, abs=0.05)


def test_noise_that_grows_scales_with_its_power_of_the_unit():
    noise = ScannerNoise(0.06, "poisson", growth=0.8, floor=0.02)
    assert float(noise.scaled(4.0).std(torch.tensor(0.5))) == pytest.approx(float(noise.std(torch.tensor(2.0))) / 4)
    for wrong in (0.0, -1.0, 1.2, math.nan):
        with pytest.raises(DegradationError, match="`growth` of noise must be above 0"):
            ScannerNoise(0.1, "poisson", growth=wrong)


def test_where_nothing_can_be_measured_it_is_said():
    case = made()
    operator = ScannerSampling(case.image, case.grid, PSF)
    with pytest.raises(DegradationError, match="must be stated"):
        measure_noise(operator, torch.zeros(case.grid.shape))


def test_noise_of_which_the_psf_passes_all_waves_is_no_crash(monkeypatch):
    """A PET that was filtered until no wave is left that tells noise from image: the fit stops where it is."""
    monkeypatch.setattr("medfuse.volumes.noise._FAINTEST", 2.0)  # so that no wave is left
    found = measured(ScannerNoise(0.15))
    assert 0 < found.sigma < math.inf
    assert all(0 <= width < 10 for width in found.fwhm_mm)


def test_a_few_slices_are_enough():
    """Of three slices two waves are left along them, and nothing is averaged there."""
    noise = ScannerNoise(0.15)
    case = made(noise=noise)
    first = [[*row[:3], p] for row, p in zip(case.grid.affine, case.grid.position((0, 0, 14)), strict=False)]
    grid = Grid((*case.grid.shape[:2], 3), (*map(tuple, first), case.grid.affine[3]))
    operator = ScannerSampling(case.image, grid, PSF)
    found = measure_noise(operator, torch.from_numpy(case.pet[..., 14:17].copy()).float())
    assert float(found.std(torch.tensor(4.0))) == pytest.approx(0.15, rel=0.2)
