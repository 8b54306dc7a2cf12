"""The command line: a thin face over the bundles. Torch and MONAI are loaded by the commands that need them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.about import NOTICE, __version__
from medfuse.arguments import (
    SUV_CHOICES,
    add_bundle,
    add_bundle_tasks,
    add_estimate,
    add_images,
    add_reading,
    add_rule,
    add_sources,
    check_arguments,
    named_bundle,
    shard,
    steps,
)
from medfuse.bundles import (
    DEFAULT_BUNDLE,
    bundle_dir,
    bundle_metadata,
    bundle_modalities,
    bundle_names,
    load_spec,
    preset_names,
    share_dir,
    source_keys,
)
from medfuse.console import quieten, show_warnings
from medfuse.errors import MedfuseError, known_error
from medfuse.io.modalities import Modality

if TYPE_CHECKING:
    import torch


DEVICES = "auto (CUDA where there is one), cpu, cuda, cuda:1, ... (default: auto)"


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 some cases of a batch failed, 2 wrong input.

    Warnings leave it as it is: they are printed, counted and written into the records.
    """
    words = sys.argv[1:] if args is None else list(args)
    options = _parser(named_bundle(words)).parse_args(words)
    quieten()
    show_warnings()
    try:
        check_arguments(options)
        code = options.run(options)
    except KeyboardInterrupt:
        print("medfuse: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        known = known_error(error)
        if known is None:
            raise
        print(f"medfuse: error: {known}", file=sys.stderr)
        return 2
    return code or 0


def _parser(bundle: str = DEFAULT_BUNDLE) -> argparse.ArgumentParser:
    """Return the parser; of `fuse`, the help tells the sources of a bundle."""
    parser = argparse.ArgumentParser(prog="medfuse", description=f"Degradation-aware image fusion. {NOTICE}")
    parser.add_argument("--version", action="version", version=f"medfuse {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    fuse = commands.add_parser("fuse", help="fuse one PET and one MRI volume (NIfTI or DICOM)", description=NOTICE)
    add_bundle(fuse, "bundle, which says what the sources are")
    add_sources(fuse, bundle)
    fuse.add_argument("--suv", choices=SUV_CHOICES, default="auto", help="SUV of a DICOM PET (auto: bw if possible)")
    fuse.add_argument("--n4", action="store_true", help="first remove the bias field of the MRI")
    fuse.add_argument("--out", required=True, type=Path, help="folder for the results, OUT/CASE/")
    fuse.add_argument("--case", help="name of the case in file names (default: case, where OUT holds no other)")
    add_reading(fuse)
    fuse.add_argument("--aligned", action="store_true", help="the volumes share one world frame: do not register")
    fuse.add_argument("--no-dicom", action="store_true", help="write no DICOM, even where a source was DICOM")
    fuse.add_argument("--deidentified", action="store_true", help="leave blank who the patient is in DICOM output")
    fuse.set_defaults(run=_fuse)

    _add_batch(commands)

    images = commands.add_parser("images", help="fuse pairs of 2-D images, two folders or a table", description=NOTICE)
    add_bundle(images)
    add_images(images)
    images.set_defaults(run=_images)

    for command in (fuse, images):
        command.add_argument(
            "--degradation",
            default="none",
            help=f"what happened to the sources: {', '.join(preset_names())}, or a file",
        )
        command.add_argument("--steps", type=steps, help="reverse steps, 1 or more (default: the bundle's)")
        add_rule(command)
        command.add_argument("--device", default="auto", help=DEVICES)

    estimate = commands.add_parser(
        "estimate", help="say what noise and blur an image or a volume shows; nothing is restored", description=NOTICE
    )
    add_estimate(estimate)
    estimate.set_defaults(run=_estimate)

    evaluate = commands.add_parser(
        "evaluate", help="score fused images of any method against their clean sources", description=NOTICE
    )
    evaluate.add_argument("--source1", required=True, type=Path, help="folder of clean MRI or visible images")
    evaluate.add_argument("--source2", required=True, type=Path, help="folder of clean PET or infrared images")
    evaluate.add_argument(
        "--fused", required=True, type=Path, help="folder of fused images; colours are judged where source 2 has some"
    )
    evaluate.add_argument("--out", required=True, type=Path, help="folder for evaluation.json, .csv and .png")
    for kind in ("restored", "degraded"):
        evaluate.add_argument(f"--{kind}1", type=Path, help=f"folder of {kind} source 1")
        evaluate.add_argument(f"--{kind}2", type=Path, help=f"folder of {kind} source 2")
    evaluate.add_argument("--subjects", type=Path, help="table with columns name, subject: intervals are by subject")
    evaluate.add_argument("--device", default="auto", help=DEVICES)
    evaluate.set_defaults(run=_evaluate)

    dicom = commands.add_parser("dicom", help="list and check the series of a DICOM folder", description=NOTICE)
    dicom.add_argument("folder", type=Path, help="folder, with all folders in it")
    dicom.set_defaults(run=_dicom)

    demo = commands.add_parser("demo", help="fuse what is shipped: the real PET-MRI case")
    demo.add_argument("--bundle", default=DEFAULT_BUNDLE, help="another bundle: ir_vis_fusion, a rendered street")
    demo.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the results (default: out/demo)")
    demo.add_argument("--all", action="store_true", help="also the brain phantom, which is registered first")
    demo.set_defaults(run=_demo)

    add_bundle_tasks(commands, check=_bundle_check, export=_bundle_export)

    info = commands.add_parser("info", help="list bundles, presets and versions")
    info.set_defaults(run=_info)
    return parser


def _add_batch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    batch = commands.add_parser(
        "batch", help="fuse many cases: BIDS, a manifest, case folders, DICOM", description=NOTICE
    )
    batch.add_argument("input", type=Path, help="BIDS dataset, manifest (.tsv, .csv), case folders, or DICOM studies")
    batch.add_argument("out", type=Path, help="folder for the results: OUT/CASE/, for BIDS a derivative dataset")
    batch.add_argument(
        "level", choices=("participant", "group"), help="fuse, or only make cases.tsv and index.html anew"
    )
    for kind in ("participant", "session"):
        batch.add_argument(f"--{kind}-label", nargs="+", default=[], metavar="LABEL", help=f"BIDS: only these {kind}s")
    batch.add_argument("--resume", action="store_true", help="skip cases that are done and unchanged")
    batch.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N", help="the I-th of N parts, 1 to N")
    add_bundle(batch)
    batch.add_argument("--degradation", help=f"{', '.join(preset_names())}, or a file (default: the bundle's)")
    batch.add_argument("--steps", type=steps, help="reverse steps, 1 or more (default: the bundle's)")
    add_rule(batch)
    batch.add_argument("--device", help=f"{DEVICES.rpartition(' (')[0]} (default: the bundle's, auto)")
    batch.add_argument("--suv", choices=SUV_CHOICES, help="SUV of DICOM PETs (default: the bundle's, auto)")
    batch.add_argument("--n4", action="store_true", help="first remove the bias field of each MRI")
    add_reading(batch)
    batch.add_argument(
        "--overlay", nargs="+", type=Path, default=[], metavar="FILE", help="changes to the configuration"
    )
    batch.set_defaults(run=_batch)


def _fuse(options: argparse.Namespace) -> None:
    from medfuse.io.places import require_apart
    from medfuse.pipeline import require_same_sources

    item: dict[str, object] = {"case": options.case or "case"}
    if options.mask is not None:
        item["mask"] = _mask(options.mask, options.strict)
    for row in bundle_modalities(options.bundle):
        item |= _source(row, options.dicom or getattr(options, row.key), options)
    if options.aligned:
        item["aligned"] = True
    require_apart([item], options.out, options.out.joinpath)
    if options.case is None:
        require_same_sources(options.out / "case", item, source_keys(options.bundle))
    dicom = {"dicom_output": not options.no_dicom, "deidentified": options.deidentified}
    reading = {"suv": options.suv, "n4": options.n4, "nonfinite": options.nonfinite, "strict": options.strict}
    rule = {} if options.fusion_rule is None else {"fusion_rule": options.fusion_rule}
    given: dict[str, Any] = reading | dicom | rule
    _run(options.bundle, [item], options.degradation, options.out, options.steps, options.device, **given)


def _mask(path: Path, strict: bool) -> str:
    from medfuse.io import check_nifti, is_nifti, require_volume

    if not is_nifti(path):
        require_volume(path)
        raise MedfuseError("--mask must be a NIfTI (.nii, .nii.gz) with labels, got another file; convert it.")
    check_nifti(path, strict=strict)
    return str(path.absolute())


def _source(row: Modality, path: Path, options: argparse.Namespace) -> dict[str, object]:
    """Check a source before the bundle is loaded, and return its entries of the case."""
    from medfuse.io import check_nifti, is_nifti, measure, open_series, require_volume, series_suv
    from medfuse.io.sidecars import sidecar_units

    key, uid, unit = row.key, getattr(options, f"{row.key}_series"), getattr(options, f"{row.key}_unit")
    entries: dict[str, object] = {key: str(path.absolute())}
    if is_nifti(path):
        check_nifti(path, strict=options.strict)
        stated = {f"{key}_unit": unit} if unit else {}
        return entries | stated | sidecar_units({"case": options.case or "case", **entries}, stated, [key])
    require_volume(path)
    series = open_series(path, modality=row.dicom, uid=uid)
    if row.has_suv:
        content = None if options.suv == "none" else measure(series)
        found = series_suv(series, options.suv, content=content)
        why = found.record.get("reason") or found.record["rule"]
        print(f"{row.title}: {'no SUV' if found.record['kind'] == 'none' else found.unit}, {why}")
    return entries | {f"{key}_series": series.uid}


def _dicom(options: argparse.Namespace) -> None:
    from medfuse.io import list_series, listing

    for line in listing(list_series(options.folder)):
        print(line)
    print(NOTICE)


def _demo(options: argparse.Namespace) -> None:
    from medfuse.io import find_cases

    if not bundle_modalities(options.bundle)[0].is_volume:
        _image_demo(options.bundle, options.out)
        return
    cases = find_cases(bundle_dir(options.bundle) / "demo", keys=source_keys(options.bundle))
    chosen = [c for c in cases if options.all or options.bundle != DEFAULT_BUNDLE or c["case"] == "sts_case"]
    _run(options.bundle, chosen, load_spec("none"), options.out, None, "auto")


def _image_demo(bundle: str, out: Path) -> None:
    from medfuse.pipeline import fuse_images

    demo = bundle_dir(bundle) / "demo"
    keys, spec = source_keys(bundle), load_spec("noise", bundle)
    (one, two), clean = (demo / "noisy" / key for key in keys), (demo / keys[0], demo / keys[1])
    _print_images(fuse_images(one, two, out, bundle=bundle, degradation=spec, truths=clean), out)
    print(f"picture: {out.resolve() / 'contact_sheet.png'}")


def _run(
    bundle: str,
    datalist: list[dict[str, object]],
    spec: dict[str, object],
    out: Path,
    steps: int | None,
    device: str,
    **overrides: object,
) -> None:
    from medfuse.io import require_writable
    from medfuse.pipeline import case_warnings, run_bundle

    require_writable(out)
    overrides |= {"degradation": spec, "output_dir": str(out), "device": _device(device)}
    if steps is not None:
        overrides["steps"] = steps
    run_bundle(bundle, datalist=datalist, **overrides)
    for item in datalist:
        case, folder = str(item["case"]), (out / str(item["case"])).resolve()
        print(f"results: {folder}")
        print(f"picture: {folder / case}_mosaic.png")
        print(f"report: {folder / case}_report.html")
        print(f"warnings: {len(case_warnings(folder, case))}")
    print(NOTICE)


def _batch(options: argparse.Namespace) -> int:
    from medfuse.io import discover, require_writable
    from medfuse.pipeline import collect, run_batch

    require_writable(options.out)
    if options.level == "group":
        rows = collect(options.out)
        failed = sum(row["state"] == "failed" for row in rows)
        warned = sum(bool(row.get("warnings")) for row in rows)
        print(f"{len(rows)} cases: {len(rows) - failed} done, {failed} failed, {warned} with warnings; see cases.tsv")
        return 0
    keys, labels = source_keys(options.bundle), (options.participant_label, options.session_label)
    found = discover(options.input, participants=labels[0], sessions=labels[1], keys=keys)
    if found.layout == "DICOM studies" and options.out.resolve().is_relative_to(options.input.resolve()):
        raise MedfuseError("OUT must lie outside of the folder of DICOM studies, got one in it; choose another.")
    print(f"{found.layout}: {len(found.cases)} cases")
    summary = run_batch(
        found.cases,
        options.out,
        bundle=options.bundle,
        degradation=options.degradation,
        steps=options.steps,
        device=None if options.device is None else _device(options.device),
        suv=options.suv,
        n4=options.n4,
        fusion_rule=options.fusion_rule,
        nonfinite=options.nonfinite,
        strict=options.strict,
        overlays=options.overlay,
        resume=options.resume,
        shard=options.shard,
        bids=options.input if found.layout == "BIDS dataset" else None,
    )
    for case, message in summary.failed.items():
        print(f"medfuse: {case} failed: {message}", file=sys.stderr)
    print(
        f"{len(summary.fused)} fused, {len(summary.skipped)} done before, {len(summary.failed)} failed, "
        f"{len(summary.warned)} with warnings; see cases.tsv"
    )
    print(NOTICE)
    return 1 if summary.failed else 0


def _images(options: argparse.Namespace) -> None:
    from medfuse.io import require_writable
    from medfuse.pipeline import fuse_images

    require_writable(options.out)
    truths = (options.truth1, options.truth2)
    record = fuse_images(
        options.source1,
        options.source2,
        options.out,
        manifest=options.manifest,
        bundle=options.bundle,
        degradation=options.degradation,
        steps=options.steps,
        device=_device(options.device),
        file_format=options.format,
        fusion_rule=options.fusion_rule,
        truths=truths,
    )
    _print_images(record, options.out)


def _print_images(record: dict[str, Any], out: Path) -> None:
    speed = record["speed"]["megapixels_per_second"]
    print(f"{len(record['images'])} images, {speed:.3g} megapixels per second: {out.resolve()}")
    print(f"warnings: {len(record['warnings'])}")
    for source, figures in record["against_truth"].items():
        print(f"{source}: PSNR {figures['psnr']:.2f} dB, SSIM {figures['ssim']:.4f} (mean)")
    print(NOTICE)


def _estimate(options: argparse.Namespace) -> None:
    import json

    from medfuse.pipeline import estimate_file
    from medfuse.report import estimate_sentence

    found = estimate_file(options.image, options.kind, nonfinite=options.nonfinite, strict=options.strict)
    if options.json:
        print(json.dumps({"notice": NOTICE, "kind": options.kind, "estimates": found}, indent=2))
        return
    for record in found:
        print(estimate_sentence("image", record))
    print(NOTICE)


def _evaluate(options: argparse.Namespace) -> None:
    from medfuse.evaluation import METHODS, evaluate_folders
    from medfuse.metrics import METRICS, PRIMARY

    record = evaluate_folders(
        options.source1,
        options.source2,
        options.fused,
        options.out,
        restored=(options.restored1, options.restored2),
        degraded=(options.degraded1, options.degraded2),
        subjects=options.subjects,
        device=_device(options.device),
    )
    summary, better = record["summary"], {1: "higher", -1: "lower", 0: ""}
    print(
        f"{'mean':<10}"
        + f"{METHODS[0]:>10}{'95 % interval':>21}"
        + "".join(f"{m:>10}" for m in METHODS[1:])
        + "  better"
    )
    for name in (n for n in PRIMARY if n in summary[METHODS[0]]):
        figures = summary[METHODS[0]][name]
        interval = "-" if figures["lo"] is None else f"{figures['lo']:.4f} .. {figures['hi']:.4f}"
        others = (summary[m].get(name) for m in METHODS[1:])
        floors = "".join(f"{o['mean']:>10.4f}" if o else f"{'-':>10}" for o in others)
        print(f"{name:<10}{figures['mean']:>10.4f}{interval:>21}{floors}  {better[METRICS[name].direction]}")
    print(f"{record['images']} images, all {len(record['metrics'])} metrics: {options.out.resolve()}")
    print(NOTICE)


def _bundle_check(options: argparse.Namespace) -> int:
    from medfuse.bundles.lint import check

    report = check(options.paths)
    listed = [": ".join(part) for part in report.code] if options.list else []
    for line in [*listed, *report.findings]:
        print(line)
    print(f"{len(report.code)} expressions and targets, {len(report.findings)} findings")
    return 1 if report.findings else 0


def _bundle_export(options: argparse.Namespace) -> None:
    from medfuse.pipeline import export_bundle

    deviation = export_bundle(options.bundle, options.out)
    print(f"{options.out.resolve()}: within {deviation:.1e} of the network")
    print(NOTICE)


def _info(options: argparse.Namespace) -> None:
    from importlib.metadata import PackageNotFoundError, version

    print(f"medfuse {__version__}")
    for package in ("torch", "monai", "SimpleITK", "nibabel", "pydicom"):
        try:
            print(f"  {package} {version(package)}")
        except PackageNotFoundError:
            print(f"  {package} is not installed")
    print(f"shared files: {share_dir()}")
    for name in bundle_names():
        weights = bundle_dir(name) / "models" / "model.pt"
        state = f"{weights.stat().st_size / 1e6:.1f} MB of weights" if weights.is_file() else "no weights"
        print(f"bundle {name} {bundle_metadata(name)['version']}: {state}")
    print(f"degradation presets: {', '.join(preset_names())}")
    print(NOTICE)


def _device(name: str) -> torch.device:
    """Return the device, before any work, or say that it is not there."""
    from medfuse.devices import pick_device

    try:
        return pick_device(name)
    except MedfuseError as error:
        raise MedfuseError(f"--{error}") from error


if __name__ == "__main__":
    sys.exit(main())
