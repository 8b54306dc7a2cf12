"""A PACS between the input and the output: what Orthanc takes and gives back, by DICOM and by its own decoder."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from orthanc import Pacs
from PIL import Image
from pydicom import config
from pydicom.dataset import Dataset

from medfuse import cli
from medfuse.io import DicomReader, list_series

pytestmark = pytest.mark.full
KINDS = {"pet_restored": 28, "fused": 1, "fused_rgb": 28, "fused_rgb_multiframe": 1}


@pytest.fixture(scope="module")
def study(shared_data) -> Path:
    return shared_data / "volumes" / "dicom" / "STS_008"


@pytest.fixture(scope="module")
def fused(study, tmp_path_factory) -> Path:
    """Return the folder of the study's results."""
    out = tmp_path_factory.mktemp("fused")
    assert cli.main(["fuse", "--dicom", str(study), "--out", str(out), "--case", "sts"]) == 0
    return out / "sts"


@pytest.fixture(scope="module")
def pacs(tmp_path_factory) -> Iterator[Pacs]:
    pacs = Pacs(tmp_path_factory.mktemp("orthanc"))
    yield pacs
    pacs.stop()


def read(folder: Path) -> dict[str, Dataset]:
    """Return the images of a folder by UID."""
    images = [pydicom.dcmread(path) for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(image.SOPInstanceUID): image for image in images}


@pytest.fixture(scope="module")
def sent(study, fused) -> dict[str, Dataset]:
    return {**read(study), **read(fused / "dicom")}


@pytest.fixture(scope="module")
def fetched(pacs, study, fused, sent, tmp_path_factory) -> Path:
    """Return a folder with all that the archive holds, after study and results were sent to it."""
    pacs.store(study, fused / "dicom")
    folder = tmp_path_factory.mktemp("back") / "study"
    pacs.move(next(iter(sent.values())).StudyInstanceUID, folder)
    return folder


def test_the_results_are_filed_under_the_patient_and_the_study(pacs, fetched, sent):
    assert json.loads(pacs.ask("/statistics"))["CountPatients"] == 1
    (study,) = {str(image.StudyInstanceUID) for image in sent.values()}
    assert pacs.find(study) == {str(image.SeriesInstanceUID) for image in sent.values()}


def test_every_image_comes_back_as_it_was_sent(fetched, sent):
    back = read(fetched)
    assert back.keys() == sent.keys()
    with config.disable_value_validation():  # a text of the published files is longer than it may be
        for uid, image in sent.items():
            assert back[uid] == image  # every element: values, geometry, UIDs, links


@pytest.mark.parametrize("kind", KINDS)
def test_links_lead_to_images_of_the_archive_in_the_world_of_the_mri(fetched, fused, kind):
    back = read(fetched)
    world = next(image.FrameOfReferenceUID for image in back.values() if image.Modality == "MR")
    sources = {
        uid for uid, i in back.items() if i.Modality in ("MR", "PT") and i.get("ManufacturerModelName") != "medfuse"
    }
    results = [back[uid] for uid in read(fused / "dicom" / kind)]
    assert len(results) == KINDS[kind]
    for image in results:
        assert image.FrameOfReferenceUID == world
        frames = image.SharedFunctionalGroupsSequence[0] if kind == "fused" else image
        links = frames.DerivationImageSequence[0] if kind == "fused" else frames
        linked = {str(i.ReferencedSOPInstanceUID): i.ReferencedSOPClassUID for i in links.SourceImageSequence}
        assert linked.keys() == sources
        assert all(back[uid].SOPClassUID == sop_class for uid, sop_class in linked.items())


def test_orthanc_decodes_what_we_wrote(pacs, fetched, fused):
    """Its own decoder sees the pixels: PET and colour; it has none for floating point."""
    for image in read(fused / "dicom" / "pet_restored").values():
        png = pacs.ask(f"{pacs.instance(image.SOPInstanceUID)}/image-uint16")
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), image.pixel_array)
    for image in read(fused / "dicom" / "fused_rgb").values():
        png = pacs.ask(f"{pacs.instance(image.SOPInstanceUID)}/preview")
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), image.pixel_array)
    (image,) = read(fused / "dicom" / "fused_rgb_multiframe").values()
    for k, frame in enumerate(image.pixel_array):
        png = pacs.ask(f"{pacs.instance(image.SOPInstanceUID)}/frames/{k}/preview")
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), frame)


def test_what_comes_back_is_fused_as_before(fetched, fused, tmp_path):
    """The results of the first run are in the folder, too; they are no sources of the second."""
    series = list_series(fetched).series
    assert [s.modality for s in series if not s.is_result] == ["CT", "MR", "PT"]
    assert [s.modality for s in series if s.is_result] == ["PT"]
    assert cli.main(["fuse", "--dicom", str(fetched), "--out", str(tmp_path), "--case", "sts"]) == 0
    for name in ("fused", "pet_restored", "mri_restored", "weight", "fused_rgb"):
        first, second = (folder / f"sts_{name}.nii.gz" for folder in (fused, tmp_path / "sts"))
        assert first.read_bytes() == second.read_bytes()
    volume, meta = DicomReader().get_data(next(s.files for s in series if s.is_result))
    truth, told = DicomReader().get_data([fused / "dicom" / "pet_restored"])
    np.testing.assert_array_equal(volume, truth)
    assert meta["unit"] == told["unit"] == "SUV"
