"""Phantoms of whole heads: sharp truths, lesions as they are stated, twins that share all else, scans as stated."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from medfuse.errors import BundleError, GeometryError
from medfuse.physics.models.volume import VolumeModel
from medfuse.physics.operators.scanner import ScannerSampling
from medfuse.training.brains import COLIN27, analytic, colin27, icbm152
from medfuse.training.phantoms import Lesion
from medfuse.training.scans import ScanSetting, random_setting, scan
from medfuse.training.volumes import ALL_LESIONS, Head, Tissue, draw_head

SHAPE, SPACING = (42, 50, 40), 4.0
PLAN = [(kind, radius) for radius in (10.0, 6.0) for kind in Lesion]
BRAIN = (Tissue.GREY, Tissue.WHITE, Tissue.CSF, Tissue.DEEP)


@cache
def brain():
    return analytic()


def drawn(seed=1, **options) -> Head:
    options = {"shape": SHAPE, "spacing": SPACING, "lesions": PLAN, **options}
    return draw_head(brain(), seed=seed, **options)


@pytest.fixture(scope="module")
def head() -> Head:
    return drawn()


def test_a_seed_is_a_head_and_another_seed_another(head):
    same, other = drawn().phantom(), drawn(seed=2).phantom()
    for name in ("mri", "pet", "shares", "marks", "fine_pet"):
        np.testing.assert_array_equal(getattr(head.phantom(), name), getattr(same, name))
    assert np.abs(other.pet - same.pet).mean() > 0.2


def test_the_truth_is_sharp_and_its_means_are_that_of_the_mri_grid(head):
    phantom = drawn(variation=0, texture=0, lesions=0).phantom()
    assert len(np.unique(phantom.fine_pet.round(4))) == len(Tissue)  # one level a tissue: no voxel between two
    blocks = phantom.fine_pet.reshape(*(m for n in SHAPE for m in (n, 2)))
    np.testing.assert_allclose(phantom.pet, blocks.mean((1, 3, 5)), atol=1e-5)
    assert phantom.shares.min() >= 0 and phantom.shares.sum(0).max() <= 1 + 1e-5
    mixed = ((phantom.shares > 0.05) & (phantom.shares < 0.95)).any(0)
    assert mixed[np.isin(phantom.labels, BRAIN)].mean() > 0.2


def test_a_bare_brain_is_the_same_brain_with_nothing_round_it(head):
    whole, bare = head.phantom(), drawn(bare=True).phantom()
    assert not np.isin(bare.labels, (Tissue.SKULL, Tissue.SCALP)).any()
    assert np.isin(whole.labels, (Tissue.SKULL, Tissue.SCALP)).mean() > 0.05
    deep = np.isin(whole.labels, (Tissue.WHITE, Tissue.DEEP)) & (whole.marks == 0)
    np.testing.assert_array_equal(bare.labels[deep], whole.labels[deep])
    assert bare.pet[bare.shares.sum(0) == 0].max() == 0


def test_lesions_lie_apart_in_the_brain_and_show_where_they_say(head):
    with_all, without = head.phantom(), head.phantom(without=ALL_LESIONS)
    assert [s.kind for s in head.lesions] == [kind for kind, _ in PLAN]
    for k, lesion in enumerate(head.lesions):
        inside = with_all.marks == k + 1
        volume = inside.sum() * SPACING**3
        assert volume == pytest.approx(4 / 3 * np.pi * lesion.radius**3, rel=0.25)
        uptake = (with_all.pet - without.pet)[inside].mean()
        shown = np.abs(with_all.mri - without.mri)[inside].mean()
        assert (np.abs(uptake) > 0.3) == (lesion.kind is not Lesion.MRI)
        assert (shown > 0.05) == (lesion.kind in (Lesion.BOTH, Lesion.MRI))
        if lesion.kind in (Lesion.PET_HOT, Lesion.PET_COLD):
            assert (uptake > 0) == (lesion.kind is Lesion.PET_HOT)
        for other in head.lesions[:k]:
            gap = np.linalg.norm(np.subtract(lesion.centre, other.centre)) - lesion.radius - other.radius
            assert gap > 8


def test_twins_differ_in_what_was_left_out_alone(head):
    with_all, twin = head.phantom(), head.phantom(without=[Lesion.MRI])
    np.testing.assert_array_equal(with_all.fine_pet, twin.fine_pet)
    kinds = np.array([0, *(s.kind for s in head.lesions)])
    near = ndimage.binary_dilation(kinds[with_all.marks] == Lesion.MRI, iterations=2)
    np.testing.assert_array_equal(with_all.mri[~near], twin.mri[~near])
    assert (with_all.mri != twin.mri)[near].any()


def test_texture_is_that_which_is_asked_and_does_not_show_in_the_mri(head):
    plain, textured = (head.phantom(without=ALL_LESIONS, texture=t) for t in (0, 0.15))
    inside = plain.fine_pet > 0
    assert np.log(textured.fine_pet[inside] / plain.fine_pet[inside]).std() == pytest.approx(0.15, rel=0.15)
    np.testing.assert_array_equal(plain.mri, textured.mri)


def test_grey_takes_up_three_to_five_times_as_much_as_white_and_contrasts_differ():
    plain = drawn(variation=0, texture=0, lesions=0, deformation=0)
    grey, white = (plain.uptake[plain.tissue == t].mean() for t in (Tissue.GREY, Tissue.WHITE))
    assert white == 1 and 3 <= grey <= 5
    t1, t2 = (drawn(lesions=0, contrast=c).phantom() for c in ("t1", "t2"))
    pure = t1.shares > 0.99
    levels = [[v.mri[pure[t - 1]].mean() for t in (Tissue.GREY, Tissue.WHITE, Tissue.CSF)] for v in (t1, t2)]
    assert levels[0][1] > levels[0][0] > levels[0][2] and levels[1][2] > levels[1][0] > levels[1][1]
    np.testing.assert_array_equal(t1.pet, t2.pet)


def test_a_scan_is_what_an_independent_simulation_finds(head):
    """Reference: the full covariance in Fourier space, float64, and sampling by a spline of order 5."""
    phantom = head.phantom()
    setting = ScanSetting((4, 4, 5), (6, 6, 7), (3, -4, 5), (1.5, -2.0, 0.7))
    taken = scan(phantom, setting, seed=0)
    step, turn = phantom.fine_grid.spacing[0], taken.true_transform[:3, :3]
    wide = np.pad(phantom.fine_pet.astype(float), 12)
    covariance = turn @ np.diag((np.array(setting.fwhm_mm) / 2.3548200450309493) ** 2) @ turn.T
    omega = np.meshgrid(*(2 * np.pi * np.fft.fftfreq(n, step) for n in wide.shape), indexing="ij", sparse=True)
    square = sum(covariance[i, j] * omega[i] * omega[j] for i in range(3) for j in range(3))
    blurred = np.fft.ifftn(np.fft.fftn(wide) * np.exp(-square / 2)).real
    index = np.indices(taken.data.shape).reshape(3, -1)
    affine = taken.true_transform @ np.array(taken.grid.affine)
    inverse = np.linalg.inv(np.array(phantom.fine_grid.affine))
    at = (inverse @ affine @ np.vstack([index, np.ones(index.shape[1])]))[:3] + 12
    reference = ndimage.map_coordinates(blurred, at, order=5).reshape(taken.data.shape)
    inside = ScannerSampling(phantom.fine_grid, taken.grid, setting.fwhm_mm, taken.true_transform).inside.numpy()
    assert np.sqrt(np.mean((taken.clean - reference)[inside] ** 2)) < 0.005  # the noise is 0.2 in grey matter
    assert np.abs(taken.clean - reference)[inside].max() < 0.05


def test_the_told_grid_does_not_explain_the_data_exactly(head):
    """No inverse crime: at the true image on the MRI's grid a misfit is left, of well below the noise."""
    phantom = head.phantom()
    taken = scan(phantom, ScanSetting(), seed=0)
    operator = ScannerSampling(phantom.grid, taken.grid, taken.fwhm_mm, taken.transform)
    seen = operator.forward(torch.from_numpy(phantom.pet)[None, None])[0, 0].numpy()
    misfit = np.sqrt(np.mean((seen - taken.clean)[operator.inside.numpy()] ** 2))
    assert 1e-4 < misfit < 0.05


