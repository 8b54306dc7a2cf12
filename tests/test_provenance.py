"""Results of other sources are never replaced without being asked; those of the same are made anew with ease."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medfuse import cli
from medfuse.bundles import bundle_dir
from medfuse.errors import BundleError
from medfuse.io import discover
from medfuse.pipeline import fuse_images, load_fusion, run_batch

_REFUSED = "must hold no results of other images"


def contents(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def case(folder: Path, seed: int, *, kinds: str = "mri pet") -> Path:
    """Write a case of a tiny MRI and PET on one grid into a data folder, and return that."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in kinds.split():
        volume = np.random.default_rng([seed, len(name)]).uniform(0, 9, (20, 24, 4)).astype(np.float32)
        nib.save(nib.Nifti1Image(volume, np.diag([2.0, 2.0, 3.0, 1.0])), folder / f"{name}.nii.gz")
    (folder / "case.json").write_text(json.dumps({"aligned": True, "pet_unit": "SUV"}))
    return folder.parent


def images(folder: Path, seed: int, names: str = "a b") -> tuple[Path, Path]:
    """Write two folders of tiny images, and return them."""
    for source in ("one", "two"):
        (folder / source).mkdir(parents=True, exist_ok=True)
        for name in names.split():
            rng = np.random.default_rng([seed, len(source), *name.encode()])
            Image.fromarray(rng.integers(0, 255, (40, 48), dtype=np.uint8)).save(folder / source / f"{name}.png")
    return folder / "one", folder / "two"


@pytest.fixture(scope="module")
def fusion():
    return load_fusion(device="cpu")


def batch(source: Path, out: Path, **options: Any):
    return run_batch(discover(source).cases, out, steps=1, device="cpu", **options)


def test_a_batch_keeps_the_results_of_another_patient(quick, tmp_path):
    first, second = case(tmp_path / "first" / "x", 1), case(tmp_path / "second" / "x", 2)
    case(second / "y", 3)
    out = tmp_path / "out"
    assert batch(first, out).fused == ["x"]
    before = contents(out / "x")
    for resume in (False, True):
        summary = batch(second, out, resume=resume)
        assert _REFUSED in summary.failed["x"] and "--replace" in summary.failed["x"]
        assert contents(out / "x") == before  # not even a record that it failed: that is none of x
    assert summary.skipped == ["y"]  # the others go on
    case(second / "x", 1, kinds="mri")  # the same MRI, another PET
    assert _REFUSED in batch(second, out).failed["x"]
    assert contents(out / "x") == before
    assert batch(second, out, replace=True).fused == ["x", "y"]


def test_the_same_sources_are_made_anew_wherever_they_lie(quick, tmp_path):
    first, moved = case(tmp_path / "first" / "x", 1), case(tmp_path / "moved" / "x", 1)
    out = tmp_path / "out"
    assert batch(first, out).fused == ["x"]
    assert batch(moved, out, degradation="noise").fused == ["x"]
    assert batch(moved, out, degradation="noise", resume=True).skipped == ["x"]
    assert cli.main(["batch", str(first), str(out), "participant", "--steps", "2"]) == 0


def test_what_cannot_be_read_takes_no_results_away(quick, tmp_path):
    """A disk that is away for an hour must not cost the results of a cohort."""
    data, out = case(tmp_path / "data" / "x", 1), tmp_path / "out"
    batch(data, out)
    before = contents(out / "x")
    (data / "x" / "pet.nii.gz").rename(tmp_path / "pet.nii.gz")
    assert "add pet" in batch(data, out, resume=True).failed["x"]
    assert {k: v for k, v in contents(out / "x").items() if k != "x_failed.json"} == before
    assert "failed" in (out / "cases.tsv").read_text() and "The results of an earlier run stay" in (
        out / "index.html"
    ).read_text(encoding="utf-8")
    (tmp_path / "pet.nii.gz").rename(data / "x" / "pet.nii.gz")
    assert batch(data, out, resume=True).skipped == ["x"]
    assert contents(out / "x") == before


def test_names_that_differ_in_capitals_only_are_refused_before_work(quick, tmp_path, capsys):
    out = tmp_path / "out"
    batch(case(tmp_path / "first" / "case", 1), out)
    with pytest.raises(BundleError, match="CASE, and case of an earlier run"):
        batch(case(tmp_path / "second" / "CASE", 2), out)
    one = tmp_path / "first" / "case"
    words = ["--mri", str(one / "mri.nii.gz"), "--pet", str(one / "pet.nii.gz"), "--aligned", "--out", str(out)]
    assert cli.main(["fuse", *words, "--case", "Case"]) == 2
    assert "Case, and case of an earlier run" in capsys.readouterr().err
    assert {p.name for p in out.iterdir()} == {"case", "cases.tsv", "index.html"}


