"""What a training for restoration needs: packed pairs, single images, a network grown, time, and its curve."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image
from training.test_training import TINY, run, write_training_data

from medfuse.bundles import bundle_dir
from medfuse.diffusion import FusionModel, FusionUNet
from medfuse.errors import BundleError
from medfuse.physics import Degradation, GaussianBlur, GaussianNoise
from medfuse.training import (
    RESTORATION_KIND_WEIGHTS,
    TimeLimit,
    export_weights,
    load_grown,
    read_pack,
    single_images,
    write_pack,
)
from medfuse.training.datasets import SlicePair, SlicePairs
from medfuse.training.degrade import misstated
from medfuse.volumes.network import CHANNELS, VolumeUNet

WIDTHS = (32, 32)
SMALL = {"widths": WIDTHS, "encoder_blocks": (1, 1), "decoder_blocks": (1,)}
RESTORE = ("train.json", "restore.json")


# ------------------------------------------------------------------------------------------------------ a network grown
@torch.inference_mode()
def test_a_grown_network_answers_as_the_smaller_one_until_it_is_trained():
    torch.manual_seed(0)
    small = FusionModel(FusionUNet(**SMALL))
    for parameter in small.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    grown = load_grown(
        FusionModel(FusionUNet(**SMALL | {"encoder_blocks": (2, 1), "decoder_blocks": (3,)})), small.state_dict()
    )
    image, condition = torch.randn(2, 12, 16, 24), torch.randn(2, 25)
    assert torch.equal(grown(image, condition), small(image, condition))
    assert torch.equal(grown.gains(condition), small.gains(condition))
    new = grown.denoiser.decoder[0].blocks[2]
    assert float(new.conv1.weight.abs().max()) > 0, "a layer of zeros behind another would never learn"


def test_input_channels_are_appended_with_weights_of_zero(monkeypatch):
    torch.manual_seed(0)
    small = FusionModel(FusionUNet(**SMALL))
    monkeypatch.setattr(FusionUNet, "in_channels", 16)
    grown = load_grown(FusionModel(FusionUNet(**SMALL)), small.state_dict())
    image, condition = torch.randn(2, 16, 16, 16), torch.randn(2, 25)
    torch.testing.assert_close(grown(image, condition), small(image[:, :12], condition))


@torch.inference_mode()
def test_a_network_of_volumes_grows_by_layers_at_half_resolution_and_at_its_end():
    torch.manual_seed(0)
    small, grown = VolumeUNet(last=2), VolumeUNet(last=4)
    small.deep = small.deep[:3]
    torch.nn.init.normal_(small.out.weight)
    x = torch.randn(1, len(CHANNELS), 9, 8, 8)
    assert not torch.allclose(grown.said(x), small.said(x))
    assert torch.equal(load_grown(grown, small.state_dict()).said(x), small.said(x))


def test_weights_are_exported_between_those_of_the_start_and_the_averaged(tmp_path):
    torch.save({"ema": {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(5)}}, tmp_path / "final.pt")
    start = {"w": torch.tensor([3.0, 0.0]), "n": torch.tensor(4)}
    path = export_weights(tmp_path / "final.pt", tmp_path / "model.pt", share=0.75, start=start)
    mixed = torch.load(path, weights_only=True)
    assert mixed["w"].tolist() == [1.5, 1.5]
    assert mixed["n"] == 5
    path = export_weights(tmp_path / "final.pt", tmp_path / "model.pt")
    assert torch.load(path, weights_only=True)["w"].tolist() == [1.0, 2.0]
    for share, given in ((1.5, start), (-0.1, start), (0.75, None)):
        with pytest.raises(BundleError, match="must be between 0 and 1, and below 1"):
            export_weights(tmp_path / "final.pt", tmp_path / "other.pt", share=share, start=given)
    assert not (tmp_path / "other.pt").exists()


@pytest.mark.parametrize("other", [{"encoder_blocks": (1, 0)}, {"widths": (32, 64)}, {"embedding": 64}])
def test_a_network_that_lacks_a_part_or_has_other_widths_is_refused(other, tmp_path):
    torch.save(FusionModel(FusionUNet(**SMALL)).state_dict(), tmp_path / "small.pt")
    network = FusionModel(FusionUNet(**SMALL | other))
    before = {name: part.clone() for name, part in network.state_dict().items()}
    with pytest.raises(BundleError, match=r"must have all parts|must keep its shape"):
        load_grown(network, tmp_path / "small.pt")
    assert all(torch.equal(part, before[name]) for name, part in network.state_dict().items())


# ------------------------------------------------------------------------------------------------- packs, single images
def write_images(folder: Path) -> Path:
    """Add photographs, a visible image with infrared, and a volume to a folder of training data."""
    rng = np.random.default_rng(0)
    (folder / "natural").mkdir()
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (100, 120 + i), np.uint8)).save(folder / "natural" / f"{i}.png")
    street = folder / "irvis"
    street.mkdir()
    rows = ["set\tstem\tir\tvis\tsplit"]
    for split in ("train", "dev"):
        Image.fromarray(rng.integers(0, 256, (120, 200, 3), np.uint8)).save(street / f"{split}_vis.png")
        Image.fromarray(rng.integers(0, 256, (120, 200), np.uint8)).save(street / f"{split}_ir.png")
        rows.append(f"roadscene\t{split}\t{split}_ir.png\t{split}_vis.png\t{split}")
    (street / "splits.tsv").write_text("\n".join(rows) + "\n")
    volume = np.zeros((100, 110, 100), np.float32)
    volume[20:80, 20:90, 20:80] = 100.0
    nib.save(nib.Nifti1Image(volume, np.eye(4)), folder / "head.nii.gz")
    return folder


def test_single_images_are_pairs_of_strangers_and_of_the_training_alone(tmp_path):
    pairs = single_images(write_images(tmp_path), ["head.nii.gz"]).pairs
    kinds = [pair.kind for pair in pairs]
    assert kinds.count("natural") == 2 and kinds.count("roadscene") == 1 and kinds.count("anatomy") > 10
    assert set(kinds) <= set(RESTORATION_KIND_WEIGHTS)
    assert not any("dev" in pair.name for pair in pairs)
    assert all(pair.source1.shape == pair.source2.shape and max(pair.source1.shape) <= 256 for pair in pairs)
    first = next(pair for pair in pairs if pair.kind == "natural")
    assert not np.array_equal(first.source1, first.source2)
    with pytest.raises(BundleError, match=r"natural/\*\.png"):
        single_images(tmp_path / "harvard")


def test_a_pack_holds_what_was_written_in_8_bit(tmp_path):
    rng = np.random.default_rng(1)
    counts = [rng.integers(0, 256, (96, 100), np.uint8) for _ in range(2)]
    shares = [(rng.random((110, 96))).astype(np.float16) for _ in range(2)]
    sets = [SlicePairs([SlicePair(*counts, "a", "one", "pet")]), SlicePairs([SlicePair(*shares, "b", "two", "sts")])]
    first, second = read_pack(write_pack(tmp_path / "deep" / "pairs.npz", *sets)).pairs
    assert (first.name, first.subject, first.kind) == ("a", "one", "pet") and second.kind == "sts"
    assert np.array_equal(first.source1, counts[0]) and np.array_equal(first.source2, counts[1])
    assert second.source1.dtype == np.uint8
    assert np.abs(second.source2 / 255 - shares[1].astype(np.float32)).max() <= 0.5 / 255 + 1e-6
    with pytest.raises(BundleError, match="write them with `write_pack`"):
        read_pack(tmp_path / "none.npz")


# ------------------------------------------------------------------------------------------------------- stated wrongly
def test_widths_are_stated_wrongly_by_no_more_than_a_tenth_and_a_fifth_of_a_pixel():
    sigma = torch.linspace(0, 6, 500)[:, None].expand(-1, 2)
    degradation = Degradation((GaussianBlur(sigma), GaussianNoise(0.05)))
    blur, noise = misstated(degradation, torch.Generator().manual_seed(0)).known
    assert isinstance(blur, GaussianBlur) and isinstance(noise, GaussianNoise)
    error = (blur.sigma - sigma).abs()
    assert bool((error <= 0.1 * sigma + 0.2 + 1e-6).all()) and float(blur.sigma.min()) >= 0
    assert float(error[250:].max()) > 0.4 and 0.05 < float(error[:50].mean()) < 0.2
    assert noise.sigma.tolist() == [0.05]


# ----------------------------------------------------------------------------------------------------------------- time
def test_a_training_ends_with_the_epoch_in_which_its_time_is_over_however_often_it_was_resumed():
    limit, engine = TimeLimit(1.0), Engine(lambda engine, batch: None)
    limit.attach(engine)
    assert engine.run([0, 0], max_epochs=3).epoch == 3
    assert 0 < limit.share() < 0.1
    resumed = TimeLimit(1.0)
    resumed.load_state_dict({"spent": 3600.0 - 1e-3} if limit.state_dict()["spent"] < 60 else {})
    engine = Engine(lambda engine, batch: None)
    resumed.attach(engine)
    assert engine.run([0] * 20000, max_epochs=9).epoch == 1
    assert resumed.share() == 1
    with pytest.raises(BundleError, match="hours of a training must be positive"):
        TimeLimit(0.0)


# --------------------------------------------------------------------------------------------------- as MONAI's command
@pytest.mark.full
def test_the_training_for_restoration_starts_at_the_weights_and_writes_its_curve(tmp_path):
    data = write_images(write_training_data(tmp_path / "data"))
    weights = tmp_path / "small.pt"
    torch.save(FusionModel(FusionUNet(**SMALL)).state_dict(), weights)
    write_pack(tmp_path / "pairs.npz", single_images(data))
    tiny = {k: v for k, v in TINY.items() if not k.startswith("train")} | {
        "pack": str(tmp_path / "pairs.npz"),
        "pretrained": str(weights),
        "network_def#denoiser": json.dumps(
            {"_target_": "medfuse.diffusion.FusionUNet", **SMALL, "encoder_blocks": [2, 1]}
        ),
        "validate#dataset#data": TINY["validate#dataset#data"].replace("@validate::scenarios", "@validate::watched"),
        "learning_rate": "0.0",
        "device": "cpu",
    }
    work = tmp_path / "work"
    run("training", data, work, *RESTORE, epochs="1", **tiny)
    run("training", data, work, *RESTORE, epochs="2", **tiny)
    with (work / "curve.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["iteration"] for row in rows] == ["2", "4"]
    assert float(rows[1]["seconds"]) >= float(rows[0]["seconds"])
    assert all(float(rows[0][f"{name} {i}"]) > 10 for name in ("noise", "blur", "composite") for i in (1, 2))
    ema = torch.load(work / "latest_checkpoint_epoch=2.pt", weights_only=True)["ema"]
    small = torch.load(weights, weights_only=True)
    assert all(torch.allclose(ema[name], value, atol=1e-7) for name, value in small.items()), "nothing was learned"
    assert (bundle_dir("pet_mri_fusion") / "configs" / RESTORE[1]).is_file()
