from __future__ import annotations

import base64
import gzip
import json
import re

import nibabel as nib
import numpy as np
import pytest

from medfuse import NOTICE
from medfuse.errors import GeometryError, ImageError
from medfuse.fusion import ColourFusion
from medfuse.report import save_group_page, save_report
from medfuse.report.markup import Markup, element, json_block
from medfuse.report.viewer import nifti_base64

HOSTILE = "<script>alert(1)</script>\"'&</title><img src=x onerror=alert(2)>"
SHAPE = (28, 32, 20)
PET = np.linspace(0, 7, np.prod(SHAPE)).reshape(SHAPE)  # as it lay before a registration
AFFINE = np.array([[-2.0, 0.1, 0.0, 30.0], [0.1, 2.0, 0.2, -40.0], [0.0, -0.2, 3.0, -20.0], [0.0, 0.0, 0.0, 1.0]])


def report(path, volumes, record, **changes):
    """Write a report and return its text."""
    save_report(path, record=record, **{**volumes, **changes})
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(tmp_path_factory, volumes, make_record):
    return report(tmp_path_factory.mktemp("report") / "r.html", volumes, make_record())


def config(page):
    """Return what the viewer is told."""
    return json.loads(next(s for s in page.scripts if s.startswith("{") and '"volumes"' in s))


def test_page_is_well_formed_with_headings_alts_and_notices(text, read_page):
    page = read_page(text)
    assert page.open == []
    assert text.startswith("<!DOCTYPE html>")
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    titles = (
        "Read first",
        "Sources, restored, fused",
        "Look inside",
        "Registration",
        "Degradation",
        "Values",
        "Methods",
    )
    assert [t for t in titles if t not in page.text] == []
    pictures = page.all("img")
    assert len(pictures) == 3
    assert all(len(p["alt"]) > 40 for p in pictures)
    assert page.text.count(NOTICE) >= 2
    assert page.text.index(NOTICE) < page.text.index("PET-MRI fusion report")
    anchors = {a["href"].removeprefix("#") for a in page.all("a")}
    assert anchors <= {a.get("id") for _, a in page.elements}
    labelled = [a for tag, a in page.elements if tag in ("button", "select", "input", "canvas") or "tabindex" in a]
    assert labelled


def test_page_loads_nothing(text, read_page):
    page = read_page(text)
    sources = [a[k] for _, a in page.elements for k in ("src", "href", "srcset", "data", "action") if a.get(k)]
    assert [s for s in sources if not s.startswith(("data:image/png;base64,", "#"))] == []
    assert not page.all("link") and not page.all("iframe")
    styles = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    assert "url(" not in styles and "@import" not in styles
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "data: blob:"
    assert "unsafe" not in rules["script-src"]
    assert "http" not in policy.replace("http-equiv", "")


def test_page_is_small_and_repeats(tmp_path, volumes, text, make_record):
    assert len(text) < 8_000_000
    assert report(tmp_path / "again.html", volumes, make_record()) == text


def test_a_page_of_noise_stays_small(tmp_path, volumes, make_record):
    noise = np.random.default_rng(0).random((120, 130, 110), np.float32)
    rgb = np.repeat((255 * noise).astype(np.uint8)[..., None], 3, -1)
    changes = {"sources": (noise, 7 * noise[::-1]), "restored": (noise[:, ::-1], noise), "fused": noise, "rgb": rgb}
    changes |= {"weight": noise, "residuals": (noise, noise)}
    assert len(report(tmp_path / "r.html", volumes, make_record(), **changes)) < 8_000_000


def test_numbers_are_in_the_page(text, read_page):
    page = read_page(text)
    for expected in ("7.8 mm", "0.300 nats", "0.800 nats", "PET 0.97", "7.5", "8.25", "PET in SUV", "ab" * 32):
        assert expected in page.text


