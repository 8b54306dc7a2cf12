from __future__ import annotations

from itertools import combinations

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from medfuse import NOTICE
from medfuse.errors import GeometryError, ImageError
from medfuse.fusion.color import fuse_color, to_uint8
from medfuse.report.paper import PAPER, Panel, Paper, numbers
from medfuse.report.qc import _mosaic, save_contact_sheet, save_mosaic, save_preview

SHAPE = (20, 24, 16)


def call(**changes):
    rng = np.random.default_rng(0)
    volume = rng.random(SHAPE, dtype=np.float32)
    arguments = {
        "sources": (volume, 5 * volume),
        "restored": (volume, 5 * volume),
        "fused": volume,
        "rgb": to_uint8(fuse_color(volume, volume)),
        "affine": np.diag([1.0, 1.0, 3.0, 1.0]),
        "units": ("a.u.", "SUV"),
        "title": "case-1",
    }
    return {**arguments, **changes}


@pytest.fixture
def drawn(monkeypatch):
    """Keep what reaches the layout, and the sheet it makes."""
    seen = {}

    def spy(*arguments):
        seen["arguments"] = arguments
        seen["paper"] = _mosaic(*arguments)
        return seen["paper"]

    monkeypatch.setattr("medfuse.report.qc._mosaic", spy)
    return seen


def test_mosaic_is_a_wide_png_and_repeats(tmp_path):
    for name in ("a.png", "b.png"):
        save_mosaic(tmp_path / name, **call(weight=np.full(SHAPE, 0.5), notes=["noise"]))
    picture = Image.open(tmp_path / "a.png")
    assert picture.width == 1800
    assert 500 < picture.height <= 1200
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert picture.text["Comment"] == NOTICE


def test_units_letters_and_footer_are_written(tmp_path, drawn):
    save_mosaic(tmp_path / "a.png", **call(title="50 $ a $"))
    paper = drawn["paper"]
    texts = [t.text for t in paper.texts] + [text for panel in paper.panels for text in panel.texts]
    assert any(t.startswith("PET [SUV]   maximum ") for t in texts)
    assert {"Fused, dimensionless", "MRI [a.u.]", NOTICE, "50 $ a $", *"LRAPSI"} <= set(texts)
    assert "radiological convention" in texts
    assert paper.bars == 4  # with their numbers


def test_planes_meet_in_the_highest_uptake_away_from_the_border(tmp_path, drawn):
    pet = np.zeros(SHAPE)
    pet[5, 14, 9] = 3
    pet[0, 0, 0] = 9
    save_mosaic(tmp_path / "a.png", **call(restored=(pet + np.arange(16), pet)))
    np.testing.assert_array_equal(drawn["arguments"][2].centre, [5, 14, 9])
    save_mosaic(tmp_path / "a.png", **call(voxel=(1, 2, 3)))
    np.testing.assert_array_equal(drawn["arguments"][2].centre, [1, 2, 3])


@pytest.mark.parametrize("convention", ["radiological", "neurological"])
@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "LAS", "SAL", "PIR"])
def test_right_side_is_where_the_letter_says(tmp_path, drawn, convention, axcodes):
    """A spot on the right, in front and above, however the volume is stored."""
    spot = np.zeros(SHAPE, np.float32)
    spot[17, 20, 12] = 1
    image = nib.Nifti1Image(spot, np.diag([1.0, 1.0, 3.0, 1.0]))
    image = image.as_reoriented(nib.orientations.axcodes2ornt(axcodes))
    assert nib.aff2axcodes(nib.as_closest_canonical(image).affine) == tuple("RAS")
    spot = np.asarray(image.dataobj)
    save_mosaic(
        tmp_path / "a.png",
        sources=(spot, spot),
        restored=(spot, spot),
        fused=spot,
        rgb=np.repeat(spot[..., None], 3, -1),
        affine=image.affine,
        voxel=np.unravel_index(spot.argmax(), spot.shape),
        convention=convention,
    )
    np.testing.assert_array_equal(drawn["arguments"][2].centre, [17, 20, 12])
    for panel, letters in zip(lettered(drawn["paper"]), ("RA", "RS", "AS"), strict=True):
        row, column = np.unravel_index(panel.image.argmax(), panel.image.shape)
        at_right = panel.texts[letters[0]][0] == 1
        assert at_right == (convention == "neurological") == (column > panel.image.shape[1] / 2)
        assert panel.texts[letters[1]][1] == 0
        assert row < panel.image.shape[0] / 2  # rows count from above
        left, top, width, height = panel.pixels
        shown = np.asarray(Image.open(tmp_path / "a.png")).astype(int)[top : top + height, left : left + width]
        spot = (shown.min(-1) > 200) & (np.ptp(shown, axis=-1) == 0)  # white; letters and marks are blue
        y, x = np.argwhere(spot).mean(0) / spot.shape
        assert (x > 0.5, y < 0.5) == (at_right, True)


