"""Judging folders of fused images, from Python and from the command line."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medfuse import cli
from medfuse.errors import BundleError, GeometryError, ImageError, MedfuseError
from medfuse.evaluation import METHODS, _enlarge, evaluate_folders
from medfuse.fusion.color import fuse_color, rgb_to_ycbcr, to_uint8, ycbcr_to_rgb
from medfuse.metrics import METRICS, Images, floors, measure
from medfuse.metrics.summary import interval

NAMES = ("a", "b", "c")
Folders = dict[str, Path]


def save(folder: Path, name: str, image: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.rint(image.clip(0, 255)).astype(np.uint8)).save(folder / f"{name}.png")


def load(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(np.float64)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)[None, None]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Three pairs of 36 x 40, degraded by noise, half restored, and the average of what was restored."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:36, 0:40]
    kinds = ("source1", "source2", "degraded1", "degraded2", "restored1", "restored2", "fused")
    for i, name in enumerate(NAMES):
        mri = 160.0 * ((y - 18) ** 2 + (x - 18 - 2 * i) ** 2 < 200) + 25 * np.sin(x / 2)
        pet = 220.0 * np.exp(-((y - 14) ** 2 + (x - 22) ** 2) / 70)
        clean = [np.rint(v.clip(0, 255)) for v in (mri, pet)]
        degraded = [v + rng.normal(0, 14 + 4 * i, v.shape) for v in clean]
        restored = [(v + d.clip(0, 255)) / 2 for v, d in zip(clean, degraded, strict=True)]
        fused = (restored[0] + restored[1]) / 2
        for kind, image in zip(kinds, (*clean, *degraded, *restored, fused), strict=True):
            save(tmp_path / kind, name, image)
    return {kind: tmp_path / kind for kind in kinds}


def plain(folders: Folders, out: Path, **options: object) -> dict:
    return evaluate_folders(folders["source1"], folders["source2"], folders["fused"], out, **options)


def everything(folders: Folders) -> dict[str, tuple[Path, Path]]:
    return {kind: (folders[f"{kind}1"], folders[f"{kind}2"]) for kind in ("restored", "degraded")}


# --------------------------------------------------------------------------------------------------------- what it says
def test_figures_are_those_of_the_metrics_of_what_was_written(folders, tmp_path):
    record = plain(folders, tmp_path / "out", **everything(folders))
    assert record["images"] == 3
    images = {kind: tensor(load(folder / "b.png")) for kind, folder in folders.items()}
    judged = Images.of(
        images["fused"], images["source1"], images["source2"], data_range=255.0,
        degraded=(images["degraded1"], images["degraded2"]), restored=(images["restored1"], images["restored2"]),
    )  # fmt: skip
    expected = {name: float(value) for name, value in measure(judged).items()}
    assert record["per_image"][1]["fused"] == pytest.approx(expected)
    assert set(record["metrics"]) == set(expected)
    for name, copy in floors(images["source1"], images["source2"]).items():
        value = measure(Images.of(copy, images["source1"], images["source2"], data_range=255.0), ["QG", "VIF"])
        for metric, number in value.items():
            assert record["per_image"][1][name][metric] == pytest.approx(float(number))


def test_files_hold_what_is_returned(folders, tmp_path):
    record = plain(folders, tmp_path / "out", **everything(folders))
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == record
    assert record["notice"].startswith("Research use only")
    with (tmp_path / "out" / "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["method"], r["name"]) for r in rows] == [(m, n) for m in METHODS for n in NAMES]
    for row in rows:
        values = record["per_image"][NAMES.index(row["name"])][row["method"]]
        for metric in record["metrics"]:
            value = values.get(metric)
            assert row[metric] == ("" if value is None else repr(value))
    with Image.open(tmp_path / "out" / "evaluation.png") as picture:
        assert picture.width >= 760
        assert picture.height > 3 * 100
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"evaluation.{s}" for s in ("csv", "json", "png")]


def test_means_leave_out_what_is_not_defined_and_count_the_rest(folders, tmp_path):
    save(folders["fused"], "a", load(folders["source1"] / "a.png"))
    record = plain(folders, tmp_path / "out")
    assert record["per_image"][0]["fused"]["SCD"] is None
    scd = record["summary"]["fused"]["SCD"]
    values = [image["fused"]["SCD"] for image in record["per_image"][1:]]
    assert scd["n"] == 2
    assert scd["mean"] == pytest.approx(np.mean(values))
    assert scd["std"] == pytest.approx(np.std(values, ddof=1))
    assert "SCD" not in record["summary"]["copy"]
    assert record["summary"]["copy"]["SSIM_1"]["mean"] == pytest.approx(1)


def test_floors_are_in_the_table_without_the_restoration_that_they_have_not(folders, tmp_path):
    record = plain(folders, tmp_path / "out", **everything(folders))
    for method in METHODS[1:]:
        names = set(record["summary"][method])
        assert {"SSIM_min", "QabfW", "QG", "leak_1"} <= names
        assert not names & {"gain_1", "gain_min", "r1_PSNR", "r2_SSIM", "d1_PSNR"}
    assert record["summary"]["average"]["leak_1"]["mean"] == pytest.approx(0, abs=1e-6)
    assert record["summary"]["fused"]["leak_1"]["mean"] == pytest.approx(0.5, abs=0.1)
    assert record["summary"]["fused"]["gain_1"]["mean"] == pytest.approx(6, abs=0.1)


def test_only_what_was_given_is_judged(folders, tmp_path):
    record = plain(folders, tmp_path / "out", restored=(None, folders["restored2"]))
    assert record["given"] == ["fused", "restored2", "source1", "source2"]
    assert {"r2_PSNR", "r2_SSIM"} <= set(record["metrics"])
    assert not {"r1_PSNR", "gain_2", "leak_1", "dE00"} & set(record["metrics"])


@pytest.mark.parametrize("factor", [2, 4])
def test_a_smaller_degraded_source_is_enlarged_for_its_psnr_and_has_no_leakage(folders, tmp_path, factor):
    for name in NAMES:
        pet = load(folders["source2"] / f"{name}.png")
        small = pet.reshape(36 // factor, factor, 40 // factor, factor).mean((1, 3))
        save(folders["degraded2"], name, small)
    record = plain(folders, tmp_path / "out", **everything(folders))
    assert not [n for n in record["metrics"] if n.startswith(("leak_", "deg_"))]
    with Image.open(folders["degraded2"] / "a.png") as image:
        large = np.asarray(
            Image.fromarray(np.asarray(image).astype(np.float32)).resize((40, 36), Image.Resampling.BICUBIC)
        )
    error = np.mean((large.clip(0, 255) - load(folders["source2"] / "a.png")) ** 2)
    assert record["per_image"][0]["fused"]["d2_PSNR"] == pytest.approx(10 * math.log10(255**2 / error), rel=1e-5)
    gain = record["per_image"][0]["fused"]
    assert gain["gain_2"] == pytest.approx(gain["r2_PSNR"] - gain["d2_PSNR"])


def test_enlarging_is_pillows_and_odd_sizes_are_cropped():
    small = np.random.default_rng(0).uniform(0, 255, (9, 11)).astype(np.float32)
    theirs = np.asarray(Image.fromarray(small).resize((44, 36), Image.Resampling.BICUBIC))
    ours = _enlarge(tensor(small.astype(np.float64)), (36, 44))[0, 0].numpy()
    assert np.abs(ours - theirs).max() < 1e-3
    cropped = _enlarge(tensor(small.astype(np.float64)), (34, 43))[0, 0].numpy()
    assert np.array_equal(cropped, ours[:34, :43])


@pytest.mark.parametrize("kind", ["16 bits", "npy"])
def test_other_depths_give_the_same(folders, tmp_path, kind):
    before = plain(folders, tmp_path / "out")
    for what in ("source1", "source2", "fused"):
        for name in NAMES:
            path = folders[what] / f"{name}.png"
            image = load(path)
            if kind == "npy":
                np.save(path.with_suffix(".npy"), (image / 255).astype(np.float32))
                path.unlink()
            else:
                Image.fromarray((image * 257).astype(np.uint16)).save(path)
    after = plain(folders, tmp_path / "other")
    for one, other in zip(before["per_image"], after["per_image"], strict=True):
        for metric, value in one["fused"].items():
            rounded = metric in ("QMI", "NCIE", "QCB", "QCV")  # ties of the stretch to 0..255 may fall the other way
            rel = 1e-12 if kind == "16 bits" else 1e-3 if rounded else 1e-4
            assert other["fused"][metric] == pytest.approx(value, rel=rel, abs=1e-6), metric


def test_colours_are_judged_where_both_have_them(folders, tmp_path):
    for name in NAMES:
        pet, fused = (load(folders[k] / f"{name}.png") / 255 for k in ("source2", "fused"))
        save(folders["source2"], name, 255.0 * fuse_color(pet * 0, pet))
        save(folders["fused"], name, 255.0 * fuse_color(fused, pet))
    record = plain(folders, tmp_path / "out")
    assert {"dE00", "dE00_pet", "dH_deg", "leakC"} <= set(record["metrics"])
    reference = load(folders["source2"] / "a.png")
    luma = tensor(rgb_to_ycbcr(reference)[..., 0])
    values = record["per_image"][0]
    expected = measure(
        Images.of(tensor(rgb_to_ycbcr(load(folders["fused"] / "a.png"))[..., 0]), tensor(mri_of(folders)), luma,
                  data_range=255.0), ["SSIM_2", "QG"]
    )  # fmt: skip
    for name, number in expected.items():
        assert values["fused"][name] == pytest.approx(float(number))
    floor = np.maximum(mri_of(folders), rgb_to_ycbcr(reference)[..., 0])
    ycbcr = np.concatenate([floor[..., None], rgb_to_ycbcr(reference)[..., 1:]], -1)
    shown = to_uint8(ycbcr_to_rgb(ycbcr) / 255).astype(np.float64)
    planes = [torch.from_numpy(v).permute(2, 0, 1)[None] for v in (reference, shown)]
    expected_floor = measure(
        Images.of(tensor(floor), tensor(mri_of(folders)), luma, data_range=255.0, colours=(planes[0], planes[1])),
        ["dE00_pet"],
    )
    assert values["maximum"]["dE00_pet"] == pytest.approx(float(expected_floor["dE00_pet"]), rel=0.05)


def mri_of(folders: Folders) -> np.ndarray:
    return load(folders["source1"] / "a.png")


# ------------------------------------------------------------------------------------------------------------ intervals
def test_intervals_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        low, high = interval(rng.normal(3, 1, 40), [str(i) for i in range(40)], 500)
        hits += low <= 3 <= high
    assert 0.88 <= hits / 200 <= 0.98


def test_images_of_one_subject_count_together():
    values = np.repeat([0.0, 1.0, 2.0, 3.0], 10)
    alone, together = (
        interval(values, owners, 2000) for owners in ([str(i) for i in range(40)], [str(i // 10) for i in range(40)])
    )
    assert together[1] - together[0] > 2.5 * (alone[1] - alone[0])
    assert interval(values, ["one"] * 40, 100) == (None, None)


@pytest.mark.parametrize(("suffix", "mark"), [("tsv", "\t"), ("csv", ",")])
def test_subjects_are_read_from_a_table(folders, tmp_path, suffix, mark):
    table = tmp_path / f"subjects.{suffix}"
    lines = [("plane", "name", "subject"), ("x", "a", "s1"), ("x", "b", "s2"), ("x", "c", "s2"), ("x", "other", "s3")]
    table.write_text("\n".join(mark.join(row) for row in lines) + "\n")
    record = plain(folders, tmp_path / "out", subjects=table)
    assert record["subjects"] == 2
    assert record["intervals"]["unit"] == "subject"
    assert [image["subject"] for image in record["per_image"]] == ["s1", "s2", "s2"]
    low, high = (record["summary"]["fused"]["SSIM"][k] for k in ("lo", "hi"))
    values = [image["fused"]["SSIM"] for image in record["per_image"]]
    ends = sorted((values[0], (values[1] + values[2]) / 2))
    assert (low, high) == pytest.approx(tuple(ends))  # only s1, or only s2, in more than 2.5 % of the resamples


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,subject\na,1\n", "columns name and subject"),
        ("name,subject\na,1\nb,2\n", "got none for 1: c"),
        ("name,subject\na,1\nb,2\nc,\n", "one subject"),
        ("name,subject\na,1\nb,2\nc,3\na,2\n", "one subject"),
        (None, "must be a text file"),
    ],
)
def test_tables_of_subjects_that_do_not_fit_are_refused(folders, tmp_path, text, message):
    table = tmp_path / "subjects.csv"
    if text is not None:
        table.write_text(text)
    with pytest.raises(BundleError, match=message):
        plain(folders, tmp_path / "out", subjects=table)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------------- wrong input
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda f: (f["fused"] / "b.png").unlink(), BundleError, "without one in fused: b"),
        (lambda f: (f["restored2"] / "b.png").unlink(), BundleError, "without one in restored2: b"),
        (lambda f: [p.unlink() for p in f["degraded1"].iterdir()], BundleError, "degraded1 must hold images"),
        (lambda f: save(f["fused"], "c", np.zeros((36, 41))), GeometryError, "c: fused must be as large as source1"),
        (lambda f: save(f["source2"], "c", np.zeros((18, 20))), GeometryError, "c: source2 must be as large"),
        (
            lambda f: save(f["degraded2"], "c", np.zeros((12, 13))),
            GeometryError,
            "c: degraded2 must be as large as source1",
        ),
        (lambda f: f.__setitem__("restored2", f["fused"] / ".."), BundleError, "restored2 must hold images"),
        (
            lambda f: [save(f[k], "a", np.eye(16)) for k in ("source1", "source2", "fused")],
            GeometryError,
            "a: source1 must have at least 17 x 17",
        ),
        (
            lambda f: (f["fused"] / "a.png").unlink() or np.save(f["fused"] / "a.npy", np.full((36, 40), 90.0)),
            ImageError,
            "a: fused must be in 0..1",
        ),
    ],
)
def test_folders_that_do_not_fit_are_refused_and_nothing_is_written(folders, tmp_path, change, error, message):
    change(folders)
    with pytest.raises(error, match=message):
        plain(folders, tmp_path / "out", **everything(folders))
    assert not (tmp_path / "out").exists()


def test_all_images_that_cannot_be_judged_are_named_at_once(folders, tmp_path):
    for name in NAMES[1:]:
        (folders["fused"] / f"{name}.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"^b: fused/b.png must be .* Others: 1 \(c\)\.$"):
        plain(folders, tmp_path / "out")


def test_the_evaluation_of_other_sources_is_not_replaced(folders, tmp_path, capsys):
    """Of the same sources it is made anew, whatever fused them; of others it is lost only where that is asked for."""
    plain(folders, tmp_path / "out")
    save(folders["fused"], "a", np.full((36, 40), 9.0))
    record = plain(folders, tmp_path / "out")
    save(folders["source1"], "b", np.full((36, 40), 9.0))
    words = ["evaluate", "--out", tmp_path / "out"]
    words += [w for kind in ("source1", "source2", "fused") for w in (f"--{kind}", folders[kind])]
    assert cli.main([str(w) for w in words]) == 2
    assert "no evaluation of other clean sources" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == record
    assert cli.main([*map(str, words), "--replace"]) == 0
    (tmp_path / "out" / "evaluation.json").write_text("{")
    with pytest.raises(MedfuseError, match="no evaluation of other"):
        plain(folders, tmp_path / "out")


def test_a_folder_that_cannot_be_made_is_refused_before_work(folders, monkeypatch):
    monkeypatch.setattr("medfuse.evaluation._judge", lambda *_: pytest.fail("work has begun"))
    with pytest.raises(MedfuseError, match="a folder that can be written to"):
        plain(folders, folders["fused"] / "a.png" / "out")


def test_a_source_that_shows_nothing_is_judged(folders, tmp_path):
    for kind in ("source1", "degraded1", "restored1"):
        save(folders[kind], "a", np.zeros((36, 40)))
    record = plain(folders, tmp_path / "out", **everything(folders))
    assert record["per_image"][0]["fused"]["r1_PSNR"] == 100


def test_a_degraded_source_may_be_smaller_than_its_share(folders, tmp_path):
    """17 rows become 5 by a factor of 4, which is more than a quarter of them."""
    for kind, folder in folders.items():
        small = kind == "degraded2"
        for name in NAMES:
            save(
                folder,
                name,
                load(folder / f"{name}.png")[:17:4, :20:4] if small else load(folder / f"{name}.png")[:17, :20],
            )
    record = plain(folders, tmp_path / "out", **everything(folders))
    assert math.isfinite(record["summary"]["fused"]["d2_PSNR"]["mean"])


def test_results_do_not_go_into_the_folder_of_the_images(folders):
    with pytest.raises(MedfuseError, match="a folder of its own"):
        plain(folders, folders["fused"])


# --------------------------------------------------------------------------------------------------------- command line
@pytest.fixture
def command(folders: Folders, tmp_path: Path) -> Callable[..., list[str]]:
    def build(*kinds: str) -> list[str]:
        words = ["evaluate", "--out", str(tmp_path / "out")]
        for kind in ("source1", "source2", "fused", *kinds):
            words += [f"--{kind}", str(folders[kind])]
        return words

    return build


def test_the_command_prints_the_primary_metrics_beside_the_floors(command, tmp_path, capsys):
    assert cli.main(command("restored1", "restored2", "degraded1", "degraded2")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["mean", "fused", "95", "%", "interval", "copy", "average", "maximum", "better"]
    table = {line.split()[0]: line.split()[1:] for line in lines[1:-2]}
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert {"SSIM_min", "QabfW", "leak_1", "gain_2"} <= set(table)
    for name, cells in table.items():
        assert cells[0] == f"{record['summary']['fused'][name]['mean']:.4f}"
        assert cells[-1] == {1: "higher", -1: "lower"}[METRICS[name].direction]
    assert table["SSIM_min"][4] == f"{record['summary']['copy']['SSIM_min']['mean']:.4f}"
    assert table["gain_2"][4:7] == ["-", "-", "-"]
    assert lines[-1].startswith("Research use only")


def test_the_command_refuses_wrong_input_in_one_line(command, folders, tmp_path, capsys):
    (folders["fused"] / "a.png").unlink()
    assert cli.main(command()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "without one in fused: a" in error
    assert not (tmp_path / "out").exists()
    assert cli.main([*command(), "--device", "abacus"]) == 2
    assert "--device must be" in capsys.readouterr().err


def test_one_image_has_nointerval(command, folders, capsys):
    for folder in folders.values():
        for name in ("b", "c"):
            (folder / f"{name}.png").unlink()
    assert cli.main(command()) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("SSIM_min"))
    assert line.split()[2] == "-"
