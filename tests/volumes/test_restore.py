"""Volumes restored from the scanner's own grid: small phantoms, simulated without the operator under test."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medfuse.errors import DegradationError, GeometryError, ImageError
from medfuse.physics import Grid, ScannerNoise, ScannerSampling, VolumeModel
from medfuse.volumes import by_rule, coarse, proposals, restore_volume
from medfuse.volumes.classes import classes
from medfuse.volumes.coarse import Coarse
from medfuse.volumes.proposals import guidance, guided, mr_free
from medfuse.volumes.rim import Rim
from medfuse.volumes.slices import of_blocks

FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))
VOXEL, SHAPE = 2.0, (56, 60, 54)
PSF = (6.0, 6.0, 6.0)
NOISE = ScannerNoise(0.12)


@dataclass
class Case:
    """A folded brain with a hot lesion that the PET alone shows, its MRI, and its PET on another grid."""

    truth: np.ndarray
    mri: np.ndarray
    lesion: np.ndarray
    image: Grid
    pet: np.ndarray
    grid: Grid

    def restored(self, **changes):
        values = {
            "pet": torch.from_numpy(self.pet).float(),
            "pet_grid": self.grid,
            "mri": torch.from_numpy(self.mri).float(),
            "mri_grid": self.image,
            "transform": None,
            "psf_fwhm_mm": PSF,
            "noise": NOISE,
        }
        options = {k: changes.pop(k) for k in ("refine", "guide", "estimator", "known") if k in changes}
        return restore_volume(*{**values, **changes}.values(), **options)

    def rmse(self, x):
        brain = self.truth > 0
        return float(np.sqrt(((np.asarray(x) - self.truth)[brain] ** 2).mean()))


def positions(grid):
    affine = np.array(grid.affine)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def made(seed=0, noise=NOISE, lesion=True):
    image = Grid.of_spacing(SHAPE, (VOXEL,) * 3)
    at = positions(image) - np.array(image.centre)
    radius = np.sqrt((at**2 / np.array([44, 48, 42]) ** 2).sum(-1))
    folds = 0.07 * np.sin(at[..., 0] / 3.5) * np.sin(at[..., 1] / 4.0) * np.sin(at[..., 2] / 4.5 + 1)
    brain = radius < 0.8
    white = brain & (radius + 2.0 * folds < 0.58)
    truth = np.where(white, 1.0, np.where(brain, 4.0, 0.0))
    spot = ((at - np.array([6.0, 4.0, 0.0])) ** 2).sum(-1) < 8.0**2
    if lesion:
        truth[spot] = 7.0
    rng = np.random.default_rng(seed)
    mri = np.where(white, 0.85, np.where(brain, 0.6, 0.0)) * 900.0
    mri = np.abs(mri + 18.0 * rng.normal(size=SHAPE))
    spacing = (3.5, 3.5, 3.0)
    turn = Rotation.from_euler("xyz", (3, -2, 4), degrees=True).as_matrix()
    shape = tuple(math.floor(n * VOXEL / s) for n, s in zip(SHAPE, spacing, strict=True))
    affine = np.eye(4)
    affine[:3, :3] = turn * np.array(spacing)
    affine[:3, 3] = np.array(image.centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2) + np.array([0.6, -0.4, 0.8])
    grid = Grid(shape, affine.tolist())
    blurred = ndimage.gaussian_filter(truth, [w / FWHM / VOXEL for w in PSF], truncate=6, mode="constant")
    index = positions(grid) / VOXEL
    clean = ndimage.map_coordinates(blurred, np.moveaxis(index, -1, 0), order=3).clip(0)
    pet = noise.sample(torch.from_numpy(clean).float(), spacing, torch.Generator().manual_seed(seed)).numpy()
    return Case(truth, mri, spot, image, pet, grid)


@pytest.fixture(scope="module")
def case():
    return made()


@pytest.fixture(scope="module")
def result(case):
    return case.restored()


@pytest.mark.parametrize("guide", [False, True], ids=["by the data alone", "guided"])
def test_where_the_mri_ends_within_the_body_all_of_it_is_restored(case, guide):
    """Without what lies beyond, the last two slices were left out and those before were 43 and 51 % too high."""
    planes = 28
    cut = replace(
        case,
        truth=case.truth[..., :planes],
        mri=case.mri[..., :planes],
        image=Grid((*SHAPE[:2], planes), case.image.affine),
    )
    found = cut.restored(guide=guide, refine=False)
    assert found.guided == guide
    assert found.restored.shape == found.gate.shape == found.measured.shape == found.residual.shape == cut.truth.shape
    for k in range(18, planes):
        brain = cut.truth[..., k] > 0
        assert found.measured[..., k].numpy()[brain].all()
        assert found.restored[..., k].numpy()[brain].mean() == pytest.approx(cut.truth[..., k][brain].mean(), rel=0.05)


def test_a_hot_spot_beyond_the_end_of_the_mri_takes_no_say_from_it(case):
    """As a bladder beside a thigh: what is beyond is as little explained by the MRI wherever it lies."""
    planes = 28
    at = positions(case.image) - np.array(case.image.centre)
    hot = 60.0 * (((at - np.array([0.0, 0.0, 21.0])) ** 2).sum(-1) < 10.0**2)
    blurred = ndimage.gaussian_filter(hot, [w / FWHM / VOXEL for w in PSF], truncate=6, mode="constant")
    more = ndimage.map_coordinates(blurred, np.moveaxis(positions(case.grid) / VOXEL, -1, 0), order=1)
    truth, mri = case.truth[..., :planes], case.mri[..., :planes]
    cut = replace(case, truth=truth, mri=mri, image=Grid((*SHAPE[:2], planes), case.image.affine), pet=case.pet + more)
    found = cut.restored()
    assert found.guided, found.findings
    assert math.isfinite(found.shares["gate"])
    assert found.corrected_chi2 == pytest.approx(1, abs=0.15)
    brain = truth > 0
    assert found.restored.numpy()[brain].mean() == pytest.approx(truth[brain].mean(), rel=0.05)


def test_the_image_goes_on_where_the_pet_shows_activity_beyond_it(case):
    def of(planes, pet):
        image = Grid((*SHAPE[:2], planes), case.image.affine)
        y = torch.from_numpy(pet).float()
        return image, Rim.of(ScannerSampling(image, case.grid, PSF), y, float(y.max()))

    _, none = of(SHAPE[2], case.pet)
    assert not none
    _, empty = of(28, np.zeros_like(case.pet))
    assert not empty
    image, rim = of(28, case.pet)
    assert (rim.low, rim.high) == ((0, 0, 0), (0, 0, 6))  # 12 mm
    wide = rim.grid(image)
    assert wide.shape == (*SHAPE[:2], 34)
    assert wide.position((1, 2, 3)) == pytest.approx(image.position((1, 2, 3)))
    maps = torch.rand(2, *image.shape)
    around = rim.around(maps)
    assert torch.equal(rim.within(around), maps)
    assert torch.equal(around[..., -1], maps[..., -1])
    assert torch.equal(rim.within(rim.beyond(image)), torch.zeros(image.shape, dtype=torch.bool))
    assert int(rim.beyond(image).sum()) == 6 * SHAPE[0] * SHAPE[1]
    before = Rim((2, 0, 0), (0, 0, 1))
    assert before.grid(image).position((2, 0, 0)) == pytest.approx(image.position((0, 0, 0)))
    assert torch.equal(before.within(before.around(maps)), maps)


def test_beats_the_mr_free_estimate_and_keeps_a_lesion_of_the_pet_alone(case, result):
    free = case.restored(guide=False)
    assert case.rmse(result.restored) < 0.7 * case.rmse(free.restored)
    twin = made(lesion=False)
    contrast = (
        np.asarray(result.restored)[case.lesion].mean() - np.asarray(twin.restored().restored)[case.lesion].mean()
    )
    assert contrast > 0.85 * (case.truth - twin.truth)[case.lesion].mean()
    assert result.guided
    assert not free.guided


def test_the_total_and_the_regions_are_kept(case, result):
    x = result.restored.numpy()
    assert x.sum() == pytest.approx(case.truth.sum(), rel=0.01)
    grey, white = case.truth == 4.0, case.truth == 1.0
    assert x[grey].mean() == pytest.approx(4.0, rel=0.04)
    assert x[white].mean() == pytest.approx(1.0, rel=0.12)


def test_chi_square_corrected_for_its_degrees_of_freedom_is_one(result):
    assert 0.95 < result.corrected_chi2 < 1.05
    assert 0 < result.df < 0.5
    assert result.chi2 < 1


def test_no_value_is_negative_and_what_was_not_measured_is_zero(result):
    assert float(result.restored.min()) == 0
    assert bool((result.restored[~result.measured] == 0).all())
    assert result.shares["unmeasured"] == pytest.approx(1 - float(result.measured.float().mean()))


def test_the_unit_of_the_pet_is_the_unit_of_the_result(case, result):
    other = case.restored(pet=torch.from_numpy(case.pet * 2500.0).float(), noise=ScannerNoise(NOISE.sigma * 2500.0))
    assert torch.allclose(other.restored, 2500.0 * result.restored, rtol=1e-2, atol=30.0)
    assert other.chi2 == pytest.approx(result.chi2, rel=1e-2)


def test_poisson_like_noise_scales_with_the_root_of_the_unit():
    noise = ScannerNoise(0.06, "poisson", floor=0.02)
    assert noise.scaled(4.0).std(torch.tensor(0.25)) == pytest.approx(float(noise.std(torch.tensor(1.0))) / 4)
    case = made(noise=noise)
    assert 0.93 < case.restored(noise=ScannerNoise(0.06, "poisson")).corrected_chi2 < 1.07


def test_coloured_noise_agrees_where_it_is_stated():
    noise = ScannerNoise(0.12, fwhm_mm=(5.0, 5.0, 4.0))
    assert 0.9 < made(noise=noise).restored(noise=noise).corrected_chi2 < 1.1


def test_chi_square_of_noise_as_wide_as_the_psf_is_one_as_well():
    """Such noise, that of patients, follows the image: of all waves a part is taken, and less is left than 1 - tr H."""
    noise = ScannerNoise(0.1, "poisson", (6.5, 7.5, 4.5), growth=0.8, floor=0.01)
    found = made(noise=noise).restored(noise=noise, guide=False)
    assert 0.92 < found.corrected_chi2 < 1.08


def test_a_shifted_registration_is_put_right(case, result):
    """Guidance from the wrong place is what undoes every guided method."""
    shifted = np.eye(4)
    shifted[:3, 3] = 1.5, -1.0, 1.2
    found = case.restored(transform=shifted.tolist())
    assert found.alignment.moved_mm == pytest.approx(np.linalg.norm(shifted[:3, 3]), abs=0.3)
    assert case.rmse(found.restored) < 1.05 * case.rmse(result.restored)
    assert any("registration was moved" in said for said in found.findings)


def test_a_turned_registration_is_put_right(case, result):
    centre = np.array(case.image.centre)
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("xyz", (1.5, -1.0, 2.0), degrees=True).as_matrix()
    turned[:3, 3] = centre - turned[:3, :3] @ centre
    found = case.restored(transform=turned.tolist())
    angle = Rotation.from_matrix(found.alignment.transform[:3, :3].numpy()).magnitude()
    assert math.degrees(angle) < 0.4
    assert case.rmse(found.restored) < 1.05 * case.rmse(result.restored)


def test_a_psf_that_is_stated_wrong_is_told(case, result):
    assert result.alignment.psf_share == pytest.approx(1.0, abs=0.05)
    assert not any("PSF" in said for said in result.findings)
    least = result.alignment._replace(psf_share=0.94, psf_std=0.01)
    assert least.psf_doubted
    assert not least._replace(psf_share=1.15).psf_doubted  # so an MRI's sharp shares of tissue make it seem
    assert least._replace(psf_share=1.25).psf_doubted
    wide = case.restored(psf_fwhm_mm=[1.2 * w for w in PSF])
    assert 0.75 < wide.alignment.psf_share < 0.93
    assert any("speaks for a PSF" in said for said in wide.findings)
    for low, said in ((0.75, False), (0.98, True)):  # it was measured, and this is the lower end of its interval
        found = case.restored(psf_fwhm_mm=[1.2 * w for w in PSF], known=(low, 1.1))
        assert any("speaks for a PSF" in text for text in found.findings) == said


def test_an_mri_that_explains_nothing_does_not_guide(case):
    """Another structure altogether: the restoration is that of the data alone, and says so."""
    generator = np.random.default_rng(1)
    blocks = ndimage.zoom(generator.choice([0.2, 0.6, 0.9], size=(8, 8, 8)), [n / 8 for n in SHAPE], order=0)
    found = case.restored(mri=torch.from_numpy(blocks * 900.0).float(), refine=False)
    free = case.restored(guide=False)
    assert case.rmse(found.restored) < 1.05 * case.rmse(free.restored)
    assert not found.guided
    assert any("did not guide" in said for said in found.findings)


def test_a_field_of_view_that_is_cut_is_masked_and_counted(case, result):
    """An MRI that ends within the head: what the PET sees far beyond it has no say, and is told."""
    cut = Grid((*SHAPE[:2], 36), case.image.affine)
    found = case.restored(mri=torch.from_numpy(case.mri[..., :36]).float(), mri_grid=cut)
    assert found.shares["outside"] > result.shares["outside"] + 0.1
    assert any("too far out of the MRI's field of view" in said for said in found.notes)
    inner = np.s_[..., :30]
    grey = case.truth[inner] == 4.0
    assert found.restored.numpy()[inner][grey].mean() == pytest.approx(4.0, rel=0.06)


def test_a_pet_that_ends_within_the_head_leaves_the_rest_unmeasured(case):
    part = Grid((*case.grid.shape[:2], 22), case.grid.affine)
    found = case.restored(pet=torch.from_numpy(case.pet[..., :22].copy()).float(), pet_grid=part)
    assert found.shares["unmeasured"] > 0.25
    assert bool((found.restored[..., -10:] == 0).all())


def test_any_estimator_takes_the_place_of_the_rule(case):
    """The seam for a network: proposals in, a stack of estimates out, corrected by the data in the same way."""
    seen = []

    def halves(given):
        seen.append(given)
        return 0.5 * (given.guided + given.mr_free)

    found = case.restored(estimator=halves, refine=False)
    one = seen[0]
    assert one.guided.shape == one.mr_free.shape == one.strong.shape == one.alike.shape == (2, *SHAPE)
    assert one.gate.shape == one.mri.shape == SHAPE
    assert one.evidence.shape == one.strong_evidence.shape == one.ys.shape[1:]
    assert 0.93 < found.corrected_chi2 < 1.07
    assert not torch.equal(found.restored, case.restored(refine=False, estimator=by_rule).restored)


def test_more_voxels_than_there_is_room_for_are_restored_in_blocks(case, monkeypatch):
    """Memory stays bounded; totals, shapes and most of the gain stay, and the report is told."""
    shapes = []

    def noted(given):
        shapes.append(given.mri.shape)
        return by_rule(given)

    whole = case.restored(refine=False)
    monkeypatch.setattr(coarse, "_MOST", math.prod(SHAPE) // 4)
    monkeypatch.setattr(coarse, "_PER_PSF", 3.0)  # voxels of 2 mm are coarse already
    found = case.restored(estimator=noted, refine=False)
    assert shapes == [(28, 30, 54)]
    assert found.restored.shape == found.gate.shape == found.measured.shape == found.residual.shape == SHAPE
    assert found.draws.shape == (1, *SHAPE)
    assert float(found.restored.sum()) == pytest.approx(case.truth.sum(), rel=0.03)
    given = ScannerSampling(case.image, case.grid, PSF).lift(torch.from_numpy(case.pet).float()[None, None])[0, 0]
    assert case.rmse(found.restored) < 0.8 * case.rmse(given)
    assert "the PET was restored in blocks of 4.00 x 4.00 x 2.00 mm, interpolated to the MRI's voxels" in found.notes
    assert not any("in blocks" in note for note in whole.notes)


@pytest.mark.parametrize(("spacing", "psf", "blocks"), [
    ((0.42, 0.5, 3.3), 6.0, (2, 2, 1)), ((0.6, 1.0, 0.7), 6.0, (1, 1, 1)), ((0.2,) * 3, 6.0, (4,) * 3),
    ((0.1,) * 3, (1.2, 1.2, 1.5), (3,) * 3),  # an animal's
])  # fmt: skip
def test_voxels_that_no_pet_tells_apart_are_put_together(spacing, psf, blocks):
    assert coarse.blocks_of(Grid.of_spacing((9, 9, 9), spacing), psf) == blocks


def test_blocks_stay_below_half_of_the_psf_whatever_memory_that_takes(monkeypatch):
    monkeypatch.setattr(coarse, "_MOST", 1)
    assert coarse.blocks_of(Grid.of_spacing((90, 90, 90), (1.0, 1.0, 1.0)), 4.5) == (2, 2, 2)


@pytest.mark.parametrize(("thick", "edges", "found"), [
    ((0, 0, 0.8), (0.84, 0.84, 0.8), (0, 0, 0)), ((0, 0, 3.3), (0.84, 0.84, 3.3), (0, 0, 3.3)),
    ((0, 0, 0.5), (0.9, 0.9, 1.0), (0, 0, 0)), ((0, 0, 5.0), (0.9, 0.9, 2.5), (0, 0, 5.0)),
])  # fmt: skip
def test_slices_are_thick_or_not_beside_the_blocks(thick, edges, found):
    assert of_blocks(thick, edges) == found


def test_the_mr_free_proposal_is_stopped_by_the_discrepancy(case):
    operator = ScannerSampling(case.image, case.grid, PSF)
    y = torch.from_numpy(case.pet).float()
    loud = VolumeModel(operator, y, ScannerNoise(0.4))
    quiet = VolumeModel(operator, y, NOISE)
    few, many = (mr_free(m, torch.stack([y, y + m.probe()]), least=0, most=15) for m in (loud, quiet))
    assert few.iterations < many.iterations
    assert few.chi2 <= 1
    assert float(few.x.min()) >= 0


def test_guided_regression_finds_the_uptake_of_each_class_without_noise():
    case = made(noise=ScannerNoise(1e-6), lesion=False)
    operator = ScannerSampling(case.image, case.grid, PSF)
    model = VolumeModel(operator, torch.from_numpy(case.pet).float(), NOISE)
    features = classes(torch.from_numpy(case.mri).float())
    assert torch.allclose(features.sum(0), torch.ones(SHAPE), atol=1e-5)
    x = guided(model, guidance(model, features), model.y[None])[0].numpy()
    for value in (1.0, 4.0):
        core = ndimage.binary_erosion(case.truth == value, iterations=1)
        assert x[core].mean() == pytest.approx(value, rel=0.05)


def test_layers_that_are_one_through_the_psf_do_not_take_up_too_much_and_too_little_in_turn(monkeypatch):
    """Two classes that lie voxel by voxel beside each other, of the same uptake: the data cannot tell them apart."""
    case = made(lesion=False)
    model = VolumeModel(
        ScannerSampling(case.image, case.grid, PSF), torch.from_numpy(case.pet).float(), ScannerNoise(0.2)
    )
    brain = torch.from_numpy(case.truth > 0.5).float()
    even = (sum(torch.meshgrid(*(torch.arange(n) for n in SHAPE), indexing="ij")) % 2).float()
    none = torch.zeros(SHAPE)
    features = torch.stack([1 - brain, none, brain * even, brain * (1 - even), none])

    def apart() -> float:
        x = guided(model, guidance(model, features), model.y[None])[0]
        return abs(float(x[features[2] > 0].mean() - x[features[3] > 0].mean()))

    tied = apart()
    monkeypatch.setattr(proposals, "_STEP", 0.0)
    assert tied < 0.1
    assert apart() > 3 * tied


def test_blocks_of_a_third_of_the_psf_are_enough_for_the_regression():
    """An MRI of 1 mm: what is found on blocks of 2 mm is what is found on its voxels."""
    case = made()
    fine = Grid(tuple(2 * n for n in SHAPE), [[1, 0, 0, -0.5], [0, 1, 0, -0.5], [0, 0, 1, -0.5], [0, 0, 0, 1]])
    mri = torch.from_numpy(case.mri).float()
    for axis in range(3):
        mri = mri.repeat_interleave(2, axis)
    model = VolumeModel(ScannerSampling(fine, case.grid, PSF), torch.from_numpy(case.pet).float(), NOISE)
    features, blocks = classes(mri), Coarse.of(model.operator)
    assert blocks.blocks == (2, 2, 2)
    assert torch.equal(blocks.pooled(features)[:, 5, 6, 7], features[:, 10, 12, 14])
    by_blocks = guided(model, guidance(model, features, blocks), model.y[None])[0]
    whole = Coarse(model.operator, (1, 1, 1), fine.shape)
    by_voxels = guided(model, guidance(model, features, whole), model.y[None])[0]
    assert float((by_blocks - by_voxels).square().mean().sqrt()) < 0.01 * float(by_voxels.square().mean().sqrt())


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"mri": torch.zeros(SHAPE)}, ImageError, "MRI must have signal"),
        ({"mri": torch.zeros(3, 3, 3)}, GeometryError, "shape of its grid"),
        ({"pet": torch.full((32, 34, 36), math.nan)}, ImageError, "must be finite"),
        ({"pet": torch.zeros(32, 34, 36)}, ImageError, "must have activity"),
        ({"psf_fwhm_mm": 1.0}, DegradationError, "at least"),
        ({"psf_fwhm_mm": 25.0}, DegradationError, "at most 20 mm"),
        ({"transform": np.diag([1.2, 1, 1, 1]).tolist()}, GeometryError, "must be rigid"),
        (
            {"transform": [[1, 0, 0, 900], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]},
            GeometryError,
            "none of its voxels",
        ),
    ],
)
def test_what_is_refused(case, changes, error, words):
    assert case.pet.shape == (32, 34, 36)
    with pytest.raises(error, match=words):
        case.restored(**changes)
