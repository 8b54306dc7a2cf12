"""Headers that contradict themselves, each other or physics: no SUV, or one certain reading with a warning."""

from __future__ import annotations

import math

import pytest

from medfuse.errors import DicomError
from medfuse.io.suv import HALF_LIVES, Content, Moment, PetTags, suv

DAY = 739_000
F18 = 6586.2
FACTOR = 2.7633668e-4  # of 70 kg and 370 MBq an hour before


def at(hour: float, day: int | None = DAY, zone: float | None = None) -> Moment:
    return Moment(day, hour * 3600, zone if zone is None else zone * 3600)


def tags(**changes) -> PetTags:
    """A sound PET: 70 kg, 370 MBq of F-18 an hour before the scan."""
    values = {
        "units": "BQML", "corrections": ("ATTN", "DECY"), "decay_correction": "START",
        "weight": 70.0, "size": 1.75, "sex": "M", "dose": 370e6, "half_life": F18,
        "injected": at(10.5), "series": at(11.5), "acquired": at(11.5),
    }  # fmt: skip
    return PetTags(**values | changes)


def refused(message: str, *slices: PetTags, content: Content | None = None) -> None:
    """Asked for, it is refused; else the values stay what they are, with the reason."""
    with pytest.raises(DicomError, match=message):
        suv(slices, "bw", content=content)
    found = suv(slices, content=content)
    assert (found.factor, found.unit, found.record["kind"]) == (1.0, "Bq/ml", "none")
    assert "warnings" not in found.record


def warned(*slices: PetTags, content: Content | None = None, given: dict | None = None) -> str:
    """Return the one warning of an SUV that is right."""
    found = suv(slices, "bw", given, content=content)
    assert found.factor == pytest.approx(FACTOR, rel=0.02)
    (text,) = found.record["warnings"]
    return text


def test_a_sound_pet_has_no_warning():
    assert "warnings" not in suv([tags()], content=Content(2e7, 1e5)).record


class TestZones:
    """PS3.5 6.2, DT: a suffix is an offset from UTC; without (0008,0201) the zone of the other times is not told."""

    def test_an_injection_in_utc_beside_times_of_no_known_zone(self):
        refused("TimezoneOffsetFromUTC must be there", tags(injected=at(9.5, zone=0)))

    def test_the_local_time_of_the_injection_tells_the_zone(self):
        told = tags(injected=at(9.5, zone=0), start_time=at(10.5, None))
        assert "RadiopharmaceuticalStartTime, was taken" in warned(told)

    def test_a_suffix_that_is_the_zone_of_the_scanner_needs_no_warning(self):
        found = suv([tags(injected=at(10.5, zone=1), start_time=at(10.5, None))], "bw")
        assert found.factor == pytest.approx(FACTOR, rel=1e-7)
        assert "warnings" not in found.record

    def test_over_midnight_the_local_day_is_found(self):
        """23:30 UTC is 00:30 of the next day, an hour east; the half life is too long for a time of day alone."""
        told = tags(half_life=HALF_LIVES["Zr-89"], injected=at(23.5, DAY - 1, zone=0), start_time=at(0.5, None))
        found = suv([told], "bw")
        assert found.factor == pytest.approx(70e3 / (370e6 * 2 ** (-11 * 3600 / HALF_LIVES["Zr-89"])))

    def test_what_is_no_zone_contradicts(self):
        refused("no whole quarters", tags(injected=at(9.5, zone=0), start_time=at(10.6, None)))

    def test_known_zones_are_computed_with(self):
        told = tags(injected=at(9.5, zone=0), series=at(11.5, zone=1), acquired=at(11.5, zone=1))
        assert suv([told], "bw").factor == pytest.approx(FACTOR, rel=1e-7)

    def test_two_date_times_in_utc_need_no_zone(self):
        told = tags(injected=at(10.5, zone=0), corrected_to=at(12.5, zone=1))
        assert suv([told], "bw").factor == pytest.approx(FACTOR, rel=1e-7)


