from __future__ import annotations

import itertools
import json
import math

import pytest

from medfuse import cli
from medfuse.errors import DicomError
from medfuse.io.suv import CHOICES, KINDS, OVERRIDES, Moment, PetTags, body_size, suv
from medfuse.io.suv.tags import KEYWORDS

DAY = 739_000
HALF_LIFE = 6586.2


def at(hour: float, day: int | None = DAY) -> Moment:
    return Moment(day, hour * 3600)


def tags(**changes) -> PetTags:
    """A sound PET: 70 kg, 370 MBq of F-18 an hour before the scan."""
    values = {
        "units": "BQML", "corrections": ("ATTN", "DECY"), "decay_correction": "START",
        "weight": 70.0, "size": 1.75, "sex": "M", "dose": 370e6, "half_life": HALF_LIFE,
        "injected": at(10.5, None), "series": at(11.5), "acquired": at(11.5),
    }  # fmt: skip
    return PetTags(**values | changes)


def test_worked_value():
    """Decayed dose 253 314 180.24 Bq, computed by hand."""
    found = suv([tags()] * 3, "bw")
    assert found.factor == pytest.approx(2.7633668e-4, rel=1e-7)
    assert found.unit == "SUV"
    assert found.record["rule"] == "dose decayed from the injection to SeriesTime"


@pytest.mark.parametrize(
    ("kind", "sex", "weight", "size", "expected"),
    [
        ("bw", "", 70.0, None, 70_000.0),
        ("lbm", "M", 80.0, 1.80, 61_731.4),
        ("lbm", "F", 60.0, 1.65, 39_286.8),
        ("lbm-james", "M", 80.0, 1.80, 62_716.0),
        ("lbm-james", "F", 60.0, 1.65, 44_629.8),
        ("bsa", "", 70.0, 1.70, 18_097.0),
        ("ibw", "M", None, 70 * 0.0254, 73_000.0),
        ("ibw", "F", None, 70 * 0.0254, 68_500.0),
    ],
)
def test_sizes_of_a_body_computed_by_hand(kind, sex, weight, size, expected):
    assert body_size(kind, weight=weight, size=size, sex=sex) == pytest.approx(expected, rel=1e-5)


def test_kinds_differ_by_the_size_of_the_body_only():
    factors = {kind: suv([tags()], kind) for kind in KINDS}
    for kind, found in factors.items():
        size = body_size(kind, weight=70.0, size=1.75, sex="M")
        assert found.factor / factors["bw"].factor == pytest.approx(size / 70e3, rel=1e-12)
        assert found.record["kind"] == kind
    assert {found.unit for found in factors.values()} == {"SUV", "SUVlbm", "SUVbsa", "SUVibw"}


def test_a_dose_corrected_to_the_injection_does_not_decay():
    assert suv([tags(decay_correction="ADMIN", injected=None)], "bw").factor == pytest.approx(70e3 / 370e6)


def test_an_uptake_contradicts_a_dose_that_does_not_decay():
    with pytest.raises(DicomError, match="UptakeSeconds must be 0"):
        suv([tags(decay_correction="ADMIN")], "bw", {"UptakeSeconds": 3600})


def test_clocks_that_differ_by_rounding_mean_the_same():
    found = suv([tags(series=at(11.5 + 0.5 / 3600))], "bw")
    assert found.record["rule"].endswith("to SeriesTime")
    late = suv([tags(series=at(11.5 + 2 / 3600))], "bw")
    assert late.record["rule"].endswith("the earliest AcquisitionTime")


@pytest.mark.parametrize(
    ("injected", "series"),
    [
        (at(23.5, None), at(0.5, DAY + 1)),
        (at(23.5, DAY), at(0.5, DAY + 1)),
        (at(23.5, None), at(0.5, None)),
    ],
    ids=["time of day", "dates", "no date at all"],
)
def test_over_midnight(injected, series):
    found = suv([tags(injected=injected, series=series, acquired=series)], "bw")
    assert found.factor == pytest.approx(2.7633668e-4, rel=1e-7)


