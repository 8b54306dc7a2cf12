import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from medfuse.errors import BundleError, GeometryError
from medfuse.training.phantoms import (
    Atlas,
    Lesion,
    insert_lesions,
    load_atlas,
    make_phantom,
    random_phantoms,
    random_slice,
)

DEMO = Path(__file__).parents[2] / "bundles" / "pet_mri_fusion" / "demo"


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    """White ball in a grey shell in a thin csf shell, 64 px."""
    r = np.linalg.norm(np.indices((64, 64, 64)) - 31.5, axis=0)
    gm, wm = ((r < 26) & (r >= 18)).astype(np.float32), (r < 18).astype(np.float32)
    return Atlas(0.9 * wm + 0.6 * gm + 0.2 * ((r >= 26) & (r < 28)).astype(np.float32), gm, wm)


def middle(atlas: Atlas) -> tuple[np.ndarray, ...]:
    return atlas.t1[32], atlas.gm[32], atlas.wm[32]


@pytest.mark.parametrize("ndim", [2, 3])
def test_phantom_is_reproducible_and_matched(atlas, ndim):
    maps = middle(atlas) if ndim == 2 else (atlas.t1, atlas.gm, atlas.wm)
    first, again, other = (make_phantom(*maps, seed=seed) for seed in (1, 1, 2))
    for name, dtype in (("mri", np.float32), ("pet", np.float32), ("labels", np.uint8)):
        image = getattr(first, name)
        assert image.shape == maps[0].shape and image.dtype == dtype and np.isfinite(image).all() and image.min() >= 0
        np.testing.assert_array_equal(image, getattr(again, name))
    assert not np.array_equal(first.pet, other.pet)


def test_phantom_leaves_its_inputs_alone(atlas):
    before = [m.copy() for m in middle(atlas)]
    make_phantom(*middle(atlas), seed=0)
    for old, new in zip(before, middle(atlas), strict=True):
        np.testing.assert_array_equal(old, new)


def test_grey_matter_takes_up_two_to_six_times_as_much_as_white(atlas):
    ratios = []
    for seed in range(20):
        pet = make_phantom(*middle(atlas), seed=seed, lesions=0, deformation=0).pet
        grey, white = (ndimage.binary_erosion(m > 0.5, iterations=3) for m in middle(atlas)[1:])
        ratios.append(pet[grey].mean() / pet[white].mean())
    assert min(ratios) > 2 and max(ratios) < 6 and np.std(ratios) > 0.3
    assert 3 < np.mean(ratios) < 4.5


def test_contrasts_order_white_and_grey_as_they_should(atlas):
    white, grey = middle(atlas)[2] > 0.5, middle(atlas)[1] > 0.5
    for contrast, brighter in (("t1", True), ("t2", False), ("pd", False)):
        differences = []
        for seed in range(8):
            mri = make_phantom(*middle(atlas), seed=seed, lesions=0, deformation=0, contrast=contrast).mri
            differences.append(mri[white].mean() - mri[grey].mean())
        assert (np.mean(differences) > 0) == brighter


def test_lesions_show_only_where_their_label_says(atlas):
    seen = set()
    for seed in range(30):
        with_, without = (make_phantom(*middle(atlas), seed=seed, lesions=n, deformation=0) for n in (4, 0))
        mri, pet = np.abs(with_.mri - without.mri), with_.pet - without.pet
        assert not without.labels.any()
        far = ndimage.binary_dilation(with_.labels > 0, iterations=10)
        assert mri[~far].max(initial=0) < 1e-3 and np.abs(pet[~far]).max(initial=0) < 0.05
        numbers, count = ndimage.label(with_.labels)
        for k in range(1, count + 1):
            core = numbers == k
            kind = Lesion(int(with_.labels[core][0]))
            if core.sum() < 30:
                continue
            seen.add(kind)
            assert (mri[core].mean() > 0.05) == (kind in (Lesion.BOTH, Lesion.MRI)), kind
            if kind is Lesion.PET_HOT:
                assert pet[core].mean() > 0.1
            if kind is Lesion.PET_COLD:
                assert pet[core].mean() < -0.1
    assert seen == set(Lesion)


def test_an_inserted_lesion_changes_one_image_where_it_shows_something():
    signs = set()
    for seed in range(40):
        mri, pet = np.zeros((2, 64, 64), np.float32)
        mri[:, 20:], pet[:, 20:] = 0.6, 0.4
        changed = [mri.copy(), pet.copy()]
        insert_lesions(*changed, 1, np.random.default_rng(seed))
        changes = [new - old for new, old in zip(changed, (mri, pet), strict=True)]
        index = int(np.abs(changes[1]).max() > 0)
        assert not changes[1 - index].any() and min(image.min() for image in changed) >= 0
        assert max(np.ptp(places) for places in np.nonzero(changes[index])) <= 30  # 10 px and the soft edge, each way
        signs.add((index, float(np.sign(changes[index].flat[np.abs(changes[index]).argmax()]))))
    assert signs == {(0, -1.0), (0, 1.0), (1, -1.0), (1, 1.0)}


def test_nothing_is_inserted_into_an_empty_image():
    empty = np.zeros((2, 32, 32), np.float32)
    insert_lesions(*empty, 3, np.random.default_rng(0))
    assert not empty.any()


