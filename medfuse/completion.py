"""The command `completion`: a script with which a shell completes calls of medfuse."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path

from medfuse.errors import MedfuseError

SHELLS = ("bash", "zsh", "tcsh")


def add_completion(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command, and return its parser."""
    completion = commands.add_parser(
        "completion", help="print a script with which a shell completes calls (needs medfuse[completion])"
    )
    completion.add_argument("shell", choices=SHELLS)
    return completion


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script of a shell for a parser; files are completed where an option takes a path.

    Raises:
        MedfuseError: shtab, which writes it, is not there.
    """
    try:
        shtab = importlib.import_module("shtab")
    except ImportError as error:
        raise MedfuseError(
            "shtab must be installed to complete calls, got none; run: pip install 'medfuse[completion]'."
        ) from error
    for action in _actions(parser):
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
