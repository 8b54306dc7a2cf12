"""The rules of the MONAI Model Zoo: what is shipped keeps them, and a bundle that breaks one is told so."""

import json
import re
import shutil
import tomllib
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

import medfuse
from medfuse.bundles import bundle_dir, bundle_names, zoo
from medfuse.bundles.lint import check_bundle, check_configs

ROOT = Path(__file__).resolve().parents[2]
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line
)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def metadata(name: str) -> dict:
    return json.loads((bundle_dir(name) / "configs" / "metadata.json").read_text(encoding="utf-8"))


def messages(root: Path) -> list[str]:
    return [str(finding) for finding in check_bundle(root).findings]


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A copy of a shipped bundle, without its demo."""
    return Path(shutil.copytree(bundle_dir("ir_vis_fusion"), tmp_path / "b", ignore=shutil.ignore_patterns("demo")))


def change(bundle: Path, **fields: object) -> list[str]:
    path = bundle / "configs" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return messages(bundle)


@pytest.mark.parametrize("name", bundle_names())
def test_shipped_bundles_keep_the_rules_of_the_zoo(name):
    assert messages(bundle_dir(name)) == []
    for path in bundle_dir(name).rglob("*"):
        assert path.is_dir() or path.stat().st_size < 25_000_000


@pytest.mark.parametrize("name", bundle_names())
def test_metadata_name_every_dependency_at_the_version_that_was_tested(name):
    """The zoo installs exactly these packages; a run imports what the package depends on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {normal(re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0]) for text in project["dependencies"]}
    extras = {"fire": "fire", "ignite": "pytorch-ignite", "nibabel": "nibabel", "pydicom": "pydicom"}  # of MONAI
    stated, required = metadata(name), metadata(name)["required_packages_version"]
    of_monai = next(text for text in project["dependencies"] if text.startswith("monai["))
    assert set(re.search(r"\[(.*)\]", of_monai)[1].split(",")) == set(extras)
    assert {normal(package) for package in required} == (wanted | set(extras.values()) | {"medfuse"}) - zoo._FIRST
    pins = {normal(package): version for package, version in PINS.items()} | {"medfuse": medfuse.__version__}
    assert {p: v for p, v in required.items() if pins[normal(p)] != v} == {}
    first = [stated[f"{key}_version"] for key in ("monai", "pytorch", "numpy")]
    assert first == [pins["monai"], pins["torch"], pins["numpy"]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": "1.0"}, "version: must be three numbers such as 1.0.0, got 1.0"),
        ({"version": 1}, "version: must be of another type, got int"),
        ({"version": "9.9.9"}, "changelog: must tell of the version, got others"),
        ({"authors": ["one", "two"]}, "authors: must be of another type, got list"),
        ({"references": "one"}, "references: must be of another type, got str"),
        ({"references": [1]}, "references: must be of another type, got list"),
        ({"eval_metrics": "none"}, "eval_metrics: must be of another type, got str"),
        ({"data_type": 3}, "data_type: must be of another type, got int"),
        ({"schema": ""}, "schema: must be there, got none"),
        ({"optional_packages_version": {}}, "must be required_packages_version"),
        ({"required_packages_version": {}}, "required_packages_version: must be there, got none"),
        ({"required_packages_version": {"medfuse": ">=0.2"}}, "must be one version such as 1.2.3, got >=0.2"),
        ({"required_packages_version": {"medfuse": "0.2.0"}}, "must name pytorch-ignite, whose module ignite"),
        ({"network_data_format": {"inputs": {}}}, "network_data_format::inputs: must be an object with a format"),
        ({"fusion_data_format": []}, "fusion_data_format::outputs: must be an object with a format"),
        ({"data_source": None}, "data_source: must be of another type, got NoneType"),
        ({"supported_apps": None}, "supported_apps: must be of another type, got NoneType"),
        ({"version": ["0.1.0"]}, "version: must be of another type, got list"),
        ({"changelog": ["0.1.0"]}, "changelog: must be of another type, got list"),
    ],
)
def test_metadata_are_held_against_the_schema(bundle, fields, message):
    assert any(message in found for found in change(bundle, **fields))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_channels", "12", "must be of another kind, got '12'"),
        ("num_channels", True, "must be of another kind, got True"),
        ("num_channels", 3, "channel_def: must name channels 0 to 2"),
        ("spatial_shape", "16*n", "must be of another kind"),
        ("spatial_shape", ["16*x"], "must be of another kind"),
        ("spatial_shape", [16.5], "must be of another kind"),
        ("value_range", ["0"], "must be of another kind"),
        ("is_patch_data", "no", "must be true or false"),
        ("channel_def", ["a"], "must name each channel"),
        ("dtype", None, "must be of another kind, got None"),
        ("format", ..., "must be there, got none"),
    ],
)
def test_formats_of_tensors_are_held_against_the_schema(bundle, key, value, message):
    formats = metadata("ir_vis_fusion")["network_data_format"]
    formats["inputs"]["image"][key] = value
    if value is ...:
        del formats["inputs"]["image"][key]
    found = [text for text in change(bundle, network_data_format=formats) if "network_data_format" in text]
    assert len(found) == 1 and f"inputs::image::{message.split(':')[0] if ': ' in message else key}" in found[0]
    assert message in found[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "configs/metadata.json: must be readable JSON, got"),
        ("[1]", "configs/metadata.json: must be an object, got list"),
    ],
)
def test_metadata_that_are_no_object_are_told(bundle, text, message):
    (bundle / "configs" / "metadata.json").write_text(text)
    assert any(found.startswith(message) for found in messages(bundle))


