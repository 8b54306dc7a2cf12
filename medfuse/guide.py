"""Which page of the documentation helps: with a command, an error, a section of a report."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from medfuse.errors import (
    DegradationError,
    DicomError,
    MedfuseError,
    OthersResultsError,
    RegistrationError,
)

HOME = "docs/index.md"
COMMANDS = {
    "fuse": "docs/tutorials/first-fusion.md",
    "batch": "docs/how-to/fuse-many-cases.md",
    "plan": "docs/how-to/run-a-cohort.md",
    "status": "docs/how-to/run-a-cohort.md",
    "slurm": "docs/how-to/run-a-cohort.md",
    "listen": "docs/how-to/listen-to-a-pacs.md",
    "images": "docs/how-to/fuse-image-folders.md",
    "compare": "docs/how-to/measure-regions.md",
    "estimate": "docs/how-to/which-degradation.md",
    "evaluate": "docs/reference/metrics.md",
    "dicom": "docs/how-to/fuse-dicom.md",
    "demo": "docs/tutorials/first-fusion.md",
    "bundle": "docs/how-to/run-the-bundle.md",
    "info": HOME,
    "completion": "docs/how-to/set-defaults.md",
}
SECTIONS = {
    "findings": "docs/explanation/limits.md",
    "pictures": "docs/reference/outputs.md",
    "registration": "docs/how-to/check-the-registration.md",
    "degradation": "docs/how-to/which-degradation.md",
    "values": "docs/how-to/measure-regions.md",
    "methods": "docs/explanation/method.md",
}
"""By id of a section of the report of a case."""
_ERRORS: dict[type[MedfuseError], str] = {
    DegradationError: "docs/how-to/describe-a-degradation.md",
    DicomError: "docs/how-to/fuse-dicom.md",
    RegistrationError: "docs/how-to/check-the-registration.md",
    OthersResultsError: "docs/reference/outputs.md",
}


def page(command: str, error: MedfuseError | None = None) -> str:
    """Return the page that helps with an error: that of its kind, else that of the command in which it arose."""
    kinds = (_ERRORS[kind] for kind in type(error).__mro__ if kind in _ERRORS)
    return next(kinds, COMMANDS.get(command, HOME))


def add_pages(parser: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser]) -> None:
    """Let the help of a parser and of its commands end with their pages."""
    parser.epilog = f"Documentation: {HOME}; the help of each command names its page."
    for name, command in commands.items():
        command.epilog = f"Documentation: {page(name)}"
