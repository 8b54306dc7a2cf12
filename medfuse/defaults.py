"""A file of defaults: what a user would otherwise say with every call.

It is data, read by a schema: a mapping from options to values, for all commands that have them, or under the name of
a command for it alone. Nothing in it chooses inputs, outputs or peers, replaces results, or names configurations.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from medfuse.bundles.places import UniqueKeyLoader
from medfuse.errors import MedfuseError, nearest

COMMANDS = ("fuse", "batch", "images", "listen", "evaluate", "plan")
"""Commands that take defaults."""
FIELDS = (
    "bundle", "degradation", "steps", "device", "fusion_rule", "palette", "blend", "sensitivity", "suv", "frames", "n4",
    "nonfinite", "strict", "no_dicom", "deidentified", "format", "workers", "minutes", "associations", "stable",
    "timeout", "retry", "largest", "room", "keep_free", "time_limit", "quiet", "verbose",
)  # fmt: skip
"""Options that a file may hold, their hyphens as underscores."""
_MOST = 1 << 16  # bytes of a file
_APART = {"quiet": "verbose", "verbose": "quiet"}


@dataclass(frozen=True)
class _Default:
    """The value of an option that came from a file, until the command line was read."""

    value: Any


@dataclass(frozen=True)
class Defaults:
    """What a file of defaults holds; nothing, where there is none.

    Attributes:
        path: The file.
        values: By command, and by option.
    """

    path: Path | None = None
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def bundle(self, words: Sequence[str]) -> str | None:
        """Return the bundle of the command of a call, where the file names one."""
        command = next((word for word in words if word in self.values), None)
        found = None if command is None else self.values[command].get("bundle")
        return None if found is None else str(found)

    def install(self, parsers: Mapping[str, argparse.ArgumentParser]) -> None:
        """Make them the defaults of parsers, by command.

        Raises:
            MedfuseError: A value is none that its option takes.
        """
        for command, values in self.values.items():
            actions = {action.dest: action for action in parsers[command]._actions}
            for name, value in values.items():
                read = self._read(command, actions[name], value) if name in actions else None
                if read is not None:
                    parsers[command].set_defaults(**{name: _Default(read)})

    def taken(self, options: argparse.Namespace) -> dict[str, Any]:
        """Put values in the place of those that a call did not give, and return which they were."""
        taken = {name: value.value for name, value in vars(options).items() if isinstance(value, _Default)}
        for name, other in _APART.items():
            if name in taken and getattr(options, other) is True:
                taken[name] = False
        if "blend" in taken and taken.get("palette", getattr(options, "palette", None)) in (None, "oklab"):
            taken["blend"] = None  # it says how other palettes lie over the anatomy, and waits for one
        for name, value in taken.items():
            setattr(options, name, value)
        return {name: value for name, value in taken.items() if value is not False and value is not None}

    def _read(self, command: str, action: argparse.Action, value: Any) -> Any:
        """Return a value as its option would have it from the command line."""
        if action.nargs == 0:
            if not isinstance(value, bool):
                raise self._wrong(command, action.dest, "true or false", value)
            return value
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self._wrong(command, action.dest, "a word or a number", value)
        try:
            read = action.type(str(value)) if callable(action.type) else str(value)
        except (argparse.ArgumentTypeError, ValueError, MedfuseError) as error:
            raise self._wrong(command, action.dest, "as its option takes it", value) from error
        if action.choices is not None and read not in action.choices:
            raise self._wrong(command, action.dest, f"one of {', '.join(map(str, action.choices))}", value)
        return read

    def _wrong(self, command: str, name: str, what: str, value: Any) -> MedfuseError:
        return MedfuseError(
            f"{name} of {command} in the defaults must be {what}, got {_shown(value)} in {self.path}; change it."
        )


def add_defaults(command: argparse.ArgumentParser) -> None:
    """Add the options that choose the file."""
    group = command.add_argument_group("defaults")
    which = group.add_mutually_exclusive_group()
    which.add_argument("--defaults", type=Path, metavar="FILE", help=f"of options (default: {_shown_place()})")
    which.add_argument("--no-defaults", action="store_true", help="read no file of defaults")


def find_defaults(words: Sequence[str]) -> Defaults:
    """Read the file of defaults that a call names, or that in its standard place, if there is one.

    Raises:
        MedfuseError: A file is named that is not there, or it holds something else than defaults.
    """
    command = next((word for word in words if not word.startswith("-")), None)
    if command not in COMMANDS or "--no-defaults" in words:
        return Defaults()
    named = list(_named(words))
    if named:
        return read_defaults(Path(named[-1]))
    place = standard_place()
    if place is None or not os.path.isfile(place):  # noqa: PTH113  (false, too, in a home that may not be entered)
        return Defaults()
    return read_defaults(place)


def check_spelled(options: argparse.Namespace, found: Defaults, words: Sequence[str]) -> None:
    """Raise where a call abbreviates the options of defaults: they are looked for before it is parsed.

    Raises:
        MedfuseError: It does.
    """
    given = vars(options)
    off = given.get("no_defaults", False) and "--no-defaults" not in words
    if off or (given.get("defaults") is not None and given["defaults"] != found.path):
        raise MedfuseError("--defaults and --no-defaults must be spelled out, got an abbreviation; write them whole.")


def standard_place() -> Path | None:
    """Return where a user's defaults lie: `medfuse/defaults.yaml` in $XDG_CONFIG_HOME, or in ~/.config.

    Reference:
        XDG Base Directory Specification 0.8: a path that is not absolute is ignored.
    """
    told = os.environ.get("XDG_CONFIG_HOME", "")
    try:
        base = Path(told) if Path(told).is_absolute() else Path.home() / ".config"
    except RuntimeError:  # no home
        return None
    return base / "medfuse" / "defaults.yaml"


def read_defaults(path: Path) -> Defaults:
    """Read a file of defaults.

    Raises:
        MedfuseError: It is not there, too large, no valid YAML, or holds an option or a command that is unknown.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST + 1)
    except OSError as error:
        raise MedfuseError(f"--defaults must be a file that can be read, got {str(path)!r}; check it.") from error
    try:
        if len(content) > _MOST:
            raise ValueError(f"more than {_MOST} bytes")
        found = yaml.load(content.decode("utf-8-sig"), UniqueKeyLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise MedfuseError(f"A file of defaults must be valid YAML, got {path.name}: {why}; mend it.") from error
    found = {} if found is None else found
    if not isinstance(found, dict):
        raise MedfuseError(f"A file of defaults must hold a mapping, got {type(found).__name__} in {path}; mend it.")
    everywhere: dict[str, Any] = {}
    alone: dict[str, dict[str, Any]] = {}
    for name, value in found.items():
        if name in COMMANDS and isinstance(value, dict):
            alone[name] = {_field(path, key, FIELDS, f" of {name}"): each for key, each in value.items()}
        else:
            everywhere[_field(path, name, (*FIELDS, *COMMANDS))] = value
    wrong = next((name for name in everywhere if name in COMMANDS), None)
    if wrong is not None:
        got = _shown(everywhere[wrong])
        raise MedfuseError(f"{wrong} in the defaults must be a mapping, got {got} in {path}; mend it.")
    return Defaults(path, {command: everywhere | alone.get(command, {}) for command in COMMANDS})


def _field(path: Path, name: object, legal: Sequence[str], of: str = "") -> str:
    """Return the name of an option, or raise with the legal one that is most like it."""
    plain = str(name).replace("-", "_")
    if plain not in legal:
        raise MedfuseError(
            f"A field{of} in the defaults must be an option that may have one, got {str(name)[:60]!r} in {path}; "
            f"{nearest(plain, legal)}."
        )
    return plain


def _named(words: Sequence[str]) -> Iterator[str]:
    """Give the files that words of a call name."""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word == "--defaults" and after:
            yield after
        elif word.startswith("--defaults="):
            yield word.removeprefix("--defaults=")


def _shown(value: Any) -> str:
    """Return a value for a message; of a container its kind alone, as aliases make much of little."""
    return repr(str(value)[:60]) if value is None or isinstance(value, str | int | float) else type(value).__name__


def _shown_place() -> str:
    return "medfuse/defaults.yaml in $XDG_CONFIG_HOME or ~/.config"