def test_hostile_texts_stay_texts(tmp_path, volumes, text, read_page, make_record):
    record = make_record(case=HOSTILE)
    record["sources"]["pet"]["unit"] = HOSTILE
    record["degradation"]["name"] = HOSTILE
    record["registration"]["reasons"] = [HOSTILE]
    record["versions"]["medfuse"] = HOSTILE
    page = read_page(report(tmp_path / "r.html", volumes, record))
    assert page.open == []
    assert len(page.all("script")) == len(read_page(text).all("script"))
    assert len(page.all("img")) == 3
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
    assert "<script>alert(1)</script>" in page.text
    assert config(page)["volumes"][-1]["unit"] == HOSTILE


def test_nothing_else_of_the_record_is_shown(tmp_path, volumes, make_record):
    record = make_record(patient="CANARY-1", path="CANARY-2")
    record["sources"]["pet"] |= {"suv": {"kind": "bw", "tags": {"PatientWeight": "CANARY-3"}}, "file": "CANARY-4"}
    assert "CANARY" not in report(tmp_path / "r.html", volumes, record)


@pytest.mark.parametrize("registration", [None, "skipped", "refused"])
def test_a_case_without_a_registration(tmp_path, volumes, registration, read_page, make_record):
    made = {"performed": registration == "refused", "accepted": registration == "skipped", "reasons": ["a reason"]}
    record = make_record(registration=made if registration else None)
    page = read_page(report(tmp_path / "r.html", volumes, record))
    assert "As the images were fused" in page.text
    assert "below registered" not in read_page(report(tmp_path / "b.html", volumes, record, before=lambda: PET)).text
    assert "below registered" not in page.text
    assert ("The registration was refused: a reason." in page.text) == (registration == "refused")


def test_a_registration_is_shown_before_and_after(tmp_path, volumes, text, read_page, make_record):
    assert "As the images were fused" in read_page(text).text  # it lay outside
    after = report(tmp_path / "r.html", volumes, make_record(), before=lambda: PET)
    assert "Above as the PET lay, below registered." in read_page(after).text
    assert len(after) > len(text)


@pytest.mark.parametrize(
    ("blend", "said"),
    [
        ("luma", "the palette of the PET lies over the fused structure"),
        ("alpha", "the palette of the PET is mixed with the MRI, half of each"),
    ],
)
def test_the_caption_says_how_the_colours_were_made(tmp_path, volumes, read_page, make_record, blend, said):
    colours = ColourFusion("HOT_IRON", blend)
    assert said in read_page(report(tmp_path / "r.html", volumes, make_record(), colours=colours)).text


def test_residuals_in_float16_are_drawn(tmp_path, volumes, make_record):
    """They are kept in 16 bit, whose largest number is 65504."""
    left = np.linspace(-3, 3, np.prod(SHAPE), dtype=np.float16).reshape(SHAPE)
    shown = report(tmp_path / "a.html", volumes, make_record(), residuals=(left, None))
    assert shown == report(tmp_path / "b.html", volumes, make_record(), residuals=(left.astype(np.float32), None))


def test_doubts_of_a_registration_and_a_known_truth_are_shown(tmp_path, volumes, read_page, make_record):
    record = make_record()
    record["registration"] = {**record["registration"], "warnings": ["another place fits nearly as well"]}
    record["sources"]["mri"]["against_truth"] = {"psnr": 31.256, "ssim": 0.98765}
    shown = read_page(report(tmp_path / "r.html", volumes, record)).text
    assert "Doubts" in shown and "another place fits nearly as well" in shown
    assert "31.26 dB, SSIM 0.9877" in shown


def test_a_case_without_degradation_offers_each_volume_once(tmp_path, volumes, read_page, make_record):
    record = make_record(degradation={"version": 1, "name": "none", "origin": "given"})
    record["sources"]["pet"]["residual_chi2"] = None
    changes = {"residuals": (None, None), "restored": volumes["sources"]}
    page = read_page(report(tmp_path / "r.html", volumes, record, **changes))
    assert len(page.all("img")) == 2
    assert [v["key"] for v in config(page)["volumes"]] == ["mri", "fused", "colour", "weight", "pet"]
    assert "fused, not restored" in page.text
    assert "none: nothing was restored" in page.text
    assert "Max, given" in page.text and "Max, restored" not in page.text  # it would be said twice