@pytest.mark.parametrize("setting", [ScanSetting(), ScanSetting(floor=1.0), ScanSetting(noise_fwhm_mm=(4, 4, 5))])
def test_noise_is_as_it_is_stated(head, setting):
    phantom = head.phantom()
    first, second = (scan(phantom, setting, seed=seed) for seed in (0, 1))
    model = VolumeModel(
        ScannerSampling(phantom.grid, first.grid, first.fwhm_mm, first.transform),
        torch.from_numpy(first.data),
        first.noise,
        signal=torch.from_numpy(first.clean),
    )
    noise = torch.from_numpy(first.data - first.clean) * model.inside
    assert model.chi2_of(model.white(noise)) == pytest.approx(1, abs=0.04)
    np.testing.assert_array_equal(first.clean, second.clean)
    again = scan(phantom, setting, seed=0)
    np.testing.assert_array_equal(first.data, again.data)
    assert abs(np.corrcoef((first.data - first.clean).ravel(), (second.data - second.clean).ravel())[0, 1]) < 0.05


def test_what_is_told_can_be_wrong_while_the_data_stay(head):
    phantom, setting = head.phantom(), ScanSetting(turn_deg=(1, 2, 3))
    right = scan(phantom, setting, seed=0)
    wrong = scan(phantom, setting.told(misplaced_mm=(0, 2, 0), psf_error=0.1), seed=0)
    np.testing.assert_array_equal(right.data, wrong.data)
    np.testing.assert_allclose(wrong.transform[:3, 3] - right.transform[:3, 3], [0, 2, 0], atol=1e-12)
    assert wrong.fwhm_mm == pytest.approx((6.6, 6.6, 6.6))


