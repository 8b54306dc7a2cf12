"""The lint of bundles: what is shipped passes, what is hostile or broken does not, and nothing is ever evaluated."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import yaml

from medfuse import cli
from medfuse.bundles import bundle_dir, bundle_names, share_dir
from medfuse.bundles.lint import check, check_bundle, check_configs, foreign_code
from medfuse.pipeline.bundle import read_inference


def findings(tmp_path: Path, content: object, name: str = "config.json") -> list[str]:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return [str(f) for f in check_configs([path]).findings]


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A copy of a shipped bundle, without its demo."""
    return Path(shutil.copytree(bundle_dir("pet_mri_fusion"), tmp_path / "b", ignore=shutil.ignore_patterns("demo")))


def test_the_shipped_bundle_passes():
    report = check_bundle("pet_mri_fusion")
    assert report.findings == ()
    listed = [text for _, _, text in report.code]
    assert "medfuse.inferers.FusionInferer" in listed
    assert "$@evaluator.run()" in listed


@pytest.mark.parametrize("name", bundle_names())
def test_all_shipped_configurations_pass(name):
    assert [f for f in check_bundle(name).findings if f.file.startswith("configs")] == []


def test_all_shipped_overlays_pass():
    paths = sorted((share_dir() / "configs").rglob("*.yaml"))
    assert len(paths) > 10
    for path in paths:
        assert check([path]).findings == (), path.name


@pytest.mark.parametrize(
    "text",
    [
        "$__import__('os').system('touch x')",
        "$import os",
        "$import os.path",
        "$from os import system",
        "$import subprocess as np",
        "$from pathlib import os",
        "$import torch as t",
        "$from torch import hub",
        "$torch.hub.load('a', 'b')",
        "$from . import x",
        "$pathlib.os.system('x')",
        "$eval('1')",
        "$exec('1')",
        "$open('x').read()",
        "$compile('1', '', 'eval')",
        "$getattr(torch, 'x')",
        "$globals()",
        "$vars()",
        "$().__class__.__bases__[0].__subclasses__()",
        "$lambda x: x.__globals__",
        "$lambda: open('x')",
        "$[o for o in [].__class__.__mro__]",
        "$'{0.__class__}'.format(1)",
        "$torch.load('x')",
        "$torch.load('x', weights_only=False)",
        "$map(torch.load, ['x'])",
        "$torch.ops.load_library('x')",
        "$pathlib.Path('x').unlink()",
        "$pathlib.Path('x').write_text('y')",
        "$monai.utils.optional_import('os')",
        "$monai.bundle.load('x')",
        "$numpy.load('x', allow_pickle=True)",
        "$unknown(1)",
        "$(x := 1)",
        "$import torch; import os",
        "$lambda",
        "$" + "(" * 300 + ")" * 300,
        "$f\"{__import__('os')}\"",
        "$monai.apps.download_url('x')",
        "$torch.classes.load_library('x')",
        "$from monai.utils.module import optional_import",
        "$functools.os.system('x')",
    ],
)
def test_hostile_expressions_are_found_and_not_run(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    assert findings(tmp_path, {"a": text}), text
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.run",
        "builtins.eval",
        "eval",
        "exec",
        "open",
        "pickle.load",
        "Exception",
        "torch.hub.load",
        "torch.load",
        "monai.bundle.load",
        "monai.utils.optional_import",
        "$torch.nn.Identity",
        "@a",
        "medfuse.cli.sys.exit",
        "shutil.rmtree",
        "torch._C._foo",
        "pathlib.Path.unlink",
        ["os"],
        3,
        "",
        "a b",
        "posix.system",
        "torch.os.system",
        "numpy.load",
    ],
)
def test_hostile_targets_are_found(tmp_path, target):
    assert findings(tmp_path, {"a": {"b": [{"_target_": target, "path": "x"}]}}), target


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": "@b"}, "a reference must name a key, got @b"),
        ({"a": "$@b::c + 1", "b": {"d": 1}}, "a reference must name a key, got @b::c"),
        ({"a": "%b"}, "a macro must name a key"),
        ({"a": "%/etc/passwd::x"}, "a macro must name a key"),
        ({"a": {"_target_": "Compose", "_mode_": "debug"}}, "_mode_ must be default, callable or partial, got 'debug'"),
        ("{", "must be a readable mapping"),
        ("[1]", "must be a readable mapping"),
        ('{"a": 1, "a": 2}', "each name must come once"),
        ("[" * 100_000 + "]" * 100_000, "must be a readable mapping"),
    ],
)
def test_broken_configurations_are_found(tmp_path, content, message):
    assert message in findings(tmp_path, content)[0]


@pytest.mark.parametrize(
    "content",
    [
        "a: !!python/object/apply:os.system ['touch x']",
        "a: &a [*a]",
        "a: 1\na: 2",
        "a: [",
        "- 1",
        "a: 2020-13-41",
        "a: !x 1",
    ],
)
def test_broken_yaml_is_found(tmp_path, content):
    (finding,) = findings(tmp_path, content, "config.yaml")
    assert finding.startswith("config.yaml: must be a readable mapping in JSON or YAML, got ")
    assert "\n" not in finding


def test_plain_configurations_pass(tmp_path):
    content = {
        "imports": ["$import torch", "$from medfuse.io import find_cases"],
        "root": "x@y.org",
        "price": "5 $",
        "a": {"b": [1, 2], "c": "@::b", "d": "$@a::b[0] + sum(@a#b)"},
        "e": "%a::b",
        "net": {"_target_": "torch.nn.Linear", "in_features": "@a::b::0", "out_features": 2},
        "load": "$torch.load(@root, weights_only=True)",
        "list": "$[x * 2 for x in @a::b if x > 1]",
        "f": "$lambda batch, n=2: (batch['image'], {k: v for k, v in batch.items()}, n)",
        "cases": "$find_cases(@root)",
    }
    assert findings(tmp_path, content) == []