class TestInjection:
    def test_start_time_against_start_date_time(self):
        refused("must be that of RadiopharmaceuticalStartDateTime, got 3600 s", tags(start_time=at(9.5, None)))

    def test_one_of_them_is_certain_where_the_other_cannot_be(self):
        """14 hours are 7.6 half lives: nobody waits so long."""
        assert "as is usual" in warned(tags(start_time=at(21.5, None)))

    def test_rounding_to_minutes_is_no_contradiction(self):
        assert "warnings" not in suv([tags(start_time=at(10.5 + 40 / 3600, None))], "bw").record

    def test_an_end_before_the_start(self):
        """An hour of F-18 is 46 % of the SUV, five minutes 3 %; the day of one may be shifted, and not of the other."""
        refused("must end after it began, got 3600 s before", tags(stopped=at(9.5)))
        refused("must end after it began, got 3600 s before", tags(stopped=at(9.5, 1)))
        assert "300 s before, by RadiopharmaceuticalStopTime: the SUV may be 3.2% off" in warned(
            tags(stopped=at(10.5 - 1 / 12))
        )

    @pytest.mark.parametrize("stopped", [at(10.5), at(10.6, None), at(10.6, 1), at(11.6)])
    def test_an_end_that_follows_the_start(self, stopped):
        assert "warnings" not in suv([tags(stopped=stopped)], "bw").record

    def test_an_end_after_midnight(self):
        told = tags(injected=at(23.99), stopped=at(0.02, None), series=at(0.99, DAY + 1), acquired=at(0.99, DAY + 1))
        assert "warnings" not in suv([told], "bw").record

    def test_a_clock_of_twelve_hours(self):
        found = suv([tags(injected=at(10.5, DAY), series=at(23.5), acquired=at(23.5))], "bw")
        assert "half lives, which is unusual" in found.record["warnings"][0]

    def test_an_injection_at_the_scan(self):
        assert "which is unusual" in suv([tags(injected=at(11.5))], "bw").record["warnings"][0]

    def test_a_scan_without_a_date_is_ambiguous_for_long_half_lives(self):
        told = {"half_life": HALF_LIVES["Zr-89"], "series": at(11.5, None), "acquired": at(11.5, None)}
        refused("scan must have a date for a half life", tags(**told))


