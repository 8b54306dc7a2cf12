"""SPECT and CT with an MRI as volumes, each from its files to the report that names it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from scipy import ndimage

from medfuse import cli
from medfuse.bundles import bundle_dir
from medfuse.errors import DicomError
from medfuse.io import discover
from medfuse.io.dicom import DicomReader, open_series

STEP, SHAPE, PSF = 4.8, (20, 18, 16), 10.0  # mm, voxels, mm
RAS = np.diag([-1.0, -1.0, 1.0])


def affine_of(position, along_row, along_column, step):
    """Return the affine, RAS, of frames whose first has its first pixel at a position, LPS (PS3.3 C.8.4.15)."""
    normal = np.cross(along_row, along_column)
    affine = np.eye(4)
    affine[:3] = RAS @ np.column_stack(
        [np.array(along_row) * STEP, np.array(along_column) * STEP, normal * step, position]
    )
    return affine


def write_nm(path, counts, *, position=(-45.6, -40.8, -36.0), turn=(1, 0, 0, 0, 1, 0), step=STEP, **changes):
    """Write a reconstructed SPECT **[X, Y, Z]** as gamma cameras do, with the place of its first slice."""
    image = Dataset()
    image.SOPClassUID, image.Modality = uid.NuclearMedicineImageStorage, "NM"
    image.SOPInstanceUID, image.StudyInstanceUID, image.SeriesInstanceUID = (uid.generate_uid() for _ in range(3))
    image.ImageType = ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]
    image.Columns, image.Rows, image.NumberOfFrames = counts.shape
    image.NumberOfSlices, image.SliceVector = counts.shape[2], list(range(1, counts.shape[2] + 1))
    image.FrameIncrementPointer = 0x00540080
    image.PixelSpacing, image.SliceThickness, image.SpacingBetweenSlices = [STEP, STEP], STEP, step
    detector = Dataset()
    detector.ImagePositionPatient, detector.ImageOrientationPatient = list(position), list(turn)
    image.DetectorInformationSequence = [detector]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 0
    image.PixelData = np.ascontiguousarray(counts.T).astype("<u2").tobytes()
    for name, value in changes.items():
        if value is None:
            delattr(image, name)
        else:
            setattr(image, name, value)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def counts():
    return np.random.default_rng(0).integers(0, 500, SHAPE)


@pytest.mark.parametrize("step", [STEP, -STEP])
@pytest.mark.parametrize("turn", [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, 0, -1)])
def test_slices_lie_along_the_normal_by_the_sign_of_their_spacing(tmp_path, counts, turn, step):
    """PS3.3 C.8.4.15: positive stacks behind the first slice, along row x column, negative before it."""
    path = write_nm(tmp_path / "nm.dcm", counts, turn=turn, step=step)
    volume, meta = DicomReader().get_data([path])
    expected = affine_of((-45.6, -40.8, -36.0), turn[:3], turn[3:], step)
    index = np.array([3, 5, 2, 1])
    found = np.linalg.inv(meta["affine"]) @ expected @ index
    assert volume[tuple(found[:3].round().astype(int))] == counts[3, 5, 2]
    assert found == pytest.approx(found.round(), abs=1e-4)
    assert open_series(tmp_path, modality="NM").shape == SHAPE


def test_the_slice_vector_tells_the_order_of_frames(tmp_path, counts):
    vector = [*range(SHAPE[2], 0, -1)]
    volume, _ = DicomReader().get_data([write_nm(tmp_path / "nm.dcm", counts, SliceVector=vector)])
    assert (volume == counts[..., ::-1]).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"SpacingBetweenSlices": None}, "SpacingBetweenSlices"),
        ({"SpacingBetweenSlices": 0}, "SpacingBetweenSlices"),
        ({"DetectorInformationSequence": None}, "ImagePositionPatient"),
        ({"NumberOfSlices": SHAPE[2] + 1}, "slices that it names"),
        ({"SliceVector": [1] * SHAPE[2]}, "one image at each place"),
        ({"SliceVector": [1, 2]}, "16 finite numbers"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "TOMO", "EMISSION"]}, "RECON TOMO"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "RECON GATED TOMO", "EMISSION"]}, "RECON TOMO"),
    ],
)
def test_what_is_no_volume_is_one_sentence(tmp_path, counts, changes, words):
    write_nm(tmp_path / "nm.dcm", counts, **changes)
    with pytest.raises(DicomError, match=words):
        open_series(tmp_path, modality="NM")


def bundle_of(folder, *, second):
    made = folder / f"{second}_mri_fusion"
    shutil.copytree(bundle_dir("pet_mri_fusion"), made, ignore=shutil.ignore_patterns("demo", "eval"))
    path = made / "configs" / "metadata.json"
    names = {"modalities": ["mri", second], "name": f"{second.upper()}-MRI fusion"}
    path.write_text(json.dumps(json.loads(path.read_text()) | names))
    return str(made)


@pytest.fixture(scope="module")
def ball(tmp_path_factory):
    """A ball with a core in an MRI of 3 mm, a SPECT of 4.8 mm blurred by 10 mm, and a CT."""
    folder = tmp_path_factory.mktemp("ball")
    at = (np.indices((32, 30, 28)) - np.array([15.5, 14.5, 13.5])[:, None, None, None]) * 3.0
    r = np.sqrt((at**2).sum(0))
    rng = np.random.default_rng(0)
    grid = np.diag([3.0, 3, 3, 1])
    grid[:3, 3] = [-46.5, -43.5, -40.5]
    mri = np.where(r < 18, 800.0, np.where(r < 34, 500.0, 0.0)) + rng.normal(0, 8, r.shape)
    nib.save(nib.Nifti1Image(mri.clip(0).astype("f4"), grid), folder / "mri.nii.gz")
    truth = np.where(r < 18, 100.0, np.where(r < 34, 400.0, 0.0))
    blurred = ndimage.gaussian_filter(truth, PSF / 2.3548 / 3, mode="constant")
    lps = affine_of((-45.6, -40.8, -36.0), (1, 0, 0), (0, 1, 0), STEP)
    index = np.linalg.inv(grid) @ lps @ np.concatenate([np.indices(SHAPE).reshape(3, -1), np.ones((1, np.prod(SHAPE)))])
    clean = ndimage.map_coordinates(blurred, index[:3], order=3).reshape(SHAPE).clip(0)
    counts = rng.poisson(clean)
    write_nm(folder / "nm" / "spect.dcm", counts)
    nib.save(nib.Nifti1Image(counts.astype("f4"), lps), folder / "spect.nii.gz")
    ct = np.where(r < 34, np.where(r < 30, 40.0, 700.0), -1000.0) + rng.normal(0, 5, r.shape)
    nib.save(nib.Nifti1Image(ct.astype("i2"), grid), folder / "ct.nii.gz")
    return {"folder": folder, "truth": truth, "r": r, "ct": ct}


def seen(page: Path) -> str:
    return re.sub(r"<script.*?</script>|base64,[^\"]*", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_spect_is_restored_from_dicom_to_the_report(ball, tmp_path):
    """On its own grid, with a PSF of 10 mm, sharper than it was, and named for what it is in every output."""
    out, folder = tmp_path / "out", ball["folder"]
    given = ["--mri", str(folder / "mri.nii.gz"), "--spect", str(folder / "nm"), "--aligned", "--psf", "10"]
    words = ["--bundle", bundle_of(tmp_path, second="spect"), "--out", str(out), "--steps", "1"]
    assert cli.main(["fuse", *given, *words]) == 0
    case = out / "case"
    restored = nib.load(case / "case_spect_restored.nii.gz").get_fdata()
    core = ball["r"] < 15  # 100, into which the 400 round it are blurred
    raw = nib.load(folder / "spect.nii.gz").get_fdata()
    assert abs(restored[core].mean() - 100) < 0.5 * abs(raw[8:12, 7:11, 6:10].mean() - 100)
    assert restored[ball["r"] < 36].sum() == pytest.approx(ball["truth"].sum(), rel=0.01)
    record = json.loads((case / "case.json").read_text())
    assert set(record["sources"]) == {"mri", "spect"}
    native = record["sources"]["spect"]["native"]
    assert native["psf_fwhm_mm"] == [10.0, 10.0, 10.0]
    assert native["noise"]["sigma"] == pytest.approx(1, rel=0.1)  # counts
    assert native["noise"]["growth"] == 0.5
    assert 0.85 < native["corrected_chi2"] < 1.15
    text = seen(case / "case_report.html")
    assert "SPECT-MRI fusion report" in text
    assert "SPECT on its own grid" in text
    assert not re.search(r"\bPET\b", text)


def test_ct_keeps_its_offset_from_file_to_the_report(ball, tmp_path):
    """HU may be negative; nothing is stated of the CT, so it comes back as it was."""
    out, folder = tmp_path / "out", ball["folder"]
    given = ["--mri", str(folder / "mri.nii.gz"), "--ct", str(folder / "ct.nii.gz"), "--ct-unit", "HU", "--aligned"]
    bundle = bundle_of(tmp_path, second="ct")
    assert cli.main(["fuse", *given, "--bundle", bundle, "--out", str(out), "--steps", "1"]) == 0
    case = out / "case"
    restored = nib.load(case / "case_ct_restored.nii.gz").get_fdata()
    assert restored[0, 0, 0] == pytest.approx(-1000, abs=40)
    assert np.abs(restored - ball["ct"].astype("i2")).max() < 1
    record = json.loads((case / "case.json").read_text())
    assert record["sources"]["ct"]["unit"] == "HU"
    text = seen(case / "case_report.html")
    assert "CT-MRI fusion report" in text
    assert not re.search(r"\bPET\b", text)
    assert cli.main(["fuse", *given, "--bundle", bundle, "--out", str(out), "--psf", "6", "--replace"]) == 2


def test_spect_is_found_in_a_dataset(ball, tmp_path):
    """BIDS has no datatype of SPECT yet; `spect/*_spect.nii.gz` is what is in use."""
    place = tmp_path / "bids" / "sub-01"
    for folder, name in (("anat", "T1w"), ("spect", "spect")):
        (place / folder).mkdir(parents=True)
        source = ball["folder"] / ("mri.nii.gz" if name == "T1w" else "spect.nii.gz")
        shutil.copy(source, place / folder / f"sub-01_{name}.nii.gz")
    (tmp_path / "bids" / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    (case,) = discover(tmp_path / "bids", keys=("mri", "spect")).cases
    assert case["spect"].endswith("sub-01_spect.nii.gz")