def test_a_long_lived_tracer_needs_a_date():
    with pytest.raises(DicomError, match="must have a date for a half life of 282240 s"):
        suv([tags(half_life=282240.0)], "bw")
    found = suv([tags(half_life=282240.0, injected=at(11.5, DAY - 4))], "bw")
    assert found.factor == pytest.approx(70e3 / (370e6 * 2 ** (-4 * 86400 / 282240)))


@pytest.mark.parametrize("injected", [at(11.6, None), at(11.6), at(11.5, DAY - 1), at(11.5, DAY + 1)])
def test_an_injection_after_the_scan_or_on_another_day_is_refused(injected):
    with pytest.raises(DicomError, match="must follow the injection within 8 half lives"):
        suv([tags(injected=injected)], "bw")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": ""}, "Units must be BQML, CNTS, GML, CM2ML"),
        ({"units": "OTHER"}, "Units must be"),
        ({"corrections": ("DECY",)}, "ATTN and DECY for SUV, got none of ATTN"),
        ({"corrections": ()}, "got none of ATTN and DECY"),
        ({"decay_correction": "NONE"}, "DecayCorrection must be START or ADMIN"),
        ({"decay_correction": ""}, "DecayCorrection must be START or ADMIN"),
        ({"weight": None}, "PatientWeight must be 0.2 to 700 kg for this SUV, got none"),
        ({"weight": 0.0}, "PatientWeight must be 0.2 to 700 kg for this SUV, got 0"),
        ({"weight": 70e3}, "got 70000"),
        ({"dose": None}, "RadionuclideTotalDose must be 100000 to"),
        ({"dose": 370.0}, "got 370"),
        ({"half_life": None}, "RadionuclideHalfLife must be"),
        ({"half_life": 0.0}, "RadionuclideHalfLife must be"),
        ({"injected": None}, r"got neither \(0018,1078\) nor \(0018,1072\)"),
        ({"series": None, "acquired": None}, "got no SeriesTime or AcquisitionTime"),
        ({"units": "CNTS"}, "CNTS must come with a Philips factor"),
        ({"units": "CNTS", "philips_suv": 0.0, "philips_activity": 0.0}, "CNTS must come with a Philips factor"),
    ],
)
def test_what_is_missing_is_refused_and_then_nothing_is_called_suv(change, message):
    with pytest.raises(DicomError, match=message):
        suv([tags(**change)], "bw")
    found = suv([tags(**change)], "auto")
    assert found.factor == 1.0
    assert "SUV" not in found.unit
    assert found.record["kind"] == "none"
    assert message.split(" must")[0] in found.record["reason"] or "got" in found.record["reason"]


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("lbm", {"size": None}, "PatientSize must be 0.2 to 2.8 m"),
        ("bsa", {"size": 175.0}, "PatientSize must be 0.2 to 2.8 m for this SUV, got 175"),
        ("lbm", {"sex": "O"}, "PatientSex must be M or F"),
        ("ibw", {"sex": ""}, "PatientSex must be M or F"),
        ("ibw", {"size": 0.6}, "ideal weight must be positive"),
        ("lbm-james", {"weight": 400.0, "size": 1.5}, "lean body mass must be positive"),
        ("weight", {}, "suv must be one of auto, bw"),
    ],
)
def test_each_kind_needs_what_it_needs(kind, change, message):
    with pytest.raises(DicomError, match=message):
        suv([tags(**change)], kind)


def test_counts_of_philips():
    found = suv([tags(units="CNTS", philips_suv=0.00042, injected=None, dose=None)], "bw")
    assert (found.factor, found.unit) == (0.00042, "SUV")
    lean = suv([tags(units="CNTS", philips_suv=0.00042)], "lbm")
    assert lean.factor == pytest.approx(0.00042 * body_size("lbm", weight=70.0, size=1.75, sex="M") / 70e3)
    activity = suv([tags(units="CNTS", philips_suv=0.0, philips_activity=3.5)], "bw")
    assert activity.factor == pytest.approx(3.5 * 2.7633668e-4, rel=1e-7)


