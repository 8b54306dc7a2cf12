from __future__ import annotations

import copy

import pytest

from medfuse import NOTICE
from medfuse.bundles import bundle_dir
from medfuse.physics import parse_native
from medfuse.pipeline.facts import sha256
from medfuse.regions.intervals import calibration
from medfuse.report import degradation_name, findings, methods_text, warnings
from medfuse.report.estimates import estimate_sentence
from medfuse.report.methods import describe_steps
from medfuse.report.native import native_rows


def changed(record, path, value):
    record = copy.deepcopy(record)
    *way, last = path.split("/")
    place = record
    for key in way:
        place = place[int(key) if key.isdigit() else key]
    place[last] = value
    return record


def texts(record, level):
    return [f.text for f in findings(record) if f.level == level]


def test_a_pet_whose_mean_is_negative_is_told_and_an_mri_not(make_record):
    """Noise about 0 goes below it; a mean that does is no uptake (Bq/ml and SUV count decays)."""
    negative = {"mean": -4.8, "max": -1.0}
    for name, told in (("pet", 1), ("mri", 0)):
        record = changed(
            make_record(), f"sources/{name}/regions", [{"name": "all", "given": negative, "restored": negative}]
        )
        assert len([text for text in texts(record, "warning") if "negative" in text]) == told


def test_a_good_case_has_no_warning_but_its_limits(make_record):
    assert texts(make_record(), "warning") == []
    notes = " ".join(texts(make_record(), "note"))
    assert "few subjects" in notes
    assert "No degradation was stated for the MRI" in notes
    assert "from the network" in notes


TABLE = {"kind": "table", "sigma": [0.1, 0.4], "unit": "input", "fwhm_mm": [5, 5, 4], "signal": [1, 4]}


def test_noise_that_is_a_table_is_told_at_each_signal(make_record):
    """In the row of the figures, in the estimate's sentence and in the methods; and it can be stated again."""
    rows = dict(native_rows({"noise": {**TABLE, "origin": "measured"}, "psf_fwhm_mm": [6, 6, 6]}))
    assert rows["Noise, standard deviation (table, measured) [unit of the input]"] == "0.1000 at 1.000, 0.4000 at 4.000"
    known = {"step": "noise", "kind": "table", "value": TABLE["sigma"], "stated": TABLE, "rests_on": "the data"}
    assert "0.1000 at 1.000, 0.4000 at 4.000, in the unit of the input (table) was stated" in estimate_sentence(
        "PET", known
    )
    stated = {"version": 1, "source2": {"grid": "native", "psf": {"fwhm_mm": [6, 6, 6]}, "noise": TABLE}}
    assert parse_native(stated["source2"]).noise.table == ((1.0, 0.1), (4.0, 0.4))
    text = methods_text(make_record(degradation=stated))
    assert "Noise (standard deviation by signal: 0.1000 at 1.000, 0.4000 at 4.000, in the input's unit)" in text


