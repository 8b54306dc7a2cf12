"""The infrared-visible bundle, as the command line and MONAI's own command run it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import verify_net_in_out
from PIL import Image

from medfuse import cli
from medfuse.bundles import bundle_dir, bundle_metadata, load_spec, preset_path, share_dir
from medfuse.errors import BundleError, known_error
from medfuse.fusion.color import rgb_to_ycbcr
from medfuse.inferers import uses_bfloat16
from medfuse.io import read_image, write_image
from medfuse.pipeline import load_workflow, run_bundle

BUNDLE = bundle_dir("ir_vis_fusion")
KINDS = ("fused", "source1", "source2", "weight")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Return a copy of the bundle."""
    folder = tmp_path_factory.mktemp("bundles") / BUNDLE.name
    shutil.copytree(BUNDLE, folder)
    return folder


def write_pairs(folder: Path) -> Path:
    """Three pairs: colour, grey, and colour of another, odd size with an infrared image half as large."""
    rng = np.random.default_rng(0)
    colours = {"colour": (1.0, 0.5, 0.2), "grey": (0.8, 0.8, 0.8), "odd": (0.1, 0.4, 1.0)}
    for name, colour in colours.items():
        height, width = (47, 70) if name == "odd" else (48, 64)
        for source, factor in (("visible", 1), ("infrared", 2 if name == "odd" else 1)):
            y, x = np.mgrid[0:height:factor, 0:width:factor]
            centre = 20 if source == "visible" else 40
            disc = 40 + 150 * ((y - 24) ** 2 + (x - centre) ** 2 < 200) + rng.normal(0, 5, y.shape)
            image = disc[..., None] * np.array(colour) if source == "visible" and name != "grey" else disc
            (folder / source).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / source / f"{name}.png")
    return folder


@pytest.fixture
def data(tmp_path) -> Path:
    return write_pairs(tmp_path / "data")


