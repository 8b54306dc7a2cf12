"""Where to compute: one rule for the command line, Python and the bundles' configurations."""

import inspect
import json

import pytest
import torch
from monai.bundle import ConfigParser

from medfuse import cli
from medfuse.bundles import bundle_dir, bundle_names, share_dir
from medfuse.devices import pick_device
from medfuse.errors import BundleError, MedfuseError, known_error
from medfuse.evaluation import evaluate_folders
from medfuse.pipeline import fuse, fuse_images, load_fusion, load_workflow

HERE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ABSENT = "cuda:97"
SENTENCE = "device must be auto, or one of this machine such as cpu or cuda:0, got '{}'; use auto."


@pytest.mark.parametrize("there", [False, True])
def test_auto_is_cuda_where_there_is_one(monkeypatch, there):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert pick_device() == pick_device("auto") == torch.device("cuda" if there else "cpu")


@pytest.mark.parametrize("name", ["cpu", torch.device("cpu")])
def test_a_device_of_torch_is_that_device(name):
    assert pick_device(name) == torch.device("cpu")


@pytest.mark.parametrize("name", [ABSENT, "abacus", "meta", "hpu", "", "AUTO", "cuda:x", None, 1.5])
def test_a_device_that_is_not_there_or_holds_no_numbers_is_one_sentence(name):
    with pytest.raises(BundleError) as error:
        pick_device(name)
    assert str(error.value) == SENTENCE.format(name)


def test_every_command_and_function_takes_auto_unless_told():
    parse = cli._parser().parse_args
    pair = ["--source1", "a", "--source2", "b", "--out", "c"]
    assert parse(["fuse", "--dicom", "a", "--out", "b"]).device == "auto"
    assert parse(["images", *pair]).device == parse(["evaluate", *pair, "--fused", "d"]).device == "auto"
    assert parse(["batch", "a", "b", "participant"]).device is None  # that of the bundle, which is auto
    for function in (fuse, fuse_images, load_fusion, evaluate_folders, pick_device):
        parameters = inspect.signature(function).parameters
        assert "auto" in {p.default for p in parameters.values()}


@pytest.mark.parametrize("bundle", bundle_names())
@pytest.mark.parametrize("kind", ["inference", "train"])
@pytest.mark.parametrize("value", [None, "auto", "cpu", "$torch.device('cpu')"])
def test_every_configuration_takes_the_same_names(bundle, kind, value):
    parser = ConfigParser()
    parser.read_config(str(bundle_dir(bundle) / "configs" / f"{kind}.json"))
    if value is not None:
        parser["device"] = value
    wanted = torch.device("cpu") if value and "cpu" in value else HERE
    assert next(parser.get_parsed_content("network").parameters()).device.type == wanted.type
    assert pick_device(parser.get_parsed_content("device")).type == wanted.type


@pytest.mark.parametrize("bundle", bundle_names())
@pytest.mark.parametrize("kind", ["inference", "train", "evaluate"])
def test_configurations_use_a_device_only_through_the_rule(bundle, kind):
    text = (bundle_dir(bundle) / "configs" / f"{kind}.json").read_text(encoding="utf-8")
    assert text.count("@device") == text.count("pick_device(@device)") > 0
    assert kind == "evaluate" or json.loads(text)["device"] == "$pick_device('auto')"


def test_overlays_name_devices_that_the_rule_knows():
    overlays = share_dir() / "configs" / "run"
    assert load_workflow(overlays=[overlays / "cpu.yaml"]).device == torch.device("cpu")
    assert ConfigParser.load_config_file(str(overlays / "cuda.yaml"))["device"] == "cuda:0"


@pytest.mark.parametrize("bundle", bundle_names())
def test_an_absent_device_in_a_configuration_is_the_same_sentence(bundle):
    parser = ConfigParser()
    parser.read_config(str(bundle_dir(bundle) / "configs" / "inference.json"))
    parser["device"] = ABSENT
    with pytest.raises(Exception, match="network") as error:
        parser.get_parsed_content("network")
    assert str(known_error(error.value)) == SENTENCE.format(ABSENT)


@pytest.mark.parametrize(
    "call",
    [
        lambda: load_fusion(device=ABSENT),
        lambda: load_workflow(device=ABSENT),
        lambda: fuse("pet.nii.gz", "mri.nii.gz", device=ABSENT),
    ],
)
def test_python_says_the_same_before_work(call):
    with pytest.raises(MedfuseError) as error:
        call()
    assert str(error.value) == SENTENCE.format(ABSENT)


def test_the_command_line_says_the_same_before_work(tmp_path, capsys):
    demo = bundle_dir("pet_mri_fusion") / "demo"
    pair = [str(demo / "sts_case" / f"{name}.nii.gz") for name in ("pet", "mri")]
    for command in (
        ["fuse", "--pet", pair[0], "--mri", pair[1], "--out", str(tmp_path / "out")],
        ["batch", str(demo), str(tmp_path / "out"), "participant"],
    ):
        assert cli.main([*command, "--device", ABSENT]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith(f"medfuse: error: --{SENTENCE.format(ABSENT)}")
        assert not (tmp_path / "out").exists()
