from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from medfuse.bundles import bundle_dir
from medfuse.errors import ImageError
from medfuse.transforms import CorrectBiasField, CorrectBiasFieldd

SHAPE = (48, 56, 40)


def grid(shape=SHAPE) -> list[np.ndarray]:
    return np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")


def field(shape=SHAPE) -> np.ndarray:
    """Return a smooth field from about 0.6 to 1.6."""
    x, y, z = grid(shape)
    return np.exp(0.3 * x - 0.2 * y**2 + 0.25 * np.sin(1.5 * z + 0.5))


@pytest.fixture
def head(rng) -> tuple[np.ndarray, np.ndarray]:
    """Return a head of three tissues with a little noise, and where its white matter is."""
    x, y, z = grid()
    r = np.sqrt(x**2 + y**2 + z**2)
    white = r < 0.6 + 0.08 * np.sin(6 * x) * np.cos(5 * y)
    clean = np.select([white, r < 0.75, r < 0.85], [800.0, 550.0, 250.0], 0.0)
    return np.abs(clean + rng.normal(0, 10, SHAPE)).astype(np.float32), white


def variation(image, where) -> float:
    values = np.asarray(image).reshape(where.shape)[where]
    return float(values.std() / values.mean())


def meta(image: np.ndarray) -> MetaTensor:
    return MetaTensor(
        torch.as_tensor(image, dtype=torch.float32)[None], affine=torch.diag(torch.tensor([2.0, 2, 3, 1]))
    )


def test_white_matter_varies_less_and_the_field_is_the_known_one(head):
    clean, white = head
    biased = clean * field()
    corrected = CorrectBiasField()(meta(biased))
    assert variation(biased, white) > 0.1
    assert variation(corrected, white) < 0.25 * variation(biased, white)
    inside = ndimage.binary_erosion(clean > 150, iterations=2)
    ratio = (biased / corrected[0].numpy().clip(1e-3))[inside] / field()[inside]
    assert ratio.std() / ratio.mean() < 0.25 * field()[inside].std() / field()[inside].mean()


def test_an_image_without_a_field_stays_almost_as_it_was(head):
    clean, white = head
    corrected = CorrectBiasField()(meta(clean))
    assert np.abs(corrected[0].numpy() / clean - 1)[white].max() < 0.06
    assert float(corrected[0].numpy()[white].mean()) == pytest.approx(clean[white].mean(), rel=0.03)


def test_a_real_head_shape_at_its_own_voxels():
    image = nib.load(bundle_dir("pet_mri_fusion") / "demo" / "brain_phantom" / "mri.nii.gz").get_fdata()
    brightest = image > np.percentile(image[image > 0.1 * image.max()], 60)
    white = ndimage.binary_erosion(brightest, iterations=1)
    biased = image * field(image.shape)
    corrected = CorrectBiasField()(meta(biased))
    assert variation(corrected, white) < 0.4 * variation(biased, white)


def test_grid_unit_and_level_are_kept_and_the_field_is_recorded(head):
    clean, _ = head
    image = meta(clean * field())
    image.meta["unit"] = "a.u."
    before = image.clone()
    result = CorrectBiasFieldd(keys="mri", shrink=2)({"mri": image, "case": "a"})
    assert torch.equal(image, before)
    assert result["mri"].dtype == torch.float32
    assert torch.equal(result["mri"].affine, image.affine)
    assert result["mri"].meta["unit"] == "a.u."
    record = result["mri_bias_field"]
    assert (record["method"], record["shrink"]) == ("N4", 2)
    assert 0.5 < record["lowest"] < 0.9 < 1.1 < record["highest"] < 2
    assert record == result["mri"].meta["bias_field"]


def test_air_is_not_blown_up(head):
    clean, _ = head
    biased = clean * field()
    record = (corrected := CorrectBiasField()(meta(biased))).meta["bias_field"]
    ratio = biased[clean > 0] / corrected[0].numpy()[clean > 0]
    assert record["lowest"] * 0.999 < ratio.min()
    assert ratio.max() < record["highest"] * 1.001


@pytest.mark.parametrize("shape", [(20, 24, 4), (3, 40, 40), (2, 2, 2)])
def test_small_volumes_pass(rng, shape):
    corrected = CorrectBiasField()(meta(rng.uniform(1, 2, shape)))
    assert corrected.shape == (1, *shape)
    assert bool(corrected.isfinite().all())


def test_equal_input_gives_equal_bytes(head):
    image = meta(head[0] * field())
    assert torch.equal(CorrectBiasField()(image), CorrectBiasField()(image))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((8, 8, 8), 3.0), "mri: The image must not be constant, got 3 everywhere"),
        (np.where(np.arange(512).reshape(8, 8, 8) == 7, np.nan, 1.0), "mri: The image must be finite"),
        (np.arange(512).reshape(8, 8, 8) - 256.0, "mri: The image must be at least 0 .* got -256"),
        (np.zeros((8, 8)), "mri: The image must be a volume"),
    ],
)
def test_what_has_no_bias_field_is_refused(values, message):
    with pytest.raises(ImageError, match=message):
        CorrectBiasFieldd(keys="mri")({"mri": meta(values)})


@pytest.mark.parametrize("options", [{"shrink": 0}, {"iterations": ()}, {"iterations": (5, 0)}])
def test_options_make_sense(options):
    with pytest.raises(ImageError, match="must be at least 1"):
        CorrectBiasField(**options)