class TestScan:
    def test_a_series_without_date_made_later(self):
        """No day is not an earlier day: 14:00 may be before or after 11:30."""
        refused("must both have a date", tags(series=at(14.0, None)))

    @pytest.mark.parametrize("lacking", ["series", "acquired"])
    def test_one_date_is_enough_where_both_tell_one_time(self, lacking):
        """Zr-89 needs the date of the scan, whichever header tells it."""
        half_life = HALF_LIVES["Zr-89"]
        told = tags(half_life=half_life, injected=at(11.5, DAY - 3), **{lacking: at(11.5, None)})
        assert suv([told], "bw").factor == pytest.approx(70e3 / (370e6 * 2 ** (-72 * 3600 / half_life)))

    def test_frames_against_the_series(self):
        """A single frame half an hour after the Series Time, by one header, and at it by another."""
        frame = {"frame_reference": 1890.0, "frame_duration": 180.0}
        refused("FrameReferenceTime must place the first frame 0 s after SeriesTime", tags(**frame))

    def test_a_late_frame_whose_headers_agree(self):
        late = tags(acquired=at(12.0), frame_reference=1890.0, frame_duration=180.0)
        found = suv([late], "bw")
        assert found.factor == pytest.approx(FACTOR, rel=1e-7)
        assert "warnings" not in found.record

    def test_a_series_long_before_its_first_frame(self):
        """Early frames may be left out, or the series begin with the injection: its frames tell (PS3.3 C.8.9.4)."""
        refused("no frame tells its FrameReferenceTime, got 1800 s before it", tags(series=at(11.0), acquired=at(11.5)))
        sound = tags(series=at(11.0), acquired=at(11.5), frame_reference=1890.0, frame_duration=180.0)
        found = suv([sound], "bw")
        assert found.factor == pytest.approx(70e3 / (370e6 * 2 ** (-1800 / F18)))
        assert found.record["rule"].endswith("to SeriesTime")

    def test_a_series_of_the_day_before(self):
        refused("got 86400 s before it", tags(series=at(11.5, DAY - 1), injected=at(10.5, DAY - 1)))

    def test_a_series_that_no_acquisition_confirms(self):
        assert "SeriesTime was taken for it" in warned(tags(acquired=None))

    def test_some_minutes_are_a_warning(self):
        assert "SUV may be 3.2% off" in suv([tags(acquired=at(11.5 + 300 / 3600))], "bw").record["warnings"][0]

    def test_the_scanner_of_ge_places_frames_by_their_starts(self):
        """As in real data: one Acquisition Time, frames 243 s apart, and Decay Factors that agree."""
        decay = math.log(2) / F18
        within = decay * 240 / -math.expm1(-decay * 240)
        beds = [
            tags(frame_reference=243.0 * k, frame_duration=240.0, decay_factor=within * math.exp(decay * 243 * k))
            for k in range(6)
        ]
        for some in (beds, beds[3:]):
            found = suv(some, "bw")
            assert found.factor == pytest.approx(FACTOR, rel=1e-7)
            assert "warnings" not in found.record

    def test_the_decay_factor_tells_what_an_image_is_corrected_to(self):
        """PS3.3 C.8.9.4: 1.46 is an hour of F-18, 1.01 a frame of three minutes."""
        refused("DecayFactor must be that of 0 s", tags(frame_duration=180.0, decay_factor=1.46))
        assert "SUV may be 3.0% off" in warned(tags(frame_duration=180.0, decay_factor=1.04))
        admin = {"frame_duration": 180.0, "decay_correction": "ADMIN"}
        assert suv([tags(decay_factor=1.461, **admin)], "bw").factor == pytest.approx(70e3 / 370e6)
        refused("DecayFactor must be that of 3600 s", tags(decay_factor=1.01, **admin))

    def test_a_scan_by_ge_that_began_after_its_first_frame(self):
        """The series was made at 15:00; a scan cannot begin at 13:30 of which a frame began at 11:30."""
        refused("got 7200 s after it", tags(series=at(15.0), ge_scan=at(13.5)))

    def test_an_hour_between_the_scan_by_ge_and_the_series(self):
        refused("SeriesTime must be the GE scan time", tags(ge_scan=at(10.6)))


class TestNuclide:
    def test_a_code_against_the_half_life(self):
        refused("must be that of Ga-68, 4062 s", tags(nuclide="Ga-68"))

    @pytest.mark.parametrize("unit", [60.0, 3600.0, 1e-3])
    def test_another_unit_is_certain_beside_the_code(self, unit):
        assert "half life of F-18 in" in warned(tags(nuclide="F-18", half_life=F18 / unit))

    def test_minutes_without_a_code_are_no_half_life(self):
        refused("which is F-18 in minutes", tags(half_life=109.77))
        refused("must be that of a nuclide of PET", tags(half_life=5300.0))

    def test_the_code_tells_a_half_life_that_is_missing(self):
        assert "that of F-18, which RadionuclideCodeSequence names, was taken" in warned(
            tags(nuclide="F-18", half_life=None)
        )

    def test_a_sidecar_stands_with_a_warning(self):
        text = warned(tags(nuclide="Ga-68", half_life=4062.0), given={"RadionuclideHalfLife": F18})
        assert "from suv.json" in text

    @pytest.mark.parametrize(("nuclide", "stated"), [("F-18", 6588.0), ("Rb-82", 75.0), ("I-124", 361152.0)])
    def test_tables_of_half_lives_differ_a_little(self, nuclide, stated):
        wait = stated / 3600
        assert suv([tags(nuclide=nuclide, half_life=stated, injected=at(11.5 - wait))], "bw").factor > 0


