"""Regions: drawn in NIfTI, SEG or RTSTRUCT, named, measured, corrected by labels, compared between two time points."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from scipy.ndimage import gaussian_filter

from medfuse import cli
from medfuse.errors import BundleError, DicomError, ImageError
from medfuse.io.dicom.regions import check_regions, read_regions, regions_file
from medfuse.io.labels import read_labels, region_label
from medfuse.physics import Degradation, Downsample, GaussianBlur, GaussianNoise
from medfuse.pipeline.compare import compare_cases
from medfuse.pipeline.measured import measure_regions, psf_mm, unmeasured
from medfuse.pipeline.regions import LoadRegionsd, PlaceRegionsd
from medfuse.regions import add_invented, compare_regions, correct_by_labels, dictionary, region_rows, region_values
from medfuse.regions.comparison import change_sentence
from medfuse.report import findings

AFFINE = np.array([[-2.0, 0, 0, 30], [0, -2.0, 0, 40], [0, 0, 3.0, -9], [0, 0, 0, 1]])  # RAS
SHAPE = (20, 24, 6)
FRAME = "1.2.826.0.1.7.77"


def source_images(folder) -> list[Dataset]:
    """Return an MR series on the grid above; LPS, so that x and y grow with columns and rows."""
    images = []
    for k in range(SHAPE[2]):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = uid.MRImageStorage
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = f"1.2.826.0.1.7.5.{k + 1}"
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = "1.2.3.1", "1.2.3.2", FRAME
        image.PatientID, image.PatientName, image.PatientBirthDate, image.PatientSex = "P", "N^M", "", ""
        image.StudyDate, image.StudyTime, image.AccessionNumber, image.StudyID = "20240101", "101010", "", ""
        image.ReferringPhysicianName, image.Modality, image.InstanceNumber = "", "MR", k + 1
        image.Rows, image.Columns, image.SamplesPerPixel, image.PhotometricInterpretation = 24, 20, 1, "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 0
        image.PixelSpacing, image.SliceThickness, image.ImageOrientationPatient = [2.0, 2.0], 3.0, [1, 0, 0, 0, 1, 0]
        image.ImagePositionPatient = [-30.0, -40.0, -9.0 + 3.0 * k]
        image.PixelData = np.zeros((24, 20), np.uint16).tobytes()
        images.append(image)
    return images


def write_segmentation(path, masks: dict[str, np.ndarray]) -> None:
    """Write segments [X, Y, Z] on the grid above."""
    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=k,
            segment_label=name,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Neoplasm,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for k, name in enumerate(masks, 1)
    ]
    pixels = np.stack([mask.transpose(2, 1, 0) for mask in masks.values()], -1).astype(np.uint8)
    highdicom.seg.Segmentation(
        source_images=source_images(path),
        pixel_array=pixels,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid="1.2.3.9",
        series_number=9,
        sop_instance_uid="1.2.3.9.1",
        instance_number=1,
        manufacturer="M",
        manufacturer_model_name="M",
        software_versions="1",
        device_serial_number="1",
    ).save_as(path)


def write_structures(
    path, rois: dict[str, list[np.ndarray]], *, kind: str = "CLOSED_PLANAR", observations: Sequence[Dataset] = ()
) -> None:
    """Write contours, points in LPS mm, of structures from number 3 on, and what is observed of them."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = uid.RTStructureSetStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3.10.1"
    data.Modality, data.SeriesInstanceUID, data.StudyInstanceUID = "RTSTRUCT", "1.2.3.10", "1.2.3.1"
    listed, drawn = [], []
    for number, (name, contours) in enumerate(rois.items(), 3):
        roi, item = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, FRAME
        item.ReferencedROINumber = number
        item.ContourSequence = []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
            contour.ContourData = [f"{v:.6g}" for v in np.ravel(points)]
            item.ContourSequence.append(contour)
        listed.append(roi)
        drawn.append(item)
    data.StructureSetROISequence, data.ROIContourSequence = listed, drawn
    data.RTROIObservationsSequence = list(observations)
    data.save_as(path, enforce_file_format=True)


def ring(centre, radius: float, z: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    return np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle), np.full(200, z)], 1)


def centres() -> np.ndarray:
    """Return the voxel centres of the grid in LPS mm, [X, Y, Z, 3]."""
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    return (index @ AFFINE[:3, :3].T + AFFINE[:3, 3]) * [-1, -1, 1]


def image(frame: str | None = None, affine: np.ndarray = AFFINE, shape=SHAPE) -> MetaTensor:
    found = MetaTensor(np.zeros((1, *shape), np.float32), affine=affine)
    if frame:
        found.meta["frame_of_reference"] = frame
    return found


