"""What the command line is given, with the options that several commands share, and those of the sources of a bundle.

All is checked before anything slow is loaded: a slip of the pen costs no wait.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from medfuse.about import NOTICE
from medfuse.bundles import (
    CONFIG_SUFFIXES,
    DEFAULT_BUNDLE,
    bundle_dir,
    bundle_modalities,
    case_keys,
    check_overlays,
    load_spec,
    require_modalities,
)
from medfuse.errors import BundleError, MedfuseError
from medfuse.io.bids_derivatives import find_derivatives, with_derivatives
from medfuse.io.bids_filter import Selection, read_selection
from medfuse.io.labels import label_file
from medfuse.io.modalities import DEFAULT_PAIR, MODALITIES, Modality, titles
from medfuse.io.units import ARBITRARY, CHOICES
from medfuse.region_arguments import add_regions, add_regions_of_cases, check_named
from medfuse.schema import checked_frames, checked_id, checked_unit

SUV_CHOICES = CHOICES
EXPORTS = (".pt2", ".onnx", ".ts")  # as medfuse.diffusion.export.FORMATS
DEVICES = "auto (CUDA where there is one), cpu, cuda, cuda:1, ... (default: auto)"
FUSION_RULES = ("two_scale", "convex", "predicted")  # those of medfuse.fusion.rule, which is slow to load
PALETTES = (  # those of medfuse.fusion.color, likewise
    "oklab", "hot_iron", "pet", "hot_metal_blue", "pet_20_step", "rainbow", "gray", "gray_inverted",
)  # fmt: skip
BLENDS = ("luma", "alpha")

_NAME_BYTES, _PATH_BYTES = 255, 4095  # of most file systems, and of Linux
_VOLUMES = [row for row in MODALITIES.values() if row.is_volume]
_FILES = (*(row.key for row in _VOLUMES), "mask")  # of which a NIfTI is one file
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


def check_arguments(options: argparse.Namespace) -> None:
    """Check what needs no image: names, paths, units, bundle, overlays and degradation.

    Raises:
        MedfuseError: Something is not there, too long, or none of its kind.
    """
    given = vars(options)
    for what, path in _paths(given):
        _check_length(what, path)
    if given.get("frames") is not None:
        checked_frames(options.frames, "--frames")
    if options.command == "fuse":
        _check_fuse(options)
    if given.get("blend") and given.get("palette") in (None, "oklab"):
        raise MedfuseError(f"--blend must come with a --palette other than oklab, got {given['blend']}; name one.")
    if given.get("blend") == "luma" and given["palette"] == "gray_inverted":
        raise MedfuseError("--blend must be alpha with gray_inverted, which gets darker where uptake grows, got luma.")
    if options.command == "listen" or (options.command == "batch" and options.level == "participant"):
        case_keys(options.bundle)
        require_modalities(options.bundle, suv=options.suv, n4=options.n4)
    _check_there(given)
    bundles = [path for path in given.get("paths", ()) if Path(path).suffix not in CONFIG_SUFFIXES]
    for bundle in [*bundles, *filter(None, [given.get("bundle")])]:
        if not (bundle in bundles and (Path(bundle) / "configs").is_dir()):  # any such folder can be looked at
            bundle_dir(bundle)
    check_overlays(given.get("overlay") or ())
    if isinstance(given.get("degradation"), str):
        options.degradation = load_spec(given["degradation"], given.get("bundle", DEFAULT_BUNDLE))


def integer(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return the reader of an integer within bounds, for argparse."""
    bounds = f"at least {least}" if most is None else f"{least} to {most}"

    def read(text: str) -> int:
        value = int(text) if re.fullmatch("[0-9]{1,18}", text) else least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"must be an integer of {bounds}, got {text[:40]!r}")
        return value

    return read


def positive(most: float, what: str) -> Callable[[str], float]:
    """Return the reader of a number above 0, for argparse; `what` it is goes into the error."""

    def read(text: str) -> float:
        with suppress(ValueError):
            if 0 < float(text) <= most:
                return float(text)
        raise argparse.ArgumentTypeError(f"must be a number of {what} above 0, at most {most:g}, got {text[:40]!r}")

    return read


