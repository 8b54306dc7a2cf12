"""Every block of every page is run, in order, in a folder that holds what the page takes for granted.

The quick tests leave out what is costly; the full ones run everything, and MONAI's command as the process that it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from doc_blocks import NAMED, PAGES, ROOT, SHELLS, Block, Reader, blocks, label, start_of, unclaimed
from doc_places import copy_shared, write_places
from monai.metrics import CumulativeIterationMetric

from medfuse.devices import pick_device
from medfuse.errors import MedfuseError
from medfuse.physics import Downsample, GaussianBlur, parse_degradation

SMALL = (
    "{} --iterations_per_epoch 1 --epochs 1 --val_interval 1 --batch_size 2 --patch_size 48 "
    """--train#dataset#pairs '$slice_pairs(@dataset_dir, split="train", kinds=["spect"])' """
)
FEW = (
    """--validate#dataset#data '$[dict(image=p["image"], name=p["name"], scenario="noise") """
    """for p in slice_pairs(@dataset_dir, split="dev", kinds=["spect"])]'"""
)
TRAINING, EVALUATING = "python -m monai.bundle run training", "python -m monai.bundle run evaluating"
COHORT, PACS = "docs/how-to/run-a-cohort.md", "docs/how-to/listen-to-a-pacs.md"
README, DESCRIBE, METRICS = "README.md", "docs/how-to/describe-a-degradation.md", "docs/reference/metrics.md"
PYTHON, TRAIN = "docs/how-to/use-from-python.md", "docs/how-to/train.md"
OF_PET, OF_IR = "bundles/pet_mri_fusion/docs/README.md", "bundles/ir_vis_fusion/docs/README.md"
EXPORT, RUN = "python -m monai.bundle run export", "docs/how-to/run-the-bundle.md"
DEMO = "python -m monai.bundle run inference --config_file configs/inference.json --output_dir OUT"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

# What is not run as it is printed: page, beginning of the command, what is run instead (None: nothing), and why.
EXCEPTIONS: list[tuple[str, str, str | None, str]] = [
    ("README.md", "make demo", None, "it installs first, then it runs `medfuse demo`, as first-fusion.md does"),
    ("README.md", "make test", None, "it runs these tests"),
    ("docs/tutorials/first-fusion.md", "make demo", "medfuse demo", "it installs first; then it runs this"),
    ("docs/tutorials/first-fusion.md", "source .venv/bin/activate", None, "the tests run in an environment already"),
    (COHORT, "medfuse slurm", "medfuse slurm INPUT COHORT -- --degradation composite", "it is run without a shell"),
    (COHORT, "job=$(sbatch", None, "it needs a Slurm; tests/test_slurm.py has one"),
    (COHORT, "sbatch", None, "it needs a Slurm"),
    (COHORT, "apptainer build", None, "it needs a builder; tests/test_engines.py runs the steps of the recipe"),
    (COHORT, "apptainer run", None, "it needs that container"),
    (COHORT, "apptainer exec", None, "it needs that container"),
    (COHORT, "snakemake", None, "it needs snakebids; tests/test_engines.py runs it"),
    (PACS, "medfuse listen", None, "it serves until it is stopped; tests/listen runs it"),
    (PACS, "medfuse status", None, "of that queue; tests/listen runs it"),
    ("docs/how-to/fuse-dicom.md", "storescu", None, "it needs an archive; tests/io/test_pacs.py has one"),
    (
        "docs/how-to/deploy.md",
        "python -m medfuse.deploy",
        None,
        "it needs its SDK; test_deploy.py has stand-ins",
    ),
    (TRAIN, TRAINING, SMALL + FEW, "it takes a day: one iteration here, on the kind of images that are there"),
    (TRAIN, EVALUATING, "{} " + FEW, "on the kind of images that are there"),
    (OF_PET, DEMO, None, "the same as that of run-the-bundle.md"),
    (RUN, DEMO, "{} --steps 1 --aligned True", "a whole head in three steps, after registration, takes long"),
    (
        RUN,
        "python -m monai.bundle onnx_export",
        None,
        "it needs medfuse[onnx]; test_bundle.py runs it",
    ),
    (OF_PET, TRAINING, None, "the same as that of train.md"),
    (OF_PET, EXPORT, None, "it needs that training; the same as that of train.md"),
    (OF_PET, EVALUATING, None, "the same as that of train.md, which takes a minute"),
    (OF_IR, TRAINING, None, "it takes a day; tests/test_ir_vis.py trains for two iterations"),
    (OF_IR, EVALUATING, None, "it needs those weights; run by tests/test_ir_vis.py"),
    (OF_IR, EXPORT, None, "it needs that training; the same as that of train.md"),
]