class TestDrawn:
    def test_a_segmentation_keeps_its_voxels_names_and_overlaps(self, tmp_path):
        big, small = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
        big[3:15, 4:20, 1:5], small[5:8, 6:9, 2:4] = True, True
        write_segmentation(tmp_path / "seg.dcm", {"Tumour <b>": big, "Core & edge's": small})
        found = read_regions(tmp_path / "seg.dcm")
        assert (found.kind, found.frame_of_reference) == ("SEG", FRAME)
        assert found.names == {1: "Tumour _b_", 2: "Core & edge's"}  # what may stand on a page
        assert found.volume.shape[0] == 2  # they overlap
        for label, mask in ((1, big), (2, small)):
            there = np.argwhere((found.volume == label).any(0)) @ found.affine[:3, :3].T + found.affine[:3, 3]
            truth = np.argwhere(mask) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
            np.testing.assert_allclose(sorted(map(tuple, there)), sorted(map(tuple, truth)), atol=1e-4)

    def test_contours_hold_the_voxels_whose_centre_they_enclose(self, tmp_path):
        z = [-9.0 + 3 * k for k in range(1, 5)]
        outer, hole = ((-8.0, -17.0), 12.3), ((-8.0, -17.0), 5.1)
        write_structures(
            tmp_path / "rt.dcm",
            {"Shell": [ring(*outer, h) for h in z] + [ring(*hole, h) for h in z], "Marker": []},
        )
        found = read_regions(tmp_path / "rt.dcm")
        assert (found.kind, found.frame_of_reference, found.left_out) == ("RTSTRUCT", FRAME, ("Marker",))
        labels = found.on(AFFINE, SHAPE)
        r = np.hypot(*(centres()[..., i] - outer[0][i] for i in range(2)))
        depth = centres()[..., 2]
        truth = (r < 12.3) & (r > 5.1) & (depth > z[0] - 1.5) & (depth < z[-1] + 1.5)
        assert np.array_equal(labels[0] == 3, truth)

    @pytest.mark.parametrize("first", [-9.005, -8.995])
    def test_contours_of_one_plane_are_one_plane_whatever_their_last_digits(self, tmp_path, first):
        """Their depths differ by rounding: at the edge between two hundredths of a mm they were two planes."""
        z = [first + 3 * k for k in range(1, 5)]
        place, angle = (-8.0, -17.0), np.linspace(0, 2 * np.pi, 37, endpoint=False)
        hole = [np.stack([-8 + 5.1 * np.cos(angle), -17 + 5.1 * np.sin(angle), np.full(37, h + 1e-4)], 1) for h in z]
        write_structures(tmp_path / "rt.dcm", {"Shell": [ring(place, 12.3, h - 1e-4) for h in z] + hole})
        labels = read_regions(tmp_path / "rt.dcm").on(AFFINE, SHAPE)
        r = np.hypot(*(centres()[..., i] - place[i] for i in range(2)))
        truth = (r < 12.3) & (r > 5.1) & (np.arange(6) >= 1) & (np.arange(6) <= 4)
        assert np.array_equal(labels[0] == 3, truth)

    def test_a_contour_that_is_there_twice_counts_once(self, tmp_path):
        """By exclusive or it would be nothing, as it is meant where the file says so (C.8.8.6: CLOSEDPLANAR_XOR)."""
        rod = [ring((-8.0, -17.0), 8.0, h) for h in (-6.0, -3.0)]
        found = []
        for kind, contours in (("CLOSED_PLANAR", rod), ("CLOSED_PLANAR", rod * 2), ("CLOSEDPLANAR_XOR", rod + rod[:1])):
            write_structures(tmp_path / "rt.dcm", {"Rod": contours}, kind=kind)
            labels = read_regions(tmp_path / "rt.dcm").on(AFFINE, SHAPE)
            found.append((labels[0] == 3).sum((0, 1)).tolist())
        assert found[0] == found[1]
        assert found[2] == [0, 0, found[0][2], 0, 0, 0]

    def test_a_name_of_two_values_is_one(self, tmp_path):
        write_structures(tmp_path / "rt.dcm", {"GTV\\boost": [ring((-8.0, -17.0), 8.0, -6.0)]})
        assert read_regions(tmp_path / "rt.dcm").names == {3: "GTV\\boost"}

    def test_planes_that_are_no_neighbours_enclose_nothing_between_them(self, tmp_path):
        """Slices 1 and 4 of 3 mm: each is a slice, and the 6 mm between them belong to nobody."""
        write_structures(tmp_path / "rt.dcm", {"Two": [ring((-8.0, -17.0), 8.0, -9.0 + 3 * k) for k in (1, 4)]})
        labels = read_regions(tmp_path / "rt.dcm").on(AFFINE, SHAPE)
        assert np.flatnonzero((labels[0] == 3).any((0, 1))).tolist() == [1, 4]

    def test_contours_come_to_a_turned_and_finer_grid(self, tmp_path):
        z = np.arange(-9.0, 7, 3)
        write_structures(tmp_path / "rt.dcm", {"Rod": [ring((-8.0, -17.0), 10.0, h) for h in z]})
        turn = np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = turn @ np.diag([1.0, 1.2, 0.8]), (-5, 0, -12)
        labels = read_regions(tmp_path / "rt.dcm").on(affine, (40, 30, 40))
        volume = (labels == 3).sum() * 1.0 * 1.2 * 0.8
        assert volume == pytest.approx(np.pi * 100 * 18, rel=0.02)  # six planes of 3 mm

    @pytest.mark.parametrize(
        ("write", "message"),
        [
            (lambda p: p.write_bytes(b"\0" * 400), "SEG or RTSTRUCT, got another file"),
            (lambda p: write_structures(p, {"a": [ring((0, 0), 3, 0)]}, kind="POINT"), "1 to 1000 of them, got 0"),
            (lambda p: write_structures(p, {"a": [ring((900, 900), 3, 0)]}), "must lie in the images, got none"),
        ],
    )
    def test_what_cannot_be_used_is_refused(self, tmp_path, write, message):
        write(tmp_path / "x.dcm")
        with pytest.raises(DicomError, match=message):
            read_regions(tmp_path / "x.dcm").on(AFFINE, SHAPE)

    def test_a_broken_file_is_refused_without_its_words(self, tmp_path):
        write_structures(tmp_path / "x.dcm", {"Secret": [ring((0, 0), 3, 0)]})
        data = pydicom.dcmread(tmp_path / "x.dcm")
        data.ROIContourSequence[0].ContourSequence[0].ContourData = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "1"]
        data.save_as(tmp_path / "x.dcm")
        with pytest.raises(DicomError, match="points of three numbers"):
            read_regions(tmp_path / "x.dcm")

    def test_a_folder_must_hold_one_file_of_regions(self, tmp_path):
        for name in ("a", "b"):
            write_structures(tmp_path / f"{name}.dcm", {"a": [ring((0, 0), 3, 0)]})
        with pytest.raises(DicomError, match="one SEG or RTSTRUCT, got 2"):
            regions_file(tmp_path)
        (tmp_path / "b.dcm").unlink()
        assert check_regions(regions_file(tmp_path)) == "RTSTRUCT"


