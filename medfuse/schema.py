"""What data may say of a case: its id, its fields and their values. Loads neither torch nor MONAI.

`case.json`, a row of a manifest, an item of a `datalist` and the command line are held against the same rules. A field
that no rule names is refused: a misspelt one would do nothing, and one of the program's own would change a result.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from medfuse.errors import BundleError, nearest

PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
UNIT = re.compile(r"[A-Za-z%][A-Za-z0-9/.*^%-]{0,15}")  # what may be written into outputs; no free text
ID_RULE = "at most 128 letters, digits, '.', '_' and '-', the first a letter or digit"

ALL_FRAMES, DECAY = "all", "decay:"  # words of a choice of frames, see `medfuse.io.frames`
FRAME_SPAN = re.compile(r"(-?\d{1,7}(?:\.\d{1,3})?)-(\d{1,7}(?:\.\d{1,3})?)(s|min)(-pi)?")
_FRAMES = re.compile(r"\d{1,5}(?:-\d{1,5})?(?:,\d{1,5}(?:-\d{1,5})?)*")
_UID = re.compile(r"[0-9.]{1,64}")
_FIELD = re.compile(r"[a-z][a-z0-9_]{0,39}")
_MARKED = re.compile(r"[_$@%#]{1,2}[a-z][a-z0-9_]{0,39}")  # as MONAI marks what is none of data
_FILES = frozenset(  # what a run writes into OUT, or into the folder of a case, whatever the suffix
    ("cases", "contact_sheet", "dataset_description", "dicom", "error", "evaluation", "fused", "images",
     "images_unfinished", "index", "plan", "readme", "source1", "source2", "weight")
)  # fmt: skip
_DEVICES = re.compile(r"con|prn|aux|nul|(com|lpt)[0-9]")  # on Windows no file may be called so, with any suffix


def id_problem(text: Any) -> str | None:
    """Return why a text may not be the id of a case, which names its folder and files; None if it may."""
    if not isinstance(text, str):
        return f"{type(text).__name__} in place of a text"
    if not PLAIN_ID.fullmatch(text):
        bad = "".join(sorted(set(re.sub(r"[A-Za-z0-9._-]", "", text))))
        if bad:
            return repr(bad[:8])
        return f"{len(text)} of them" if len(text) > 128 else "another beginning" if text else "none"
    stem = text.split(".")[0].lower()
    if stem in _FILES:
        return f"{stem!r}, the name of something that runs write"
    if _DEVICES.fullmatch(stem):
        return f"{stem!r}, which Windows keeps for a device"
    return "a dot at the end, which Windows leaves out" if text.endswith(".") else None


def checked_id(text: Any, what: str, *, where: str = "") -> str:
    """Return the id of a case.

    Args:
        text: The id.
        what: What it is, for the message.
        where: Where it was found.

    Raises:
        BundleError: If it is none; the message repeats no letter of it, unless it is a reserved name.
    """
    problem = id_problem(text)
    if problem:
        raise BundleError(f"{what} must be {ID_RULE}, and no reserved name, got {problem}{where}; rename it.")
    return str(text)


def refuse_twins(cases: Iterable[str], what: str = "Case ids") -> None:
    """Refuse names that differ in upper and lower case only: some file systems would mix up their results.

    Args:
        cases: The names.
        what: What they are, for the message.

    Raises:
        BundleError: Two do.
    """
    seen: dict[str, str] = {}
    for case in cases:
        twin = seen.setdefault(unicodedata.normalize("NFC", case).casefold(), case)
        if twin != case:
            raise BundleError(f"{what} must differ in more than upper and lower case, got {twin} and {case}; rename.")


def checked_unit(value: Any, what: str) -> str:
    """Return a unit that may be written into outputs.

    Raises:
        BundleError: If it is none; the message does not repeat it.
    """
    if not isinstance(value, str) or not UNIT.fullmatch(value):
        raise BundleError(f"{what} must be a unit such as Bq/mL or SUV, got another text; correct it.")
    return value


def checked_uid(value: Any, what: str) -> str:
    """Return a Series Instance UID (DICOM PS3.5 9).

    Raises:
        BundleError: If it is none; the message does not repeat it.
    """
    if not isinstance(value, str) or not _UID.fullmatch(value):
        raise BundleError(f"{what} must be a Series Instance UID, got another text; correct it.")
    return value


def checked_count(value: Any, what: str) -> int:
    """Return a number of images.

    Raises:
        BundleError: If it is no whole number from 1 on; the message does not repeat it.
    """
    number = int(value) if isinstance(value, str) and value.isdigit() else value
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise BundleError(f"{what} must be a whole number of images, got another value; correct it.")
    return number


def checked_flag(value: Any, what: str) -> bool:
    """Return true or false.

    Raises:
        BundleError: If it is neither; the message does not repeat it.
    """
    if not isinstance(value, bool):
        raise BundleError(f"{what} must be true or false, got {type(value).__name__}; correct it.")
    return value


def checked_frames(value: Any, what: str) -> str:
    """Return a choice of frames.

    Raises:
        BundleError: If it is none; the message does not repeat it.
    """
    text = value.removeprefix(DECAY) if isinstance(value, str) else ""
    span = FRAME_SPAN.fullmatch(text)
    if text != ALL_FRAMES and not _FRAMES.fullmatch(text) and not (span and float(span[1]) < float(span[2])):
        raise BundleError(
            f"{what} must be all, numbers such as 3 or 3-7, or times such as 40-60min or 2400-3600s (40-60min-pi: "
            "after the injection), with or without decay: before them, got another text; correct it."
        )
    return str(value)


def field_names(keys: Sequence[str]) -> dict[str, Callable[[Any, str], Any]]:
    """Return the fields that a case may have, and what checks each.

    Args:
        keys: What each case has an image of; the last may be a dynamic scan.
    """
    units = {f"{key}_unit": checked_unit for key in keys}
    series = {f"{key}_series": checked_uid for key in keys}
    chosen = {f"{key}_chosen_of": checked_count for key in keys}
    return {"aligned": checked_flag, **units, **series, **chosen, f"{keys[-1]}_frames": checked_frames}


def checked_fields(fields: Any, whose: str, *, keys: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a case.

    Args:
        fields: By name.
        whose: What they are of, such as `case.json of case a`.
        keys: What each case has an image of.

    Raises:
        BundleError: If it is no mapping, a field is unknown, or a value is none of its kind.
    """
    if not isinstance(fields, Mapping):
        raise BundleError(f"{whose} must be an object, got {type(fields).__name__}; use {{...}}.")
    known = field_names(keys)
    for name in fields:
        if name not in known:
            raise BundleError(unknown_field(str(name), f"The fields of {whose}", known))
    return {name: known[name](value, f"{name} in {whose}") for name, value in fields.items()}