@pytest.mark.parametrize("weights", [None, "ab" * 32])
def test_the_methods_name_the_network_that_made_the_estimate(make_record, weights):
    native = {"guided": True, "corrected_chi2": 1.0, "psf_fwhm_mm": [6, 6, 6], "weights_sha256": weights}
    text = methods_text(changed(make_record(), "sources/pet/native", native))
    assert ("trained network of volumes" in text) == (weights is not None)
    assert weights is None or f"(weights SHA-256 {weights})" in text


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("registration", {"performed": True, "accepted": False, "reasons": ["too far"]}, "was refused: too far"),
        ("registration/max_displacement", 31.2, "by up to 31 mm"),
        ("registration/inconsistency", 3.4, "3.4 mm apart"),
        ("registration/warnings", ["two halves disagree by 3.1 mm"], "accepted, but two halves disagree by 3.1 mm."),
        ("reference/outside_fraction", 0.12, "12% of the field of view of the MRI lies outside that of the PET"),
        ("sources/pet/residual_chi2", 1.31, "does not explain the data"),
        ("sources/pet/residual_chi2", 0.2, "far below 1"),
        ("sources/pet/noise", {"stated": 0.2, "seen": [0.4, 0.5]}, "noise of the PET seems to be about 2.0 times what"),
        ("sources/pet/noise", {"stated": 0.2, "seen": [4.1, 4.2]}, "seems to be about 20 times what was stated"),
        (
            "sources/pet/noise",
            {"stated": 0.6, "seen": [0.1, 0.2]},
            "less noise in the PET than was stated: it seems to",
        ),
        ("sources/pet/narrowed_blur", 0.8, "undone to 80% of its width only"),
        ("sources/pet/narrowed_blur", 0.0, "undone to 0% of its width only"),
        ("sources/pet/solve_converged", False, "conjugate gradients stopped at their limit"),
        ("sources/pet/unit", "a.u.", "unit of the PET is unknown (a.u.)"),
        ("sources/pet/unit", "", "unknown (none)"),
        ("sources/pet/suv", {"kind": "none", "reason": "no weight"}, "no SUV: no weight"),
        ("sources/pet/regions/0/given/max", 36228.0, "its highest value is 36228"),
        ("sources/pet/regions/0/restored/mean", 0.7, "mean of the restored PET is 30% below"),
        ("sources/pet/regions/0/restored/mean", 1.2, "mean of the restored PET is 20% above"),
    ],
)
def test_what_is_wrong_is_a_warning(path, value, said, make_record):
    warnings = texts(changed(make_record(), path, value), "warning")
    assert len(warnings) == 1
    assert said in warnings[0]
    assert findings(changed(make_record(), path, value))[0].level == "warning"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("registration", None, "not registered"),
        ("registration", {"performed": False, "accepted": True, "reasons": ["skipped: they say so"]}, "(they say so)"),
        ("degradation", {"version": 1, "name": "none"}, "No degradation was stated, so both"),
        ("reference/outside_fraction", 0.005, "few subjects"),
        ("sources/pet/residual_chi2", 1.05, "few subjects"),
        ("sources/pet/noise", {"stated": 0.2, "seen": [0.19, 0.3]}, "few subjects"),
        ("sources/pet/noise", {"stated": 0.2, "seen": [0.05, 0.3]}, "few subjects"),  # coloured: neighbours share it
        ("sources/pet/noise", None, "few subjects"),
        (
            "sources/pet/narrowed_blur",
            {"slices": 2, "least": 0.8},
            "few subjects",
        ),  # an older record: no number, no warning
        ("sources/pet/regions/0/restored/max", 12.0, "maximum of the restored PET is 60% above"),
    ],
)
def test_a_choice_is_a_note(path, value, said, make_record):
    record = changed(make_record(), path, value)
    assert texts(record, "warning") == []
    assert any(said in note for note in texts(record, "note"))


def test_noise_in_the_data_decides_and_not_the_chi_square(make_record):
    # on a grid finer than that of the PET neighbours share noise, and a white model leaves a chi-square far below 1
    record = changed(make_record(), "sources/pet/residual_chi2", 0.01)
    assert len(texts(record, "warning")) == 1
    record = changed(record, "sources/pet/noise", {"stated": 0.2, "seen": [0.19, 0.21]})
    assert texts(record, "warning") == []
    record = changed(record, "sources/pet/residual_chi2", 1.4)  # something else than the noise is wrong
    assert "does not explain the data" in texts(record, "warning")[0]


def test_where_no_noise_was_stated_a_small_chi_square_is_no_warning(make_record):
    """A blur alone: the residual is in units of the rounding, and black is not rounded."""
    record = changed(make_record(), "sources/pet/residual_chi2", 0.2)
    assert len(texts(record, "warning")) == 1
    assert texts(changed(record, "degradation/source2", [{"blur": {"sigma_px": 2.0}}]), "warning") == []


def test_the_own_grain_of_an_image_is_no_contradiction(make_record):
    # 3/255 of full range: an MRI has so much of its own before any noise was added
    for scale, said in ((1.0, 1), (100.0, 0)):
        noise = {"stated": 0.1, "seen": [0.3, 0.4]}
        record = changed(changed(make_record(), "sources/pet/noise", noise), "sources/pet/scale", scale)
        assert len(texts(record, "warning")) == said


def test_what_was_measured_is_not_called_stated(make_record):
    record = changed(make_record(), "sources/pet/noise", {"stated": 0.2, "seen": [0.4, 0.5]})
    assert "what was stated" in texts(record, "warning")[0]
    found = {"step": "noise", "value": 0.2, "stated": {"kind": "gaussian", "sigma": 0.2}, "rests_on": "differences"}
    record = changed(record, "degradation/estimates", {"source1": [], "source2": [found]})
    assert "what was measured" in texts(record, "warning")[0]
    found["stated"] = None  # refused: another step of it was stated
    assert "what was stated" in texts(record, "warning")[0]


def test_warnings_that_are_written_stand(make_record):
    record = make_record(registration={"performed": True, "accepted": False, "reasons": ["too far"]})
    assert warnings(record) == ["The registration was refused: too far. The images were fused as they lay."]
    written = {**record, "warnings": ["As it was said then."]}
    assert warnings(written) == ["As it was said then."]
    assert texts(written, "note") == texts(record, "note")


def test_an_empty_record_does_not_fail():
    assert all(f.level == "note" for f in findings({}))
    assert NOTICE in methods_text({})


