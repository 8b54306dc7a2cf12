import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from medfuse.bundles import bundle_dir
from medfuse.errors import BundleError, ImageError
from medfuse.training.datasets import (
    KIND_WEIGHTS,
    STS_HELD_OUT,
    RandomPatches,
    SlicePair,
    SlicePairs,
    image_pairs,
    slice_pairs,
)

ROWS = [
    ("pet", "one", "001", "A", "train"),
    ("pet", "colour_only", "002", "B", "train"),
    ("spect", "one", "003", "C", "train"),
    ("spect", "one", "004", "D", "dev"),
    ("ct", "one", "005", "D", "dev"),
    ("ct", "one", "006", "E", "train"),
]


def write_table(folder: Path, rows) -> None:
    lines = ["modality\tset\tstem\tcase\tsubject\tplane\tsplit"]
    lines += [f"{kind}\t{part}\t{stem}\t0\t{subject}\taxial\t{split}" for kind, part, stem, subject, split in rows]
    (folder / "splits.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def data(tmp_path):
    """A data folder: six Harvard slices, two sarcoma patients, a template."""
    rng = np.random.default_rng(0)
    harvard = tmp_path / "harvard"
    for kind, part, stem, _, _ in ROWS:
        folders = ["mri", kind] if part == "colour_only" or kind == "ct" else ["mri", kind, f"{kind}_index"]
        for name in folders:
            folder = harvard / f"{kind}_mri" / part / name
            folder.mkdir(parents=True, exist_ok=True)
            colour = name == kind and kind != "ct"
            pixels = rng.integers(0, 256, (120, 140, 3) if colour else (120, 140), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{stem}.png")
    write_table(harvard, ROWS)

    # A bright ball at one place of the world, on grids that differ in spacing, origin and direction.
    for patient in ("STS_001", "STS_002"):
        folder = tmp_path / "volumes" / "sts" / patient
        folder.mkdir(parents=True)
        for name, spacing, shape in (("MR_T1", (-1, -1, 3), (60, 50, 20)), ("PET", (-4, 4, 3), (20, 18, 26))):
            affine = np.diag([*spacing, 1.0])
            affine[:3, 3] = [-s * (n - 1) / 2 + 5 for s, n in zip(spacing, shape, strict=True)]
            world = np.tensordot(affine[:3, :3], np.indices(shape), 1) + affine[:3, 3, None, None, None]
            distance = np.linalg.norm(world - np.array([13, 1, 8])[:, None, None, None], axis=0)
            values = 100 * np.exp(-((distance / 8) ** 2) / 2) + 10 * (name == "MR_T1")
            nib.save(nib.Nifti1Image(values.astype(np.float32), affine), folder / f"{name}_image.nii.gz")

    folder = tmp_path / "volumes" / "mni152"
    folder.mkdir(parents=True)
    r = np.linalg.norm(np.indices((48, 48, 48)) - 23.5, axis=0)
    for name, inside in (("t1", r < 20), ("gm", (r < 20) & (r > 13)), ("wm", r <= 13)):
        nib.save(nib.Nifti1Image((255 * inside).astype(np.uint8), np.eye(4)), folder / f"{name}.nii.gz")
    return tmp_path


def pairs_of(*kinds: str, side: int = 100) -> SlicePairs:
    rng = np.random.default_rng(1)
    images = [rng.integers(30, 256, (side, side), dtype=np.uint8) for _ in kinds]
    return SlicePairs(
        [SlicePair(im, im, f"n{k}", f"s{k}", kind) for k, (im, kind) in enumerate(zip(images, kinds, strict=True))]
    )


PLAIN = {"gain": (1.0, 1.0), "gamma": (1.0, 1.0)}


def test_no_subject_is_in_both_splits(data):
    kinds = ("pet", "spect", "ct", "sts")
    train, dev = (slice_pairs(data, split=split, kinds=kinds) for split in ("train", "dev"))
    assert train.subjects == {"A", "C", "E", "STS_001"}
    assert dev.subjects == {"D", "STS_002"}


def test_table_with_a_subject_in_both_splits_is_refused(data):
    write_table(data / "harvard", [*ROWS, ("ct", "one", "006", "D", "train")])
    with pytest.raises(BundleError, match="one split"):
        slice_pairs(data, kinds=["spect"])


def test_values_are_the_uptake_index_over_255_and_never_the_colours(data):
    pairs = slice_pairs(data, kinds=["pet"])
    assert [pair.name for pair in pairs.pairs] == ["pet_one_001"]  # the set that has colours only is left out
    item = pairs[0]
    for key, folder in (("source1", "mri"), ("source2", "pet_index")):
        expected = np.asarray(Image.open(data / "harvard" / "pet_mri" / "one" / folder / "001.png"))
        assert item[key].shape == (1, 120, 140) and item[key].dtype == torch.float32
        np.testing.assert_allclose(item[key][0].numpy(), expected / 255, rtol=1e-6)
    assert torch.equal(item["image"], torch.cat([item["source1"], item["source2"]]))
    assert (item["subject"], item["kind"]) == ("A", "pet")


def test_dev_holds_whole_harvard_slices_by_default(data):
    assert {pair.kind for pair in slice_pairs(data, split="dev").pairs} == {"spect", "ct"}


def test_sts_pet_lies_on_the_mri_in_every_plane(data):
    pairs = slice_pairs(data, kinds=["sts"]).pairs
    assert {pair.name.split("_")[2][0] for pair in pairs} == {"x", "y", "z"}
    checked = 0
    for pair in pairs:
        mri, pet = (image.astype(np.float64) for image in (pair.source1, pair.source2))
        assert min(mri.shape) >= 96 and min(mri.min(), pet.min()) >= 0 and max(mri.max(), pet.max()) <= 1
        mri = np.maximum(mri - 0.3, 0)
        pet = np.maximum(pet - 0.3, 0)
        if min(mri.sum(), pet.sum()) > 20:
            checked += 1
            for axis in (0, 1):
                grid = np.indices(mri.shape)[axis]
                assert abs((grid * mri).sum() / mri.sum() - (grid * pet).sum() / pet.sum()) < 0.6
    assert checked > 10


def test_phantoms_are_of_train_only_and_follow_the_seed(data):
    first, again, other = (slice_pairs(data, kinds=["phantom"], phantoms=3, seed=seed) for seed in (0, 0, 1))
    assert len(first) == 3
    assert torch.equal(first[2]["image"], again[2]["image"]) and not torch.equal(first[2]["image"], other[2]["image"])
    assert first[0]["image"].amax() == 1 and first[0]["image"].isfinite().all()
    with pytest.raises(BundleError, match="at least one"):
        slice_pairs(data, split="dev", kinds=["phantom"])


def test_bad_folders_splits_and_kinds_are_refused(data, tmp_path):
    with pytest.raises(BundleError, match="split must be"):
        slice_pairs(data, split="test")
    with pytest.raises(BundleError, match="kinds must be"):
        slice_pairs(data, kinds=["mammography"])
    for kind in ("pet", "sts", "phantom"):
        with pytest.raises(BundleError, match="must hold"):
            slice_pairs(tmp_path / "nowhere", kinds=[kind])
    (data / "harvard" / "ct_mri" / "one" / "ct" / "006.png").unlink()
    with pytest.raises(BundleError, match=r"ct/006\.png"):
        slice_pairs(data, kinds=["ct"])


def test_pair_of_two_sizes_is_refused(data):
    Image.fromarray(np.full((50, 50), 200, np.uint8)).save(data / "harvard" / "ct_mri" / "one" / "ct" / "006.png")
    with pytest.raises(ImageError, match="one size"):
        slice_pairs(data, kinds=["ct"])


def test_patch_depends_on_seed_and_index_only():
    pairs = pairs_of("pet", "ct", "sts")
    patches = RandomPatches(pairs, size=64, length=50, seed=7)
    backwards = [RandomPatches(pairs, size=64, length=90, seed=7)[k]["image"] for k in reversed(range(50))][::-1]
    assert all(torch.equal(patches[k]["image"], backwards[k]) for k in range(50))
    assert not torch.equal(patches[0]["image"], RandomPatches(pairs, size=64, seed=8)[0]["image"])
    assert len({patches[k]["image"].numpy().tobytes() for k in range(50)}) == 50
    with pytest.raises(IndexError):
        patches[50]


@pytest.mark.parametrize("side", [80, 100, 180])
def test_patches_have_the_asked_size_and_keep_the_sources_together(side):
    for item in DataLoader(RandomPatches(pairs_of("pet", side=side), size=128, length=8, **PLAIN), batch_size=4):
        assert item["image"].shape == (4, 2, 128, 128) and item["image"].dtype == torch.float32
        assert torch.equal(item["image"][:, 0], item["image"][:, 1])
        assert (item["image"] > 0).flatten(1).sum(1).eq(2 * min(side, 128) ** 2).all()


def test_intensity_changes_stay_in_range_without_clipping():
    for k in range(20):
        image = RandomPatches(pairs_of("pet"), size=96, seed=k)[0]["image"]
        assert image.min() >= 0 and image.max() <= 1
        assert (image == image.amax()).float().mean() < 0.02  # a clipped patch would hold a plateau at 1


def test_lesions_are_inserted_as_often_as_asked_and_stay_in_range():
    pairs = pairs_of("pet", side=128)
    for share, low, high in ((0.0, 0, 0), (0.3, 40, 80), (1.0, 198, 200)):
        patches = RandomPatches(pairs, size=64, length=200, lesions=share, **PLAIN)
        images = [patches[k]["image"] for k in range(200)]
        assert low <= sum(not torch.equal(*image) for image in images) <= high
        assert all(image.min() >= 0 and image.max() <= 1 for image in images)


def test_patches_come_in_eight_orientations():
    ramp = (np.arange(100)[:, None] * 2 + np.zeros(100)).astype(np.uint8) + np.arange(100, dtype=np.uint8)[None] // 2
    pairs = SlicePairs([SlicePair(ramp, ramp, "ramp", "s", "pet")])
    patches = RandomPatches(pairs, size=96, length=100, **PLAIN)
    corners = [patches[k]["image"][0][[0, 0, -1, -1], [0, -1, 0, -1]].argsort().tolist() for k in range(100)]
    assert len({tuple(order) for order in corners}) == 8


def test_kinds_are_drawn_by_their_weights():
    pairs = pairs_of("pet", "ct", "ct", "ct", "sts")
    level = {"pet": 60, "ct": 120, "sts": 240}
    images = [(p.source1 * 0 + level[p.kind], p.source1, p.name, p.subject, p.kind) for p in pairs.pairs]
    flat = SlicePairs([SlicePair(*fields) for fields in images])
    patches = RandomPatches(flat, size=32, length=1000, weights={"pet": 0.6, "ct": 0.3, "sts": 0.1}, **PLAIN)
    drawn = np.array([round(255 * patches[k]["image"][0, 0, 0].item()) for k in range(1000)])
    for kind, share in (("pet", 0.6), ("ct", 0.3), ("sts", 0.1)):
        assert (drawn == level[kind]).mean() == pytest.approx(share, abs=0.05)
    assert sum(KIND_WEIGHTS.values()) == pytest.approx(1)


def test_nearly_empty_patches_are_rare():
    image = np.zeros((256, 256), np.uint8)
    image[:64, :64] = 200
    patches = RandomPatches(SlicePairs([SlicePair(image, image, "n", "s", "pet")]), size=64, length=200)
    empty = np.mean([patches[k]["image"].mean().item() < 0.05 for k in range(200)])
    assert 0 < empty < 0.6  # 94 % of the crops are


def test_bad_patch_settings_are_refused():
    pairs = pairs_of("pet")
    with pytest.raises(ImageError, match="at least 1"):
        RandomPatches(pairs, size=0)
    with pytest.raises(BundleError, match="weights"):
        RandomPatches(pairs, weights={"ct": 1.0})
    with pytest.raises(BundleError, match="at least one"):
        SlicePairs([])


def digest(image: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def test_real_train_and_dev_share_neither_subjects_nor_images(shared_data):
    kinds = ("pet", "spect", "ct")
    train, dev = (slice_pairs(shared_data, split=split, kinds=kinds) for split in ("train", "dev"))
    assert not train.subjects & dev.subjects and len(dev) == 83
    assert all(pair.source1.shape == (256, 256) for pair in dev.pairs)
    for name, folder in (("source1", "mri"), ("source2", "fun")):
        seen, held_out = ({digest(getattr(pair, name)) for pair in part.pairs} for part in (train, dev))
        bench = (shared_data.parent / "bench" / "dev" / "clean" / folder).glob("*.png")
        bench = {digest(np.asarray(Image.open(path))) for path in bench}
        assert bench & held_out and not seen & (held_out | bench)


def test_real_patients_held_out_are_not_in_train(shared_data):
    dev = slice_pairs(shared_data, split="dev", kinds=["sts"])
    assert dev.subjects == STS_HELD_OUT


def test_the_model_card_counts_slices_and_people_as_the_splits_do(shared_data):
    """A person who is in two of the sets, as one head is in SPECT and CT, is one person."""
    card = (bundle_dir("pet_mri_fusion") / "docs" / "README.md").read_text(encoding="utf-8")
    parts = {
        split: {kind: slice_pairs(shared_data, split=split, kinds=[kind]) for kind in kinds}
        for split, kinds in (("train", ("pet", "spect", "ct")), ("dev", ("spect", "ct")))
    }
    for kind, part in parts["train"].items():
        assert f"| brain {kind.upper()}-MRI | {len(part)} | {len(part.subjects)} |" in card
    train, dev = (len(set().union(*(part.subjects for part in kinds.values()))) for kinds in parts.values())
    assert f"| {train} for training (one of them is in the SPECT and in the CT), {dev} for validation |" in card
    spect, ct = (len(parts["dev"][kind]) for kind in ("spect", "ct"))
    assert f"Validation: {spect} SPECT-MRI and {ct} CT-MRI slices" in card


@pytest.fixture
def photographs(tmp_path):
    """A data folder of visible and infrared images: colour and grey for training, one more for validation."""
    rng = np.random.default_rng(2)
    rows = ["set\tstem\tir\tvis\tsplit"]
    for part, stem, split in (("roadscene", "a", "train"), ("msrs", "b", "train"), ("tno", "c", "dev")):
        for name in ("ir", "vis"):
            folder = tmp_path / "irvis" / part / name
            folder.mkdir(parents=True)
            pixels = rng.integers(0, 256, (120, 300, 3), dtype=np.uint8)
            if name == "ir" or part == "msrs":
                pixels = pixels[..., 0]
            Image.fromarray(pixels).save(folder / f"{stem}.png")
        rows.append("\t".join((part, stem, f"{part}/ir/{stem}.png", f"{part}/vis/{stem}.png", split)))
    (tmp_path / "irvis" / "splits.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return tmp_path


def test_visible_luma_comes_first_infrared_second_and_chroma_as_a_pair_of_its_own(photographs):
    pairs = image_pairs(photographs)
    assert [(p.name, p.kind) for p in pairs.pairs] == [
        ("roadscene_a", "roadscene"),
        ("roadscene_a_chroma", "chroma"),
        ("msrs_b", "msrs"),
    ]
    rgb, infrared = (
        np.asarray(Image.open(photographs / "irvis" / "roadscene" / name / "a.png"), np.float64) / 255
        for name in ("vis", "ir")
    )
    luma = rgb @ (0.299, 0.587, 0.114)
    blue, red = (rgb[..., 2] - luma) / 1.772, (rgb[..., 0] - luma) / 1.402  # ITU-R BT.601-7, 2.5.2
    for item, expected in zip((pairs[0], pairs[1]), ((luma, infrared), (0.5 + blue, 0.5 + red)), strict=True):
        np.testing.assert_allclose(item["image"].numpy(), expected, atol=1e-3)


def test_dev_images_are_cropped_to_their_middle(photographs):
    (whole,), (middle,) = (image_pairs(photographs, split="dev", side=side) for side in (None, 100))
    assert whole["image"].shape == (2, 120, 300)
    assert torch.equal(middle["image"], whole["image"][:, 10:110, 100:200])


def test_photographs_are_shrunk_but_chroma_keeps_its_scale():
    checks = (255 * (np.indices((200, 200)).sum(0) % 2)).astype(np.uint8)
    grey = SlicePairs([SlicePair(checks, checks, "n", "s", "roadscene")])
    image = RandomPatches(grey, size=96, weights={"roadscene": 1}, shrink=(2, 2), **PLAIN)[0]["image"]
    assert image.shape == (2, 96, 96)
    torch.testing.assert_close(image, torch.full_like(image, 0.5), atol=0.02, rtol=0)  # antialiased
    chroma = (0.5 + 0.1 * np.sign(np.sin(1 + np.indices((100, 100)).sum(0)))).astype(np.float16)
    pairs = SlicePairs([SlicePair(chroma, chroma, "n", "s", "chroma")])
    patches = RandomPatches(pairs, size=96, weights={"chroma": 1}, length=20)
    assert {v for k in range(20) for v in patches[k]["image"].unique().tolist()} == {*map(float, np.unique(chroma))}
    with pytest.raises(ImageError, match="shrink"):
        RandomPatches(grey, weights={"roadscene": 1}, shrink=(0.5, 2))


def test_bad_folders_of_photographs_are_refused(photographs, tmp_path):
    with pytest.raises(BundleError, match="split must be"):
        image_pairs(photographs, split="test")
    with pytest.raises(BundleError, match="must hold irvis"):
        image_pairs(tmp_path / "nowhere")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(photographs / "irvis" / "tno" / "ir" / "c.png")
    with pytest.raises(ImageError, match="one size"):
        image_pairs(photographs, split="dev")
    (photographs / "irvis" / "msrs" / "ir" / "b.png").unlink()
    with pytest.raises(BundleError, match=r"ir/b\.png"):
        image_pairs(photographs)


def test_real_photographs_of_the_benchmark_are_not_in_train(shared_data):
    train, dev = (image_pairs(shared_data, split=split) for split in ("train", "dev"))
    assert len(dev) == 31 and not train.subjects & dev.subjects
    seen, held_out = ({digest(p.source2) for p in part.pairs if p.kind != "chroma"} for part in (train, dev))
    assert len(seen) == 183 and not seen & held_out
