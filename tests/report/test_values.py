from __future__ import annotations

import numpy as np
import pytest

from medfuse.errors import GeometryError
from medfuse.regions.intervals import calibration
from medfuse.report import region_values
from medfuse.report.numbers import number_text
from medfuse.report.values import values_section


def test_regions_have_mean_max_and_peak():
    given = np.ones((40, 40, 40))
    given[20, 20, 20] = 101
    labels = np.zeros(given.shape)
    labels[18:23, 18:23, 18:23] = 3.0
    labels[5, 5, 5] = 1.0
    whole, one, three = region_values(given, 2 * given, affine=np.diag([2.0, 2, 2, 1]), labels=labels)
    assert (whole["label"], one["label"], three["label"]) == (None, 1, 3)
    assert whole["volume_ml"] == pytest.approx(512)
    assert three["volume_ml"] == pytest.approx(1.0)
    assert three["given"]["mean"] == pytest.approx(1 + 100 / 125)
    assert three["given"]["max"] == 101
    assert three["restored"]["max"] == 202
    # 123 voxels of 8 mm3 have their centre in a sphere of 1 ml
    assert three["given"]["peak"] == pytest.approx(1 + 100 / 123)
    assert one["given"] == pytest.approx({"mean": 1.0, "sd": 0.0, "max": 1.0, "peak": 1.0, "tlg": 0.008})
    assert three["given"]["sd"] == pytest.approx(given[18:23, 18:23, 18:23].std())  # over n, as IBSI's variance
    assert three["given"]["tlg"] == pytest.approx(1.8 * 1.0)  # mean times volume


def test_regions_that_overlap_lie_in_layers():
    rng = np.random.default_rng(0)
    given = rng.normal(5, 2, (70, 20, 20)).astype(np.float32)  # more than one block
    labels = np.zeros((2, *given.shape), np.float32)
    labels[0, 5:68], labels[1, 60:66, 2:9, 3:7], labels[0, 0] = 2, 7, 9
    found = {r["label"]: r for r in region_values(given, given, affine=np.eye(4), labels=labels)}
    for label, inside in ((2, labels[0] == 2), (7, labels[1] == 7), (9, labels[0] == 9)):
        values = given[inside].astype(float)
        assert found[label]["volume_ml"] == pytest.approx(inside.sum() / 1000)
        for name, value in (("mean", values.mean()), ("sd", values.std()), ("max", values.max())):
            assert found[label]["given"][name] == pytest.approx(value)


def test_coarse_voxels_have_no_peak():
    (whole,) = region_values(np.ones((4, 4, 4)), np.ones((4, 4, 4)), affine=np.diag([8.0, 8, 8, 1]))
    assert whole["given"]["peak"] is None


def test_other_grids_are_refused():
    with pytest.raises(GeometryError, match="share a grid"):
        region_values(np.ones((4, 4, 4)), np.ones((4, 4, 5)), affine=np.eye(4))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0, "0.000"), (11.0, "11.00"), (1234.4, "1234"), (51898.4, "51898"), (0.0662, "0.06620"),
        (2e-5, "2.000e-05"),
    ],
)  # fmt: skip
def test_a_number_shows_its_digits(value, text):
    assert number_text(value) == text
    assert number_text(1234.4, digits=3) == "1234"


def measured(label: int, mean: float, volume: float) -> dict:
    """Return a region whose mean was 10 as given."""
    figures = [{"mean": value, "sd": 1.0, "max": value, "peak": None, "tlg": 1.0} for value in (10.0, mean)]
    interval = {"level": 0.95, "sd": 0.5, "low": mean - 1, "high": mean + 1}
    return {"label": label, "volume_ml": volume, "given": figures[0], "restored": figures[1], "interval": interval}


PLANES = calibration()["held"][1]
RULE, NETWORK = {"guided": True}, {"guided": True, "weights_sha256": "ab" * 32}
BLUR, NOISE = [{"blur": {"fwhm_mm": 5}}, {"noise": {"sigma": 0.1}}], [{"noise": {"sigma": 0.1}}]
ESTIMATES = {"source2": [{"step": "psf", "stated": {"fwhm_mm": [5, 5, 5]}}]}


@pytest.mark.parametrize(
    ("native", "degradation", "mean", "volume", "said"),
    [
        (None, {"source2": NOISE}, 15.0, 200.0, ()),  # nothing was blurred: no edge is a bias
        (None, {"source2": BLUR}, 10.5, 20.0, ("stated",)),
        (None, {"source2": BLUR}, 11.5, 20.0, ("edges", "stated")),
        (None, {"source2": BLUR}, 8.5, 200.0, ("edges", "large", "stated")),
        (RULE, {"source2": {"psf": {"fwhm_mm": 5}}}, 8.5, 200.0, ("stated",)),  # there the others are held
        (NETWORK, {"source2": {"psf": {"fwhm_mm": 5}}}, 8.5, 200.0, ("stated",)),
        (RULE, {"source2": {"psf": {}}, "estimates": ESTIMATES}, 10.5, 20.0, ()),  # it was measured
    ],
)
def test_the_report_says_of_which_regions_intervals_hold_less_often(
    make_record, read_page, native, degradation, mean, volume, said
):
    """Edges of uptake, whole tissues, and a PSF that was stated by hand: with the shares that phantoms have shown."""
    record = make_record(degradation={"origin": "given", "source1": [], **degradation})
    record["sources"]["pet"] |= {"regions": [measured(3, mean, volume)], "native": native}
    text = read_page(str(values_section(record))).text
    maker = "network" if native == NETWORK else "native"
    held = calibration()[f"{maker}_held"] if native else PLANES
    one, told, narrow = "ball" if native else "disc", held["told right"], held["PSF 10 % narrow"]
    sentences = {
        "edges": f"held {told[one]:.0f} % of the regions within one tissue and {told['lesion']:.0f} % of the lesions",
        "large": f"Label 3: larger than 100 ml, as a whole tissue is, with all of its edges: on phantoms intervals of "
        f"95 % held {told['tissue']:.0f} %",
        "stated": f"intervals of 95 % hold {narrow[one]:.0f} % of the regions within one tissue, "
        f"{narrow['lesion']:.0f} % of the lesions",
    }
    assert [key for key, sentence in sentences.items() if sentence in text] == list(said)
    seen = "on phantoms of heads" if native else "on heads of other people and on phantoms"
    assert f"as seen {seen}, and is wider" in text
