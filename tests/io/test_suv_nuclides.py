"""Which nuclide headers name: by codes, meanings and the tracer's name, against the half life and each other."""

from __future__ import annotations

import pytest
from pydicom.sequence import Sequence

from medfuse.io import DicomReader, open_series, series_suv
from medfuse.io.suv import HALF_LIVES, PetTags, suv
from medfuse.io.suv.nuclides import nuclides_in

F18, C11 = HALF_LIVES["F-18"], 1221.6
FACTOR = 70e3 / 370e6


def tags(**changes) -> PetTags:
    """A sound PET that is corrected to the injection: 70 kg, 370 MBq of F-18."""
    values = {
        "units": "BQML", "corrections": ("ATTN", "DECY"), "decay_correction": "ADMIN", "weight": 70.0, "dose": 370e6,
        "half_life": F18,
    }  # fmt: skip
    return PetTags(**values | changes)


def reason(told: PetTags) -> str:
    """Return why there is no SUV."""
    found = suv([told])
    assert (found.factor, found.unit) == (1.0, "Bq/ml")
    return found.record["reason"]


def warning(told: PetTags, given: dict | None = None) -> str:
    """Return the one warning of an SUV that is right."""
    found = suv([told], "bw", given)
    assert found.factor == pytest.approx(FACTOR, rel=1e-7)
    (text,) = found.record["warnings"]
    return text


@pytest.mark.parametrize(
    ("text", "nuclide"),
    [
        *((text, "F-18") for text in ("^18^Fluorine", "F-18", "18F", "[18F]FDG", "18FDG", "FDG -- fluorodeoxyglucose")),
        *((text, "F-18") for text in ("Fluorodeoxyglucose F^18^", "FLUORINE-18 PSMA-1007", "NaF", "Florbetapir")),
        *((text, "C-11") for text in ("Carbon^11^", "carbon 11", "(11C)choline", "PIB", "Flumazenil C^11^")),
        *((text, "Ga-68") for text in ("68Ga-DOTATATE", "Ga-68 PSMA-11", "Gallium-68 (68Ga)")),
        *((text, "N-13") for text in ("13N-NH3", "Ammonia")),
        ("^99m^Technetium", "Tc-99m"),
        ("18F-PIB", "F-18"),
        ("Rubidium chloride Rb^82^", "Rb-82"),
    ],
)
def test_a_text_names_one(text, nuclide):
    assert nuclides_in(text) == {nuclide}


@pytest.mark.parametrize(
    "text", ["", "Solution", "PSMA", "PSMA-1007", "DOTATATE", "Choline", "AV-45", "MK-6240", "GE-180", "UCB-J", "F-17"]
)
def test_what_may_be_two_or_none_says_nothing(text):
    """PSMA is made with F-18 and Ga-68, DOTATATE with Ga-68 and Cu-64, choline with C-11 and F-18."""
    assert nuclides_in(text) == set()


def test_every_code_of_the_standard_names_one():
    """PS3.16 CID 4020 and 4021."""
    from pydicom.sr.codedict import codes

    for known in (codes.cid4020, codes.cid4021):
        for name in known.dir():
            assert len(nuclides_in(getattr(known, name).meaning)) == 1, name


@pytest.mark.parametrize(
    ("by", "header"),
    [
        ("nuclide", "RadionuclideCodeSequence"),
        ("tracer_code", "RadiopharmaceuticalCodeSequence"),
        ("tracer", "Radiopharmaceutical"),
    ],
)
def test_each_is_held_against_the_half_life(by, header):
    told = reason(tags(half_life=C11, **{by: "F-18"}))
    assert f"must be that of F-18, 6586 s, which {header} names, got 1221.6" in told
    assert "warnings" not in suv([tags(**{by: "F-18"})], "bw").record


def test_they_are_held_against_each_other():
    two = tags(nuclide="F-18", tracer="Ga-68")
    assert "one nuclide, got F-18 by RadionuclideCodeSequence and Ga-68 by Radiopharmaceutical" in reason(two)
    assert "the half life of suv.json was taken" in warning(two, {"RadionuclideHalfLife": F18})


