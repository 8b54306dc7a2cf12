"""What a batch leaves of each case: a record that it is done, written last, or why it failed; and the table of all.

No record holds a path, and none a text that came with the data: a folder may be named after a patient, and so may the
message of a library's error hold what it read.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.about import NOTICE, __version__
from medfuse.errors import known_error
from medfuse.io import atomic_file, is_nifti, write_json
from medfuse.pipeline.facts import sha256
from medfuse.pipeline.layout import case_homes

if TYPE_CHECKING:
    from medfuse.pipeline.workflow import Workflow

TABLE = "cases.tsv"
COLUMNS = ("case", "state", "seconds", "message")
_SIDECAR = "suv.json"  # beside DICOM files, it changes what they say


def input_paths(item: Mapping[str, Any]) -> dict[str, Path]:
    """Return the inputs of a case that are files or folders, by key."""
    keys = (k for k in item if k in ("mri", "pet", "mask") or k.startswith("truth_"))
    return {key: Path(str(item[key])) for key in keys}


def fingerprint(item: Mapping[str, Any], workflow: Workflow, *, names: Sequence[str] = ()) -> dict[str, Any]:
    """Return all that a result depends on: hashes of inputs, configuration and weights, and the version.

    Args:
        item: The case.
        workflow: What fuses it.
        names: Names that go into its outputs.
    """
    paths = input_paths(item)
    hashes = {path: _hash(path) for path in set(paths.values())}
    fields = {key: value for key, value in item.items() if key not in paths and key != "case"}
    fields |= {"names": list(names)} if names else {}
    return {
        "medfuse": __version__,
        "configuration": workflow.configuration,
        "device": workflow.device.type,
        "weights": sha256(workflow.weights),
        "inputs": {key: hashes[path] for key, path in paths.items()},
        "fields": hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest(),
    }


def _hash(path: Path) -> str | None:
    """Return the hash of a file; of a folder, that of the sorted hashes of its files; None where there is nothing."""
    if is_nifti(path):
        return sha256(path) if path.is_file() else None
    files = [path, path.parent / _SIDECAR] if path.is_file() else path.rglob("*")
    hashes = sorted(sha256(p) for p in files if p.is_file() and not p.name.startswith("."))
    return hashlib.sha256("".join(hashes).encode()).hexdigest() if hashes else None


def write_done(folder: Path, home: Path, case: str, based_on: Mapping[str, Any], *, seconds: float) -> None:
    """Write that a case is done, with the hash of every output; nothing may be written after it.

    Args:
        folder: Of the case.
        home: Where in it the records lie.
        case: Its id.
        based_on: What `fingerprint` returned.
        seconds: Time that it took.
    """
    outputs = {p.relative_to(folder).as_posix(): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    record = {
        "case": case,
        "state": "done",
        "notice": NOTICE,
        "based_on": based_on,
        "outputs": outputs,
        "seconds": round(seconds, 3),
        "peak_memory_mib": peak_memory(),
    }
    write_json(home / f"{case}_done.json", record, durable=True)


def is_done(folder: Path, home: Path, case: str, based_on: Mapping[str, Any]) -> bool:
    """Return whether a case has a record of the same basis, and all its outputs as they were; see `write_done`."""
    record = _read(home / f"{case}_done.json")
    if record is None or record.get("based_on") != based_on or not isinstance(record.get("outputs"), dict):
        return False
    outputs = {folder / name: digest for name, digest in record["outputs"].items()}
    return bool(outputs) and all(path.is_file() and sha256(path) == digest for path, digest in outputs.items())


def write_failure(home: Path, item: Mapping[str, Any], error: Exception, *, seconds: float) -> str:
    """Write why a case failed, and return it: our own message, or where in the code a foreign error came from."""
    case, known = str(item["case"]), known_error(error)
    if known is None:
        message = f"an unexpected error ({type(error).__name__}); see error.txt, and please report it."
        with atomic_file(home / "error.txt") as file:
            file.write("\n".join(_trace(error)).encode() + b"\n")
    else:
        message = _without_paths(str(known), item)
    record = {"case": case, "state": "failed", "notice": NOTICE, "medfuse": __version__, "message": message}
    write_json(home / f"{case}_failed.json", record | {"seconds": round(seconds, 3)}, durable=True)
    return message


def write_table(out: Path) -> list[dict[str, Any]]:
    """Write `cases.tsv` from the records in a folder, of this run and of others, and return its rows."""
    rows = [row for case, home in case_homes(out) if (row := _row(case, home))]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, delimiter="\t", lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_file(out / TABLE) as file:
        file.write(text.getvalue().encode())
    return rows


def is_ours(folder: Path, home: Path, case: str) -> bool:
    """Return whether a folder may be replaced: it is absent, empty, or holds the record of a case in its place."""
    records = (f"{case}{suffix}.json" for suffix in ("", "_done", "_failed"))
    return not folder.exists() or not any(folder.iterdir()) or any((home / name).is_file() for name in records)


def peak_memory() -> int:
    """Return the largest memory that this process has held so far, MiB."""
    import resource  # absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))


def _row(case: str, home: Path) -> dict[str, Any] | None:
    for state in ("done", "failed"):
        path = home / f"{case}_{state}.json"
        if path.is_file():
            record = _read(path)
            if record is None:
                return {"case": case, "state": "failed", "message": "its record must be readable JSON; run it again."}
            message = " ".join(str(record.get("message", "")).split())
            return {"case": case, "state": state, "seconds": record.get("seconds"), "message": message}
    return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _without_paths(message: str, item: Mapping[str, Any]) -> str:
    """Put the key of an input in place of its path: whole, or of its folder and name."""
    for key, path in input_paths(item).items():
        for name in (str(path), "/".join(path.parts[-2:])):
            message = message.replace(name, key)
    return message


def _trace(error: BaseException) -> Iterator[str]:
    """Give the lines of a traceback without messages: types, and where in which module; the first cause comes first."""
    cause = error.__cause__ or error.__context__
    if cause is not None:
        yield from _trace(cause)
        yield "which led to"
    for frame in traceback.extract_tb(error.__traceback__):
        yield f"  {_module_path(frame.filename)}, line {frame.lineno}, in {frame.name}"
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    reason = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
    yield kind + reason


def _module_path(name: str) -> str:
    """Return the path of a module within the folder it is imported from."""
    path = Path(name)
    roots = sorted((Path(p) for p in sys.path if p), key=lambda p: -len(p.parts))
    root = next((root for root in roots if path.is_relative_to(root)), None)
    return path.relative_to(root).as_posix() if root else path.name