class TestDoseAndBody:
    @pytest.mark.parametrize("dose", [370e3, 1e7 / 37, 37e9])
    def test_a_dose_in_another_unit(self, dose):
        """kBq and MCi as Bq: nobody gets 5 kBq or 500 MBq for each kg."""
        refused("must be 0.02 to 100 MBq/kg", tags(dose=dose))

    def test_an_unusual_dose_is_a_warning(self):
        for dose in (10e6, 3.71e9):
            assert "where 0.3 to 20 are usual" in suv([tags(dose=dose)], "bw").record["warnings"][0]

    def test_more_is_given_of_what_decays_in_minutes(self):
        """1.5 GBq of Rb-82 or O-15 water are 21 MBq/kg, as they are given."""
        soon = {"injected": at(11.5 - 90 / 3600), "dose": 1.5e9}
        assert "warnings" not in suv([tags(half_life=HALF_LIVES["Rb-82"], **soon)], "bw").record

    def test_a_dose_of_the_sidecar_stands_with_a_warning(self):
        found = suv([tags()], "bw", {"RadionuclideTotalDose": 37e9})
        assert found.factor == pytest.approx(FACTOR / 100, rel=1e-7)
        assert "from suv.json, which was taken" in found.record["warnings"][0]

    @pytest.mark.parametrize(("weight", "size"), [(7.0, 1.75), (700.0, 1.75), (70.0, 0.75)])
    def test_weight_against_size(self, weight, size):
        refused("PatientWeight and PatientSize must give", tags(weight=weight, size=size, dose=5e6 * weight))

    def test_a_weight_in_pounds_is_unusual(self):
        """154 pounds, 1.75 m: 50.3 kg/m2 as kg."""
        found = suv([tags(weight=154.3)], "bw")
        assert "50.4 kg/m2 (154.3 kg, 1.75 m), which is unusual" in found.record["warnings"][0]

    def test_children_and_animals_are_sound(self):
        assert "warnings" not in suv([tags(weight=3.2, size=0.5, dose=14e6)], "bw").record
        assert "warnings" not in suv([tags(weight=0.3, size=None, dose=40e6)], "bw").record

    def test_a_size_in_cm_is_said_where_it_is_not_needed(self):
        assert "PatientSize is no height" in warned(tags(size=175.0))


class TestConservationOfActivity:
    """The image holds at most what was injected, decayed: 253 MBq."""

    def test_more_than_was_injected(self):
        refused("at most the injected activity, got 1.97 times as much", tags(), content=Content(5e8, 1e5))

    def test_hardly_anything(self):
        assert "The mean of a body is near 1" in warned(tags(), content=Content(1e6, 500.0))

    def test_by_every_kind_alike(self):
        for kind in ("lbm", "bsa", "ibw"):
            with pytest.raises(DicomError, match=r"1\.97 times"):
                suv([tags()], kind, content=Content(5e8, 1e5))

    def test_a_file_in_suv(self):
        """Values in Bq/ml that are called g/ml, or a weight that is wrong: nobody knows which."""
        found = suv([tags(units="GML")], content=Content(7e5, 50.0))
        assert (found.unit, found.record["kind"]) == ("g/ml", "none")
        assert (
            "got 10 times as much as a body of this weight can hold: the unit, or the weight" in found.record["reason"]
        )


class TestSuvOfOthers:
    """What is in g/ml already does not depend on how dose, half life and times are read (PS3.3 C.8.9.1.1.3)."""

    @pytest.mark.parametrize("units", [{"units": "GML"}, {"units": "CNTS", "philips_suv": 1.0}])
    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"half_life": 1221.6, "tracer": "F-18"}, "must be that of F-18"),
            ({"dose": 370e3}, "must be 0.02 to 100 MBq/kg"),
            ({"start_time": at(9.5, None)}, "must be that of RadiopharmaceuticalStartDateTime"),
            ({"frame_duration": 180.0, "decay_factor": 1.5}, "DecayFactor must be that of 0 s"),
            ({"injected": at(10.5, DAY - 1)}, "must follow the injection within 8 half lives"),
        ],
    )
    def test_it_stands_with_a_warning(self, units, change, text):
        found = suv([tags(**units, **change)])
        assert (found.factor, found.unit) == (1.0, "SUV")
        (warning,) = found.record["warnings"]
        assert warning.startswith("The file holds SUV, computed from headers that contradict themselves: ")
        assert text in warning
        assert "suv.json" not in warning

    def test_what_is_missing_contradicts_nothing(self):
        bare = tags(units="GML", dose=None, half_life=None, injected=None, series=None, acquired=None, weight=None)
        assert "warnings" not in suv([bare]).record


