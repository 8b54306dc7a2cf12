"""Nothing that names a patient is in any output: every byte is looked through, packed or encoded ones unpacked."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import io
import logging
import re
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from medfuse import cli
from medfuse.io import write_nifti

_spec = importlib.util.spec_from_file_location("canary_scans", Path(__file__).parent / "io" / "conftest.py")
scans = importlib.util.module_from_spec(_spec)
sys.modules["canary_scans"] = scans  # dataclasses look there
_spec.loader.exec_module(scans)

NAME, ID, BIRTH, ACCESSION = "ZQXNAME^ZQXGIVEN", "ZQXID-4711", "19010203", "ZQXACC-99"
STUDY, INSTITUTION, OPERATOR, PRIVATE = "ZQXSTUDY", "ZQXCLINIC", "ZQXOPERATOR", "ZQXPRIVATE"
FOLDER, FILE = "ZQXFOLDER", "ZQXFILE"
CANARIES = (
    "ZQXNAME",
    "ZQXGIVEN",
    ID,
    BIRTH,
    ACCESSION,
    STUDY,
    INSTITUTION,
    OPERATOR,
    PRIVATE,
    FOLDER,
    FILE,
    "ZQXINTENT",
    "CANARY",
)
# What a PACS files a derived image by is the patient's, on purpose: these elements and no others
FILED = {
    "PatientName": NAME,
    "PatientID": ID,
    "PatientBirthDate": BIRTH,
    "AccessionNumber": ACCESSION,
    "StudyDescription": STUDY,
    "ReferringPhysicianName": OPERATOR,
}


def study(folder: Path) -> None:
    """Write an MRI and a PET that are full of canaries, in folders and files that are."""
    rng = np.random.default_rng(0)
    blob = 900.0 * (np.linalg.norm(np.indices((5, 24, 28)) - [[[[2]]], [[[12]]], [[[14]]]], axis=0) < 9)
    mri = scans.Scan(stored=(blob + rng.uniform(0, 90, blob.shape)).astype(np.int16))
    pet = mri.change(modality="PT", slopes=(1.0,) * 5, series="1.2.826.0.1.7.2")
    for name, scan in (("MR", mri), ("PT", pet)):
        datasets = scan.slices()
        for dataset in datasets:
            dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = NAME, ID, BIRTH
            dataset.AccessionNumber, dataset.StudyDescription, dataset.InstitutionName = ACCESSION, STUDY, INSTITUTION
            dataset.SeriesDescription = dataset.ProtocolName = dataset.PatientComments = STUDY
            dataset.OperatorsName = dataset.ReferringPhysicianName = OPERATOR
            for agent in dataset.get("RadiopharmaceuticalInformationSequence", []):
                agent.Radiopharmaceutical = "FDG"  # a PET is worth nothing without it
            dataset.private_block(0x0099, "CANARY MAKER").add_new(2, "LO", PRIVATE)
        scans.write(datasets, folder / f"{FOLDER}_{name}", name=FILE + "_{}.dcm")


def pair(folder: Path) -> list[Path]:
    """Write an MRI and a PET as NIfTI whose headers, folders and names are full of canaries."""
    folder.mkdir(parents=True)
    paths = []
    for seed, name in enumerate(("mri", "pet")):
        values = np.random.default_rng(seed).uniform(0, 9, (20, 24, 4)).astype(np.float32)
        image = nib.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0]))
        image.header["descrip"], image.header["aux_file"] = NAME.encode(), FILE.encode()
        image.header["db_name"], image.header["intent_name"] = ID.encode(), b"ZQXINTENT"
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", PRIVATE.encode()))
        paths.append(folder / f"{FILE}_{name}.nii.gz")
        nib.save(image, paths[-1])
    return paths


def layers(path: Path) -> list[bytes]:
    """Return the bytes of a file, and all that is packed in them."""
    content = path.read_bytes()
    found = [content]
    if path.suffix == ".gz":
        found.append(gzip.decompress(content))
    if path.suffix in (".html", ".svg"):
        payloads = re.findall(rb"[A-Za-z0-9+/]{200,}={0,2}", content)
        assert payloads or path.name == "index.html"
        for payload in payloads:
            found += _unpacked(base64.b64decode(payload[: len(payload) // 4 * 4]))
    if path.suffix == ".png":
        found += _unpacked(content)
    return found


def _unpacked(content: bytes) -> list[bytes]:
    if content[:2] == b"\x1f\x8b":
        return [content, gzip.decompress(content)]
    if content[:4] == b"\x89PNG":
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return [content, repr(image.info).encode(), repr(dict(image.getexif())).encode()]
    return [content]


def seen(content: bytes) -> list[str]:
    """Return the canaries in bytes, as text of 8 bits or of 16."""
    return [c for c in CANARIES if c.encode() in content or c.encode("utf-16-le") in content]


def patient_elements(path: Path, allowed: dict[str, str]) -> dict[str, str]:
    """Return which elements of a DICOM file hold canaries, once all others are found free of them."""
    found = {}

    def look(dataset: pydicom.Dataset, place: str) -> None:
        for element in dataset:
            if element.VR == "SQ":
                for item in element.value:
                    look(item, f"{place}{element.keyword}.")
            elif seen(str(element.value).encode() if not isinstance(element.value, bytes) else element.value):
                found[place + (element.keyword or str(element.tag))] = str(element.value)

    with pydicom.dcmread(path) as dataset:
        look(dataset, "")
        look(dataset.file_meta, "meta.")
        assert not seen(dataset.preamble or b"")
        for keyword in allowed:
            assert keyword in dataset
            del dataset[keyword]
        stream = io.BytesIO()
        dataset.save_as(stream)
    assert not seen(stream.getvalue())
    return found


def look_through(out: Path, filed: dict[str, str]) -> set[str]:
    """Assert that no file of an output holds a canary but where it is filed by; return the suffixes that were seen."""
    suffixes = set()
    for path in out.rglob("*"):
        assert not seen(path.relative_to(out).as_posix().encode())
        if not path.is_file():
            continue
        suffixes.add(path.suffix)
        if path.suffix == ".dcm":
            assert patient_elements(path, filed) == filed, path.parent.name
        else:
            assert not [c for layer in layers(path) for c in seen(layer)], path.name
    return suffixes


@pytest.fixture
def told(capfd, caplog):
    """Return a function that gives all that was printed or logged, from within libraries, too."""
    caplog.set_level(logging.DEBUG)

    def everything() -> bytes:
        printed = capfd.readouterr()
        return (printed.out + printed.err + caplog.text).encode()

    return everything


@pytest.mark.full
@pytest.mark.parametrize("hidden", [False, True])
def test_fuse_of_dicom_files_by_the_patient_and_tells_nothing_else(tmp_path, monkeypatch, told, hidden):
    study(tmp_path / FOLDER)
    monkeypatch.chdir(tmp_path)
    call = ["fuse", "--dicom", str(tmp_path / FOLDER), "--out", "out", "--degradation", "composite"]
    assert cli.main([*call, "--deidentified"] if hidden else call) == 0
    suffixes = look_through(tmp_path / "out", {} if hidden else FILED)
    assert suffixes == {".gz", ".dcm", ".png", ".jpg", ".html", ".json", ".tsv"}
    assert not seen(told())


@pytest.mark.full
def test_fuse_of_nifti_tells_nothing(tmp_path, monkeypatch, told):
    mri, pet = pair(tmp_path / FOLDER)
    monkeypatch.chdir(tmp_path)
    call = ["fuse", "--mri", str(mri), "--pet", str(pet), "--out", "out", "--degradation", "composite"]
    assert cli.main(call) == 0
    assert look_through(tmp_path / "out", {}) >= {".gz", ".png", ".html", ".json"}
    assert not seen(told())


@pytest.mark.full
def test_batch_and_group_tell_nothing(tmp_path, monkeypatch, told):
    """Of DICOM studies, one of them broken, in folders that are called after the patient."""
    study(tmp_path / "in" / NAME / "a")
    study(tmp_path / "in" / f"{NAME} 2")
    broken = sorted((tmp_path / "in" / f"{NAME} 2").rglob("*.dcm"))
    for path in broken:
        with pydicom.dcmread(path) as dataset:
            dataset.StudyInstanceUID = "1.2.9"
            dataset.save_as(path)
    broken[2].write_bytes(broken[2].read_bytes()[:-100])
    monkeypatch.chdir(tmp_path)
    assert cli.main(["batch", "in", "out", "participant", "--steps", "1", "--device", "cpu"]) == 1
    assert cli.main(["batch", "in", "out", "group"]) == 0
    assert look_through(tmp_path / "out", FILED) >= {".gz", ".dcm", ".png", ".html", ".json", ".tsv"}
    assert not seen(told())


def test_the_search_finds_what_is_hidden(tmp_path):
    """A search that found nothing anywhere would pass all the tests above."""
    packed = base64.b64encode(gzip.compress(FILE.encode() + np.random.default_rng(0).bytes(300)))
    (tmp_path / "a.html").write_bytes(b"<p>" + packed)
    write_nifti(tmp_path / "b.nii.gz", np.ones((2, 2, 2)), np.eye(4), unit_description=FILE)
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Author", FILE, zip=True)
    Image.new("L", (4, 4)).save(tmp_path / "c.png", pnginfo=info)
    (tmp_path / "d.json").write_bytes(FILE.encode("utf-16-le"))
    for path in tmp_path.iterdir():
        assert [c for layer in layers(path) for c in seen(layer)], path.name