def images(bundle: Path, data: Path, out: Path, *extra: str) -> int:
    sources = ["--source1", str(data / "visible"), "--source2", str(data / "infrared")]
    return cli.main(["images", "--bundle", str(bundle), *sources, "--out", str(out), *extra])


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_command_line_and_monai_write_the_same_bytes(bundle, data, tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    assert images(bundle, data, one, "--degradation", "noise", "--steps", "1") == 0
    assert "megapixels per second" in capsys.readouterr().out
    overlay = preset_path("noise", "ir_vis_fusion")
    command = [
        sys.executable, "-m", "monai.bundle", "run", "inference", "--bundle_root", str(bundle),
        "--config_file", str([str(bundle / "configs" / "inference.json"), str(overlay)]),
        "--dataset_dir", str(data), "--output_dir", str(two), "--steps", "1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "megapixels per second" in done.stdout + done.stderr
    written = sorted(p.relative_to(one) for p in one.rglob("*.png"))
    assert written == sorted(p.relative_to(two) for p in two.rglob("*.png")) and len(written) == 13
    assert all((one / path).read_bytes() == (two / path).read_bytes() for path in written)
    records = [json.loads((out / "images.json").read_text()) for out in (one, two)]
    assert records[0]["speed"]["megapixels"] == pytest.approx((2 * 48 * 64 + 47 * 70) / 1e6)
    for record in records:
        assert record.pop("speed")["megapixels_per_second"] > 0
    assert records[0] == records[1]
    assert records[0]["settings"] == {
        "correction": "cut",
        "fusion_rule": "predicted",
        "views": 1,
        "settle": [None, None],
        "patches": 4,
        "balance": 6,
    }


def test_what_was_not_degraded_comes_back_in_its_colours_and_source_1_is_the_visible(bundle, data, tmp_path):
    assert images(bundle, data, tmp_path / "out", "--steps", "1") == 0
    for name in ("colour", "grey", "odd"):
        visible = pixels(data / "visible" / f"{name}.png")
        assert np.array_equal(pixels(tmp_path / "out" / "source1" / f"{name}.png"), visible)
        fused, infrared, weight = (pixels(tmp_path / "out" / k / f"{name}.png") for k in ("fused", "source2", "weight"))
        assert fused.shape == visible.shape and infrared.shape == weight.shape == visible.shape[:2]
        if name != "odd":
            assert np.array_equal(infrared, pixels(data / "infrared" / f"{name}.png"))
        if name != "grey":
            (_, b0, r0), (_, b1, r1) = (np.moveaxis(rgb_to_ycbcr(image / 255), -1, 0) for image in (visible, fused))
            coloured = np.hypot(b0, r0) > 0.05
            turned = np.degrees(np.arctan2(r1, b1) - np.arctan2(r0, b0))[coloured]
            assert coloured.mean() > 0.2 and np.abs((turned + 180) % 360 - 180).mean() < 2


def test_noise_is_removed_from_luma_and_chroma(bundle, tmp_path):
    y, x = np.mgrid[0:64, 0:96]
    clean = np.stack([0.3 + 0.4 * (x > 40), 0.5 + 0 * x, 0.7 - 0.4 * (y > 30)], -1) * 255
    noisy = clean + np.random.default_rng(1).normal(0, 255 * 0.003**0.5, clean.shape)
    for folder, image in (("visible", noisy), ("infrared", noisy[..., 0]), ("clean", clean)):
        (tmp_path / folder).mkdir()
        Image.fromarray(image.round().clip(0, 255).astype(np.uint8)).save(tmp_path / folder / "a.png")
    truth = ["--truth1", str(tmp_path / "clean")]
    assert images(bundle, tmp_path, tmp_path / "out", "--degradation", "noise", *truth) == 0
    before, after = (
        rgb_to_ycbcr(pixels(path) / 255) - rgb_to_ycbcr(clean / 255)
        for path in (tmp_path / "visible" / "a.png", tmp_path / "out" / "source1" / "a.png")
    )
    assert (after.std((0, 1)) < 0.75 * before.std((0, 1))).all()
    figures = json.loads((tmp_path / "out" / "images.json").read_text())["against_truth"]["source1"]
    error = pixels(tmp_path / "out" / "source1" / "a.png") / 255 - pixels(tmp_path / "clean" / "a.png") / 255
    assert figures["psnr"] == pytest.approx(-10 * np.log10((error**2).mean()), abs=1e-3)


def test_a_blur_that_the_images_disprove_is_told_of(bundle, tmp_path, caplog):
    for told, said in (("blur", 2), ("none", 0)):
        caplog.clear()
        assert images(bundle, BUNDLE / "demo", tmp_path / told, "--degradation", told, "--steps", "1") == 0
        warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert sum("of street shows finer detail than its stated blur lets through" in text for text in warned) == said


def test_a_power_is_undone_for_both_sources_and_a_smaller_one(bundle, tmp_path):
    y, x = np.mgrid[:48, :64] / 64
    visible = np.stack([0.2 + 0.6 * x, 0.5 + 0.3 * np.sin(9 * y), 0.7 - 0.4 * y], -1)
    infrared = (0.1 + 0.8 * x)[::2, ::2]
    for folder, image in (("visible", visible**0.8), ("infrared", infrared**1.5)):
        write_image(tmp_path / folder / "a.png", image, bits=16)
    spec = {"version": 1, "source1": [{"gamma": {"exponent": 0.8}}], "source2": [{"gamma": {"exponent": 1.5}}]}
    (tmp_path / "power.yaml").write_text(json.dumps({"degradation": spec}))
    options = ["--degradation", str(tmp_path / "power.yaml"), "--steps", "1"]
    assert images(bundle, tmp_path, tmp_path / "out", *options) == 0
    restored, second = (read_image(tmp_path / "out" / f"source{n}" / "a.png", color=n == 1).array for n in (1, 2))
    assert np.abs(restored - visible).max() < 1e-4
    assert np.abs(second.reshape(24, 2, 32, 2).mean((1, 3)) - infrared).max() < 0.01


def test_results_are_as_deep_as_the_deeper_source(bundle, tmp_path):
    rng = np.random.default_rng(0)
    for folder, image in (("visible", rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)),
                          ("infrared", rng.integers(0, 65536, (32, 40), dtype=np.uint16))):  # fmt: skip
        write_image(tmp_path / folder / "a.png", image / np.iinfo(image.dtype).max, bits=8 * image.itemsize)
    assert images(bundle, tmp_path, tmp_path / "out", "--steps", "1") == 0
    for kind, shape in (("fused", (32, 40, 3)), ("source1", (32, 40, 3)), ("source2", (32, 40))):
        written = read_image(tmp_path / "out" / kind / "a.png", color=True)
        assert (written.bits, written.array.shape) == (16, shape)
    restored = read_image(tmp_path / "out" / "source1" / "a.png", color=True).array
    assert np.abs(restored - read_image(tmp_path / "visible" / "a.png", color=True).array).max() < 1e-4


def test_what_changes_where_a_level_is_wrong_is_told_of_each_pair(bundle, data, tmp_path):
    """Of each pair and source there is what 20 % less and 20 % more change; values: tests/test_sensitivity.py."""
    spec = tmp_path / "noise.yaml"
    spec.write_text("version: 1\nsource1:\n  - noise: {sigma: 0.1}\n")
    assert images(bundle, data, tmp_path / "out", "--degradation", str(spec), "--sensitivity") in (0, None)
    told = json.loads((tmp_path / "out" / "images.json").read_text())["sensitivity"]
    assert set(told) == {"colour", "grey", "odd"}
    for pair in told.values():
        assert set(pair) == {"source1", "source2"}
        assert (set(pair["source1"]), set(pair["source2"])) == ({"levels"}, set())
        levels = pair["source1"]["levels"]
        assert all(0 <= levels[way]["rms"] <= levels[way]["largest"] for way in ("less", "more"))


def test_pairs_may_be_listed_in_a_table(bundle, data, tmp_path, capsys):
    table = data / "pairs.tsv"
    table.write_text("name\tsource1\tsource2\nscene\tvisible/colour.png\tinfrared/grey.png\n")
    given = ["images", "--bundle", str(bundle), "--manifest", str(table), "--steps", "1"]
    assert cli.main([*given, "--out", str(tmp_path / "out")]) == 0
    assert pixels(tmp_path / "out" / "fused" / "scene.png").shape == (48, 64, 3)
    assert cli.main([*given, "--out", str(tmp_path / "no"), "--source1", str(data)]) == 2
    assert "two folders or as a manifest" in capsys.readouterr().err


def test_colour_goes_to_the_visible_source_of_this_bundle_alone(bundle, data, tmp_path, capsys):
    shutil.copy(data / "visible" / "colour.png", data / "infrared")
    assert images(bundle, data, tmp_path / "out") == 1
    assert "colour failed: source2 must be grey" in capsys.readouterr().err
    pair = ["--source1", str(data / "visible"), "--source2", str(data / "infrared"), "--out", str(tmp_path / "out")]
    shutil.rmtree(tmp_path / "out")
    assert cli.main(["images", *pair]) == 1
    assert "colour failed: source1 must be grey" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "out" / "fused").iterdir()) == ["grey.png"]


