from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from medfuse.errors import GeometryError, ImageError
from medfuse.transforms import CheckVolumesd

check = CheckVolumesd(keys=["mri", "pet"])


def volume(*shape: int, affine=None, **entries: float) -> MetaTensor:
    data = torch.rand(shape or (1, 6, 5, 4), generator=torch.Generator().manual_seed(0))
    for value in entries.values():
        data[0, 1, 2, 3] = value
    return MetaTensor(data, affine=torch.eye(4) if affine is None else torch.as_tensor(affine))


def affine(*spacing: float, shift: float = 0.0) -> np.ndarray:
    matrix = np.diag([*spacing, 1.0])
    matrix[0, 3] = shift
    return matrix


def test_sound_volumes_pass_unchanged():
    data = {"mri": volume(), "pet": volume(1, 3, 3, 2, affine=affine(-2.0, 2.0, 3.0, shift=4.0)), "case": "a"}
    kept = {key: data[key].clone() for key in ("mri", "pet")}
    result = check(data)
    assert result == data
    assert all(result[key] is data[key] and torch.equal(kept[key], data[key]) for key in kept)


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.float64])
def test_every_type_of_number_passes(dtype):
    image = MetaTensor((100 * torch.rand(1, 4, 4, 4)).to(dtype), affine=torch.eye(4))
    check({"mri": image, "pet": image})


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(1, 6, 5, 4), "pet must be a MetaTensor, got Tensor; load it with LoadImage"),
        (
            volume(2, 6, 5, 4),
            r"pet must be one 3-D volume .* got shape \(2, 6, 5, 4\): a 4-D series or several channels",
        ),
        (volume(1, 6, 5, 4, 9), r"pet must be one 3-D volume .* got shape \(1, 6, 5, 4, 9\): a 4-D series"),
        (volume(6, 5, 4), r"pet must be a 3-D volume \[1, X, Y, Z\] .* got shape \(6, 5, 4\)"),
        (volume(1, 6, 5, 1), r"of at least 2 voxels an axis, got shape \(1, 6, 5, 1\)"),
        (volume(nan=np.nan), r"pet must be finite, got 0\.83% NaN or infinity; repair the image"),
        (volume(inf=np.inf), r"pet must be finite, got 0\.83% NaN or infinity; repair the image"),
        (volume() * np.nan, "pet must be finite, got no finite voxel; repair the image"),
        (volume() * 0 + 3, "pet must not be constant, got 3 everywhere; check the file"),
    ],
)
def test_images_that_nothing_can_be_done_with_are_refused(image, message):
    with pytest.raises(ImageError, match=message):
        check({"mri": volume(), "pet": image})


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (affine(1.0, np.nan, 1.0), "affine of pet must be finite, got NaN or infinity; repair the header"),
        (affine(1.0, 1.0, np.inf), "affine of pet must be finite, got NaN or infinity; repair the header"),
        (affine(1.0, 0.0, 1.0), "affine of pet must be invertible, got a singular one; repair the header"),
        (
            [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]],
            "affine of pet must be invertible, got a singular",
        ),
        (affine(1.0, 1.0, 0.01), r"voxels of pet must be between 0\.05 and 50 mm, got 1 x 1 x 0\.01 mm"),
        (affine(80.0, 1.0, 1.0), r"voxels of pet must be between 0\.05 and 50 mm, got 80 x 1 x 1 mm"),
        (affine(1.0, 1.0, 1.0, shift=40.0), "of mri and pet must overlap, got none, and centres 40 mm apart"),
    ],
)
def test_geometry_that_makes_no_sense_is_refused(matrix, message):
    with pytest.raises(GeometryError, match=message):
        check({"mri": volume(), "pet": volume(affine=matrix)})


def test_the_limits_of_a_voxel_are_an_option():
    with pytest.raises(GeometryError, match=r"between 0\.5 and 2 mm, got 3 x 1 x 1 mm"):
        CheckVolumesd("mri", spacing=(0.5, 2.0))({"mri": volume(affine=affine(3.0, 1.0, 1.0))})


def test_overlap_is_not_asked_for_before_a_registration():
    data = {"mri": volume(), "pet": volume(affine=affine(1.0, 1.0, 1.0, shift=40.0))}
    CheckVolumesd(["mri", "pet"], overlap=False)(data)


def test_a_small_volume_between_the_voxels_of_a_large_one_overlaps_it():
    large = volume(1, 20, 20, 20, affine=affine(40.0, 40.0, 40.0))
    small = volume(affine=affine(0.5, 0.5, 0.5, shift=90.0))
    check({"mri": large, "pet": small})
    check({"mri": small, "pet": large})


def test_missing_keys_are_allowed_where_asked():
    assert set(CheckVolumesd(["mri", "pet"], allow_missing_keys=True)({"mri": volume()})) == {"mri"}
    with pytest.raises(KeyError):
        check({"mri": volume()})


def test_its_errors_can_be_found_behind_those_of_compose():
    with pytest.raises(RuntimeError) as caught:
        Compose([check])({"mri": volume(), "pet": volume() * 0})
    assert isinstance(caught.value.__cause__, ImageError)
