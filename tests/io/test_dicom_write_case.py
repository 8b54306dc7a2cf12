"""Which series a case becomes: by which source it is filed, in which world and unit, under which UIDs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from pydicom import uid

from medfuse import cli
from medfuse.errors import DicomError
from medfuse.fusion import ColourFusion, read_back, to_uint8
from medfuse.io import open_series, series_suv
from medfuse.io.dicom import load_volume
from medfuse.pipeline import CaseResult
from medfuse.pipeline.outputs.dicom import write_dicom
from medfuse.pipeline.outputs.table import clear

SUV_CODE = "{SUVbw}g/ml"


@pytest.fixture
def make(tmp_path, mri, pet, save):
    """Return a function that makes a case of series in folders."""

    def made(*, mri_as: str = "dicom", pet_as: str = "dicom", reference: str = "mri", moved: bool = False):
        files: list[tuple[str, ...]] = []
        for name, scan, kind in (("mri", mri, mri_as), ("pet", pet, pet_as)):
            folder = tmp_path / f"{name}_{kind}"
            if kind != "nifti":
                save(scan.enhanced() if kind == "enhanced" else scan.slices(), folder)
            files.append(tuple(str(p) for p in folder.glob("*")))
        suv = series_suv(open_series(files[1])).record if files[1] else {}
        volumes = [torch.as_tensor(scan.volume.copy(), dtype=torch.float32) for scan in (mri, pet)]
        registration = {"performed": True, "accepted": True} if moved else None
        record = {
            "versions": {}, "weights_sha256": "w", "steps": 1, "settings": {}, "degradation": {"version": 1},
            "reference": {"source": reference}, "registration": registration, "display": {"palette": "OKLAB"},
            "sources": {"mri": {"sha256": "m"}, "pet": {"sha256": "p", "suv": suv}},
        }  # fmt: skip
        return CaseResult(
            case="one", names=("mri", "pet"), affine=mri.affine, units=("a.u.", "SUV"),
            sources=(volumes[0], volumes[1]), restored=(volumes[0], volumes[1] * 1e-4), fused=volumes[0] / 2000.0,
            weight=volumes[0], windows=((0.0, 90.0), (0.0, 1.0)), colours=ColourFusion(),
            rgb=np.zeros((*volumes[0].shape, 3), np.uint8), record=record, files=(files[0], files[1]),
        )  # fmt: skip

    return made


def first(folder: Path, kind: str) -> pydicom.Dataset:
    return pydicom.dcmread(min((folder / "dicom" / kind).iterdir()))


def test_all_four_series_of_a_case(make, tmp_path, pet):
    result = make()
    write_dicom(result, tmp_path / "one" / "dicom")
    assert {p.name: len(list(p.iterdir())) for p in (tmp_path / "one" / "dicom").iterdir()} == {
        "pet_restored": 5, "fused": 1, "fused_rgb": 5, "fused_rgb_multiframe": 1,
    }  # fmt: skip
    image = first(tmp_path / "one", "pet_restored")
    assert (image.SOPClassUID, image.Units, image.SUVType) == (uid.PositronEmissionTomographyImageStorage, "GML", "BW")
    series = open_series(tmp_path / "one" / "dicom" / "pet_restored")
    error = np.abs(load_volume(series) - result.restored[1].numpy()).max()
    assert error <= 0.501 * float(image.RescaleSlope)
    assert np.abs(series.affine - result.affine).max() < 1e-4
    assert series.frame_of_reference == pet.world


def test_without_a_dicom_source_nothing_is_written(make, tmp_path):
    write_dicom(make(mri_as="nifti", pet_as="nifti"), tmp_path / "one" / "dicom")
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize("pet_as", ["enhanced", "nifti"])
def test_a_pet_that_was_no_classic_series_becomes_a_parametric_map(make, tmp_path, pet_as):
    result = make(pet_as=pet_as)
    write_dicom(result, tmp_path / "one" / "dicom")
    image = first(tmp_path / "one", "pet_restored")
    assert image.SOPClassUID == uid.ParametricMapStorage
    mapping = image.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == SUV_CODE
    assert mapping.LUTExplanation == "restored PET, SUV"
    # highdicom puts the last slice first; where each lies, test_dicom_write.py says
    np.testing.assert_array_equal(image.pixel_array[::-1].T, result.restored[1].numpy())
    assert image.PatientID == "MRN-4711"


def test_the_deviation_of_the_pet_is_a_series_of_its_own_in_its_unit(make, tmp_path):
    result = make()
    deviation = result.restored[1] / 10
    write_dicom(replace(result, deviations=(None, deviation)), tmp_path / "one" / "dicom")
    image = first(tmp_path / "one", "pet_std")
    mapping = image.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == SUV_CODE
    assert mapping.LUTExplanation == "standard deviation of restored PET, SUV"
    np.testing.assert_array_equal(image.pixel_array[::-1].T, deviation.numpy())
    series = {first(tmp_path / "one", name).SeriesInstanceUID for name in ("pet_std", "pet_restored", "fused")}
    assert len(series) == 3


def test_the_fused_volume_has_no_unit(make, tmp_path):
    write_dicom(make(), tmp_path / "one" / "dicom")
    mapping = first(tmp_path / "one", "fused").SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    code = mapping.MeasurementUnitsCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("1", "UCUM")


@pytest.mark.parametrize("kind", ["pet_restored", "fused", "fused_rgb", "fused_rgb_multiframe"])
@pytest.mark.parametrize(
    ("options", "known"),
    [
        ({"pet_as": "nifti", "moved": True}, True),
        ({"mri_as": "nifti"}, True),  # in the same world
        ({"mri_as": "nifti", "moved": True}, False),  # in that of a NIfTI
        ({"mri_as": "nifti", "moved": True, "reference": "pet"}, True),
    ],
)
def test_the_world_is_that_of_the_grid(make, tmp_path, mri, kind, options, known):
    write_dicom(make(**options), tmp_path / "one" / "dicom")
    found = first(tmp_path / "one", kind).FrameOfReferenceUID
    assert (found == mri.world) is known
    assert uid.UID(found).is_valid


def test_two_patients_are_refused(make, tmp_path, pet, save):
    result = make()
    datasets = pet.slices()
    for dataset in datasets:
        dataset.PatientID = "CANARY-2"
    save(datasets, tmp_path / "pet_dicom")
    with pytest.raises(DicomError, match="must be of one patient for DICOM output, got two PatientIDs") as caught:
        write_dicom(result, tmp_path / "one" / "dicom")
    assert "CANARY" not in str(caught.value)
    assert not (tmp_path / "one").exists()


def test_uids_follow_from_inputs_configuration_and_results(make, tmp_path):
    result = make()
    changed = {
        "other weights": replace(result, record={**result.record, "weights_sha256": "v"}),
        "other settings": replace(result, record={**result.record, "settings": {"fusion_rule": "convex"}}),
        "other degradation": replace(result, record={**result.record, "degradation": {"version": 1, "name": "x"}}),
        "other result": replace(result, fused=result.fused + 0.5),
        "other palette": replace(result, record={**result.record, "display": {"palette": "PET"}}),
    }
    for name, case in {"first": result, "again": replace(result, case="named otherwise"), **changed}.items():
        write_dicom(case, tmp_path / name / "dicom")
    uids = {p.name: first(p, "fused").SOPInstanceUID for p in tmp_path.iterdir() if (p / "dicom").is_dir()}
    assert uids["first"] == uids["again"]
    assert len(set(uids.values())) == 1 + len(changed)
    write_dicom(replace(result, deidentified=True), tmp_path / "nameless" / "dicom")
    assert first(tmp_path / "nameless", "fused").SOPInstanceUID not in uids.values()


@pytest.mark.parametrize("kind", ["fused_rgb", "fused_rgb_multiframe"])
def test_the_colour_series_says_what_its_colours_mean_and_both_values_come_back(make, tmp_path, kind):
    """PS3.3 C.7.6.1.1.3: the derivation description says how an image was derived."""
    result = make()
    shares = [
        ((x - low) / (high - low)).numpy()
        for x, (low, high) in zip((result.sources[0], result.sources[1]), result.windows, strict=True)
    ]
    result = replace(result, rgb=to_uint8(ColourFusion()(*shares)))
    write_dicom(result, tmp_path / "one" / "dicom")
    image = first(tmp_path / "one", kind)
    text = image.DerivationDescription
    assert "OKLab map" in text and "lightness MRI 0.000 to 90.00 a.u." in text and len(text) <= 1024
    assert "orange PET 0.000 to 1.000 SUV" in text and "Not for diagnosis" in text
    files = (tmp_path / "one" / "dicom" / kind).iterdir()
    pixels = np.concatenate([pydicom.dcmread(path).pixel_array.reshape(-1, 3) for path in files])
    for found, share, (low, high) in zip(read_back(pixels, *result.windows), shares, result.windows, strict=True):
        truth = low + share.clip(0, 1).ravel() * (high - low)
        assert np.abs(np.sort(found) - np.sort(truth)).mean() < 0.01 * (high - low)
    other = replace(result, colours=ColourFusion("PET", "alpha"))
    write_dicom(other, tmp_path / "two" / "dicom")
    assert "palette PET at alpha 0.5" in first(tmp_path / "two", kind).DerivationDescription


@pytest.mark.full
def test_the_command_line_writes_dicom_unless_told_otherwise(tmp_path, mri, pet, save, canaries):
    rng = np.random.default_rng(0)
    study = tmp_path / "study"
    save(mri.change(stored=rng.integers(0, 900, (4, 24, 20)).astype(np.int16)).slices(), study / "MR")
    small = pet.change(stored=rng.integers(0, 900, (4, 12, 10)).astype(np.int16), spacing=(3.0, 5.0, 3.0), slopes=())
    save(small.slices(), study / "PT")
    call = ["fuse", "--dicom", str(study), "--steps", "1", "--out"]
    uids = []
    for name, options in (("a", []), ("b", []), ("blank", ["--deidentified"]), ("none", ["--no-dicom"])):
        assert cli.main([*call, str(tmp_path / name), *options]) == 0
        folder = tmp_path / name / "case"
        assert json.loads((folder / "case.json").read_text())["case"] == "case"
        assert (folder / "dicom").is_dir() is (name != "none")
        if name != "none":
            images = [pydicom.dcmread(p) for p in sorted((folder / "dicom").rglob("*.dcm"))]
            assert len(images) == 4 + 1 + 4 + 1
            uids.append([i.SOPInstanceUID for i in images])
            assert {str(i.PatientName) for i in images} == ({""} if name == "blank" else {"CANARY^NAME"})
        for path in (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".dcm"):
            assert not [c for c in canaries if c.encode() in path.read_bytes()]
    assert uids[0] == uids[1]
    assert not set(uids[0]) & set(uids[2])

    assert cli.main([*call, str(tmp_path / "a"), "--no-dicom"]) == 0
    again = tmp_path / "a" / "case"
    assert (again / "case.json").is_file()
    assert not (again / "dicom").exists()  # of the run before
    clear(tmp_path / "b" / "case", "case")
    assert not list((tmp_path / "b" / "case").iterdir())  # it knows of all that a run writes
