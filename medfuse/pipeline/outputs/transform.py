"""The registration of a case, as transforms that other programs read."""

from __future__ import annotations

from pathlib import Path

from medfuse.pipeline.result import CaseResult
from medfuse.registration import RigidRegistration


def write_transform(result: CaseResult, folder: Path) -> None:
    """Write the rigid transform, where the images were registered: of points, and as image tools resample by."""
    registration = result.record["registration"]
    if registration and registration["performed"] and registration["accepted"]:
        reference = result.record["reference"]["source"]
        moving = next(name for name in result.names if name != reference)
        rigid = RigidRegistration.from_dict(registration)
        rigid.save_transform(folder / f"{result.case}_{moving}_to_{reference}.tfm")
        rigid.save_affine(folder / f"{result.case}_from-{moving}_to-{reference}_mode-image_xfm.txt")
