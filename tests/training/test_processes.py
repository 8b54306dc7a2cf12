"""Training in two processes makes the steps of one process with twice the batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from training.test_training import BUNDLE, TINY, write_training_data

from medfuse.bundles import bundle_dir, bundle_names
from medfuse.errors import BundleError
from medfuse.training import AverageGradients, process_count, process_device, start_processes, stop_processes

# Clean patches, one step: nothing is drawn but the patches, which are the same for both.
CLEAN = "{'_target_': 'medfuse.training.DegradationPrior', 'clean': 1.0}"
EXACT = {
    **TINY,
    "epochs": "1",
    "iterations_per_epoch": "3",
    "train#prepare_batch#source1": CLEAN,
    "train#prepare_batch#source2": CLEAN,
    "train#prepare_batch#near": "0",
    "train_steps": "[1]",
    "val_interval": "1",
}


def _share(rank: int, folder: str, port: int) -> None:
    """One of two processes: its half of a batch, through a network whose middle layer only rank 0 uses."""
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    assert start_processes() == rank and process_count() == 2
    network, batch = _network(), _batch()
    half = batch[2 * rank : 2 * rank + 2]
    _loss(network, half, half_of_all=rank == 0).backward()
    AverageGradients(network.parameters())()
    torch.save({name: p.grad for name, p in network.named_parameters()}, Path(folder) / f"{rank}.pt")
    stop_processes()


def _network() -> torch.nn.ModuleDict:
    torch.manual_seed(0)
    return torch.nn.ModuleDict({name: torch.nn.Linear(3, 3) for name in ("both", "one", "none")})


def _batch() -> torch.Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(1))


def _loss(network: torch.nn.ModuleDict, batch: torch.Tensor, half_of_all: bool) -> torch.Tensor:
    loss = network["both"](batch).square().mean()
    return loss + network["one"](batch).square().mean() if half_of_all else loss


def test_two_processes_have_the_gradients_of_one_with_twice_the_batch(tmp_path):
    mp.start_processes(_share, (str(tmp_path), 29500 + os.getpid() % 2000), nprocs=2, start_method="spawn")
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    network, batch = _network(), _batch()
    (network["both"](batch).square().mean() + 0.5 * network["one"](batch[:2]).square().mean()).backward()
    for name, parameter in network.named_parameters():
        for grads in found:
            if parameter.grad is None:
                assert name.startswith("none") and grads[name] is None
            else:
                torch.testing.assert_close(grads[name], parameter.grad)


def test_without_torchrun_it_is_said_how_to_start(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(BundleError, match="several processes must be started by `torchrun"):
        start_processes()
    assert process_count() == 1
    if not torch.cuda.is_available():
        assert process_device() == torch.device("cpu")


def test_alone_gradients_stay_as_they_are():
    layer = torch.nn.Linear(2, 2)
    layer(torch.ones(1, 2)).sum().backward()
    before = layer.weight.grad.clone()
    AverageGradients(layer.parameters())()
    assert torch.equal(layer.weight.grad, before)


@pytest.mark.parametrize("name", bundle_names())
def test_the_overlay_follows_the_training_that_it_lies_over(name):
    """It must repeat the handlers and the start of `train.json`, with its own before them."""
    configs = bundle_dir(name) / "configs"
    train, overlay = (json.loads((configs / f"{n}.json").read_text()) for n in ("train", "multi_gpu_train"))
    assert overlay["train#handlers"] == ["@train::average", *train["train"]["handlers"]]
    assert overlay["initialize"] == ["$@rank", *train["initialize"]]
    assert set(train["imports"]) < set(overlay["imports"])


@pytest.mark.full
def test_the_overlay_trains_as_one_process_with_twice_the_batch(tmp_path):
    data = write_training_data(tmp_path / "data")
    command = ["-m", "monai.bundle", "run", "training", "--config_file"]
    one = [str(BUNDLE / "configs" / "train.json")]
    two = [*one, str(BUNDLE / "configs" / "multi_gpu_train.json")]
    launch = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port", str(31500 + os.getpid() % 2000)]
    weights = {}
    for name, start, files, batch in (("one", [], one, 4), ("two", launch, two, 2)):
        work = tmp_path / name
        words = [sys.executable, *start, *command, str(files)]
        given = {"bundle_root": work, "dataset_dir": data, "work_dir": work, "device": "cpu"}
        given |= EXACT | {"batch_size": batch}
        if start:
            given.pop("device")
        words += [word for key, value in given.items() for word in (f"--{key}", str(value))]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        (checkpoint,) = work.glob("latest_*.pt")
        weights[name] = torch.load(checkpoint, weights_only=True, map_location="cpu")["network"]
        assert (work / "model.pt").is_file()
    for name, value in weights["one"].items():
        torch.testing.assert_close(weights["two"][name], value, atol=2e-4, rtol=1e-3, msg=name)