class TestIntercept:
    """PS3.3 C.8.9.4: the Rescale Intercept of a PET image is 0; U = m * SV + b all the same."""

    def test_it_is_said(self):
        found = suv([tags(), tags(intercept=-1024.0)], "bw")
        assert found.factor == pytest.approx(FACTOR, rel=1e-7)
        assert "RescaleIntercept must be 0 in a PET (PS3.3 C.8.9.4), got -1024" in found.record["warnings"][0]

    def test_without_suv_too(self):
        for found in (suv([tags(intercept=5.0)], "none"), suv([tags(intercept=5.0, dose=None)])):
            assert found.record["kind"] == "none"
            assert "got 5: it was added" in found.record["warnings"][0]


def test_factors_of_philips_that_contradict_each_other():
    """370 MBq decayed for an hour, and 3.5 Bq/ml for a count, are 9.67e-4 g/ml for a count."""
    sound = tags(units="CNTS", philips_activity=3.5, philips_suv=3.5 * FACTOR)
    assert suv([sound], "bw").factor == pytest.approx(3.5 * FACTOR)
    with pytest.raises(DicomError, match="Philips SUV factor must be that of its activity factor"):
        suv([tags(units="CNTS", philips_activity=3.5, philips_suv=7 * FACTOR)], "bw")


def test_a_negative_factor_of_philips():
    assert "must be positive" in suv([tags(units="CNTS", philips_suv=-1.0)]).record["reason"]


def test_a_sidecar_stands_for_what_cannot_be_read():
    """Two items of a radiopharmaceutical: which is meant, suv.json says."""
    names = ("dose", "half_life", "nuclide", "injected", "start_time")
    two = tags(
        dose=None, half_life=None, injected=None, faults=tuple((n, "The headers must tell of one") for n in names)
    )
    refused("The headers must tell of one", two)
    given = {"RadionuclideTotalDose": 370e6, "RadionuclideHalfLife": F18}
    with pytest.raises(DicomError, match="The headers must tell of one"):
        suv([two], "bw", given)
    assert suv([two], "bw", given | {"UptakeSeconds": 3600}).factor == pytest.approx(FACTOR, rel=1e-7)


@pytest.mark.parametrize("units", ["BQML", "GML"])
def test_decay_that_is_and_is_not_corrected(units):
    found = suv([tags(units=units, decay_correction="NONE")])
    assert "DecayCorrection must be START or ADMIN" in found.record["reason"]


@pytest.mark.parametrize(("units", "stated"), [("GML", "BSA"), ("CM2ML", "BW")])
def test_units_against_the_type_of_suv(units, stated):
    assert suv([tags(units=units, suv_type=stated)]).record["kind"] == "none"


@pytest.mark.parametrize("name", ["weight", "dose", "injected"])
def test_without_suv_slices_may_contradict_each_other_where_no_pixel_depends_on_it(name):
    other = tags(**{"weight": {"weight": 71.0}, "dose": {"dose": 1e8}, "injected": {"injected": at(9.0)}}[name])
    assert suv([tags(), other], "none").unit == "Bq/ml"
    with pytest.raises(DicomError, match="must be one in all slices"):
        suv([tags(), tags(units="CNTS")], "none")
    if name == "weight":
        assert suv([tags(), other], "bw", {"PatientWeight": 70}).factor == pytest.approx(FACTOR, rel=1e-7)
