"""Rigid registration: against known transforms, and refused where it cannot be trusted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medfuse.errors import GeometryError, ImageError, RegistrationError
from medfuse.registration import Grid, RigidRegistration, mutual_overlap, overlap_fraction, register_rigid

DEMO = Path(__file__).resolve().parents[1] / "bundles" / "pet_mri_fusion" / "demo"
MIRROR = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS to LPS and back
RADIUS = 60.0  # mm, of the synthetic head


class Pair(NamedTuple):
    """Two volumes, their affines, and the truth: moving world to fixed world."""

    fixed: np.ndarray
    fixed_affine: np.ndarray
    moving: np.ndarray
    moving_affine: np.ndarray
    truth: np.ndarray

    def register(self, **options) -> RigidRegistration:
        return register_rigid(*self[:4], **options)

    def errors(self, result: RigidRegistration, points: np.ndarray) -> np.ndarray:
        """Return the target registration error at points **[4, N]** of the moving world, mm."""
        return np.linalg.norm(((result.matrix - self.truth) @ points)[:3], axis=0)

    def brain(self) -> np.ndarray:
        """Return where the anatomy of the fixed image lies in the moving world **[4, N]**."""
        index = np.argwhere(self.fixed > 0.1 * self.fixed.max())[::20]
        return np.linalg.solve(self.truth, self.fixed_affine @ np.c_[index, np.ones(len(index))].T)


def rigid(degrees: tuple[float, float, float], shift: tuple[float, float, float]) -> np.ndarray:
    euler = sitk.Euler3DTransform()
    euler.SetRotation(*np.deg2rad(degrees).tolist())
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.reshape(euler.GetMatrix(), (3, 3)), shift
    return matrix


def grid(shape, spacing, degrees=(0.0, 0.0, 0.0)) -> Grid:
    """Return a grid whose middle is the origin of its world."""
    affine = rigid(degrees, (0, 0, 0)) @ np.diag([*spacing, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def positions(where: Grid) -> np.ndarray:
    index = np.indices(where.shape).reshape(3, -1)
    return where.affine @ np.concatenate([index, np.ones((1, index.shape[1]))])


def anatomy(points: np.ndarray) -> np.ndarray:
    """Return the density of a head made of blobs, a formula that needs no interpolation, at points **[4, N]**."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((60, 3))
    radii = RADIUS * rng.uniform(0, 1, (60, 1)) ** (1 / 3)
    centres = directions / np.linalg.norm(directions, axis=1, keepdims=True) * radii
    blobs = zip(centres, rng.uniform(7, 16, 60), strict=True)
    return sum(np.exp(-0.5 * ((points[:3] - c[:, None]) ** 2).sum(0) / s**2) for c, s in blobs)


def uptake(points: np.ndarray) -> np.ndarray:
    return anatomy(points) ** 2


def synthetic(fixed: Grid, moving: Grid, truth: np.ndarray) -> Pair:
    """Return two images of one head, whose values are related, but not by a line."""
    density = anatomy(positions(fixed))
    mri = np.sin(2.5 * density) ** 2 + 0.3 * np.minimum(density, 1)
    pet = uptake(truth @ positions(moving))
    return Pair(mri.reshape(fixed.shape), fixed.affine, pet.reshape(moving.shape), moving.affine, truth)


MOVED = rigid((6, -4, 8), (8, -6, 5))
GRIDS = {
    "isotropic": (grid((36, 36, 36), (4, 4, 4)), grid((28, 28, 28), (5, 5, 5))),
    "left-handed": (grid((36, 36, 36), (-4, 4, 4)), grid((28, 28, 28), (5, -5, -5))),
    "oblique and anisotropic": (grid((52, 52, 30), (3, 3, 5), (10, -5, 8)), grid((36, 30, 36), (4, 5, 4), (0, 20, 0))),
}
SMALL = synthetic(*GRIDS["isotropic"], MOVED)


def load(folder: Path, mri: str, pet: str, truth: str | None = None) -> Pair:
    """Load a pair and its truth, a transform of SimpleITK from the world of the PET to that of the MRI."""
    volumes = [nib.load(folder / name) for name in (mri, pet)]
    matrix = np.eye(4)
    if truth:
        transform = sitk.Euler3DTransform(sitk.ReadTransform(str(folder / truth)))
        rotation, centre = np.reshape(transform.GetMatrix(), (3, 3)), np.array(transform.GetCenter())
        matrix[:3, :3], matrix[:3, 3] = rotation, transform.GetTranslation() + centre - rotation @ centre
    return Pair(*(part for v in volumes for part in (v.get_fdata(), v.affine)), MIRROR @ matrix @ MIRROR)


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(number)
    yield
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


@pytest.fixture(scope="module")
def found() -> RigidRegistration:
    return SMALL.register()


# ----------------------------------------------------------------------------------------------------- known transforms
@pytest.mark.parametrize("name", GRIDS)
def test_a_known_transform_is_found(name):
    pair = synthetic(*GRIDS[name], MOVED)
    result = pair.register()
    assert result.accepted
    assert result.reasons == ()
    assert pair.errors(result, pair.brain()).max() < 0.2
    assert result.inconsistency < 1
    assert result.metric_after > 1.5 * result.metric_before