def test_slices_are_deformed_cuts_of_each_plane(atlas):
    for plane in ("sagittal", "coronal", "axial"):
        t1, gm, wm = random_slice(atlas, plane, seed=3, size=80)
        assert t1.shape == gm.shape == wm.shape == (80, 80) and t1.min() >= 0 and t1.max() <= 1
        assert gm.sum() > 100 and not np.array_equal(t1, random_slice(atlas, plane, seed=4, size=80)[0])
    assert len(random_phantoms(atlas, 4, seed=0, size=80)) == 4


def test_a_slice_that_misses_the_brain_is_drawn_again():
    r = np.linalg.norm(np.indices((64, 64, 64)) - np.array([31.5, 31.5, 20])[:, None, None, None], axis=0)
    ball = (r < 8).astype(np.float32)  # near one end: many a slice misses it
    phantoms = random_phantoms(Atlas(ball, ball, 0 * ball), 24, seed=0, size=64)
    assert all(phantom.pet.max() > 0 for phantom in phantoms)
    with pytest.raises(GeometryError, match="got none in 100 draws"):
        random_phantoms(Atlas(ball, 0 * ball, 0 * ball), 1, seed=0, size=64)


def test_phantom_k_depends_on_seed_and_k_only(atlas):
    few, more = random_phantoms(atlas, 2, seed=5, size=80), random_phantoms(atlas, 3, seed=5, size=80)
    np.testing.assert_array_equal(few[1].pet, more[1].pet)


def test_rows_of_a_coronal_slice_run_downwards():
    t1 = np.zeros((64, 64, 64), np.float32)
    t1[8:56, 8:56, 8:56] = 0.2
    t1[8:56, 8:56, 40:56] = 1.0
    cut = random_slice(Atlas(t1, t1, t1), "coronal", seed=0, size=64)[0]
    assert cut[:32].mean() > 2 * cut[32:].mean()


def test_bad_maps_are_refused(atlas):
    t1, gm, wm = middle(atlas)
    with pytest.raises(GeometryError, match="one shape"):
        make_phantom(t1, gm[:10], wm, seed=0)
    with pytest.raises(GeometryError, match="2-D or 3-D"):
        make_phantom(t1[0], gm[0], wm[0], seed=0)
    with pytest.raises(GeometryError, match="brain tissue"):
        make_phantom(t1, 0 * gm, 0 * wm, seed=0)
    with pytest.raises(GeometryError, match="contrast"):
        make_phantom(t1, gm, wm, seed=0, contrast="flair")
    with pytest.raises(GeometryError, match="plane"):
        random_slice(atlas, "oblique", seed=0)


def test_atlas_is_loaded_in_canonical_order_and_checked(tmp_path):
    volume = np.zeros((4, 5, 6), np.uint8)
    volume[0] = 255
    for name in ("t1", "gm", "wm"):
        with pytest.raises(BundleError, match=name):
            load_atlas(tmp_path)
        nib.save(nib.Nifti1Image(volume, np.diag([-1, 1, 1, 1])), tmp_path / f"{name}.nii.gz")
    assert load_atlas(tmp_path).t1[-1].min() == 1
    nib.save(nib.Nifti1Image(volume[1:], np.eye(4)), tmp_path / "wm.nii.gz")
    with pytest.raises(GeometryError, match="one grid"):
        load_atlas(tmp_path)


def test_demo_folder_is_small_and_holds_its_cases():
    for case, aligned, unit in (
        ("sts_case", True, "SUV"),
        ("sts_noisy", True, "SUV"),
        ("brain_phantom", False, "Bq/ml"),
    ):
        files = list((DEMO / case).iterdir())
        assert sum(f.stat().st_size for f in files) < 800_000
        assert {"mri.nii.gz", "pet.nii.gz", "case.json"} <= {f.name for f in files}
        assert json.loads((DEMO / case / "case.json").read_text()) == {"aligned": aligned, "pet_unit": unit}
        for name in ("mri", "pet"):
            image = nib.load(DEMO / case / f"{name}.nii.gz")
            assert not bytes(image.header["descrip"]).strip(b"\0") and not image.header.extensions
    readme = (DEMO / "README.md").read_text(encoding="utf-8")
    assert "Louis Collins" in readme and "Vallières" in readme and "10.7937/K9/TCIA.2015.7GO2GSKS" in readme


def test_demo_truth_brings_the_hot_lesion_to_where_the_readme_says():
    folder = DEMO / "brain_phantom"
    truth = sitk.ReadTransform(str(folder / "truth_pet_to_mri.tfm"))
    moved = np.array(truth.TransformPoint((0.0, 18.0, 22.0))) - (0, 18, 22)
    assert np.linalg.norm(moved) == pytest.approx(17, abs=1e-6)

    pet = nib.load(folder / "pet.nii.gz")
    smooth = ndimage.gaussian_filter(pet.get_fdata(), 0.7)
    hottest = np.unravel_index(smooth.argmax(), smooth.shape)
    around = tuple(slice(i - 3, i + 4) for i in hottest)
    excess = np.maximum(smooth[around] - 0.7 * smooth.max(), 0)
    index = np.array(ndimage.center_of_mass(excess)) + hottest - 3
    scanner = (pet.affine @ (*index, 1))[:3] * (-1, -1, 1)  # RAS to LPS, in which SimpleITK works
    expected = np.array([28, -22, 22])
    assert np.linalg.norm(np.array(truth.TransformPoint(scanner.tolist())) - expected) < 2
    assert np.linalg.norm(scanner - expected) > 10