# What begins so, or holds this, is left to the full tests: a process of its own, the registration of a head, the demo.
COSTLY = ("python -m monai.bundle", "python -W", "medfuse bundle export", "medfuse demo", "medfuse fuse --pet pet",
          "medfuse fuse --pet STUDY/PET --mri mri", "bids-validator-deno",
          'fuse("pet.nii.gz"', "torch.export.load(", "$")  # fmt: skip

# What stands after a `#`, and is not literally what was printed: either it can be held against what was run ...
CLAIMS: dict[tuple[str, str], Callable[[Reader], bool]] = {
    (README, "makes .venv, installs, fuses the shipped PET-MRI cases, says where the pictures are"): lambda r: (
        "\ndemo: .venv/.runtime " in MAKEFILE and "$(BIN)/medfuse demo\n" in MAKEFILE
    ),
    (README, "the same set-up, then lint, types, layers and all tests"): lambda r: (
        "\ntest: lint " in MAKEFILE and all(tool in MAKEFILE for tool in ("ruff check", "mypy", "lint-imports"))
    ),
    (README, "fraction of full range, or `unit: input`"): lambda r: parses({"noise": {"sigma": 0.2, "unit": "input"}}),
    (README, "or sigma_px"): lambda r: parses({"blur": {"sigma_px": 1.5}}),
    (README, "nothing is written"): lambda r: not r.written,
    (README, "source1, source2, fused, weight, std1, std2"): lambda r: (
        {"source1", "source2", "fused", "weight", "std1", "std2"} <= set(r.names["result"])
    ),
    (README, 'device="auto": CUDA where there is one, else the CPU'): lambda r: (
        r.names["fusion"].device == pick_device("auto")
    ),
    (DESCRIBE, "clinic.yaml"): lambda r: r.written == {Path("clinic.yaml")},
    (PYTHON, "the blur acts first"): lambda r: torch.allclose(
        r.names["operator"].forward(r.names["x"]), Downsample(2).forward(GaussianBlur(1.2).forward(r.names["x"]))
    ),
    (PYTHON, "about 1 for the true image"): lambda r: abs(float(r.printed) - 1) < 0.1,
    (METRICS, "every metric, [4] each"): lambda r: all(v.shape == (4,) for v in r.names["values"].values()),
    (METRICS, "a pure function, [4]"): lambda r: r.names["one"].shape == (4,),
    (METRICS, "a MONAI metric"): lambda r: isinstance(r.names["metric"], CumulativeIterationMetric),
}
# ... or it says what is meant, and cannot be wrong.
REMARKS = {
    (README, "MRI"),
    (README, "PET"),
    (README, "MRI and PET on one grid, 0..1"),
    (DESCRIBE, "MRI"),
    (DESCRIBE, "PET"),
    (DESCRIBE, "SUV"),
    (DESCRIBE, "along the axes of its own grid; one number stands for all three; left out: measured by the MRI"),
    (DESCRIBE, "left out: measured"),
    (PYTHON, "MRI and PET on one grid, full range 0..1"),
    (PYTHON, "closed form here, conjugate gradients elsewhere"),
    (METRICS, "clean sources, 0..1"),
}

pages = pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=label)


def parses(step: dict[str, Any]) -> bool:
    spec = {"version": 1, "source1": [step], "source2": []}
    return len(parse_degradation(spec, spacing=((1.0, 1.0), (1.0, 1.0)), scale=(9.0, 9.0)).source1.steps) == 1


