"""Whether a rigid registration can be trusted: refused, warned of, or an error where nothing overlaps."""

from __future__ import annotations

import numpy as np
import pytest
from rigid_pairs import DEMO, SMALL, grid, load, positions, rigid
from scipy.ndimage import gaussian_filter

from medfuse.errors import GeometryError, RegistrationError
from medfuse.registration import Grid, register_rigid
from medfuse.registration.search import Found, Search


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


def test_a_doubtful_result_is_believed_with_a_warning_where_a_second_measure_agrees(monkeypatch):
    """Halves 3 mm apart: the correlation ratio decides."""
    apart = {None: 0.0, 0: 1.5, 1: -1.5}
    search = Search.optima

    def optima(self, shifts, half=None):
        best, *others = search(self, shifts)
        return [Found(rigid((0, 0, 0), (apart[half], 0, 0)) @ best.matrix, best.score), *others]

    monkeypatch.setattr(Search, "optima", optima)
    ratio = [rigid((0, 0, 0), (1.0, 0, 0)), rigid((0, 0, 0), (9.0, 0, 0))]
    monkeypatch.setattr(Search, "by_ratio", lambda _, matrix: ratio.pop(0) @ matrix)
    believed, refused = SMALL.register(), SMALL.register()
    assert believed.accepted
    assert believed.warnings == ("two halves of the data disagree by 3.0 mm",)
    assert not refused.accepted
    assert refused.warnings == ()
    assert "correlation ratio, places the image 9.0 mm away (limit 4 mm)" in refused.reasons[1]


def test_another_place_that_fits_as_well_is_a_warning():
    """Two equal balls in the MRI, one in the PET: it may belong to either."""
    where = grid((40, 20, 20), (4, 4, 4))
    x, y, z = positions(where)[:3]
    ball = [np.exp(-((x - c) ** 2 + 1.2 * y**2 + 1.5 * z**2) / 250).reshape(where.shape) for c in (-36, 36)]
    small = grid((16, 20, 20), (4, 4, 4))
    a, b, c = positions(small)[:3]
    one = np.exp(-(a**2 + 1.2 * b**2 + 1.5 * c**2) / 250).reshape(small.shape)
    result = register_rigid(sum(ball), where.affine, one, small.affine, max_inconsistency=1e3)
    said = result.warnings + result.reasons
    assert result.runner_up > 1 + 0.95 * (result.score - 1)
    assert any("another place fits nearly as well" in text for text in said)


def test_halves_start_apart_and_not_from_the_result():
    """Each half searches from all starts, tilted its own way: it neither sees the result nor the other's starts."""
    search = Search(SMALL.fixed, Grid(SMALL.fixed.shape, SMALL.fixed_affine), SMALL.moving,
                    Grid(SMALL.moving.shape, SMALL.moving_affine), seed=1)  # fmt: skip
    full, black, white = (np.stack(search._turns(tilt)) for tilt in (0.0, 8.0, -8.0))
    for one, other in ((full, black), (full, white), (black, white)):
        turned = np.einsum("nji,njk->nik", one[:, :3, :3], other[:, :3, :3])
        assert np.degrees(np.arccos((np.trace(turned, axis1=1, axis2=2) - 1) / 2)).min() > 7.9
    assert all((board.mean() > 0.3) and (board.mean() < 0.7) for board in search._black.values())


def test_volumes_smaller_than_a_block_have_halves_too(rng):
    """A volume of 9 mm lies in one block of 45 mm: the blocks shrink."""
    values = gaussian_filter(rng.standard_normal((9, 9, 9)), 1)
    result = register_rigid(values, np.eye(4), values, np.eye(4))
    assert np.isfinite(result.inconsistency)
    assert result.inconsistency < 1e5


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


def test_a_small_field_of_view_within_a_large_one_is_looked_at():
    """It holds fewer than 5 % of the points of the large one, but all of its own overlaps: it is refused as unsure."""
    fixed = np.pad(SMALL.fixed, 30)
    fixed_affine = SMALL.fixed_affine.copy()
    fixed_affine[:3, 3] -= fixed_affine[:3, :3] @ np.full(3, 30)
    moving_affine = SMALL.moving_affine.copy()
    moving_affine[:3, 3] += moving_affine[:3, :3] @ np.full(3, 9)
    small = SMALL._replace(fixed=fixed, fixed_affine=fixed_affine, moving=SMALL.moving[9:19, 9:19, 9:19])
    small = small._replace(moving_affine=moving_affine)
    assert Grid(small.moving.shape, moving_affine).volume < 0.01 * Grid(fixed.shape, fixed_affine).volume
    result = small.register()
    assert result.metric_before > 0
    assert result.accepted or any("two halves of the data disagree" in reason for reason in result.reasons)


def test_fields_of_view_that_cross_hardly_overlap_from_any_start():
    """Two rods across each other share 1 % of either: no start of this function would do better."""
    rng = np.random.default_rng(0)
    one, other = rng.random((4, 400, 4)), rng.random((400, 4, 4))
    with pytest.raises(GeometryError, match="no overlap from any start; align the images first"):
        register_rigid(one, np.eye(4), other, np.eye(4))


def test_no_overlap_and_no_trust_is_an_error():
    away = SMALL.moving_affine.copy()
    away[0, 3] += 500
    with pytest.raises(GeometryError, match=r"must overlap or be registered, got no overlap.*two halves"):
        SMALL._replace(moving_affine=away).register(max_inconsistency=1e-3)
