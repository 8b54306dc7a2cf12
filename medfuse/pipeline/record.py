"""The record of a case: what its JSON holds, of inputs, settings and results."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medfuse.about import NOTICE
from medfuse.io.dicom.reader import DOUBTS
from medfuse.io.dynamic import FRAMES
from medfuse.io.nonfinite import NONFINITE_FRACTION, NONFINITE_INSIDE
from medfuse.io.placement import sheared
from medfuse.pipeline.facts import DIMENSIONLESS, fidelity, versions
from medfuse.pipeline.measured import EMPTY, KIND, LEFT_OUT, OUTSIDE, WORLD, measure_regions, unmeasured
from medfuse.regions import Draws
from medfuse.report import warnings
from medfuse.transforms import BIAS_FIELD

_OF_MASK = (("mask_kind", KIND), ("mask_world", WORLD))
_LISTS_OF_MASK = (("mask_empty", EMPTY), ("mask_left_out", LEFT_OUT))


def make_record(
    data: Mapping[Hashable, Any],
    told: Mapping[str, Any],
    agreement: Sequence[Mapping[str, Any]],
    sources: Sequence[Tensor],
    restored: Sequence[Tensor],
    *,
    keys: Sequence[str],
    reference: str,
    psf: Sequence[float] | None = None,
    reference_region: str | int | None = None,
    draws: tuple[Draws | None, Draws | None] = (None, None),
    invented: tuple[Tensor | None, Tensor | None] = (None, None),
    gate: Tensor | None = None,
) -> dict[str, Any]:
    """Return the record of a case.

    Args:
        data: What the bundle's transforms know of it.
        told: What the run was told: hash of the weights, steps, settings and degradation.
        agreement: What the data say of each restoration.
        sources: Both sources **[X, Y, Z]**, each in its unit.
        restored: Both restored, likewise.
        keys: Names of the sources.
        reference: Which of them the grid belongs to.
        psf: FWHM of the blur that was stated of source 2, along each axis, mm; None for none.
        reference_region: Label or name of the region for SUVR.
        draws: What intervals of the regions of both sources follow from; None for none.
        invented: Both restored sources less what their data alone say **[X, Y, Z]**, each in its unit; None where
            unknown.
        gate: Share of the data alone in source 2 **[X, Y, Z]**, 0..1; None where unknown.
    """
    first, pet = data[keys[0]], keys[1]
    moving = next(key for key in keys if key != reference)
    named = {
        name: _of_source(data, name, scale_of(data, name), agreement[k], restored[k]) for k, name in enumerate(keys)
    }
    options: dict[str, Any] = {"affine": first.affine, "keys": keys, "drawn": draws[1], "invented": invented[1]}
    options |= {"psf": psf, "reference_region": reference_region, "gate": gate}
    named[pet]["regions"] = measure_regions(data, sources[1], restored[1], **options)
    if draws[0] is not None and "mask" in data:
        options = {"affine": first.affine, "keys": keys, "drawn": draws[0], "invented": invented[0]}
        named[keys[0]]["regions"] = measure_regions(data, sources[0], restored[0], **options)
    record = {
        "case": str(data["case"]),
        "notice": NOTICE,
        "versions": versions(),
        **told,
        "reference": {
            "source": reference,
            "shape": list(restored[0].shape),
            "spacing_mm": [float(s) for s in first.pixdim],
            "sheared": sheared(np.asarray(first.affine)),
            "outside_fraction": _number(data[moving].meta.get("outside_fraction")),
        },
        "fused_unit": DIMENSIONLESS,
        "sources": named,
        "mask_sha256": text_of(data["mask_sha256"]) if "mask_sha256" in data else None,
        "mask_placement": _placement(data, "mask"),
        **{name: data["mask"].meta[key] for name, key in _OF_MASK if "mask" in data and key in data["mask"].meta},
        **{
            name: json.loads(data["mask"].meta[key])
            for name, key in _LISTS_OF_MASK
            if "mask" in data and key in data["mask"].meta
        },
        "mask_unmeasured": unmeasured(data, restored[1].shape, keys),
        "mask_outside": json.loads(data["mask"].meta.get(OUTSIDE, "{}")) if "mask" in data else None,
        "reference_region": reference_region,
        "psf_mm": None if psf is None else list(psf),
        "registration": _registration(data.get(f"{moving}_registration")),
        "patient_differs": text_of(data["patient_differs"]) if "patient_differs" in data else None,
        "one_study": bool(data["one_study"]) if "one_study" in data else None,
        "one_frame": bool(data["one_frame"]) if "one_frame" in data else None,
    }
    return record | {"warnings": warnings(record)}


def scale_of(data: Mapping[Hashable, Any], key: str) -> float:
    """Return the full range of a source, in its unit."""
    return float(torch.as_tensor(data[f"{key}_scale"]["scale"]).flatten()[0])


def offset_of(data: Mapping[Hashable, Any], key: str) -> float:
    """Return the value of a source that became 0, in its unit."""
    return float(torch.as_tensor(data[f"{key}_scale"]["offset"]).flatten()[0])


def text_of(value: str | Sequence[str]) -> str:
    """Return a text that MONAI's batches may have put into a list."""
    return value if isinstance(value, str) else str(value[0])


def _of_source(
    data: Mapping[Hashable, Any], name: str, scale: float, agreement: Mapping[str, Any], restored: Tensor
) -> dict[str, Any]:
    record = {
        "sha256": data.get(f"{name}_sha256", ""),
        "unit": text_of(data[f"{name}_scale"]["unit"]),
        "scale": scale,
        "offset": offset_of(data, name),
        **agreement,
    }
    if (placement := _placement(data, name)) is not None:
        record["placement"] = placement
    if (of := data.get(f"{name}_chosen_of")) is not None:
        record["chosen_of"] = int(torch.as_tensor(of).flatten()[0])
    if DOUBTS in data[name].meta:
        record[DOUBTS] = [text_of(text) for text in data[name].meta[DOUBTS]]
    record |= {
        key: _number(data[name].meta[key]) for key in (NONFINITE_FRACTION, NONFINITE_INSIDE) if key in data[name].meta
    }
    if "suv" in data[name].meta:
        record["suv"] = data[name].meta["suv"]
    if FRAMES in data[name].meta:
        record["frames"] = json.loads(text_of(data[name].meta[FRAMES]))
    if f"{name}_{BIAS_FIELD}" in data:
        record[BIAS_FIELD] = dict(data[f"{name}_{BIAS_FIELD}"])
    truth = data.get(f"truth_{name}")
    if truth is not None:
        record["against_truth"] = fidelity(restored[None], torch.as_tensor(truth).reshape(1, *restored.shape), scale)
    return record


def _placement(data: Mapping[Hashable, Any], key: str) -> dict[str, Any] | None:
    """Return what the header of a NIfTI says of its place; None for DICOM, and where it was not noted."""
    noted = data.get(f"{key}_placement")
    return None if noted is None else json.loads(text_of(noted))


def _registration(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the record of the registration; MONAI's batches turn an empty list into None."""
    if record is None:
        return None
    return {key: [] if value is None and key in ("reasons", "warnings") else value for key, value in record.items()}


def _number(value: Any) -> float | None:
    return None if value is None else float(torch.as_tensor(value).flatten()[0])
