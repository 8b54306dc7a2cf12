"""Regions drawn on one small grid: segmentations, structures, their contours, and an image of it."""

from __future__ import annotations

from collections.abc import Sequence

import highdicom
import numpy as np
from monai.data import MetaTensor
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes

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
