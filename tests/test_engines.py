"""What is shipped for engines that run cohorts: each file read by the engine's own parser, or run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT
from test_batch_bids import write_session

from medfuse import cli
from medfuse.about import __version__
from medfuse.arguments import FUSION_RULES
from medfuse.bundles import bundle_dir, bundle_names

ENGINES = ROOT / "engines"
TOOLS = Path(os.environ.get("MEDFUSE_ENGINES", ROOT / ".venv" / "engines")) / "bin"
BABS = """
import sys, yaml
from babs.container import Container
from babs.input_datasets import InputDatasets
from babs.system import System
config = yaml.safe_load(open(sys.argv[1]))
datasets = InputDatasets("subject", config["input_datasets"])
datasets.update_abs_paths(sys.argv[2])
container = Container(".", "medfuse-0-1-0", sys.argv[1])
container.generate_bash_run_bidsapp(sys.argv[2] + "/run.sh", datasets, "subject")
container.generate_bash_participant_job(sys.argv[2] + "/job.sh", datasets, "subject", System("slurm"))
"""


def tool(*words: object, **options) -> subprocess.CompletedProcess[str]:
    """Run a program of the engines, which has nothing of ours on its path."""
    if not TOOLS.is_dir():
        pytest.skip("the engines' parsers are not installed; `make .venv/engines/.made` does it")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= options.pop("env", {})
    command = [str(TOOLS / str(words[0])), *map(str, words[1:])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done


def commands(text: str) -> list[str]:
    """Return the commands of a container's recipe that install something, or check it."""
    return re.findall(
        r"^(?:RUN| {4}) ?((?:sha256sum|pip|medfuse) .*)$",
        text.rpartition("%post")[2].split("%environment")[0],
        re.MULTILINE,
    )


def test_the_weights_of_a_container_are_those_of_the_bundles():
    lines = dict(reversed(line.split()) for line in (ENGINES / "weights.sha256").read_text().splitlines())
    models = [
        f"bundles/{p.parent.parent.name}/models/{p.name}"
        for n in bundle_names()
        for p in bundle_dir(n).glob("models/*.pt")
    ]
    assert lines == {model: hashlib.sha256((ROOT / model).read_bytes()).hexdigest() for model in models}


