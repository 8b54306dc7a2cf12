"""Exports of the network: each equals the network, and serves in its place."""

import importlib.util

import pytest
import torch

from medfuse import cli
from medfuse.arguments import EXPORTS
from medfuse.diffusion import FusionModel, FusionUNet
from medfuse.diffusion.export import FORMATS, TOLERANCE, export_network
from medfuse.errors import BundleError
from medfuse.inferers import FusionInferer
from medfuse.pipeline import export_bundle, load_fusion

NOISE = {"version": 1, "source1": [], "source2": [{"noise": {"kind": "gaussian", "sigma": 0.05}}]}
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


@pytest.fixture(scope="module")
def small() -> FusionModel:
    torch.manual_seed(0)
    return FusionModel(FusionUNet()).eval()


def pair(*size: int) -> torch.Tensor:
    return torch.rand(1, 2, *size, generator=torch.Generator().manual_seed(3))


def test_the_command_line_knows_the_formats():
    assert EXPORTS == FORMATS


def test_a_script_serves_the_inferer(small, tmp_path):
    assert export_network(small, tmp_path / "model.ts") <= TOLERANCE
    exported = torch.jit.load(tmp_path / "model.ts")
    inferer = FusionInferer(NOISE, steps=2, amp=False)
    with torch.no_grad():
        ours, theirs = (inferer(pair(33, 48), network) for network in (small, exported))
    assert torch.allclose(ours["fused"], theirs["fused"], atol=1e-5)


@pytest.mark.full
def test_a_program_serves_in_place_of_the_denoiser(tmp_path, capsys):
    path = tmp_path / "model.pt2"
    assert cli.main(["bundle", "export", "pet_mri_fusion", str(path)]) == 0
    assert "of the network" in capsys.readouterr().out
    fusion, inferer = load_fusion(device="cpu"), FusionInferer(NOISE, steps=2, amp=False)
    with torch.no_grad():
        ours = inferer(pair(48, 80), fusion.network)
        fusion.network.denoiser = torch.export.load(path).module()
        theirs = inferer(pair(48, 80), fusion.network)
    for name in ("source1", "source2", "fused"):
        assert float((ours[name] - theirs[name]).abs().max()) < 1e-4


@pytest.mark.full
@pytest.mark.skipif(not HAS_ONNX, reason="medfuse[onnx] is not installed")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore:. The axis name:UserWarning")  # of torch 2.13
def test_onnx_equals_the_network_at_any_size(tmp_path):
    import onnxruntime

    assert export_bundle("pet_mri_fusion", tmp_path / "model.onnx") <= TOLERANCE
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]  # the weights are in it
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [i.shape[1:2] for i in session.get_inputs()] == [[12], [25]]
    network = load_fusion(device="cpu").network
    draw = torch.Generator().manual_seed(5)
    image, condition = torch.rand(3, 12, 96, 32, generator=draw), torch.rand(3, 25, generator=draw)
    with torch.no_grad():
        expected = network(image, condition)
    (found,) = session.run(None, {"image": image.numpy(), "condition": condition.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_exported_is_said_before_work(small, tmp_path, monkeypatch, capsys):
    with pytest.raises(BundleError, match=r"must end with one of .pt2, .onnx, .ts, got 'model.engine'"):
        export_network(small, tmp_path / "model.engine")
    monkeypatch.setattr("medfuse.diffusion.export.find_spec", lambda name: None)
    with pytest.raises(BundleError, match=r"got no onnx, onnxscript, onnxruntime; install medfuse\[onnx\]"):
        export_network(small, tmp_path / "model.onnx")
    with pytest.raises(SystemExit):
        cli.main(["bundle", "export", "pet_mri_fusion", str(tmp_path / "model.trt")])
    assert "an export must end with one of" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_deviates_is_refused_and_removed(small, tmp_path, monkeypatch):
    monkeypatch.setattr("medfuse.diffusion.export.TOLERANCE", -1.0)
    with pytest.raises(BundleError, match="an export must be within"):
        export_network(small, tmp_path / "model.ts")
    assert list(tmp_path.iterdir()) == []
