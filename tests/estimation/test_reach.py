"""Estimates on their way into records and onto the console."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from medfuse.cli import main
from medfuse.estimation import estimate, known_specification
from medfuse.physics import parse_degradation
from medfuse.pipeline import fuse_images
from medfuse.report import estimate_sentence, warnings
from medfuse.report.findings import findings


@pytest.fixture
def folders(tmp_path, scene, stored):
    """Write a pair of images of 10/255 and of no noise."""
    rng = np.random.default_rng(0)
    for kind, noise in (("mri", 10 / 255), ("pet", 0.0)):
        image = stored(scene(side=96) + noise * rng.standard_normal((96, 96)))
        (tmp_path / kind).mkdir()
        Image.fromarray(np.uint8(np.round(255 * image))).save(tmp_path / kind / "one.png")
    return tmp_path


def test_the_command_says_what_it_finds_and_writes_nothing(folders, capsys):
    assert main(["estimate", str(folders / "mri" / "one.png"), "--kind", "anatomy", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    noise = next(e for e in said["estimates"] if e["step"] == "noise")
    assert noise["value"] == pytest.approx(10 / 255, rel=0.08)
    assert noise["interval"][0] < noise["value"] < noise["interval"][1]
    assert main(["estimate", str(folders / "mri" / "one.png"), "--kind", "anatomy"]) == 0
    assert "The noise of the image was estimated as" in capsys.readouterr().out
    assert sorted(p.name for p in folders.iterdir()) == ["mri", "pet"]


def test_a_volume_is_estimated_on_its_own_grid(tmp_path, scene, capsys):
    rng = np.random.default_rng(0)
    volume = np.stack([scene(seed, side=64) + 0.04 * rng.standard_normal((64, 64)) for seed in range(4)], -1)
    nib.save(nib.Nifti1Image(np.float32(500 * volume), np.eye(4)), tmp_path / "mri.nii.gz")
    assert main(["estimate", str(tmp_path / "mri.nii.gz"), "--kind", "anatomy", "--json"]) == 0
    noise = json.loads(capsys.readouterr().out)["estimates"][1]
    full = np.float32(volume).max() - min(volume.min(), 0)
    assert noise["value"] == pytest.approx(0.04 / full, rel=0.15)
    assert main(["estimate", str(tmp_path / "mri.nii.gz"), "--kind", "function"]) == 0
    assert "could not be estimated" in capsys.readouterr().out


def test_what_is_doubtful_about_a_file_is_said_and_no_noise_is_no_error(tmp_path, capsys):
    """A header with two places, and a phantom whose flat regions have no noise at all."""
    volume = np.zeros((64, 64, 4), np.float32)
    volume[10:50, 10:50], volume[20:30, 20:30] = 100, 200
    image = nib.Nifti1Image(volume, np.eye(4))
    beside = np.eye(4)
    beside[0, 3] = 30
    image.set_sform(np.eye(4), 1)
    image.set_qform(beside, 1)
    nib.save(image, tmp_path / "mri.nii.gz")
    assert main(["estimate", str(tmp_path / "mri.nii.gz"), "--kind", "anatomy", "--json"]) == 0
    said = capsys.readouterr()
    assert "medfuse: warning: The header of the MRI gives two places, up to 30.0 mm apart" in said.err
    assert all(e["stated"] is None for e in json.loads(said.out)["estimates"])
    assert main(["estimate", str(tmp_path / "mri.nii.gz"), "--kind", "anatomy", "--strict"]) == 2
    volume[24:26, 24:26] = np.nan
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "pet.nii.gz")
    assert main(["estimate", str(tmp_path / "pet.nii.gz"), "--kind", "function", "--nonfinite", "zero"]) == 0
    assert "The PET has holes" in capsys.readouterr().err


def test_images_under_auto_tell_what_was_found_of_each(folders):
    record = fuse_images(folders / "mri", folders / "pet", folders / "out", degradation="auto", steps=1, device="cpu")
    found = record["degradation"]
    assert found["origin"] == "estimated"
    mri, pet = (found["estimates"]["one"][source] for source in ("source1", "source2"))
    assert mri[1]["stated"]["sigma"] == pytest.approx(10 / 255, rel=0.08)
    assert all(e["stated"] is None and e["refused"] for e in pet)
    given, kept = (np.asarray(Image.open(folders / p / "one.png")) for p in ("pet", "out/source2"))
    assert np.array_equal(given, kept)


def test_what_is_known_stays_in_its_place_in_the_specification(scene, stored):
    spec = {"version": 1, "source1": [{"blur": {"sigma_px": 1.5}}, {"noise": "auto"}], "source2": "auto"}
    image = torch.from_numpy(stored(scene() + 0.04 * np.random.default_rng(0).standard_normal((192, 192))))
    found = estimate(parse_degradation(spec), torch.stack([image, image]), ("anatomy", "function"))
    known = known_specification(spec, found.estimates)
    assert parse_degradation(known).unknown is False
    assert known["source1"][0] == {"blur": {"sigma_px": 1.5}}
    assert known["source1"][1]["noise"]["sigma"] == pytest.approx(0.04, rel=0.06)
    assert [list(step) for step in known["source2"]] == [["noise"]]


def test_a_report_says_what_was_estimated_and_what_was_refused():
    stated = {"step": "noise", "value": 0.04, "interval": [0.038, 0.042], "kind": "gaussian", "rests_on": "patches 10"}
    stated["stated"] = {"kind": "gaussian", "sigma": 0.04}
    refused = {"step": "blur", "refused": "it looks smooth"}
    record = {
        "sources": {"mri": {}, "pet": {}},
        "degradation": {
            "source1": [{"noise": stated["stated"]}],
            "source2": [],
            "origin": "estimated",
            "estimates": {"source1": [stated], "source2": [refused]},
        },
    }
    texts = [finding.text for finding in findings(record)]
    assert any(t.startswith("The noise of the MRI was estimated as 0.04 of full range (10.2 of 255") for t in texts)
    assert "The blur of the PET could not be estimated and was taken as none: it looks smooth." in texts
    assert not any("estimated" in text for text in warnings(record))
    assert estimate_sentence("PET", refused) in texts