def test_a_bids_session_keeps_its_results(quick, tmp_path):
    """Another PET of the subject, as of another tracer, is another source."""
    for n, name in enumerate(("first", "second")):
        root = tmp_path / name
        source = case(tmp_path / f"{name}_raw" / "x", n) / "x"
        for kind, place in (("mri", "anat/sub-1_T1w"), ("pet", "pet/sub-1_pet")):
            (root / "sub-1" / place).parent.mkdir(parents=True)
            (source / f"{kind}.nii.gz").rename(root / "sub-1" / f"{place}.nii.gz")
        (root / "sub-1" / "pet" / "sub-1_pet.json").write_text('{"Units": "Bq/mL"}')
        (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')
    out = tmp_path / "out"
    assert batch(tmp_path / "first", out, bids=tmp_path / "first").fused == ["sub-1"]
    before = contents(out / "sub-1")
    assert _REFUSED in batch(tmp_path / "second", out, bids=tmp_path / "second").failed["sub-1"]
    assert contents(out / "sub-1") == before


def test_monais_own_command_and_the_writer_keep_them_too(tmp_path):
    first, second = case(tmp_path / "first" / "x", 1), case(tmp_path / "second" / "x", 2)
    config = bundle_dir("pet_mri_fusion") / "configs" / "inference.json"

    def run(data: Path, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "monai.bundle", "run", "inference", "--config_file", str(config)]
        command += ["--bundle_root", str(bundle_dir("pet_mri_fusion")), "--dataset_dir", str(data)]
        return subprocess.run(
            [*command, "--output_dir", str(tmp_path / "out"), *words], capture_output=True, text=True, check=False
        )

    assert run(first).returncode == 0
    before = contents(tmp_path / "out" / "x")
    done = run(second)
    assert done.returncode != 0
    assert _REFUSED in done.stderr.strip().splitlines()[-1]
    assert contents(tmp_path / "out" / "x") == before
    assert run(first).returncode == 0
    assert run(second, "--replace", "True").returncode == 0
    assert contents(tmp_path / "out" / "x") != before


def test_results_are_written_over_others_by_no_function(quick, tmp_path):
    from medfuse import fuse
    from medfuse.pipeline import write_outputs

    results = []
    for seed in (1, 2):
        folder = case(tmp_path / str(seed) / "x", seed) / "x"
        paths = (folder / "pet.nii.gz", folder / "mri.nii.gz")
        results.append(fuse(*paths, aligned=True, pet_unit="SUV", steps=1, device="cpu"))
    write_outputs(results[0], tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(BundleError, match=_REFUSED):
        write_outputs(results[1], tmp_path / "out")
    assert contents(tmp_path / "out") == before
    write_outputs(results[0], tmp_path / "out")
    write_outputs(results[1], tmp_path / "out", replace=True)


def test_images_keep_the_results_of_others(fusion, tmp_path):
    first, second, third = images(tmp_path / "1", 1), images(tmp_path / "2", 2), images(tmp_path / "3", 3, "c d")
    out = tmp_path / "out"
    record = fuse_images(*first, out, bundle=fusion, steps=1)
    assert record["sources"]["a"] == {
        f"source{n}": hashlib.sha256((folder / "a.png").read_bytes()).hexdigest() for n, folder in enumerate(first, 1)
    }
    before = contents(out)
    for other, told in ((second, r"\(a, b\)"), (third, r"\(a, b\)"), ((first[0], second[1]), r"\(a, b\)")):
        with pytest.raises(BundleError, match=f"{_REFUSED}, got some {told}; choose another OUT, or .*--replace"):
            fuse_images(*other, out, bundle=fusion, steps=1)
        assert contents(out) == before
    assert fuse_images(*first, out, bundle=fusion, steps=2, file_format="npy")["steps"] == 2  # other parameters
    images(tmp_path / "1", 1, "a b c")
    assert fuse_images(*first, out, bundle=fusion, steps=1)["images"] == ["a", "b", "c"]  # more of them
    assert fuse_images(*third, out, bundle=fusion, steps=1, replace=True)["images"] == ["c", "d"]
    assert sorted(p.name for p in (out / "fused").iterdir()) == ["c.png", "d.png"]


@pytest.mark.parametrize("spoil", ["{", "[]", '{"images": ["a"]}', '{"sources": [1]}'])
def test_images_of_which_nobody_can_say_whose_they_are_stay(fusion, tmp_path, spoil):
    first, out = images(tmp_path / "1", 1, "a"), tmp_path / "out"
    fuse_images(*first, out, bundle=fusion, steps=1)
    (out / "images.json").write_text(spoil)
    before = contents(out)
    with pytest.raises(BundleError, match=_REFUSED):
        fuse_images(*first, out, bundle=fusion, steps=1)
    (out / "images.json").unlink()
    with pytest.raises(BundleError, match=_REFUSED):
        fuse_images(*first, out, bundle=fusion, steps=1)
    del before["images.json"]
    assert contents(out) == before


def test_a_name_in_other_capitals_is_that_of_others(fusion, tmp_path):
    out = tmp_path / "out"
    fuse_images(*images(tmp_path / "1", 1, "a"), out, bundle=fusion, steps=1)
    with pytest.raises(BundleError, match=_REFUSED):
        fuse_images(*images(tmp_path / "2", 2, "A"), out, bundle=fusion, steps=1)


def test_a_run_that_was_stopped_can_be_run_again_by_its_own_sources_only(fusion, tmp_path, monkeypatch):
    from medfuse.pipeline import images as module

    first, second, out = images(tmp_path / "1", 1), images(tmp_path / "2", 2), tmp_path / "out"
    write, count = module.write_image, iter(range(100))

    def stop(*args: Any, **options: Any) -> None:
        if next(count) == 5:
            raise KeyboardInterrupt
        write(*args, **options)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, "write_image", stop)
        fuse_images(*first, out, bundle=fusion, steps=1)
    assert (out / "images_unfinished.json").is_file() and not (out / "images.json").exists()
    with pytest.raises(BundleError, match=_REFUSED):
        fuse_images(*second, out, bundle=fusion, steps=1)
    assert fuse_images(*first, out, bundle=fusion, steps=1)["images"] == ["a", "b"]
    assert not (out / "images_unfinished.json").exists()


def test_a_pair_that_fails_at_work_is_left_out(fusion, tmp_path, monkeypatch):
    """Whatever the reason: an image that changes, a disk that is full, an error that nobody expected."""
    from medfuse.pipeline import images as module

    first, out = images(tmp_path / "1", 1, "a b c"), tmp_path / "out"
    write = module.write_image

    def fail(path: Path, *args: Any, **options: Any) -> None:
        if path.name == "b.png" and path.parent.name == "weight":
            raise RuntimeError("a text of the data")
        write(path, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_image", fail)
        record = fuse_images(*first, out, bundle=fusion, steps=1)
    assert (record["images"], list(record["failed"])) == (["a", "c"], ["b"])
    assert "an unexpected error (RuntimeError); see error.txt" in record["failed"]["b"]
    assert "a text of the data" not in (out / "error.txt").read_text()
    assert not list(out.rglob("b.png"))  # no half of it

    check = module.checked_pairs

    def change(*args: Any, **options: Any) -> Any:
        found = check(*args, **options)
        images(tmp_path / "1", 9, "b")
        return found

    monkeypatch.setattr(module, "checked_pairs", change)
    record = fuse_images(*first, out, bundle=fusion, steps=1)
    assert "The images of b must stay as they are" in record["failed"]["b"]
    assert record["images"] == ["a", "c"]


def test_a_row_of_a_table_that_names_nothing_does_not_stop_the_others(fusion, tmp_path):
    images(tmp_path, 1)
    rows = ["source1\tsource2\tname", "one/a.png\ttwo/a.png\ta", "one/none.png\ttwo/b.png\tb", "one/b.png\t\tc"]
    (tmp_path / "pairs.tsv").write_text("\n".join([*rows, "one/b.png\tpairs.tsv\td"]))
    record = fuse_images(None, None, tmp_path / "out", manifest=tmp_path / "pairs.tsv", bundle=fusion, steps=1)
    assert record["images"] == ["a"]
    failed: Mapping[str, str] = record["failed"]
    assert list(failed) == ["b", "c", "d"]
    assert "source1 must be a file, got none there" in failed["b"]
    assert all("source2 must be one of .png" in failed[name] for name in "cd")
    assert str(tmp_path) not in str(failed) and "none.png" not in str(failed)


def test_a_bundle_run_of_images_fails_at_its_end_if_a_pair_did(tmp_path):
    root = bundle_dir("ir_vis_fusion")
    one, two = images(tmp_path, 1)
    (two / "b.png").write_bytes(b"")
    command = [sys.executable, "-m", "monai.bundle", "run", "inference", "--bundle_root", str(root)]
    command += ["--config_file", str(root / "configs" / "inference.json"), "--steps", "1"]
    command += ["--source1", str(one), "--source2", str(two), "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "1 of the pairs failed, the others are done; b: source2 must be a PNG" in done.stderr.splitlines()[-1]
    assert [p.name for p in (tmp_path / "out" / "fused").iterdir()] == ["a.png"]
