"""The bundle's training as MONAI's own command runs it: train, resume, evaluate, export, on a tiny data folder."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image

from medfuse.bundles import bundle_dir
from medfuse.diffusion import FusionModel
from medfuse.diffusion.unet import FusionUNet
from medfuse.training.handlers import GradientClip

BUNDLE = bundle_dir("pet_mri_fusion")
TINY = {
    "patch_size": "48",
    "batch_size": "2",
    "iterations_per_epoch": "2",
    "val_interval": "1",
    "train#dataset#pairs": "$slice_pairs(@dataset_dir, split='train', kinds=['spect'])",
    "validate#dataset#data": "$[{'image': p['image'], 'name': p['name'], 'scenario': n} "
    "for p in slice_pairs(@dataset_dir, split='dev', kinds=['spect']) for n in @validate::scenarios]",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write a folder of SPECT and MRI slices: two subjects for training, one for validation."""
    root = tmp_path / "data" / "harvard"
    rows = ["modality\tset\tstem\tcase\tsubject\tplane\tsplit"]
    y, x = np.mgrid[0:96, 0:96]
    for i in range(3):
        disc = 40.0 + 150.0 * ((y - 48) ** 2 + (x - 40 - 4 * i) ** 2 < 900)
        for name in ("mri", "spect_index"):
            folder = root / "spect_mri" / "atlas" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((disc * (0.6 if name == "mri" else 1.0)).astype(np.uint8)).save(folder / f"{i}.png")
        rows.append(f"spect\tatlas\t{i}\t{i}\tsubject{i}\taxial\t{'dev' if i == 2 else 'train'}")
    (root / "splits.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path / "data"


def run(run_id: str, data: Path, work: Path, *configs: str, **overrides: str) -> str:
    files = str([str(BUNDLE / "configs" / name) for name in configs])
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", files]
    for key, value in {"bundle_root": str(work), "dataset_dir": str(data), "work_dir": str(work), **overrides}.items():
        command += [f"--{key}", value]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize(("value", "kept"), [(3.0, True), (float("inf"), False), (float("nan"), False)])
def test_gradients_are_clipped_and_those_that_are_not_finite_passed_over(value, kept):
    layer = torch.nn.Linear(4, 2)
    before = [p.clone() for p in layer.parameters()]
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    for parameter in layer.parameters():
        parameter.grad = torch.full_like(parameter, value)
    GradientClip(layer.parameters(), max_norm=1.0)(Engine(lambda engine, batch: None))
    grads = [p.grad for p in layer.parameters()]
    if kept:
        assert float(torch.cat([g.flatten() for g in grads]).norm()) == pytest.approx(1.0, rel=1e-4)
    optimizer.step()
    assert all(torch.equal(p, b) != kept for p, b in zip(layer.parameters(), before, strict=True))


@pytest.mark.full
def test_training_resumes_and_its_weights_evaluate(data, tmp_path):
    work = tmp_path / "work"
    run("training", data, work, "train.json", epochs="1", **TINY)
    assert (work / "latest_checkpoint_epoch=1.pt").is_file()
    text = run("training", data, work, "train.json", epochs="2", **TINY)
    assert "Restored all variables" in text
    checkpoint = torch.load(work / "latest_checkpoint_epoch=2.pt", weights_only=True)
    assert checkpoint["trainer"]["iteration"] == 4
    assert checkpoint["lr_scheduler"]["last_epoch"] == 4
    changed = [k for k, v in checkpoint["ema"].items() if not torch.equal(v, checkpoint["network"][k])]
    assert changed

    run("export", data, work, "train.json")
    state = torch.load(work / "models" / "model.pt", weights_only=True)
    FusionModel(FusionUNet()).load_state_dict(state)

    weights = str(work / "models" / "model.pt")
    standing = TINY | {"epochs": "1", "learning_rate": "0.0", "work_dir": str(tmp_path / "again")}
    run("training", data, work, "train.json", pretrained=weights, **standing)
    again = torch.load(tmp_path / "again" / "latest_checkpoint_epoch=1.pt", weights_only=True)
    assert all(torch.equal(v.half(), state[k]) for k, v in again["network"].items())

    tiny = {k: v for k, v in TINY.items() if k.startswith("validate")}
    text = run("evaluating", data, work, "train.json", "evaluate.json", output_dir=str(tmp_path / "eval"), **tiny)
    assert "psnr_pet" in text
    metrics = dict(line.split(",") for line in (tmp_path / "eval" / "metrics.csv").read_text().splitlines())
    assert float(metrics["psnr_pet"]) > 10
    for scenario in ("noise", "blur", "low_resolution", "composite"):
        judged = json.loads((tmp_path / "eval" / scenario / "evaluation.json").read_text(encoding="utf-8"))
        mean = judged["summary"]["fused"]
        assert judged["images"] == 1 and mean["SSIM_min"]["mean"] > 0.2 and mean["d2_PSNR"]["mean"] < 60
        assert {p.suffix for p in (tmp_path / "eval" / scenario).iterdir()} == {".json", ".csv", ".png"}
