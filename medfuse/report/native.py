"""What is told of a source that was restored on its scanner's own grid, as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medfuse.report.numbers import number_text


def native_rows(native: Mapping[str, Any]) -> list[list[str]]:
    """Return what it is called and its value, for each figure of a record's `native`."""
    shares, at, noise = native.get("shares") or {}, native.get("alignment"), native.get("noise") or {}
    slices = native.get("slices_mm")
    rows = [
        ["PSF, FWHM along its axes [mm]", _times(native.get("psf_fwhm_mm"))],
        [_noise(noise), number_text(noise.get("sigma", 0.0))],
        ["Kernel of the noise, FWHM along its axes [mm]", _times(noise.get("fwhm_mm"))],
        ["Chi-square", f"{native.get('chi2', 0.0):.2f}"],
        ["Degrees of freedom used up", f"{native.get('degrees_of_freedom', 0.0):.1%}"],
        ["Chi-square, corrected for them (1 is right)", f"{native.get('corrected_chi2', 0.0):.2f}"],
        *(
            [["Slices of the other source, mm that a value is a mean over along each axis", _times(slices)]]
            if slices
            else []
        ),
        ["Guided by the other source", "yes" if native.get("guided") else "no"],
    ]
    named = {
        "gate": "Tissue where the data alone decide (gate)",
        "null_space": "Squared difference to what the data alone show (null space)",
        "outside": "Its voxels outside the other's field of view, which had no say",
        "unmeasured": "Voxels too near a border to be restored",
    }
    rows += [[text, f"{shares[key]:.1%}"] for key, text in named.items() if key in shares]
    if at:
        rows.append(["Registration moved by the data [mm]", f"{at['moved_mm']:.2f} (std {at['std_mm']:.2f})"])
        share, std = at["psf_share"], 2 * at["psf_std"]
        rows.append(["Width of PSF that fits best, of the one that was undone", f"{share:.0%} (+- {std:.1%})"])
    return rows


def _noise(noise: Mapping[str, Any]) -> str:
    """Return what the standard deviation of the noise is called; that of Poisson-like noise grows as the root."""
    of = " at a signal of 1" if noise.get("kind") == "poisson" else ""
    return f"Noise, standard deviation{of} ({noise.get('kind', '')}, {noise.get('origin', '')}) [unit of the input]"


def _times(values: Any) -> str:
    return " x ".join(f"{v:g}" if isinstance(v, int) else f"{v:.3g}" for v in values or ())