def test_a_reference_may_be_met_by_another_file(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}')
    (tmp_path / "b.yaml").write_text("b: '@a'\nc#d: 1\ne: '@c::d'\n")
    assert check([tmp_path / "a.json", tmp_path / "b.yaml"]).findings == ()
    assert len(check([tmp_path / "b.yaml"]).findings) == 1


def test_a_bundle_must_be_complete(bundle):
    for name in ("LICENSE", "docs/README.md", "configs/inference.json"):
        (bundle / name).unlink()
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    del metadata["task"]
    metadata |= {"version": "9.9.9", "changelog": ["x"], "authors": ""}
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata))
    found = [str(f) for f in check_bundle(bundle).findings]
    for text in (
        "LICENSE: must be there",
        "docs/README.md: must be there",
        "configs/inference.json: must be there",
        "metadata.json: task: must be there",
        "authors: must be there",
        "changelog: must be of another type",
    ):
        assert any(text in f for f in found), text


def test_code_of_others_is_named_and_that_of_shipped_configurations_is_not(tmp_path, caplog, bundle):
    own = [bundle_dir("pet_mri_fusion") / "configs" / "inference.json", *(share_dir() / "configs").rglob("*.yaml")]
    (tmp_path / "plain.yaml").write_text("steps: 2")
    (tmp_path / "code.yaml").write_text("steps: $1 + 1")
    assert foreign_code([*own, tmp_path / "plain.yaml"]) == []
    assert foreign_code([*own, tmp_path / "code.yaml"]) == ["code.yaml"]
    assert foreign_code([bundle / "configs" / "inference.json"]) == ["inference.json"]  # a copy is another's
    read_inference("pet_mri_fusion", overlays=[tmp_path / "plain.yaml"])
    assert not caplog.records
    read_inference("pet_mri_fusion", overlays=[tmp_path / "code.yaml"])
    assert "code.yaml must be of someone you trust, got code that runs with your rights" in caplog.text


def test_what_is_shipped_must_still_pass_the_check(bundle):
    path = bundle / "configs" / "inference.json"
    path.write_text(json.dumps({"initialize": ["$print(__import__('sys'))"]}))
    shipped = bundle.parent / "bundles" / "b"
    shutil.copytree(bundle, shipped)
    with patch("medfuse.bundles.lint.share_dir", return_value=bundle.parent):
        assert foreign_code([shipped / "configs" / "inference.json"]) == ["inference.json"]
        shutil.copy(bundle_dir("pet_mri_fusion") / "configs" / "inference.json", shipped / "configs")
        assert foreign_code([shipped / "configs" / "inference.json"]) == []


class Evil:
    """What a pickle may hold."""

    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


def test_weights_with_code_are_found_and_not_run(bundle, monkeypatch):
    monkeypatch.chdir(bundle)
    torch.save({"a": Evil()}, bundle / "models" / "model.pt")
    (bundle / "models" / "more.pkl").write_bytes(b"x")
    found = [str(f) for f in check_bundle(bundle).findings]
    assert found[0].startswith("models/model.pt: must load with weights_only")
    assert found[1].startswith("models/more.pkl: must be weights in .pt")
    assert not (bundle / "evil").exists()


@pytest.mark.parametrize(
    ("old", "new"), [("(sys.stdout,)", "(__import__('os').system('x'),)"), ("class=StreamHandler", "class=os.system")]
)
def test_hostile_logging_is_found(bundle, old, new):
    path = bundle / "configs" / "logging.conf"
    path.write_text(path.read_text().replace(old, new))
    assert [f.file for f in check_bundle(bundle).findings] == ["configs/logging.conf"]


def test_the_command_prints_a_line_for_each_finding(bundle, tmp_path):
    run = [sys.executable, "-m", "medfuse", "bundle", "check"]
    sound = subprocess.run([*run, str(bundle)], capture_output=True, text=True, check=False)
    assert (sound.returncode, sound.stdout.splitlines()[-1].split(", ")[1]) == (0, "0 findings")
    config = bundle / "configs" / "inference.json"
    content = json.loads(config.read_text())
    content["initialize"] = ["$__import__('os').system('touch evil')"]
    config.write_text(json.dumps(content))
    hostile = subprocess.run([*run, str(bundle), "--list"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert hostile.returncode == 1
    assert "configs/inference.json: initialize::0: $__import__('os').system('touch evil')" in hostile.stdout
    assert "initialize::0: a name must be imported" in hostile.stdout
    assert "Traceback" not in hostile.stderr
    assert not (tmp_path / "evil").exists()


def test_what_is_neither_bundle_nor_configuration_is_refused(tmp_path, capsys):
    for name in ("absent.json", "absent"):
        assert cli.main(["bundle", "check", str(tmp_path / name)]) == 2
        assert "medfuse: error:" in capsys.readouterr().err


def test_the_loader_of_yaml_is_a_safe_one():
    from medfuse.bundles import UniqueKeyLoader

    assert yaml.load("a: [1, {b: 2}]", UniqueKeyLoader) == {"a": [1, {"b": 2}]}
    with pytest.raises(yaml.YAMLError):
        yaml.load("!!python/name:os.system", UniqueKeyLoader)
