"""What scans of phantoms measure, against what was put into them."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medfuse.errors import ImageError
from medfuse.estimation.phantoms import cylinder, line_source, repeated


def tube(rng, relative):
    rows, columns = np.mgrid[-29.5:30, -29.5:30] * 4.0
    inside = (np.hypot(rows, columns) < 100)[..., None] * np.ones(30)
    return gaussian_filter(5.0 * inside, 1) + inside * 5.0 * relative * rng.standard_normal(inside.shape)


def test_the_noise_of_a_uniform_cylinder_is_relative_to_its_mean():
    found = cylinder(tube(np.random.default_rng(0), 0.1), (4, 4, 4))
    assert found.value[0] == pytest.approx(0.1, rel=0.03)
    assert found.mean == pytest.approx(5.0, rel=0.01)


def test_an_image_without_a_uniform_region_is_refused():
    with pytest.raises(ImageError, match="uniform cylinder must hold"):
        cylinder(np.pad(np.ones((4, 4, 4)), 12), (4, 4, 4))


@pytest.mark.parametrize("line", [0, 2])
def test_the_psf_is_found_across_a_line_source(line):
    """A line along an axis, blurred by 5 and 7 mm across; noise and a slight offset of the middle do not matter."""
    volume = np.zeros((40, 40, 40))
    where = [20, 18, 20]
    where[line] = slice(None)
    volume[tuple(where)] = 100
    across = [a for a in range(3) if a != line]
    widths = dict(zip(across, (5.0, 7.0), strict=True))
    sigma = [widths.get(a, 0.0) / 2.3548 / 2.0 for a in range(3)]
    image = gaussian_filter(volume, sigma) + 0.02 * np.random.default_rng(0).standard_normal(volume.shape)
    found = line_source(image, (2, 2, 2))
    assert found.value[line] is None
    assert [found.value[a] for a in across] == pytest.approx([5.0, 7.0], rel=0.05)


def test_no_line_is_refused():
    with pytest.raises(ImageError, match="line source must run"):
        line_source(np.zeros((20, 20, 20)), (2, 2, 2))


def test_repeated_scans_tell_the_noise_of_one():
    """The std of a difference is that of one scan times the root of 2."""
    rng = np.random.default_rng(1)
    object_ = gaussian_filter(np.pad(np.full((40, 40, 12), 800.0), 6), 1)
    one, two = (object_ + 20 * rng.standard_normal(object_.shape) for _ in range(2))
    assert repeated(one, two).value[0] == pytest.approx(20, rel=0.04)
    with pytest.raises(ImageError, match="one shape"):
        repeated(one, two[:-1])