def costly(text: str) -> bool:
    return any(
        word in text if word in ('fuse("pet.nii.gz"', "torch.export.load(", "$") else text.startswith(word)
        for word in COSTLY
    )


def parts(page: Path) -> list[str]:
    """Return the commands and programs of a page."""
    each = blocks(page)
    return [c for b in each if b.language in SHELLS for c in b.commands] + [
        b.text for b in each if b.language == "python"
    ]


def reader(page: Path, folder: Path, *, full: bool) -> Reader:
    copy_shared(folder)
    start = folder / start_of(page)
    name = label(page)
    write_places(start, infrared="infrared" in name or "ir_vis" in name, dicom="dicom" in name)
    instead = {command: other for where, command, other, _ in EXCEPTIONS if where == name}
    return Reader(folder, start, full, instead, costly)


def read(page: Path, folder: Path, *, full: bool) -> None:
    """Run a page. A block of output after one that was left out is not looked at."""
    name, one, ran = label(page), reader(page, folder, full=full), True
    for block in blocks(page):
        if block.language == "text" and not ran:
            continue
        ran = one.run(block)
        for comment in unclaimed(block, one.printed) if ran else ():
            if (name, comment) not in REMARKS:
                assert CLAIMS[name, comment](one), f"{name} says {comment!r}, got {one.printed!r}"
    shutil.rmtree(folder)


@pages
def test_blocks_run(page: Path, tmp_path: Path, quick: None) -> None:
    read(page, tmp_path / "page", full=False)


@pytest.mark.full
@pytest.mark.parametrize("page", [p for p in PAGES if any(map(costly, parts(p)))], ids=label)
def test_costly_blocks_run(page: Path, tmp_path: Path) -> None:
    read(page, tmp_path / "page", full=True)


def test_every_exception_claim_and_remark_is_of_a_page_and_none_is_missing() -> None:
    found = {label(page): blocks(page) for page in PAGES}
    for name, command, _, reason in EXCEPTIONS:
        assert reason
        assert len([c for c in parts(ROOT / name) if c.startswith(command)]) == 1, (name, command)
    comments = {(name, c) for name, each in found.items() for b in each for c in b.comments}
    printed = {(name, c) for name, c in comments if any(f")  # {c}\n" in b.text and c[0] == "(" for b in found[name])}
    assert not set(CLAIMS) & REMARKS
    assert set(CLAIMS) | REMARKS | printed == comments
    assert not printed & (set(CLAIMS) | REMARKS)
    named = [m for each in found.values() for b in each if b.language == "json" for m in NAMED if f"`{m}`" in b.before]
    assert set(named) == NAMED


@pytest.mark.parametrize(
    ("block", "error"),
    [
        (Block("bash", "medfuse fuse --pet absent.nii.gz --mri absent.nii.gz --out out\n", ""), "absent"),
        (Block("bash", "python -c 'raise SystemExit(3)'\n", ""), "SystemExit"),
        (Block("python", "assert 1 == 2, 'no'\n", ""), "no"),
        (Block("yaml", "version: 1\nsource1:\n  - blurr: {sigma_px: 1}\n", ""), "blurr"),
        (Block("text", "3 series, ... files\n", ""), "3 series"),
        (Block("console", "medfuse\n", ""), "console"),
    ],
)
def test_the_runner_sees_what_fails(block: Block, error: str, tmp_path: Path) -> None:
    one = Reader(tmp_path, tmp_path, True, {}, costly, printed="3 studies\n")
    with pytest.raises((AssertionError, MedfuseError), match=error):
        one.run(block)


def test_the_runner_sees_output_that_is_as_the_page_says(tmp_path: Path) -> None:
    one = Reader(tmp_path, tmp_path, True, {}, costly)
    assert one.run(Block("bash", "cd /\npython -c 'print(12.5, \"of 7 files\")'\n", ""))
    assert one.run(Block("text", "3 of ... files\n", ""))
    assert not list(unclaimed(Block("python", "print(1)  # 12.5 of 7 files\n", ""), one.printed))
