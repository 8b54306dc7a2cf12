from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, Invertd, LoadImage
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from medfuse.errors import GeometryError, ImageError, RegistrationError
from medfuse.io import NiftiReader, write_nifti
from medfuse.transforms import RegisterRigid, RegisterRigidd, ResampleToReference, ResampleToReferenced


def affine(spacing=(1.0, 1.0, 1.0), degrees=(0.0, 0.0, 0.0), origin=(0.0, 0.0, 0.0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ np.diag(spacing)
    matrix[:3, 3] = origin
    return matrix


def volume(shape, matrix, *, sigma: float = 1.5, channels: int = 1, seed: int = 0, **meta) -> MetaTensor:
    """Return smooth noise **[C, X, Y, Z]**."""
    rng = np.random.default_rng(seed)
    data = gaussian_filter(rng.standard_normal((channels, *shape)), (0, sigma, sigma, sigma)) + 1
    return MetaTensor(torch.from_numpy(data).float(), affine=torch.as_tensor(matrix), meta=meta)


MRI = volume((26, 24, 20), affine((1.1, 1.3, 2.0), (12, -7, 20), (-14, -12, -19)), seed=1)
PET = volume((14, 15, 13), affine((2.7, 2.5, 3.1), (-5, 9, -4), (-20, -15, -16)))
GRIDS = {
    "plain": (PET, MRI),
    "to the coarser one": (MRI, PET),
    "left-handed": (volume((14, 15, 13), affine((-2.7, 2.5, 3.1), (0, 0, 0), (18, -15, -16))), MRI),
    "swapped axes": (volume((13, 12, 14), affine((2.7, 2.5, 3.1))[:, [2, 0, 1, 3]]), MRI),
}


def indices(image: MetaTensor, reference: MetaTensor) -> np.ndarray:
    """Return where the voxels of the reference lie in the image **[3, X, Y, Z]**, in its voxels."""
    shape = reference.shape[1:]
    points = np.concatenate([np.indices(shape).reshape(3, -1), np.ones((1, np.prod(shape)))])
    index = np.linalg.inv(image.affine.numpy()) @ reference.affine.numpy() @ points
    return index[:3].reshape(3, *shape)


def expected(image: MetaTensor, reference: MetaTensor, *, border: bool = False, order: int = 1) -> np.ndarray:
    """Return one channel of an image on the grid of another, by SciPy; beyond its field of view 0 or the next voxel."""
    index = indices(image, reference)
    inner, outer = (map_coordinates(image[0].numpy(), index, order=k, mode="nearest") for k in (order, 0))
    limits = np.array(image.shape[1:]).reshape(3, 1, 1, 1) - 0.5
    return np.where(((index >= -0.5) & (index <= limits)).all(0), inner, outer if border else 0)


# ----------------------------------------------------------------------------------------------------------- resampling
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_a_volume_is_sampled_where_the_voxels_of_the_reference_lie(name, padding):
    image, reference = GRIDS[name]
    result = ResampleToReference(padding=padding, antialias=False)(image, reference)
    assert result.shape == reference.shape
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result[0].numpy(), expected(image, reference, border=padding == "border"), atol=2e-5)


def test_itk_agrees():
    images = []
    for image in (PET, MRI):
        mirrored = np.diag([-1.0, -1, 1, 1]) @ image.affine.numpy()
        spacing = np.linalg.norm(mirrored[:3, :3], axis=0)
        itk = sitk.GetImageFromArray(image[0].numpy().transpose(2, 1, 0))
        itk.SetSpacing(spacing.tolist())
        itk.SetDirection((mirrored[:3, :3] / spacing).ravel().tolist())
        itk.SetOrigin(mirrored[:3, 3].tolist())
        images.append(itk)
    truth = sitk.GetArrayFromImage(sitk.Resample(images[0], images[1])).transpose(2, 1, 0)
    np.testing.assert_allclose(ResampleToReference()(PET, MRI)[0].numpy(), truth, atol=2e-5)


def test_the_grid_becomes_that_of_the_reference_bit_by_bit():
    kept = PET.clone()
    result = ResampleToReference()(PET, MRI)
    assert torch.equal(result.affine, MRI.affine)
    assert torch.equal(PET, kept)
    assert torch.equal(PET.affine, kept.affine)
    assert not PET.applied_operations


def test_the_same_grid_changes_no_voxel():
    result = ResampleToReference()(PET, PET)
    assert torch.equal(result.as_tensor(), PET.as_tensor())
    assert result.meta["outside_fraction"] == 0


def test_labels_stay_labels():
    labels = MetaTensor((PET.as_tensor() > 1).float() * 3, affine=PET.affine)
    result = ResampleToReference(mode="nearest", padding="border")(labels, MRI)
    assert set(result.unique().tolist()) == {0, 3}
    agree = result[0].numpy() == expected(labels, MRI, border=True, order=0)
    assert agree.mean() > 0.999


def test_every_channel_is_resampled_alike():
    image = volume((14, 15, 13), PET.affine.numpy(), channels=3)
    result = ResampleToReference()(image, MRI)
    for k in range(3):
        one = MetaTensor(image[k : k + 1].as_tensor(), affine=image.affine)
        assert torch.equal(result[k].as_tensor(), ResampleToReference()(one, MRI)[0].as_tensor())


def test_the_part_outside_of_the_field_of_view_is_noted():
    image = volume((10, 10, 10), affine())
    reference = volume((10, 10, 10), affine(origin=(6, 0, 0)))
    result = ResampleToReference()(image, reference)
    assert result.meta["outside_fraction"] == pytest.approx(0.6)
    assert bool((result[:, 4:] == 0).all())
    assert torch.allclose(result[:, :4].as_tensor(), image[:, 6:].as_tensor())


# --------------------------------------------------------------------------------------------------------- antialiasing
def test_what_a_coarser_grid_cannot_hold_is_smoothed_away():
    stripes = torch.arange(48).remainder(2).float().reshape(1, 48, 1, 1).expand(1, 48, 8, 8)
    image = MetaTensor(stripes.clone(), affine=torch.as_tensor(affine()))
    reference = volume((12, 8, 8), affine((4, 1, 1), origin=(2, 0, 0)))
    smooth = ResampleToReference()(image, reference)[0, 2:-2]
    aliased = ResampleToReference(antialias=False)(image, reference)[0, 2:-2]
    assert float((smooth - 0.5).abs().max()) < 0.01
    assert float((aliased - 0.5).abs().max()) == 0.5


def test_a_voxel_is_as_wide_as_one_of_the_reference_afterwards():
    """Smoothing is the Gaussian whose width, added to that of the image's voxel, is that of the reference's voxel."""
    image = volume((48, 20, 20), affine((1, 2, 3)), sigma=0.5)
    reference = volume((12, 20, 20), affine((4, 2, 3), origin=(1.5, 0, 0)))
    sigma = np.sqrt(4.0**2 - 1.0**2) / 2.3548
    blurred = gaussian_filter(image[0].numpy(), (sigma, 0, 0), mode="nearest")
    truth = map_coordinates(blurred, indices(image, reference), order=1, mode="nearest")
    np.testing.assert_allclose(ResampleToReference()(image, reference)[0].numpy(), truth, atol=1e-4)


@pytest.mark.parametrize("degrees", [(0, 0, 0), (30, 0, 0), (10, 20, 30)])
def test_a_grid_as_fine_is_reached_without_smoothing(degrees):
    reference = volume((16, 16, 16), affine((2, 2, 2), degrees))
    image = volume((16, 16, 16), affine((2, 2, 2)), sigma=0.5)
    smooth, plain = (ResampleToReference(antialias=a)(image, reference).as_tensor() for a in (True, False))
    assert torch.equal(smooth, plain)


def test_labels_are_never_smoothed():
    labels = MetaTensor((MRI.as_tensor() > 1).float(), affine=MRI.affine)
    assert set(ResampleToReference(mode="nearest")(labels, PET).unique().tolist()) == {0, 1}


# ------------------------------------------------------------------------------------------------------------ inversion
def test_the_inverse_is_on_the_native_grid():
    smooth = volume((14, 15, 13), affine((2, 2, 2)), sigma=3, spatial_shape=np.array([14, 15, 13]))
    reference = volume((34, 36, 33), affine((1, 1, 1), (3, -2, 4), (-3, -3, -2)))
    transform = ResampleToReference()
    there = transform(smooth, reference)
    back = transform.inverse(there)
    assert back.shape == smooth.shape
    assert torch.equal(back.affine, smooth.affine)
    assert not back.applied_operations
    assert "outside_fraction" not in back.meta
    assert tuple(there.meta["spatial_shape"]) == (34, 36, 33)
    assert tuple(back.meta["spatial_shape"]) == (14, 15, 13)
    inner = (slice(None), *[slice(3, -3)] * 3)
    error = (back - smooth)[inner].as_tensor()
    assert float(error.std()) < 0.1 * float(smooth[inner].as_tensor().std())


def test_two_resamplings_are_undone_one_after_the_other():
    transform = ResampleToReference()
    half = volume((10, 10, 10), affine((2, 2, 2)))
    first = transform(half, MRI)
    second = transform(first, PET)
    back = transform.inverse(second)
    assert torch.equal(back.affine, MRI.affine)
    assert back.meta["outside_fraction"] == first.meta["outside_fraction"]
    assert transform.inverse(back).shape == half.shape


def test_moving_an_image_touches_its_affine_only():
    matrix = affine((1, 1, 1), (4, -3, 6), (7, 8, -9))
    transform = RegisterRigid()
    moved = transform.move(PET, matrix)
    np.testing.assert_allclose(moved.affine.numpy(), matrix @ PET.affine.numpy(), atol=1e-12)
    assert torch.equal(moved.as_tensor(), PET.as_tensor())
    back = transform.inverse(moved)
    assert torch.equal(back.affine, PET.affine)
    assert not back.applied_operations


def test_invertd_brings_a_result_back_to_the_native_grid():
    transforms = Compose([RegisterRigidd(aligned=True), ResampleToReferenced("pet")])
    data = {"mri": MRI, "pet": PET}
    prepared = transforms(data)
    prepared["pred"] = prepared["pet"] * 2
    native = Invertd("pred", transforms, orig_keys="pet", nearest_interp=False)(prepared)["pred"]
    assert native.shape == PET.shape
    assert torch.equal(native.affine, PET.affine)
    undone = transforms.inverse(transforms(data))["pet"]
    torch.testing.assert_close(native.as_tensor(), undone.as_tensor() * 2)


# --------------------------------------------------------------------------------------------------------------- affine
def corners(image_shape, matrix) -> np.ndarray:
    return np.array([(*c, 1.0) for c in product(*((0, n - 1) for n in image_shape))]) @ np.asarray(matrix).T


@pytest.mark.parametrize("name", GRIDS)
def test_affines_survive_files_and_transforms(tmp_path, name):
    image, reference = GRIDS[name]
    loader = LoadImage(reader=NiftiReader(), ensure_channel_first=True)
    for key, one in (("pet", image), ("mri", reference)):
        write_nifti(tmp_path / f"{key}.nii.gz", one[0], one.affine)
    pet, mri = loader(tmp_path / "pet.nii.gz"), loader(tmp_path / "mri.nii.gz")
    register, resample = RegisterRigidd(aligned=True), ResampleToReferenced("pet")
    prepared = resample(register({"mri": mri, "pet": pet}))
    write_nifti(tmp_path / "fused.nii.gz", prepared["pet"][0], prepared["pet"].affine)
    fused = loader(tmp_path / "fused.nii.gz")
    native = register.inverse(resample.inverse(prepared))["pet"]
    for result, original in ((fused, reference), (native, image)):
        assert result.shape == original.shape
        shape = original.shape[1:]
        error = np.abs(corners(shape, result.affine) - corners(shape, original.affine)).max()
        assert error < 1e-4


# --------------------------------------------------------------------------------------------------------- registration
def head(matrix: np.ndarray, shape=(28, 28, 28), **meta) -> MetaTensor:
    """Return blobs about the origin, sampled without interpolation."""
    rng = np.random.default_rng(3)
    points = (np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ matrix[:3, :3].T) + matrix[:3, 3]
    blobs = zip(rng.uniform(-40, 40, (40, 3)), rng.uniform(7, 14, 40), strict=True)
    data = sum(np.exp(-0.5 * ((points - c) ** 2).sum(-1) / s**2) for c, s in blobs)
    return MetaTensor(torch.from_numpy(data)[None].float(), affine=torch.as_tensor(matrix), meta=meta)


def test_registration_corrects_the_affine_and_keeps_a_record():
    matrix = affine((5, 5, 5), origin=(-67.5, -67.5, -67.5))
    mri, pet = head(matrix), head(matrix)
    truth = affine((1, 1, 1), (3, -4, 5), (6, -5, 4))
    pet.affine = torch.as_tensor(np.linalg.inv(truth) @ matrix)
    native = pet.affine.clone()
    transform = RegisterRigidd()
    result = transform({"mri": mri, "pet": pet})
    record = result["pet_registration"]
    assert record["performed"]
    assert record["accepted"]
    assert torch.equal(result["pet"].as_tensor(), pet.as_tensor())
    assert torch.equal(result["pet_before"].affine, native)
    np.testing.assert_allclose(result["pet"].affine.numpy(), np.array(record["matrix"]) @ native.numpy())
    assert np.abs(corners((28, 28, 28), result["pet"].affine) - corners((28, 28, 28), matrix)).max() < 0.2
    assert torch.equal(transform.inverse(result)["pet"].affine, native)
    json.dumps(record, allow_nan=False)


CONSTANT = MetaTensor(torch.ones(1, 9, 9, 9), affine=torch.eye(4))  # where registration is tried, it is refused


@pytest.mark.parametrize(
    ("option", "entries", "frames", "reason"),
    [
        (True, {}, ("", ""), "skipped: the configuration says aligned"),
        (True, {"aligned": False}, ("", ""), "skipped: the configuration says aligned"),
        (None, {"aligned": True}, ("1.2", "3.4"), "skipped: the case says aligned"),
        (None, {}, ("1.2", "1.2"), "skipped: the images share a frame of reference"),
    ],
)
def test_aligned_images_are_not_registered(option, entries, frames, reason):
    mri, pet = CONSTANT.clone(), CONSTANT.clone()
    mri.meta["frame_of_reference"], pet.meta["frame_of_reference"] = frames
    transform = RegisterRigidd(aligned=option)
    result = transform({"mri": mri, "pet": pet, **entries})
    assert result["pet_registration"] == {
        "performed": False,
        "accepted": True,
        "reasons": [reason],
        "matrix": np.eye(4).tolist(),
    }
    assert torch.equal(result["pet"].affine, pet.affine)
    assert torch.equal(transform.inverse(result)["pet"].affine, pet.affine)


@pytest.mark.parametrize(
    ("option", "entries", "frames"),
    [
        (None, {}, ("", "")),
        (None, {}, (None, None)),
        (None, {}, ("1.2", "3.4")),
        (None, {"aligned": False}, ("1.2", "1.2")),
        (None, {"aligned": None}, ("", "")),
        (False, {"aligned": True}, ("1.2", "1.2")),
    ],
)
def test_images_of_which_nobody_says_that_they_are_aligned_are_registered(option, entries, frames):
    mri, pet = CONSTANT.clone(), CONSTANT.clone()
    mri.meta["frame_of_reference"], pet.meta["frame_of_reference"] = frames
    with pytest.raises(ImageError, match="must not be constant"):
        RegisterRigidd(aligned=option)({"mri": mri, "pet": pet, **entries})


def test_options_of_the_registration_pass_through():
    matrix = affine((5, 5, 5), origin=(-67.5, -67.5, -67.5))
    with pytest.raises(RegistrationError, match="must be reliable, got one where two halves"):
        RegisterRigidd(on_failure="raise", max_inconsistency=0.0)(
            {"mri": head(matrix), "pet": head(matrix, (20, 28, 28))}
        )


def test_the_record_survives_a_loader():
    transforms = Compose([RegisterRigidd(aligned=True), ResampleToReferenced("pet")])
    loader = DataLoader(Dataset([{"mri": MRI, "pet": PET}], transforms), batch_size=1)
    (item,) = [item for batch in loader for item in decollate_batch(batch)]
    assert item["pet_registration"] == transforms({"mri": MRI, "pet": PET})["pet_registration"]
    native = transforms.inverse(item)["pet"]
    assert native.shape == PET.shape
    assert torch.equal(native.affine, PET.affine)


# --------------------------------------------------------------------------------------------------------------- errors
SINGULAR = MetaTensor(torch.rand(1, 5, 5, 5), affine=torch.diag(torch.tensor([1.0, 1, 0, 1])))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(1, 5, 5, 5), r"image must be a MetaTensor \[C, X, Y, Z\], got Tensor; load it with LoadImage"),
        (MetaTensor(torch.rand(5, 5, 5)), r"image must be a MetaTensor \[C, X, Y, Z\], got \(5, 5, 5\)"),
        (SINGULAR, "affine of the .*image must be finite and not singular; repair its header"),
        (MetaTensor(torch.rand(1, 5, 5, 5), affine=torch.full((4, 4), np.nan)), "must be finite and not singular"),
    ],
)
def test_what_is_no_volume_is_refused(image, message):
    with pytest.raises(GeometryError, match=message):
        ResampleToReference()(image, MRI)
    with pytest.raises(GeometryError, match=message):
        RegisterRigid()(image, MRI)