def test_images_that_lie_well_stay():
    pair = synthetic(*GRIDS["isotropic"], np.eye(4))
    result = pair.register()
    assert result.accepted
    assert pair.errors(result, pair.brain()).max() < 0.2


def test_worlds_that_share_nothing_are_joined_by_their_centres():
    away = SMALL.moving_affine.copy()
    away[:3, 3] += (900, -700, 400)
    truth = SMALL.truth @ SMALL.moving_affine @ np.linalg.inv(away)
    pair = SMALL._replace(moving_affine=away, truth=truth)
    result = pair.register()
    assert result.accepted
    assert pair.errors(result, pair.brain()).max() < 0.5


def test_the_brain_phantom_is_registered():
    pair = load(DEMO / "brain_phantom", "mri.nii.gz", "pet.nii.gz", "truth_pet_to_mri.tfm")
    result = pair.register()
    assert result.accepted
    assert pair.errors(result, pair.brain()).max() < 0.5


@pytest.mark.parametrize("k", range(3))
def test_simulated_misalignments_are_registered(shared_data, k):
    pair = load(shared_data / "volumes" / "mni_sim", "t1_2mm.nii.gz", f"pet_moved{k}_4mm.nii.gz", f"moved{k}_to_t1.tfm")
    result = pair.register()
    assert result.accepted
    assert pair.errors(result, pair.brain()).max() < 0.5


# -------------------------------------------------------------------------------------------------------------- figures
def test_the_figures_describe_the_matrix(found):
    assert found.fixed_centre == pytest.approx((0, 0, 0), abs=1e-9)
    assert found.translation == pytest.approx(found.matrix[:3, 3])
    assert found.translation == pytest.approx((8, -6, 5), abs=0.2)
    angle = np.degrees(np.arccos((np.trace(MOVED[:3, :3]) - 1) / 2))
    assert np.linalg.norm(found.rotation) == pytest.approx(angle, abs=0.2)
    edge = 14 * 5.0
    corners = np.array([(x, y, z, 1) for x in (-edge, edge) for y in (-edge, edge) for z in (-edge, edge)]).T
    moves = np.linalg.norm((found.matrix @ corners - corners)[:3], axis=0)
    assert found.max_displacement == pytest.approx(moves.max())
    assert 0.8 < found.overlap < 1


def test_the_rotation_is_about_the_axes_of_ras():
    result = synthetic(*GRIDS["isotropic"], rigid((0, 0, 9), (0, 0, 0))).register()
    assert result.rotation == pytest.approx((0, 0, 9), abs=0.2)


def test_a_result_survives_json(found):
    again = RigidRegistration.from_dict({"performed": True, **json.loads(json.dumps(found.to_dict()))})
    for field in fields(RigidRegistration):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(found, field.name))
    assert isinstance(again.reasons, tuple)


def test_the_matrix_cannot_be_changed(found):
    with pytest.raises(ValueError, match="read-only"):
        found.matrix[0, 3] = 1


# -------------------------------------------------------------------------------------------------------- repeatability
def test_equal_calls_give_equal_results_and_leave_their_inputs_alone(found):
    kept = [np.copy(part) for part in SMALL]
    again = SMALL.register()
    for part, copy in zip(SMALL, kept, strict=True):
        np.testing.assert_array_equal(part, copy)
    np.testing.assert_array_equal(again.matrix, found.matrix)
    assert again.inconsistency == found.inconsistency
    assert again.metric_after == found.metric_after


def test_the_number_of_threads_changes_nothing(rng):
    coarse = synthetic(grid((18, 18, 18), (8, 8, 8)), grid((14, 14, 14), (10, 10, 10)), MOVED)
    noise = coarse._replace(moving=rng.standard_normal(coarse.moving.shape))  # magnifies every difference
    results = []
    for number in (1, 4):
        with threads(number):
            results.append(noise.register().to_dict())
    assert results[0] == results[1]
    assert results[0]["inconsistency"] > 10


def test_another_seed_finds_the_same_transform(found):
    other = SMALL.register(seed=2)
    assert not np.array_equal(other.matrix, found.matrix)
    assert SMALL.errors(other, SMALL.brain()).max() < 0.5


# ---------------------------------------------------------------------------------------------------------------- trust
def test_a_small_field_of_view_is_refused_and_not_moved():
    """Its authors aligned this real pair; mutual information leads it astray."""
    refused = load(DEMO / "sts_case", "mri.nii.gz", "pet.nii.gz").register()
    assert not refused.accepted
    assert refused.inconsistency > 4
    assert any("two halves of the data disagree" in reason for reason in refused.reasons)
    np.testing.assert_array_equal(refused.matrix, np.eye(4))
    assert refused.max_displacement == 0
    assert refused.metric_after == refused.metric_before