class TestPlaced:
    """Contours of the PET move with it when it is registered to the MRI; those of the MRI stay."""

    @pytest.mark.parametrize(("frame_of_mri", "moved"), [(FRAME, 0.0), ("1.2.9", 4.0), (None, 4.0)])
    def test_regions_follow_the_source_in_which_they_were_drawn(self, tmp_path, frame_of_mri, moved):
        write_structures(tmp_path / "rt.dcm", {"Rod": [ring((-8.0, -17.0), 8.0, h) for h in (-6.0, -3.0, 0.0)]})
        data = {"case": "a", "mask": str(tmp_path / "rt.dcm"), "mri": image(frame_of_mri), "pet": image(FRAME)}
        data = LoadRegionsd(reference="mri", moving="pet")(data)
        shift = np.eye(4)
        shift[0, 3] = 4.0  # by two voxels to the right
        data["pet_before"], data["pet"] = data["pet"], image(FRAME, shift @ AFFINE)
        placed = PlaceRegionsd(reference="mri", moving="pet")(data)["mask"]
        centre = centres()[placed[0].numpy() == 3].mean(0)
        assert centre == pytest.approx([-8 - moved, -17, -3], abs=0.3)

    def test_regions_of_another_frame_are_refused(self, tmp_path):
        write_structures(tmp_path / "rt.dcm", {"Rod": [ring((-8.0, -17.0), 8.0, h) for h in (-6.0, -3.0)]})
        data = {"case": "a", "mask": str(tmp_path / "rt.dcm"), "mri": image("1.2.9"), "pet": image("1.2.8")}
        with pytest.raises(DicomError, match="frame of reference of the MRI or PET, got another"):
            LoadRegionsd(reference="mri", moving="pet")(data)

    def test_what_of_regions_lies_outside_is_noted(self, tmp_path):
        """Label 1 lies within, half of 2 beyond the end of the MRI, 4 whole; 7 is between the voxels of the MRI."""
        marks = np.zeros((12, 8, 8), np.uint8)
        marks[2:4], marks[6:10], marks[10:], marks[1, 1, 1] = 1, 2, 4, 7
        nib.save(nib.Nifti1Image(marks, np.eye(4)), tmp_path / "m.nii.gz")
        mri = image(affine=np.diag([2.0, 2, 2, 1]), shape=(4, 4, 4))  # up to x = 7
        data = {"case": "a", "mask": str(tmp_path / "m.nii.gz"), "mri": mri, "pet": mri}
        where = {"reference": "mri", "moving": "pet"}
        placed = PlaceRegionsd(**where)(LoadRegionsd(**where)(data))["mask"]
        assert json.loads(placed.meta["region_outside"]) == {"2": 0.5, "4": 1.0, "7": 1.0}

    def test_a_reference_region_beyond_the_image_is_refused_as_it_is_loaded(self, tmp_path):
        """Its contours are a voxel beyond the end, where x grows to the left; of a NIfTI it is beyond the grid."""
        drawn = {"Pons": [ring((-35.0, -17.0), 3.0, h) for h in (-6.0, -3.0)]}
        write_structures(tmp_path / "rt.dcm", {**drawn, "Lesion": [ring((-9.0, -17.0), 5.0, h) for h in (-6.0, -3.0)]})
        marks = np.zeros((12, 8, 8), np.uint8)
        marks[2:4], marks[10:] = 1, 3
        nib.save(nib.Nifti1Image(marks, np.eye(4)), tmp_path / "m.nii.gz")
        small = image(affine=np.diag([2.0, 2, 2, 1]), shape=(4, 4, 4))
        for name, mri in (("rt.dcm", image(FRAME)), ("m.nii.gz", small)):
            data = {"case": "a", "mask": str(tmp_path / name), "mri": mri, "pet": mri}
            with pytest.raises(BundleError, match="must lie in the field of view of the MRI, got label 3 beyond it"):
                LoadRegionsd(reference="mri", moving="pet", reference_region=3)(data)

    @pytest.mark.parametrize(("first", "refused"), [(5.0, True), (2.0, False)])
    def test_a_reference_region_beyond_the_pet_is_refused_once_it_is_registered(self, tmp_path, first, refused):
        """The PET begins at x = `first`; the region ends at x = 3."""
        marks = np.zeros((12, 8, 8), np.uint8)
        marks[2:4] = 3
        nib.save(nib.Nifti1Image(marks, np.eye(4)), tmp_path / "m.nii.gz")
        moved = np.eye(4)
        moved[0, 3] = first
        data = {"case": "a", "mask": str(tmp_path / "m.nii.gz"), "mri": image(affine=np.eye(4), shape=(12, 8, 8))}
        data["pet"] = image(affine=moved, shape=(12, 8, 8))
        where = {"reference": "mri", "moving": "pet"}
        loaded = LoadRegionsd(**where, reference_region=3)(data)
        if refused:
            with pytest.raises(BundleError, match="must lie in the field of view of the PET, got label 3 beyond it"):
                PlaceRegionsd(**where)(loaded)
        else:
            assert (PlaceRegionsd(**where)(loaded)["mask"] == 3).sum() == 128

    def test_a_reference_region_of_the_pet_beyond_the_mri_names_the_mri(self):
        """Drawn on the PET, within it, and beyond the MRI once that was registered."""
        marks = torch.zeros(1, 12, 8, 8)
        marks[:, 9:11] = 3
        moved = np.eye(4)
        moved[0, 3] = 4.0
        labels = MetaTensor(marks, affine=torch.eye(4), meta={"region_world": "pet", "region_wanted": 3})
        data = {"mask": labels, "mri": image(affine=np.eye(4), shape=(12, 8, 8))}
        data |= {"pet_before": image(affine=np.eye(4), shape=(12, 8, 8)), "pet": image(affine=moved, shape=(12, 8, 8))}
        with pytest.raises(BundleError, match="field of view of the MRI, got label 3 beyond it"):
            PlaceRegionsd(reference="mri", moving="pet")(data)

    def test_what_of_contours_lies_outside_is_noted(self, tmp_path):
        """Half of label 3 beyond the end, where x grows to the left; 4 far away; of 5 no voxel has its centre in it."""
        end, z = -31.0, (-6.0, -3.0)  # LPS mm: half a voxel before the first centre
        drawn = {
            "Cut": [ring((end, -17.0), 8.0, h) for h in z], "Away": [ring((900.0, -17.0), 8.0, h) for h in z],
            "Thin": [ring((-9.0, -17.0), 0.4, h) for h in z],
        }  # fmt: skip
        write_structures(tmp_path / "rt.dcm", drawn | {"Iso": []})
        data = {"case": "a", "mask": str(tmp_path / "rt.dcm"), "mri": image(FRAME), "pet": image(FRAME)}
        where = {"reference": "mri", "moving": "pet"}
        placed = PlaceRegionsd(**where)(LoadRegionsd(**where)(data))["mask"]
        assert json.loads(placed.meta["region_empty"]) == ["Away", "Thin"]
        assert json.loads(placed.meta["region_left_out"]) == ["Iso"]
        r = np.hypot(centres()[..., 0] - end, centres()[..., 1] + 17)
        there = (r < 8) & np.isin(centres()[..., 2], z)
        assert np.array_equal(placed[0].numpy() == 3, there)
        assert json.loads(placed.meta["region_outside"])["3"] == pytest.approx(0.5)
        record = {"sources": {}, "mask_empty": ["Away", "Thin"], "mask_left_out": ["Iso"]}
        assert [f.level for f in findings(record) if "Away, Thin" in f.text or "points" in f.text] == [
            "warning",
            "note",
        ]


