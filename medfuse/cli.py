"""The command line: a thin face over the bundles. Torch and MONAI are loaded by the commands that need them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse import guide
from medfuse.about import NOTICE, __version__
from medfuse.arguments import (
    DEVICES,
    SUV_CHOICES,
    add_bids,
    add_bundle,
    add_bundle_tasks,
    add_demo,
    add_evaluate,
    add_frames,
    add_images,
    add_looks,
    add_reading,
    add_replace,
    add_sources,
    check_arguments,
    completed,
    looks,
    named_bundle,
    selection_of,
    steps,
)
from medfuse.bundles import (
    DEFAULT_BUNDLE,
    bundle_dir,
    bundle_modalities,
    preset_names,
    source_keys,
)
from medfuse.cohort.commands import add_cohort, missing_line, say_group, split_passed
from medfuse.cohort.plan import BIDS, cases_of, has_plan, read_plan
from medfuse.cohort.rehearsal import say_pairs, say_plan
from medfuse.completion import add_completion, completion_script
from medfuse.console import add_console, add_dry_run, note_error, quieten, result_json, speaking, speaks_json, tell
from medfuse.defaults import COMMANDS, Defaults, add_defaults, check_spelled, find_defaults
from medfuse.early import early_start, loading, share_no_products
from medfuse.errors import MedfuseError, known_error
from medfuse.estimating import add_estimate
from medfuse.fusing import add_batch, fusing
from medfuse.listen.commands import add_listen
from medfuse.lists import list_changes, list_dicom, list_estimates, list_findings, list_versions
from medfuse.origin import taken_from
from medfuse.progress import counted
from medfuse.psf import add_psf, with_psf
from medfuse.region_arguments import REGIONAL, add_compare, regions_of
from medfuse.standing import add_status

if TYPE_CHECKING:
    import torch

    from medfuse.io import Discovery


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 some cases of a batch failed, 2 wrong input.

    Warnings leave it as it is: they are printed, counted and written into the records.
    """
    share_no_products()
    words = sys.argv[1:] if args is None else list(args)
    words, passed = split_passed(words)
    try:
        options, taken, file = _parsed(words)
    except MedfuseError as error:  # of the defaults
        note_error(str(error), "docs/how-to/set-defaults.md")
        return 2
    if passed:
        options.passed = passed
    quieten()
    code, told = 0, None
    try:
        with speaking(options), taken_from(file, taken):
            try:
                check_arguments(options)
                code = options.run(options) or 0
            except Exception as error:
                known = known_error(error)
                if known is None:
                    raise
                code, told = 2, str(known)
                note_error(told, guide.page(options.command, known))
    except MedfuseError as error:  # of the log
        code, told = 2, str(error)
        note_error(told)
    except KeyboardInterrupt:
        print("medfuse: stopped", file=sys.stderr)
        return 130
    if speaks_json(options):
        print(result_json(options.command, code, told))
    return code


def _parsed(words: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any], str]:
    """Return the options of a call, which of them came from a file of defaults, and its name."""
    found = find_defaults(words)
    parser = _parser(named_bundle(words, found.bundle(words) or DEFAULT_BUNDLE), found)
    options = parser.parse_args(words)
    check_spelled(options, found, words)
    return options, found.taken(options), found.path.name if found.path else ""