def test_without_weights_or_images_nothing_is_written(bundle, data, tmp_path):
    for overrides, message in (
        ({"dataset_dir": str(tmp_path / "nowhere")}, "source1 must be a folder"),
        ({"dataset_dir": str(data), "ckpt_path": str(tmp_path / "model.pt")}, "the weights must be a file"),
    ):
        with pytest.raises(RuntimeError) as stopped:  # MONAI's, about the expression that failed
            run_bundle(str(bundle), output_dir=str(tmp_path / "out"), device="cpu", **overrides)
        assert message in str(known_error(stopped.value))
    assert not (tmp_path / "out").exists()


def test_the_demo_street_is_restored_and_fused_in_colour(bundle, tmp_path, capsys):
    assert cli.main(["demo", "--bundle", str(bundle), "--out", str(tmp_path)]) == 0
    assert "contact_sheet.png" in capsys.readouterr().out
    demo = BUNDLE / "demo"
    visible, infrared, noisy, fused = (
        pixels(folder / "street.png") / 255
        for folder in (demo / "visible", demo / "infrared", demo / "noisy" / "visible", tmp_path / "fused")
    )
    hidden = (slice(145, 160), slice(280, 292))  # the person under the tree
    assert visible[hidden].mean() < 0.15 < 0.6 < infrared[hidden].mean()
    assert fused[hidden].mean() > 0.4
    record = json.loads((tmp_path / "images.json").read_text())
    assert record["against_truth"]["source1"]["psnr"] > -10 * np.log10(((noisy - visible) ** 2).mean()) + 2


def test_presets_are_the_bundles_own_and_state_the_papers_scenarios():
    composite = load_spec("composite", "ir_vis_fusion")
    assert composite["source2"][-1] == {"downsample": {"factor": 4, "kind": "bicubic"}}
    assert composite["source1"] == composite["source2"][:-1]
    for name, variance in (("noise", 0.003), ("composite", 0.001)):
        spec = load_spec(name, "ir_vis_fusion")
        assert spec["source1"][-1]["noise"]["sigma"] ** 2 == pytest.approx(variance, rel=1e-5)
    assert load_spec("low_resolution", "ir_vis_fusion") == load_spec("low_resolution")
    assert preset_path("noise", str(BUNDLE)).parent == share_dir() / "configs" / "degradation" / "ir_vis_fusion"