class TestLabels:
    def test_labels_near_whole_numbers_keep_their_names(self, tmp_path):
        """As a slope of the header makes them: 2.9998 is label 3."""
        marks = np.zeros((4, 4, 4), np.float32)
        marks[1], marks[2] = 2.9998, 5.0
        nib.save(nib.Nifti1Image(marks, np.eye(4)), tmp_path / "m.nii.gz")
        (tmp_path / "m.tsv").write_text("index\tname\n3\tPons\n5\tPutamen\n")
        data = {"case": "a", "mask": str(tmp_path / "m.nii.gz"), "mri": image(), "pet": image()}
        loaded = LoadRegionsd(reference="mri", moving="pet", reference_region=3)(data)["mask"]
        assert json.loads(loaded.meta["region_names"]) == {"3": "Pons", "5": "Putamen"}

    @pytest.mark.parametrize("largest", [16777215, 16777217])
    def test_labels_that_float32_cannot_tell_apart_are_refused(self, tmp_path, largest):
        marks = np.zeros((4, 4, 4), np.int32)
        marks[1], marks[2] = largest, largest - 1
        nib.save(nib.Nifti1Image(marks, np.eye(4)), tmp_path / "m.nii.gz")
        load = LoadRegionsd(reference="mri", moving="pet")
        data = {"case": "a", "mask": str(tmp_path / "m.nii.gz"), "mri": image(), "pet": image()}
        if largest < 1 << 24:
            assert np.array_equal(load(data)["mask"][0].numpy().astype(int), marks)
        else:
            with pytest.raises(ImageError, match="labels up to 16777215, got larger"):
                load(data)


class TestNames:
    def test_a_table_names_labels(self, tmp_path):
        table = tmp_path / "labels.tsv"
        table.write_text("index\tname\tcolor\n1\tgrey matter\t#000000\n7\tPons\t#ffffff\n")
        names = read_labels(table)
        assert names == {1: "grey matter", 7: "Pons"}
        assert region_label("pons", [1, 7], names) == region_label("7", [1, 7], names) == 7
        for wanted in ("8", "cerebellum"):
            with pytest.raises(BundleError, match="one region, by its number or its name, got one that no regions"):
                region_label(wanted, [1, 7], names)

    @pytest.mark.parametrize(
        "text", ["", "1,grey\n", "index\tname\n", "index\tlabel\n1\tx\n", "index\tname\n1\tx\n1\ty\n"]
    )
    def test_another_table_is_refused(self, tmp_path, text):
        (tmp_path / "t.tsv").write_text(text)
        with pytest.raises(BundleError, match="columns index"):
            read_labels(tmp_path / "t.tsv")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--mask", "m.nii.gz", "--atlas", "m.nii.gz"], "one must be given, got both"),
            (["--labels", "t.tsv"], "--labels must come with --mask or --atlas"),
            (["--reference", "3"], "--reference must come with --mask or --atlas"),
            (["--mask", "m.nii.gz", "--labels", "gone.tsv"], "--labels must be a file"),
        ],
    )
    def test_options_that_do_not_fit_are_refused_first(self, tmp_path, monkeypatch, capsys, options, message):
        monkeypatch.chdir(tmp_path)
        for name in ("a", "m"):
            nib.save(nib.Nifti1Image(np.arange(8 * 8 * 4.0).reshape(8, 8, 4) % 3, np.eye(4)), f"{name}.nii.gz")
        call = ["fuse", "--pet", "a.nii.gz", "--mri", "a.nii.gz", "--out", "out", *options]
        assert cli.main(call) == 2
        assert message in capsys.readouterr().err


IBSI = """
14411 14611 41641 44641
14411 11611 .1311 44611
144.. 11111 11.11 11611
144.. 11111 11111 11611
"""
"""The digital phantom of the Image Biomarker Standardisation Initiative: slices, rows, columns; a point is outside."""


