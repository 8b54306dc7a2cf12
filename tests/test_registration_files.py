"""The files of a rigid registration, read by SimpleITK and nitransforms."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from rigid_pairs import MIRROR, RADIUS, SMALL, positions, uptake

from medfuse.errors import RegistrationError
from medfuse.registration import Grid, RigidRegistration


@pytest.fixture(scope="module")
def found() -> RigidRegistration:
    return SMALL.register()


def itk_image(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    lps = MIRROR @ affine
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def test_the_saved_transform_maps_moving_points_to_fixed_points(tmp_path, found):
    path = tmp_path / "new" / "pet_to_mri.tfm"
    found.save_transform(path)
    assert [file.name for file in path.parent.iterdir()] == ["pet_to_mri.tfm"]
    transform = sitk.ReadTransform(str(path))
    for point in ((0, 0, 0), (30, -40, 50)):
        mapped = transform.TransformPoint(tuple(float(v) for v in MIRROR[:3, :3] @ point))
        np.testing.assert_allclose(mapped, (MIRROR @ found.matrix @ [*point, 1])[:3], atol=1e-6)


def test_the_inverse_of_the_saved_transform_resamples(tmp_path, found):
    found.save_transform(tmp_path / "pet_to_mri.tfm")
    transform = sitk.ReadTransform(str(tmp_path / "pet_to_mri.tfm"))
    fixed, moving = itk_image(SMALL.fixed, SMALL.fixed_affine), itk_image(SMALL.moving, SMALL.moving_affine)
    where = Grid(SMALL.fixed.shape, SMALL.fixed_affine)
    points = positions(where)
    inside = np.linalg.norm(points[:3], axis=0) < RADIUS
    truth = uptake(points)[inside]
    errors = []
    for direction in (transform.GetInverse(), transform):
        resampled = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, direction)).transpose(2, 1, 0).ravel()[inside]
        errors.append(np.sqrt(np.mean((resampled - truth) ** 2)) / truth.std())
    assert errors[0] < 0.1
    assert errors[1] > 0.5


def test_a_transform_is_saved_under_its_suffix_only(tmp_path, found):
    with pytest.raises(RegistrationError, match=r"must end in \.tfm, got '\.txt'"):
        found.save_transform(tmp_path / "pet_to_mri.txt")
    with pytest.raises(RegistrationError, match=r"must end in \.txt, got '\.mat'"):
        found.save_affine(tmp_path / "pet_to_mri.mat")
    assert not list(tmp_path.iterdir())


def test_the_saved_affine_maps_fixed_points_to_moving_points(tmp_path, found):
    """Read by plain arithmetic: y = A x + t, both LPS, about the centre in FixedParameters, which is 0."""
    path = tmp_path / "new" / "from-pet_to-mri_mode-image_xfm.txt"
    found.save_affine(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    first, second, *lines = path.read_text().splitlines()
    assert (first, second) == ("#Insight Transform File V1.0", "#Transform 0")
    entries = dict(line.split(": ") for line in lines if line)
    assert entries["Transform"] == "AffineTransform_double_3_3"
    assert [float(v) for v in entries["FixedParameters"].split()] == [0, 0, 0]
    values = [float(v) for v in entries["Parameters"].split()]
    matrix, vector = np.reshape(values[:9], (3, 3)), np.array(values[9:])
    for point in np.array([(0, 0, 0), (30, -40, 50)]):
        moved = (found.matrix @ [*point, 1])[:3]  # where this point of the PET lies in the MRI's world
        np.testing.assert_allclose(matrix @ (MIRROR[:3, :3] @ moved) + vector, MIRROR[:3, :3] @ point, atol=1e-6)


def test_nitransforms_reads_the_saved_affine(tmp_path, found):
    """Where it is installed. Its points are RAS mm, of the fixed world to the moving one; it reads single precision."""
    linear = pytest.importorskip("nitransforms").linear
    found.save_affine(tmp_path / "a.txt")
    read = linear.load(tmp_path / "a.txt", fmt="itk")
    points = np.array([(0.0, 0, 0), (30, -40, 50), (-70, 60, 20)])
    moved = (found.matrix @ np.c_[points, np.ones(3)].T)[:3].T
    np.testing.assert_allclose(read.map(moved), points, atol=1e-4)


def test_the_saved_affine_resamples_as_it_is(tmp_path, found):
    found.save_transform(tmp_path / "a.tfm")
    found.save_affine(tmp_path / "a.txt")
    fixed, moving = itk_image(SMALL.fixed, SMALL.fixed_affine), itk_image(SMALL.moving, SMALL.moving_affine)
    first = sitk.Resample(moving, fixed, sitk.ReadTransform(str(tmp_path / "a.tfm")).GetInverse())
    second = sitk.Resample(moving, fixed, sitk.ReadTransform(str(tmp_path / "a.txt")))
    np.testing.assert_allclose(*map(sitk.GetArrayFromImage, (first, second)), atol=1e-6)
