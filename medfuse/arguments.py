"""What the command line is given, checked before anything slow is loaded: a slip of the pen costs no wait."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from pathlib import Path

from medfuse.bundles import CONFIG_SUFFIXES, bundle_dir, check_overlays, load_spec
from medfuse.errors import BundleError, MedfuseError
from medfuse.schema import checked_id, checked_unit

SUV_CHOICES = ("auto", "bw", "lbm", "lbm-james", "bsa", "ibw", "none")  # those of medfuse.io.suv, which is slow to load

_NAME_BYTES, _PATH_BYTES = 255, 4095  # of most file systems, and of Linux
_FILES = ("mri", "pet", "mask")  # of which a NIfTI is one file
_IMAGES = ("source1", "source2", "truth1", "truth2", "restored1", "restored2", "degraded1", "degraded2")
_NIFTI = (".nii", ".nii.gz")
_SAID = {  # by destination of the argument
    "out": "OUT",
    "input": "The input",
    "folder": "The DICOM folder",
    "dicom": "The DICOM folder",
    "image": "The image",
    "paths": "BUNDLE_OR_CONFIG",
}


def add_reading(command: argparse.ArgumentParser) -> None:
    """Add how NIfTI are read."""
    command.add_argument(
        "--nonfinite",
        choices=("error", "zero"),
        default="error",
        help="NaN and infinity in a NIfTI, as SPM writes outside the head: refuse it, or let them count as 0",
    )
    command.add_argument(
        "--strict", action="store_true", help="refuse a NIfTI whose sform and qform disagree (default: a warning)"
    )


def check_arguments(options: argparse.Namespace) -> None:
    """Check what needs no image: names, paths, units, bundle, overlays and degradation.

    Raises:
        MedfuseError: Something is not there, too long, or none of its kind.
    """
    given = vars(options)
    for what, path in _paths(given):
        _check_length(what, path)
    if options.command == "fuse":
        _check_fuse(options)
    _check_there(given)
    bundles = [path for path in given.get("paths", ()) if Path(path).suffix not in CONFIG_SUFFIXES]
    for bundle in [*bundles, *filter(None, [given.get("bundle")])]:
        if not (bundle in bundles and (Path(bundle) / "configs").is_dir()):  # any such folder can be looked at
            bundle_dir(bundle)
    check_overlays(given.get("overlay") or ())
    if isinstance(given.get("degradation"), str):
        options.degradation = load_spec(given["degradation"], given.get("bundle", "pet_mri_fusion"))


def steps(text: str) -> int:
    """Return a number of steps, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return int(text)


def shard(text: str) -> tuple[int, int]:
    """Return I and N of `I/N`, for argparse."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"must be I/N with 1 <= I <= N, got {text!r}")
    return int(match[1]), int(match[2])


def _paths(given: dict[str, object]) -> Iterator[tuple[str, str]]:
    """Give what is a path, or may be one, with what to call it."""
    for name, value in given.items():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Path) or (name in ("bundle", "degradation", "paths") and isinstance(part, str)):
                yield _SAID.get(name, f"--{name}"), str(part)


def _check_length(what: str, path: str) -> None:
    longest = max((len(os.fsencode(part)) for part in Path(path).parts), default=0)
    if longest > _NAME_BYTES or len(os.fsencode(path)) > _PATH_BYTES:
        raise MedfuseError(
            f"{what} must have names of at most {_NAME_BYTES} bytes, and {_PATH_BYTES} in all, got {len(path)} "
            "letters; shorten it."
        )


def _check_fuse(options: argparse.Namespace) -> None:
    if options.case is not None:
        checked_id(options.case, "--case")
    if options.pet_unit is not None:
        checked_unit(options.pet_unit, "--pet-unit")
    given = [n for n in ("dicom", "mri", "pet") if getattr(options, n) is not None]
    if given not in (["dicom"], ["mri", "pet"]):
        names = " and ".join(f"--{n}" for n in given) or "none of them"
        raise MedfuseError(f"The images must be given as --pet and --mri, or as --dicom, got {names}; change them.")
    for key in ("mri", "pet"):
        nifti = str(options.dicom or getattr(options, key)).lower().endswith(_NIFTI)
        unit = options.pet_unit if key == "pet" else None
        if nifti and (getattr(options, f"{key}_series") or (key == "pet" and options.suv not in ("auto", "none"))):
            raise MedfuseError(f"--{key}-series and --suv must come with DICOM, got a NIfTI; leave them out.")
        if not nifti and unit:
            raise MedfuseError("--pet-unit must come with a NIfTI, got DICOM, whose headers say it; leave it out.")


def _check_there(given: dict[str, object]) -> None:
    """Raise unless inputs are there; what they are is found out by those who read them."""
    for name in (*_FILES, "dicom", "folder", "input", "manifest", *_IMAGES, "fused"):
        path = given.get(name)
        if not isinstance(path, Path) or path.exists():
            continue
        if name in _FILES:
            kind = "a file" if path.name.lower().endswith(_NIFTI) else "a file or folder"
            raise BundleError(f"{path.name} must be {kind}, got none there; check the path.")
        if name == "input":
            raise BundleError(
                "The input must be a folder, or a manifest in .tsv or .csv, got nothing there; check the path."
            )
        if name in ("dicom", "folder"):
            raise BundleError(
                "The DICOM folder must exist, got none there; check the path (a NIfTI ends in .nii or .nii.gz)."
            )
        if name == "manifest":
            raise BundleError(f"The manifest must be a file, got none at {path.name!r}; check the path.")
        raise BundleError(f"{name} must be a folder, got no folder {path.name!r}; check the path.")
