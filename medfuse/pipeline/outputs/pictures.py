"""The pictures of a case, and its report."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from medfuse.io.atomic import atomic_file
from medfuse.io.modalities import title
from medfuse.pipeline.result import CaseResult, SourceAgreement
from medfuse.report import degradation_name, save_mosaic, save_preview, save_report

_drawn: WeakKeyDictionary[CaseResult, bytes] = WeakKeyDictionary()  # file and report show one mosaic
_drawing = Lock()  # whichever comes first draws it


def write_mosaic(result: CaseResult, path: Path) -> None:
    """Draw sources, restored, fused and colour fusion in three planes."""
    with atomic_file(path) as file:
        file.write(_mosaic(result))


def _mosaic(result: CaseResult) -> bytes:
    """Return the mosaic of a case, drawn when it is first asked for."""
    with _drawing:
        if result not in _drawn:
            buffer = BytesIO()
            save_mosaic(
                buffer,
                fused=result.fused,
                weight=result.weight,
                names=result.names,
                units=result.units,
                title=result.case,
                notes=_notes(result.record),
                **_shown(result),
            )
            _drawn[result] = buffer.getvalue()
        return _drawn[result]


def write_preview(result: CaseResult, path: Path) -> None:
    """Draw the small picture that stands for the case on the page over all cases."""
    save_preview(path, names=result.names, **_shown(result))


def write_report(result: CaseResult, path: Path) -> None:
    """Write the report of a case: one HTML file that opens offline."""
    save_report(
        path,
        record=result.record,
        fused=result.fused,
        weight=result.weight,
        residuals=(_residual(result.agreements[0]), _residual(result.agreements[1])),
        mask=result.mask,
        before=result.before,
        mosaic=_mosaic(result),
        **_shown(result),
    )


def _shown(result: CaseResult) -> dict[str, Any]:
    """Return what every picture shows."""
    return {
        "sources": result.sources,
        "restored": result.restored,
        "rgb": result.rgb,
        "affine": result.affine,
        "pet_window": result.window,
        "colours": result.colours,
    }


def _residual(agreement: SourceAgreement | None) -> Tensor | None:
    return None if agreement is None else agreement.residual


def _notes(record: Mapping[str, Any]) -> list[str]:
    count = record["steps"]
    steps = "" if count is None else f", {count} step{'s' * (count > 1)}"
    notes = [f"Degradation: {degradation_name(record['degradation'])}{steps}"]
    chi2 = {title(k): v["residual_chi2"] for k, v in record["sources"].items() if v["residual_chi2"] is not None}
    if chi2:
        notes.append("Residual chi-square: " + ", ".join(f"{k} {v:.2f}" for k, v in chi2.items()))
    registration = record["registration"]
    if isinstance(registration, Mapping) and not registration.get("accepted", True):
        notes.append("Warning: registration was not accepted; the images were fused as they lay.")
    elif isinstance(registration, Mapping) and registration.get("warnings"):
        notes.append(f"Warning: registration: {'; '.join(registration['warnings'])}.")
    return notes
