"""What the network for volumes is trained on: examples of phantoms, patches of them, and its loss."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medfuse.errors import BundleError
from medfuse.training import VolumeLoss, VolumePatches, volume_examples, write_examples
from medfuse.training.brains import analytic
from medfuse.training.volume_examples import COUNTS, MARK, TISSUE, TRUTH, example
from medfuse.training.volumes import Tissue
from medfuse.volumes.network import CHANNELS, VolumeUNet

CONFIG = Path(__file__).parents[2] / "bundles" / "pet_mri_fusion" / "configs" / "train_volumes.json"


def label(truth, mark=None, tissue=Tissue.GREY):
    parts = [truth, torch.zeros_like(truth) if mark is None else mark]
    return torch.stack([*parts, torch.full_like(truth, float(tissue)), torch.ones_like(truth)])[None]


def test_the_loss_is_that_of_its_formula_and_asks_for_means():
    truth = torch.ones(8, 8, 8)
    loss = VolumeLoss(absolute=0.1, lesion=0.3, tissue=2.0, data=0.5)
    assert float(loss(truth[None, None], label(truth))) == 0
    # e = 0.2 everywhere: e^2 + 0.1 |e| + 2 (mean e)^2 + 0.5 (M e)^2
    assert float(loss(truth[None, None] + 0.2, label(truth))) == pytest.approx(0.04 + 0.02 + 2.5 * 0.04, rel=1e-4)
    signs = torch.ones(8, 8, 8)
    signs[::2] = -1
    alternating = float(loss((truth + 0.2 * signs)[None, None], label(truth)))
    nearby = 6 / 8 * (0.2 / 3) ** 2  # means of three planes; of two, at both ends, they are 0
    assert alternating == pytest.approx(0.04 + 0.02 + 0.5 * nearby, rel=1e-4)


def test_a_lesion_counts_more_and_a_voxel_that_was_not_measured_not_at_all():
    truth, mark = torch.ones(16, 16, 16), torch.zeros(16, 16, 16)
    mark[4:7, 4:7, 4:7] = 3
    wrong = truth.clone()
    wrong[4:7, 4:7, 4:7] = 0.5
    loss = VolumeLoss()
    assert float(loss(wrong[None, None], label(truth, mark))) > 3 * float(loss(wrong[None, None], label(truth)))
    unseen = label(truth, mark)
    unseen[:, COUNTS] = 0
    assert float(loss(wrong[None, None], unseen)) == 0


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """One example of a head of a formula, its voxels few."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(volume_examples, "_MOST", (40, 48, 38))
        write_examples(folder, [analytic(0.4)], 1, seed=3)
        before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
        write_examples(folder, [analytic(0.4)], 1, seed=3)  # what is there stays
        assert before == {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    return folder


def test_an_example_has_the_proposals_in_the_unit_of_its_truth(examples):
    with np.load(examples / "00000.npz", allow_pickle=False) as stored:
        image, known = (stored[k].astype(np.float32) for k in ("image", "label"))
    assert image.shape[0] == len(CHANNELS)
    assert image.shape[1:] == known.shape[1:]
    brain = (known[TISSUE] >= Tissue.GREY) & (known[TISSUE] <= Tissue.DEEP) & (known[COUNTS] > 0)
    truth = known[TRUTH][brain]
    assert 0.4 < truth.mean() < 1.6, "in units of about grey matter"
    measured = known[COUNTS] > 0
    assert image[CHANNELS.index("data")][measured].sum() == pytest.approx(known[TRUTH][measured].sum(), rel=0.02), (
        "a scanner loses nothing"
    )
    for proposal in ("alike", "strong", "guided", "free"):
        assert np.corrcoef(image[CHANNELS.index(proposal)][brain], truth)[0, 1] > 0.6
    assert known[MARK].max() > 3


def test_patches_are_a_seeds_and_turn_image_and_label_alike(examples):
    patches, same = (VolumePatches(examples, size=20, length=6, seed=1) for _ in range(2))
    assert len(patches) == 6
    marked = 0
    for k in range(6):
        one = patches[k]
        assert all(torch.equal(one[name], same[k][name]) for name in one)
        assert one["image"].shape == (len(CHANNELS), 20, 20, 20)
        counts = one["label"][COUNTS]
        assert float(counts[:2].max()) == float(counts[:, :, -2:].max()) == 0, "a rim does not count"
        free, truth = one["image"][CHANNELS.index("free")][counts > 0], one["label"][TRUTH][counts > 0]
        assert float(torch.corrcoef(torch.stack([free, truth]))[0, 1]) > 0.6
        marked += bool((one["label"][MARK] > 0).any())
    assert marked >= 3
    with pytest.raises(BundleError, match="there must be examples"):
        VolumePatches(examples / "none")
    with pytest.raises(BundleError, match="must be at least 400 voxels wide"):
        VolumePatches(examples, size=400)


def test_brains_take_turns_and_a_fifth_of_the_heads_has_borders_along_its_voxels(monkeypatch, tmp_path):
    asked = []

    def noted(brain, seed, *, hard):
        asked.append((brain, hard))

    monkeypatch.setattr(volume_examples, "example", noted)
    write_examples(tmp_path, ["one", "two"], 10)
    assert asked == [(brain, k == 4) for brain in ("one", "two") for k in range(5)]


def test_guidance_that_is_off_makes_no_example(monkeypatch):
    monkeypatch.setattr(volume_examples, "_MOST", (24, 26, 24))
    monkeypatch.setattr(volume_examples, "restore_volume", lambda *args, **options: None)
    assert example(analytic(), (7000, 0, 0)) is None


@pytest.mark.full
def test_the_bundle_trains_and_exports(examples, tmp_path):
    """Two iterations, by the bundle's own configuration, and weights that are loaded as they are used."""
    bundle = tmp_path / "bundle"
    (bundle / "models").mkdir(parents=True)
    options = {
        "bundle_root": str(bundle), "work_dir": str(tmp_path / "run"), "examples": str(examples), "patch_size": 16,
        "batch_size": 1, "iterations_per_epoch": 2, "epochs": 1, "device": "cpu",
    }  # fmt: skip
    given = [part for k, v in options.items() for part in (f"--{k}", v if isinstance(v, str) else json.dumps(v))]
    for what in ("training", "export"):
        command = [sys.executable, "-m", "monai.bundle", "run", what, "--config_file", str(CONFIG), *given]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    state = torch.load(bundle / "models" / "volumes.pt", weights_only=True)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in VolumeUNet().state_dict().items()}