@pytest.mark.parametrize(
    ("units", "stated", "kind", "unit"),
    [
        ("GML", "", "bw", "SUV"),
        ("GML", "BW", "bw", "SUV"),
        ("GML", "LBMJANMA", "lbm", "SUVlbm"),
        ("GML", "LBMJAMES128", "lbm-james", "SUVlbm"),
        ("GML", "LBM", "lbm", "SUVlbm"),
        ("CM2ML", "BSA", "bsa", "SUVbsa"),
    ],
)
def test_a_file_in_suv_stays_what_it_says(units, stated, kind, unit):
    found = suv([tags(units=units, suv_type=stated, dose=None, weight=None)], "auto")
    assert (found.factor, found.unit, found.record["kind"]) == (1.0, unit, kind)


def test_a_file_in_suv_is_converted_between_kinds_whose_formula_is_known():
    there = suv([tags(units="GML", suv_type="BW")], "bsa")
    assert there.factor == pytest.approx(body_size("bsa", weight=70.0, size=1.75) / 70e3)
    back = suv([tags(units="CM2ML", suv_type="BSA")], "bw")
    assert there.factor * back.factor == pytest.approx(1.0)
    with pytest.raises(DicomError, match="must name the formula"):
        suv([tags(units="GML", suv_type="LBM")], "lbm-james")
    with pytest.raises(DicomError, match="SUVType must be one of"):
        suv([tags(units="GML", suv_type="OTHER")], "bw")


def test_a_file_in_g_per_ml_without_its_corrections_is_not_called_suv():
    assert suv([tags(units="GML", corrections=())]).unit == "g/ml"


class TestSeriesMadeAfterTheAcquisition:
    """QIBA: its SeriesTime says nothing about the scan."""

    def test_ge_says_the_scan(self):
        found = suv([tags(series=at(14.0), ge_scan=at(11.5))], "bw")
        assert found.factor == pytest.approx(2.7633668e-4, rel=1e-7)
        assert found.record["rule"].endswith("the GE scan time")

    def test_the_start_follows_from_the_reference_time_of_the_frames(self):
        """Two beds of a scan that began at 11:30: the acquisition of the second begins 600 s later."""
        decay = math.log(2) / HALF_LIFE * 180
        average = 180 / decay * math.log(decay / (1 - math.exp(-decay)))
        beds = [
            tags(series=at(14.0), acquired=at(11.5 + wait / 3600), frame_duration=180.0, frame_reference=wait + average)
            for wait in (0.0, 600.0)
        ]
        found = suv(beds, "bw")
        assert found.factor == pytest.approx(2.7633668e-4, rel=1e-6)
        assert found.record["rule"].endswith("AcquisitionTime less FrameReferenceTime")

    def test_frames_that_contradict_each_other_are_refused(self):
        beds = [
            tags(series=at(14.0), acquired=at(11.5), frame_duration=180.0, frame_reference=r) for r in (90.0, 690.0)
        ]
        with pytest.raises(DicomError, match="one start of the scan"):
            suv(beds, "bw")

    def test_else_the_earliest_acquisition_counts(self):
        found = suv([tags(series=at(14.0), acquired=at(h)) for h in (11.7, 11.5, 11.6)], "bw")
        assert found.factor == pytest.approx(2.7633668e-4, rel=1e-7)
        with pytest.raises(DicomError, match="The scan must have a time"):
            suv([tags(series=at(14.0)), tags(series=at(14.0), acquired=None)], "bw")


def test_enhanced_images_say_what_they_are_corrected_to():
    found = suv([tags(corrected_to=at(11.5), series=at(13.0), injected=at(10.5))], "bw")
    assert found.factor == pytest.approx(2.7633668e-4, rel=1e-7)
    assert found.record["rule"].endswith("DecayCorrectionDateTime")
    assert "warnings" not in found.record
    late = suv([tags(corrected_to=at(14.5), series=at(15.0), injected=at(10.5))], "bw")
    assert "lies 10800 s after the first acquisition, which is unusual" in late.record["warnings"][0]


