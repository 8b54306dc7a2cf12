"""What a batch leaves of each case: a record that it is done, written last, or why it failed; and the table of all.

No record holds a path, and none a text that came with the data: a folder may be named after a patient, and so may the
message of a library's error hold what it read.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from medfuse.about import NOTICE, __version__
from medfuse.errors import BundleError, MedfuseError, known_error
from medfuse.io import atomic_file, is_nifti, write_json
from medfuse.io.modalities import MODALITIES
from medfuse.io.pet_sidecar import read_pet_sidecar
from medfuse.io.places import input_paths
from medfuse.io.sidecars import read_thickness
from medfuse.pipeline.facts import sha256
from medfuse.pipeline.failures import ERROR, failure_message, write_trace
from medfuse.pipeline.layout import case_homes
from medfuse.pipeline.provenance import has_results
from medfuse.report import warnings

TABLE = "cases.tsv"
COLUMNS = ("case", "state", "seconds", "warnings", "message")
_SIDECAR = "suv.json"  # beside DICOM files, it changes what they say


def fingerprint(item: Mapping[str, Any], basis: Mapping[str, str], *, names: Sequence[str] = ()) -> dict[str, Any]:
    """Return all that a result depends on: hashes of inputs, configuration and weights, and the version.

    Args:
        item: The case.
        basis: What a workflow's results depend on, see `Workflow.basis`.
        names: Names that go into its outputs.

    Raises:
        BundleError: If an input cannot be read.
    """
    inputs = _input_hashes(item)
    fields = {key: value for key, value in item.items() if key not in inputs and key != "case"}
    fields |= {"names": list(names)} if names else {}
    return {
        "medfuse": __version__,
        **basis,
        "inputs": inputs,
        "fields": hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest(),
    }


def require_unchanged(item: Mapping[str, Any], based_on: Mapping[str, Any]) -> None:
    """Raise unless the inputs of a case are what they were: they were read in between.

    Args:
        item: The case.
        based_on: What `fingerprint` returned before.

    Raises:
        BundleError: If one of them is another now.
    """
    for key, digest in _input_hashes(item).items():
        if digest != based_on["inputs"].get(key):
            raise BundleError(
                f"{key} of case {item['case']} must stay as it is while the case is fused, got other content in the "
                "meantime; wait until it is complete, and run the case again."
            )


def _input_hashes(item: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the hash of each input of a case, by key."""
    hashes: dict[Path, str | None] = {}
    paths = input_paths(item)
    for key, path in paths.items():
        try:
            if path not in hashes:
                hashes[path] = _hash(path)
        except OSError as error:
            why = (error.strerror or type(error).__name__).lower()
            raise BundleError(
                f"{key} of case {item['case']} must be readable, got {why!r}; check its files and their permissions."
            ) from error
    found = {key: hashes[path] for key, path in paths.items()}
    return found | {f"{key}_sidecars": digest for key, path in paths.items() if (digest := _sidecars_hash(key, path))}


def _sidecars_hash(key: str, path: Path) -> str | None:
    """Return the hash of what sidecars of a NIfTI say that results depend on; None where they say nothing.

    Of a PET, how its values become SUV; of another volume, how thick its slices are, see `medfuse.pipeline.slices`.
    """
    if not is_nifti(path) or key not in MODALITIES:
        return None
    if not MODALITIES[key].has_uptake:
        thick = read_thickness(path)
        return None if thick is None else hashlib.sha256(repr(thick).encode()).hexdigest()
    with suppress(OSError, MedfuseError):  # whoever reads it says what is wrong
        files = read_pet_sidecar(path).files
        return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest() if files else None
    return None


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
    try:
        return bool(outputs) and all(path.is_file() and sha256(path) == digest for path, digest in outputs.items())
    except OSError:
        return False


def write_failure(home: Path, item: Mapping[str, Any], error: Exception, *, seconds: float) -> str:
    """Write why a case failed, and return it: our own message, or where in the code a foreign error came from."""
    case, message = str(item["case"]), failure_message(error, input_paths(item))
    if has_results(home, case):
        message += " The results of an earlier run stay."
    if known_error(error) is None:
        write_trace(home / ERROR, error)
    record = {"case": case, "state": "failed", "notice": NOTICE, "medfuse": __version__, "message": message}
    write_json(home / f"{case}_failed.json", record | {"seconds": round(seconds, 3)}, durable=True)
    return message


def clear_failure(home: Path, case: str) -> None:
    """Remove what a run that failed has written beside results that are good."""
    for name in (f"{case}_failed.json", ERROR):
        (home / name).unlink(missing_ok=True)


def write_table(out: Path) -> list[dict[str, Any]]:
    """Write `cases.tsv` from the records in a folder, of this run and of others, and return its rows.

    The message of a case that is done is the first of its warnings, of which there are `warnings`.
    """
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
    """Return the largest memory that this process has held so far, MiB.

    Linux counts it in ``VmHWM`` from the start of the program on. Its ``ru_maxrss`` begins with the peak of the
    process that started the program (setmax_mm_hiwater_rss in fs/exec.c), so it holds elsewhere alone.
    """
    status = Path("/proc/self/status")
    held = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE) if status.exists() else None
    if held:
        return round(int(held[1]) / (1 << 10))
    import resource  # absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))


def _row(case: str, home: Path) -> dict[str, Any] | None:
    for state in ("failed", "done"):
        path = home / f"{case}_{state}.json"
        if path.is_file():
            record = _read(path)
            if record is None:
                return {"case": case, "state": "failed", "message": "its record must be readable JSON; run it again."}
            told = case_warnings(home, case) if state == "done" else []
            message = " ".join(str(record.get("message", next(iter(told), ""))).split())
            count = len(told) if state == "done" else None
            return {
                "case": case,
                "state": state,
                "seconds": record.get("seconds"),
                "warnings": count,
                "message": message,
            }
    return None


def case_warnings(home: Path, case: str) -> list[str]:
    """Return the warnings of a case that is done, by its record in a folder; none where there is no record."""
    record = _read(home / f"{case}.json")
    return warnings(record) if record is not None and isinstance(record.get("sources"), dict) else []


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
