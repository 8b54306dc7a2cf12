"""What an RTSTRUCT says of its structures (PS3.3 C.8.8.8): read, and kept in the SEG and the SR of a case."""

from __future__ import annotations

import json
import shutil
import subprocess

import highdicom
import numpy as np
import pydicom
import pytest
from drawn_regions import ring, write_structures
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from medfuse import cli
from medfuse.errors import DicomError
from medfuse.io.dicom.coded import codes_of_structure
from medfuse.io.dicom.regions import read_regions

CATEGORY, TYPE = "SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence"
ROLE_CATEGORY, ROLE = "TherapeuticRoleCategoryCodeSequence", "TherapeuticRoleTypeCodeSequence"


def coded(value: str, scheme: str, meaning: str, **more) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    for keyword, items in more.items():
        setattr(item, keyword, items)
    return item


def observed(roi: int, kind: str = "", **sequences: list[Dataset]) -> Dataset:
    """Return an observation of a structure."""
    item = Dataset()
    item.ObservationNumber, item.ReferencedROINumber = roi, roi
    item.RTROIInterpretedType, item.ROIInterpreter = kind, ""
    for keyword, items in sequences.items():
        setattr(item, keyword, items)
    return item


def said(found: dict, keyword: str) -> list[tuple[str, str]]:
    return [(item["CodingSchemeDesignator"], item["CodeValue"]) for item in found.get(keyword, [])]


BODY = coded("91723000", "SCT", "Anatomical Structure")
LOBE = coded("78277001", "SCT", "Temporal lobe")


@pytest.mark.parametrize(
    ("kind", "sequences", "category", "type_", "role"),
    [
        # a code and its category, as they stand there
        ("ORGAN", {CATEGORY: [BODY], "RTROIIdentificationCodeSequence": [LOBE]}, "91723000", "78277001", None),
        # a role stands beside what the structure is
        (
            "GTV", {CATEGORY: [BODY], "RTROIIdentificationCodeSequence": [LOBE]}, "91723000", "78277001", "228791009",
        ),
        # a code without its category, as planning systems write them: FMA is anatomy, others are as their type says
        ("", {"RTROIIdentificationCodeSequence": [coded("7088", "FMA", "Heart")]}, "91723000", "7088", None),
        ("PTV", {"RTROIIdentificationCodeSequence": [coded("P1", "99VMS", "PTV High")]}, "130041", "P1", "228793007"),
        ("CONTROL", {"RTROIIdentificationCodeSequence": [coded("C1", "99VMS", "Control")]}, "130046", "C1", None),
        # the interpreted type alone, by C.8.8.8.3.1; ORGAN is mapped to nothing
        ("OAR", {}, "130042", "130060", "130060"),
        ("AVOIDANCE", {}, "130042", "130058", "130058"),
        ("CAVITY", {}, "91723000", "91806002", None),
        ("ORGAN", {}, None, None, None),
        # a role that is stated comes before that of the interpreted type
        (
            "PTV",
            {
                ROLE_CATEGORY: [coded("130041", "DCM", "RT Target")],
                ROLE: [coded("130053", "DCM", "PTV Nodal")],
            },
            "130041", "130053", "130053",
        ),
        # no whole code (8.8): without a meaning it says nothing
        ("", {CATEGORY: [BODY], "RTROIIdentificationCodeSequence": [coded("1", "SCT", "")]}, None, None, None),
    ],
)  # fmt: skip
def test_structures_are_what_their_observations_say(kind, sequences, category, type_, role):
    found = codes_of_structure([observed(1, kind, **sequences)])
    assert [value for _, value in said(found, CATEGORY)] == ([category] if category else [])
    assert [value for _, value in said(found, TYPE)] == ([type_] if type_ else [])
    assert [value for _, value in said(found, ROLE)] == ([role] if role else [])
    assert bool(said(found, ROLE_CATEGORY)) == bool(role)
    assert found.get("RTROIInterpretedType", "") == kind


def test_of_several_observations_each_adds_what_the_others_leave_out():
    found = codes_of_structure([observed(1, "GTV"), observed(1, "PTV", AnatomicRegionSequence=[LOBE])])
    assert (found["RTROIInterpretedType"], said(found, "AnatomicRegionSequence")) == ("GTV", [("SCT", "78277001")])
    assert codes_of_structure([]) == {}


def test_observations_go_to_the_structures_that_they_name(tmp_path):
    """By number, in whatever order, with the side of a code; one without observations has no codes."""
    rods = {name: [ring((x, -17.0), 4.0, 0.0)] for name, x in (("a", -16.0), ("b", 0.0), ("c", 16.0))}
    left = coded("7771000", "SCT", "Left")
    lobe = coded("78277001", "SCT", "Temporal lobe", SegmentedPropertyTypeModifierCodeSequence=[left])
    known = [observed(5, "OAR"), observed(3, "", **{CATEGORY: [BODY], "RTROIIdentificationCodeSequence": [lobe]})]
    write_structures(tmp_path / "rt.dcm", rods, observations=known)
    found = read_regions(tmp_path / "rt.dcm").codes
    assert sorted(found) == [3, 5]
    assert said(found[3][TYPE][0], "SegmentedPropertyTypeModifierCodeSequence") == [("SCT", "7771000")]
    assert found[5]["RTROIInterpretedType"] == "OAR"