class TestReferenceValues:
    def test_ibsi_has_the_same_values_of_its_phantom(self):
        """Zwanenburg et al. (Radiology 2020), reference manual, digital phantom, voxels of 2 mm, in three digits."""
        slices = [[list(row) for row in line.split()] for line in IBSI.split("\n") if line]
        marks = np.array(slices).transpose(2, 1, 0)
        values = np.where(marks == ".", "0", marks).astype(float)
        _, region = region_values(values, values, affine=np.diag([2.0, 2, 2, 1]), labels=(marks != ".").astype(int))
        found = region["given"]
        assert found["mean"] == pytest.approx(2.15, abs=0.005)
        assert found["sd"] ** 2 == pytest.approx(3.05, abs=0.005)
        assert found["max"] == 6
        assert region["volume_ml"] == pytest.approx(0.592)  # by counting voxels

    def test_the_sphere_of_a_peak_at_the_border_counts_what_was_measured(self):
        """By an own computation, as MITK does for IBSI (0F91): the voxels of the sphere that are in the image.

        Label 1 lies in a corner of the image, label 2 where the field of view of the PET ends, beyond which there are
        zeros that nobody measured. With these as values, a uniform 5 would have a peak of 2.
        """
        rng = np.random.default_rng(4)
        spacing, values = np.array([2.0, 2.0, 3.0]), rng.gamma(2.0, 1.0, (14, 13, 9))
        inside = np.zeros(values.shape, bool)
        inside[:10] = True
        values[~inside] = 0.0
        labels = np.zeros(values.shape, int)
        labels[:2, :2, :1], labels[8:10, 6:8, 4:6] = 1, 2
        places = np.stack(np.meshgrid(*map(np.arange, values.shape), indexing="ij"), -1) * spacing
        radius = (3000 / (4 * np.pi)) ** (1 / 3)

        def peak(label):
            near = [((places - centre) ** 2).sum(-1) <= radius**2 for centre in places[labels == label]]
            return max(values[ball & inside].mean() for ball in near)

        affine = np.diag([*spacing, 1])
        regions = region_values(values, 5.0 * inside, affine=affine, labels=labels, inside=inside)
        assert [r["given"]["peak"] for r in regions[1:]] == pytest.approx([peak(1), peak(2)], rel=1e-5)
        assert [r["restored"]["peak"] for r in regions] == pytest.approx([5.0] * 3)

    def test_the_peak_is_the_highest_mean_over_a_ball_of_1_ml(self):
        """By an own computation: every voxel within 6.2 mm of every centre in the region."""
        rng = np.random.default_rng(3)
        spacing, values = np.array([1.5, 2.0, 2.5]), rng.gamma(2.0, 1.0, (16, 14, 12))
        labels = np.zeros(values.shape, int)
        labels[6:9, 5:8, 5:7] = 1
        places = np.stack(np.meshgrid(*map(np.arange, values.shape), indexing="ij"), -1) * spacing
        radius = (3000 / (4 * np.pi)) ** (1 / 3)
        means = [values[((places - centre) ** 2).sum(-1) <= radius**2].mean() for centre in places[labels == 1]]
        _, region = region_values(values, values, affine=np.diag([*spacing, 1]), labels=labels)
        assert region["given"]["peak"] == pytest.approx(max(means), rel=1e-5)


class TestPartialVolume:
    def test_the_gtm_gives_back_uniform_regions(self):
        """y is blurred by an own computation; the values of a model that is true must come back."""
        rng = np.random.default_rng(1)
        labels = np.kron(rng.integers(0, 5, (5, 6, 4)), np.ones((5, 5, 6))).astype(int)
        true = np.array([0.5, 4.0, 1.0, 9.0, 2.0])
        spacing, fwhm = np.array([1.0, 1.5, 2.0]), (5.0, 6.0, 0.0)
        sigma = np.array(fwhm) / 2.3548200450309493 / spacing
        given = gaussian_filter(true[labels], sigma, mode="reflect", truncate=8)
        found = correct_by_labels(given, labels, affine=np.diag([*spacing, 1]), fwhm_mm=fwhm)
        for k in range(1, 5):
            assert abs(given[labels == k].mean() / true[k] - 1) > 0.02  # there is something to correct
            assert found.gtm[k] == pytest.approx(true[k], rel=2e-3)
            assert found.rbv[k] == pytest.approx(true[k], rel=5e-3)

    def test_a_lesion_within_a_region_is_not_seen_by_it(self):
        labels = np.zeros((30, 30, 3), int)
        labels[8:22, 8:22] = 1
        true = np.where(labels == 1, 2.0, 0.0)
        true[13:17, 13:17] = 8.0
        found = correct_by_labels(gaussian_filter(true, (2, 2, 0)), labels, affine=np.eye(4), fwhm_mm=(4.7, 4.7, 0))
        assert found.gtm[1] != pytest.approx(true[labels == 1].mean(), rel=5e-3)

    def test_zeros_beyond_the_end_of_the_pet_are_no_background(self):
        """Rods of 4 and 2 on a background of 1 that go on beyond the end of the PET: all three are told exactly."""
        labels = np.zeros((24, 20, 20), int)
        labels[:, 4:10, 4:10], labels[:, 11:16, 10:16] = 1, 2
        inside = np.zeros(labels.shape, bool)
        inside[:11] = True
        truth = np.array([1.0, 4.0, 2.0])[labels]
        given = gaussian_filter(truth, 6 / 2.3548200450309493 / 2, mode="reflect") * inside
        found = correct_by_labels(
            given, labels * inside, affine=np.diag([2.0, 2, 2, 1]), fwhm_mm=(6,) * 3, inside=inside
        )
        assert found.gtm == pytest.approx({1: 4.0, 2: 2.0}, rel=1e-6)
        assert found.rbv == pytest.approx({1: 4.0, 2: 2.0}, rel=1e-6)

    def test_regions_that_cannot_be_told_apart_have_none(self):
        labels = np.zeros((12, 12, 2), int)
        labels[3:9, 3:9] = 1
        layers = np.stack([labels, labels * 2])
        assert correct_by_labels(np.ones(labels.shape), layers, affine=np.eye(4), fwhm_mm=(3, 3, 0)) is None

    def test_the_psf_is_that_of_the_steps(self):
        part = Degradation((GaussianBlur((2.0, 1.0)), Downsample(2), GaussianNoise(0.1)))
        width = 2.3548200450309493
        expected = (1.5 * width * np.sqrt(4 + 3 / 12), 0.0, 3.0 * width * np.sqrt(1 + 3 / 12))
        assert psf_mm(part, (1.5, 9.0, 3.0), spatial_dim=1) == pytest.approx(expected)
        assert psf_mm(Degradation((GaussianNoise(0.1),)), (1, 1, 1), spatial_dim=2) is None


