"""The registration of a case, as transforms that other programs read."""

from __future__ import annotations

from pathlib import Path

from medfuse.pipeline.result import CaseResult
from medfuse.registration import RigidRegistration


def write_rigid(result: CaseResult, path: Path) -> None:
    """Write the rigid transform of points, where the images were registered."""
    if (registration := _believed(result)) is not None:
        registration.save_transform(path)


def write_affine(result: CaseResult, path: Path) -> None:
    """Write its inverse as an affine, by which image tools resample, where the images were registered."""
    if (registration := _believed(result)) is not None:
        registration.save_affine(path)


def _believed(result: CaseResult) -> RigidRegistration | None:
    """Return the registration of a case; None where there was none, or it was not accepted."""
    registration = result.record["registration"]
    if registration and registration["performed"] and registration["accepted"]:
        return RigidRegistration.from_dict(registration)
    return None
