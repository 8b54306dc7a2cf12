"""What a command says, and where: results on stdout, progress on stderr, JSON alone where it is asked for."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medfuse import cli


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two tiny cases, of which one has no unit, and one that cannot be fused."""
    for seed, name in enumerate("abc"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for kind in ("mri", "pet") if name != "c" else ("mri",):
            volume = np.random.default_rng([seed, len(kind)]).uniform(0, 9, (20, 24, 4)).astype(np.float32)
            nib.save(nib.Nifti1Image(volume, np.diag([2.0, 2.0, 3.0, 1.0])), folder / f"{kind}.nii.gz")
        unit = {"pet_unit": "SUV"} if name == "a" else {}
        (folder / "case.json").write_text(json.dumps({"aligned": True, **unit}))
    return tmp_path / "data"


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    words = []
    for n in (1, 2):
        (tmp_path / str(n)).mkdir()
        for name in "ab":
            pixels = np.random.default_rng([n, ord(name)]).integers(0, 255, (32, 40), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / str(n) / f"{name}.png")
        words += [f"--source{n}", str(tmp_path / str(n))]
    return words


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in words])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_batch_without_a_terminal_says_a_line_for_each_case(quick, data, tmp_path, capsys):
    code, out, err = run(capsys, "batch", data, tmp_path / "out", "participant", "--steps", "1")
    assert code == 1 and "2 fused, 0 done before, 1 failed, 1 with warnings" in out
    lines = [line for line in err.splitlines() if " of 3: " in line]
    assert [line.split(",")[0] for line in lines] == [
        f"medfuse: {n} of 3: {case} {state}"
        for n, (case, state) in enumerate([("a", "fused"), ("b", "fused"), ("c", "failed")], 1)
    ]
    assert "it/s" not in err and "case/s" not in err  # no bar


def test_quiet_leaves_warnings_and_errors_alone(quick, data, tmp_path, capsys):
    code, out, err = run(capsys, "batch", data, tmp_path / "out", "participant", "--steps", "1", "--quiet")
    assert (code, out) == (1, "")
    assert [line.split(":")[1].strip() for line in err.splitlines()] == ["warning", "c failed"]
    code, out, err = run(capsys, "batch", tmp_path / "none", tmp_path / "out", "participant", "--quiet")
    assert code == 2 and out == "" and err.startswith("medfuse: error: The input must be") and err.count("\n") == 1


def test_json_is_all_that_is_on_stdout(quick, data, images, tmp_path, capsys):
    code, out, _ = run(capsys, "batch", data, tmp_path / "out", "participant", "--steps", "1", "--json")
    told = json.loads(out)
    assert (code, told["exit_code"], told["command"], told["fused"]) == (1, 1, "batch", ["a", "b"])
    assert (
        told["notice"].startswith("Research use only")
        and list(told["failed"]) == ["c"]
        and list(told["warned"]) == ["b"]
    )
    _, out, _ = run(capsys, "batch", data, tmp_path / "out", "group", "--json")
    assert [row["state"] for row in json.loads(out)["cases"]] == ["done", "done", "failed"]
    one = data / "a"
    words = ["fuse", "--mri", one / "mri.nii.gz", "--pet", one / "pet.nii.gz", "--aligned", "--steps", "1", "--json"]
    code, out, err = run(capsys, *words, "--out", tmp_path / "fuse")
    told = json.loads(out)
    assert (code, told["case"], len(told["warnings"])) == (0, "case", 1)
    assert Path(told["folder"]).is_dir() and "results: " in err
    code, out, _ = run(capsys, *words, "--out", tmp_path / "fuse", "--degradation", "fog")
    told = json.loads(out)
    assert (code, told["exit_code"]) == (2, 2) and "must be one of" in told["error"] and "case" not in told
    code, out, _ = run(capsys, "images", *images, "--out", tmp_path / "images", "--steps", "1", "--json")
    assert code == 0 and json.loads(out)["images"] == ["a", "b"]


def test_a_log_holds_warnings_progress_and_errors(quick, data, tmp_path, capsys):
    log = tmp_path / "run.log"
    for out, code in (("out", 1), ("data", 2)):
        assert (
            run(capsys, "batch", data, tmp_path / out, "participant", "--steps", "1", "--quiet", "--log", log)[0]
            == code
        )
    lines = log.read_text(encoding="utf-8").splitlines()
    assert all(line[:4].isdigit() for line in lines)  # date and time
    for said in ("INFO 1 of 3: a fused", "WARNING b: The unit of the PET is unknown", "error: OUT must lie"):
        assert sum(said in line for line in lines) == 1
    code, _, err = run(capsys, "batch", data, tmp_path / "out", "participant", "--log", tmp_path)
    assert code == 2 and "--log must be a file that can be written, got 'is a directory'" in err
    assert not logging.getLogger("medfuse").handlers  # nothing is left of a command


def test_verbose_says_more(images, tmp_path, capsys):
    words = ["images", *images, "--steps", "1", "--out", tmp_path / "out"]
    assert "megapixels per second" not in run(capsys, *words)[2]
    assert "2 fused, 0 failed" in run(capsys, *words, "--verbose")[2]
    with pytest.raises(SystemExit):
        cli.main([str(word) for word in [*words, "--verbose", "--quiet"]])


def test_a_dry_run_does_nothing_and_says_what_would_be(quick, data, images, tmp_path, capsys):
    out = tmp_path / "out"
    code, printed, _ = run(capsys, "batch", data, out, "participant", "--dry-run")
    lines = printed.splitlines()
    assert code == 1 and lines[0] == "case folders: 3 cases"
    assert lines[1].startswith("a: mri 0.00192 million voxels, pet 0.00192 million voxels; about ")
    assert lines[3].startswith("c: cannot be fused: Case c must have mri and pet")
    assert "2 cases would be fused" in lines[4]
    told = json.loads(run(capsys, "batch", data, out, "participant", "--dry-run", "--json", "--shard", "2/2")[1])
    assert told["dry_run"] and [row["case"] for row in told["cases"]] == ["b"]
    one = data / "a"
    words = ["fuse", "--mri", one / "mri.nii.gz", "--pet", one / "pet.nii.gz", "--aligned", "--out", out]
    code, printed, _ = run(capsys, *words, "--dry-run")
    assert code == 0 and "1 case would be fused" in printed
    code, printed, _ = run(capsys, "images", *images, "--out", out, "--dry-run")
    assert code == 0 and "2 pairs would be fused" in printed
    assert not out.exists()
    run(capsys, *words, "--steps", "1")
    assert "results are there" in run(capsys, *words, "--dry-run")[1]
    elsewhere = tmp_path / "other" / "old" / "a"  # another OUT, below this one
    elsewhere.mkdir(parents=True)
    (elsewhere / "a_done.json").write_text("{}")
    assert "results are there" not in run(capsys, "batch", data, tmp_path / "other", "participant", "--dry-run")[1]