def case_record(mean: float, sd: float | None = None, unit: str = "SUV", name: str = "Pons") -> dict:
    region = {"label": 7, "name": name, "given": {"mean": mean}, "restored": {"mean": 2 * mean}}
    region |= {} if sd is None else {"interval": {"sd": sd}}
    whole = {"label": None, "given": {"mean": 1.0}, "restored": {"mean": 1.0}}
    return {"sources": {"mri": {}, "pet": {"unit": unit, "regions": [whole, region]}}}


class TestCompared:
    def test_the_difference_has_the_interval_of_two_errors(self):
        _, found = compare_regions(case_record(2.0, 0.3), case_record(3.0, 0.4))
        restored = found["restored"]
        assert (restored["difference"], restored["percent"]) == (2.0, 50.0)
        assert restored["sd"] == pytest.approx(0.5)  # 3, 4, 5
        assert (restored["low"], restored["high"]) == pytest.approx((2 - 0.98, 2 + 0.98), abs=1e-3)
        assert restored["changed"]
        assert not compare_regions(case_record(2.0, 3.0), case_record(3.0, 4.0))[1]["restored"]["changed"]

    def test_the_whole_image_says_that_it_has_no_interval_and_asks_for_none(self):
        said = [change_sentence(r, "PET", "SUV") for r in compare_regions(case_record(2.0, 0.3), case_record(3.0, 0.4))]
        assert said[0].endswith("how sure that is is computed of regions alone.") and "95 % interval" in said[1]
        unsure = [change_sentence(r, "PET", "SUV") for r in compare_regions(case_record(2.0), case_record(3.0))]
        assert "--uncertainty full" not in unsure[0] and unsure[1].endswith("fuse both with --uncertainty full.")

    @pytest.mark.parametrize(("later", "ratio"), [("Pons", 0.5), ("White matter", None)])
    def test_ratios_to_one_reference_region_are_compared(self, later, ratio):
        first, second = case_record(2.0), case_record(3.0)
        for record, suvr, by in ((first, 1.0, "Pons"), (second, 1.5, later)):
            record["reference_region"] = by
            record["sources"]["pet"]["regions"][1]["restored"]["suvr"] = suvr
        found = compare_regions(first, second)[1]["suvr"]
        assert (found and found["difference"]) == ratio

    def test_the_whole_image_of_another_field_of_view_is_not_compared(self):
        first, second = case_record(1.0), case_record(1.0)
        for record, volume in ((first, 9000.0), (second, 8000.0)):
            record["sources"]["pet"]["regions"][0]["volume_ml"] = volume
        assert [row["label"] for row in compare_regions(first, second)] == [7]
        assert [row["label"] for row in compare_regions(first, first)] == [None, 7]

    def test_suv_by_two_formulas_of_lean_body_mass_are_not_compared(self):
        """Both have the unit SUVlbm."""
        first, second = case_record(1.0, unit="SUVlbm"), case_record(1.0, unit="SUVlbm")
        for record, kind in ((first, "lbm"), (second, "lbm-james")):
            record["sources"]["pet"]["suv"] = {"kind": kind}
        with pytest.raises(ImageError, match="one formula, got lbm and lbm-james"):
            compare_regions(first, second)

    @pytest.mark.parametrize(
        ("second", "message"),
        [
            (case_record(1.0, unit="Bq/mL"), "one source and unit"),
            (case_record(1.0, name="Putamen"), "one region in both cases"),
            ({"sources": {"mri": {}, "pet": {}}}, "values of regions"),
        ],
    )
    def test_cases_that_cannot_be_compared_are_refused(self, second, message):
        with pytest.raises(ImageError, match=message):
            compare_regions(case_record(1.0), second)


class TestTable:
    """Of a case with two regions, and intervals of both sources."""

    @staticmethod
    def region(label, mean):
        figures = {"given": {"mean": mean}, "restored": {"mean": mean + 1}}
        interval = {"sd": 0.1, "low": mean + 0.8, "high": mean + 1.2}
        return {"label": label, "volume_ml": 2.0, **figures, **({} if label is None else {"interval": interval})}

    def test_the_other_source_has_its_mean_and_interval_beside(self):
        """Rows follow labels, whatever the order of the record; each column has the unit of its source."""
        pet = [self.region(None, 2.0), self.region(1, 3.0), self.region(7, 5.0)]
        mri = [self.region(7, 500.0), self.region(None, 200.0)]
        columns, rows = region_rows(pet, mri, key="mri")
        names = [column.name for column in columns]
        table = [dict(zip(names, row, strict=True)) for row in rows]
        keys = ["index", "restored_mean_low", "mri_given_mean", "mri_restored_mean", "mri_restored_mean_high"]
        assert [[row[key] for key in keys] for row in table] == [
            [None, None, 200.0, 201.0, None], [1, 3.8, None, None, None], [7, 5.8, 500.0, 501.0, 501.2],
        ]  # fmt: skip
        told = dictionary(columns, titles=("MRI", "PET"), units=("a.u.", "SUV"))
        assert set(told) == set(names)
        assert told["mri_restored_mean_low"]["Units"] == "a.u."
        assert "MRI" in told["mri_restored_mean"]["Description"]
        assert told["restored_mean_low"]["Units"] == "SUV"

    def test_without_regions_of_the_other_source_there_are_none(self):
        columns, rows = region_rows([self.region(None, 2.0), self.region(1, 3.0)])
        assert not any(column.first for column in columns)
        assert len(rows) == 2


