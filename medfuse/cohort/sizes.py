"""How large a case is, by its headers alone, and what it will hence take: seconds and memory."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Iterable
from math import prod
from pathlib import Path

_NIFTI = (".nii", ".nii.gz")
_HEADERS = {348: ("h", 40), 540: ("q", 16)}  # NIfTI-1 and -2, by the size that they begin with: type and place of `dim`
_BYTES = 2  # of a voxel in DICOM, as a rule

# Fitted to runs of the default bundle on one core of a server CPU; a plan over a folder with results goes by those.
_SECONDS, _SECONDS_VOXELS, _SECONDS_STEP = 1.0, 3.0, 2.0  # of a case; of 1e6 voxels of it, without a step; for a step
_SECONDS_NATIVE = 21.0  # of 1e6 voxels of both sources, restored on the scanner's own grid
_MEMORY, _MEMORY_VOXELS = 1200, 400  # MiB of the libraries and the network; of 1e6 voxels of a case


def megavoxels(path: str | Path) -> float:
    """Return the size of a volume, in 1e6 voxels: by the header of a NIfTI, by the bytes of a DICOM folder or file.

    What cannot be read has size 0: the run says what is wrong with it.
    """
    path = Path(path)
    try:
        if path.name.lower().endswith(_NIFTI):
            return prod(_shape(path)) / 1e6
        files = [path] if path.is_file() else (p for p in path.rglob("*") if p.is_file())
        return sum(file.stat().st_size for file in files) / _BYTES / 1e6
    except (OSError, EOFError, zlib.error, struct.error, KeyError, ValueError):
        return 0.0


def expected_seconds(voxels: float, steps: int, *, native: float = 0.0) -> float:
    """Return about how long a case takes on one core.

    Args:
        voxels: Of the grid that everything is brought to, in 1e6.
        steps: Reverse steps.
        native: Voxels of both sources, in 1e6, where source 2 is restored on its scanner's own grid; else 0.
    """
    return _SECONDS + voxels * (_SECONDS_VOXELS + _SECONDS_STEP * steps) + native * _SECONDS_NATIVE


def expected_memory(voxels: Iterable[float]) -> int:
    """Return about how much memory a process needs in which cases overlap, MiB, up to the next 100.

    Args:
        voxels: Of the images of a case, in 1e6.
    """
    return -(-round(_MEMORY + _MEMORY_VOXELS * sum(voxels)) // 100) * 100


def _shape(path: Path) -> tuple[int, ...]:
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        head = file.read(80)
    for order in "<>":
        (size,) = struct.unpack_from(f"{order}i", head)
        if size in _HEADERS:
            kind, place = _HEADERS[size]
            count, *shape = struct.unpack_from(f"{order}8{kind}", head, place)
            return tuple(max(n, 0) for n in shape[: min(max(count, 0), 7)])
    raise ValueError(os.fspath(path))
