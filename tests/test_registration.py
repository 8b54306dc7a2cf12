"""Rigid registration: against known transforms, and refused where it cannot be trusted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
from results.registration import bodies, page, smooth_head, trial, verdict
from rigid_pairs import DEMO, DOCS, GRIDS, MOVED, SMALL, anatomy, grid, load, positions, rigid, synthetic

from medfuse.errors import GeometryError, ImageError, RegistrationError
from medfuse.registration import Grid, RigidRegistration, mutual_overlap, overlap_fraction
from medfuse.registration.match import Match, Volume
from medfuse.registration.similarity import MEASURES, correlation_ratio, normalised_information


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
    assert 1 <= result.runner_up < result.score < 2
    assert result.starts in (27, 54, 81)
    assert result.warnings == ()


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


@pytest.mark.parametrize(
    ("turn", "offset"), [((0, 0, 10), (0, 0, 0)), ((5, -4, 15), (20, -10, 8)), ((20, -20, 20), (50, -40, 45))]
)
def test_a_head_that_looks_the_same_from_all_sides_is_registered(turn, offset):
    """Its similarity is a long narrow ridge; gradient descent stopped on it 3 to 8 mm away, and both halves with it."""
    result = trial(smooth_head(), np.array(turn), np.array(offset))
    assert result["accepted"]
    assert result["error_mm"] < 1
    assert result["inconsistency"] < 2
    assert result["warnings"] == []


@pytest.mark.full
@pytest.mark.parametrize("turn", [(14, 0, 0), (0, 24, 0), (-20, 20, 20)])
def test_bodies_are_registered_from_far(shared_data, turn):
    for name, body in bodies(shared_data).items():
        assert verdict(trial(body, np.array(turn), np.array((40, -50, 45)))) == "right", name


def test_the_page_of_starts_says_what_was_measured():
    path = DOCS / "explanation" / "registration.json"
    results = json.loads(path.read_text())
    assert path.with_suffix(".md").read_text(encoding="utf-8") == page(results)
    verdicts = [verdict(found) for found in results]
    assert len(verdicts) >= 60
    assert verdicts.count("right") >= 0.9 * len(verdicts)
    assert "wrong" not in verdicts
    near = [v for v, f in zip(verdicts, results, strict=True) if f["turn_deg"] <= 15 and f["offset_mm"] <= 30]
    assert near
    assert "refused" not in near


def test_a_wrong_result_would_be_called_wrong():
    found = {"accepted": True, "error_mm": 0.9, "warnings": []}
    assert verdict(found) == "right"
    assert verdict(found | {"error_mm": 1.5}) == verdict(found | {"error_mm": 2.5, "warnings": ["doubt"]}) == "wrong"
    assert verdict(found | {"error_mm": 1.5, "warnings": ["doubt"]}) == "warned"
    assert verdict(found | {"accepted": False, "error_mm": 50}) == "refused"


# ----------------------------------------------------------------------------------------------------------- similarity
def test_measures_of_histograms_that_are_known():
    """Independent values share nothing; values that are one and the same share all. A mean that is V-shaped in f has no
    line in it, and the correlation ratio sees it all the same."""
    independent, same = np.full((4, 4), 1 / 16), np.eye(4) / 4
    assert normalised_information(independent)[0] == pytest.approx(1)
    assert normalised_information(same)[0] == pytest.approx(2)
    assert correlation_ratio(independent)[0] == pytest.approx(0)
    assert correlation_ratio(same)[0] == pytest.approx(1)
    bent = np.zeros((3, 3))
    bent[0, 2] = bent[1, 0] = bent[2, 2] = 1 / 3
    assert correlation_ratio(bent)[0] == pytest.approx(1)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_derivative_by_the_histogram_is_exact(measure, rng):
    joint = rng.random((5, 7))
    joint /= joint.sum()
    change = rng.standard_normal(joint.shape)
    change -= change.mean()
    value = MEASURES[measure]
    rise = (value(joint + 1e-6 * change)[0] - value(joint - 1e-6 * change)[0]) / 2e-6
    assert (value(joint)[1] * change).sum() == pytest.approx(rise, rel=1e-4)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_derivative_by_the_map_is_exact(measure, rng):
    """Points well inside the moving image, such that none leaves it, and a map that already turns and shifts."""
    where, still = grid((24, 24, 24), (6, 6, 6)), rng.uniform(-30, 30, (3, 4000))
    values = anatomy(positions(where)).reshape(where.shape)
    moving = Volume((values / values.max()).astype(np.float32), where.affine)
    density = anatomy(still)
    match = Match(still, density / density.max(), moving, bins=16)
    back, move = rigid((3, 5, -4), (2, -3, 4)), np.array([3.0, -2.0, 4.0, 0.2, -0.1, 0.15])
    slope = match._slope(back, move, measure)[1]
    for k, step in enumerate([1e-2] * 3 + [2e-4] * 3):
        ahead, behind = (match._slope(back, move + sign * step * np.eye(6)[k], measure)[0] for sign in (1, -1))
        assert slope[k] == pytest.approx((ahead - behind) / (2 * step), rel=0.03, abs=0.02 * np.abs(slope).max()), k


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
    for field in fields(RigidRegistration):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(found, field.name))


def test_the_number_of_threads_changes_nothing():
    """Noise magnifies every difference; the libraries read the number of threads when they start."""
    code = (
        "import json, sys, numpy as np; from medfuse.registration import register_rigid;"
        "rng = np.random.default_rng(0); volumes = [rng.standard_normal((12, 12, 12)) for _ in range(2)];"
        "a = np.diag([9.0, 9, 9, 1]); result = register_rigid(volumes[0], a, volumes[1], a);"
        "sys.stdout.write(json.dumps(result.to_dict()))"
    )
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **dict.fromkeys(names, number)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for number in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert not json.loads(outputs[0])["accepted"]


def test_another_seed_finds_the_same_transform(found):
    other = SMALL.register(seed=2)
    assert not np.array_equal(other.matrix, found.matrix)
    assert SMALL.errors(other, SMALL.brain()).max() < 0.5


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
