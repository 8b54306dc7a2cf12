"""Tiny cases whose headers are full of canaries, and what a batch of them writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np

from medfuse.io import discover
from medfuse.pipeline import (
    BatchSummary,
    run_batch,
)

CANARIES = ("CANARY", "MRN-4711", "19010203")


def write_pair(folder: Path, *, seed: int = 0, shape=(20, 24, 4), **fields) -> None:
    """Write a tiny MRI and PET on one grid, whose headers are full of canaries."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    axes = [np.linspace(-1, 1, n) for n in shape]
    r = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
    for name, top in (("mri", 900.0), ("pet", 7.5)):
        image = nib.Nifti1Image(
            (top * (r < 0.8) + rng.uniform(0, 0.1 * top, shape)).astype(np.float32), np.diag([2.0, 2.0, 3.0, 1.0])
        )
        image.header["descrip"], image.header["aux_file"] = b"CANARY^NAME MRN-4711", b"CANARY"
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"CANARY 19010203"))
        nib.save(image, folder / f"{name}.nii.gz")
    (folder / "case.json").write_text(json.dumps({"aligned": True, "pet_unit": "SUV", **fields}))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_cases(folder: Path, names: str = "abc") -> Path:
    """Write a good case for each letter, and return their folder."""
    for seed, name in enumerate(names):
        write_pair(folder / name, seed=seed)
    return folder


def batch(data: Path, out: Path, **options) -> BatchSummary:
    return run_batch(discover(data).cases, out, **{"steps": 1, "device": "cpu", **options})


def table(out: Path) -> list[dict[str, str]]:
    with (out / "cases.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def results(out: Path) -> dict[str, bytes]:
    """Return all of the cases that must be equal in equal runs: everything but seconds and memory."""
    folders = (folder for folder in out.iterdir() if folder.is_dir() and folder.name != ".medfuse")  # the plan's
    files = (p for folder in folders for p in folder.rglob("*") if p.is_file())
    kept = (p for p in files if not p.name.endswith(("_done.json", "_failed.json")))
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in kept}


def same_bytes(ours: dict[str, bytes], theirs: dict[str, bytes]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def mtimes(out: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in out.glob("*/*")}
