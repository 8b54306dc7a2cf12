"""DICOM files that the tests make. All are full of canaries: text that must come out nowhere."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import config, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence

CANARIES = ("CANARY", "MRN-4711", "19010203", "20240229", "20240301")
IMPLEMENTATION = "1.2.3.4"
CLASSES = {
    "MR": (uid.MRImageStorage, uid.EnhancedMRImageStorage),
    "PT": (uid.PositronEmissionTomographyImageStorage, uid.EnhancedPETImageStorage),
    "CT": (uid.CTImageStorage, uid.EnhancedCTImageStorage),
}


def rotation(x: float, y: float, z: float) -> np.ndarray:
    (cx, cy, cz), (sx, sy, sz) = np.cos([x, y, z]), np.sin([x, y, z])
    return (
        np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
        @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        @ np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    )


def item(**values) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


@dataclass(frozen=True)
class Scan:
    """A series to write: `stored` is [slices, rows, columns], `turn` the rotation whose columns are X, Y, Z in LPS."""

    modality: str = "MR"
    stored: np.ndarray = field(
        default_factory=lambda: np.random.default_rng(0).integers(0, 2000, (5, 34, 40)).astype(np.int16)
    )
    spacing: tuple[float, float, float] = (1.5, 2.5, 3.0)  # columns, rows, slices
    turn: np.ndarray = field(default_factory=lambda: np.eye(3))
    origin: tuple[float, float, float] = (-20.0, 30.0, -10.0)
    slopes: tuple[float, ...] = ()
    intercept: float = 0.0
    series: str = "1.2.826.0.1.7.1"
    world: str = "1.2.826.0.1.7.99"

    @property
    def affine(self) -> np.ndarray:
        """The affine in RAS mm that a reader should find."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.turn * self.spacing, self.origin
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix

    @property
    def scale(self) -> np.ndarray:
        return np.array(self.slopes or [1.0] * len(self.stored))

    @property
    def volume(self) -> np.ndarray:
        """The values [X, Y, Z] that a reader should find."""
        return (self.stored * self.scale[:, None, None] + self.intercept).transpose(2, 1, 0)

    def change(self, **values) -> Scan:
        return replace(self, **values)

    def position(self, k: int) -> list[float]:
        return [float(f"{v:.9g}") for v in np.array(self.origin) + k * self.spacing[2] * self.turn[:, 2]]

    @property
    def orientation(self) -> list[float]:
        return [float(f"{v:.10g}") for v in (*self.turn[:, 0], *self.turn[:, 1])]

    def slices(self) -> list[Dataset]:
        """Classic images, one for each slice."""
        datasets = []
        for k, stored in enumerate(self.stored):
            dataset = self._base(stored, f"{self.series}.{k + 1}", CLASSES[self.modality][0])
            dataset.InstanceNumber = k + 1
            dataset.ImagePositionPatient = self.position(k)
            dataset.ImageOrientationPatient = self.orientation
            dataset.PixelSpacing = [self.spacing[1], self.spacing[0]]
            if self.slopes or self.intercept or self.modality != "MR":
                dataset.RescaleSlope, dataset.RescaleIntercept = f"{self.scale[k]:.10g}", self.intercept
            datasets.append(dataset)
        return datasets

    def enhanced(self) -> Dataset:
        """One multi-frame image."""
        dataset = self._base(self.stored, f"{self.series}.1", CLASSES[self.modality][1])
        dataset.NumberOfFrames = len(self.stored)
        measures = item(PixelSpacing=[self.spacing[1], self.spacing[0]], SliceThickness=self.spacing[2])
        shared = item(
            PixelMeasuresSequence=Sequence([measures]),
            PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=self.orientation)]),
        )
        dataset.SharedFunctionalGroupsSequence = Sequence([shared])
        frames = []
        for k, slope in enumerate(self.scale):
            scaling = item(RescaleSlope=f"{slope:.10g}", RescaleIntercept=self.intercept, RescaleType="US")
            frames.append(
                item(
                    PlanePositionSequence=Sequence([item(ImagePositionPatient=self.position(k))]),
                    PixelValueTransformationSequence=Sequence([scaling]),
                )
            )
        dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
        return dataset

    def _base(self, stored: np.ndarray, instance: str, sop_class: uid.UID) -> Dataset:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = instance
        dataset.file_meta.ImplementationClassUID = IMPLEMENTATION
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID = self.series, "1.2.826.0.1.7"
        dataset.FrameOfReferenceUID = self.world
        dataset.Modality = self.modality
        dataset.ImageType = ["ORIGINAL", "PRIMARY"]
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "CANARY^NAME", "MRN-4711", "19010203"
        dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = "20240229"
        dataset.StudyDescription = dataset.SeriesDescription = dataset.InstitutionName = "CANARY CLINIC"
        dataset.OperatorsName = dataset.ProtocolName = "CANARY^OPERATOR"
        block = dataset.private_block(0x0099, "CANARY MAKER", create=True)
        block.add_new(1, "LO", "CANARY^PRIVATE")
        dataset.Rows, dataset.Columns = stored.shape[-2:]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        bits = stored.dtype.itemsize * 8
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
        dataset.PixelRepresentation = int(stored.dtype.kind == "i")
        dataset.PixelData = np.ascontiguousarray(stored).tobytes()
        dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
        if self.modality == "PT":
            _add_pet(dataset)
        return dataset


def _add_pet(dataset: Dataset) -> None:
    """An hour from the injection to the scan."""
    dataset.PatientWeight, dataset.PatientSize, dataset.PatientSex = 70.0, 1.75, "M"
    dataset.Units, dataset.DecayCorrection, dataset.CorrectedImage = "BQML", "START", ["DECY", "ATTN", "SCAT"]
    dataset.SeriesTime = dataset.AcquisitionTime = "113000.00"
    dataset.RadiopharmaceuticalInformationSequence = Sequence(
        [
            item(
                Radiopharmaceutical="CANARY TRACER",
                RadiopharmaceuticalStartTime="103000",
                RadionuclideTotalDose=370e6,
                RadionuclideHalfLife=6586.2,
            )
        ]
    )


def write(datasets: list[Dataset] | Dataset, folder: Path, *, name: str = "CANARY_{}.dcm") -> list[Path]:
    """Write data sets as files whose names tell nothing but a canary."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with config.disable_value_validation():
        for k, dataset in enumerate(datasets if isinstance(datasets, list) else [datasets]):
            syntax = dataset.file_meta.TransferSyntaxUID
            path = folder / name.format(k)
            if syntax == uid.ExplicitVRBigEndian:
                swapped = np.frombuffer(dataset.PixelData, "<i2").astype(">i2")
                dataset.PixelData = swapped.tobytes()
            dataset.preamble = bytes(128)
            dataset.save_as(path, enforce_file_format=False)
            paths.append(path)
    return paths


@pytest.fixture
def mri() -> Scan:
    """Return an MRI on an oblique grid."""
    return Scan(turn=rotation(0.3, -0.2, 0.5))


@pytest.fixture
def pet() -> Scan:
    """Return a PET with a slope of its own in each slice, in the world of the MRI."""
    return Scan(
        modality="PT", slopes=(1.7, 0.3, 2.9, 11.0, 0.01), series="1.2.826.0.1.7.2", turn=rotation(0.3, -0.2, 0.5)
    )


@pytest.fixture
def save():
    """Return the function that writes data sets."""
    return write


@pytest.fixture
def canaries() -> tuple[str, ...]:
    """Return text that is in every file and must come out nowhere."""
    return CANARIES