def test_methods_name_versions_hash_steps_and_source(make_record):
    text = methods_text(make_record())
    for part in (
        "medfuse 0.1.0 (MONAI 1.6.1, PyTorch 2.13.0)",
        "ab" * 32,
        "in 3 reverse steps",
        "registered to the MRI rigidly",
        "of the PET: Gaussian blur (FWHM 5 mm), then Gaussian noise (standard deviation 0.05 of full range)",
        "0.97 (PET)",
        "CVPR 2026",
        NOTICE,
    ):
        assert part in text


def test_methods_of_other_registrations(make_record):
    refused = {"performed": True, "accepted": False, "reasons": ["too far"]}
    assert "was refused (too far)" in methods_text(make_record(registration=refused))
    assert "taken as aligned" in methods_text(make_record(registration=None))
    assert "No degradation was assumed." in methods_text(make_record(degradation={"version": 1}))


def test_every_step_has_words():
    steps = [
        {"blur": {"sigma_px": [1.0, 2.0]}},
        {"motion": {"length_px": 9, "angle_deg": 30}},
        {"downsample": {"factor": 2}},
        {"noise": {"kind": "poisson", "counts": 60}},
        {"noise": {"kind": "rician", "sigma": 12.0, "unit": "input"}},
    ]
    assert describe_steps(steps) == [
        "Gaussian blur (standard deviation 1 x 2 px)",
        "motion (length px 9, angle deg 30)",
        "down-sampling by 2 (average)",
        "Poisson noise (counts 60)",
        "Rician noise (standard deviation 12 in the input's unit)",
    ]
    assert describe_steps(None) == []


NOISE: dict[str, object] = {"noise": {"sigma": 0.1}}
FOUND = {"step": "noise", "stated": {"sigma": 0.1}}
PSF = {"grid": "native", "psf": {"fwhm_mm": [6, 6, 6]}}


@pytest.mark.parametrize(
    ("degradation", "name"),
    [
        ({}, "none stated"),
        ({"origin": "given", "version": 1, "name": "none", "source1": [], "source2": []}, "none stated"),
        ({"origin": "given", "version": 1, "source2": [{"noise": {"sigma": 0.1}}]}, "as specified (given)"),
        ({"origin": "given", "name": "noise", "source1": [{"noise": {"sigma": 0.1}}]}, "noise (given)"),
        ({"origin": "estimated", "source1": [], "estimates": {"source1": [{"stated": None}]}}, "none found"),
        ({"origin": "estimated", "source1": [NOISE], "estimates": {"source1": [FOUND]}}, "estimated from the images"),
        ({"origin": "estimated", "source2": PSF, "estimates": {"source1": [{"stated": None}]}}, "as specified (given)"),
        (
            {"origin": "estimated", "source1": [NOISE], "source2": PSF, "estimates": {"source1": [FOUND]}},
            "in part given, in part estimated from the images",
        ),
    ],
)
def test_a_degradation_is_given_only_where_one_was(degradation, name):
    assert degradation_name(degradation) == name


@pytest.mark.parametrize(("origin", "said"), [("measured", "the measured noise"), ("given", "the stated noise")])
def test_a_chi_square_below_1_blames_the_noise_whence_it_is(make_record, origin, said):
    """Where the program measured the noise, nobody stated it."""
    native = {"corrected_chi2": 0.42, "noise": {"origin": origin}}
    (text,) = texts(changed(make_record(), "sources/pet/native", native), "warning")
    assert said in text and "0.42" in text


def test_a_deviation_that_was_asked_for_and_is_not_there_is_told(make_record):
    """A source that came back as it was has no error to tell; that of other weights was calibrated for others."""
    native = {"corrected_chi2": 1.0}
    record = changed(make_record(), "sources/pet/native", native)
    assert not [t for level in ("warning", "note") for t in texts(record, level) if "uncertainty" in t]
    record["uncertainty"] = "full"
    assert not [t for level in ("warning", "note") for t in texts(record, level) if "No uncertainty of the PET" in t]
    assert [t for t in texts(record, "note") if "No uncertainty of the MRI" in t]
    record["weights_sha256"] = calibration()["weights_sha256"]
    assert not [t for t in texts(record, "warning") if "other weights" in t]
    record["weights_sha256"] = "0"
    assert not [t for t in texts(record, "warning") if "other weights" in t], "no network restored it"
    record = changed(record, "sources/pet/native", None)
    assert [t for t in texts(record, "warning") if "other weights" in t]


def test_a_deviation_of_a_network_without_calibration_is_told(make_record):
    """The rule was calibrated, and so was one network for a source on its own grid: no other."""
    record = changed(make_record(uncertainty="fast"), "sources/pet/native", {"corrected_chi2": 1.0})
    for weights in (None, calibration()["network_weights_sha256"]):
        record = changed(record, "sources/pet/native/weights_sha256", weights)
        assert not [t for t in texts(record, "warning") if "other weights" in t]
    record = changed(record, "sources/pet/native/weights_sha256", "cd" * 32)
    (text,) = [t for t in texts(record, "warning") if "other weights" in t]
    assert "how often it holds is not known" in text
    record["uncertainty"] = "off"
    assert not [t for t in texts(record, "warning") if "other weights" in t]