class TestPersons:
    """Two cases are of one person, and of two scans."""

    @staticmethod
    def write(folder, name: str, record: dict, patient: str | None = None) -> None:
        (folder / name).mkdir()
        (folder / name / f"{name}.json").write_text(json.dumps(record | {"case": name}))
        if patient is not None:
            (folder / name / "dicom" / "fused").mkdir(parents=True)
            (image := source_images(folder)[0]).PatientID = patient
            image.save_as(folder / name / "dicom" / "fused" / "0001.dcm", enforce_file_format=True)

    @pytest.mark.parametrize(
        ("names", "patients", "known"),
        [
            (("a", "b"), ("P", "P"), True),
            (("a", "b"), ("P", "Q"), None),
            (("a", "b"), (None, "P"), False),
            (("sub-1_ses-1", "sub-1_ses-2"), (None, None), True),
            (("sub-1_ses-1", "sub-2_ses-1"), (None, None), None),
        ],
    )
    def test_cases_of_two_persons_are_refused(self, tmp_path, names, patients, known):
        for name, patient in zip(names, patients, strict=True):
            self.write(tmp_path, name, case_record(2.0), patient)
        paths = [tmp_path / name for name in names]
        if known is None:
            with pytest.raises(BundleError, match="must be of one person, got cases of two"):
                compare_cases(*paths)
        else:
            said = compare_cases(*paths)["sentences"]
            assert ("of one person is not known" in said[-1]) is not known
            assert "fuse both with --uncertainty full" in said[1]

    def test_what_else_a_difference_holds_is_said(self, tmp_path):
        """Another restoration, another PSF, another reference region, a region that one case has alone or in part."""
        first, second = case_record(2.0), case_record(3.0)
        assert self.doubts(tmp_path / "same", first, second) == []
        other = {"label": 9, "name": "Putamen", "given": {"mean": 1.0}, "restored": {"mean": 1.0}}
        second["sources"]["pet"]["regions"].append(other)
        second |= {"mask_unmeasured": {"7": 0.4}, "reference_region": "Pons", "weights_sha256": "b"}
        first["sources"]["pet"]["native"] = {"guided": True, "psf_fwhm_mm": [6, 6, 6]}
        said = self.doubts(tmp_path / "other", first, second)
        for text in (
            "earlier case was restored on its own grid, guided, that of the later came back as it was given",
            "not made by one version", "not one reference region", "later case alone: Label 9, Putamen; not compared",
            "Of Label 7, Pons not the same part",
        ):  # fmt: skip
            assert sum(text in sentence for sentence in said) == 1
        second["sources"]["pet"]["native"] = {"guided": True, "psf_fwhm_mm": [6, 6, 6.7]}
        said = self.doubts(tmp_path / "psf", first, second)
        assert any("a PSF of 6 x 6 x 6 mm, then of 6 x 6 x 6.7 mm" in sentence for sentence in said)

    def test_another_network_on_the_own_grid_is_said(self, tmp_path):
        first, second = case_record(2.0), case_record(3.0)
        natives = [record["sources"]["pet"].setdefault("native", {"guided": True}) for record in (first, second)]
        natives[0]["weights_sha256"] = "a"
        said = self.doubts(tmp_path / "rule", first, second)
        assert len(said) == 1
        assert "grid by a trained network, guided, that of the later was restored on its own grid, guided;" in said[0]
        natives[1]["weights_sha256"] = "b"
        (said,) = self.doubts(tmp_path / "network", first, second)
        assert "not made by one version" in said

    def doubts(self, folder, first: dict, second: dict) -> list[str]:
        folder.mkdir()
        for name, record in (("sub-1_ses-1", first), ("sub-1_ses-2", second)):
            self.write(folder, name, record)
        return compare_cases(*sorted(folder.iterdir()))["doubts"]

    def test_a_scan_is_not_compared_with_itself(self, tmp_path):
        record = case_record(2.0)
        record["sources"]["pet"]["sha256"] = "d1"
        for name in ("a", "b"):
            self.write(tmp_path, name, record)
        with pytest.raises(BundleError, match="two scans, got two of one"):
            compare_cases(tmp_path / "a", tmp_path / "b")


class TestFieldOfView:
    def test_zeros_outside_of_the_pet_count_in_no_region(self):
        """Half of label 2, and of the image, lie beyond the end of the PET."""
        labels = np.zeros((1, 8, 4, 4), np.float32)
        labels[0, :2], labels[0, 2:6] = 1, 2
        grid, pet = np.eye(4), np.zeros((8, 4, 4))
        pet[:4] = 3.0
        fov = json.dumps([np.eye(4).tolist(), [4, 4, 4]])
        data = {"mask": MetaTensor(labels), "mri": image(affine=grid, shape=(8, 4, 4))}
        data["pet"] = MetaTensor(pet[None], affine=grid, meta={"field_of_view": fov})
        found = measure_regions(data, pet, pet, affine=grid, keys=("mri", "pet"))
        assert [(r["label"], r["given"]["mean"], r["volume_ml"]) for r in found] == [
            (None, 3.0, pytest.approx(0.064)), (1, 3.0, pytest.approx(0.032)), (2, 3.0, pytest.approx(0.032)),
        ]  # fmt: skip
        assert unmeasured(data, pet.shape, ("mri", "pet")) == {2: 0.5}

    def test_what_was_invented_of_the_whole_image_is_of_what_was_measured(self):
        """The data end after half of the image: 0.3 of 3 was invented where there are any."""
        inside = np.zeros((4, 3, 2), bool)
        inside[:2] = True
        regions = region_values(3.0 * inside, 3.0 * inside, affine=np.eye(4), inside=inside)
        add_invented(regions, None, 0.3 * inside, gate=0.5 * inside, inside=inside)
        assert regions[0]["invented"] == pytest.approx({"mean": 0.3, "share": 0.1, "gate": 0.5})

    def test_the_peak_of_the_whole_image_is_one_that_was_measured(self):
        """What lies beyond is 9, what was measured 3: a sphere of 1 ml (radius 6.2 mm) that ends before it has 3."""
        volume, inside = np.full((32, 12, 12), 3.0), np.zeros((32, 12, 12), bool)
        volume[20:], inside[:12] = 9.0, True
        whole = region_values(volume, volume, affine=np.diag([2.0, 2.0, 2.0, 1.0]), inside=inside)[0]
        assert [whole["given"][name] for name in ("mean", "max", "peak")] == pytest.approx([3.0, 3.0, 3.0], rel=1e-6)