def lettered(paper):
    """Return the panels of the first column: those with letters."""
    return [panel for panel in paper.panels if len(panel.texts) == 4]


def test_proportions_follow_the_voxel_size(tmp_path, drawn):
    save_mosaic(tmp_path / "a.png", **call())
    for panel, (right, up) in zip(lettered(drawn["paper"]), ((20, 24), (20, 48), (24, 48)), strict=True):
        assert panel.width / panel.height == pytest.approx(right / up, rel=1e-6)
        assert panel.pixels[2] / panel.pixels[3] == pytest.approx(right / up, rel=0.02)


def test_tensors_and_constant_volumes_are_drawn(tmp_path):
    flat = torch.zeros(SHAPE)
    save_mosaic(
        tmp_path / "a.png",
        **call(sources=(flat, flat), restored=(flat, flat), fused=flat, rgb=torch.zeros(*SHAPE, 3), weight=flat),
    )
    assert (tmp_path / "a.png").exists()


def test_what_is_no_number_is_shown_as_the_empty_sheet():
    paper = Paper(8, 8)
    panel = Panel(0, 0, 8, 8)
    image = np.array([[np.nan, 1.0], [np.inf, -np.inf]])
    white = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    paper.show(panel, image, white, (0.0, 1.0), Image.Resampling.NEAREST)
    shown = np.asarray(paper.picture.convert("RGB"))[::4, ::4]
    empty = list(ImageColor.getrgb(PAPER))
    assert shown.tolist() == [[empty, [255, 255, 255]], [[255, 255, 255], [0, 0, 0]]]
    paper.show(panel, np.full((2, 2), 3.0), white, (3.0, 3.0))  # a window without width
    assert np.asarray(paper.picture.convert("RGB")).max() == 0


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"fused": np.zeros((2, 2, 2))}, GeometryError),
        ({"rgb": np.zeros(SHAPE)}, GeometryError),
        ({"sources": (np.zeros((4, 4)),) * 2}, GeometryError),
        ({"affine": np.zeros((4, 4))}, GeometryError),
        ({"affine": np.eye(3)}, GeometryError),
        ({"affine": np.full((4, 4), np.nan)}, GeometryError),
        ({"voxel": (0, 0, 16)}, GeometryError),
        ({"voxel": (-1, 0, 0)}, GeometryError),
        ({"fused": np.full(SHAPE, np.nan)}, ImageError),
        ({"convention": "left"}, ImageError),
        ({"pet_window": (3, 1)}, ImageError),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(tmp_path, changes, error):
    with pytest.raises(error):
        save_mosaic(tmp_path / "a.png", **call(**changes))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("thickness", [0.4, 3.0, 12.0])