def test_a_reference_that_is_no_volume_is_refused():
    with pytest.raises(GeometryError, match="affine of the reference must be finite and not singular"):
        ResampleToReference()(PET, SINGULAR)


def test_one_channel_is_registered_only():
    with pytest.raises(RegistrationError, match="moving image must have one channel, got 2; choose one"):
        RegisterRigid()(volume((9, 9, 9), affine(), channels=2), MRI)


def test_options_that_make_no_sense_are_refused_at_once():
    with pytest.raises(GeometryError, match="mode must be one of linear, nearest, got 'cubic'"):
        ResampleToReference(mode="cubic")
    with pytest.raises(GeometryError, match="padding must be one of zeros, border, got 'wrap'"):
        ResampleToReferenced("pet", padding="wrap")
    with pytest.raises(GeometryError, match="reference must not be one of the keys, got 'mri'"):
        ResampleToReferenced(["mri", "pet"])
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_rotations'"):
        RegisterRigidd(max_rotations=5)


def test_missing_keys_are_allowed_where_asked():
    for transform in (RegisterRigidd, ResampleToReferenced):
        options = {} if transform is RegisterRigidd else {"keys": "pet"}
        assert set(transform(**options, allow_missing_keys=True)({"mri": MRI})) == {"mri"}
        with pytest.raises(KeyError):
            transform(**options)({"mri": MRI})
    assert set(RegisterRigidd(allow_missing_keys=True)({"pet": PET})) == {"pet"}
