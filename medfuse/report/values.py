"""The section of a report with the values of regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medfuse.io.modalities import title
from medfuse.regions import disagrees
from medfuse.regions.intervals import calibration, maker_of
from medfuse.report.degradations import restored_sources, whence
from medfuse.report.markup import Markup, element, section, table
from medfuse.report.numbers import number_text

_MUCH = 0.2  # share of what was invented, from which a sentence says so
_EDGES = 0.1  # change of a mean by the restoration, from which the edges of a region count
_LARGEST_ML = 100.0  # of the regions within one tissue that were looked at
_SHORT = 92.0  # %, from which intervals of 95 % hold too few on phantoms
_HINT = (
    "SD is the standard deviation of the voxels of a region. The peak is the largest mean over a sphere of 1 ml with "
    "its centre in the region. The total is mean times volume: of an SUV of FDG, the total lesion glycolysis (TLG). "
    "Values of a restored source are not validated: measure in the source."
)


def values_section(record: Mapping[str, Any]) -> Markup:
    """Return the values of each source that has some: those of its voxels, then those of corrections by labels."""
    parts: list[Markup] = []
    for k, (name, source) in enumerate((record.get("sources") or {}).items(), 1):
        regions = source.get("regions") or ()
        if not regions:
            continue
        unit = source.get("unit", "")
        states = ("given", "restored") if name in restored_sources(record) else ("given",)
        parts.append(_figures(regions, states, f"{title(name)} in {unit}, on the reference grid"))
        if rule := (source.get("suv") or {}).get("rule"):
            parts.append(element("p", f"Where the {unit} comes from: {rule}."))
        if len(regions) == 1:
            parts.append(element("p", "No mask was given, so there are no values of a tumour or an organ."))
        if any(region.get("interval") for region in regions):
            native = bool(source.get("native"))
            caption = f"Mean of the restored {title(name)} in {unit}, 95 % interval"
            parts += _intervals(regions, caption, unit, native=native)
            if (source.get("native") or {}).get("guided", True):  # of others it is not known how often they hold
                parts += _limits(regions, record, k, source.get("native"))
        if any(region.get("invented") for region in regions):
            parts += _invented(regions, f"What of the restored {title(name)} its data do not tell, {unit}")
        if any(region.get("gtm") is not None for region in regions):
            parts += _corrections(regions, record, f"Mean of the {title(name)} in {unit}, corrected by labels")
    if not parts:
        return section("values", "Values", element("p", "No values were recorded."))
    return section("values", "Values", *parts, element("p", _HINT))


def _figures(regions: Sequence[Mapping[str, Any]], states: Sequence[str], caption: str) -> Markup:
    figures = {"mean": "Mean", "sd": "SD", "max": "Max", "peak": "Peak", "tlg": "Total", "suvr": "SUVR"}
    shown = [key for key in figures if any(key in region[state] for region in regions for state in states)]
    head = ["Region", "Volume [ml]", *(f"{figures[key]}, {state}" for key in shown for state in states)]
    rows = [
        [
            named(region),
            number_text(region["volume_ml"]),
            *(number_text(region[state].get(key)) for key in shown for state in states),
        ]
        for region in regions
    ]
    return table(head, rows, caption=f"{caption}, as {' and '.join(states)}")


def _corrections(regions: Sequence[Mapping[str, Any]], record: Mapping[str, Any], caption: str) -> list[Markup]:
    """Return the classical corrections beside the restoration."""
    head = ["Region", "Given", "Restored", "GTM", "RBV", "GTM within the interval"]
    rows = []
    for region in (region for region in regions if region.get("gtm") is not None):
        means = (region["given"]["mean"], region["restored"]["mean"], region["gtm"], region["rbv"])
        verdict = {None: "not known", True: "no", False: "yes"}[disagrees(region)]
        rows.append([named(region), *map(number_text, means), verdict])
    widths = " x ".join(f"{width:.3g}" for width in record.get("psf_mm") or ())
    known = whence(record.get("degradation") or {}, 2, "psf", "blur")
    text = (
        "GTM: geometric transfer matrix (Rousset 1998); RBV: region-based voxel-wise correction (Thomas 2011), both of "
        f"the source as given, with the labels and a point spread function of {widths} mm, as it was {known}. They "
        "take each region for uniform and each label for true; the restoration uses no label."
    )
    apart = [named(region) for region in regions if disagrees(region)]
    if apart:
        text += (
            f" Of {', '.join(apart)} they differ by more than the interval explains: labels or point spread function "
            "may be wrong, or the region is not uniform; look at it before either value is used."
        )
    return [table(head, rows, caption=caption), element("p", text)]


def _invented(regions: Sequence[Mapping[str, Any]], caption: str) -> list[Markup]:
    """Return how much of each region is not told by the data."""
    rows, sentences = [], []
    told = [region for region in regions if region.get("invented")]
    gated = any("gate" in region["invented"] for region in told)
    for region in told:
        share, gate = region["invented"]["share"], region["invented"].get("gate")
        rows.append([
            named(region), number_text(region["restored"]["mean"]), number_text(region["invented"]["mean"]),
            "-" if share is None else f"{100 * share:.0f} %",
            *(["-" if gate is None else f"{100 * gate:.0f} %"] if gated else []),
        ])  # fmt: skip
        if share is not None and share > _MUCH:
            text = (
                f"{named(region)}: {100 * share:.0f} % of the level is not told by the data; do not rely on its detail."
            )
            sentences.append(element("li", text))
    how = "by the same blur and noise and a prior without any image: it came from what the network has learned"
    if gated:
        how = "deconvolved without the other source: it came from that source and what a rule or a network makes of it"
    text = (
        f"Invented is the restored image less what the data alone say of it, {how}, and the data cannot contradict it. "
        "That is no proof that it is wrong. The share is the root mean square of the voxels over the mean of the "
        "region."
    )
    head = ["Region", "Mean, restored", "of which invented", "Share"]
    if gated:
        head.append("Gate")
        text += (
            " The gate says where the data alone decided the estimate of the rule (100 %), and where the other source "
            "guided it (0 %)."
        )
    found = [element("ul", *sentences)] if sentences else []
    return [table(head, rows, caption=caption), *found, element("p", text)]


def _intervals(regions: Sequence[Mapping[str, Any]], caption: str, unit: str, *, native: bool) -> list[Markup]:
    """Return how sure the mean of each region is, and what that means, a sentence for each."""
    rows, sentences = [], []
    for region in (region for region in regions if region.get("interval")):
        interval, mean, given = region["interval"], region["restored"]["mean"], region["given"]["mean"]
        low, high = number_text(interval["low"]), number_text(interval["high"])
        rows.append([named(region), number_text(mean), number_text(interval["sd"]), f"{low} to {high}"])
        verdict = f"the value as given, {number_text(given)}, lies outside: the result depends on the restoration"
        if interval["low"] <= given <= interval["high"]:
            verdict = "the value as given lies within: the restoration changed it by no more than its own error"
        sentences.append(element("li", f"{named(region)}: between {low} and {high} {unit} with 95 %; {verdict}."))
    seen = "on phantoms of heads" if native else "on heads of other people and on phantoms"
    text = (
        f"The interval holds the error of noise and restoration together, as seen {seen}, and is wider where more "
        "of the region was invented; it does not hold a wrong registration, a wrong point spread function, or "
        "what differs between two scans."
    )
    head = ["Region", "Mean", "SD of the mean", "95 % interval"]
    return [table(head, rows, caption=caption), element("ul", *sentences), element("p", text)]


def _limits(
    regions: Sequence[Mapping[str, Any]], record: Mapping[str, Any], source: int, native: Mapping[str, Any] | None
) -> list[Markup]:
    """Return of which regions the intervals hold less often than they say, as seen on phantoms, a sentence for each."""
    degradation = record.get("degradation") or {}
    if not (native or any("noise" not in step for step in degradation.get(f"source{source}") or ())):
        return []  # nothing was blurred
    held = calibration()[f"{maker_of(native)}_held"] if native else calibration()["held"][source - 1]
    told, narrow = held["told right"], held["PSF 10 % narrow"]
    within = told["ball" if native else "disc"]
    some = [region for region in regions if region.get("interval")]
    means = [(abs(region["given"]["mean"]), region["restored"]["mean"] - region["given"]["mean"]) for region in some]
    edges = [named(region) for region, (size, change) in zip(some, means, strict=True) if abs(change) > _EDGES * size]
    large = [named(region) for region in some if region["volume_ml"] > _LARGEST_ML]
    sentences = []
    if edges and min(within, told["lesion"]) < _SHORT:
        sentences.append(
            f"{', '.join(edges)}: the restoration changed the mean by more than a tenth, so the edges of the uptake "
            "count. What it did not bring back there (partial volume) is in the interval in part alone: on phantoms "
            f"with sharp edges intervals of 95 % held {within:.0f} % of the regions within one tissue and "
            f"{told['lesion']:.0f} % of the lesions. Read GTM beside it where it is given."
        )
    if large and told["tissue"] < _SHORT:
        sentences.append(
            f"{', '.join(large)}: larger than {_LARGEST_ML:.0f} ml, as a whole tissue is, with all of its edges: on "
            f"phantoms intervals of 95 % held {told['tissue']:.0f} % of the whole tissues."
        )
    stated = whence(degradation, source, "psf", "blur") == "stated"
    if some and stated and min(narrow.values()) < _SHORT:
        sentences.append(
            "The point spread function was stated, not measured. If it is a tenth narrower than the true one, "
            f"intervals of 95 % hold {narrow['ball' if native else 'disc']:.0f} % of the regions within one tissue, "
            f"{narrow['lesion']:.0f} % of the lesions and {narrow['tissue']:.0f} % of whole tissues, on phantoms."
        )
    return [element("ul", *(element("li", text) for text in sentences))] if sentences else []


def named(region: Mapping[str, Any]) -> str:
    """Return what a region is called."""
    if region["label"] is None:
        return "Whole image"
    return f"Label {region['label']}" + (f", {region['name']}" if region.get("name") else "")