def test_labels_have_rows(tmp_path, volumes, read_page, make_record):
    record = make_record()
    figures = {"mean": 3.0, "max": 4.0, "peak": None}
    record["sources"]["pet"]["regions"].append({"label": 2, "volume_ml": 1.5, "given": figures, "restored": figures})
    assert "Label 2" in read_page(report(tmp_path / "r.html", volumes, record)).text


def test_bad_input_is_refused_and_leaves_nothing(tmp_path, volumes, make_record):
    with pytest.raises(ImageError, match="two sources"):
        report(tmp_path / "r.html", volumes, make_record(sources={}))
    with pytest.raises(GeometryError):
        report(tmp_path / "r.html", volumes, make_record(), fused=np.zeros((2, 2, 2)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [96, 16])
def test_viewer_volumes_keep_place_and_values(size):
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1)
    world = grid @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    volume = (world @ [0.3, -0.2, 0.5]).astype(np.float32)
    image = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(nifti_base64(volume, AFFINE, size))))
    assert image.shape == tuple(min(n, size) for n in SHAPE)
    assert image.get_data_dtype() == np.uint8
    inner = np.stack(np.meshgrid(*[np.arange(3, n - 3) for n in image.shape], indexing="ij"), -1)
    place = inner @ image.affine[:3, :3].T + image.affine[:3, 3]
    values = image.get_fdata()[3:-3, 3:-3, 3:-3]
    assert np.abs(values - place @ [0.3, -0.2, 0.5]).max() < 1.5 * np.ptp(volume) / 255


def test_markup_escapes_text_and_attributes():
    assert element("p", HOSTILE, title=HOSTILE).count("<") == 2
    assert element("p", Markup("<b>x</b>")) == "<p><b>x</b></p>"
    assert json.loads(re.sub(r"<.*?>", "", json_block("x", {"a": HOSTILE}))) == {"a": HOSTILE}
    assert "</script>" not in json_block("x", HOSTILE).removesuffix("</script>")


def test_group_page_lists_cases_and_escapes(tmp_path, read_page, make_record):
    refused = make_record(case="b", registration={"performed": True, "accepted": False, "reasons": ["too far"]})
    records = [refused, make_record(case="a"), make_record(case=HOSTILE)]
    others = {"failures": {"c": "no weight", "d": HOSTILE}, "previews": {"a": b"picture", HOSTILE: b"other"}}
    save_group_page(tmp_path / "index.html", records, **others)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    page = read_page(text)
    assert page.open == []
    assert page.text.count(NOTICE) >= 2
    assert len(page.all("script")) == 1
    targets = [a["href"] for a in page.all("a") if a["href"] != "#content"]
    assert (targets[0], targets[2]) == ("./b/b_report.html", "./a/a_report.html")  # with a warning, then by name
    assert all(t.startswith("./") and "<" not in t for t in targets)
    assert "too far" in page.text
    assert "c: no weight" in page.text
    assert {(p["src"], len(p["alt"]) > 40) for p in page.all("img")} == {
        ("data:image/jpeg;base64," + base64.b64encode(picture).decode(), True) for picture in (b"picture", b"other")
    }
    save_group_page(tmp_path / "again.html", records[::-1], **others)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == text


def test_group_page_of_sparse_records(tmp_path, read_page):
    save_group_page(tmp_path / "index.html", [])
    assert "0 cases" in (tmp_path / "index.html").read_text()
    save_group_page(tmp_path / "index.html", [{"case": "x"}, {"case": "y", "sources": {"mri": {}, "pet": {}}}])
    assert read_page((tmp_path / "index.html").read_text()).open == []