def test_a_truncated_pet_covers_its_share(head):
    whole, part = (scan(head.phantom(), ScanSetting(fov=(1, 1, f)), seed=0) for f in (1, 0.5))
    assert part.data.shape[2] == pytest.approx(whole.data.shape[2] / 2, abs=1)


def test_random_settings_are_in_their_ranges_and_can_be_scanned(head):
    for seed in range(60):
        s = random_setting(seed)
        assert s == random_setting(seed)
        assert all(2 <= v <= 4.2 for v in s.voxel_mm) and all(4 <= f <= 8 for f in s.fwhm_mm)
        assert np.linalg.norm(s.misplaced_mm) <= 2 and abs(s.psf_error) <= 0.1
        told = [f * (1 + s.psf_error) for f in s.fwhm_mm]
        assert all(t >= 0.68 * v for t, v in zip(told, s.voxel_mm, strict=True))
        if seed < 4:
            assert np.isfinite(scan(head.phantom(), s, seed=seed).data).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"contrast": "flair"}, "one of t1, t2, pd"), ({"fine": 0}, "1 or more"), ({"spacing": 0.0}, "positive")],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(GeometryError, match=message):
        drawn(**options)


def test_missing_brains_are_named(tmp_path):
    with pytest.raises(BundleError, match="mricron-data"):
        colin27(tmp_path / "ch2bet.nii.gz")
    with pytest.raises(BundleError, match=r"t1\.nii\.gz"):
        icbm152(tmp_path)


@pytest.mark.full
def test_templates_have_the_tissues_of_an_adult(shared_data):
    found = [icbm152(shared_data / "volumes" / "mni152")]
    found += [colin27()] if Path(COLIN27).is_file() else []
    for one in found:
        most = one.tissues.argmax(0)[one.tissues.sum(0) > 0.5]
        grey, white, csf, deep = np.bincount(most, minlength=4) / 1000  # ml
        assert 600 < grey < 1200 and 450 < white < 900 and 80 < csf < 400 and 15 < deep < 60
        assert one.tissues.min() >= 0 and one.tissues.sum(0).max() <= 1 + 1e-5
