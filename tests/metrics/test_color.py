from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.color import deltaE_ciede2000, rgb2lab
from torch import Tensor

from medfuse.errors import GeometryError, ImageError
from medfuse.fusion.color import palette, rgb_to_ycbcr, ycbcr_to_rgb
from medfuse.metrics import ciede2000, colour_fidelity, rgb_to_lab

# Sharma, Wu and Dalal (2005), table 1: L* a* b* of both, and the difference
SHARMA = (
    ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
    ((50.0, 3.1571, -77.2803), (50.0, 0.0, -82.7485), 2.8615),
    ((50.0, 2.8361, -74.0200), (50.0, 0.0, -82.7485), 3.4412),
    ((50.0, -1.3802, -84.2814), (50.0, 0.0, -82.7485), 1.0000),
    ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
    ((50.0, 2.5, 0.0), (50.0, 0.0, -2.5), 4.3065),
    ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
)


def pet() -> Tensor:
    """Return a picture in a PET palette **[1, 3, 24, 24]**, black at its left, 0..1."""
    uptake = torch.linspace(0, 255, 24).round().long().expand(24, 24)
    return torch.from_numpy(palette("PET"))[uptake].permute(2, 0, 1)[None]


def chroma_of(image: Tensor, matrix: Tensor) -> Tensor:
    ycbcr = rgb_to_ycbcr(image[0].permute(1, 2, 0))
    return ycbcr_to_rgb(ycbcr @ matrix).permute(2, 0, 1)[None]


@pytest.mark.parametrize(("first", "second", "difference"), SHARMA)
def test_published_differences(first, second, difference):
    lab1, lab2 = (torch.tensor(lab, dtype=torch.float64).reshape(1, 3, 1, 1) for lab in (first, second))
    assert float(ciede2000(lab1, lab2)) == pytest.approx(difference, abs=5e-5)
    assert float(ciede2000(lab2, lab1)) == pytest.approx(difference, abs=5e-5)


def test_lab_and_differences_are_those_of_scikit_image(rng):
    rgb = rng.uniform(0, 1, (2, 16, 17, 3))
    rgb[0, :3] = rgb[0, :3, :, :1]  # colourless
    rgb[:, 5] = 0
    lab = [rgb_to_lab(torch.from_numpy(x).permute(2, 0, 1)[None], data_range=1.0) for x in rgb]
    for ours, theirs in zip(lab, rgb, strict=True):
        assert np.allclose(ours[0].permute(1, 2, 0), rgb2lab(theirs), atol=1e-10)
    expected = deltaE_ciede2000(*(x[0].permute(1, 2, 0).numpy() for x in lab))
    assert np.allclose(ciede2000(*lab)[0], expected, atol=1e-9)


def test_the_same_colours_have_no_difference():
    same = colour_fidelity(pet(), pet(), data_range=1.0)
    for name in ("dE00", "dE00_pet", "dC_abs", "dC_signed", "dH_deg"):
        assert float(same[name]) == pytest.approx(0, abs=1e-9), name
    assert 0 <= float(same["leakC"]) < 2


def test_swapped_chroma_shows_as_hue_and_grey_as_lost_chroma():
    """Cb and Cr exchanged keep the luma: no metric of luma sees it."""
    swapped = chroma_of(pet(), torch.eye(3)[[0, 2, 1]])
    grey = chroma_of(pet(), torch.diag(torch.tensor([1.0, 0.0, 0.0])))
    reds, none = (colour_fidelity(pet(), x, data_range=1.0) for x in (swapped, grey))
    assert float(reds["dH_deg"]) > 60
    assert float(none["dC_signed"]) < -20
    assert float(none["dC_signed"]) == pytest.approx(-float(none["dC_abs"]))
    assert min(float(reds["dE00_pet"]), float(none["dE00_pet"])) > 15


def test_colour_in_colourless_places_leaks():
    grey = torch.linspace(0, 1, 24).expand(1, 3, 24, 24)
    result = colour_fidelity(grey, pet(), data_range=1.0)
    assert float(result["leakC"]) > 20
    for name in ("dE00_pet", "dC_abs", "dC_signed", "dH_deg"):
        assert math.isnan(float(result[name]))


def test_a_batch_gives_what_its_samples_give_and_one_reference_serves_all():
    images = torch.cat([pet(), pet().flip(1), pet() * 0.5])
    together = colour_fidelity(pet(), images, data_range=1.0)
    for i in range(3):
        for name, value in colour_fidelity(pet() * 255, images[i : i + 1] * 255, data_range=255.0).items():
            assert torch.allclose(together[name][i : i + 1], value, rtol=1e-4, equal_nan=True)


def test_wrong_images_are_refused():
    with pytest.raises(GeometryError, match="must be \\[B, 3, H, W\\]"):
        rgb_to_lab(torch.zeros(1, 1, 4, 4), data_range=1.0)
    with pytest.raises(GeometryError, match="fit each other"):
        colour_fidelity(pet(), pet()[..., :5], data_range=1.0)
    with pytest.raises(ImageError, match="finite"):
        rgb_to_lab(pet() * math.nan, data_range=1.0)
    with pytest.raises(ImageError, match="data_range must be positive"):
        rgb_to_lab(pet(), data_range=0.0)
