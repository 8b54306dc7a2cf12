"""Regions that come with a study, or lie at a path: which are taken, and what is written of them."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from drawn_regions import ring, write_structures
from highdicom import sr
from listen.conftest import make_study

from medfuse import cli
from medfuse.errors import BundleError
from medfuse.listen.work import How, _fused, _regions_of
from medfuse.pipeline import load_workflow

ITEM = {"case": "study-1"}


def test_the_regions_of_a_study_are_those_that_came_with_it(tmp_path):
    assert _regions_of(ITEM, tmp_path, {}) == {}
    assert _regions_of(ITEM, tmp_path, {"mask": "study"}) == {}  # none came
    write_structures(tmp_path / "rt.dcm", {"Rod": [ring((0.0, 0.0), 5.0, 0.0)]})
    found = _regions_of(ITEM, tmp_path, {"mask": "study", "labels": "names.tsv"})
    assert found == {"mask": str(tmp_path / "rt.dcm"), "labels": "names.tsv"}
    write_structures(tmp_path / "again.dcm", {"Rod": [ring((0.0, 0.0), 5.0, 0.0)]})
    assert _regions_of(ITEM, tmp_path, {"mask": "study"}) == {"mask": str(tmp_path)}  # which of them, nobody knows


def test_a_path_holds_the_id_of_a_study(tmp_path):
    (tmp_path / "study-1.nii.gz").write_bytes(b"")
    where = str(tmp_path / "{case}.nii.gz")
    assert _regions_of(ITEM, tmp_path, {"atlas": where}) == {"mask": str(tmp_path / "study-1.nii.gz")}
    with pytest.raises(BundleError, match="--atlas must be there for each case, got none for study-2"):
        _regions_of({"case": "study-2"}, tmp_path, {"atlas": where})


def test_what_belongs_to_regions_does_not_come_without_any(tmp_path, capsys):
    assert cli.main(["listen", str(tmp_path / "queue"), "--sr"]) == 2
    assert "--sr must come with --mask or --atlas" in capsys.readouterr().err
    assert not (tmp_path / "queue").exists()


@pytest.mark.full
def test_a_study_with_a_structure_set_gets_a_measurement_report(tmp_path):
    datasets = make_study(1)
    folder = tmp_path / "study"
    folder.mkdir()
    for k, dataset in enumerate(datasets):
        dataset.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    first = datasets[0]
    position, spacing = np.array(first.ImagePositionPatient, float), np.array(first.PixelSpacing, float)
    rows = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    middle = position + rows[0] * spacing[1] * first.Columns / 2 + rows[1] * spacing[0] * first.Rows / 2
    planes = [d for d in datasets if d.Modality == "MR"][1:4]
    shifts = [np.array(d.ImagePositionPatient, float) - position for d in planes]
    circle = [np.cos(a) * rows[0] + np.sin(a) * rows[1] for a in np.linspace(0, 2 * np.pi, 40, endpoint=False)]
    write_structures(folder / "rt.dcm", {"Rod": [np.stack([middle + s + 12 * c for c in circle]) for s in shifts]})
    structures = pydicom.dcmread(folder / "rt.dcm")
    structures.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = first.FrameOfReferenceUID
    structures.save_as(folder / "rt.dcm")
    workflow = load_workflow(device="cpu", degradation="none", sr=True)
    outcome = _fused(workflow, "study-1", str(folder), str(tmp_path / "out"), How({}, regions={"mask": "study"}))
    assert outcome.message == ""
    report = sr.srread(next((tmp_path / "out/study-1/dicom/measurements").iterdir()))
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["Rod, PET given"]  # nothing was restored