@pytest.mark.parametrize("title", ["a", "a-very-long-name-of-a-case-" * 4])
def test_no_text_is_cut_off_or_covers_another(tmp_path, drawn, thickness, title):
    notes = ["Degradation: composite (given), 3 steps", "Residual chi-square: MRI 0.72, PET 0.55"]
    affine = np.diag([1.0, 1.0, thickness, 1.0])
    volume = np.linspace(0, 54063, np.prod(SHAPE)).reshape(SHAPE)
    changes = {"sources": (volume, volume), "restored": (volume, volume), "units": ("a.u.", "Bq/ml")}
    save_mosaic(tmp_path / "a.png", **call(title=title, notes=notes, affine=affine, weight=volume, **changes))
    paper = drawn["paper"]
    assert len(paper.texts) > 25  # with the numbers of the bars
    assert [t for t in paper.texts if min(t.box[:2]) < 0 or t.box[2] > paper.width or t.box[3] > paper.height] == []
    assert [pair for pair in combinations(paper.texts, 2) if overlap(*(text.box for text in pair))] == []


def overlap(one, other):
    return all(one[i] < other[i + 2] and other[i] < one[i + 2] for i in range(2))


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0, 0.5, 1], ["0.0", "0.5", "1.0"]),
        ([0, 200, 400], ["0", "200", "400"]),
        ([-0.02, -0.01, 0.0], ["\N{MINUS SIGN}0.02", "\N{MINUS SIGN}0.01", "0.00"]),
        ([0.1 + 0.2, 0.4, 0.5], ["0.3", "0.4", "0.5"]),
        ([0, 1e6, 2e6], ["0", "1e+06", "2e+06"]),
        ([0, 2.5e-6, 5e-6], ["0", "2.5e\N{MINUS SIGN}06", "5e\N{MINUS SIGN}06"]),
        ([1000000, 1000010], ["1e+06", "1.00001e+06"]),
        ([3.0], ["3"]),
        ([], []),
    ],
)
def test_numbers_of_a_bar_are_those_of_its_places(values, texts):
    assert numbers(values) == texts


def test_a_title_stays_legible_beside_long_notes(tmp_path, drawn):
    save_mosaic(tmp_path / "a.png", **call(title="case", notes=["a warning that is long " * 3] * 3))
    paper = drawn["paper"]
    title = next(text.box for text in paper.texts if text.text == "case")
    assert title[3] - title[1] > 12
    assert all(text.box[0] >= 0 and not overlap(title, text.box) for text in paper.texts if text.box != title)


def test_preview_shows_an_axial_plane_three_times(tmp_path):
    arguments = {k: v for k, v in call().items() if k in ("sources", "restored", "rgb", "affine")}
    for name in ("a.jpg", "b.jpg"):
        save_preview(tmp_path / name, pet_window=(0.0, 5.0), **arguments)
    picture = Image.open(tmp_path / "a.jpg")
    assert picture.size == (360, 120)
    assert picture.info["comment"].decode() == NOTICE
    grey, colour = (np.asarray(picture).astype(int)[:, left : left + 120] for left in (0, 120))
    assert np.ptp(grey, axis=-1).mean() < 20 < np.ptp(colour, axis=-1).mean()
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()
    assert (tmp_path / "a.jpg").stat().st_size < 30_000


def test_contact_sheet(tmp_path):
    grey, colour = np.random.default_rng(0).random((40, 30)), np.random.default_rng(1).random((20, 30, 3))
    rows = [("a", [grey, colour, torch.as_tensor(grey)]), ("b", [grey, grey, 2 * grey - 0.5])]
    save_contact_sheet(tmp_path / "a.png", rows, ["one", "two", "three"], title="t", notes=["n"])
    picture = Image.open(tmp_path / "a.png")
    assert 700 < picture.width <= 1800
    assert picture.text["Comment"] == NOTICE


@pytest.mark.parametrize(
    ("rows", "titles", "error"),
    [
        ([], ["one"], ImageError),
        ([("a", [np.ones((2, 2))])], [], ImageError),
        ([("a", [np.ones((2, 2))])], ["one", "two"], GeometryError),
        ([("a", [np.ones(4)])], ["one"], GeometryError),
        ([("a", [np.full((2, 2), np.nan)])], ["one"], ImageError),
    ],
)
def test_bad_contact_sheet_is_refused(tmp_path, rows, titles, error):
    with pytest.raises(error):
        save_contact_sheet(tmp_path / "a.png", rows, titles)
    assert not list(tmp_path.iterdir())
