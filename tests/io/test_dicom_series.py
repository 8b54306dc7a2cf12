"""Listing, checking and choosing; no pixel is decoded here."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from pydicom import config, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence

from medfuse.errors import DicomError
from medfuse.io import choose_series, list_series, open_series


def problem(folder) -> str:
    (series,) = list_series(folder).series
    return series.problem


def test_a_sound_series_has_its_geometry(tmp_path, mri, save):
    save(mri.slices(), tmp_path)
    series = open_series(tmp_path)
    assert (series.uid, series.modality, series.problem) == (mri.series, "MR", "")
    assert series.shape == (40, 34, 5)
    assert series.spacing == pytest.approx((1.5, 2.5, 3.0))
    assert series.frame_of_reference == mri.world
    np.testing.assert_allclose(series.affine, mri.affine, atol=1e-7)


def test_order_of_files_and_instance_numbers_play_no_part(tmp_path, mri, save):
    datasets = mri.slices()
    for k, dataset in enumerate(datasets):
        dataset.InstanceNumber = 100 - k
    random.Random(0).shuffle(datasets)
    del datasets[0].InstanceNumber
    save(datasets, tmp_path)
    series = open_series(tmp_path)
    np.testing.assert_allclose(series.affine, mri.affine, atol=1e-7)
    position = [series.headers[k].planes.position[0] for k in series.order]
    np.testing.assert_allclose(position, [mri.position(k) for k in range(5)])


def test_folders_are_searched_to_the_bottom_and_other_files_left_alone(tmp_path, mri, pet, save):
    save(mri.slices(), tmp_path / "a" / "b")
    save(pet.slices(), tmp_path / "a", name="IM{}")
    (tmp_path / "a" / "readme.txt").write_text("notes")
    (tmp_path / "a" / "suv.json").write_text("{}")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.dcm").write_bytes(b"x")
    structure = mri.slices()[0]
    structure.SOPClassUID = structure.file_meta.MediaStorageSOPClassUID = uid.RTStructureSetStorage
    save(structure, tmp_path, name="rs.dcm")
    screenshot = mri.slices()[1]
    screenshot.Modality = "OT"
    save(screenshot, tmp_path, name="screen.dcm")
    directory = Dataset()
    directory.file_meta, directory.FileSetID = FileMetaDataset(), "CANARY"
    directory.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    directory.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    save(directory, tmp_path, name="DICOMDIR")
    folder = list_series(tmp_path)
    assert [(s.modality, len(s.headers), s.problem) for s in folder.series] == [("MR", 5, ""), ("PT", 5, "")]
    assert (folder.others, folder.unreadable) == (5, ())


def test_one_file_or_several_may_be_given(tmp_path, mri, pet, save):
    paths = save(mri.slices(), tmp_path) + save(pet.slices(), tmp_path, name="p{}")
    assert open_series(paths[:5]).modality == "MR"
    assert open_series([str(p) for p in paths[5:]]).modality == "PT"
    (path,) = save(mri.enhanced(), tmp_path / "e")
    assert open_series(path).shape == (40, 34, 5)


class TestChoice:
    def test_by_modality(self, tmp_path, mri, pet, save):
        save(mri.slices() + pet.slices(), tmp_path)
        folder = list_series(tmp_path)
        assert choose_series(folder, modality="PT").uid == pet.series
        assert choose_series(folder, modality="MR").uid == mri.series

    def test_an_ambiguous_one_is_refused_and_the_message_says_what_there_is(self, tmp_path, mri, save):
        second = mri.change(series="1.2.826.0.1.7.8", spacing=(1.0, 1.0, 5.0))
        save(mri.slices() + second.slices(), tmp_path)
        folder = list_series(tmp_path)
        with pytest.raises(DicomError) as caught:
            choose_series(folder, modality="MR")
        message = str(caught.value)
        assert "must hold one MR series, got 2" in message
        assert f"MR {mri.series}: 5 files, 40 x 34 x 5 voxels of 1.5 x 2.5 x 3 mm" in message
        assert f"MR {second.series}: 5 files, 40 x 34 x 5 voxels of 1 x 1 x 5 mm" in message
        assert message.endswith("choose one by its UID.")
        assert choose_series(folder, modality="MR", uid=second.series).uid == second.series

    def test_a_broken_series_makes_the_choice_no_less_ambiguous(self, tmp_path, mri, save):
        second = mri.change(series="1.2.826.0.1.7.8")
        save(mri.slices() + second.slices()[:2] + second.slices()[3:], tmp_path)
        with pytest.raises(DicomError, match=r"got 2 \(.*unusable: must have a slice every 3 mm"):
            open_series(tmp_path, modality="MR")

    def test_what_is_not_there_is_said(self, tmp_path, mri, pet, save):
        save(mri.slices(), tmp_path / "m")
        with pytest.raises(DicomError, match=r"must hold one PT series, got 0 .MR 1.2.826.0.1.7.1: 5 files"):
            open_series(tmp_path, modality="PT")
        with pytest.raises(DicomError, match="one MR series of the given UID, got 0"):
            open_series(tmp_path, modality="MR", uid="1.2.3")
        save(pet.slices(), tmp_path / "p")
        with pytest.raises(DicomError, match="one MR series of the given UID, got 0"):
            open_series(tmp_path, modality="MR", uid=pet.series)
        (tmp_path / "empty").mkdir()
        with pytest.raises(DicomError, match=r"got 0 .no image series"):
            open_series(tmp_path / "empty")

    def test_localizers_and_single_images_are_passed_over(self, tmp_path, mri, save):
        scout = mri.change(series="1.2.826.0.1.7.8").slices()
        for dataset in scout:
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        single = mri.change(series="1.2.826.0.1.7.9").slices()[:1]
        save(mri.slices() + scout + single, tmp_path)
        assert open_series(tmp_path, modality="MR").uid == mri.series
        assert len(list_series(tmp_path).series) == 3

    def test_a_pet_with_attenuation_correction_comes_before_one_without(self, tmp_path, pet, save):
        plain = pet.change(series="1.2.826.0.1.7.8").slices()
        for dataset in plain:
            dataset.CorrectedImage = ["DECY"]
        save(pet.slices() + plain, tmp_path)
        assert open_series(tmp_path, modality="PT").uid == pet.series
        other = pet.change(series="1.2.826.0.1.7.9")
        save(other.slices(), tmp_path, name="o{}")
        with pytest.raises(DicomError, match=r"got 2 \("):
            open_series(tmp_path, modality="PT")

    def test_a_source_comes_before_a_result(self, tmp_path, pet, save):
        results = pet.change(series="1.2.3").slices()
        for dataset in results:
            dataset.ManufacturerModelName = "medfuse"
        save(results, tmp_path / "results")
        assert choose_series(list_series(tmp_path), modality="PT").uid == "1.2.3"  # there is nothing else
        save(pet.slices(), tmp_path / "source")
        folder = list_series(tmp_path)
        assert choose_series(folder, modality="PT").uid == pet.series
        assert choose_series(folder, modality="PT", uid="1.2.3").is_result
        assert [s.describe().endswith("a result of medfuse") for s in folder.series] == [True, False]

    def test_a_broken_pet_is_not_taken_for_an_uncorrected_one(self, tmp_path, pet, save):
        broken = pet.change(series="1.2.826.0.1.7.8").slices()
        del broken[2].Rows
        save(pet.slices() + broken, tmp_path)
        with pytest.raises(DicomError, match=r"got 2 \("):
            open_series(tmp_path, modality="PT")

    def test_a_chosen_series_must_be_usable(self, tmp_path, mri, save):
        save(mri.slices()[::2] + mri.slices()[1:2], tmp_path)
        with pytest.raises(DicomError, match=r"^MR series 1.2.826.0.1.7.1 must have a slice every 3 mm, got"):
            open_series(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: d.pop(2), "must have a slice every 3 mm, got a gap of 6 mm; add the missing slice"),
        (lambda d: d.append(copy_of(d[2])), "must have one image at each place, got 1 at the place of another"),
        (lambda d: d.append(d[2]), "must have each image once"),
        (lambda d: move(d[1], 0.4), "evenly spaced slices, got steps of 2.6 to 3.4 mm"),
        (lambda d: [move(s, 0.2 * k, axis=0) for k, s in enumerate(d)], "stacked along its normal, got a tilted"),
        (lambda d: move(d[1], 1.0, axis=0), "on one line, evenly, got one 1.00 mm off its place"),
        (lambda d: setattr(d[1], "ImageOrientationPatient", [0, 1, 0, 0, 0, -1]), "must have one orientation"),
        (lambda d: all_of(d, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "two unit vectors at a right angle"),
        (lambda d: all_of(d, "ImageOrientationPatient", [2, 0, 0, 0, 1, 0]), "two unit vectors at a right angle"),
        (lambda d: setattr(d[1], "PixelSpacing", [2.5, 1.6]), "must have one pixel spacing, got several"),
        (lambda d: all_of(d, "PixelSpacing", [0, 1]), "pixels of more than 0 mm, got 0 x 1"),
        (lambda d: all_of(d, "PixelSpacing", [-1, 1]), "pixels of more than 0 mm, got -1 x 1"),
        (lambda d: crop(d[1]), "must have one size of images, got 2"),
        (lambda d: setattr(d[1], "FrameOfReferenceUID", "1.2.3"), "must have one frame of reference, got 2"),
        (lambda d: setattr(d[1], "Modality", "CT"), "which must have a finite number as RescaleSlope, got none"),
        (lambda d: d.__delitem__(slice(1, None)), "at least 2 slices, got 1"),
    ],
)
def test_what_is_no_volume_has_a_problem(tmp_path, mri, save, spoil, message):
    datasets = mri.change(turn=np.eye(3)).slices()
    spoil(datasets)
    save(datasets, tmp_path)
    assert message in problem(tmp_path)


def copy_of(dataset: Dataset) -> Dataset:
    again = deepcopy(dataset)
    again.SOPInstanceUID = "1.2.826.0.1.7.1.77"
    return again


def move(dataset: Dataset, by: float, axis: int = 2) -> None:
    position = [float(v) for v in dataset.ImagePositionPatient]
    position[axis] += by
    dataset.ImagePositionPatient = position


def all_of(datasets: list[Dataset], name: str, value: object) -> None:
    for dataset in datasets:
        setattr(dataset, name, value)


def crop(dataset: Dataset) -> None:
    dataset.Rows = 33
    dataset.PixelData = dataset.PixelData[: 33 * 40 * 2]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ImagePositionPatient", None, "3 finite numbers as ImagePositionPatient, got none"),
        ("ImagePositionPatient", [1, 2], "3 finite numbers as ImagePositionPatient, got others"),
        ("ImageOrientationPatient", None, "6 finite numbers as ImageOrientationPatient"),
        ("PixelSpacing", None, "2 finite numbers as PixelSpacing"),
        ("Rows", None, "a finite number as Rows, got none"),
        ("Columns", 0, "must have 1 to 32767 rows, columns and frames, got 34 x 0 x 1"),
        ("BitsAllocated", None, "a finite number as BitsAllocated"),
        ("BitsAllocated", 1, "must have 8, 16 or 32 bits"),
        ("BitsStored", 17, "must have 8, 16 or 32 bits"),
        ("HighBit", 14, "must have 8, 16 or 32 bits, right-aligned"),
        ("PixelRepresentation", None, "a finite number as PixelRepresentation"),
        ("SamplesPerPixel", 3, "must be grey"),
        ("PhotometricInterpretation", "MONOCHROME1", "must be grey"),
        ("PhotometricInterpretation", "PALETTE COLOR", "must be grey"),
        ("PixelData", None, "must hold integer pixels, got none"),
        ("RescaleSlope", 0, "a RescaleSlope above 0"),
        ("FrameOfReferenceUID", "../../evil", "a valid FrameOfReferenceUID, got another text"),
        ("NumberOfFrames", 2, "must hold 5440 bytes of pixels, got 2720"),
        ("ModalityLUTSequence", Sequence([Dataset()]), "must scale by slope and intercept"),
    ],
)
def test_missing_or_senseless_tags_are_a_problem_of_their_series(tmp_path, mri, save, name, value, message):
    datasets = mri.slices()
    if name in datasets[3]:
        delattr(datasets[3], name)
    if value is not None:
        with config.disable_value_validation():
            setattr(datasets[3], name, value)
    save(datasets, tmp_path)
    found = problem(tmp_path)
    assert found.startswith("must have sound files, got number 4 of 5 by name, which must")
    assert message in found


@pytest.mark.parametrize("text", ["nan", "inf", "abc", "1\\2"])
@pytest.mark.parametrize("name", ["RescaleSlope", "RescaleIntercept", "ImagePositionPatient"])
def test_numbers_that_are_none_are_a_problem(tmp_path, mri, save, name, text):
    datasets = mri.slices()
    values = [text, "0", "0"] if name == "ImagePositionPatient" else text
    (tmp_path / "x").mkdir()
    paths = save(datasets, tmp_path)
    raw = paths[2].read_bytes()
    plain = Dataset()
    plain.file_meta = datasets[2].file_meta
    plain.update(datasets[2])
    plain.add_new(name, "LO", values)  # the same bytes as a DS, without pydicom's check
    save(plain, tmp_path / "x")
    changed = (tmp_path / "x" / "CANARY_0.dcm").read_bytes()
    (tmp_path / "x" / "CANARY_0.dcm").unlink()
    assert changed != raw
    paths[2].write_bytes(changed)
    assert "finite number" in problem(tmp_path)


@pytest.mark.parametrize("name", ["SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Modality"])
def test_a_file_without_identity_is_unreadable(tmp_path, mri, save, name):
    datasets = mri.slices()
    delattr(datasets[1], name)
    save(datasets, tmp_path)
    folder = list_series(tmp_path)
    assert len(folder.unreadable) == 1
    assert folder.unreadable[0].startswith("file 2 of 5 by name must have")
    with pytest.raises(DicomError, match="Every DICOM file must be readable, got 1 which cannot be read: file 2 of 5"):
        choose_series(folder)


def test_missing_slices_at_the_end_are_noticed_where_the_number_is_told(tmp_path, pet, save):
    datasets = pet.slices()
    for dataset in datasets:
        dataset.NumberOfSlices = 5
    save(datasets[:4], tmp_path)
    assert "must have the 5 slices that it names, got 4" in problem(tmp_path)


def test_small_unevenness_of_real_scanners_is_accepted(tmp_path, mri, save):
    datasets = mri.change(turn=np.eye(3)).slices()
    move(datasets[2], 0.07)
    datasets[1].ImageOrientationPatient = [0.9999999, 0.0001, 0, -0.0001, 0.9999999, 0]
    save(datasets, tmp_path)
    assert problem(tmp_path) == ""


def test_a_budget_of_bytes_is_kept_before_anything_is_decoded(tmp_path, mri, save):
    save(mri.slices(), tmp_path)
    with pytest.raises(DicomError, match="must decode to at most 1000 bytes, got 27200"):
        open_series(tmp_path, max_bytes=1000)


def test_absent_folder_and_file(tmp_path):
    with pytest.raises(DicomError, match="The DICOM folder must exist") as caught:
        list_series(tmp_path / "absent")
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(DicomError, match="Every DICOM file must exist"):
        list_series([tmp_path / "absent.dcm"])


def test_links_are_not_followed_out_of_the_folder(tmp_path, mri, save):
    save(mri.slices(), tmp_path / "outside")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(tmp_path / "outside", target_is_directory=True)
    assert list_series(tmp_path / "inside").series == ()


def test_enhanced_frames_must_all_be_described(tmp_path, mri, save):
    dataset = mri.enhanced()
    dataset.PerFrameFunctionalGroupsSequence = dataset.PerFrameFunctionalGroupsSequence[:4]
    save(dataset, tmp_path)
    assert "must describe each of its 5 frames, got 4 functional groups" in problem(tmp_path)
    dataset = mri.enhanced()
    del dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    save(dataset, tmp_path)
    assert "must have a PixelMeasuresSequence for each frame" in problem(tmp_path)


def test_a_dynamic_multi_frame_image_is_refused(tmp_path, mri, save):
    twice = replace(mri, stored=np.concatenate([mri.stored, mri.stored]))
    dataset = twice.enhanced()
    for k, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        frame.PlanePositionSequence[0].ImagePositionPatient = mri.position(k % 5)
    save(dataset, tmp_path)
    assert "got 5 at the place of another" in problem(tmp_path)


def test_a_dynamic_series_with_more_times_than_slices_is_refused(tmp_path, mri, save):
    datasets = []
    for k in range(3):
        datasets += mri.change(stored=mri.stored[:2] + k).slices()
        for dataset in datasets[-2:]:
            dataset.SOPInstanceUID += f".{k}"
    save(datasets, tmp_path)
    assert "got 4 at the place of another" in problem(tmp_path)


def test_time_frames_of_an_enhanced_image_are_refused_with_the_way_out(tmp_path, pet, save):
    """Enhanced PET (PS3.3 A.56) may hold several temporal positions in one file: no part of it can be kept by hand."""
    dataset = pet.enhanced()
    frames = list(dataset.PerFrameFunctionalGroupsSequence)
    dataset.PerFrameFunctionalGroupsSequence = Sequence([*frames, *deepcopy(frames)])
    dataset.NumberOfFrames, dataset.PixelData = 2 * len(frames), 2 * dataset.PixelData
    save(dataset, tmp_path)
    with pytest.raises(DicomError, match=r"got 5 at the place of another.*convert it to NIfTI with its sidecar"):
        open_series(tmp_path)
