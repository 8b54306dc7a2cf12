"""Values of regions as a DICOM measurement report, read back by highdicom, and what `dciodvfy` says of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from medfuse import cli
from medfuse.io.dicom.coded import codes_of, put_codes

NAMES = "index\tname\n1\tCerebellum\n5\tTumour's edge & µ-core\n"


def found(measurements, concept, derivation=None, method=None) -> list[tuple[float, str]]:
    """Return value and unit of the measurements of a concept, of one derivation."""
    some = [m for m in measurements if m.name == concept and (derivation is None or m.derivation == derivation)]
    return [(m.value, m.unit.value) for m in some if (m.method and m.method.value) == method]


@pytest.fixture
def case(tmp_path, mri, pet, save):
    """Return the folder of a case of DICOM with two regions that was fused by the command line; options more."""

    def made(*more: str | Path) -> Path:
        for name, scan in (("mri", mri), ("pet", pet)):
            save(scan.slices(), tmp_path / name)
        labels = np.zeros(mri.volume.shape, np.uint8)
        labels[2:-2, 2:-2], labels[4:8, 4:9, 1:4] = 1, 5
        nib.save(nib.Nifti1Image(labels, mri.affine), tmp_path / "seg.nii.gz")
        (tmp_path / "names.tsv").write_text(NAMES)
        (tmp_path / "noise.yaml").write_text("{version: 1, source2: [{noise: {sigma: 0.05}}]}")
        call = ["fuse", "--mri", tmp_path / "mri", "--pet", tmp_path / "pet", "--atlas", tmp_path / "seg.nii.gz"]
        call += ["--labels", tmp_path / "names.tsv", "--degradation", tmp_path / "noise.yaml", "--aligned"]
        assert cli.main([str(word) for word in (*call, "--out", tmp_path / "out", *more)]) == 0
        return tmp_path / "out" / "case"

    return made


def test_the_report_holds_what_the_record_holds(case, mri):
    folder = case("--sr", "--uncertainty", "full", "--reference", "1")
    record = json.loads((folder / "case.json").read_text())
    regions = {r["label"]: r for r in record["sources"]["pet"]["regions"]}
    segmentation = highdicom.seg.segread(next((folder / "dicom/regions").iterdir()))
    report = sr.srread(next((folder / "dicom/measurements").iterdir()))
    assert report.PatientID == segmentation.PatientID == "MRN-4711"
    assert segmentation.FrameOfReferenceUID == mri.world
    groups = report.content.get_volumetric_roi_measurement_groups()
    names = [(group.tracking_identifier, group.referenced_segment.referenced_segment_numbers[0]) for group in groups]
    edge = "Tumour's edge & µ-core"
    assert names == [
        ("Cerebellum, PET given", 1), ("Cerebellum, PET restored", 1), (f"{edge}, PET given", 2),
        (f"{edge}, PET restored", 2),
    ]  # fmt: skip
    assert all(g.referenced_segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID for g in groups)
    assert groups[2].tracking_uid == groups[3].tracking_uid != groups[0].tracking_uid
    marks = segmentation.get_volume(segment_numbers=[2])
    labels = nib.load(folder.parents[1] / "seg.nii.gz").get_fdata()
    there = np.argwhere(np.asarray(marks.array).reshape(marks.spatial_shape)) @ marks.affine[:3, :3].T
    there = sorted(map(tuple, np.round((there + marks.affine[:3, 3]) * [-1, -1, 1], 2)))  # LPS to RAS
    truth = np.argwhere(labels == 5) @ mri.affine[:3, :3].T + mri.affine[:3, 3]
    np.testing.assert_allclose(there, sorted(map(tuple, np.round(truth, 2))), atol=0.02)
    for group, state in zip(groups[2:], ("given", "restored"), strict=True):
        measurements, own = group.get_measurements(), regions[5]
        (volume,) = [m for m in measurements if m.name == codes.SCT.Volume]
        assert (volume.value, volume.unit.value) == (pytest.approx(own["volume_ml"], rel=1e-6), "ml")
        figures = {"mean": codes.SCT.Mean, "sd": codes.SCT.StandardDeviation, "max": codes.SCT.Maximum}
        for figure, derivation in figures.items():
            (value,) = found(measurements, codes.DCM.Suvbw, derivation)
            assert value == (pytest.approx(own[state][figure], rel=1e-6), "{SUVbw}g/ml")
        (glycolysis,) = found(measurements, codes.DCM.TotalLesionGlycolysis)
        assert glycolysis == (pytest.approx(own[state]["tlg"], rel=1e-6), "g")
        (ratio,) = [m.value for m in measurements if m.name.value == "SUVR"]
        assert ratio == pytest.approx(own[state]["suvr"], rel=1e-6)
    (mean,) = [m for m in groups[3].get_measurements(name=codes.DCM.Suvbw) if m.derivation == codes.SCT.Mean]
    ends = {item.name.value: item for item in mean[0].ContentSequence if item.ValueType == "NUM"}
    half = regions[5]["interval"]["high"] - regions[5]["restored"]["mean"]
    for code in ("371886008", "371885007"):  # upper and lower measurement uncertainty, in the unit of the mean
        assert float(ends[code].value) == pytest.approx(half, rel=1e-6)
        assert ends[code].unit.value == "{SUVbw}g/ml"
    assert segmentation.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Reference Region"


def coded(value: str, scheme: str, meaning: str, **more) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    for keyword, items in more.items():
        setattr(item, keyword, items)
    return item


def test_what_a_given_segmentation_says_of_its_segments_is_kept(case, tmp_path):
    """Category, type and anatomy with its side (PS3.3 C.8.20.4), in the SEG and as finding and site in the SR."""
    path = next((case("--sr") / "dicom/regions").iterdir())
    given = pydicom.dcmread(path)
    left = coded("7771000", "SCT", "Left")
    for segment in given.SegmentSequence[1:]:
        segment.SegmentedPropertyCategoryCodeSequence = [coded("49755003", "SCT", "Morphologically Abnormal Structure")]
        segment.SegmentedPropertyTypeCodeSequence = [
            coded("108369006", "SCT", "Neoplasm", SegmentedPropertyTypeModifierCodeSequence=[left])
        ]
        segment.AnatomicRegionSequence = [
            coded("78277001", "SCT", "Temporal lobe", AnatomicRegionModifierSequence=[left])
        ]
    given.save_as(tmp_path / "given.dcm")
    names = [str(segment.SegmentLabel) for segment in given.SegmentSequence]
    (tmp_path / "other.tsv").write_text("index\tname\n1\tCerebellum\n2\tOther name\n")
    folder = case("--sr", "--atlas", tmp_path / "given.dcm", "--labels", tmp_path / "other.tsv")
    written = highdicom.seg.segread(next((folder / "dicom/regions").iterdir()))
    assert [str(segment.SegmentLabel) for segment in written.SegmentSequence] == ["Cerebellum", "Other name"] != names
    for keyword in (
        "SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence", "AnatomicRegionSequence",
    ):  # fmt: skip
        assert written.SegmentSequence[1].get(keyword) == given.SegmentSequence[1].get(keyword)
    report = sr.srread(next((folder / "dicom/measurements").iterdir()))
    group = report.content.get_volumetric_roi_measurement_groups()[-1]
    assert (group.finding_category.meaning, group.finding_type.value) == (
        "Morphologically Abnormal Structure", "108369006",
    )  # fmt: skip
    assert [site.value.meaning for site in group.finding_sites] == ["Temporal lobe"]


def test_codes_that_are_none_are_left_out():
    """A type without a meaning is no code (PS3.3 8.8-1): then the segment keeps what it had, and that whole."""
    segment = Dataset()
    segment.SegmentedPropertyCategoryCodeSequence = [coded("91723000", "SCT", "Anatomical Structure")]
    segment.SegmentedPropertyTypeCodeSequence = [coded("10200004", "SCT", "")]
    assert codes_of(segment) == {}
    segment.SegmentedPropertyTypeCodeSequence = [coded("10200004", "SCT", "Liver")]
    assert codes_of(segment)["SegmentedPropertyTypeCodeSequence"][0]["CodeMeaning"] == "Liver"
    other = Dataset()
    put_codes(other, codes_of(segment))
    assert other == segment


def test_without_asking_there_is_none(case):
    folder = case()
    assert not (folder / "dicom/regions").exists()
    assert not (folder / "dicom/measurements").exists()


@pytest.mark.full
def test_dciodvfy_finds_no_error(case):
    if (tool := shutil.which("dciodvfy")) is None:
        pytest.skip("dciodvfy is not installed; its Debian package is in .ci/run")
    folder = case("--sr")
    for name in ("regions", "measurements"):
        path = next((folder / "dicom" / name).iterdir())
        done = subprocess.run([tool, "-new", str(path)], capture_output=True, text=True, check=False)
        assert done.stderr, "it names at least the kind of object"
        assert [line for line in done.stderr.splitlines() if line.startswith(("Error", "Abort"))] == []