def test_a_case_with_an_atlas_from_files_to_a_comparison(tmp_path, monkeypatch, capsys):
    """SUVR, GTM, table and dictionary, by the command line; then two time points."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    affine = np.diag([2.0, 2.0, 4.0, 1.0])
    labels = np.zeros((40, 40, 4), np.uint8)
    labels[8:32, 8:32], labels[14:22, 14:22] = 1, 2
    mri = np.array([0.0, 2.0, 1.0])[labels] + rng.uniform(0, 0.05, labels.shape)
    table = "index\tname\n1\tCerebellum\n2\tLesion\n"
    (tmp_path / "names.tsv").write_text(table)
    (tmp_path / "blur.yaml").write_text("{version: 1, source2: [{blur: {fwhm_mm: 6}}, {noise: {sigma: 0.01}}]}")
    nib.save(nib.Nifti1Image(mri.astype(np.float32), affine), "mri.nii.gz")
    nib.save(nib.Nifti1Image(labels, affine), "atlas.nii.gz")
    for name, hot in (("a", 4.0), ("b", 6.0)):
        pet = gaussian_filter(np.array([0.1, 1.0, hot])[labels], (6 / 2.3548 / 2, 6 / 2.3548 / 2, 0))
        nib.save(nib.Nifti1Image(pet.astype(np.float32), affine), f"{name}.nii.gz")
        call = ["fuse", "--pet", f"{name}.nii.gz", "--mri", "mri.nii.gz", "--atlas", "atlas.nii.gz", "--case", name]
        call += ["--labels", "names.tsv", "--reference", "cerebellum", "--degradation", "blur.yaml", "--aligned"]
        assert cli.main([*call, "--pet-unit", "SUV", "--out", "out"]) == 0
    with (tmp_path / "out/a/a_regions.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    dictionary = json.loads((tmp_path / "out/a/a_regions.json").read_text())
    assert set(rows[0]) == set(dictionary)
    assert dictionary["given_mean"]["Units"] == "SUV"
    assert [(row["index"], row["name"]) for row in rows] == [
        ("n/a", "whole image"), ("1", "Cerebellum"), ("2", "Lesion"),
    ]  # fmt: skip
    lesion, cerebellum = rows[2], rows[1]
    given = nib.load("a.nii.gz").get_fdata()
    assert float(lesion["given_mean"]) == pytest.approx(given[labels == 2].mean(), rel=1e-4)
    ratio = float(lesion["given_mean"]) / float(cerebellum["given_mean"])
    assert float(lesion["given_suvr"]) == pytest.approx(ratio, rel=1e-9)
    assert float(lesion["gtm_mean"]) == pytest.approx(4.0, rel=0.01)  # uniform regions, and the labels are true
    report = (tmp_path / "out/a/a_report.html").read_text()
    assert "Label 2, Lesion" in report
    assert "geometric transfer matrix" in report
    capsys.readouterr()
    assert cli.main(["compare", "out/a", "out/b/b.json", "--out", "change.tsv"]) == 0
    said = capsys.readouterr().out
    assert "Lesion: the mean of the restored PET went from" in said
    with (tmp_path / "change.tsv").open(newline="") as file:
        change = list(csv.DictReader(file, delimiter="\t"))[2]
    later = nib.load("b.nii.gz").get_fdata()
    by = (later - given)[labels == 2].mean()
    assert float(change["given_difference"]) == pytest.approx(by, rel=1e-4)


def test_regions_of_another_place_are_refused_by_name(tmp_path, monkeypatch, capsys):
    """What is wrong is the regions, not the pair of images; one file cannot be that of each case of a batch."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    affine, away = np.diag([2.0, 2.0, 4.0, 1.0]), np.diag([2.0, 2.0, 4.0, 1.0])
    away[0, 3] = 1000.0
    (tmp_path / "cases/a").mkdir(parents=True)
    for name in ("mri", "pet"):
        nib.save(nib.Nifti1Image(rng.uniform(0, 1, (32, 32, 2)).astype(np.float32), affine), f"cases/a/{name}.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((32, 32, 2), np.uint8), away), "away.nii.gz")
    call = ["--pet", "cases/a/pet.nii.gz", "--mri", "cases/a/mri.nii.gz", "--aligned", "--atlas", "away.nii.gz"]
    assert cli.main(["fuse", *call, "--degradation", "none", "--out", "out"]) == 2
    assert "Regions must overlap the MRI" in capsys.readouterr().err
    assert not (tmp_path / "out/case").exists()
    call = ["batch", "cases", "many", "participant", "--degradation", "none", "--atlas", "away.nii.gz"]
    assert cli.main(call) != 0
    assert "one file for all cases" in capsys.readouterr().err.replace("\n", " ")