def test_the_network_of_the_bundle_is_the_one_that_was_calibrated():
    assert calibration()["network_weights_sha256"] == sha256(bundle_dir("pet_mri_fusion") / "models" / "volumes.pt")


def test_a_deviation_without_the_guidance_that_it_was_calibrated_with_is_told(make_record):
    for guided, told in ((True, 0), (False, 1)):
        native = {"corrected_chi2": 1.0, "guided": guided}
        record = changed(make_record(uncertainty="fast"), "sources/pet/native", native)
        assert len([t for t in texts(record, "warning") if "it did not guide the PET: how often" in t]) == told
    record["uncertainty"] = "off"
    assert not [t for t in texts(record, "warning") if "did not guide" in t]


@pytest.mark.parametrize(("asked", "suvr", "told"), [(3, None, 1), (3, 1.0, 0), (None, None, 0)])
def test_an_suvr_that_was_asked_for_and_is_not_there_is_told(make_record, asked, suvr, told):
    """The mean of the reference region as given is 0 or less: there is no ratio to it."""
    given, restored = {"mean": 1.0, "max": 2.0, "suvr": suvr}, {"mean": 1.0, "max": 2.0, "suvr": 1.0}
    record = changed(make_record(), "sources/pet/regions", [{"label": 3, "given": given, "restored": restored}])
    record["reference_region"] = asked
    assert len([t for t in texts(record, "warning") if "No SUVR of the PET, given" in t]) == told
    assert not [t for t in texts(record, "warning") if "No SUVR of the PET, restored" in t]


def test_regions_that_were_cut_are_told(make_record):
    record = make_record() | {"mask_outside": {"2": 0.5, "4": 1.0, "9": 0.001}}
    (told,) = [t for t in texts(record, "warning") if "Regions lie outside the field of view of the MRI" in t]
    assert "2 (50%), 4 (100%). Their values are of the rest alone." in told and "9" not in told


@pytest.mark.parametrize(("guided", "said"), [(True, "comes from the other source"), (False, "the data alone decide")])
def test_what_was_destroyed_comes_from_what_was_used(make_record, guided, said):
    """No network restores a source on its own grid, and the other source does only where it guides."""
    native = {"corrected_chi2": 1.0, "guided": guided}
    notes = " ".join(texts(changed(make_record(), "sources/pet/native", native), "note"))
    assert said in notes and "from the network" not in notes


def test_a_psf_that_is_refused_is_a_warning_and_other_estimates_are_notes(make_record):
    """The PET then stays blurred, which nobody should have to read a note for."""
    estimates = [
        {"step": "psf", "value": [6, 6, 6], "interval": [[5] * 3, [7] * 3], "rests_on": "", "refused": "no guidance"},
        {"step": "noise", "value": None, "interval": None, "stated": None, "rests_on": "", "refused": "no PSF"},
    ]
    degradation = {
        "origin": "estimated",
        "source1": [],
        "source2": [],
        "estimates": {"source1": [], "source2": estimates},
    }
    record = changed(make_record(), "degradation", degradation)
    (text,) = texts(record, "warning")
    assert "no guidance" in text
    assert any("no PSF" in note for note in texts(record, "note"))
    estimates[0] |= {"value": None, "interval": None, "refused": "too few voxels"}
    assert texts(changed(record, "degradation/estimates/source2", estimates), "warning") == []


@pytest.mark.parametrize(("share", "guided", "told"), [(0.8, True, 1), (1.02, True, 0), (0.8, False, 0)])
def test_gtm_by_a_psf_that_the_data_refuse_is_told(make_record, share, guided, told):
    """0.8 of 6 mm is 4.8 mm; where the MRI did not guide, it tells no PSF either."""
    alignment = {"moved_mm": 0.1, "std_mm": 0.1, "psf_share": share, "psf_std": 0.01, "psf_doubted": share < 1}
    native = {"corrected_chi2": 1.0, "guided": guided, "alignment": alignment, "psf_fwhm_mm": [6, 6, 6]}
    value = {"mean": 2.0, "max": 3.0}
    region = {"label": 1, "name": "ball", "given": value, "restored": value, "gtm": 2.5, "rbv": 2.4}
    record = changed(make_record(), "sources/pet/native", native)
    record = changed(record, "sources/pet/regions", [region])
    found = [text for text in texts(record, "warning") if "GTM" in text]
    assert len(found) == told
    assert not told or "4.8 x 4.8 x 4.8 mm" in found[0]
