"""What is told of a source that was restored on its scanner's own grid: rows of a table, warnings and notes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medfuse.report.numbers import number_text

LOW, HIGH = 0.8, 1.25  # of its chi-square, corrected for the degrees of freedom
_COARSE = 6.0  # mm of slices, from which they are coarser than the data of a PET


def native_warnings(name: str, native: Mapping[str, Any]) -> Iterator[str]:
    """Give what must be known of a source, called `name`, by a record's `native`."""
    yield from (f"{text[:1].upper()}{text[1:]}." for text in native.get("findings") or ())
    chi2 = native.get("corrected_chi2") or 1.0
    if LOW <= chi2 <= HIGH:
        return
    if chi2 < LOW:
        whence = "measured" if (native.get("noise") or {}).get("origin") == "measured" else "stated"
        why = f"the {whence} noise is more than what the restoration leaves of the data: state what is known of it"
    elif max(native.get("slices_mm") or [0.0]) >= _COARSE:
        why = "slices of the other source coarser than the data may do that; else check the PSF and the noise"
    else:
        why = "what was stated explains less than it leaves: check the PSF and the noise"
    yield f"The chi-square of the {name} on its own grid is {chi2:.2f}, not 1: {why}."


def native_notes(name: str, native: Mapping[str, Any]) -> Iterator[str]:
    """Give what is good to know of it, likewise."""
    yield from (f"{text[:1].upper()}{text[1:]}." for text in native.get("notes") or ())
    text = f"At sharp borders of uptake that the {name} alone shows, its restored values overshoot with the noise, on"
    yield f"{text} phantoms by up to 50 %: take the mean or the peak of a lesion, not its maximum."
    if unmeasured := (native.get("shares") or {}).get("unmeasured"):
        text = f"{unmeasured:.1%} of the voxels are too far at the border of a field of view to be restored; there the "
        yield f"{text}{name} is as given."


def native_rows(native: Mapping[str, Any]) -> list[list[str]]:
    """Return what it is called and its value, for each figure of a record's `native`."""
    shares, at, noise = native.get("shares") or {}, native.get("alignment"), native.get("noise") or {}
    slices = native.get("slices_mm")
    rows = [
        ["PSF, FWHM along its axes [mm]", _times(native.get("psf_fwhm_mm"))],
        [_noise(noise), std_text(noise)],
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
    """Return what the standard deviation of the noise is called; that of Poisson-like noise grows with the signal."""
    of = " at a signal of 1" if noise.get("kind") == "poisson" else ""
    return f"Noise, standard deviation{of} ({noise.get('kind', '')}, {noise.get('origin', '')}) [unit of the input]"


def std_text(noise: Mapping[str, Any]) -> str:
    """Return the standard deviation of noise; that of a table at each of its signals."""
    sigma = noise.get("sigma", 0.0)
    if noise.get("kind") != "table":
        return number_text(sigma)
    return ", ".join(f"{number_text(v)} at {number_text(s)}" for s, v in zip(noise["signal"], sigma, strict=True))


def _times(values: Any) -> str:
    return " x ".join(f"{v:g}" if isinstance(v, int) else f"{v:.3g}" for v in values or ())
