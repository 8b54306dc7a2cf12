"""What a reader of a case must know before trusting it, in plain words, from the record alone.

Here, and in `registration`, `native` and `regions`, is decided what a warning is, and nowhere else. The warnings of a
case are written into its record as `warnings`; console, table, report and the page over all cases repeat those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medfuse.io.modalities import MODALITIES, title
from medfuse.io.units import is_comparable
from medfuse.regions.intervals import calibration
from medfuse.report.degradations import noisy, restored_sources, whence
from medfuse.report.estimates import estimate_sentence
from medfuse.report.finding import Finding, Level
from medfuse.report.native import native_notes, native_warnings
from medfuse.report.regions import region_notes, region_warnings
from medfuse.report.registration import placement_findings, registration_findings

CHI2_HIGH, CHI2_LOW = 1.2, 0.5
_MORE, _LESS = 1.5, 0.55  # times the stated noise, from which noise in the data is another
_GRAIN = 3.0 / 255.0  # of full range: noise that an image may have of its own before any was added
_MOVED_MM = 3.0  # of frames against each other, more than noise places them apart
_SUV_HIGH = 500.0  # more than any tissue, or the bladder, takes up
_CHANGED = 0.1  # blur, noise and sampling leave the mean of an image as it is


def findings(record: Mapping[str, Any]) -> list[Finding]:
    """Return what to know about a case, warnings first.

    Args:
        record: The record of a case, as its JSON holds it; unknown or missing entries say nothing. Warnings that are
            written in it stand as they are; a record of an earlier version, which holds none, is judged anew.
    """
    parts = (
        _patient,
        placement_findings,
        registration_findings,
        _series,
        _nonfinite,
        _restoration,
        _uncertainty,
        _regions,
        _bias_field,
        _chosen,
        _values,
        _always,
    )
    found = [finding for part in parts for finding in part(record)]
    notes = [finding for finding in found if finding.level == "note"]
    written = record.get("warnings")
    if isinstance(written, list):
        return [*(Finding("warning", str(text)) for text in written), *notes]
    return [*(finding for finding in found if finding.level == "warning"), *notes]


def warnings(record: Mapping[str, Any]) -> list[str]:
    """Return the texts of the warnings of a case, the gravest first; see `findings`."""
    return [finding.text for finding in findings(record) if finding.level == "warning"]


def reading_warnings(name: str, source: Mapping[str, Any]) -> list[str]:
    """Return the texts of the warnings about how one source was read, of which no more is known.

    Args:
        name: Of the source, such as `mri`.
        source: Its `placement`, `doubts` and parts that were not finite, as in the record of a case.
    """
    record = {"sources": {name: source}}
    found = [finding for part in (placement_findings, _series, _nonfinite) for finding in part(record)]
    return [finding.text for finding in found if finding.level == "warning"]


def restoration_warnings(record: Mapping[str, Any]) -> list[str]:
    """Return the texts of the warnings about what was restored, for images, of which no more is known.

    Args:
        record: `sources` and `degradation`, as in the record of a case.
    """
    return [finding.text for finding in _restoration(record) if finding.level == "warning"]


def _series(record: Mapping[str, Any]) -> list[Finding]:
    return [
        Finding("warning", f"The series of the {title(name)} {text}. Look whether it is whole, and of one scan.")
        for name, source in (record.get("sources") or {}).items()
        for text in source.get("doubts") or ()
    ]


def _nonfinite(record: Mapping[str, Any]) -> list[Finding]:
    found = []
    for name, source in (record.get("sources") or {}).items():
        if share := source.get("nonfinite_fraction"):
            text = f"{share:.1%} of the voxels of the {title(name)} were NaN or infinite; they count as 0."
            found.append(Finding("note", text))
        if inside := source.get("nonfinite_inside_fraction"):
            text = (
                f"The {title(name)} has holes: {max(inside, 1e-4):.2%} of its voxels are NaN or infinite, inside of "
                "what it shows, and count as 0, which is no measurement. Look where they are, and how it was made."
            )
            found.append(Finding("warning", text))
    return found


def _patient(record: Mapping[str, Any]) -> list[Finding]:
    """One number may have been given to two people, as "0" is; a name may have been changed, or misspelt."""
    differing = record.get("patient_differs")
    text = f"The images tell one PatientID and another {differing}: check that they are of one patient."
    return [Finding("warning", text)] if differing else []


def _chosen(record: Mapping[str, Any]) -> list[Finding]:
    """What was chosen of several images or frames, and whether the head lay still: frames are averaged as they lie."""
    found = []
    for name, source in (record.get("sources") or {}).items():
        if (of := source.get("chosen_of") or 1) > 1:
            text = (
                f"The {title(name)} is one of {of}, and was chosen by rule. Look whether it is the one that is meant."
            )
            found.append(Finding("warning", text))
        frames = source.get("frames") or {}
        found += [Finding("warning", str(text)) for text in frames.get("warnings") or ()]
        motion = frames.get("motion_mm") or {}
        moved = {part: mm for part, mm in (motion.get("of") or {}).items() if mm is not None}
        if moved and max(moved.values()) > _MOVED_MM:
            part = max(moved, key=lambda key: moved[key])
            text = (
                f"In frames {part} the {title(name)} lies up to {moved[part]:.1f} mm from where it lies in frames "
                f"{motion.get('against')}: the head probably moved during the scan. This was not corrected, and the "
                "average is blurred by it."
            )
            found.append(Finding("warning", text))
    return found


def _restoration(record: Mapping[str, Any]) -> list[Finding]:
    named, sources = restored_sources(record), record.get("sources") or {}
    estimates = (record.get("degradation") or {}).get("estimates")
    if not named and estimates is None:
        text = "No degradation was stated, so both sources came back as they were: they were fused, not restored."
        return [Finding("note", text)]
    found = []
    for k, name in enumerate(sources, 1):
        told = (estimates or {}).get(f"source{k}") or ()
        for estimate in told:  # a PSF that was found and not undone is no mere note
            found_and_refused = estimate.get("value") is not None and estimate.get("refused")
            kind: Level = "warning" if estimate.get("step") == "psf" and found_and_refused else "note"
            found.append(Finding(kind, estimate_sentence(_title(name), estimate)))
        if name not in named and not told:
            found.append(Finding("note", f"No degradation was stated for the {_title(name)}; it came back as it was."))
    return [*found, *_restored(named, record)]


def _restored(named: Sequence[str], record: Mapping[str, Any]) -> list[Finding]:
    """Return what to know of the sources that were restored."""
    if not named:
        return []
    found: list[Finding] = []
    sources, degradation = record["sources"], record["degradation"]
    for k, (name, source) in enumerate(sources.items(), 1):
        if name not in named:
            continue
        blur = source.get("narrowed_blur")
        if isinstance(blur, float):
            text = (
                f"The {_title(name)} shows finer detail than its {whence(degradation, k, 'blur')} blur lets through. "
                f"The blur was undone to {blur:.0%} of its width only. State a narrower one."
            )
            found.append(Finding("warning", text))
        if source.get("solve_converged") is False:
            text = (
                f"The correction of the {_title(name)} by its data is not exact: conjugate gradients stopped at their "
                "limit before they met their tolerance. Restored details may lack agreement with the data."
            )
            found.append(Finding("warning", text))
        known = whence(degradation, k, "noise")
        if source.get("native"):
            found += [Finding("warning", text) for text in native_warnings(_title(name), source["native"])]
            found += [Finding("note", text) for text in native_notes(_title(name), source["native"])]
        else:
            found += _noise(_title(name), source, known, noisy=noisy(degradation, k))
    kinds = [sources[name].get("native") for name in named]
    alone = all(kind and not kind.get("weights_sha256") for kind in kinds)
    origin = "the other source" if alone else "the network and from the other source"
    text = f"What a degradation has destroyed comes from {origin}, not from the data."
    if all(kind and kind.get("guided") is False for kind in kinds):
        text = "What a degradation has destroyed is not restored: the data alone decide."
    text += " A restored image may show detail that is not there, or miss detail that is."
    return [*found, Finding("note", text)]


def _uncertainty(record: Mapping[str, Any]) -> list[Finding]:
    """Return of which sources a deviation was asked for and is not there."""
    if record.get("uncertainty", "off") == "off":
        return []
    named, found, sources = restored_sources(record), [], record.get("sources") or {}
    for name in sources:
        if name not in named:
            text = f"No uncertainty of the {_title(name)} was computed: it came back as it was."
            found.append(Finding("note", text))
    by_planes = [name for name in named if not sources[name].get("native")]
    of_volumes = {(source.get("native") or {}).get("weights_sha256") for source in sources.values()} - {None}
    known = {key: calibration().get(key) for key in ("weights_sha256", "network_weights_sha256")}
    if (by_planes and record.get("weights_sha256") != known["weights_sha256"]) or (
        of_volumes - {known["network_weights_sha256"]}
    ):
        text = "The uncertainty was calibrated with other weights than those in use: how often it holds is not known."
        found.append(Finding("warning", text))
    for name, source in sources.items():
        if (source.get("native") or {}).get("guided") is False:
            text = f"The uncertainty was calibrated where the MRI guides, and it did not guide the {_title(name)}"
            found.append(Finding("warning", f"{text}: how often it holds is not known."))
    return found


def _regions(record: Mapping[str, Any]) -> list[Finding]:
    warned = [Finding("warning", text) for text in region_warnings(record)]
    return warned + [Finding("note", text) for text in region_notes(record)]


def _noise(name: str, source: Mapping[str, Any], known: str, *, noisy: bool) -> list[Finding]:
    """Hold the noise, `stated` or `measured`, against that of the data, or where that is unknown the chi-square.

    A restoration follows its data until the chi-square is 1, whatever noise was stated, and on a grid finer than that
    of the scanner neighbours share their noise: a chi-square below 1 is no proof of less noise. Without noise its unit
    is the rounding, of which a black background has none.
    """
    chi2, noise = source.get("residual_chi2"), source.get("noise") or {}
    stated, seen = noise.get("stated"), noise.get("seen")
    if stated and seen:
        least, most = (value / stated for value in seen)
        grain = _GRAIN * (source.get("scale") or 1.0) / stated
        if least**2 > _MORE**2 + grain**2:
            text = (
                f"The noise of the {name} seems to be about {_times(least)} times what was {known}. It is taken for "
                "the image, and not removed. State more."
            )
            return [Finding("warning", text)]
        if most < _LESS:
            text = (
                f"There is less noise in the {name} than was {known}: it seems to be at most about {_share(most)} of "
                "that. The restoration may be too smooth. State less."
            )
            return [Finding("warning", text)]
    if chi2 is None:
        return []
    if chi2 > CHI2_HIGH:
        text = (
            f"The restored {name} does not explain the data: its residual chi-square is {chi2:.2f}, and "
            f"should be about 1 or below. The {known} degradation is probably wrong or too weak."
        )
        return [Finding("warning", text)]
    if chi2 < CHI2_LOW and noisy and not (stated and seen):
        text = (
            f"The residual chi-square of the {name} is {chi2:.2f}, far below 1: the restoration is nearer to the data "
            f"than their {known} noise. Either there is less noise than was {known}, or it was not removed."
        )
        return [Finding("warning", text)]
    return []


def _title(name: str) -> str:
    """Return how a source is called in a sentence: MRI by its key `mri`; of images by words of their own."""
    return title(name) if name.isalnum() else name


def _share(value: float) -> str:
    """Return a share in percent, never rounded to none."""
    return "1%" if value < 0.01 else f"{value:.0%}"


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 3 else f"{ratio:.0f}"


def _bias_field(record: Mapping[str, Any]) -> list[Finding]:
    return [
        Finding("note", f"The bias field of the {title(name)} was removed first: it is shown and written without it.")
        for name, source in (record.get("sources") or {}).items()
        if source.get("bias_field")
    ]


def _values(record: Mapping[str, Any]) -> list[Finding]:
    found = []
    for name, source in (record.get("sources") or {}).items():
        whole: Mapping[str, Any] = next(iter(source.get("regions") or ()), {})
        given, restored = whole.get("given") or {}, whole.get("restored") or {}
        highest = given.get("max") or 0.0
        mean, peak = _change(given, restored, "mean"), _change(given, restored, "max")
        if abs(mean) > _CHANGED:
            text = f"The mean of the restored {title(name)} is {abs(mean):.0%} {'above' if mean > 0 else 'below'}"
            found.append(Finding("warning", f"{text} that of the {title(name)} as given. Do not measure in it."))
        if abs(peak) > _CHANGED:
            text = f"The maximum of the restored {title(name)} is {abs(peak):.0%} {'above' if peak > 0 else 'below'}"
            found.append(Finding("note", f"{text} that of the {title(name)} as given. Report that of the source."))
        if str(source.get("unit", "")).startswith("SUV") and highest > _SUV_HIGH:
            text = f"The {title(name)} is said to be in SUV, but its highest value is {highest:.0f}."
            found.append(
                Finding("warning", f"{text} No uptake is so high: the unit is probably another, such as Bq/ml.")
            )
        if name in MODALITIES and MODALITIES[name].has_uptake and (given.get("mean") or 0.0) < 0:
            text = f"The mean of the {title(name)} is negative, and so is no uptake"
            found.append(
                Finding("warning", f"{text}: an offset was taken off its values, or they show another quantity.")
            )
        suv = source.get("suv") or {}
        if suv.get("kind") == "none":
            why = str(suv.get("reason") or "the headers do not allow it").removesuffix(".")
            text = f"The values of the {title(name)} are no SUV: {why}."
            found.append(Finding("warning", text))
        found += [Finding("warning", str(text)) for text in suv.get("warnings") or ()]
        measured = name not in MODALITIES or MODALITIES[name].is_measured
        if suv.get("kind") != "none" and measured and not is_comparable(str(source.get("unit", ""))):
            unit = source.get("unit") or "none"
            text = (
                f"The unit of the {title(name)} is unknown ({unit}): do not compare its values with another scan's. "
                f"State it: Units in its BIDS sidecar, {name}_unit in the manifest or case.json, or --{name}-unit."
            )
            found.append(Finding("warning", text))
    return found


def _change(given: Mapping[str, Any], restored: Mapping[str, Any], figure: str) -> float:
    """Return by which part of it a figure differs after restoration."""
    before = given.get(figure) or 0.0
    return (restored.get(figure, before) - before) / before if before > 0 else 0.0


def _always(record: Mapping[str, Any]) -> list[Finding]:
    return [
        Finding("note", "The fused image is normalised and dimensionless. Measure in the sources, never in it."),
        Finding(
            "note",
            "The weights were trained on few subjects, most of them heads, and on phantoms. Other anatomy, tracers and "
            "scanners were not in the training, or hardly.",
        ),
    ]
