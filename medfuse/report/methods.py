"""A paragraph for a methods section, from the record alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medfuse.about import NOTICE
from medfuse.io.modalities import title
from medfuse.report.degradations import restored_sources
from medfuse.report.native import std_text
from medfuse.report.registration import moving_source

CITATION = (
    "Shi et al., Degradation-Robust Fusion: An Efficient Degradation-Aware Diffusion Framework for Multimodal Image "
    "Fusion in Arbitrary Degradation Scenarios, CVPR 2026, arXiv 2604.08922"
)
_NAMES = {"monai": "MONAI", "torch": "PyTorch", "numpy": "NumPy", "nibabel": "NiBabel"}


def describe_steps(steps: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None) -> list[str]:
    """Return the steps of a degradation in words, in their order; empty for none."""
    if isinstance(steps, Mapping):  # on the scanner's own grid
        widths = _value((steps.get("psf") or {}).get("fwhm_mm"))
        noise = [_step("noise", steps["noise"])] if steps.get("noise") else ["noise as measured"]
        return [f"on the scanner's own grid, PSF of {widths} mm FWHM", *noise]
    return [_step(name, options) for step in steps or () for name, options in step.items()]


def methods_text(record: Mapping[str, Any]) -> str:
    """Return what was done, to be copied into a methods section.

    Args:
        record: The record of a case, as its JSON holds it.
    """
    steps = (_software, _unbiased, _registered, _degraded, _restored, _closing)
    return " ".join(part for step in steps if (part := step(record)))


def _software(record: Mapping[str, Any]) -> str:
    versions = dict(record.get("versions") or {})
    own = versions.pop("medfuse", "")
    others = ", ".join(f"{_NAMES.get(name, name)} {number}" for name, number in versions.items())
    names = " and ".join(title(name) for name in record.get("sources") or {})
    return f"{names} were fused with medfuse {own}" + (f" ({others})." if others else ".")


def _unbiased(record: Mapping[str, Any]) -> str:
    return " ".join(
        f"The bias field of the {title(name)} was estimated by {field.get('method')} (SimpleITK; Otsu mask, shrink "
        f"factor {field.get('shrink')}; from {field.get('lowest', 1.0):.2f} to {field.get('highest', 1.0):.2f} of its "
        "geometric mean) and divided out."
        for name, source in (record.get("sources") or {}).items()
        if (field := source.get("bias_field"))
    )


def _registered(record: Mapping[str, Any]) -> str:
    reference, registration = record.get("reference") or {}, record.get("registration")
    moving, fixed = title(moving_source(record)), title(str(reference.get("source", "")))
    grid = (
        f"the grid of the {fixed} ({_times(reference.get('shape'))} voxels of {_times(reference.get('spacing_mm'))} mm)"
    )
    if registration and registration.get("performed", True) and registration.get("accepted", True):
        return (
            f"The {moving} was registered to the {fixed} rigidly by normalised mutual information (largest "
            f"displacement {registration.get('max_displacement', 0.0):.1f} mm; two halves of the data agreed within "
            f"{registration.get('inconsistency', 0.0):.1f} mm) and resampled once, linearly, onto {grid}."
        )
    if registration and registration.get("performed", True):
        why = "; ".join(registration.get("reasons") or ())
        return f"A rigid registration was refused ({why}); the {moving} was resampled as it lay onto {grid}."
    return f"The {moving} was taken as aligned with the {fixed} and resampled once, linearly, onto {grid}."


def _degraded(record: Mapping[str, Any]) -> str:
    degradation, named = record.get("degradation") or {}, restored_sources(record)
    if not named:
        found = "was found in the images, and none" if degradation.get("estimates") else "was"
        return f"No degradation {found} assumed."
    described = []
    for k, name in enumerate(record.get("sources") or {}, 1):
        steps = describe_steps(degradation.get(f"source{k}"))
        described.append(f"of the {title(name)}: {', then '.join(steps) if steps else 'none'}")
    how = degradation.get("origin", "given")
    how += " from the images before" if degradation.get("estimates") else ""
    return f"The degradation ({how}) was, {'; '.join(described)}."


def _restored(record: Mapping[str, Any]) -> str:
    steps, named = record.get("steps"), restored_sources(record)
    count = "" if steps is None else f" in {steps} reverse step{'s' if steps != 1 else ''}"
    verb = "Both sources were restored and fused" if named else "The sources were fused"
    native = native_text(record)
    verb = "The sources were then fused" if native else verb
    text = native + (
        f"{verb} slice by slice with a degradation-aware diffusion network{count}, each step corrected by the "
        f"observation model (weights SHA-256 {record.get('weights_sha256', 'unknown')})."
    )
    chi2 = {name: source.get("residual_chi2") for name, source in (record.get("sources") or {}).items()}
    known = [f"{value:.2f} ({title(name)})" for name, value in chi2.items() if value is not None]
    return text + (f" The residual chi-square per datum was {' and '.join(known)}." if known else "")


def native_text(record: Mapping[str, Any]) -> str:
    """Return how a source was restored on its own grid, as the beginning of a paragraph; empty where none was."""
    for name, source in (record.get("sources") or {}).items():
        if native := source.get("native"):
            what = title(name)
            how = "guided by the other source where the data agreed" if native.get("guided") else "from its data alone"
            chi2, df = native.get("corrected_chi2", 0.0), native.get("degrees_of_freedom", 0.0)
            return (
                f"The {what} was restored in three dimensions from the voxels that its scanner gave, before any was "
                f"interpolated, {how} (PSF of {_value(native.get('psf_fwhm_mm'))} mm FWHM; chi-square {chi2:.2f}, "
                f"corrected for {df:.0%} of degrees of freedom). {_network(native)}"
            )
    return ""


def _network(native: Mapping[str, Any]) -> str:
    """Return which trained network mended the estimate that the data then corrected; empty where a rule made it."""
    weights = native.get("weights_sha256")
    if not weights:
        return ""
    return f"A trained network of volumes mended the estimate that the data corrected (weights SHA-256 {weights}). "


def _closing(record: Mapping[str, Any]) -> str:
    return (
        "The fused image is normalised and dimensionless; no value was measured in it. "
        f"The method follows, and departs from, {CITATION}. {NOTICE}"
    )


def _step(name: str, options: Any) -> str:
    if not isinstance(options, Mapping):
        return f"{_plain(name)} {_value(options)}"
    o = dict(options)
    if name == "noise":
        kind = str(o.pop("kind", "gaussian"))
        unit = "in the input's unit" if o.pop("unit", "") == "input" else "of full range"
        if kind == "table":
            return f"Noise (standard deviation by signal: {std_text(options)}, {unit})"
        if "sigma" in o:
            return f"{kind.capitalize()} noise (standard deviation {_value(o['sigma'])} {unit})"
        return f"{kind.capitalize()} noise ({_options(o)})"
    if name == "blur" and len(o) == 1:
        key, value = next(iter(o.items()))
        size, unit = ("FWHM", "mm") if key == "fwhm_mm" else ("standard deviation", "px")
        return f"Gaussian blur ({size} {_value(value)} {unit})"
    if name == "downsample":
        return f"down-sampling by {_value(o.get('factor'))} ({o.get('kind', 'average')})"
    return f"{_plain(name)} ({_options(o)})"


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{_plain(str(k))} {_value(v)}" for k, v in options.items())


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " x ".join(_value(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _times(values: Sequence[float] | None) -> str:
    return " x ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values or ())