@pytest.mark.parametrize("name", ["units", "decay_correction"])
@pytest.mark.parametrize("kind", ["auto", "none"])
def test_slices_of_several_units_or_corrections_are_refused(name, kind):
    """Their values are no one quantity: there is no volume of them."""
    other = {"units": "CNTS", "decay_correction": "ADMIN"}
    with pytest.raises(DicomError, match="must be one in all slices"):
        suv([tags(), tags(**{name: other[name]})], kind)


@pytest.mark.parametrize("name", ["weight", "size", "sex", "dose", "injected", "half_life", "tracer", "philips_suv"])
def test_slices_that_contradict_each_other_give_no_suv_and_stay_what_they_are(name):
    other = {"weight": 71.0, "size": 1.6, "sex": "F", "dose": 1e8, "injected": at(9.0), "half_life": 1221.6}
    several = [tags(), tags(**{name: other.get(name, "C-11" if name == "tracer" else 0.5)})]
    found = suv(several, "auto")
    assert (found.factor, found.unit, found.record["kind"]) == (1.0, "Bq/ml", "none")
    assert f"{KEYWORDS[name]} must be one in all slices, got several" in found.record["reason"]
    with pytest.raises(DicomError, match="must be one in all slices"):
        suv(several, "bw")


def test_no_slice_is_refused():
    with pytest.raises(DicomError, match="must have slices"):
        suv([])


def test_a_sidecar_replaces_what_is_missing_or_wrong():
    bare = PetTags(units="BQML")
    given = {
        "CorrectedImage": "ATTN,DECY", "DecayCorrection": "START", "PatientWeight": 70,
        "RadionuclideTotalDose": 3.7e8, "RadionuclideHalfLife": HALF_LIFE, "UptakeSeconds": 3600,
    }  # fmt: skip
    found = suv([bare], "bw", given)
    assert found.factor == pytest.approx(2.7633668e-4, rel=1e-7)
    assert found.record["overridden"] == ", ".join(sorted(given))
    assert found.record["tags"]["PatientWeight"] == 70.0
    assert suv([tags()], "bw", {"PatientWeight": 35.0}).factor == pytest.approx(2.7633668e-4 / 2, rel=1e-7)
    assert "UptakeSeconds" in OVERRIDES


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"PatientName": "CANARY^NAME"}, "only, got another name"),
        ({"PatientWeight": "70"}, "must be a number, got str"),
        ({"PatientWeight": True}, "must be a number, got bool"),
        ({"PatientWeight": -70}, "PatientWeight must be 0.2 to 700 kg"),
        ({"Units": 3}, "must be a string, got int"),
    ],
)
def test_a_wrong_sidecar_is_refused_even_where_suv_is_not_asked_for(given, message):
    for kind in ("auto", "bw", "none"):
        with pytest.raises(DicomError, match=message) as caught:
            suv([tags()], kind, given)
        assert "CANARY" not in str(caught.value)


def test_the_record_holds_every_tag_and_no_day():
    found = suv([tags(injected=at(10.5), ge_scan=at(11.4), suv_type="BW")], "lbm")
    record = json.loads(json.dumps(found.record))
    assert record["tags"] == {
        "Units": "BQML", "SUVType": "BW", "CorrectedImage": "ATTN\\DECY", "DecayCorrection": "START",
        "PatientWeight": 70.0, "PatientSize": 1.75, "PatientSex": "M", "RadionuclideTotalDose": 370e6,
        "RadionuclideHalfLife": HALF_LIFE,
    }  # fmt: skip
    assert record["seconds_after_injection"] == {"SeriesTime": 3600, "AcquisitionTime": 3600, "GE scan time": 3240}
    assert record["injection_has_a_date"] is True
    assert record["factor"] == found.factor
    assert str(DAY) not in json.dumps(record)
    assert str(at(10.5).second) not in json.dumps(record)


def test_not_asked_for():
    found = suv([tags()], "none")
    assert (found.factor, found.unit, found.record["kind"]) == (1.0, "Bq/ml", "none")
    assert found.record["tags"]["PatientWeight"] == 70.0


def test_the_command_line_offers_the_same_choices():
    assert cli.SUV_CHOICES == CHOICES
    assert all(a != b for a, b in itertools.pairwise(CHOICES))