def test_packages_and_tensors_of_another_type_are_told(bundle):
    assert "configs/metadata.json: required_packages_version: must be of another type, got list" in change(
        bundle, required_packages_version=["medfuse"]
    )
    formats = metadata("ir_vis_fusion")["network_data_format"]
    formats["inputs"]["image"] = ["image"]
    told = "configs/metadata.json: network_data_format::inputs::image: must be an object, got list"
    assert told in change(bundle, network_data_format=formats)


def test_modalities_that_nobody_knows_are_told(bundle):
    found = change(bundle, modalities=["visible", "sonar"])
    assert any("modalities: must be two of medfuse.io.modalities, got others" in text for text in found)


@pytest.mark.parametrize("wrong", [None, {}, {"pred": None}, {"pred": {"type": "image"}}])
def test_outputs_after_postprocessing_are_held_against_the_schema_where_they_are_told(bundle, wrong):
    """`network_io` of the schema: `post_processed_outputs` is optional, and formats as those of the outputs."""
    formats = metadata("ir_vis_fusion")["network_data_format"]
    right = formats | {"post_processed_outputs": formats["outputs"]}
    assert change(bundle, network_data_format=right) == []
    found = change(bundle, network_data_format=formats | {"post_processed_outputs": wrong})
    assert found and all("network_data_format::post_processed_outputs" in text for text in found)


def test_shapes_and_values_that_the_schema_allows_pass(bundle):
    formats = metadata("ir_vis_fusion")["network_data_format"]
    formats["inputs"]["image"]["spatial_shape"] = ["*", "2**p*n", 16]
    formats["inputs"]["steps"] = 3
    assert change(bundle, network_data_format=formats, references=["a", "b"], eval_metrics={"psnr": 30}) == []


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ("/data/set", "/data/set"),
        ("~/data", "~/data"),
        ("C:\\data", "C:\\data"),
        ("file:///data", "file:///data"),
        ("$pathlib.Path('/data') / 'x'", "/data"),
        ("$'/data/' + @name", "/data/"),
        ("$f'{@a}' if @a else '/tmp/x'", "/tmp/x"),
    ],
)
def test_paths_of_one_machine_are_found(tmp_path, value, got):
    (tmp_path / "c.json").write_text(json.dumps({"name": "n", "a": "a", "place": value}))
    found = [f.message for f in check_configs([tmp_path / "c.json"]).findings]
    assert f"a path must be relative to the bundle, got {got}" in found


@pytest.mark.parametrize("value", ["$@root + '/demo'", "$f'{@root}/demo'", "a/b", "1/2", "$@root + '/a' + '/b'", "/"])
def test_paths_within_a_bundle_pass(tmp_path, value):
    (tmp_path / "c.json").write_text(json.dumps({"root": ".", "place": value}))
    assert check_configs([tmp_path / "c.json"]).findings == ()


def test_files_are_there_and_small_and_pages_stay_inside(bundle):
    for name in zoo.REQUIRED_FILES:
        (bundle / name).rename(bundle / f"{name}.old")
    found = messages(bundle)
    assert [f for f in found if "must be there, got no file" in f] == [
        f"{name}: must be there, got no file" for name in zoo.REQUIRED_FILES
    ]
    for name in zoo.REQUIRED_FILES:
        (bundle / f"{name}.old").rename(bundle / name)
    with (bundle / "docs" / "README.md").open("a") as page:
        page.write("[in](data_license.txt), [out](../../other/README.md), [web](https://monai.io), [here](#data)")
    with patch.object(zoo, "MAX_FILE", 5_000_000):
        found = messages(bundle)
    assert found == [
        "models/model.pt: must be below 5 MB or in large_files.yml, got 6.0 MB",
        "docs/README.md: a link must stay in the bundle, got ../../other/README.md",
    ]


@pytest.mark.parametrize("content", [{"model": {"a": torch.zeros(1)}}, [torch.zeros(1)], {}, {"a": 1}, torch.zeros(1)])
def test_weights_are_a_plain_state_dict(bundle, content):
    torch.save(content, bundle / "models" / "model.pt")
    assert messages(bundle) == [
        "models/model.pt: must be a plain state dict, a tensor by each name, got another content"
    ]
