"""Results as DICOM: the same grid, values and world for every reader; who and where from; complete or not at all."""

from __future__ import annotations

from datetime import datetime
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom import uid
from pydicom.dataset import Dataset

from medfuse import NOTICE
from medfuse.errors import DicomError
from medfuse.io import DicomReader, open_series
from medfuse.io.dicom import write
from medfuse.io.dicom.derived import grid_and_frames

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
KINDS = ("pet_restored", "fused", "fused_rgb", "fused_rgb_multiframe")
CLASSES = {
    "pet_restored": uid.PositronEmissionTomographyImageStorage,
    "fused": uid.ParametricMapStorage,
    "fused_rgb": uid.SecondaryCaptureImageStorage,
    "fused_rgb_multiframe": uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
}
NAMED = ("PatientName", "PatientID", "PatientBirthDate")
kinds = pytest.mark.parametrize("kind", KINDS)


class Case:
    """Volumes on a grid, made from an MRI and a PET series, and the folder that they are written to."""

    def __init__(self, root: Path, shape: tuple[int, int, int], affine: np.ndarray, sources) -> None:
        rng = np.random.default_rng(0)
        self.root, self.affine, self.sources = root, affine, sources
        self.pet = rng.gamma(1.0, 3.0, shape).astype(np.float32)
        self.fused = rng.random(shape, dtype=np.float32)
        self.rgb = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)

    def derivation(self, key: str = "key", **options) -> write.Derivation:
        return write.Derivation(self.sources, self.sources[0].frame_of_reference, key, **options)

    def write(self, kind: str, derivation: write.Derivation | None = None, **options) -> Path:
        folder, made = self.root / kind, derivation or self.derivation()
        mri, pet = self.sources
        if kind == "pet_restored":
            write.write_pet(folder, self.pet, self.affine, made, pet=pet, **options)
        elif kind == "fused":
            write.write_parametric_map(
                folder, self.fused, self.affine, made, origin=mri, name=kind, explanation="fused", **options
            )
        elif kind == "fused_rgb":
            write.write_color_series(folder, self.rgb, self.affine, made, origin=mri)
        else:
            write.write_color_multiframe(folder, self.rgb, self.affine, made, origin=mri)
        return folder

    def values(self, kind: str) -> np.ndarray:
        return {"pet_restored": self.pet, "fused": self.fused}.get(kind, self.rgb)


DECAY = [f"{2 ** ((1500 + 60 * (4 - k)) / 6586.2):.4f}" for k in range(5)]  # to 11:30, when the series began


@pytest.fixture
def sources(tmp_path, mri, pet, save):
    """Return what is needed of an MRI and a PET series."""
    save(mri.slices(), tmp_path / "mri")
    datasets = pet.slices()
    for k, dataset in enumerate(datasets):
        dataset.AcquisitionTime, dataset.DecayFactor = f"11{59 - k}00.00", DECAY[k]  # the last one came first
    save(datasets, tmp_path / "pet")
    return tuple(write.read_reference(open_series(tmp_path / name).files) for name in ("mri", "pet"))


@pytest.fixture
def case(tmp_path, mri, sources) -> Case:
    """Return a case on the oblique, anisotropic grid of the MRI; an odd number of bytes in a colour slice."""
    return Case(tmp_path / "out", (31, 27, 5), mri.affine, sources)


