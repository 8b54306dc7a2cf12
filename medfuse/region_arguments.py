"""The options of the command line that say what regions are, and what two cases are compared by."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from medfuse.about import NOTICE
from medfuse.errors import BundleError, MedfuseError

UNCERTAINTY = ("off", "fast", "full")  # those of medfuse.regions, which is slow to load
REGIONAL = ("reference_region", "uncertainty", "sr")
"""What of them is a key of a bundle."""
_REFERENCE = "region by whose mean the others are divided (SUVR), by its label or name"


def add_regions(command: argparse.ArgumentParser, first: str, second: str) -> None:
    """Add the options that name the regions of one case.

    Args:
        command: Where to add them.
        first: What source 1 is called.
        second: What source 2 is called, whose values are given.
    """
    command.add_argument(
        "--mask",
        type=Path,
        help=f"regions in which to give the {second}: NIfTI with labels in the world of the {first}, or DICOM SEG or "
        "RTSTRUCT of either",
    )
    command.add_argument("--atlas", type=Path, help="likewise: labels of an atlas, whose names stand in a table")
    _add_named(command)


def add_regions_of_cases(command: argparse.ArgumentParser) -> None:
    """Add the options that name the regions of each of many cases."""
    for name, what in (("mask", "mask"), ("atlas", "atlas, whose regions its _dseg.tsv names")):
        command.add_argument(
            f"--{name}",
            dest=f"{name}_of",
            metavar="PATH",
            help=f"{what} of each case in the space of its MRI: a path with {{subject}}, {{session}} or {{case}} in "
            "it, or the folder of a BIDS dataset",
        )
    _add_named(command)


def _add_named(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--labels",
        type=Path,
        metavar="TSV",
        help="names of the labels: columns index and name (default: the table beside the file)",
    )
    command.add_argument(
        "--uncertainty",
        choices=UNCERTAINTY,
        help="fast: standard deviation of each voxel, as volumes; full: the interval of each region as well, from six "
        "repetitions (default: the bundle's, off)",
    )
    command.add_argument("--reference", dest="reference_region", metavar="LABEL", help=_REFERENCE)
    command.add_argument(
        "--sr",
        action="store_true",
        default=None,
        help="write the values of the regions as a DICOM measurement report, too, with the regions as a segmentation, "
        "where a source was DICOM (default: the bundle's, no)",
    )


def regions_of(options: argparse.Namespace) -> Path | None:
    """Return the file of regions of one case, checked with what belongs to it.

    Raises:
        MedfuseError: The options contradict each other, or a file is not there.
    """
    check_named(options, options.mask, options.atlas)
    chosen: Path | None = options.mask or options.atlas
    if chosen is not None and not chosen.exists():
        raise BundleError(f"{chosen.name} must be a file, got none there; check the path.")
    return chosen


def check_named(options: argparse.Namespace, mask: Any, atlas: Any) -> None:
    """Check the options that belong to regions.

    Raises:
        MedfuseError: Two kinds of regions are given, or what belongs to regions without any, or the table is none.
    """
    from medfuse.io.labels import read_labels

    if mask and atlas:
        raise MedfuseError("Of --mask and --atlas one must be given, got both; leave one out.")
    named = {"--labels": options.labels, "--reference": options.reference_region, "--sr": options.sr}
    for name, value in named.items():
        if value is not None and not (mask or atlas):
            raise MedfuseError(f"{name} must come with --mask or --atlas, got neither; add one.")
    if options.labels is not None:
        if not options.labels.is_file():
            raise BundleError(f"--labels must be a file, got none at {options.labels.name!r}; check the path.")
        read_labels(options.labels)


def add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command `compare`, and return its parser."""
    compare = commands.add_parser(
        "compare", help="say what changed in each region between two cases of one person", description=NOTICE
    )
    for name, what in (("first", "earlier"), ("second", "later")):
        compare.add_argument(name, type=Path, metavar="CASE", help=f"folder of the {what} case, or its record (JSON)")
    compare.add_argument("--out", type=Path, metavar="TSV", help="table to write")
    return compare
