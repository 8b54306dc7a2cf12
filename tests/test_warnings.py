"""What is wrong with a case reaches the person: console, summary, table, record, pages; of images, too."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medfuse import cli
from medfuse.bundles import bundle_dir
from medfuse.pipeline import collect, fuse, load_workflow, run_batch

TRUE = 0.1  # std of the noise that is added, fraction of full range


def spec(sigma1: float | None, sigma2: float | None = None, **noise) -> dict:
    steps = [[] if s is None else [{"noise": {"sigma": s, **noise}}] for s in (sigma1, sigma2)]
    return {"version": 1, "source1": steps[0], "source2": steps[1]}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two cases: an MRI of 2 mm and a PET of 5 mm voxels, both with noise of a tenth of their range."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for case in ("a", "b"):
        (root / case).mkdir()
        for name, shape, voxel, top in (("mri", (60, 56, 4), 2.0, 800.0), ("pet", (24, 24, 4), 5.0, 9.0)):
            offset = -voxel * (np.array(shape[:2]) - 1) / 2
            x, y = np.meshgrid(*(offset[k] + voxel * np.arange(shape[k]) for k in (0, 1)), indexing="ij")
            inside = (x / 50) ** 2 + (y / 46) ** 2 < 1
            clean = np.repeat((inside * (0.6 + 0.4 * np.exp(-((x - 15) ** 2 + y**2) / 300)))[..., None], shape[2], 2)
            image = top * (clean + rng.normal(0, TRUE, shape))
            affine = np.diag([voxel, voxel, 4.0, 1.0])
            affine[:2, 3] = offset
            nib.save(nib.Nifti1Image(image.astype(np.float32), affine), root / case / f"{name}.nii.gz")
        (root / case / "case.json").write_text(json.dumps({"aligned": True, "pet_unit": "SUV"}))
    return root


def item(data: Path, case: str = "a", **fields) -> dict:
    paths = {key: str(data / case / f"{key}.nii.gz") for key in ("mri", "pet")}
    return {"case": case, "aligned": True, "pet_unit": "SUV", **paths, **fields}


def noises(data: Path, *degradation: float | None, **noise) -> list[str]:
    workflow = load_workflow(degradation=spec(*degradation, **noise), steps=1, device="cpu")
    return [text for text in workflow(item(data)).record["warnings"] if "noise" in text.lower()]


@pytest.mark.parametrize(("times", "said"), [(1, None), (0.5, "2."), (0.25, "4"), (0.05, "20"), (3, "less noise")])
def test_noise_that_is_stated_wrongly_is_told_of_and_rightly_not(data, times, said):
    # in the unit of each source and in its own voxels: on the grid of the MRI the PET has a third of it, in waves
    workflow = load_workflow(
        degradation=spec(times * TRUE * 800, times * TRUE * 9, unit="input"), steps=1, device="cpu"
    )
    texts = [text for text in workflow(item(data)).record["warnings"] if "noise" in text]
    if said is None:
        assert texts == []
        return
    assert [name for name in ("MRI", "PET") for text in texts if name in text] == ["MRI", "PET"]
    for text in texts:
        factor = float(text.split("about ")[1].split()[0].rstrip("%."))
        assert "less noise" in text if times > 1 else "times what was stated" in text
        assert factor == pytest.approx(100 / 3 if times > 1 else 1 / times, rel=0.25)


def test_where_no_noise_was_stated_none_is_contradicted(data):
    assert noises(data, None, None) == []
    blur = {"version": 1, "source1": [], "source2": [{"blur": {"sigma_px": 0.1}}]}
    record = load_workflow(degradation=blur, steps=1, device="cpu")(item(data)).record
    assert record["sources"]["pet"]["noise"] is None
    assert not any("times what was stated" in text for text in record["warnings"])


def test_a_batch_tells_of_warnings_everywhere_and_exits_with_0(quick, data, tmp_path, capsys):
    stated = tmp_path / "stated.json"
    stated.write_text(json.dumps(spec(TRUE, TRUE / 8)))
    out = tmp_path / "out"
    batch = ["batch", str(data), str(out), "participant", "--steps", "1", "--degradation", str(stated)]
    assert cli.main(batch) == 0
    printed = capsys.readouterr()
    told = [line for line in printed.err.splitlines() if line.startswith("medfuse: warning: ")]
    assert [line.split(": ")[2] for line in told] == ["a", "b"]
    assert "The noise of the PET seems to be about" in told[0]
    assert "2 fused, 0 done before, 0 failed, 2 with warnings" in printed.out
    with (out / "cases.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    record = json.loads((out / "a" / "a.json").read_text())
    assert [(row["state"], row["warnings"]) for row in rows] == [("done", "1")] * 2
    assert [rows[0]["message"]] == record["warnings"]
    assert "medfuse: warning: a: " + record["warnings"][0] == told[0]
    assert "The noise of the PET seems to be about" in (out / "index.html").read_text()
    assert cli.main([*batch, "--resume"]) == 0  # what was done before still has them
    assert "0 fused, 2 done before, 0 failed, 2 with warnings" in capsys.readouterr().out
    assert cli.main(["batch", str(data), str(out), "group"]) == 0
    assert "2 done, 0 failed, 2 with warnings" in capsys.readouterr().out


def test_a_registration_that_was_refused_is_on_the_console_and_in_the_table(quick, data, tmp_path, caplog):
    moved = nib.load(data / "a" / "pet.nii.gz")
    affine = moved.affine.copy()
    affine[0, 3] += 90  # the fields of view touch
    nib.save(nib.Nifti1Image(moved.get_fdata(dtype=np.float32), affine), tmp_path / "far.nii.gz")
    case = item(data, pet=str(tmp_path / "far.nii.gz"), aligned=False)
    summary = run_batch([case], tmp_path / "out", steps=1, device="cpu")
    refused = next(text for text in summary.warned["a"] if "The registration was refused" in text)
    assert summary.warned["a"][0] == refused
    assert f"a: {refused}" in [record.getMessage() for record in caplog.records]
    (row,) = collect(tmp_path / "out")
    assert (row["state"], row["message"]) == ("done", refused)
    assert row["warnings"] == len(summary.warned["a"])


def test_a_record_of_an_earlier_version_is_judged_by_its_numbers(quick, data, tmp_path):
    run_batch([item(data)], tmp_path, steps=1, device="cpu")
    path = tmp_path / "a" / "a.json"
    record = json.loads(path.read_text())
    del record["warnings"]
    record["sources"]["pet"]["unit"] = "a.u."
    path.write_text(json.dumps(record))
    (row,) = collect(tmp_path)
    assert row["warnings"] == 1
    assert "unit of the PET is unknown" in row["message"]


def test_fuse_and_python_tell_of_warnings(quick, data, tmp_path, capsys, caplog):
    case = data / "a"
    sources = ["--pet", str(case / "pet.nii.gz"), "--mri", str(case / "mri.nii.gz"), "--aligned", "--steps", "1"]
    assert cli.main(["fuse", *sources, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "medfuse: warning: case: The unit of the PET is unknown" in printed.err
    assert "warnings: 1" in printed.out
    caplog.clear()
    result = fuse(case / "pet.nii.gz", case / "mri.nii.gz", aligned=True, steps=1)
    assert [f"case: {text}" for text in result.record["warnings"]] == [r.getMessage() for r in caplog.records]


@pytest.mark.parametrize(("times", "said"), [(1, 0), (0.25, 2)])
def test_images_tell_of_warnings(tmp_path, capsys, times, said):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        image = 255 * (0.5 + 0.3 * np.exp(-((x - 40) ** 2 + (y - 50) ** 2) / 800) + rng.normal(0, 0.05, x.shape))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(tmp_path / name / "a.png")
    stated, out = tmp_path / "stated.json", tmp_path / "out"
    stated.write_text(json.dumps(spec(times * 0.05, times * 0.05)))
    sources = ["--source1", str(tmp_path / "one"), "--source2", str(tmp_path / "two"), "--out", str(out)]
    assert cli.main(["images", *sources, "--steps", "1", "--degradation", str(stated)]) == 0
    printed = capsys.readouterr()
    record = json.loads((out / "images.json").read_text())
    assert len(record["warnings"]) == said
    assert f"warnings: {said}" in printed.out
    for n, text in enumerate(record["warnings"], start=1):
        assert f"The noise of the source {n} of a seems to be about 4 times what was stated" in text
        assert f"medfuse: warning: {text}" in printed.err


def test_monais_own_command_tells_of_warnings_and_of_a_degradation_as_given(data, tmp_path):
    bundle, out = bundle_dir("pet_mri_fusion"), tmp_path / "out"
    (tmp_path / "data" / "a").mkdir(parents=True)
    for name in ("mri.nii.gz", "pet.nii.gz", "case.json"):
        (tmp_path / "data" / "a" / name).symlink_to(data / "a" / name)
    steps = [{"noise": {"sigma": TRUE / 8}}]
    command = [sys.executable, "-m", "monai.bundle", "run", "inference"]
    command += [
        "--config_file",
        str(bundle / "configs/inference.json"),
        "--meta_file",
        str(bundle / "configs/metadata.json"),
    ]
    command += ["--logging_file", str(bundle / "configs/logging.conf"), "--bundle_root", str(bundle), "--steps", "1"]
    command += ["--dataset_dir", str(tmp_path / "data"), "--output_dir", str(out), "--device", "cpu"]
    command += ["--degradation#source1", "[]", "--degradation#source2", json.dumps(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((out / "a" / "a.json").read_text())
    assert len(record["warnings"]) == 1
    assert f"a: {record['warnings'][0]}" in done.stdout + done.stderr
    assert record["degradation"] == {"origin": "given", "version": 1, "source1": [], "source2": steps}
    assert "as specified (given)" in (out / "a" / "a_report.html").read_text()
