"""Which images of a BIDS dataset are meant, by their entities: those of options, and of a filter file as PyBIDS has it.

    {"pet": {"tracer": "FDG", "reconstruction": ["acdyn", "acstat"], "run": 1},
     "t1w": {"session": "baseline", "acquisition": null}}

An entity must have one of the values that are listed; `null` or `"Query.NONE"` stands for none, `"Query.ANY"` for any,
`"Query.OPTIONAL"` for both. Numbers are equal with and without zeros in front.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medfuse.errors import BundleError, nearest
from medfuse.io.modalities import ANATOMY, UPTAKE, Modality
from medfuse.io.texts import read_json

_ENTITIES = {
    "subject": "sub", "session": "ses", "sample": "sample", "task": "task", "tracksys": "tracksys",
    "acquisition": "acq", "ceagent": "ce", "staining": "stain", "tracer": "trc", "reconstruction": "rec",
    "direction": "dir", "run": "run", "modality": "mod", "echo": "echo", "flip": "flip", "inv": "inv", "mt": "mt",
    "part": "part", "proc": "proc", "hemi": "hemi", "space": "space", "split": "split", "recording": "recording",
    "chunk": "chunk", "res": "res", "den": "den", "label": "label", "desc": "desc", "description": "desc",
}  # fmt: skip
_FILE = ("datatype", "suffix", "extension", "scope")  # of which this knows by itself
_QUERIES = (UPTAKE.bids_suffix.casefold(), ANATOMY.bids_suffix.casefold())
_OTHERS = ("fmap", "bold", "sbref", "flair", "t2w", "roi", "dwi", "asl", "eeg", "meg", "anat", "xfm", "mask")
_NONE, _ANY = None, object()


@dataclass(frozen=True)
class Selection:
    """What is asked of the entities of images, by suffix in small letters: `pet`, `t1w`."""

    wanted: Mapping[str, Mapping[str, tuple[Any, ...]]] = field(default_factory=dict)

    def fits(self, row: Modality, image: Path) -> bool:
        """Return whether an image is meant, by its name."""
        entities = entities_of(image)
        wanted = self.wanted.get(row.bids_suffix.casefold(), {})
        return all(_fits(entities.get(name), values) for name, values in wanted.items())


def entities_of(image: Path) -> dict[str, str]:
    """Return the entities of a BIDS name: of `sub-01_run-1_pet.nii.gz`, `{"sub": "01", "run": "1"}`."""
    return dict(part.split("-", 1) for part in image.name.split(".")[0].split("_") if "-" in part)


def read_selection(
    path: str | Path | None = None,
    *,
    tracer: str | None = None,
    reconstruction: str | None = None,
    run: str | None = None,
) -> Selection:
    """Return what is asked for by a filter file, and of PETs by labels, with or without `trc-`, `rec-`, `run-`.

    Raises:
        BundleError: If the file is no small JSON object of queries, or has an unknown query or entity; or a label is
            none.
    """
    wanted: dict[str, dict[str, tuple[Any, ...]]] = {}
    if path is not None:
        for query, entities in _object(_content(Path(path)), "The BIDS filter file").items():
            name = query.casefold()
            if name in _OTHERS:
                continue
            if name not in _QUERIES:
                raise BundleError(
                    f"A query of the BIDS filter file must be {' or '.join(_QUERIES)}, or one of another modality, got "
                    f"another; {nearest(name, _QUERIES)}."
                )
            for entity, value in _object(entities, f"The query {name} of the BIDS filter file").items():
                if entity in _FILE:
                    continue
                short = _ENTITIES.get(entity, entity if entity in _ENTITIES.values() else "")
                if not short:
                    raise BundleError(
                        f"An entity of the query {name} must be one of PyBIDS, such as tracer, reconstruction or run, "
                        f"got another; {nearest(entity, _ENTITIES)}."
                    )
                wanted.setdefault(name, {})[short] = _values(value, short)
    for short, label in (("trc", tracer), ("rec", reconstruction), ("run", run)):
        if label is None:
            continue
        if not re.fullmatch(r"[A-Za-z0-9]+", label.removeprefix(f"{short}-")):
            raise BundleError(f"--{short} must be a label of letters and digits, got another text; correct it.")
        asked = wanted.setdefault(_QUERIES[0], {})
        values = _values(label, short)
        if short in asked and not _fits(values[0], asked[short]):
            raise BundleError(
                f"--{short} must be among what the BIDS filter file asks for, got another; change either."
            )
        asked[short] = values
    return Selection(wanted)


def _content(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError):
        raise BundleError("The BIDS filter file must be a small, readable JSON file, got another; repair it.") from None


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BundleError(f"{what} must be an object, got {type(value).__name__}; use {{...}}.")
    return value


def _values(value: Any, entity: str) -> tuple[Any, ...]:
    """Return the labels that are asked for, with `_NONE` for no entity and `_ANY` for any."""
    found: list[Any] = []
    for one in value if isinstance(value, list) else [value]:
        if one is None or (isinstance(one, str) and one.strip("<>").split(":")[0] == "Query.NONE"):
            found.append(_NONE)
        elif isinstance(one, str) and one.strip("<>").split(":")[0] in ("Query.ANY", "Query.REQUIRED"):
            found.append(_ANY)
        elif isinstance(one, str) and one.strip("<>").split(":")[0] == "Query.OPTIONAL":
            found += [_NONE, _ANY]
        elif isinstance(one, str | int) and not isinstance(one, bool):
            found.append(str(one).removeprefix(f"{entity}-"))
        else:
            raise BundleError(
                "A value in a BIDS filter file must be a label, a number, null or a list of them; correct it."
            )
    return tuple(found)


def _fits(label: str | None, values: tuple[Any, ...]) -> bool:
    if label is None:
        return None in values
    return any(value is _ANY or (value is not None and _plain(value) == _plain(label)) for value in values)


def _plain(label: str) -> str:
    return label.lstrip("0") or "0" if label.isdigit() else label
