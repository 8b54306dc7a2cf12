"""Commands that list what there is: series of DICOM, what is wrong with bundles, versions."""

from __future__ import annotations

import argparse

from medfuse.about import NOTICE, __version__
from medfuse.bundles import bundle_dir, bundle_metadata, bundle_names, preset_names, share_dir
from medfuse.console import tell
from medfuse.progress import counted


def list_dicom(options: argparse.Namespace) -> None:
    """List the series of a DICOM folder."""
    from medfuse.io import list_series, listing

    for line in listing(list_series(options.folder)):
        print(line)
    print(NOTICE)


def list_findings(options: argparse.Namespace) -> int:
    """List what is wrong with bundles."""
    from medfuse.bundles.lint import check

    report = check(options.paths)
    listed = [": ".join(part) for part in report.code] if options.list else []
    for line in [*listed, *report.findings]:
        print(line)
    code, findings = len(report.code), len(report.findings)
    print(f"{counted(code, 'expression or target', 'expressions and targets')}, {counted(findings, 'finding')}")
    return 1 if report.findings else 0


def list_changes(options: argparse.Namespace) -> None:
    """List what changed in each region between two cases."""
    from medfuse.pipeline.compare import compare_cases

    found = compare_cases(options.first, options.second, out=options.out)
    tell(**found)
    for line in found["sentences"]:
        print(line)
    print(NOTICE)


def list_versions(options: argparse.Namespace) -> None:
    """List versions, bundles and presets."""
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


def list_estimates(options: argparse.Namespace) -> None:
    """Print what noise and blur an image shows."""
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
