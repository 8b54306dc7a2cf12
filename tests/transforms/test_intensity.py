from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, Invertd

from medfuse.errors import ImageError
from medfuse.transforms import ScaleIntensityAffine, ScaleIntensityAffined, UnscaleIntensityd, inverse_values

AFFINE = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))


def volume(low: float = 0.0, high: float = 1.0, seed: int = 0, **meta: str) -> MetaTensor:
    """Return a volume **[1, 7, 6, 5]** whose extremes are `low` and `high`."""
    data = torch.rand(1, 7, 6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    data = (data - data.min()) / (data.max() - data.min())
    return MetaTensor((low + (high - low) * data).float(), affine=AFFINE, meta=meta)


def case(**entries) -> dict:
    return {"mri": volume(-7, 830), "pet": volume(-0.1, 14, seed=1), "pet_unit": "SUV", **entries}


# ------------------------------------------------------------------------------------------------------------------ map
@pytest.mark.parametrize(
    ("image", "options", "offset", "scale"),
    [
        (volume(2, 10), {}, 0, 10),
        (volume(-0.4, 10), {}, 0, 10),
        (volume(-0.6, 10), {}, -0.6, 10.6),
        (volume(-1000, -200), {}, -1000, 800),
        (volume(-3, 10), {"lower": "zero"}, 0, 10),
        (volume(2, 10), {"lower": "min"}, 2, 8),
    ],
)
def test_what_becomes_0_and_1(image, options, offset, scale):
    scaled = ScaleIntensityAffine(**options)(image)
    record = scaled.meta["intensity_scale"]
    assert record["offset"] == pytest.approx(offset, rel=1e-6)
    assert record["scale"] == pytest.approx(scale, rel=1e-6)
    assert float(scaled.max()) == pytest.approx(1)
    np.testing.assert_allclose(scaled.numpy(), (image.numpy() - offset) / scale, atol=1e-6)


def test_percentiles_are_those_of_the_image():
    image = volume(2, 10)
    scaled = ScaleIntensityAffine(lower=5.0, upper_percentile=90.0)(image)
    low, high = np.percentile(image.numpy(), (5, 90))
    record = scaled.meta["intensity_scale"]
    assert (record["offset"], record["scale"]) == pytest.approx((low, high - low))


def test_nothing_is_clipped():
    image = volume(-0.4, 10)
    assert float(ScaleIntensityAffine()(image).min()) == pytest.approx(-0.04)
    scaled = ScaleIntensityAffine(lower=10.0, upper_percentile=90.0)(image)
    assert float(scaled.min()) < 0
    assert float(scaled.max()) > 1
    assert len(scaled.unique()) == len(image.unique())


def test_all_channels_share_one_map():
    image = torch.cat([volume(0, 2).as_tensor(), volume(0, 8, seed=1).as_tensor()])
    scaled = ScaleIntensityAffine()(image)
    torch.testing.assert_close(scaled.as_tensor(), image / 8)


def test_the_result_is_float32_on_the_same_grid_and_the_input_stays():
    image = volume(0, 10)
    kept = image.clone()
    scaled = ScaleIntensityAffine()(image)
    assert scaled.dtype == torch.float32
    assert torch.equal(scaled.affine, image.affine)
    assert torch.equal(image, kept)
    assert "intensity_scale" not in image.meta
    assert not image.applied_operations


# -------------------------------------------------------------------------------------------------------------- inverse
@pytest.mark.parametrize("options", [{}, {"lower": "min"}, {"lower": 5.0, "upper_percentile": 95.0}])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1000, 3000), (3e4, 6e4), (1e-12, 3e-9), (-4e8, 1e9)])
def test_the_inverse_gives_every_value_back(low, high, options):
    image = volume(low, high)
    transform = ScaleIntensityAffine(**options)
    scaled = transform(image)
    restored = transform.inverse(scaled)
    largest = max(abs(low), abs(high))
    np.testing.assert_allclose(restored.numpy(), image.numpy(), rtol=1e-6, atol=1e-6 * largest)
    by_record = inverse_values(scaled, scaled.meta["intensity_scale"])
    assert torch.equal(by_record, restored)
    assert torch.equal(restored.affine, image.affine)
    assert "intensity_scale" not in restored.meta
    assert not restored.applied_operations


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.float16, torch.float64])
def test_the_inverse_gives_values_of_every_type_back(dtype):
    image = (volume(0, 250) if dtype == torch.uint8 else volume(-20, 2000)).as_tensor().to(dtype)
    transform = ScaleIntensityAffine(lower="zero")
    restored = transform.inverse(transform(image))
    torch.testing.assert_close(restored.as_tensor(), image.float(), rtol=1e-6, atol=1e-6)


