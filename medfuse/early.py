"""How torch and MONAI are loaded, which takes seconds; meanwhile a process beside `medfuse fuse` reads and registers.

That process runs this module, `python -m medfuse.early`.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medfuse.beside import begin
from medfuse.bundles import bundle_modalities
from medfuse.errors import MedfuseError
from medfuse.io.modalities import MODALITIES


def share_no_products() -> None:
    """Let numpy take products of matrices by one thread, unless the environment says how many, before it is loaded.

    Those of a registration are small, and OpenBLAS's other threads, while they wait for the next, keep busy the cores
    that load libraries meanwhile.
    """
    if "numpy" not in sys.modules:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@contextmanager
def loading() -> Iterator[None]:
    """Look for no garbage while the block loads libraries for the first time, nor later among what they are made of.

    A fifth of the time that loading takes goes into looking through ever more objects, nearly all of which stay.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def early_start(options: argparse.Namespace) -> Iterator[None]:
    """Have two NIfTI read and registered while the block, which imports, runs; see `medfuse.registration.ahead`.

    Whatever else is asked for, such as DICOM, a corrected bias field, or a PET whose values become SUV, begins when all
    is loaded; so does all where nothing is left to load, or one core does everything.
    """
    keys = [row.key for row in bundle_modalities(options.bundle)]
    paths: list[Any] = [getattr(options, key, None) for key in keys]
    as_they_are = not (options.aligned or options.n4 or options.dry_run) and all(_is_nifti(path) for path in paths)
    worth_it = "torch" not in sys.modules and _cores() > 1
    with loading():
        if worth_it and as_they_are and not _becomes_suv(keys, paths, options.suv):
            begin("medfuse.early", [*map(str, paths), options.nonfinite, *["strict"] * options.strict])
        yield


def _read_and_register(fixed: str, moving: str, nonfinite: str, *strict: str) -> None:
    """Do what was begun, for the process that has begun it."""
    from medfuse.io.nifti_files import read_nifti
    from medfuse.registration.ahead import Pair, answer

    still, mobile = (read_nifti(Path(p), nonfinite=nonfinite, strict=bool(strict)) for p in (fixed, moving))
    answer(Pair(still[0], still[1].affine, mobile[0], mobile[1].affine))


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_nifti(path: Path | None) -> bool:
    return path is not None and path.name.lower().endswith((".nii", ".nii.gz")) and path.is_file()


def _becomes_suv(keys: Sequence[str], paths: Sequence[Path], suv: str) -> bool:
    """Tell whether values of a PET change as it is read; where it cannot be told, that it may be so."""
    from medfuse.io.pet_sidecar import read_pet_sidecar

    pets = [path for key, path in zip(keys, paths, strict=True) if suv != "none" and MODALITIES[key].has_suv]
    try:
        return any(read_pet_sidecar(path).tells_dose for path in pets)
    except (MedfuseError, OSError):  # who reads it later says so
        return True


if __name__ == "__main__":
    _read_and_register(*sys.argv[1:])
