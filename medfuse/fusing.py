"""The options of what fuses many cases with one bundle: `batch`, and the service of `listen`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from medfuse.about import NOTICE
from medfuse.arguments import (
    DEVICES,
    SUV_CHOICES,
    add_bids,
    add_bundle,
    add_derivatives,
    add_frames,
    add_looks,
    add_reading,
    add_replace,
    add_workers,
    looks,
    shard,
    steps,
)
from medfuse.bundles import preset_names
from medfuse.psf import add_psf, with_psf


def add_batch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command `batch`, and return its parser."""
    batch = commands.add_parser(
        "batch", help="fuse many cases: BIDS, a manifest, case folders, DICOM", description=NOTICE
    )
    batch.add_argument("input", type=Path, help="BIDS dataset, manifest (.tsv, .csv), case folders, or DICOM studies")
    batch.add_argument("out", type=Path, help="folder for the results: OUT/CASE/, for BIDS a derivative dataset")
    batch.add_argument(
        "level", choices=("participant", "group"), help="fuse, or only make cases.tsv and index.html anew"
    )
    add_bids(batch)
    add_derivatives(batch)
    batch.add_argument("--resume", action="store_true", help="skip cases that are done and unchanged")
    batch.add_argument(
        "--shard", type=shard, metavar="I/N", help="the I-th of N parts, 1 to N; of the packs, where OUT has a plan"
    )
    add_workers(batch)
    add_replace(batch)
    add_fusing(batch)
    return batch


def add_fusing(command: argparse.ArgumentParser) -> None:
    """Add the options that say how volumes are fused; see `fusing`."""
    add_bundle(command)
    command.add_argument("--degradation", help=f"{', '.join(preset_names())}, or a file (default: the bundle's)")
    add_psf(command)
    command.add_argument("--steps", type=steps, help="reverse steps, 1 or more (default: the bundle's)")
    add_looks(command)
    command.add_argument("--device", help=f"{DEVICES.rpartition(' (')[0]} (default: the bundle's, auto)")
    command.add_argument("--suv", choices=SUV_CHOICES, help="SUV of PETs (default: the bundle's, auto)")
    add_frames(command)
    command.add_argument("--n4", action="store_true", help="first remove the bias field of each MRI")
    add_reading(command)
    command.add_argument(
        "--overlay", nargs="+", type=Path, default=[], metavar="FILE", help="changes to the configuration"
    )


def fusing(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `add_fusing` was given, but for device and frames, for `medfuse.pipeline.load_workflow`."""
    names = ("bundle", "degradation", "steps", "suv", "n4", "nonfinite", "strict")
    given = {name: getattr(options, name) for name in names}
    given["degradation"] = with_psf(options.degradation, options.psf)
    return given | {"overlays": options.overlay} | looks(options)
