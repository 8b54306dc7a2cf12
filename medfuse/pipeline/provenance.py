"""Of which sources results are: those of the same may be made anew, those of others are not replaced.

A record tells its sources by the SHA-256 of their content: neither name nor place matters. Where no record can be read,
nobody can say of whom results are, and they count as those of others.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medfuse.errors import BundleError, OthersResultsError

REPLACE = "replace them with --replace (in a bundle and in Python: replace)"
"""The last way out."""


def has_results(home: Path, case: str) -> bool:
    """Return whether a folder of records holds results of a case."""
    return any((home / f"{case}{suffix}.json").is_file() for suffix in ("", "_done"))


def require_own(home: Path, case: str, sources: Mapping[str, str], *, replace: bool = False) -> None:
    """Raise where a folder holds the results of other sources under the name of a case.

    Args:
        home: Where the record of the case lies.
        case: Its id.
        sources: Hash of each source, by key; an empty one is unknown.
        replace: Do not raise: the results are to be replaced.

    Raises:
        OthersResultsError: It does.
    """
    if replace or not has_results(home, case):
        return
    try:
        record = json.loads((home / f"{case}.json").read_text(encoding="utf-8"))
        before = {key: source["sha256"] for key, source in record["sources"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        before = {}
    if before != dict(sources) or not all(before.values()):
        raise OthersResultsError(
            f"OUT must hold no results of other images under the name {case}, got some; name this case with --case "
            f"(in a batch, in its input), choose another OUT, or {REPLACE}."
        )


def require_no_twins(folders: Iterable[Path]) -> None:
    """Raise where a folder of results differs from one that is there in upper and lower case only.

    Raises:
        BundleError: One does: some file systems take both for one.
    """
    there: dict[Path, dict[str, set[str]]] = {}
    for folder in folders:
        if (home := folder.parent) not in there:
            there[home] = by_name(path.name for path in home.iterdir()) if home.is_dir() else {}
        if others := there[home].get(same_name(folder.name), set()) - {folder.name}:
            raise BundleError(
                "Names of results must differ in more than upper and lower case, got "
                f"{folder.name}, and {min(others)} of an earlier run; rename the case, or choose another OUT."
            )


def by_name(names: Iterable[str]) -> dict[str, set[str]]:
    """Return names by what some file systems make of them."""
    found: dict[str, set[str]] = {}
    for name in names:
        found.setdefault(same_name(name), set()).add(name)
    return found


def same_name(name: str) -> str:
    """Return what some file systems make of a name: equal in upper and lower case, and in composed letters."""
    return unicodedata.normalize("NFC", name).casefold()


def noted_sources(*records: Path) -> dict[str, Any] | None:
    """Return the hashes of the sources of each result that records name; None where one is there and says none.

    Args:
        records: JSON files with `sources`, by name of the result; those that are absent count as empty.
    """
    found: dict[str, Any] = {}
    for path in records:
        if not path.exists():
            continue
        try:
            found |= dict(json.loads(path.read_text(encoding="utf-8"))["sources"])
        except (OSError, ValueError, TypeError, KeyError):
            return None
    return found