def load(folder: Path) -> list[Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def read_by_simpleitk(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    reader = sitk.ImageSeriesReader()
    names = reader.GetGDCMSeriesFileNames(str(folder))
    image = sitk.ReadImage(names if len(names) > 1 else names[0])
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).swapaxes(0, 2), LPS @ affine


def read_by_highdicom(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    paths = sorted(folder.iterdir())
    if len(paths) == 1:
        volume = highdicom.imread(paths[0]).get_volume()
    else:
        volume = highdicom.get_volume_from_series(load(folder))
    array, affine = volume.array.swapaxes(0, 2), (LPS @ volume.affine)[:, [2, 1, 0, 3]]
    turned = affine.copy()  # it counts slices against the normal
    turned[:3, 3] += (array.shape[2] - 1) * affine[:3, 2]
    turned[:3, 2] *= -1
    return array[:, :, ::-1], turned


def assert_same(found: np.ndarray, affine: np.ndarray, case: Case, kind: str, quantum: float) -> None:
    """Compare values and millimetres, for a grid whose slices follow the normal."""
    assert found.shape == case.values(kind).shape
    assert np.abs(affine - case.affine).max() < 1e-4
    error = np.abs(found.astype(np.float64) - case.values(kind)).max()
    assert error <= (0.5 + 1e-4) * quantum


class TestReaders:
    @pytest.mark.parametrize("kind", [k for k in KINDS if k != "fused"])  # float pixels are beyond SimpleITK
    def test_simpleitk_finds_grid_and_values(self, case, kind):
        folder = case.write(kind)
        quantum = float(load(folder)[0].RescaleSlope) if kind == "pet_restored" else 0.0
        assert_same(*read_by_simpleitk(folder), case, kind, quantum)

    @kinds
    def test_highdicom_finds_grid_and_values(self, case, kind):
        folder = case.write(kind)
        quantum = float(load(folder)[0].RescaleSlope) if kind == "pet_restored" else 0.0
        assert_same(*read_by_highdicom(folder), case, kind, quantum)

    @pytest.mark.parametrize(("units", "suv_type", "unit"), [("GML", "BW", "SUV"), ("GML", "LBMJANMA", "SUVlbm")])
    def test_we_find_the_pet_with_its_unit(self, case, units, suv_type, unit):
        folder = case.write("pet_restored", units=units, suv_type=suv_type, window=(0.0, 0.5))
        volume, meta = DicomReader(modality="PT").get_data([folder])
        assert meta["unit"] == unit
        assert meta["frame_of_reference"] == case.sources[0].frame_of_reference
        assert_same(volume, meta["affine"], case, "pet_restored", float(load(folder)[0].RescaleSlope))

    def test_becquerels_stay_becquerels_and_give_the_suv_of_the_source(self, case, tmp_path):
        folder = case.write("pet_restored")
        image = load(folder)[0]
        assert (image.Units, image.DecayCorrection) == ("BQML", "START")
        assert "SUVType" not in image
        assert (image.AcquisitionTime, image.DecayFactor) == ("115500.00", DECAY[4])
        factors = [DicomReader(suv="bw").get_data([f])[1]["suv"]["factor"] for f in (folder, tmp_path / "pet")]
        assert factors[0] == pytest.approx(factors[1], rel=1e-12)


@kinds
def test_a_grid_against_the_normal_keeps_every_voxel_at_its_place(case, kind):
    case.affine = case.affine @ np.diag([1.0, 1.0, -1.0, 1.0])
    read = read_by_highdicom if kind == "fused" else read_by_simpleitk
    found, affine = read(case.write(kind))
    assert np.abs(affine @ (3, 2, 0, 1) - case.affine @ (3, 2, 4, 1)).max() < 1e-4
    quantum = float(np.abs(case.pet).max()) / 32767
    assert np.abs(found[3, 2, 0].astype(float) - case.values(kind)[3, 2, 4]).max() <= 0.5001 * quantum


class TestQuantisation:
    @pytest.mark.parametrize("scale", [1e-9, 1e-4, 1.0, 1e5, 1e9])
    def test_no_value_is_off_by_more_than_half_a_quantum(self, case, scale):
        case.pet = case.pet * scale - np.float32(0.2 * scale)  # some are negative
        images = load(case.write("pet_restored"))
        slopes = {float(image.RescaleSlope) for image in images}
        assert len(slopes) == 1
        (slope,) = slopes
        assert all(image.RescaleIntercept == 0 for image in images)
        found = np.stack([image.pixel_array * slope for image in images]).swapaxes(0, 2)
        error = np.abs(found - case.pet.astype(np.float64)).max() / slope
        assert error <= 0.5 + 1e-5
        assert slope == pytest.approx(np.abs(case.pet).max() / 32767, rel=1e-6)

    def test_a_volume_of_zeros_can_be_written(self, case):
        case.pet = np.zeros_like(case.pet)
        assert all((image.pixel_array == 0).all() for image in load(case.write("pet_restored")))

    @kinds
    def test_an_object_is_whole_when_it_goes_through_a_stream(self, case, kind):
        image, buffer = load(case.write(kind))[0], BytesIO()
        image.save_as(buffer)
        again = pydicom.dcmread(BytesIO(buffer.getvalue()))
        np.testing.assert_array_equal(again.pixel_array, image.pixel_array)


class TestWhoAndWhereFrom:
    @kinds
    def test_an_object_says_what_it_is(self, case, kind):
        for number, image in enumerate(load(case.write(kind)), start=1):
            assert image.SOPClassUID == image.file_meta.MediaStorageSOPClassUID == CLASSES[kind]
            assert image.InstanceNumber == number
            assert image.ImageType[0] == "DERIVED"
            assert "RESEARCH USE ONLY" in image.SeriesDescription
            assert image.Manufacturer == "The medfuse authors"
            (ours, *scanners) = image.ContributingEquipmentSequence
            assert ours.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
            assert ours.ContributionDescription == NOTICE
            assert {s.PurposeOfReferenceCodeSequence[0].CodeValue for s in scanners} == {"109101"}
            place = image if kind != "fused" else image.SharedFunctionalGroupsSequence[0].DerivationImageSequence[0]
            assert "medfuse" in place.DerivationDescription
            assert NOTICE in place.DerivationDescription
            assert place.DerivationCodeSequence[0].CodeValue == "113085"

    def test_secondary_as_far_as_the_class_allows(self, case):
        for kind in KINDS:
            secondary = "SECONDARY" if "rgb" in kind else "PRIMARY"
            assert load(case.write(kind))[0].ImageType[1] == secondary

    @kinds
    def test_every_source_image_is_named(self, case, kind):
        image = load(case.write(kind))[-1]
        place = image if kind != "fused" else image.SharedFunctionalGroupsSequence[0].DerivationImageSequence[0]
        named = [(i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID) for i in place.SourceImageSequence]
        assert named == [pair for source in case.sources for pair in source.instances]
        assert len(named) == 10
        assert place.SourceImageSequence[7].PurposeOfReferenceCodeSequence[0].CodeValue == "121322"

    def test_a_parametric_map_lists_its_references_by_series(self, case):
        (image,) = load(case.write("fused"))
        listed = {s.SeriesInstanceUID: len(s.ReferencedInstanceSequence) for s in image.ReferencedSeriesSequence}
        assert listed == {source.series: 5 for source in case.sources}
        assert "StudiesContainingOtherReferencedInstancesSequence" not in image

    def test_a_parametric_map_lists_sources_of_another_study_by_study(self, case, tmp_path, pet, save):
        datasets = pet.slices()
        for dataset in datasets:
            dataset.StudyInstanceUID = "1.2.826.0.1.8"
        save(datasets, tmp_path / "other")
        case.sources = (case.sources[0], write.read_reference(open_series(tmp_path / "other").files))
        (image,) = load(case.write("fused"))
        assert len(image.ReferencedSeriesSequence) == 1
        (other,) = image.StudiesContainingOtherReferencedInstancesSequence
        assert other.StudyInstanceUID == "1.2.826.0.1.8"
        assert other.ReferencedSeriesSequence[0].SeriesInstanceUID == pet.series
        assert load(case.write("pet_restored"))[0].StudyInstanceUID == "1.2.826.0.1.8"

    @kinds
    def test_patient_and_study_are_those_of_the_source(self, case, tmp_path, kind):
        image = load(case.write(kind))[0]
        source = pydicom.dcmread(next((tmp_path / ("pet" if kind == "pet_restored" else "mri")).iterdir()))
        for name in (*NAMED, "StudyInstanceUID", "StudyDate", "StudyDescription"):
            assert image[name].value == source[name].value
        assert image.FrameOfReferenceUID == source.FrameOfReferenceUID
        assert image.SeriesInstanceUID != source.SeriesInstanceUID

    @kinds
    def test_nothing_else_of_the_headers_is_copied(self, case, kind):
        for path in case.write(kind).iterdir():
            assert path.name.removesuffix(".dcm").isdigit()
            content = path.read_bytes()
            for text in (b"CANARY^OPERATOR", b"CANARY MAKER", b"CANARY^PRIVATE"):
                assert text not in content

    @kinds
    def test_deidentified_objects_name_no_one(self, case, canaries, kind):
        for path in case.write(kind, case.derivation(deidentified=True)).iterdir():
            content = path.read_bytes().replace(b"CANARY TRACER", b"")
            assert not [c for c in canaries[:3] if c.encode() in content]
            image = pydicom.dcmread(path)
            assert [image[name].value for name in NAMED] == ["", "", ""]

    def test_text_in_another_character_set_is_kept(self, case, tmp_path, mri, save):
        datasets = mri.slices()
        for dataset in datasets:
            dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 192", "山田^太郎"
            dataset.Manufacturer = "Größe"
        save(datasets, tmp_path / "utf8")
        case.sources = (write.read_reference(open_series(tmp_path / "utf8").files), case.sources[1])
        for kind in KINDS[1:]:
            assert load(case.write(kind))[0].PatientName == "山田^太郎"

    def test_what_was_lossy_stays_lossy(self, case, tmp_path, mri, save):
        datasets = mri.slices()
        for dataset in datasets:
            dataset.LossyImageCompression, dataset.LossyImageCompressionRatio = "01", "7.5"
        save(datasets, tmp_path / "lossy")
        case.sources = (write.read_reference(open_series(tmp_path / "lossy").files), case.sources[1])
        for kind in KINDS:
            image = load(case.write(kind))[0]
            assert (image.LossyImageCompression, image.LossyImageCompressionRatio) == ("01", 7.5)


class TestUids:
    def uids(self, case: Case, key: str) -> dict[str, list[str]]:
        images = {kind: load(case.write(kind, case.derivation(key))) for kind in KINDS}
        return {
            "instances": [i.SOPInstanceUID for images in images.values() for i in images],
            "series": [images[0].SeriesInstanceUID for images in images.values()],
        }

    def test_they_are_valid_unique_and_the_same_again(self, case):
        first, again, other = (self.uids(case, key) for key in ("a", "a", "b"))
        every = first["instances"] + first["series"]
        assert len(every) == len(set(every)) == 12 + 4
        assert all(uid.UID(u).is_valid and u.startswith("2.25.") for u in every)
        assert first == again
        assert not set(every) & set(other["instances"] + other["series"])

    @kinds
    def test_equal_input_gives_equal_bytes(self, case, kind):
        when = datetime(2030, 1, 2, 3, 4, 5)
        contents = []
        for _ in range(2):
            folder = case.write(kind, case.derivation(created=when))
            contents.append([path.read_bytes() for path in sorted(folder.iterdir())])
        assert contents[0] == contents[1]
        assert load(folder)[0].ContentDate == "20300102"


class TestFailures:
    @kinds
    def test_a_series_is_complete_or_not_there(self, case, kind, monkeypatch):
        count, last, save_as = 0, 1 if kind in ("fused", "fused_rgb_multiframe") else 3, Dataset.save_as

        def failing(self, path, **options):
            nonlocal count
            count += 1
            save_as(self, path, **options)
            if count >= last:
                raise OSError("no space left")

        monkeypatch.setattr(Dataset, "save_as", failing)
        with pytest.raises(OSError, match="no space left"):
            case.write(kind)
        assert list(case.root.iterdir()) == []
        monkeypatch.setattr(Dataset, "save_as", save_as)
        before = [path.read_bytes() for path in sorted(case.write(kind).iterdir())]
        count = 0
        monkeypatch.setattr(Dataset, "save_as", failing)
        with pytest.raises(OSError, match="no space left"):
            case.write(kind, case.derivation("other"))
        assert [p.name for p in case.root.iterdir()] == [kind]
        assert [path.read_bytes() for path in sorted((case.root / kind).iterdir())] == before

    def test_a_series_replaces_an_older_one_as_a_whole(self, case):
        case.write("fused_rgb")
        case.rgb = case.rgb[:, :, :3]
        assert len(load(case.write("fused_rgb"))) == 3

    @kinds
    def test_a_sheared_grid_is_refused(self, case, kind):
        case.affine = case.affine @ np.array([[1, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        with pytest.raises(DicomError, match="must be at right angles for DICOM, got a sheared grid"):
            case.write(kind)
        assert not case.root.exists()

    def test_values_that_are_not_finite_are_refused(self, case):
        case.pet[0, 0, 0] = case.fused[0, 0, 0] = np.nan
        for kind in KINDS[:2]:
            with pytest.raises(DicomError, match="must be finite for DICOM, got NaN"):
                case.write(kind)

    def test_a_colour_volume_must_be_bytes(self, case):
        case.rgb = case.rgb.astype(np.float32)
        with pytest.raises(DicomError, match=r"\[X, Y, Z, 3\] of uint8, got \(31, 27, 5, 3\) of float32"):
            case.write("fused_rgb")

    def test_an_affine_without_size_is_refused(self):
        with pytest.raises(DicomError, match="Voxels must have a size, got 0 mm"):
            grid_and_frames(np.zeros((2, 2, 2)), np.diag([1.0, 0.0, 1.0, 1.0]))

    def test_a_broken_header_is_not_repeated(self, tmp_path, mri, save):
        datasets = mri.slices()
        for dataset in datasets:
            dataset.PatientSize = "1.234567"
        for path in save(datasets, tmp_path / "broken"):
            path.write_bytes(path.read_bytes().replace(b"1.234567", b"CANARY!!"))
        identity = write.read_reference(open_series(tmp_path / "broken").files).identity()
        assert "PatientSize" not in identity  # an object can be filed without
        assert identity.PatientID == "MRN-4711"

    def test_what_names_the_patient_must_be_readable_and_is_not_repeated(self, tmp_path, mri, save):
        datasets = mri.slices()
        for dataset in datasets:
            dataset["PatientBirthDate"] = pydicom.DataElement("PatientBirthDate", "DS", "1.234567")
        for path in save(datasets, tmp_path / "broken"):
            path.write_bytes(path.read_bytes().replace(b"1.234567", b"CANARY!!"))
        with pytest.raises(DicomError, match="must have readable headers for DICOM output") as caught:
            write.read_reference(open_series(tmp_path / "broken").files)
        assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    ("suv", "expected"),
    [
        ({"kind": "none", "tags": {"Units": "BQML"}}, ("BQML", None)),
        ({"kind": "none", "tags": {"Units": "OTHER"}}, (None, None)),
        ({"kind": "none", "tags": {}}, (None, None)),
        ({"kind": "bw", "factor": 2e-4, "tags": {"Units": "BQML"}}, ("GML", "BW")),
        ({"kind": "lbm-james", "factor": 2e-4, "tags": {"Units": "CNTS"}}, ("GML", "LBMJAMES128")),
        ({"kind": "bsa", "factor": 2e-4, "tags": {"Units": "BQML"}}, ("CM2ML", "BSA")),
        ({"kind": "lbm", "factor": 1.0, "tags": {"Units": "GML", "SUVType": "LBM"}}, ("GML", "LBM")),
        ({"kind": "ibw", "factor": 0.9, "tags": {"Units": "GML", "SUVType": "BW"}}, ("GML", "IBW")),
    ],
)
def test_units_follow_the_record_of_the_suv(suv, expected):
    assert write.pet_units(suv) == expected
