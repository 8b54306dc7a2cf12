"""What to know of the values of regions: what of a region was not measured, and which ratios are not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medfuse.io.modalities import title

_CUT = 0.01  # of a region


def region_warnings(record: Mapping[str, Any]) -> Iterator[str]:
    """Give the warnings about the regions of a case, from its record: regions that were cut, SUVR that is missing."""
    if empty := record.get("mask_empty"):
        yield (
            f"No voxel lies in regions that were given, {', '.join(map(str, empty))}: they enclose nothing, or lie "
            "outside of the images. They have no values."
        )
    cut = {label: share for label, share in (record.get("mask_outside") or {}).items() if share > _CUT}
    if cut:
        shares = ", ".join(f"{label} ({share:.0%})" for label, share in cut.items())
        where = title(str((record.get("reference") or {}).get("source", "")))
        yield (
            f"Regions lie outside the field of view of the {where}, or are too small for its grid, in part or whole: "
            f"{shares}. Their values are of the rest alone."
        )
    cut = {label: share for label, share in (record.get("mask_unmeasured") or {}).items() if share > _CUT}
    if cut:
        shares = ", ".join(f"{label} ({share:.0%})" for label, share in cut.items())
        yield (
            f"Regions lie outside of what both sources show, in part or whole: {shares}. Nothing was measured there; "
            "their values are of the rest alone."
        )
    yield from _doubted(record)
    if record.get("reference_region") is None:
        return
    for name, source in (record.get("sources") or {}).items():
        regions = source.get("regions") or ()
        for state in ("given", "restored"):
            if regions and all(region.get(state, {}).get("suvr") is None for region in regions):
                yield f"No SUVR of the {title(name)}, {state}: the mean of the reference region is not above 0."


def region_notes(record: Mapping[str, Any]) -> Iterator[str]:
    """Give what is good to know of the regions of a case, likewise."""
    if left_out := record.get("mask_left_out"):
        yield f"Structures that enclose no volume, such as points, were left out: {', '.join(map(str, left_out))}."


def _doubted(record: Mapping[str, Any]) -> Iterator[str]:
    """Give a warning where values rest on a PSF that the data refuse: GTM and RBV take it as it was stated."""
    for name, source in (record.get("sources") or {}).items():
        native = source.get("native") or {}
        at = native.get("alignment") or {}
        told = native.get("guided") and at.get("psf_doubted")
        if told and any("gtm" in region for region in source.get("regions") or ()):
            seen = " x ".join(f"{width * at['psf_share']:.1f}" for width in native.get("psf_fwhm_mm") or ())
            yield (
                f"GTM and RBV of the {title(name)} took the PSF that was stated; its data speak for {seen} mm, and "
                "they are wrong with it. State that one."
            )