def test_values_of_plain_tensors_and_of_any_shape_are_given_back():
    record = {"offset": torch.tensor([2.0]), "scale": torch.tensor([4.0])}
    restored = inverse_values(torch.tensor([0.0, 0.5, 1.5]), record)
    assert type(restored) is torch.Tensor
    assert restored.tolist() == [2, 4, 8]


def test_invertd_undoes_the_scaling_of_a_result():
    transforms = Compose([ScaleIntensityAffined(["mri", "pet"])])
    data = case()
    scaled = transforms(data)
    scaled["restored"] = scaled["pet"].clone() / 2
    restored = Invertd("restored", transforms, orig_keys="pet", nearest_interp=False)(scaled)["restored"]
    torch.testing.assert_close(restored.as_tensor(), data["pet"].as_tensor() / 2, rtol=1e-6, atol=1e-6)
    assert restored.meta["unit"] == "SUV"


def test_invertd_leaves_a_scaling_that_is_not_traced():
    transforms = Compose([ScaleIntensityAffined(["mri", "pet"], traced=False)])
    scaled = transforms(case())
    scaled["fused"] = scaled["mri"].clone()
    inverted = Invertd("fused", transforms, orig_keys="mri", nearest_interp=False)(scaled)
    assert torch.equal(inverted["fused"], scaled["mri"])
    assert transforms.inverse(scaled)["mri_scale"] == scaled["mri_scale"]


def test_the_dictionary_transform_is_undone_by_compose():
    transforms = Compose([ScaleIntensityAffined(["mri", "pet"])])
    data = case()
    restored = transforms.inverse(transforms(data))
    assert set(restored) == set(data)
    for key in ("mri", "pet"):
        torch.testing.assert_close(restored[key].as_tensor(), data[key].as_tensor(), rtol=1e-6, atol=1e-5)


# ----------------------------------------------------------------------------------------------------------------- unit
def test_the_unit_is_what_the_case_says_then_the_image_then_the_argument():
    transform = ScaleIntensityAffined("pet", unit="Bq/ml")
    assert transform({"pet": volume()})["pet_scale"]["unit"] == "Bq/ml"
    assert transform({"pet": volume(unit="kBq/ml")})["pet_scale"]["unit"] == "kBq/ml"
    assert transform({"pet": volume(unit="kBq/ml"), "pet_unit": "SUV"})["pet_scale"]["unit"] == "SUV"
    assert ScaleIntensityAffine()(volume()).meta["intensity_scale"]["unit"] == "a.u."


def test_each_key_has_options_of_its_own():
    transform = ScaleIntensityAffined(["mri", "pet"], lower=["min", "zero"], unit=("a.u.", "SUV"), upper_percentile=100)
    result = transform({"mri": volume(5, 10), "pet": volume(5, 10)})
    assert result["mri_scale"] == pytest.approx({"offset": 5, "scale": 5, "unit": "a.u."})
    assert result["pet_scale"] == pytest.approx({"offset": 0, "scale": 10, "unit": "SUV"})


