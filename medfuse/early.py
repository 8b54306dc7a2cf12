"""How torch and MONAI are loaded, which takes seconds; meanwhile `medfuse fuse` reads and registers."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    """Read and register two NIfTI in a thread while the block, which imports, runs; see `medfuse.registration.ahead`.

    Whatever else is asked for, such as DICOM, a corrected bias field, or a PET whose values become SUV, begins when all
    is loaded.
    """
    keys = [row.key for row in bundle_modalities(options.bundle)]
    paths: list[Any] = [getattr(options, key, None) for key in keys]
    as_they_are = not (options.aligned or options.n4 or options.dry_run) and all(_is_nifti(path) for path in paths)
    if not as_they_are or _becomes_suv(keys, paths, options.suv):
        with loading():
            yield
        return
    from medfuse.io.nifti_files import read_nifti
    from medfuse.registration.ahead import Pair, begun

    fixed, moving = paths

    def read() -> Pair:
        still, mobile = (
            read_nifti(path, nonfinite=options.nonfinite, strict=options.strict) for path in (fixed, moving)
        )
        return Pair(still[0], still[1].affine, mobile[0], mobile[1].affine)

    with begun(read), loading():
        yield


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