steps = integer(1)


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
    keys = case_keys(options.bundle)
    _check_sources(options, keys)
    require_modalities(options.bundle, suv=options.suv, n4=options.n4)
    for key in keys:
        nifti = str(options.dicom or getattr(options, key)).lower().endswith(_NIFTI)
        unit = getattr(options, f"{key}_unit")
        if unit is not None:
            checked_unit(unit, f"--{key}-unit")
        if nifti and getattr(options, f"{key}_series"):
            raise MedfuseError(f"--{key}-series must come with DICOM, got a NIfTI; leave it out.")
        if options.dicom is not None and unit:  # of another file, what it is decides what is said
            raise MedfuseError(f"--{key}-unit must come with a NIfTI, got DICOM, whose headers say it; leave it out.")


def _check_sources(options: argparse.Namespace, keys: tuple[str, str]) -> None:
    """Raise unless the images are those that the bundle takes."""
    whose = "" if keys == DEFAULT_PAIR else f" of a bundle of {' and '.join(titles(keys))}"
    given = [n for n in ("dicom", *_FILES[:-1]) if getattr(options, n) is not None]
    if given not in (["dicom"], [key for key in _FILES if key in keys]):
        names = " and ".join(f"--{n}" for n in given) or "none of them"
        how = f"--{keys[1]} and --{keys[0]}, or as --dicom"
        raise MedfuseError(f"The images{whose} must be given as {how}, got {names}; change them.")
    for key in (k for k in _FILES[:-1] if k not in keys):
        for kind in ("series", "unit"):
            if getattr(options, f"{key}_{kind}") is not None:
                got = f"got a bundle of {' and '.join(titles(keys))}; leave it out"
                raise MedfuseError(f"--{key}-{kind} must come with a bundle of {MODALITIES[key].title}, {got}.")


def add_sources(command: argparse.ArgumentParser, bundle: str) -> None:
    """Add the options that name the sources of a case: in the help, those of a bundle."""
    try:
        first, second = bundle_modalities(bundle)
    except BundleError:  # `check_arguments` says why
        first, second = (MODALITIES[key] for key in DEFAULT_PAIR)

    def told(row: Modality, text: str) -> str:
        return text if row in (first, second) else argparse.SUPPRESS

    rows = sorted(_VOLUMES, key=lambda row: row != second)
    for row in rows:
        text = "likewise; its grid is the reference" if row == first else ".nii, .nii.gz, or a folder or file of DICOM"
        help_ = f"{row.title} volume{', ' if row == first else ': '}{text}"
        command.add_argument(f"--{row.key}", type=Path, help=told(row, help_))
    help_ = f"instead of both: a DICOM folder with one {second.title} and one {first.title} series"
    command.add_argument("--dicom", type=Path, help=help_)
    for row in rows:
        help_ = f"which {row.title} series, where there are several"
        command.add_argument(f"--{row.key}-series", metavar="UID", help=told(row, help_))
    add_regions(command, first.title, second.title)
    for row in rows:
        example = "SUV or Bq/ml" if row.has_uptake else row.unit
        example = "" if example == ARBITRARY else f", e.g. {example}"
        help_ = f"unit of the values of a NIfTI {row.title}{example} (default: {ARBITRARY})"
        command.add_argument(f"--{row.key}-unit", metavar="UNIT", help=told(row, help_))


def add_bundle(command: argparse.ArgumentParser, what: str = "bundle") -> None:
    """Add the option that names a bundle."""
    command.add_argument("--bundle", default=DEFAULT_BUNDLE, help=f"{what} (default: {DEFAULT_BUNDLE})")


def add_looks(command: argparse.ArgumentParser) -> None:
    """Add the options of the fused image, and of its colours."""
    command.add_argument(
        "--fusion-rule",
        choices=FUSION_RULES,
        help="how the fused image comes of the restored sources (default: the bundle's)",
    )
    command.add_argument(
        "--palette",
        choices=PALETTES,
        type=str.lower,
        help="colours of the fusion: oklab shows anatomy as lightness and uptake as hue, and both can be read back; or "
        "a palette (default: the bundle's, oklab; of images, no colour is made without)",
    )
    command.add_argument(
        "--blend",
        choices=BLENDS,
        help="how a palette lies over the anatomy: luma, hotter is never darker; alpha, half of each (default: luma)",
    )
    command.add_argument(
        "--sensitivity",
        action="store_true",
        help="tell what changes where widths of blurs, or levels of noise, are wrong by 20 %%: two more runs of each",
    )


