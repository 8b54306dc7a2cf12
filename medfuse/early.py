"""What `medfuse fuse` does while torch and MONAI are being loaded, which takes seconds: it reads and registers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medfuse.bundles import bundle_modalities


@contextmanager
def early_start(options: argparse.Namespace) -> Iterator[None]:
    """Read and register two NIfTI in a thread while the block, which imports, runs; see `medfuse.registration.ahead`.

    Whatever else is asked for, such as DICOM or a corrected bias field, begins when all is loaded.
    """
    paths: list[Any] = [getattr(options, row.key, None) for row in bundle_modalities(options.bundle)]
    if options.aligned or options.n4 or options.dry_run or not all(_is_nifti(path) for path in paths):
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

    with begun(read):
        yield


def _is_nifti(path: Path | None) -> bool:
    return path is not None and path.name.lower().endswith((".nii", ".nii.gz")) and path.is_file()
