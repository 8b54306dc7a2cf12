from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medfuse import cli
from medfuse.completion import SHELLS
from medfuse.defaults import COMMANDS, FIELDS, find_defaults


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    """Words of a call that fuses two small images."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32), np.uint8))
        image.save(tmp_path / name / "a.png")
    return ["--source1", str(tmp_path / "one"), "--source2", str(tmp_path / "two")]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The standard place of defaults."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "config" / "medfuse" / "defaults.yaml"
    path.parent.mkdir(parents=True)
    return path


def fused(pair, out: Path, *words: str) -> dict:
    assert cli.main(["images", *pair, "--out", str(out), *words]) == 0
    return json.loads((out / "images.json").read_text())


def test_defaults_stand_in_for_options_that_a_call_leaves_out_and_the_record_says_which(pair, place, tmp_path):
    place.write_text("degradation: noise\nsteps: 2\nn4: true\nimages:\n  steps: 1\n  fusion-rule: convex\n")
    record = fused(pair, tmp_path / "a")
    assert (record["degradation"]["name"], record["steps"]) == ("noise", 1)  # a command's own goes first
    taken = {name: record["defaults"]["values"][name] for name in ("steps", "fusion_rule")}
    assert taken == {"steps": 1, "fusion_rule": "convex"}
    assert record["defaults"]["file"] == "defaults.yaml"
    record = fused(pair, tmp_path / "b", "--steps", "1", "--degradation", "none")
    assert list(record["defaults"]["values"]) == ["fusion_rule"]  # what the call says did not come from it
    record = fused(pair, tmp_path / "c", "--no-defaults", "--steps", "1")
    assert "defaults" not in record
    assert record["degradation"].get("name") != "noise"


def test_a_file_that_is_named_is_read_in_place_of_the_standard_one(pair, place, tmp_path):
    place.write_text("stepps: 3\n")
    (tmp_path / "mine.yaml").write_text("steps: 1\n")
    for words in (["--defaults", str(tmp_path / "mine.yaml")], [f"--defaults={tmp_path / 'mine.yaml'}"]):
        record = fused(pair, tmp_path / words[0][-3:], *words)
        assert record["defaults"] == {"file": "mine.yaml", "values": {"steps": 1}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stepps: 3", "write steps, or remove it"),
        ("images: {stepps: 3}", "A field of images in the defaults"),
        ("imges: {steps: 3}", "write images, or remove it"),
        ("out: here", "must be an option that may have one, got 'out'"),
        ("replace: true", "got 'replace'"),
        ("overlay: [a.yaml]", "got 'overlay'"),
        ("steps: 0", "steps of fuse in the defaults must be as its option takes it, got '0'"),
        ("steps: true", "a word or a number, got 'True'"),
        ("steps: [1, 2]", "a word or a number"),
        ("n4: 1", "n4 of fuse in the defaults must be true or false, got '1'"),
        ("palette: pink", "one of oklab, hot_iron"),
        ("images: 3", "images in the defaults must be a mapping"),
        ("- steps", "must hold a mapping, got list"),
        ("steps: 1\nsteps: 2", "each key must come once"),
        ("steps: !!python/object/apply:os.getcwd []", "must be valid YAML"),
        ("a: [", "must be valid YAML"),
        ("steps: !!int ''", "a value must be of its tag"),  # PyYAML: IndexError, KeyError, AttributeError
        ("steps: !!bool maybe", "a value must be of its tag"),
        ("steps: !!timestamp x", "a value must be of its tag"),
        ("bundle: &a [x]\nsteps: [*a, *a]", "a word or a number, got list"),  # aliases make much of little
        ("images: [1]", "images in the defaults must be a mapping, got list"),
        ("#" * 70_000, "more than 65536 bytes"),
        ("palette: $(id)", "one of oklab"),
    ],
)
def test_what_is_no_default_is_refused_by_name_before_any_work(pair, place, tmp_path, capsys, text, said):
    place.write_text(text)
    assert cli.main(["images", *pair, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_blend_waits_for_a_palette_that_it_can_blend(pair, place, tmp_path):
    """With the colours of OKLab there is nothing to blend, and a call could not take the default back."""
    place.write_text("blend: alpha\npalette: hot_iron\n")
    record = fused(pair, tmp_path / "a", "--steps", "1", "--palette", "oklab")
    assert "defaults" not in record
    record = fused(pair, tmp_path / "b", "--steps", "1")
    assert record["defaults"]["values"] == {"palette": "hot_iron", "blend": "alpha"}
    place.write_text("blend: alpha\n")
    assert "defaults" not in fused(pair, tmp_path / "c", "--steps", "1")


def test_a_home_that_may_not_be_entered_holds_no_defaults(place):
    """As where a container runs for another user with the HOME of root: nobody has asked for a file."""
    place.write_text("steps: 1\n")
    before = os.geteuid()
    place.parent.chmod(0)
    try:
        if before == 0:
            os.seteuid(65534)
        assert find_defaults(["images"]).path is None
    finally:
        os.seteuid(before)
        place.parent.chmod(0o700)
    assert find_defaults(["images"]).path == place


def test_commands_without_defaults_and_help_come_through_a_broken_file(place, capsys):
    place.write_text("stepps: 3\n")
    assert cli.main(["info"]) == 0
    with pytest.raises(SystemExit) as stopped:
        cli.main(["images", "--no-defaults", "--help"])
    assert stopped.value.code == 0
    assert "--no-defaults" in capsys.readouterr().out


def test_no_file_an_empty_one_and_a_missing_one(pair, place, tmp_path, capsys):
    assert "defaults" not in fused(pair, tmp_path / "a", "--steps", "1")
    place.write_text("# nothing\n")
    assert "defaults" not in fused(pair, tmp_path / "b", "--steps", "1")
    assert cli.main(["images", *pair, "--out", str(tmp_path / "c"), "--defaults", "nowhere.yaml"]) == 2
    assert "--defaults must be a file that can be read, got 'nowhere.yaml'" in capsys.readouterr().err


def test_an_abbreviation_is_refused_and_loud_words_beat_a_quiet_default(pair, place, tmp_path, capsys):
    place.write_text("quiet: true\nsteps: 1\n")
    assert cli.main(["images", *pair, "--out", str(tmp_path / "a"), "--no-def"]) == 2
    assert "must be spelled out" in capsys.readouterr().err
    assert list(fused(pair, tmp_path / "b", "--verbose")["defaults"]["values"]) == ["steps"]
    assert "1 image," in capsys.readouterr().out
    fused(pair, tmp_path / "c")
    assert capsys.readouterr().out == ""


def test_a_default_bundle_makes_the_options_of_fuse(place, capsys):
    place.write_text("bundle: ir_vis_fusion\n")
    with pytest.raises(SystemExit):
        cli.main(["fuse", "--help"])
    at_home = capsys.readouterr().out
    place.unlink()
    with pytest.raises(SystemExit):
        cli.main(["fuse", "--help"])
    assert at_home != capsys.readouterr().out


def test_every_field_is_an_option_of_a_command():
    commands = cli._parser()._subparsers._group_actions[0].choices
    known = {action.dest for name in COMMANDS for action in commands[name]._actions}
    assert set(FIELDS) <= known


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_commands_options_and_choices(shell, capsys):
    pytest.importorskip("shtab")
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("batch", "degradation", "hot_iron", "no-defaults"):
        assert word in script
    if shell == "bash":
        done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_bash_completes_a_command(tmp_path, capsys):
    pytest.importorskip("shtab")
    cli.main(["completion", "bash"])
    (tmp_path / "medfuse.bash").write_text(capsys.readouterr().out)
    ask = "source medfuse.bash; COMP_WORDS=(medfuse est); COMP_CWORD=1; set -- $(complete -p medfuse)\n"
    ask += "while [ $1 != -F ]; do shift; done; $2 medfuse est medfuse; echo ${COMPREPLY[@]}"
    done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["estimate"]


@pytest.mark.parametrize(
    ("shell", "ask", "told"),
    [
        ("zsh", "fpath=($PWD $fpath); autoload -Uz compinit; compinit -D -u; print -r -- $_comps[medfuse]", "_medfuse"),
        ("tcsh", "source _medfuse; complete medfuse", "estimate"),
    ],
)
def test_the_other_shells_take_their_scripts(tmp_path, capsys, shell, ask, told):
    pytest.importorskip("shtab")
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed; its Debian package is in .ci/run")
    cli.main(["completion", shell])
    (tmp_path / "_medfuse").write_text(capsys.readouterr().out)
    done = subprocess.run([shell, "-f", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told in done.stdout
    assert done.stderr == ""


def test_completion_without_shtab_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["completion", "bash"]) == 2
    assert "pip install 'medfuse[completion]'" in capsys.readouterr().err


@pytest.mark.skipif("COVERAGE_RUN" in os.environ, reason="`make coverage` takes processor time of its own")
@pytest.mark.parametrize("words", [["fuze"], ["batch", "a", "b", "particpant"], ["images", "--sorce1", "a"]])
def test_a_typo_costs_less_than_three_tenths_of_a_second_of_cpu(place, words):
    """With a file of defaults to read; the least of up to eight, as other work on the machine only adds to it."""
    place.write_text("steps: 1\nimages: {palette: oklab}\n")
    times = []
    while len(times) < 8 and min(times, default=1) >= 0.3:
        before = os.times()
        done = subprocess.run([sys.executable, "-m", "medfuse", *words], capture_output=True, check=False)
        after = os.times()
        times.append(after.children_user - before.children_user + after.children_system - before.children_system)
        assert done.returncode == 2
    assert min(times) < 0.3
