"""The options of `medfuse estimate`: what an image shows of its degradation, or a phantom measures of a scanner."""

from __future__ import annotations

import argparse
from pathlib import Path

from medfuse.arguments import add_reading

PHANTOMS = ("cylinder", "line", "repeat")  # those of medfuse.estimation.phantoms, which is slow to load


def add_estimate(command: argparse.ArgumentParser) -> None:
    """Add what `estimate` takes."""
    command.add_argument("image", type=Path, help="2-D image, NIfTI, or a folder or file of DICOM")
    command.add_argument(
        "--kind",
        required=True,
        choices=("anatomy", "function", "visible", "infrared"),
        help="what it shows; anatomy: MRI; function: PET, SPECT or CT",
    )
    command.add_argument(
        "--mri", type=Path, help="MRI of the same head: the PSF of a PET or SPECT is measured by it, and said"
    )
    command.add_argument("--aligned", action="store_true", help="both share one world frame: do not register")
    command.add_argument(
        "--phantom",
        choices=PHANTOMS,
        help="the image is no patient: a uniform cylinder (noise), a line source (PSF), or, with --second, one of two "
        "repeated scans (noise)",
    )
    command.add_argument("--second", type=Path, help="the repeated scan, of the same grid")
    command.add_argument("--json", action="store_true", help="print JSON instead of sentences")
    add_reading(command)
