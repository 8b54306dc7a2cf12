"""The bundle's training as MONAI's own command runs it: train, resume, evaluate, export, on a tiny data folder."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ignite.metrics
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import CheckpointLoader, ValidationHandler
from monai.inferers import Inferer
from monai.utils import set_determinism
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from medfuse.bundles import bundle_dir
from medfuse.diffusion import FusionModel, FusionUNet
from medfuse.errors import BundleError
from medfuse.training import BestWeights, DegradeBatch, GradientClip, TrainingState

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


def write_training_data(folder: Path) -> Path:
    """Write a folder of SPECT and MRI slices: two subjects for training, one for validation."""
    root = folder / "harvard"
    rows = ["modality\tset\tstem\tcase\tsubject\tplane\tsplit"]
    y, x = np.mgrid[0:96, 0:96]
    for i in range(3):
        disc = 40.0 + 150.0 * ((y - 48) ** 2 + (x - 40 - 4 * i) ** 2 < 900)
        for name in ("mri", "spect_index"):
            place = root / "spect_mri" / "atlas" / name
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray((disc * (0.6 if name == "mri" else 1.0)).astype(np.uint8)).save(place / f"{i}.png")
        rows.append(f"spect\tatlas\t{i}\t{i}\tsubject{i}\taxial\t{'dev' if i == 2 else 'train'}")
    (root / "splits.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_training_data(tmp_path / "data")


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


class Patches(torch.utils.data.Dataset):
    """Three hundred clean pairs, in order."""

    start = 0

    def __len__(self):
        return 300 - self.start

    def __getitem__(self, index):
        return {"image": torch.full((2, 8, 8), (self.start + index) / 300)}


def engines(folder: Path, scores: list[float], seen: list[Any]) -> tuple[SupervisedTrainer, TrainingState]:
    """A trainer that notes what it is given, and an evaluator whose key metric takes these scores in turn."""
    layer = torch.nn.Conv2d(2, 2, 1)

    class Score(ignite.metrics.Metric):
        def reset(self): ...
        def update(self, output): ...
        def compute(self):
            return scores.pop(0)

    class Note(Inferer):
        def __call__(self, inputs, network, **kwargs):
            seen.append((inputs.clone(), float(torch.rand(())), np.random.rand(), random.random()))  # noqa: NPY002
            return network(inputs)

    best = BestWeights(layer, folder / "model.pt")
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(TensorDataset(torch.rand(1, 2, 8, 8))),
        network=layer,
        prepare_batch=lambda batch, *_, **__: (batch[0], None),
        key_val_metric={"score": Score()},
        val_handlers=[best],
    )
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        epoch_length=3,
        train_data_loader=DataLoader(Patches(), batch_size=2, generator=torch.Generator()),
        network=layer,
        optimizer=torch.optim.SGD(layer.parameters(), lr=0.1),
        loss_function=torch.nn.functional.mse_loss,
        prepare_batch=DegradeBatch(seed=3),
        inferer=Note(),
        train_handlers=[ValidationHandler(interval=1, validator=evaluator)],
        decollate=False,
    )
    return trainer, TrainingState(trainer, evaluator, best)


@pytest.mark.parametrize(("second", "kept"), [(19.0, True), (20.0, True), (21.0, False)])
def test_a_resumed_run_knows_its_best_validation_and_goes_on_drawing(tmp_path, seeded, second, kept):
    """A straight run of two epochs, and one that is stopped after the first: the same draws, the same `model.pt`."""
    straight: list[Any] = []
    set_determinism(7)
    trainer, _ = engines(tmp_path / "straight", [20.0, second], straight)
    trainer.run()

    halves: list[Any] = []
    set_determinism(7)
    trainer, state = engines(tmp_path, [20.0], halves)
    trainer.state.max_epochs = 1
    trainer.run()
    torch.save({"network": trainer.network.state_dict(), "trainer": trainer.state_dict(), "state": state.state_dict()},
               tmp_path / "latest.pt")  # fmt: skip
    first = (tmp_path / "model.pt").read_bytes()

    set_determinism(99)
    trainer, state = engines(tmp_path, [second], halves)
    resumed = {"network": trainer.network, "trainer": trainer, "state": state}
    CheckpointLoader(str(tmp_path / "latest.pt"), resumed).attach(trainer)
    trainer.run()
    assert len(halves) == len(straight) == 6
    for a, b in zip(halves, straight, strict=True):
        assert torch.equal(a[0], b[0]) and a[1:] == b[1:]
    assert ((tmp_path / "model.pt").read_bytes() == first) == kept
    best, whole = (torch.load(f / "model.pt", weights_only=True) for f in (tmp_path, tmp_path / "straight"))
    assert all(torch.equal(v, whole[k]) for k, v in best.items())
    assert state.state_dict()["best_metric"] == max(20.0, second)
    assert state.state_dict()["next_patch"] == 12
    set_determinism(None)


def test_without_the_best_weights_the_next_validation_is_the_best(tmp_path, seeded):
    trainer, state = engines(tmp_path, [20.0, 30.0], [])
    trainer.run()
    saved = state.state_dict()
    (tmp_path / "model.pt").unlink()
    trainer, state = engines(tmp_path, [10.0, 9.0], [])
    state.load_state_dict(saved)
    trainer.run()
    assert (tmp_path / "model.pt").is_file()
    assert state.state_dict()["best_metric"] == 10.0


def only(steps: str) -> dict[str, str]:
    """Validate under one scenario alone, with these steps for both sources."""
    return TINY | {"validate#scenarios": f"{{'composite': {{'version': 1, 'source1': {steps}, 'source2': {steps}}}}}"}


@pytest.mark.full
def test_a_resumed_training_keeps_better_weights_and_ends_where_one_without_a_stop_ends(data, tmp_path):
    usual, worse, better = (only(f"[{{'noise': {{'sigma': {s}}}}}]") for s in (0.1, 0.4, 0.005))
    length = {"total_iterations": "4"}
    run("training", data, tmp_path / "straight", "train.json", epochs="2", **length, **usual)
    stopped = tmp_path / "stopped"
    run("training", data, stopped, "train.json", epochs="1", **length, **usual)
    for name, judged in (("worse", worse), ("better", better)):
        work = tmp_path / name
        shutil.copytree(stopped, work)
        text = run("training", data, work, "train.json", epochs="2", **length, **judged)
        assert "Restored all variables" in text
        assert ((work / "model.pt").read_bytes() == (stopped / "model.pt").read_bytes()) == (name == "worse")
    last = "latest_checkpoint_epoch=2.pt"
    resumed, whole = (torch.load(tmp_path / name / last, weights_only=True) for name in ("worse", "straight"))
    for part in ("network", "ema"):
        assert all(torch.equal(v, whole[part][k]) for k, v in resumed[part].items())
    assert resumed["lr_scheduler"] == whole["lr_scheduler"] and resumed["trainer"] == whole["trainer"]
    assert resumed["state"]["next_patch"] == whole["state"]["next_patch"] == 8
    assert resumed["state"]["best_metric_epoch"] == 1


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
    FusionModel(FusionUNet(encoder_blocks=(2, 1, 2, 2), decoder_blocks=(3, 1, 2))).load_state_dict(state)

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


def test_a_trainer_that_cannot_be_resumed_is_refused(tmp_path):
    trainer, state = engines(tmp_path, [], [])
    trainer.prepare_batch = dict
    with pytest.raises(BundleError, match="`DegradeBatch` must prepare"):
        TrainingState(trainer, state.evaluator, state.best)
    trainer.data_loader = DataLoader(TensorDataset(torch.rand(1, 2, 8, 8)))  # nothing says where they start
    with pytest.raises(BundleError, match="must be `RandomPatches`"):
        TrainingState(trainer, state.evaluator, state.best)