def test_both_containers_take_the_same_steps_of_files_that_are_there():
    docker, apptainer = ((ENGINES / name).read_text() for name in ("Dockerfile", "apptainer.def"))
    assert commands(docker) == commands(apptainer)
    assert len(commands(docker)) == 4
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", docker, re.MULTILINE) for name in line.split()]
    placed = re.findall(r"^ {4}(\S+) /opt/medfuse/", apptainer, re.MULTILINE)
    assert sorted(copied) == sorted(placed)
    assert all((ROOT / name).exists() for name in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    hooks = ["hatch_build.py"] if "custom" in project["tool"]["hatch"]["metadata"]["hooks"] else []
    read = ["pyproject.toml", "README.md", *project["project"]["license-files"], *wheel, *hooks]
    assert set(read) <= set(copied), "a build within the container reads these"
    assert re.search("^FROM (.*)$", docker, re.MULTILINE)[1] == re.search("^From: (.*)$", apptainer, re.MULTILINE)[1]


def test_versions_and_choices_are_ours():
    descriptor = json.loads((ENGINES / "nipoppy" / "descriptor.json").read_text())
    config = json.loads((ENGINES / "nipoppy" / "config.json").read_text())
    assert descriptor["tool-version"] == config["VERSION"] == __version__
    assert f'"{__version__.replace(".", "-")}"' in (ENGINES / "babs.yaml").read_text()
    choices = {entry["id"]: entry.get("value-choices") for entry in descriptor["inputs"]}
    assert choices["fusion_rule"] == list(FUSION_RULES)
    parser = cli._parser()
    for entry in descriptor["inputs"]:
        if flag := entry.get("command-line-flag"):
            value = {"Flag": [], "Number": ["1"]}.get(entry["type"], [(entry.get("value-choices") or ["1/2"])[0]])
            assert vars(parser.parse_args(["batch", "IN", "OUT", "participant", flag, *value]))[entry["id"]] not in (
                [],
                None,
            )


@pytest.mark.full
def test_boutiques_and_nipoppy_take_theirs():
    folder = ENGINES / "nipoppy"
    assert "OK" in tool("bosh", "validate", folder / "descriptor.json").stdout
    check = "import sys; from nipoppy.pipeline_validation import check_pipeline_bundle; "
    tool("python", "-c", f"{check}check_pipeline_bundle(sys.argv[1], strict=True)", folder)
    words = ["bosh", "exec", "simulate", folder / "descriptor.json", "-i", folder / "invocation.json"]
    shown = tool(*words).stdout
    called = shlex.split(next(line for line in shown.splitlines() if "medfuse batch" in line))
    options = cli._parser().parse_args(called[called.index("batch") :])
    assert (options.level, options.resume, options.device) == ("participant", True, "cpu")
    assert options.session_label == ["[[NIPOPPY_SESSION_ID]]"]


@pytest.mark.full
def test_babs_writes_its_scripts_from_ours(tmp_path):
    tool("python", "-c", BABS, ENGINES / "babs.yaml", tmp_path)
    script = (tmp_path / "run.sh").read_text().replace("\\\n", " ")
    call = next(line for line in script.splitlines() if line.startswith("singularity run"))
    words = shlex.split(call.split("/image", 1)[1].lstrip('"'))
    options = cli._parser().parse_args(["batch", *words])
    assert (options.level, options.steps, options.participant_label) == ("participant", 1, ["${subid}"])
    assert "#SBATCH --requeue" in (tmp_path / "job.sh").read_text()
    for name in ("run.sh", "job.sh"):
        assert subprocess.run(["bash", "-n", tmp_path / name], check=False).returncode == 0


@pytest.mark.full
def test_snakebids_runs_its_workflow(tmp_path):
    for number in (1, 2, 3):
        write_session(tmp_path / "raw", f"sub-0{number}_ses-a", seed=number)
    (tmp_path / "raw" / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.1"}')
    (tmp_path / "raw" / "sub-02" / "ses-a" / "anat" / "sub-02_ses-a_T1w.nii.gz").write_bytes(b"")
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "medfuse").write_text(
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {sys.executable} -m medfuse "$@"\n'
    )
    (bin_ / "medfuse").chmod(0o755)
    path = {"PATH": f"{bin_}:{TOOLS}:{os.environ['PATH']}"}
    given = ["bids_dir=raw", "output_dir=out", "packs=2", "options=--device cpu --steps 1"]
    words = ["--snakefile", ENGINES / "snakebids" / "Snakefile", "--cores", "2"]
    tool("snakemake", *words, "--config", *given, cwd=tmp_path, env=path)
    table = (tmp_path / "out" / "cases.tsv").read_text()
    assert [line.split("\t")[1] for line in table.splitlines()] == ["state", "done", "failed", "done"]


@pytest.mark.full
def test_the_recipes_are_read_by_parsers_of_theirs():
    read = "import sys; from dockerfile_parse import DockerfileParser as P; p = P(fileobj=open(sys.argv[1], 'rb')); "
    shown = tool("python", "-c", read + "print([s['instruction'] for s in p.structure])", ENGINES / "Dockerfile").stdout
    assert {"FROM", "COPY", "RUN", "ENTRYPOINT"} < set(re.findall(r"'([A-Z]+)'", shown))
    recipe = tool("spython", "recipe", "--parser", "singularity", ENGINES / "apptainer.def").stdout
    assert 'CMD exec medfuse batch "$@"' in recipe


@pytest.mark.full
def test_the_steps_of_the_recipes_run_in_a_clean_folder(tmp_path):
    """No builder of containers is asked for: the steps are run on copies of what goes in, and nothing else is there."""
    place = tmp_path / "opt"
    for name in re.findall(r"^ {4}(\S+) /opt/medfuse/", (ENGINES / "apptainer.def").read_text(), re.MULTILINE):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, place / name)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    ours = Path(pytest.__file__).parents[1]
    (packages / "installed.pth").write_text(f"{ours}\n")  # all that constraints.txt names, torch too
    environment = {
        "PATH": f"{tmp_path / 'venv' / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path), "TORCH_INDEX": "",
        "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_DEPS": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    steps = [step for step in commands((ENGINES / "Dockerfile").read_text()) if "^torch" not in step]
    assert len(steps) == 3
    script = "\n".join(["set -eux", *steps, 'python -c "import medfuse; print(medfuse.__file__)"'])
    done = subprocess.run(
        ["bash", "-c", script], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    write_session(tmp_path / "raw", "sub-01")
    call = ["medfuse", "batch", tmp_path / "raw", tmp_path / "out", "participant", "--steps", "1", "--device", "cpu"]
    done = subprocess.run(
        list(map(str, call)), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        executable=str(tmp_path / "venv" / "bin" / "medfuse"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "1 fused" in done.stdout
    model = place / "bundles" / "pet_mri_fusion" / "models" / "model.pt"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    assert subprocess.run(["bash", "-c", steps[0]], cwd=place, capture_output=True, check=False).returncode == 1
