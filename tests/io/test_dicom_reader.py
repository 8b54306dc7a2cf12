"""DICOM as MONAI reads it, and the real data of the sarcoma patients."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, decollate_batch
from monai.transforms import LoadImage, LoadImaged

from medfuse.errors import BundleError, DicomError, ImageError
from medfuse.io import DicomReader, VolumeReader, find_cases, open_series, series_suv
from medfuse.io.dicom.reader import FRAME_OF_REFERENCE
from medfuse.io.suv import KINDS
from medfuse.pipeline import DescribeSourcesd
from medfuse.transforms import RegisterRigidd, spatial


def test_reader_gives_rescaled_float32_and_geometry(tmp_path, mri, save):
    save(mri.slices(), tmp_path)
    # Going through the dotted name, as a bundle's configuration does
    loaded = LoadImaged(keys="mri", reader="medfuse.io.DicomReader", ensure_channel_first=True)({"mri": str(tmp_path)})
    image = loaded["mri"]
    assert image.shape == (1, 40, 34, 5)
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(image[0].numpy(), mri.volume)
    np.testing.assert_allclose(image.affine.numpy(), mri.affine, atol=1e-7)
    assert (image.meta["modality"], image.meta["unit"]) == ("MR", "a.u.")
    assert image.meta[spatial.FRAME_OF_REFERENCE] == mri.world
    assert "suv" not in image.meta


def test_the_key_of_the_frame_of_reference_is_that_of_the_transforms():
    assert FRAME_OF_REFERENCE == spatial.FRAME_OF_REFERENCE


def test_a_pet_becomes_suv(tmp_path, pet, save):
    save(pet.slices(), tmp_path)
    volume, meta = DicomReader().get_data([tmp_path])
    np.testing.assert_allclose(volume, pet.volume * 2.7633668e-4, rtol=1e-6)
    assert meta["unit"] == "SUV"
    assert meta["suv"]["kind"] == "bw"
    activity, meta = DicomReader(suv="none").get_data([tmp_path])
    np.testing.assert_allclose(activity, pet.volume, rtol=1e-6)
    assert meta["unit"] == "Bq/ml"


def test_what_is_missing_for_suv_leaves_the_unit_of_the_file_or_is_refused(tmp_path, pet, save):
    datasets = pet.slices()
    for dataset in datasets:
        del dataset.PatientWeight
    save(datasets, tmp_path)
    volume, meta = DicomReader().get_data([tmp_path])
    np.testing.assert_allclose(volume, pet.volume, rtol=1e-6)
    assert (meta["unit"], meta["suv"]["kind"]) == ("Bq/ml", "none")
    assert "PatientWeight must be" in meta["suv"]["reason"]
    with pytest.raises(DicomError, match=r"PatientWeight must be 0\.2 to 700 kg for this SUV, got none; say it in suv"):
        DicomReader(suv="bw").get_data([tmp_path])
    (tmp_path / "suv.json").write_text(json.dumps({"PatientWeight": 70.0}))
    volume, meta = DicomReader(suv="bw").get_data([tmp_path])
    np.testing.assert_allclose(volume, pet.volume * 2.7633668e-4, rtol=1e-6)
    assert meta["suv"]["overridden"] == "PatientWeight"


@pytest.mark.parametrize("content", ["{", "[1]", '"' + "x" * 70_000 + '"'])
def test_a_broken_sidecar_is_refused(tmp_path, pet, save, content):
    save(pet.slices(), tmp_path)
    (tmp_path / "suv.json").write_text(content)
    with pytest.raises(DicomError, match=r"suv\.json must"):
        DicomReader().get_data([tmp_path])


def test_other_units(tmp_path, pet, save):
    for units, expected in (("CNTS", "counts"), ("GML", "SUV"), ("PROPCPS", "a.u."), ("", "a.u.")):
        datasets = pet.change(slopes=(0.001,) * 5).slices()
        for dataset in datasets:
            dataset.Units = units
        save(datasets, tmp_path)
        assert DicomReader().get_data([tmp_path])[1]["unit"] == expected
    save(pet.change(modality="CT").slices(), tmp_path / "ct")
    assert DicomReader().get_data([tmp_path / "ct"])[1]["unit"] == "HU"


def test_private_tags_count_only_under_their_maker(tmp_path, pet, save):
    for maker, factor in (("Philips PET Private Group", 0.5), ("CANARY^NAME", None)):
        datasets = pet.slices()
        for dataset in datasets:
            dataset.Units = "CNTS"
            dataset.private_block(0x7053, maker, create=True).add_new(0, "DS", "0.5")
        save(datasets, tmp_path / maker[:3])
        found = series_suv(open_series(tmp_path / maker[:3]))
        assert found.record["kind"] == ("bw" if factor else "none")
        assert found.factor == (factor or 1.0)


def test_ge_tells_the_start_of_the_scan(tmp_path, pet, save):
    datasets = pet.slices()
    for dataset in datasets:
        dataset.SeriesTime = "150000"
        dataset.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20240229113000.00")
    save(datasets, tmp_path)
    found = series_suv(open_series(tmp_path), "bw")
    assert found.factor == pytest.approx(2.7633668e-4, rel=1e-7)
    assert found.record["rule"].endswith("the GE scan time")


def test_time_zones(tmp_path, pet, save):
    """The injection is told in UTC, the scan in a zone two hours ahead, over midnight and into another month."""
    datasets = pet.slices()
    for dataset in datasets:
        dataset.TimezoneOffsetFromUTC = "+0200"
        dataset.SeriesDate = dataset.AcquisitionDate = "20240301"
        dataset.SeriesTime = dataset.AcquisitionTime = "003000"
        (agent,) = dataset.RadiopharmaceuticalInformationSequence
        agent.RadiopharmaceuticalStartDateTime = "20240229213000.000000+0000"
    save(datasets, tmp_path)
    found = series_suv(open_series(tmp_path), "bw")
    assert found.factor == pytest.approx(2.7633668e-4, rel=1e-7)
    assert found.record["injection_has_a_date"] is True


def test_reader_errors_reach_the_caller_unchanged(tmp_path, mri, save):
    """MONAI hides errors of `read`; those of `get_data` pass."""
    with pytest.raises(DicomError, match="must exist"):
        LoadImage(reader=DicomReader())(tmp_path / "absent")
    save(mri.slices()[:2] + mri.slices()[3:], tmp_path)
    with pytest.raises(DicomError, match="add the missing slice"):
        LoadImage(reader=DicomReader())(tmp_path)


def test_options(tmp_path, mri, pet, save):
    save(mri.slices() + pet.slices(), tmp_path)
    assert DicomReader(modality="PT").get_data([tmp_path])[1]["modality"] == "PT"
    assert DicomReader(series_uid=mri.series).get_data([tmp_path])[1]["modality"] == "MR"
    with pytest.raises(DicomError, match=r"got 2 \("):
        DicomReader().get_data([tmp_path])
    with pytest.raises(DicomError, match="suv must be one of auto, bw"):
        DicomReader(suv="weight")
    with pytest.raises(DicomError, match="no options"):
        DicomReader().read(tmp_path, swap=True)
    assert DicomReader().verify_suffix([tmp_path])
    assert not DicomReader().verify_suffix("a.nii.gz")
    save(mri.change(stored=np.ones((3, 4, 4), np.int16), series="1.2.3").slices(), tmp_path / "flat")
    with pytest.raises(DicomError, match="must show something"):
        DicomReader().get_data([tmp_path / "flat"])
    assert DicomReader(allow_constant=True).get_data([tmp_path / "flat"])[0].max() == 1


def test_one_reader_reads_both_formats(tmp_path, mri, save):
    save(mri.slices(), tmp_path / "mri.d")
    nib.save(nib.Nifti1Image(mri.volume.astype(np.float32), mri.affine), tmp_path / "mri.nii.gz")
    load = LoadImage(reader="medfuse.io.VolumeReader")
    dicom, nifti = load(tmp_path / "mri.d"), load(tmp_path / "mri.nii.gz")
    assert torch.equal(dicom.as_tensor(), nifti.as_tensor())
    np.testing.assert_allclose(dicom.affine.numpy(), nifti.affine.numpy(), atol=1e-5)
    assert VolumeReader().verify_suffix("anything")
    with pytest.raises(ImageError, match="none there"):
        load(tmp_path / "absent.nii")
    with pytest.raises(DicomError, match="must exist"):
        load(tmp_path / "absent")


def test_sources_are_described_and_the_series_chosen(tmp_path, mri, pet, save):
    other = mri.change(series="1.2.826.0.1.7.8")
    paths = save(mri.slices() + pet.slices() + other.slices(), tmp_path)
    describe = DescribeSourcesd(("mri", "pet"), modality=("MR", "PT"))
    item = {"case": "a", "mri": str(tmp_path), "pet": str(tmp_path), "mri_series": other.series}
    result = describe(item)
    assert sorted(result["mri"]) == sorted(str(p) for p in paths[10:])
    assert sorted(result["pet"]) == sorted(str(p) for p in paths[5:10])
    assert len(result["pet_sha256"]) == 64
    assert "pet_unit" not in result

    paths[7].rename(tmp_path / "renamed")  # the hash is of the contents, whatever the names
    assert describe(item)["pet_sha256"] == result["pet_sha256"]
    data = (tmp_path / "renamed").read_bytes()
    (tmp_path / "renamed").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert describe(item)["pet_sha256"] != result["pet_sha256"]

    with pytest.raises(BundleError, match="pet_unit of case a must be left to the DICOM headers"):
        describe(item | {"pet_unit": "SUV"})
    with pytest.raises(DicomError, match=r"must hold one MR series, got 2"):
        describe({k: v for k, v in item.items() if k != "mri_series"})


def test_record_and_unit_survive_the_batches_of_a_loader(tmp_path, mri, pet, save):
    save(mri.slices() + pet.slices(), tmp_path)
    load = LoadImaged(("mri", "pet"), reader="medfuse.io.VolumeReader", ensure_channel_first=True)
    item = DescribeSourcesd(("mri", "pet"), modality=("MR", "PT"))({"mri": str(tmp_path), "pet": str(tmp_path)})
    (batch,) = DataLoader(Dataset([item], load), batch_size=1)
    (result,) = decollate_batch(batch)
    assert result["pet"].meta["unit"] == "SUV"
    assert result["pet"].meta["suv"] == series_suv(open_series(tmp_path, modality="PT")).record


def test_images_of_one_frame_of_reference_are_not_registered(tmp_path, mri, pet, save):
    for world, performed in ((mri.world, False), ("1.2.3", None)):
        save(mri.slices() + pet.change(world=world).slices(), tmp_path)
        images = {
            key: LoadImage(reader=DicomReader(modality=m), ensure_channel_first=True)(tmp_path)
            for key, m in (("mri", "MR"), ("pet", "PT"))
        }
        why = RegisterRigidd()._aligned(images, images["pet"], images["mri"])
        assert bool(why) is (performed is False)


class TestCases:
    def test_folders_of_dicom_are_sources(self, tmp_path, mri, pet, save):
        save(mri.slices(), tmp_path / "a" / "MRI" / "deep")
        save(pet.slices(), tmp_path / "a" / "pet")
        save(mri.slices(), tmp_path / "b" / "t1")
        nib.save(nib.Nifti1Image(np.eye(3)[None], np.eye(4)), tmp_path / "b" / "pet.nii.gz")
        (tmp_path / "a" / "case.json").write_text(json.dumps({"pet_series": pet.series}))
        save(mri.slices(), tmp_path / "c" / "other")
        cases = find_cases(tmp_path)
        assert cases == [
            {"case": "a", "mri": str(tmp_path / "a/MRI"), "pet": str(tmp_path / "a/pet"), "pet_series": pet.series},
            {"case": "b", "mri": str(tmp_path / "b/t1"), "pet": str(tmp_path / "b/pet.nii.gz")},
        ]

    def test_two_sources_for_one_key_are_refused(self, tmp_path, mri, save):
        save(mri.slices(), tmp_path / "a" / "mri")
        (tmp_path / "a" / "mri.nii").write_bytes(b"")
        with pytest.raises(BundleError, match=r"must have one file for mri, got 'mri\.nii' and 'mri'"):
            find_cases(tmp_path)

    def test_a_folder_without_dicom_is_none(self, tmp_path, mri, save):
        save(mri.slices(), tmp_path / "a" / "mri")
        (tmp_path / "a" / "pet").mkdir()
        (tmp_path / "a" / "pet" / "notes.txt").write_text("x" * 200)
        with pytest.raises(BundleError, match="Case a must have mri and pet, got mri; add pet"):
            find_cases(tmp_path)


# ------------------------------------------------------------------------------------------------------- the real data
def compared(volume: np.ndarray, affine: np.ndarray, path) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the values of both at the voxels of a NIfTI that crops the volume, and how far these lie off, mm."""
    image = nib.load(path)
    expected = np.asarray(image.dataobj, dtype=np.float64)
    voxels = np.stack(np.meshgrid(*map(np.arange, expected.shape), indexing="ij"), -1).reshape(-1, 3)
    world = voxels @ image.affine[:3, :3].T + image.affine[:3, 3]
    inverse = np.linalg.inv(affine)
    index = world @ inverse[:3, :3].T + inverse[:3, 3]
    near = np.rint(index).astype(int)
    off = np.linalg.norm((index - near) @ affine[:3, :3].T, axis=1).max()
    assert ((near >= 0) & (near < volume.shape)).all()
    return volume[tuple(near.T)].astype(np.float64), expected.ravel(), float(off)


