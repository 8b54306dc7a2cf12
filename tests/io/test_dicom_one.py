"""One person, one study, one series; and files that are read, or named, as they are."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import config, dcmread, uid
from pydicom.sequence import Sequence

from medfuse import cli
from medfuse.errors import DicomError
from medfuse.io import DicomReader, list_series, open_series, require_one_person, series_suv
from medfuse.io.begin import is_dicom
from medfuse.pipeline import DescribeSourcesd
from medfuse.report import warnings

PET, MRI = "1.2.826.0.1.7.2", "1.2.826.0.1.7.1"


@pytest.fixture
def pair(tmp_path, mri, pet, save):
    """Return a function that writes an MRI and a PET with other elements, and describes them as a bundle does."""

    def write(describe: bool = True, **of_pet) -> dict:
        datasets, structure = pet.slices(), mri.slices()
        for dataset in structure:
            dataset.PatientSex = "M"
        for dataset in datasets:
            for name, value in of_pet.items():
                setattr(dataset, name, value)
        save(structure, tmp_path / "mri")
        save(datasets, tmp_path / "pet")
        item = {"case": "a", "mri": str(tmp_path / "mri"), "pet": str(tmp_path / "pet")}
        return DescribeSourcesd(["mri", "pet"], modality=["MR", "PT"])(item) if describe else item

    return write


class TestSources:
    @pytest.mark.parametrize(
        "other",
        [
            {"PatientID": "CANARY-2"},
            {"IssuerOfPatientID": "CANARY"},  # the MRI tells none: no contradiction
            {"PatientName": "CANARY^OTHER", "PatientBirthDate": "19991231"},
            {"PatientBirthDate": "19991231", "PatientSex": "F"},
            {"PatientID": "", "PatientSex": "F"},
            {"PatientID": "", "PatientName": "CANARY^OTHER"},
            {"PatientID": None, "PatientBirthDate": "19991231"},
        ],
    )
    def test_two_patients_are_refused_whatever_is_written(self, pair, other, canaries):
        if "IssuerOfPatientID" in other:
            assert pair(**other)["one_study"] is True
            return
        with pytest.raises(DicomError, match="mri and pet must be of one patient, got two") as caught:
            pair(**other)
        assert not [c for c in canaries if c in str(caught.value)]

    @pytest.mark.parametrize(
        "other",
        [
            {"PatientName": "canary^Name^^"},
            {"PatientID": ""},
            {"PatientID": "", "PatientName": "", "PatientBirthDate": ""},
            {"PatientName": "MARRIED^NAME"},
            {"PatientName": "MARRIED^NAME", "PatientSex": "O"},
        ],
        ids=["written otherwise", "no number, one name", "nothing told", "another name under one number", "no sex"],
    )
    def test_one_patient_is_not(self, pair, other):
        assert pair(**other)["one_study"] is True

    @pytest.mark.parametrize(
        "other",
        [{"PatientName": "MARRIED^NAME"}, {"PatientBirthDate": "19991231"}, {"PatientSex": "F"}],
        ids=lambda other: next(iter(other)),
    )
    def test_one_number_of_what_may_be_two_patients_is_a_warning(self, pair, other, canaries):
        """Numbers such as "0" are given to many; a name may have changed, a birth date and a sex hardly."""
        noted = pair(**other)["patient_differs"]
        assert noted == next(iter(other))
        (text,) = warnings({"patient_differs": noted})
        assert text == f"The images tell one PatientID and another {noted}: check that they are of one patient."
        assert pair(**{noted: ""})["patient_differs"] == ""
        assert warnings({"patient_differs": ""}) == []

    def test_another_study_of_a_patient_is_noted(self, pair):
        """An MRI of another day is what registration is for."""
        assert pair(StudyInstanceUID="1.2.3")["one_study"] is False
        assert pair()["one_frame"] is True
        assert pair(FrameOfReferenceUID="1.2.3")["one_frame"] is False

    def test_an_issuer_tells_equal_numbers_apart(self, pair, tmp_path, mri, save):
        pair(IssuerOfPatientID="A")
        datasets = mri.slices()
        for dataset in datasets:
            dataset.IssuerOfPatientID = "B"
        save(datasets, tmp_path / "mri")
        with pytest.raises(DicomError, match="PET and MRI must be of one patient"):
            require_one_person({"PET": open_series(tmp_path / "pet"), "MRI": open_series(tmp_path / "mri")})

    def test_the_command_line_writes_nothing(self, pair, tmp_path, capsys):
        item = pair(describe=False, PatientID="CANARY-2")
        out = tmp_path / "out"
        assert cli.main(["fuse", "--pet", item["pet"], "--mri", item["mri"], "--out", str(out), "--no-dicom"]) == 2
        assert "must be of one patient" in capsys.readouterr().err
        assert not out.exists()


class TestSlices:
    @pytest.mark.parametrize(
        ("name", "value", "what"),
        [
            ("PatientID", "CANARY-2", r"patient \(PatientID\)"),
            ("PatientID", "", r"patient \(PatientID\)"),
            ("StudyInstanceUID", "1.2.3", r"study \(StudyInstanceUID\)"),
            ("FrameOfReferenceUID", "1.2.3", "frame of reference"),
        ],
    )
    def test_one_of_another_is_named(self, tmp_path, pet, save, name, value, what):
        datasets = pet.slices()
        setattr(datasets[3], name, value)
        save(datasets, tmp_path)
        with pytest.raises(DicomError, match=rf"must have one {what}, got 2; split it \(file 4 of 5 by name"):
            open_series(tmp_path)

    @pytest.mark.parametrize(
        "other", [{"PatientName": "CANARY^OTHER"}, {"PatientBirthDate": "19991231"}, {"PatientSex": "F"}]
    )
    def test_two_people_under_one_number_are_refused(self, tmp_path, pet, save, other):
        """A number such as "0" is given to many where a header was made anonymous."""
        datasets = pet.slices()
        for dataset in datasets:
            dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate = "0", "CANARY^ONE", "19500101"
        for name, value in other.items():
            setattr(datasets[3], name, value)
        save(datasets, tmp_path)
        with pytest.raises(DicomError, match=r"must have one patient .*two under one PatientID.*file 4 of 5"):
            open_series(tmp_path)

    def test_without_numbers_the_name_counts(self, tmp_path, pet, save):
        datasets = pet.slices()
        for dataset in datasets:
            del dataset.PatientID
        save(datasets, tmp_path)
        assert open_series(tmp_path).uid == PET
        datasets[0].PatientName = "CANARY^OTHER"
        save(datasets, tmp_path)
        with pytest.raises(DicomError, match=r"must have one patient.*file 1 of 5"):
            open_series(tmp_path)

    @pytest.mark.parametrize(("taken", "named"), [(0, "first"), (4, "last")])
    def test_a_stray_end_slice_is_named(self, tmp_path, mri, save, taken, named):
        datasets = mri.slices()
        position = [float(v) for v in datasets[taken].ImagePositionPatient]
        away = 9.0 if taken else -9.0
        datasets[taken].ImagePositionPatient = [p + away * n for p, n in zip(position, mri.turn[:, 2], strict=True)]
        save(datasets, tmp_path)
        match = rf"gap of 12 mm at its {named} slice; .*stray {named} one .*file {taken + 1} of 5"
        with pytest.raises(DicomError, match=match):
            open_series(tmp_path)

    @pytest.mark.parametrize(("named", "remedy"), [(6, "add the missing ones"), (4, "remove what is of another")])
    def test_the_number_of_slices_tells_of_end_slices(self, tmp_path, pet, save, named, remedy):
        datasets = pet.slices()
        for dataset in datasets:
            dataset.NumberOfSlices = named
        save(datasets, tmp_path)
        with pytest.raises(DicomError, match=f"must have the {named} slices that it names, got 5; {remedy}"):
            open_series(tmp_path)


class TestEnds:
    """MRI name no number of slices: what two headers say alike is refused, what one says is a doubt (C.7.6.1)."""

    def write(self, folder, scan, save, drop: tuple[int, ...] = (), change=None, **values) -> None:
        datasets = scan.slices()
        for dataset in datasets:
            for name, value in values.items():
                setattr(dataset, name, value)
        for k, of in (change or {}).items():
            for name, value in of.items():
                setattr(datasets[k], name, value)
        save([d for k, d in enumerate(datasets) if k not in drop], folder)

    @pytest.mark.parametrize(("lost", "number", "beside"), [(0, 1, 1), (7, 8, 7)])
    def test_a_missing_end_is_named(self, tmp_path, mri, save, lost, number, beside):
        self.write(tmp_path, tall(mri), save, drop=(lost,), ImagesInAcquisition=8)
        with pytest.raises(DicomError, match=rf"8 images .* got 7; add number {number}, beside file {beside} of 7 by"):
            open_series(tmp_path)

    def test_makers_tell_the_number_of_slices(self, tmp_path, mri, save):
        for creator, number, vr in (("Philips Imaging DD 001", 0x2001, "SL"), ("GEMS_RELA_01", 0x0021, "SS")):
            datasets = tall(mri).slices()
            for dataset in datasets:
                block = dataset.private_block(number, creator, create=True)
                block.add_new(0x18 if vr == "SL" else 0x4F, vr, 8)
            folder = tmp_path / vr
            save(datasets[:-1], folder)
            with pytest.raises(DicomError, match="8 images that it names, got 7; add number 8"):
                open_series(folder)
            save(datasets, folder)
            assert not open_series(folder).doubts

    def test_numbers_that_begin_late_are_a_doubt(self, tmp_path, mri, save, capsys):
        self.write(tmp_path, tall(mri), save, drop=(0,))
        (doubt,) = open_series(tmp_path).doubts
        assert doubt == "may lack its first slice: instance numbers begin with 2 (file 1 of 7 by name)"
        assert cli.main(["dicom", str(tmp_path)]) == 0
        assert "warning: the series may lack its first slice" in capsys.readouterr().out

    def test_a_stray_end_is_named(self, tmp_path, mri, save):
        last = {"InstanceNumber": 57}
        self.write(tmp_path / "a", tall(mri), save, change={7: last})
        (doubt,) = open_series(tmp_path / "a").doubts
        assert "its last slice (file 8 of 8 by name): its instance number is 57, where the others count 1 to 7" in doubt
        self.write(tmp_path / "b", tall(mri), save, change={7: last | {"AcquisitionNumber": 2}}, AcquisitionNumber=1)
        with pytest.raises(DicomError, match=r"another in its last slice .*57.* and its acquisition number is 2; remo"):
            open_series(tmp_path / "b")
        self.write(tmp_path / "c", tall(mri), save, change={0: {"InstanceNumber": 3}}, ImagesInAcquisition=7)
        with pytest.raises(DicomError, match=r"its first slice \(file 1 of 8 by name\): .* and 7 are named"):
            open_series(tmp_path / "c")

    @pytest.mark.parametrize(
        ("values", "numbers"),
        [
            ({"ImagesInAcquisition": 16}, range(1, 9)),  # one of two echoes
            ({"ImagesInAcquisition": 16}, range(9, 17)),
            ({"ImagesInAcquisition": 16}, range(1, 17, 2)),
            ({"ImagesInAcquisition": 12, "NumberOfTemporalPositions": 3}, range(1, 9)),
            ({"ImagesInAcquisition": 120}, range(1, 9)),  # a reformatted part
            ({"ImagesInAcquisition": 4}, range(1, 9)),
            ({}, range(8, 0, -1)),
            ({}, [1, 5, 2, 6, 3, 7, 4, 8]),  # interleaved
            ({}, [7] * 8),
            ({}, range(101, 109)),
            ({}, range(9, 17)),
        ],
    )
    def test_what_is_legal_is_not_refused(self, tmp_path, mri, save, values, numbers):
        change = {k: {"InstanceNumber": number} for k, number in enumerate(numbers)}
        self.write(tmp_path, tall(mri), save, change=change, **values)
        assert open_series(tmp_path).doubts == ()

    def test_acquisitions_of_a_ct(self, tmp_path, mri, save):
        """Step and shoot: four images for each acquisition."""
        change = {k: {"AcquisitionNumber": k // 4} for k in range(8)}
        self.write(tmp_path, tall(mri).change(modality="CT"), save, change=change, ImagesInAcquisition=4)
        assert open_series(tmp_path).doubts == ()

    def test_a_part_of_a_concatenation(self, tmp_path, mri, save):
        one, two = mri.enhanced(), mri.change(origin=mri.position(5)).enhanced()
        for k, dataset in enumerate((one, two)):
            dataset.SOPInstanceUID = f"1.2.3.{k}"
            dataset.ConcatenationUID, dataset.InConcatenationNumber = "1.2.9", k + 1
            dataset.InConcatenationTotalNumber = 2
        save([one, two], tmp_path)
        assert open_series(tmp_path).shape[2] == 10
        save([one], tmp_path / "half")
        with pytest.raises(DicomError, match="must have the 2 parts of its concatenation, got 1; add number 2"):
            open_series(tmp_path / "half")

    def test_a_doubt_is_a_warning_of_the_case(self, tmp_path, mri, pet, save):
        self.write(tmp_path / "mri", tall(mri), save, drop=(0,))
        record = {"sources": {"mri": DicomReader().get_data([tmp_path / "mri"])[1]}}
        assert warnings(record)[0].startswith("The series of the MRI may lack its first slice: instance numbers begin")


def tall(scan):
    """Return a scan of eight slices."""
    return scan.change(stored=np.random.default_rng(0).integers(0, 2000, (8, 6, 7)).astype(np.int16))


class TestContrasts:
    @pytest.mark.parametrize(
        ("name", "one", "other"),
        [
            ("EchoTime", 10, 90),
            ("InversionTime", 900, 2500),
            ("FlipAngle", 5, 30),
            ("DiffusionBValue", 0.0, 1000.0),
            ("ImageType", ["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]),
        ],
    )
    def test_two_in_one_series_are_refused(self, tmp_path, mri, save, name, one, other):
        datasets = mri.slices()
        for k, dataset in enumerate(datasets):
            setattr(dataset, name, other if k % 2 else one)
        save(datasets, tmp_path)
        with pytest.raises(DicomError, match=f"must be of one contrast, got several values of {name}"):
            open_series(tmp_path)

    def test_rounding_is_none(self, tmp_path, mri, save):
        datasets = mri.slices()
        for k, dataset in enumerate(datasets):
            dataset.EchoTime = 2.46 + 0.001 * k
        save(datasets, tmp_path)
        assert open_series(tmp_path).uid == MRI

    def test_frames_of_an_enhanced_image(self, tmp_path, mri, save):
        dataset = mri.enhanced()
        for k, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            echo = type(frame)()
            echo.EffectiveEchoTime = 80.0 if k == 2 else 10.0
            frame.MREchoSequence = Sequence([echo])
        save(dataset, tmp_path)
        with pytest.raises(DicomError, match="several values of EffectiveEchoTime"):
            open_series(tmp_path)


class TestBeginnings:
    def strip(self, paths, meta: bool) -> None:
        for path in paths:
            content = path.read_bytes()[132:]
            if not meta:
                content = content[content.index(b"\x08\0\x08\0") :]
            path.with_suffix("").write_bytes(content)
            path.unlink()

    @pytest.mark.parametrize("meta", [True, False], ids=["meta", "no meta"])
    def test_files_without_preamble_are_read(self, tmp_path, pet, save, meta):
        self.strip(save(pet.slices(), tmp_path)[3:], meta)
        assert open_series(tmp_path).shape == (40, 34, 5)
        volume, _ = DicomReader(suv="none").get_data([tmp_path])
        assert volume == pytest.approx(pet.volume, rel=1e-6)

    def test_implicit_data_sets_too(self, tmp_path, pet, save):
        datasets = pet.slices()
        for dataset in datasets:
            dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
        self.strip(save(datasets, tmp_path), meta=False)
        assert open_series(tmp_path).shape == (40, 34, 5)

    @pytest.mark.parametrize("content", [b"", b"\x08\0\0\0", b"notes", b"\2\0" * 100, b"{" * 200, bytes(200)])
    def test_other_files_are_not(self, tmp_path, content):
        (tmp_path / "x").write_bytes(content)
        assert not is_dicom(tmp_path / "x")


class TestOthers:
    def spect(self, tmp_path, mri, save):
        dataset = mri.slices()[0]
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid.NuclearMedicineImageStorage
        dataset.Modality = "NM"
        return save(dataset, tmp_path / "nm")[0]

    def test_spect_is_named_with_the_way_out(self, tmp_path, mri, save, capsys):
        path = self.spect(tmp_path, mri, save)
        for source, what in ((path, "The file must be NIfTI"), (path.parent, "The folder must hold a PET series")):
            with pytest.raises(DicomError, match=rf"{what}.* got planar nuclear medicine.* RECON TOMO.*NIfTI"):
                open_series(source, modality="PT")
        save(mri.slices(), tmp_path / "mri")
        with pytest.raises(DicomError, match="got planar nuclear"):
            open_series(tmp_path, modality="PT")
        assert open_series(tmp_path, modality="MR").uid == MRI
        assert cli.main(["dicom", str(tmp_path)]) == 0
        assert "Nuclear Medicine Image Storage: 1 files, not read: planar" in capsys.readouterr().out

    def test_one_file_is_no_folder(self, tmp_path, mri, save):
        (tmp_path / "scan.v").write_bytes(b"MATRIX72v" + bytes(600))
        with pytest.raises(DicomError, match=r"The file must be NIfTI .* got another file; convert"):
            list_and_choose(tmp_path / "scan.v")
        (path, *_) = save(mri.slices(), tmp_path / "mri")
        with pytest.raises(DicomError, match="The file must hold one PT series, got 0"):
            list_and_choose(path)


def list_and_choose(path):
    from medfuse.io import choose_series

    return choose_series(list_series(path), modality="PT")


class TestSuvOfFiles:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda d: d.RadiopharmaceuticalInformationSequence.append(agent(d)), "one radiopharmaceutical, got 2"),
            (lambda d: setattr(d, "PatientWeight", 7.05), "PatientWeight and PatientSize must give"),
            (
                lambda d: setattr(agent(d), "RadiopharmaceuticalStartDateTime", "noon"),
                "StartDateTime, got another text",
            ),
            (lambda d: (d.pop("SeriesDate"), setattr(d, "SeriesDate", "20241350")), "must have a valid SeriesDate"),
            (lambda d: coded(d, "C-131A3", "SRT", ""), "must be that of Ga-68"),
            (lambda d: coded(d, "35337001", "SCT", ""), "must be that of Ga-68"),
            (lambda d: coded(d, "126600", "DCM", ""), "must be that of Sc-44"),
            (lambda d: coded(d, "x", "99MINE", "^68^Gallium"), "must be that of Ga-68"),
            (lambda d: coded(d, "C-111A1", "SRT", "^68^Gallium"), "one nuclide in RadionuclideCodeSequence"),
        ],
    )
    def test_the_reason_is_that_of_the_header(self, tmp_path, pet, save, change, reason):
        datasets = pet.slices()
        with config.disable_value_validation():
            for dataset in datasets:
                change(dataset)
        save(datasets, tmp_path)
        volume, meta = DicomReader().get_data([tmp_path])
        assert (meta["unit"], meta["suv"]["kind"]) == ("Bq/ml", "none")
        assert reason in meta["suv"]["reason"]
        assert volume == pytest.approx(pet.volume, rel=1e-6)
        assert DicomReader(suv="none").get_data([tmp_path])[1]["unit"] == "Bq/ml"

    def test_a_code_that_fits(self, tmp_path, pet, save):
        datasets = pet.slices()
        for dataset in datasets:
            coded(dataset, "C-111A1", "99SDM", "18F")
        save(datasets, tmp_path)
        record = series_suv(open_series(tmp_path), "bw").record
        assert record["tags"]["RadionuclideCodeSequence"] == "F-18"

    def test_more_activity_than_was_injected(self, tmp_path, pet, save, capsys):
        scan = pet.change(slopes=(1e6,) * 5)
        save(scan.slices(), tmp_path)
        assert "at most the injected activity" in DicomReader().get_data([tmp_path])[1]["suv"]["reason"]
        assert cli.main(["dicom", str(tmp_path)]) == 0
        assert "no SUV: The image must hold at most the injected activity" in capsys.readouterr().out

    def test_a_decimal_comma_leaves_the_image_and_its_results(self, tmp_path, pet, save):
        from medfuse.io.dicom.reference import read_reference

        paths = save(pet.slices(), tmp_path)
        for path in paths:
            path.write_bytes(path.read_bytes().replace(b"\x10\0\x30\x10DS\4\x0070.0", b"\x10\0\x30\x10DS\4\x0070,5"))
        volume, meta = DicomReader(suv="none").get_data([tmp_path])
        assert volume == pytest.approx(pet.volume, rel=1e-6)
        assert "a finite number as PatientWeight" in DicomReader().get_data([tmp_path])[1]["suv"]["reason"]
        assert "PatientWeight" not in read_reference(paths).identity()
        assert "PatientWeight" not in meta["suv"]["tags"]
        assert b"70,5" in paths[0].read_bytes()
        assert dcmread(paths[0], specific_tags=["PatientID"]).PatientID == "MRN-4711"


def agent(dataset):
    return dataset.RadiopharmaceuticalInformationSequence[0]


def coded(dataset, value: str, scheme: str, meaning: str) -> None:
    code = type(dataset)()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    agent(dataset).RadionuclideCodeSequence = Sequence([code])
