"""What a user names, and what a file of data holds, is never read as an expression, whichever the way in.

MONAI's configuration language evaluates a text that begins with `$`, calls the `_target_` of a mapping, looks up `@`
and `%`, and makes `::` of `#`. The markers are harmless: each would make a file MARK in the working folder.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from medfuse import cli
from medfuse.bundles import bundle_dir, load_spec
from medfuse.errors import BundleError, DegradationError, known_error
from medfuse.io import discover
from medfuse.pipeline import fuse, load_fusion, load_workflow, run_batch, run_bundle
from medfuse.pipeline.bundle import effective, set_values

TOUCH = "$__import__('pathlib').Path('MARK').touch() or 'x'"
TEXTS = (TOUCH, "$x", "@x", "@", "%x", "%x.json::a", "a#b", "#", "@network_def", "$@steps", "%steps", "a@steps")
CALL = {"_target_": "pathlib.Path.touch", "self": "$__import__('pathlib').Path('MARK')"}
SPEC = {"version": 1, "name": TOUCH, "description": "%steps", "source1": [], "source2": []}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Work in an empty folder, in which no marker may have been made in the end."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "MARK").exists()


@pytest.fixture
def home(here) -> Path:
    """A folder with a hostile name, and in it a case folder, a mask, a specification, and two folders of images."""
    home = here / TOUCH
    rng = np.random.default_rng(0)
    r = np.linalg.norm(np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (20, 24, 4)), indexing="ij")), axis=0)
    (home / "a").mkdir(parents=True)
    for name, top in (("mri", 900.0), ("pet", 7.5)):
        volume = top * (r < 0.8) + rng.uniform(0, 0.1 * top, r.shape)
        nib.save(
            nib.Nifti1Image(volume.astype(np.float32), np.diag([2.0, 2.0, 3.0, 1.0])), home / "a" / f"{name}.nii.gz"
        )
    nib.save(nib.Nifti1Image((r < 0.5).astype(np.uint8), np.diag([2.0, 2.0, 3.0, 1.0])), home / "a" / "mask.nii.gz")
    (home / "a" / "case.json").write_text('{"aligned": true, "pet_unit": "SUV"}')
    (home / "%steps.json").write_text(json.dumps(SPEC))
    for kind in ("visible", "infrared"):
        (home / kind).mkdir()
        for name in ("@steps#", "$x", "a$b$"):
            Image.fromarray(rng.integers(0, 255, (40, 36), np.uint8)).save(home / kind / f"{name}.png")
    return home


def record(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.parametrize("value", [*TEXTS, CALL, [CALL, TOUCH], {"a": {"b": [CALL, "@x"]}}], ids=str)
def test_a_finished_value_is_handed_on_as_it_is(value):
    parser = ConfigParser(
        {
            "given": 1,
            "place": "$@given if isinstance(@given, list) else [@given]",
            "part": {"_target_": "builtins.dict", "a": "@given", "b": {"_target_": "builtins.dict", "c": "@given"}},
            "copy": "%part",
        }
    )
    set_values(parser, {"given": 0})
    set_values(parser, {"given": value})
    assert parser.get_parsed_content("given") is value
    assert parser.get_parsed_content("place") == (value if isinstance(value, list) else [value])
    for key in ("part", "copy"):
        found = parser.get_parsed_content(key)
        assert found["a"] is value and found["b"]["c"] is value
    assert effective(parser)["given"] is value


def test_fuse(home, capsys):
    out = Path(f"%out#{TOUCH}")
    case = home / "a"
    call = ["--pet", str(case / "pet.nii.gz"), "--mri", str(case / "mri.nii.gz"), "--mask", str(case / "mask.nii.gz")]
    given = ["--out", str(out), "--steps", "1", "--aligned", "--degradation", str(home / "%steps.json")]
    assert cli.main(["fuse", *call, *given]) == 0
    assert f"results: {(out / 'case').resolve()}" in capsys.readouterr().out
    found = record(out / "case" / "case.json")
    assert (found["degradation"]["name"], found["degradation"]["description"]) == (TOUCH, "%steps")
    assert sorted(p.name for p in Path().iterdir()) == sorted([TOUCH, out.parts[0]])

    for text in TEXTS:
        assert cli.main(["fuse", *call, "--out", "o", "--case", text]) == 2
        if not text.startswith("%"):  # as %ID/g does
            assert cli.main(["fuse", *call, "--out", "o", "--pet-unit", text]) == 2
        assert cli.main(["fuse", *call, "--out", "o", "--degradation", text]) == 2
        assert cli.main(["fuse", "--dicom", text, "--out", "o", "--pet-series", text]) == 2
    assert not Path("o").exists()


@pytest.mark.parametrize(
    "spec",
    [
        {**SPEC, **CALL},
        {**SPEC, "_target_": "x"},
        {**SPEC, "name": CALL},
        {**SPEC, "source1": [{"noise": CALL}]},
        {**SPEC, "source1": [{"blur": {"sigma_px": TOUCH}}]},
        {**SPEC, "source1": [CALL]},
        {**SPEC, "source1": TOUCH},
        {**SPEC, "source1": {"_target_": "builtins.list"}},
        {**SPEC, "version": TOUCH},
        {"degradation": {**SPEC, "_mode_": "debug"}},
    ],
    ids=str,
)
def test_a_specification_that_is_no_data_is_refused_in_every_way_in(home, spec, capsys):
    path = home / "spec.yaml"
    path.write_text(json.dumps(spec))
    case = home / "a"
    given = ["--out", "o", "--degradation", str(path)]
    calls = (
        ["fuse", "--pet", str(case / "pet.nii.gz"), "--mri", str(case / "mri.nii.gz"), *given],
        ["batch", str(home), "o", "participant", *given[2:]],
        ["images", "--source1", str(home / "visible"), "--source2", str(home / "infrared"), *given],
    )
    for call in calls:
        assert cli.main(call) == 2
        error = capsys.readouterr().err
        assert error.startswith("medfuse: error: ") and error.count("\n") == 1
    given = spec.get("degradation", spec)
    with pytest.raises(DegradationError):
        load_workflow(degradation=given)
    with pytest.raises(DegradationError):
        load_fusion()(torch.rand(1, 2, 32, 32), degradation=given, steps=1)
    with pytest.raises(DegradationError):
        run_batch(discover(home).cases, "o", degradation=given, steps=1)
    assert not Path("o").exists()


def test_batch_and_resume(home, quick):
    overlay = home / "$x@steps.yaml"
    overlay.write_text("steps: 1\n")
    out = Path("@steps#") / TOUCH
    call = ["batch", str(home), str(out), "participant", "--degradation", str(home / "%steps.json"), "--overlay"]
    assert cli.main([*call, str(overlay)]) == 0
    assert record(out / "a" / "a.json")["degradation"]["name"] == TOUCH
    first = record(out / "a" / "a_done.json")
    assert cli.main([*call, str(overlay), "--resume"]) == 0
    assert record(out / "a" / "a_done.json") == first
    other = home / "other.json"
    other.write_text(json.dumps({**SPEC, "name": "another"}))
    call[call.index("--degradation") + 1] = str(other)
    assert cli.main([*call, str(overlay), "--resume"]) == 0
    second = record(out / "a" / "a_done.json")["based_on"]["configuration"]
    assert second != first["based_on"]["configuration"]  # the degradation is a part of it


def test_fields_of_cases_and_manifests(home, quick):
    fields = home / "a" / "case.json"
    for name in ("aligned", "pet_unit", "pet_series", "_target_", "degradation", TOUCH):
        for value in (TOUCH, CALL, "@steps"):
            fields.write_text(json.dumps({name: value}))
            (case,) = discover(home).cases
            assert set(case) == {"case", "problem"} and "MARK" not in case["problem"]
    fields.unlink()
    table = Path("%steps.tsv")
    rows = [f"{TOUCH}/a/mri.nii.gz\t{TOUCH}/a/pet.nii.gz\ttrue"]
    rows += [f"{t}\t{t}\t{t}" for t in TEXTS]
    table.write_text("case\tmri\tpet\taligned\n" + "\n".join(f"c{i}\t{row}" for i, row in enumerate(rows)))
    assert cli.main(["batch", str(table), "$x", "participant", "--steps", "1"]) == 1
    states = [line.split("\t")[:2] for line in Path("$x/cases.tsv").read_text().splitlines()[1:]]
    assert sorted(states)[0] == ["c0", "done"] and sum(s == "failed" for _, s in states) == len(TEXTS)


def test_units_of_bids_sidecars(home):
    for kind, name in (("anat", "mri"), ("pet", "pet")):
        folder = Path("bids/sub-1") / kind
        folder.mkdir(parents=True)
        shutil.copy(home / "a" / f"{name}.nii.gz", folder / f"sub-1_{'T1w' if name == 'mri' else 'pet'}.nii.gz")
    for unit in (*(text for text in TEXTS if not text.startswith("%")), CALL):
        Path("bids/sub-1/pet/sub-1_pet.json").write_text(json.dumps({"Units": unit}))
        (case,) = discover("bids").cases
        assert set(case) == {"case", "problem"}


def test_images_and_evaluate(home, capsys):
    given = ["--degradation", str(home / "%steps.json"), "--steps", "1", "--out", TOUCH + "#"]
    pair = ["--source1", str(home / "visible"), "--source2", str(home / "infrared")]
    assert cli.main(["images", *pair, *given]) == 0
    out = Path(TOUCH + "#")
    found = record(out / "images.json")
    assert found["images"] == ["$x", "@steps#", "a$b$"]
    assert found["degradation"]["name"] == TOUCH
    assert cli.main(["evaluate", *pair, "--fused", str(out / "fused"), "--out", str(out / "$x")]) == 0
    assert (out / "$x" / "evaluation.json").is_file()


def test_python_and_bundles_in_folders_of_any_name(home):
    case = home / "a"
    bundle = home / "@steps"
    shutil.copytree(bundle_dir("pet_mri_fusion"), bundle, ignore=shutil.ignore_patterns("demo"))
    load_fusion(str(bundle))(torch.rand(1, 2, 32, 32), degradation=str(home / "%steps.json"), steps=1)
    workflow = load_workflow(str(bundle), degradation=SPEC, steps=1, device="cpu")
    assert workflow.weights == bundle / "models" / "model.pt"
    assert workflow.configuration == load_workflow(degradation=SPEC, steps=1).configuration  # places are no part of it
    result = workflow({"case": "a", "mri": case / "mri.nii.gz", "pet": str(case / "pet.nii.gz"), "aligned": True})
    assert result.record["degradation"]["name"] == TOUCH
    result = fuse(case / "pet.nii.gz", case / "mri.nii.gz", steps=1, aligned=True, degradation=SPEC)
    assert result.record["degradation"]["name"] == TOUCH
    for item in ({"pet_unit": TOUCH}, {"aligned": TOUCH}, {"case": TOUCH}, {"degradation": CALL}, {"pet": CALL}):
        with pytest.raises(BundleError):
            workflow({"case": "a", "mri": str(case / "mri.nii.gz"), "pet": str(case / "pet.nii.gz"), **item})
    for item in ({"pet_unit": TOUCH}, {"case": "@steps"}, {"_target_": "x"}):
        datalist = [{"case": "a", "mri": str(case / "mri.nii.gz"), "pet": str(case / "pet.nii.gz"), **item}]
        with pytest.raises(RuntimeError) as stopped:  # MONAI's, about the expression that failed
            run_bundle("pet_mri_fusion", datalist=datalist, output_dir="o", device="cpu")
        assert isinstance(known_error(stopped.value), BundleError)
    assert not Path("o").exists()


def test_names_that_monai_finds_in_a_folder(home):
    """What is given on MONAI's own command line is configuration; the names of the files it leads to are none."""
    shutil.move(home, "data")
    command = [
        sys.executable, "-m", "monai.bundle", "run", "inference", "--bundle_root", str(bundle_dir("ir_vis_fusion")),
        "--config_file", str(bundle_dir("ir_vis_fusion") / "configs" / "inference.json"), "--dataset_dir", "data",
        "--ckpt_path", str(bundle_dir("ir_vis_fusion") / "models" / "model.pt"), "--output_dir", "out", "--steps", "1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert record(Path("out/images.json"))["images"] == ["$x", "@steps#", "a$b$"]


def test_a_specification_says_what_is_wrong_with_it(tmp_path):
    """By name, with the nearest legal one; a short file that says very much is refused before it fills the memory."""
    path = tmp_path / "spec.yaml"
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{k + 1}: &a{k + 1} [{', '.join([f'*a{k}'] * 10)}]\n" for k in range(9))
    merge = "a0: &a0 {k: 1}\n" + "".join(
        f"a{k + 1}: &a{k + 1} {{<<: [{', '.join([f'*a{k}'] * 10)}]}}\n" for k in range(9)
    )
    for text, message in (
        (bomb, "at most 500 values"),
        (merge, "must not be merged"),
        ("x: " + "y" * (1 << 20), "at most 1048576 bytes"),
    ):
        path.write_text(text)
        with pytest.raises(DegradationError, match=message):
            load_spec(path)
    for spec, message in (
        ({"sourc1": []}, "got 'sourc1'; write source1, or remove it"),
        ({"source1": [{"blurr": {}}]}, "got 'blurr'; write blur, or remove it"),
        ({"source1": [{"blur": {"sigma": 1.0}}]}, r"unknown: \['sigma'\].*; write sigma_px, or remove it"),
    ):
        with pytest.raises(DegradationError, match=message):
            load_workflow(degradation={"version": 1, **spec})