def test_real_raw_pet_becomes_the_suv_of_the_collection(shared_data):
    """A GE Discovery ST: 267 slices with a slope each, BQML, decay to the start of the series."""
    volume, meta = DicomReader(suv="bw").get_data([shared_data / "volumes/dicom/STS_001_FDG_PET_raw"])
    ours, theirs, off = compared(volume, meta["affine"], shared_data / "volumes/sts/STS_001/PET_image.nii.gz")
    assert off < 1e-4
    assert ours @ theirs / (theirs @ theirs) == pytest.approx(1.0, abs=1e-3)
    assert np.abs(ours - theirs).max() < 1e-3
    assert np.corrcoef(ours, theirs)[0, 1] > 0.999999
    assert meta["suv"]["seconds_after_injection"]["SeriesTime"] == 2711
    assert meta["suv"]["tags"]["DecayCorrection"] == "START"


@pytest.mark.parametrize(("modality", "name", "unit"), [("PT", "PET", "SUV"), ("MR", "MR_T1", "a.u.")])
def test_real_study_agrees_with_the_collection(shared_data, modality, name, unit):
    volume, meta = DicomReader(modality=modality).get_data([shared_data / "volumes/dicom/STS_008"])
    path = shared_data / f"volumes/sts/STS_008/{name}_image.nii.gz"
    ours, theirs, off = compared(volume, meta["affine"], path)
    assert volume.size == ours.size
    assert off < 1e-4
    np.testing.assert_allclose(meta["affine"], nib.load(path).affine, atol=1e-4)
    np.testing.assert_allclose(ours, theirs, atol=1e-6 * theirs.max())
    assert meta["unit"] == unit


def test_all_kinds_of_suv_of_the_real_pet(shared_data):
    series = open_series(shared_data / "volumes/dicom/STS_001_FDG_PET_raw")
    factors = {kind: series_suv(series, kind).factor for kind in KINDS}
    # 71 kg, 1.63 m, male; sizes by hand: 71, 52.86, 53.81 and 59.60 kg, 17 660 cm2
    for kind, size in (("lbm", 52.857), ("lbm-james", 53.815), ("ibw", 59.599), ("bsa", 17.660)):
        assert factors[kind] / factors["bw"] == pytest.approx(size / 71.0, rel=1e-4)
