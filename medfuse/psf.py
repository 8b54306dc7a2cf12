"""`--psf`: a PET or SPECT as its scanner measured it, by the width of the scanner's PSF alone. Loads no torch."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any

from medfuse.errors import DegradationError
from medfuse.io.modalities import MODALITIES

AUTO = "auto"  # of `medfuse.physics.specification`, which loads torch
_WIDEST = 20.0  # mm


def add_psf(command: argparse.ArgumentParser) -> None:
    """Add `--psf`."""
    command.add_argument(
        "--psf",
        type=psf,
        metavar="MM",
        help="restore the PET or SPECT from its scanner's own grid: FWHM of the PSF, mm, or X,Y,Z along its axes",
    )


def psf(text: str) -> list[float]:
    """Return the FWHM of a PSF along three axes, mm, for argparse."""
    parts = text.split(",")
    if len(parts) not in (1, 3) or not all(re.fullmatch(r"\d+(\.\d*)?|\.\d+", part.strip()) for part in parts):
        raise argparse.ArgumentTypeError(f"must be one number or three with commas between, in mm, got {text[:40]!r}")
    numbers = [float(part) for part in parts] * (3 if len(parts) == 1 else 1)
    if not all(0 < number <= _WIDEST for number in numbers):
        raise argparse.ArgumentTypeError(f"must be above 0 and at most {_WIDEST:g} mm, got {text[:40]!r}")
    return numbers


def with_psf(spec: Mapping[str, Any] | None, fwhm_mm: list[float] | None) -> dict[str, Any] | None:
    """Return a specification whose source 2 is on its scanner's own grid, with a PSF of so many mm; itself for None.

    Without a specification source 1 is estimated, as in the bundle.

    Raises:
        DegradationError: It says something else of source 2.
    """
    if fwhm_mm is None:
        return None if spec is None else dict(spec)
    said = {"source1": AUTO} if spec is None else spec
    if said.get("source2") not in (None, [], AUTO):
        raise DegradationError(
            "--psf must come with a degradation that says nothing of source 2, got one that does; leave out --psf, or "
            "write `grid: native` and `psf` into the degradation."
        )
    named = {key: value for key, value in said.items() if key not in ("name", "description")}
    return {"version": 1, "source1": [], **named, "source2": {"grid": "native", "psf": {"fwhm_mm": fwhm_mm}}}


def is_native(spec: Mapping[str, Any] | None, keys: Sequence[str]) -> bool:
    """Return whether source 2 may be restored on its scanner's own grid: where that is said, or its MRI tells its PSF.

    Args:
        spec: Degradation; None: `auto`.
        keys: Of the sources.
    """
    steps = AUTO if spec is None else spec.get("source2")
    if steps == AUTO:
        first, second = (MODALITIES.get(key) for key in keys)
        return first is not None and first.has_bias_field and second is not None and second.has_uptake
    return isinstance(steps, Mapping) and "grid" in steps
