"""What the sidecars of a PET say: units, times, SUV; of BIDS, of its drafts, and of both generations of dcm2niix."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from medfuse.errors import BundleError, DicomError
from medfuse.io.dynamic import FRAMES, PetNiftiReader
from medfuse.io.pet_sidecar import activity_scale, read_pet_sidecar

F18 = 109.77 * 60  # s
STATIC = {
    "Units": "Bq/mL", "TracerRadionuclide": "F18", "InjectedRadioactivity": 370, "InjectedRadioactivityUnits": "MBq",
    "TimeZero": "11:30:00", "ScanStart": 0, "InjectionStart": -3600, "FrameTimesStart": [0], "FrameDuration": [1200],
    "ImageDecayCorrected": True, "ImageDecayCorrectionTime": 0, "AttenuationCorrection": "CT", "BodyWeight": 70,
}  # fmt: skip
DECAYED = 370e6 * 2 ** (-3600 / F18)
DYNAMIC = STATIC | {
    "InjectionStart": 0, "FrameTimesStart": [0, 60, 120, 300], "FrameDuration": [60, 60, 180, 600],
}  # fmt: skip


@pytest.fixture
def pet(tmp_path):
    """Return the function that writes a PET of so many frames, with a sidecar, and its values."""

    def write(fields: dict | str | None, frames: int = 1, name: str = "pet"):
        shape = (8, 9, 6, frames) if frames > 1 else (8, 9, 6)
        values = np.random.default_rng(0).uniform(1e3, 2e4, shape).astype(np.float32)
        path = tmp_path / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0])), path)
        if fields is not None:
            text = fields if isinstance(fields, str) else json.dumps(fields)
            (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
        return path, values

    return write


def load(path, **options):
    return PetNiftiReader(**options).get_data(path)


def without(fields: dict, *names: str) -> dict:
    return {k: v for k, v in fields.items() if k not in names}


def test_suv_of_a_static_pet(pet):
    path, values = pet(STATIC)
    volume, meta = load(path)
    assert meta["unit"] == "SUV"
    assert np.allclose(volume, values * 70000 / DECAYED, rtol=1e-6)
    assert meta["suv"]["rule"] == "dose decayed by the time from InjectionStart to ImageDecayCorrectionTime"
    assert meta["suv"]["tags"]["UptakeSeconds"] == 3600
    assert "warnings" not in meta["suv"]
    plain, meta = load(path, suv="none")
    assert np.array_equal(plain, values)
    assert meta["unit"] == "Bq/mL"


def test_the_name_of_the_tracer_is_held_against_its_nuclide(pet):
    """FDG is F-18; PSMA is made with two nuclides, and says nothing."""
    told = load(pet(STATIC | {"TracerName": "FDG", "TracerRadionuclide": "C11"})[0])[1]["suv"]
    assert told["kind"] == "none"
    assert "must name one nuclide, got C-11 by TracerRadionuclide and F-18 by TracerName" in told["reason"]
    told = load(pet(without(STATIC, "TracerRadionuclide") | {"TracerName": "FDG", "RadionuclideHalfLife": 1221.6})[0])[
        1
    ]
    assert "must be that of F-18, 6586 s, which TracerName names" in told["suv"]["reason"]
    assert load(pet(STATIC | {"TracerName": "PSMA"})[0])[1]["unit"] == "SUV"


def test_holes_are_told(pet):
    path, values = pet(DYNAMIC, 4)
    values[3:5, 4, 2:4, 1] = np.nan
    nib.save(nib.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0])), path)
    assert load(path, nonfinite="zero")[1]["nonfinite_inside_fraction"] == pytest.approx(4 / values.size)


@pytest.mark.parametrize(
    ("unit", "scale"),
    [("Bq/mL", 1), ("kBq/mL", 1e3), ("Bq/ml", 1), ("BQML", 1), ("Bq/cc", 1), ("nCi/cc", 37), ("uCi/mL", 3.7e4)],
)
def test_units_of_activity_become_bq_per_ml(pet, unit, scale):
    assert activity_scale(unit) == scale
    path, values = pet(STATIC | {"Units": unit})
    if scale <= 1e3:  # more is more than was injected
        volume, meta = load(path)
        assert np.allclose(volume, values * scale * 70000 / DECAYED, rtol=1e-6)
        assert meta["suv"]["factor"] == pytest.approx(scale * 70000 / DECAYED)


@pytest.mark.parametrize("unit", ["arbitrary", "a.u.", "Arbitrary", "unitless", "SUV", "g/ml"])
def test_what_is_no_activity_is_left_alone(pet, unit):
    path, values = pet(STATIC | {"Units": unit})
    volume, meta = load(path)
    assert np.array_equal(volume, values)
    assert "suv" not in meta
    assert meta["unit"] == ("a.u." if unit.casefold() == "arbitrary" else unit)
    with pytest.raises(DicomError, match="Units must be of activity"):
        load(path, suv="bw")


def test_the_older_spellings_and_a_byte_order_mark(pet):
    old = without(STATIC, "Units", "InjectedRadioactivityUnits", "BodyWeight") | {
        "Unit": "Bq/mL", "InjectedRadioactivityUnit": "MBq", "BodyWeight": 70000, "BodyWeightUnit": "g",
    }  # fmt: skip
    path, values = pet("\ufeff" + json.dumps(old))
    assert np.allclose(load(path)[0], values * 70000 / DECAYED, rtol=1e-6)
    path, _ = pet(STATIC | {"Unit": "SUV"})
    with pytest.raises(BundleError, match="Units and Unit of the PET must be equal"):
        load(path)


class TestTimes:
    """The dose decays until what the image is corrected to, wherever the time zero is."""

    def test_a_shift_of_the_time_zero_changes_nothing(self, pet):
        shifted = STATIC | {
            "InjectionStart": 0,
            "ScanStart": 3600,
            "FrameTimesStart": [3600],
            "ImageDecayCorrectionTime": 3600,
        }
        path, values = pet(shifted)
        assert np.allclose(load(path)[0], values * 70000 / DECAYED, rtol=1e-6)

    def test_what_is_corrected_to_the_injection_decays_no_more(self, pet):
        path, values = pet(STATIC | {"ImageDecayCorrectionTime": -3600})
        assert np.allclose(load(path)[0], values * 70000 / 370e6, rtol=1e-6)

    def test_a_dynamic_scan_may_begin_before_the_injection(self, pet):
        path, values = pet(DYNAMIC | {"InjectionStart": 30}, 4)
        expected = values[..., 3] * 70000 / (370e6 * 2 ** (30 / F18))
        assert np.allclose(load(path, frames="4")[0], expected, rtol=1e-6)

    def test_an_injection_of_another_day_is_refused(self, pet):
        path, _ = pet(STATIC | {"InjectionStart": -86400})
        with pytest.raises(DicomError, match="must follow the injection within 8 half lives, got 86400 s"):
            load(path, suv="bw")

    def test_dcm2niix_of_today(self, pet):
        """1.0.20260724: no TimeZero, AcquisitionTime or InjectionStart; a late static frame does not start at 0."""
        today = without(STATIC, "TimeZero", "InjectionStart", "TracerRadionuclide", "BodyWeight") | {
            "RadionuclideHalfLife": 6586.2, "DecayCorrection": "START", "DecayCorrectionFactor": [1.46049],
            "FrameTimesStart": [3000], "SeriesTime": "11:30:00", "PatientWeight": 70,
        }  # fmt: skip
        path, values = pet(today)
        volume, meta = load(path)
        assert np.array_equal(volume, values)
        assert (meta["unit"], meta["suv"]["kind"]) == ("Bq/mL", "none")
        assert "InjectionStart must tell when the injection was" in meta["suv"]["reason"]
        path, values = pet(today | {"InjectionStart": -600})  # which a person has added: s before SeriesTime
        expected = values * 70000 / (370e6 * 2 ** (-600 / 6586.2))
        assert np.allclose(load(path)[0], expected, rtol=1e-6)

    def test_dcm2niix_before(self, pet):
        """Times count from the acquisition, 50 min after what the image is corrected to: its factor tells."""
        before = STATIC | {
            "TimeZero": "12:20:00", "AcquisitionTime": "12:20:00", "SeriesTime": "11:30:00", "InjectionStart": -3600,
            "DecayCorrectionFactor": [2 ** (3600 / F18)], "DecayCorrection": "START",
        }  # fmt: skip
        path, values = pet(before)
        volume, meta = load(path)
        expected = values * 70000 / (370e6 * 2 ** (-600 / F18))
        assert np.allclose(volume, expected, rtol=1e-6)
        assert "decay corrected to the start of the series, 3000 s before" in meta["suv"]["warnings"][0]
        path, _ = pet(without(before, "SeriesTime"))
        assert "DecayCorrectionFactor must be that from" in load(path)[1]["suv"]["reason"]

    def test_factors_within_the_frames_agree(self, pet):
        factors = [2 ** (t / F18) for t in (30, 90, 205, 590)]
        path, _ = pet(DYNAMIC | {"DecayCorrectionFactor": factors}, 4)
        assert "warnings" not in load(path)[1]["suv"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"InjectedRadioactivityUnits": "n/a"}, "InjectedRadioactivityUnits must be of activity"),
        ({"BodyWeight": "n/a"}, "PatientWeight must be 0.2 to 700 kg for this SUV, got none"),
        ({"BodyWeight": "70 kg"}, "BodyWeight in the sidecar of the PET must be a number"),
        ({"TracerRadionuclide": "CANARY"}, "TracerRadionuclide must name the nuclide"),
        ({"ImageDecayCorrected": None}, "ImageDecayCorrected must be true"),
        ({"ImageDecayCorrectionTime": None}, "ImageDecayCorrectionTime must tell"),
        ({"AttenuationCorrection": "none"}, "CorrectedImage must name ATTN"),
        ({"InjectedRadioactivity": 370e6}, "RadionuclideTotalDose must be"),
    ],
)
def test_what_is_missing_is_said_and_asked_for_is_refused(pet, change, reason):
    path, values = pet(STATIC | change)
    volume, meta = load(path)
    assert np.array_equal(volume, values)
    assert reason in meta["suv"]["reason"]
    assert "suv.json" not in meta["suv"]["reason"]
    assert "CANARY" not in meta["suv"]["reason"]
    with pytest.raises(DicomError, match=reason):
        load(path, suv="bw")


def test_an_unknown_attenuation_correction_is_warned_of(pet):
    path, _ = pet(without(STATIC, "AttenuationCorrection"))
    meta = load(path)[1]
    assert meta["unit"] == "SUV"
    assert "does not say whether the PET is corrected for attenuation" in meta["suv"]["warnings"][0]


def test_frames_are_averaged_by_their_durations_and_become_suv(pet):
    path, values = pet(DYNAMIC, 4)
    volume, meta = load(path, frames="2-4")
    expected = np.average(values[..., 1:], axis=3, weights=[60, 180, 600]) * 70000 / 370e6
    assert np.allclose(volume, expected, rtol=1e-6)
    record = json.loads(meta[FRAMES])
    assert record["frames"] == "2-4"
    assert (record["start_s"], record["end_s"], record["measured_s"]) == (60, 900, 840)


def test_frames_that_were_not_decay_corrected_become_suv_all_the_same(pet):
    path, values = pet(DYNAMIC | {"ImageDecayCorrected": False, "ImageDecayCorrectionTime": None}, 4)
    rate = np.log(2) / F18
    factor = rate * 600 / (np.exp(-rate * 300) * -np.expm1(-rate * 600))
    volume, meta = load(path, frames="4")
    assert meta["unit"] == "SUV"
    assert np.allclose(volume, values[..., 3] * factor * 70000 / 370e6, rtol=1e-6)


def test_a_sidecar_further_up_counts_and_the_table_of_participants(pet, tmp_path):
    name = "sub-01/ses-a/pet/sub-01_ses-a_trc-FDG_pet"
    path, values = pet(without(STATIC, "Units", "BodyWeight") | {"InjectedRadioactivity": 740}, name=name)
    (tmp_path / "trc-FDG_pet.json").write_text(json.dumps({"Units": "Bq/mL", "InjectedRadioactivity": 370}))
    (tmp_path / "trc-AV45_pet.json").write_text(json.dumps({"Units": "kBq/mL"}))
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tsex\tweight\theight\nsub-02\tM\t90\t190\nsub-01\tF\t70\t165\n"
    )
    sidecar = read_pet_sidecar(path)
    assert sidecar.body == {"weight": 70.0, "size": pytest.approx(1.65), "sex": "F"}
    assert [p.name for p in sidecar.files] == [
        "trc-FDG_pet.json",
        path.name.replace("nii.gz", "json"),
        "participants.tsv",
    ]
    volume, meta = load(path)
    assert np.allclose(volume, values * 70000 / (2 * DECAYED), rtol=1e-6)
    assert meta["unit"] == "SUV"
    lean = 9270 * 70 / (8780 + 244 * 70 / 1.65**2)
    assert load(path, suv="lbm")[1]["suv"]["factor"] == pytest.approx(1000 * lean / (2 * DECAYED), rel=1e-6)


def test_a_relative_path_is_the_same(pet, tmp_path, monkeypatch):
    path, _ = pet(STATIC, name="sub-01/pet/sub-01_pet")
    monkeypatch.chdir(tmp_path)
    assert read_pet_sidecar(path.relative_to(tmp_path)).fields == read_pet_sidecar(path).fields == STATIC


def test_without_a_sidecar_nothing_is_known(pet):
    path, values = pet(None)
    volume, meta = load(path)
    assert np.array_equal(volume, values)
    assert not {"unit", "suv", FRAMES} & set(meta)
    with pytest.raises(DicomError, match="Units must be of activity"):
        load(path, suv="bw")