def _parser(bundle: str = DEFAULT_BUNDLE, defaults: Defaults | None = None) -> argparse.ArgumentParser:
    """Return the parser; of `fuse`, the help tells the sources of a bundle."""
    parser = argparse.ArgumentParser(prog="medfuse", description=f"Degradation-aware image fusion. {NOTICE}")
    parser.add_argument("--version", action="version", version=f"medfuse {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    fuse = commands.add_parser("fuse", help="fuse one PET and one MRI volume (NIfTI or DICOM)", description=NOTICE)
    add_bundle(fuse, "bundle, which says what the sources are")
    add_sources(fuse, bundle)
    fuse.add_argument("--suv", choices=SUV_CHOICES, default="auto", help="SUV of a PET (auto: bw if possible)")
    add_frames(fuse)
    fuse.add_argument("--n4", action="store_true", help="first remove the bias field of the MRI")
    fuse.add_argument("--out", required=True, type=Path, help="folder for the results, OUT/CASE/")
    fuse.add_argument("--case", help="name of the case in file names (default: case)")
    add_reading(fuse)
    fuse.add_argument("--aligned", action="store_true", help="the volumes share one world frame: do not register")
    fuse.add_argument("--no-dicom", action="store_true", help="write no DICOM, even where a source was DICOM")
    fuse.add_argument("--deidentified", action="store_true", help="leave blank who the patient is in DICOM output")
    fuse.set_defaults(run=_fuse)

    batch = add_batch(commands)
    add_psf(fuse)
    batch.set_defaults(run=_batch)
    add_cohort(commands, parse=parser.parse_args, check=check_arguments, add_input=add_bids, find=_found)
    add_status(commands)
    listen = add_listen(commands)

    images = commands.add_parser("images", help="fuse pairs of 2-D images, two folders or a table", description=NOTICE)
    add_bundle(images)
    add_images(images)
    images.set_defaults(run=_images)

    for command in (fuse, images):
        add_replace(command)
        command.add_argument(
            "--degradation",
            help=f"what happened to the sources: {', '.join(preset_names())}, or a file (default: the bundle's)",
        )
        command.add_argument("--steps", type=steps, help="reverse steps, 1 or more (default: the bundle's)")
        add_looks(command)
        command.add_argument("--device", default="auto", help=DEVICES)

    compare = add_compare(commands)
    add_console(compare)
    compare.set_defaults(run=list_changes)

    estimate = commands.add_parser(
        "estimate", help="say what noise and blur an image or a volume shows; nothing is restored", description=NOTICE
    )
    add_estimate(estimate)
    estimate.set_defaults(run=list_estimates)

    evaluate = commands.add_parser(
        "evaluate", help="score fused images of any method against their clean sources", description=NOTICE
    )
    add_evaluate(evaluate)
    add_replace(evaluate)
    evaluate.add_argument("--device", default="auto", help=DEVICES)
    evaluate.set_defaults(run=_evaluate)
    for command in (fuse, images, batch, evaluate):
        add_console(command)
    add_console(listen, as_json=False)
    for command in (fuse, images, batch):
        add_dry_run(command)

    dicom = commands.add_parser("dicom", help="list and check the series of a DICOM folder", description=NOTICE)
    dicom.add_argument("folder", type=Path, help="folder, with all folders in it")
    dicom.set_defaults(run=list_dicom)

    demo = commands.add_parser("demo", help="fuse what is shipped: a brain phantom and a real PET-MRI case")
    add_demo(demo)
    demo.set_defaults(run=_demo)

    add_bundle_tasks(commands, check=list_findings, export=_bundle_export)

    info = commands.add_parser("info", help="list bundles, presets and versions")
    info.set_defaults(run=list_versions)

    add_completion(commands).set_defaults(run=lambda options: print(completion_script(parser, options.shell)))
    guide.add_pages(parser, commands.choices)
    for name in COMMANDS:
        add_defaults(commands.choices[name])
    if defaults is not None:
        defaults.install(commands.choices)
    return parser


def _fuse(options: argparse.Namespace) -> int | None:
    from medfuse.io.places import require_apart

    with early_start(options):
        from medfuse.pipeline.sources import mask_entry, source_entries

    degradation = with_psf(options.degradation, options.psf)
    item: dict[str, object] = {"case": options.case or "case"}
    regions = regions_of(options)
    if regions is not None:
        item["mask"] = mask_entry(regions, strict=options.strict)
        item |= {} if options.labels is None else {"labels": str(options.labels.absolute())}
    for row in bundle_modalities(options.bundle):
        uid, unit = getattr(options, f"{row.key}_series"), getattr(options, f"{row.key}_unit")
        told = {"case": str(item["case"]), "suv": options.suv, "frames": options.frames, "strict": options.strict}
        path = options.dicom or getattr(options, row.key)
        entries, said = source_entries(row, path, uid=uid, unit=unit, **told)
        item |= entries
        if said:
            print(said)
    if options.aligned:
        item["aligned"] = True
    require_apart([item], options.out, options.out.joinpath)
    if options.dry_run:
        return say_plan("", [item], options.out, source_keys(options.bundle), options.steps, spec=degradation)
    dicom = {"dicom_output": not options.no_dicom, "deidentified": options.deidentified}
    reading = {"suv": options.suv, "n4": options.n4, "nonfinite": options.nonfinite, "strict": options.strict}
    given: dict[str, Any] = reading | dicom | looks(options) | {"replace": options.replace}
    for name in REGIONAL:
        given |= {} if getattr(options, name) is None else {name: getattr(options, name)}
    _run(options.bundle, [item], degradation, options.out, options.steps, options.device, **given)
    return None


def _demo(options: argparse.Namespace) -> None:
    from medfuse.io import find_cases

    if not bundle_modalities(options.bundle)[0].is_volume:
        _image_demo(options.bundle, options.out)
        return
    cases = find_cases(bundle_dir(options.bundle) / "demo", keys=source_keys(options.bundle))
    _run(options.bundle, cases, None, options.out, None, "auto")


def _image_demo(bundle: str, out: Path) -> None:
    from medfuse.pipeline import fuse_images

    demo = bundle_dir(bundle) / "demo"
    keys = source_keys(bundle)
    (one, two), clean = (demo / "noisy" / key for key in keys), (demo / keys[0], demo / keys[1])
    _print_images(fuse_images(one, two, out, bundle=bundle, truths=clean), out)
    print(f"picture: {out.resolve() / 'contact_sheet.png'}")


def _run(
    bundle: str,
    datalist: list[dict[str, object]],
    spec: dict[str, object] | None,
    out: Path,
    steps: int | None,
    device: str,
    **overrides: object,
) -> None:
    from medfuse.io import require_writable
    from medfuse.pipeline import case_warnings, run_bundle

    require_writable(out)
    overrides |= {"output_dir": str(out), "device": _device(device)}
    if spec is not None:
        overrides["degradation"] = spec
    if steps is not None:
        overrides["steps"] = steps
    run_bundle(bundle, datalist=datalist, **overrides)
    for item in datalist:
        case, folder = str(item["case"]), (out / str(item["case"])).resolve()
        print(f"results: {folder}")
        print(f"picture: {folder / case}_mosaic.png")
        print(f"report: {folder / case}_report.html")
        warnings = case_warnings(folder, case)
        print(f"warnings: {len(warnings)}")
        tell(case=case, folder=str(folder), warnings=warnings)
    print(NOTICE)


def _batch(options: argparse.Namespace) -> int:
    with loading():
        from medfuse.io import require_writable
        from medfuse.pipeline import run_batch

    require_writable(options.out)
    if options.level == "group":
        return say_group(options.out)
    layout, cases, part = _cases(options)
    cases = completed(cases, options)
    if options.dry_run:
        keys, spec = source_keys(options.bundle), with_psf(options.degradation, options.psf)
        return say_plan(layout, cases, options.out, keys, options.steps, part or (1, 1), spec=spec)
    summary = run_batch(
        cases,
        options.out,
        device=None if options.device is None else _device(options.device),
        frames=options.frames,
        resume=options.resume,
        shard=part or (1, 1),
        bids=options.input if layout == BIDS else None,
        workers=options.workers,
        tables=options.shard is None or part is not None,
        replace=options.replace,
        **{name: getattr(options, name) for name in REGIONAL},
        **fusing(options),
    )
    tell(**asdict(summary))
    for case, message in summary.failed.items():
        print(f"medfuse: {case} failed: {message} (see {guide.page('batch')})", file=sys.stderr)
    print(
        f"{len(summary.fused)} fused, {len(summary.skipped)} done before, {len(summary.failed)} failed, "
        f"{len(summary.warned)} with warnings; "
        + ("see cases.tsv" if options.shard is None or part else "table and page: `medfuse batch INPUT OUT group`")
    )
    if missing := missing_line(options.out):
        print(missing)
    print(NOTICE)
    return 1 if summary.failed else 0


def _cases(options: argparse.Namespace) -> tuple[str, list[dict[str, Any]], tuple[int, int] | None]:
    """Return the layout of the input, its cases, and which part of them to fuse; of a plan, those of a part alone."""
    selection = selection_of(options)
    if options.shard is None or not has_plan(options.out):
        found = _found(options)
        print(f"{found.layout}: {counted(len(found.cases), 'case')}")
        return found.layout, found.cases, options.shard
    if options.participant_label or options.session_label or (selection and selection.wanted):
        raise MedfuseError("Labels must come with `medfuse plan`, got some with a part of its plan; leave them out.")
    plan = read_plan(options.out)
    cases = cases_of(plan, options.input, options.shard, sources=source_keys(options.bundle))
    which = f"part {options.shard[0]} of {options.shard[1]} of {counted(plan.packs, 'pack')}"
    print(f"{plan.layout}: {which}, {counted(len(cases), 'case')}")
    return plan.layout, cases, None


def _found(options: argparse.Namespace) -> Discovery:
    """List the cases of an input."""
    from medfuse.io import discover

    labels = {"participants": options.participant_label, "sessions": options.session_label}
    keys, selection = source_keys(options.bundle), selection_of(options)
    found = discover(options.input, keys=keys, selection=selection, **labels)
    if found.layout == "DICOM studies" and options.out.resolve().is_relative_to(options.input.resolve()):
        raise MedfuseError("OUT must lie outside of the folder of DICOM studies, got one in it; choose another.")
    return found


def _images(options: argparse.Namespace) -> int:
    with loading():
        from medfuse.io import require_writable
        from medfuse.pipeline import fuse_images

    require_writable(options.out)
    if options.dry_run:
        return say_pairs(options.source1, options.source2, options.manifest)
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
        truths=truths,
        replace=options.replace,
        **looks(options),
    )
    return _print_images(record, options.out)


def _print_images(record: dict[str, Any], out: Path) -> int:
    tell(**record)
    speed = record["speed"]["megapixels_per_second"]
    for name, message in record["failed"].items():
        print(f"medfuse: {name} failed: {message}", file=sys.stderr)
    failed = f", {len(record['failed'])} failed" if record["failed"] else ""
    print(f"{counted(len(record['images']), 'image')}{failed}, {speed:.3g} megapixels per second: {out.resolve()}")
    print(f"warnings: {len(record['warnings'])}")
    for source, figures in record["against_truth"].items():
        print(f"{source}: PSNR {figures['psnr']:.2f} dB, SSIM {figures['ssim']:.4f} (mean)")
    print(NOTICE)
    return 1 if record["failed"] else 0


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
        replace=options.replace,
    )
    tell(**record)
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
    print(f"{counted(record['images'], 'image')}, all {len(record['metrics'])} metrics: {options.out.resolve()}")
    print(NOTICE)


def _bundle_export(options: argparse.Namespace) -> None:
    from medfuse.pipeline import export_bundle

    deviation = export_bundle(options.bundle, options.out)
    print(f"{options.out.resolve()}: within {deviation:.1e} of the network")
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