@pytest.mark.full
def test_small_fields_of_view_are_refused_or_stay_within_the_bound(shared_data):
    patients = sorted((shared_data / "volumes" / "sts").glob("STS_*"))
    assert patients
    for patient in patients:
        result = load(patient, "MR_T1_image.nii.gz", "PET_image.nii.gz").register()
        assert result.max_displacement <= (4 if result.accepted else 0), patient.name


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_rotation": 5.0}, r"the rotation is 11 deg \(limit 5 deg\)"),
        ({"max_translation": 3.0, "starts": ["identity"]}, r"the translation is 11 mm \(limit 3 mm\)"),
        ({"min_overlap": 1.0}, r"the images overlap by 9\d% only \(limit 100%\)"),
        ({"max_inconsistency": 1e-3}, r"two halves of the data disagree by 0\.\d mm \(limit 0\.001 mm\), .*"),
    ],
    ids=["rotation", "translation", "overlap", "inconsistency"],
)
def test_a_result_beyond_a_limit_is_refused_and_the_reason_given(options, reason):
    with pytest.raises(RegistrationError, match=f"must be reliable, got one where {reason}; align the images first"):
        SMALL.register(on_failure="raise", **options)


def test_unrelated_images_are_not_moved(rng):
    noise = SMALL._replace(moving=rng.standard_normal(SMALL.moving.shape))
    result = noise.register()
    assert not result.accepted
    np.testing.assert_array_equal(result.matrix, np.eye(4))


def test_no_overlap_from_any_start_is_an_error():
    away = SMALL.moving_affine.copy()
    away[0, 3] += 500
    with pytest.raises(GeometryError, match="no overlap from any start; add 'geometry' to starts"):
        SMALL._replace(moving_affine=away).register(starts=["identity"])


def test_no_overlap_and_no_trust_is_an_error():
    away = SMALL.moving_affine.copy()
    away[0, 3] += 500
    with pytest.raises(GeometryError, match=r"must overlap or be registered, got no overlap.*two halves"):
        SMALL._replace(moving_affine=away).register(max_inconsistency=1e-3)


# --------------------------------------------------------------------------------------------------------------- errors
def spoilt(value: float) -> np.ndarray:
    volume = SMALL.moving.copy()
    volume[3, 4, 5] = value
    return volume


SHEAR = np.eye(4)
SHEAR[0, 1] = 0.1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"moving": SMALL.moving[0]}, ImageError, r"moving volume must be 3-D, got shape \(28, 28\)"),
        ({"fixed": SMALL.fixed[None]}, ImageError, r"fixed volume must be 3-D, got shape \(1, 36, 36, 36\)"),
        ({"moving": spoilt(np.nan)}, ImageError, "moving volume must be finite"),
        ({"moving": spoilt(np.inf)}, ImageError, "moving volume must be finite"),
        ({"fixed": np.full((9, 9, 9), 7)}, ImageError, "fixed volume must not be constant, got 7 everywhere"),
        ({"moving_affine": np.diag([1.0, 1, 0, 1])}, GeometryError, "moving affine must be 4 x 4, finite and not sing"),
        ({"moving_affine": np.full((4, 4), np.nan)}, GeometryError, "moving affine must be 4 x 4, finite and not sing"),
        ({"fixed_affine": np.eye(3)}, GeometryError, "fixed affine must be 4 x 4, finite and not singular"),
        ({"fixed_affine": SHEAR}, GeometryError, r"fixed affine must be free of shear, got 0\.0995"),
    ],
)
def test_images_that_cannot_be_registered_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        SMALL._replace(**change).register()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_failure": "ignore"}, "on_failure must be 'identity' or 'raise', got 'ignore'"),
        ({"starts": ["head"]}, "start must be one of identity, geometry, mass, got 'head'"),
        ({"seed": 0}, "seed must be 1 or more, got 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(RegistrationError, match=message):
        SMALL.register(**options)


# ---------------------------------------------------------------------------------------------------------------- files
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
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------------------------------------- overlap
def test_overlap_is_counted_from_edge_to_edge():
    ten = Grid((10, 10, 10), np.eye(4))
    shifted = Grid((10, 10, 10), rigid((0, 0, 0), (4, 0, 0)))
    assert overlap_fraction(ten, ten) == 1
    assert overlap_fraction(ten, shifted) == pytest.approx(0.6)
    assert overlap_fraction(ten, shifted, rigid((0, 0, 0), (4, 0, 0))) == 1
    assert overlap_fraction(ten, Grid((10, 10, 10), rigid((0, 0, 0), (10.1, 0, 0)))) == 0
    flat = Grid((1, 1, 1), np.eye(4))
    assert overlap_fraction(flat, Grid((1, 1, 1), rigid((0, 0, 0), (0.5, 0, 0)))) == 1


def test_mutual_overlap_is_that_of_the_smaller_field_of_view():
    large, small = grid((20, 20, 20), (5, 5, 5)), grid((8, 8, 8), (1, 1, 1))
    aside = rigid((0, 0, 0), (50, 0, 0))
    assert overlap_fraction(large, small) < 0.01
    assert mutual_overlap(large, small) == mutual_overlap(small, large) == 1
    assert mutual_overlap(small, large, aside) == 0.5
    assert mutual_overlap(large, small, np.linalg.inv(aside)) == 0.5