def test_network_fits_its_declared_format():
    meta, config = (str(BUNDLE / "configs" / f"{name}.json") for name in ("metadata", "inference"))
    verify_net_in_out(net_id="network_def", meta_file=meta, config_file=config, device="cpu", n=2)
    metadata = bundle_metadata("ir_vis_fusion")
    assert metadata["version"] in metadata["changelog"]
    for part in ("inputs", "outputs"):
        for name in ("network_data_format", "fusion_data_format"):
            for entry in metadata[name][part].values():
                assert len(entry["channel_def"]) == entry["num_channels"]


def test_cases_are_refused(bundle):
    with pytest.raises(BundleError, match="use `medfuse images`"):
        load_workflow(str(bundle))


@pytest.mark.full
@pytest.mark.parametrize("scenario", ["noise", "composite"])
def test_12_megapixels_in_colour_need_2_gb(scenario, tmp_path):
    """What docs/explanation/limits.md says of the whole command, libraries included; float32 takes a tenth more."""
    most = 2e9 if uses_bfloat16("auto", torch.device("cpu")) else 2.2e9
    y, x = np.mgrid[:3000, :4000].astype(np.float32)
    grain = np.random.default_rng(0).normal(0, 0.05, y.shape).astype(np.float32)
    wave = 0.5 + 0.3 * np.sin(x / 37) * np.cos(y / 53) + grain
    write_image(tmp_path / "visible" / "a.png", np.stack([wave, 0.8 * wave, 0.6 * wave], -1).clip(0, 1), bits=8)
    factor = 4 if scenario == "composite" else 1
    write_image(tmp_path / "infrared" / "a.png", (1 - wave)[::factor, ::factor].clip(0, 1), bits=8)
    measured = "from medfuse.pipeline.ledger import peak_memory; print(peak_memory() << 20)"
    command = f"from medfuse import cli; assert cli.main() == 0; {measured}"
    sources = ["--source1", tmp_path / "visible", "--source2", tmp_path / "infrared", "--out", tmp_path / "out"]
    options = ["images", "--bundle", "ir_vis_fusion", "--degradation", scenario, *sources]
    run = subprocess.run([sys.executable, "-c", command, *options], capture_output=True, text=True, check=True)
    assert int(run.stdout.split()[-1]) < most
    assert pixels(tmp_path / "out" / "fused" / "a.png").shape == (3000, 4000, 3)


@pytest.mark.full
def test_training_starts_from_other_weights_and_evaluates(data, tmp_path):
    rows = ["set\tstem\tir\tvis\tsplit"]
    rows += [f"road\t{n}\tinfrared/{n}.png\tvisible/{n}.png\t{s}" for n, s in (("colour", "train"), ("grey", "dev"))]
    data.rename(tmp_path / "irvis")
    (tmp_path / "irvis" / "splits.tsv").write_text("\n".join(rows) + "\n")
    common = ["--bundle_root", str(BUNDLE), "--dataset_dir", str(tmp_path)]
    common += ["--validate#dataset#data", "$[{'image': p['image'], 'name': p['name'], 'scenario': n} "
               "for p in image_pairs(@dataset_dir, split='dev') for n in @validate::scenarios]"]  # fmt: skip
    weights = str(bundle_dir("ir_vis_fusion") / "models" / "model.pt")
    tiny = ["--patch_size", "32", "--batch_size", "2", "--iterations_per_epoch", "2", "--epochs", "1"]
    tiny += ["--train#dataset#weights", "{'road': 0.5, 'chroma': 0.5}", "--val_interval", "1"]
    work = ["--work_dir", str(tmp_path / "work"), "--pretrained", weights]
    configs = str([str(BUNDLE / "configs" / name) for name in ("train.json", "evaluate.json")])
    for words in (
        ["training", "--config_file", str(BUNDLE / "configs" / "train.json"), *common, *tiny, *work],
        [
            "evaluating",
            "--config_file",
            configs,
            *common,
            "--ckpt_path",
            weights,
            "--output_dir",
            str(tmp_path / "eval"),
        ],
    ):
        command = [sys.executable, "-m", "monai.bundle", "run", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "work" / "latest_checkpoint_epoch=1.pt").is_file()
    metrics = dict(line.split(",") for line in (tmp_path / "eval" / "metrics.csv").read_text().splitlines())
    assert float(metrics["psnr_visible"]) > 20 and float(metrics["psnr_infrared"]) > 20
    assert (tmp_path / "eval" / "composite" / "evaluation.json").is_file()