def test_unit_and_map_travel_through_a_loader():
    data = case()
    loader = DataLoader(Dataset([data], Compose([ScaleIntensityAffined(["mri", "pet"])])), batch_size=1)
    unscale = UnscaleIntensityd(["restored_mri", "restored_pet"], ["mri", "pet"])
    (batch,) = loader
    batch["restored_mri"], batch["restored_pet"] = batch["mri"].as_tensor(), batch["pet"].clone()
    for result in (unscale(batch), *map(unscale, decollate_batch(batch))):
        for key in ("mri", "pet"):
            restored = torch.as_tensor(result[f"restored_{key}"]).reshape(1, 7, 6, 5)
            torch.testing.assert_close(restored, data[key].as_tensor(), rtol=1e-6, atol=1e-5)
        assert result["restored_pet"].meta["unit"] == "SUV"
        assert "intensity_scale" not in result["restored_pet"].meta


def test_many_results_may_have_one_source():
    scaled = ScaleIntensityAffined("pet")({"pet": volume(0, 8), "std": torch.ones(3), "mean": torch.zeros(3)})
    result = UnscaleIntensityd(["std", "mean"], "pet")(scaled)
    assert result["std"].tolist() == [8, 8, 8]
    assert result["mean"].tolist() == [0, 0, 0]


# --------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (volume() * 0 + 4, {}, "must not be constant, got 4 everywhere; check the file"),
        (volume(1e6, 1e6 + 0.1), {}, "must not be constant, got 1e\\+06 everywhere"),
        (volume() * float("nan"), {}, "must be finite and not empty, got NaN, infinity or nothing"),
        (volume() / 0, {}, "must be finite and not empty"),
        (torch.zeros(1, 0, 3, 3), {}, "must be finite and not empty"),
        (volume(-9, -1), {"lower": "zero"}, "values above the lower bound, got -1 for the upper and 0 for the lower"),
    ],
)
def test_images_that_cannot_be_scaled_are_refused(image, options, message):
    with pytest.raises(ImageError, match=message):
        ScaleIntensityAffine(**options)(image)


def test_an_image_that_is_nearly_all_background_needs_another_percentile():
    image = torch.zeros(1, 10, 10, 10)
    image[0, 0, 0, :3] = 5
    with pytest.raises(ImageError, match=r"values above the lower bound, got 0 for .* raise upper_percentile"):
        ScaleIntensityAffine(upper_percentile=99.0)(image)
    assert float(ScaleIntensityAffine()(image).max()) == 1


def test_the_key_of_an_image_that_cannot_be_scaled_is_named():
    with pytest.raises(ImageError, match=r"^pet: The image must not be constant"):
        ScaleIntensityAffined(["mri", "pet"])(case(pet=volume() * 0))


@pytest.mark.parametrize(
    "options",
    [
        {"lower": "max"},
        {"lower": -1.0},
        {"lower": 50.0, "upper_percentile": 40.0},
        {"upper_percentile": 0.0},
        {"upper_percentile": 101.0},
        {"lower": float("nan")},
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(options):
    for transform in (ScaleIntensityAffine, lambda **o: ScaleIntensityAffined("pet", **o)):
        with pytest.raises(ImageError, match="lower must be 'auto', 'zero', 'min' or a percentile below"):
            transform(**options)


def test_a_map_that_is_missing_or_incomplete_is_an_error():
    with pytest.raises(ImageError, match="pet must be scaled before restored is unscaled, got no pet_scale"):
        UnscaleIntensityd("restored", "pet")({"restored": volume()})
    with pytest.raises(ImageError, match="must have offset and scale, got none for scale"):
        inverse_values(volume(), {"offset": 1.0})


def test_missing_keys_are_allowed_where_asked():
    assert set(ScaleIntensityAffined(["mri", "pet"], allow_missing_keys=True)({"mri": volume()})) == {
        "mri",
        "mri_scale",
    }
    assert UnscaleIntensityd("restored", "pet", allow_missing_keys=True)({}) == {}
    with pytest.raises(KeyError):
        ScaleIntensityAffined(["mri", "pet"])({"mri": volume()})