def test_a_nuclide_of_scintigraphy_is_none_of_pet():
    assert "must name a nuclide of PET, got Tc-99m by RadionuclideCodeSequence" in reason(tags(nuclide="Tc-99m"))


def test_a_code_tells_a_half_life_and_a_free_text_does_not():
    lacking = {"half_life": None, "decay_correction": "START", "uptake": 0.0}
    assert "which RadiopharmaceuticalCodeSequence names, was taken" in warning(tags(tracer_code="F-18", **lacking))
    assert "in minutes" in warning(tags(tracer_code="F-18", half_life=109.77))
    assert "RadionuclideHalfLife must be 10 to 1e" in reason(tags(tracer="F-18", **lacking))
    assert "must be that of F-18" in reason(tags(tracer="F-18", half_life=109.77))


def test_an_unknown_code_says_nothing():
    assert suv([tags(nuclide="OTHER")], "bw").factor == pytest.approx(FACTOR)


def code(dataset, keyword: str, value: str, scheme: str, meaning: str) -> None:
    agent = dataset.RadiopharmaceuticalInformationSequence[0]
    item = type(dataset)()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    setattr(agent, keyword, Sequence([item]))


@pytest.mark.parametrize(
    ("keyword", "value", "scheme", "meaning", "found"),
    [
        ("RadiopharmaceuticalCodeSequence", "C-B1031", "SRT", "x", {"tracer_code": "F-18"}),
        ("RadiopharmaceuticalCodeSequence", "C-B1031", "99SDM", "x", {"tracer_code": "F-18"}),
        ("RadiopharmaceuticalCodeSequence", "35321007", "SCT", "x", {"tracer_code": "F-18"}),
        ("RadiopharmaceuticalCodeSequence", "C118961", "NCIt", "x", {"tracer_code": "Ga-68"}),
        ("RadiopharmaceuticalCodeSequence", "1", "99MINE", "FDG", {"tracer_code": "F-18"}),
        ("RadiopharmaceuticalCodeSequence", "1", "99MINE", "PSMA", {}),
        ("RadionuclideCodeSequence", "1", "99MINE", "Carbon-11 (C-11)", {"nuclide": "C-11"}),
        ("RadionuclideCodeSequence", "", "", "C^11^ Carbon", {"nuclide": "C-11"}),
        ("RadionuclideCodeSequence", "C-163A8", "SRT", "^99m^Technetium", {"nuclide": "Tc-99m"}),
        ("RadionuclideCodeSequence", "1368003", "SCT", "x", {"nuclide": "I-131"}),
        ("RadionuclideCodeSequence", "1", "99MINE", "MRN-4711", {"nuclide": "OTHER"}),
    ],
)
def test_codes_are_read(tmp_path, pet, save, canaries, keyword, value, scheme, meaning, found):
    """PS3.16 CID 4020, 4021, 18 and 25; SRT codes are those that SNOMED CT codes came from (Annex O)."""
    datasets = pet.slices()
    for dataset in datasets:
        code(dataset, keyword, value, scheme, meaning)
    save(datasets, tmp_path)
    told: PetTags = open_series(tmp_path).headers[0].pet
    read = {name: getattr(told, name) for name in ("nuclide", "tracer_code", "tracer")}
    assert {name: value for name, value in read.items() if value} == found
    assert not [c for c in canaries if c in str(series_suv(open_series(tmp_path)).record)]


def test_fdg_by_name_with_carbon(tmp_path, pet, save):
    datasets = pet.slices()
    for dataset in datasets:
        agent = dataset.RadiopharmaceuticalInformationSequence[0]
        agent.Radiopharmaceutical, agent.RadionuclideHalfLife = "FDG", C11
    save(datasets, tmp_path)
    meta = DicomReader().get_data([tmp_path])[1]
    assert meta["unit"] == "Bq/ml"
    assert "must be that of F-18, 6586 s, which Radiopharmaceutical names, got 1221.6" in meta["suv"]["reason"]
    assert meta["suv"]["tags"]["Radiopharmaceutical"] == "F-18"