def looks(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `add_looks` was given."""
    given = {name: getattr(options, name) for name in ("fusion_rule", "palette", "blend")}
    given["sensitivity"] = options.sensitivity or None
    return {name: word for name, word in given.items() if word is not None}


def add_workers(command: argparse.ArgumentParser) -> None:
    """Add the option that says how far the cases of a batch overlap."""
    command.add_argument(
        "--workers",
        type=workers,
        default=1,
        metavar="N",
        help="cases that are read ahead, and written, while one is computed; each takes memory (default: 1; 0: none)",
    )


def workers(text: str) -> int:
    """Return a number of workers, for argparse."""
    if not text.isdigit() or int(text) > 64:
        raise argparse.ArgumentTypeError(f"must be an integer of 0 to 64, got {text!r}")
    return int(text)


def add_reading(command: argparse.ArgumentParser) -> None:
    """Add the options that say how NIfTI is read."""
    command.add_argument(
        "--nonfinite",
        choices=("error", "zero"),
        default="error",
        help="NaN and infinity in a NIfTI, as SPM writes outside the head: refuse it, or let them count as 0",
    )
    command.add_argument(
        "--strict", action="store_true", help="refuse a NIfTI whose sform and qform disagree (default: a warning)"
    )


def add_frames(command: argparse.ArgumentParser) -> None:
    """Add the option that says which frames of a dynamic PET count."""
    command.add_argument(
        "--frames",
        metavar="CHOICE",
        help="frames of a dynamic PET: all (average by duration, the default), 3, 3-7, 40-60min, 40-60min-pi (after "
        "the injection), decay:40-60min (decay-weighted)",
    )


def add_bids(command: argparse.ArgumentParser) -> None:
    """Add the options that choose among the images of a BIDS dataset."""
    for kind in ("participant", "session"):
        command.add_argument(
            f"--{kind}-label", nargs="+", default=[], metavar="LABEL", help=f"BIDS: only these {kind}s"
        )
    for name, what in (("trc", "tracer"), ("rec", "reconstruction"), ("run", "run")):
        command.add_argument(f"--{name}", dest=f"{name}_label", metavar="LABEL", help=f"BIDS: the PET of this {what}")
    command.add_argument(
        "--bids-filter-file", type=Path, metavar="FILE", help="BIDS: which pet and t1w, JSON in the form of PyBIDS"
    )


def add_derivatives(command: argparse.ArgumentParser) -> None:
    """Add the options that say what comes with each case of a batch; see `completed`."""
    command.add_argument(
        "--derivatives",
        nargs="+",
        default=[],
        metavar="PACKAGE[=FOLDER]",
        help="BIDS: take T1w, mask, and PET or transform of fmriprep or petprep",
    )
    add_regions_of_cases(command)


def selection_of(options: argparse.Namespace) -> Selection:
    """Return which images of a BIDS dataset are meant."""
    return read_selection(
        options.bids_filter_file, tracer=options.trc_label, reconstruction=options.rec_label, run=options.run_label
    )


def add_replace(command: argparse.ArgumentParser) -> None:
    """Add the option that lets results of other images be replaced."""
    command.add_argument(
        "--replace", action="store_true", help="replace results of other images under the same names (default: refuse)"
    )


def completed(cases: list[dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the cases of a batch with their derivatives, mask or atlas; one that lacks them has a problem."""
    made = find_derivatives(options.derivatives, options.input)
    check_named(options, options.mask_of, options.atlas_of)
    found = []
    for case in cases:
        try:
            case = with_derivatives(case, made)
            if "problem" not in case and (options.mask_of or options.atlas_of):
                suffix, option = ("mask", "--mask") if options.mask_of else ("dseg", "--atlas")
                case["mask"] = label_file(options.mask_of or options.atlas_of, case, suffix, option)
                case |= {} if options.labels is None else {"labels": str(options.labels.absolute())}
        except MedfuseError as error:
            case = {"case": case["case"], "problem": str(error)}
        found.append(case)
    return found


def add_images(command: argparse.ArgumentParser) -> None:
    """Add what `images` takes beside a bundle."""
    command.add_argument("--source1", type=Path, help="folder of MRI or visible images")
    command.add_argument("--source2", type=Path, help="folder of PET or infrared images, matched by name")
    command.add_argument("--manifest", type=Path, help="instead of both: table (.tsv, .csv) of source1, source2, name")
    command.add_argument("--out", required=True, type=Path, help="folder for fused/ source1/ source2/ weight/")
    command.add_argument("--format", choices=("png", "npy"), help="format of the results (default: as the input)")
    command.add_argument("--truth1", type=Path, help="folder of clean source 1: PSNR and SSIM are computed")
    command.add_argument("--truth2", type=Path, help="folder of clean source 2")


def add_demo(command: argparse.ArgumentParser) -> None:
    """Add what `demo` takes."""
    command.add_argument("--bundle", default=DEFAULT_BUNDLE, help="another bundle: ir_vis_fusion, a rendered street")
    command.add_argument(
        "--out", type=Path, default=Path("out/demo"), help="folder for the results (default: out/demo)"
    )
    command.add_argument("--all", action="store_true", help=argparse.SUPPRESS)  # of 0.1: now all cases are fused


def add_bundle_tasks(commands: Any, **run: Callable[[argparse.Namespace], int | None]) -> None:
    """Add `bundle`, with a function that runs each of its tasks."""
    bundle = commands.add_parser("bundle", help="check bundles and configurations without running them, or export one")
    tasks = bundle.add_subparsers(dest="task", required=True, metavar="TASK")
    check = tasks.add_parser("check", help="say what is wrong with bundles or configurations; nothing is evaluated")
    check.add_argument(
        "paths", nargs="+", metavar="BUNDLE_OR_CONFIG", help="bundles, or configurations that belong together"
    )
    check.add_argument("--list", action="store_true", help="also print every expression and every _target_")
    check.set_defaults(run=run["check"])
    export = tasks.add_parser("export", help="write the network as a file that other programs run", description=NOTICE)
    export.add_argument("bundle", help="name or folder of a bundle")
    export.add_argument(
        "out", type=_export, help="file to write: .pt2 (torch.export), .onnx (needs medfuse[onnx]), .ts (TorchScript)"
    )
    export.set_defaults(run=run["export"])


def _export(text: str) -> Path:
    if Path(text).suffix not in EXPORTS:
        raise argparse.ArgumentTypeError(f"an export must end with one of {', '.join(EXPORTS)}, got {text[:100]!r}")
    return Path(text)


def add_evaluate(command: argparse.ArgumentParser) -> None:
    """Add what `evaluate` takes beside a device."""
    command.add_argument("--source1", required=True, type=Path, help="folder of clean MRI or visible images")
    command.add_argument("--source2", required=True, type=Path, help="folder of clean PET or infrared images")
    command.add_argument(
        "--fused", required=True, type=Path, help="folder of fused images; colours are judged where source 2 has some"
    )
    command.add_argument("--out", required=True, type=Path, help="folder for evaluation.json, .csv and .png")
    for kind in ("restored", "degraded"):
        command.add_argument(f"--{kind}1", type=Path, help=f"folder of {kind} source 1")
        command.add_argument(f"--{kind}2", type=Path, help=f"folder of {kind} source 2")
    command.add_argument("--subjects", type=Path, help="table with columns name, subject: intervals are by subject")


def named_bundle(words: Sequence[str], default: str = DEFAULT_BUNDLE) -> str:
    """Return the bundle that words of a command line name, before they are parsed: its sources make options."""
    found = default
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word == "--bundle" and after:
            found = after
        elif word.startswith("--bundle="):
            found = word.removeprefix("--bundle=")
    return found


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