def is_field(name: str) -> bool:
    """Return whether a name looks like that of a field, of several words, and may hence be repeated in a message."""
    return bool(_FIELD.fullmatch(name) or _MARKED.fullmatch(name)) and bool(set(name) & set("_$@%#"))


def unknown_field(name: str, what: str, legal: Iterable[str]) -> str:
    """Return the message about an unknown name; one that is no name of a field is not repeated."""
    known = list(legal)
    remedy = nearest(plain(name), known)
    told = _FIELD.fullmatch(name) or _MARKED.fullmatch(name) or plain(name) in known
    return f"{what} must be among {', '.join(known)}, got {repr(name) if told else 'one of other letters'}; {remedy}."


def plain(name: str) -> str:
    """Return a name as fields are written: in small letters, with `_` between words and nowhere else."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def checked_items(items: Iterable[Mapping[str, Any]], *, keys: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return cases, as a bundle's `datalist` has them, each of which may be run.

    Args:
        items: Each with "case" and either a path for each of `keys` and optionally for "mask", "labels", "truth_" keys
            and the transform of the last key, such as "pet_transform", and fields; or a "problem".
        keys: What each case must have.

    Raises:
        BundleError: If an id is none or comes twice, a key is unknown or missing, or a value is none of its kind.
    """
    cases = list(items)
    files = [*keys, "mask", "labels", *(f"truth_{key}" for key in keys), f"{keys[-1]}_transform"]
    ids = [checked_id(item.get("case"), "Every case id") for item in cases]
    if len(set(ids)) < len(ids):
        raise BundleError("Every case id must be unique, got one twice; rename it.")
    refuse_twins(ids)
    for case, item in zip(ids, cases, strict=True):
        if "problem" in item:
            continue
        checked_fields({k: v for k, v in item.items() if k not in ("case", *files)}, f"case {case}", keys=keys)
        for key in files:
            if key in item and not isinstance(item[key], str | os.PathLike):
                raise BundleError(f"{key} of case {case} must be a path, got {type(item[key]).__name__}; change it.")
        if missing := [key for key in keys if key not in item]:
            raise BundleError(f"Case {case} must have {' and '.join(keys)}, got no {' and no '.join(missing)}; add it.")
    return cases