def test_a_number_that_two_structures_have_is_refused(tmp_path):
    """Contours and observations name their structure by its number alone (C.8.8.5)."""
    write_structures(tmp_path / "rt.dcm", {"a": [ring((0, 0), 3, 0)], "b": [ring((5, 0), 3, 0)]})
    data = pydicom.dcmread(tmp_path / "rt.dcm")
    data.StructureSetROISequence[1].ROINumber = data.StructureSetROISequence[0].ROINumber
    data.save_as(tmp_path / "rt.dcm")
    with pytest.raises(DicomError, match="a number each, got one twice"):
        read_regions(tmp_path / "rt.dcm")


@pytest.fixture
def case(tmp_path, mri, pet, save):
    """Return the folder of a case that was measured in the structures of an RTSTRUCT, with its SEG and SR."""
    for name, scan in (("mri", mri), ("pet", pet)):
        save(scan.slices(), tmp_path / name)
    at = mri.affine[:3, :3] @ ((np.array(mri.volume.shape) - 1) / 2) + mri.affine[:3, 3]
    across, along = (mri.affine[:3, k] for k in (0, 1))
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)

    def disc(shift: float, radius: float) -> list[np.ndarray]:
        points = [at + (shift + radius * np.cos(a)) * across + radius * np.sin(a) * along for a in angles]
        return [np.array(points) * [-1, -1, 1]]  # RAS to LPS

    lesion = {CATEGORY: [BODY], "RTROIIdentificationCodeSequence": [LOBE], "AnatomicRegionSequence": [LOBE]}
    own = {"RTROIIdentificationCodeSequence": [coded("PTV_High", "99VMS_STRUCTCODE", "PTV High")]}  # a private scheme
    known = [observed(3, "GTV", **lesion), observed(4, "ORGAN"), observed(5, "PTV", **own)]
    drawn = {"GTV 1": disc(0, 2), "Brain": disc(0, 5), "PTV 1": disc(0, 3)}
    write_structures(tmp_path / "rt.dcm", drawn, observations=known)
    data = pydicom.dcmread(tmp_path / "rt.dcm")
    for item in data.StructureSetROISequence:
        item.ReferencedFrameOfReferenceUID = mri.world
    data.save_as(tmp_path / "rt.dcm")
    (tmp_path / "noise.yaml").write_text("{version: 1, source2: [{noise: {sigma: 0.05}}]}")
    call = ["fuse", "--mri", tmp_path / "mri", "--pet", tmp_path / "pet", "--mask", tmp_path / "rt.dcm", "--aligned"]
    call += ["--degradation", tmp_path / "noise.yaml", "--out", tmp_path / "out", "--sr"]
    assert cli.main([str(word) for word in call]) == 0
    return tmp_path / "out" / "case"


def test_codes_of_structures_are_kept_in_segmentation_and_report(case):
    record = json.loads((case / "case.json").read_text())
    regions = {r["name"]: r for r in record["sources"]["pet"]["regions"] if r["label"] is not None}
    assert {name: r["codes"]["RTROIInterpretedType"] for name, r in regions.items()} == {
        "GTV 1": "GTV", "Brain": "ORGAN", "PTV 1": "PTV",
    }  # fmt: skip
    found = {}
    for path in (case / "dicom/regions").iterdir():  # they overlap
        for segment in highdicom.seg.segread(path).SegmentSequence:
            types = (segment.segmented_property_category.value, segment.segmented_property_type.value)
            found[str(segment.SegmentLabel)] = (*types, str(segment.SegmentDescription))
    assert found == {
        "GTV 1": ("91723000", "78277001", "RT ROI Interpreted Type GTV"),
        "Brain": ("309825002", "85756007", "RT ROI Interpreted Type ORGAN"),
        "PTV 1": ("130041", "PTV_High", "RT ROI Interpreted Type PTV"),
    }
    report = sr.srread(next((case / "dicom/measurements").iterdir()))
    groups = {g.tracking_identifier: g for g in report.content.get_volumetric_roi_measurement_groups()}
    lesion = groups["GTV 1, PET restored"]
    assert (lesion.finding_category.value, lesion.finding_type.value) == ("91723000", "78277001")
    assert [site.value.meaning for site in lesion.finding_sites] == ["Temporal lobe"]
    target = codes.DCM.RTTarget
    roles = {
        name: [e.value.value for e in groups[f"{name}, PET given"].get_qualitative_evaluations(name=target)]
        for name in ("GTV 1", "Brain", "PTV 1")
    }
    assert roles == {"GTV 1": ["228791009"], "Brain": [], "PTV 1": ["228793007"]}


@pytest.mark.full
def test_dciodvfy_finds_no_error(case):
    if (tool := shutil.which("dciodvfy")) is None:
        pytest.skip("dciodvfy is not installed; its Debian package is in .ci/run")
    for path in [*(case / "dicom/regions").iterdir(), *(case / "dicom/measurements").iterdir()]:
        done = subprocess.run([tool, "-new", str(path)], capture_output=True, text=True, check=False)
        assert done.stderr, "it names at least the kind of object"
        assert [line for line in done.stderr.splitlines() if line.startswith(("Error", "Abort"))] == []
