"""The report of a case: one HTML file that holds everything and loads nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from medfuse.errors import ImageError
from medfuse.fusion import ColourFusion, to_uint8
from medfuse.io.atomic import atomic_file
from medfuse.io.modalities import title, titles
from medfuse.regions.values import as_array
from medfuse.report.canvas import ThreePlanes
from medfuse.report.degradations import degradation_name
from medfuse.report.estimates import CHANGES, estimate_cells, sensitivity_rows
from medfuse.report.estimates import COLUMNS as ESTIMATE_COLUMNS
from medfuse.report.findings import findings
from medfuse.report.markup import Markup, element, join, page, picture, section, table
from medfuse.report.methods import describe_steps, methods_text
from medfuse.report.native import native_rows
from medfuse.report.panels import save_overlay, save_residuals
from medfuse.report.qc import DEFAULT_COLOURS, save_mosaic
from medfuse.report.registration import moving_source
from medfuse.report.values import values_section
from medfuse.report.viewer import Role, ViewerVolume, viewer

_BYTES = 5_200_000  # of pictures and volumes; niivue takes another 2.3 MB
_SCRIPTS = ("niivue.min.js", "viewer.js", "report.js")


def save_report(
    path: str | Path,
    *,
    record: Mapping[str, Any],
    sources: tuple[Any, Any],
    restored: tuple[Any, Any],
    fused: Any,
    rgb: Any,
    weight: Any,
    affine: Any,
    pet_window: tuple[float, float],
    colours: ColourFusion = DEFAULT_COLOURS,
    residuals: tuple[Any | None, Any | None] = (None, None),
    mask: Any | None = None,
    before: Callable[[], Any | None] | None = None,
    mosaic: bytes | None = None,
) -> None:
    """Save the report of a case: pictures, viewer, registration, degradation, values, methods, warnings.

    The same input gives the same bytes. Only known entries of the record are shown, each escaped.

    Args:
        path: HTML to write, atomically.
        record: The record of the case, as its JSON holds it: names and units of the sources are taken from it.
        sources: MRI and PET **[X, Y, Z]** on the reference grid, each in its unit; arrays or tensors.
        restored: The same, restored.
        fused: **[X, Y, Z]**, normalised, dimensionless.
        rgb: Colour fusion **[X, Y, Z, 3]**, uint8 or 0..1.
        weight: Weight of the MRI in the fusion **[X, Y, Z]**, 0..1.
        affine: **[4, 4]**, voxel index to RAS mm.
        pet_window: Ends of the PET's display window, in its unit.
        colours: How the colour fusion was made; the PET alone is shown in its palette.
        residuals: What each restoration leaves of its data **[X, Y, Z]**, in standard deviations of the noise; None for
            a source that was not degraded.
        mask: Labels **[X, Y, Z]**, or **[L, X, Y, Z]** where they overlap, whose outline
            the viewer shows, or None.
        before: Gives the source that was registered, as it lay before **[X, Y, Z]**, in its unit; or None. It is called
            once, and let go of when it is drawn.
        mosaic: PNG of the case by `save_mosaic`, where it is drawn already.

    Raises:
        GeometryError: If shapes differ, or the affine is not invertible.
        ImageError: If a volume holds NaN or infinity, or the record does not name two sources.
    """
    sources_named = tuple(record.get("sources") or ())
    if len(sources_named) != 2:
        raise ImageError(f"The record must name two sources, got {len(sources_named)}; pass that of a fused case.")
    names = (sources_named[0], sources_named[1])
    units = tuple(str(record["sources"][name].get("unit", "")) for name in names)
    case = str(record.get("case", ""))
    volumes = (*(as_array(v) for v in (*sources, *restored)), as_array(fused))
    shown: dict[str, Any] = {
        "affine": affine,
        "pet_window": pet_window,
        "title": case,
        "names": names,
    }
    if mosaic is None:
        mosaic = _png(
            save_mosaic, sources=volumes[:2], restored=volumes[2:4], fused=fused, rgb=rgb, weight=weight, units=units,
            colours=colours, **shown,
        )  # fmt: skip
    pairs = _pairs(record, volumes[:2], before)
    overlay = _png(save_overlay, pairs, unit=units[1], palette=colours.alone, **shown)
    both = len(pairs) == 2
    del pairs  # with what lay before
    known = [(title(n), as_array(r)) for n, r in zip(names, residuals, strict=True) if r is not None]
    leftover = _png(save_residuals, known, affine=affine, uptake=volumes[3], title=case) if known else None
    offered = _offered(volumes, as_array(weight), as_array(rgb), mask, names, units, pet_window)
    budget = _BYTES - 4 * (len(mosaic) + len(overlay) + len(leftover or b"")) // 3
    start = ThreePlanes(volumes[3], affine).world
    look = viewer(offered, affine=affine, start=start, colours=colours, budget=budget)
    body = join(
        [
            _title(case, names, record),
            _findings(record),
            _pictures(mosaic, names, units, colours),
            section("viewer-section", "Look inside", look),
            _registration(record, overlay, both=both),
            _degradation(record, leftover),
            values_section(record),
            _methods(record),
        ]
    )
    text = page(f"Fusion of {case}", body, scripts=_SCRIPTS)
    with atomic_file(path) as file:
        file.write(text.encode())


def _png(draw: Callable[..., None], *arguments: Any, **options: Any) -> bytes:
    buffer = BytesIO()
    draw(buffer, *arguments, **options)
    return buffer.getvalue()


def _pairs(
    record: Mapping[str, Any], sources: Sequence[np.ndarray], before: Callable[[], Any | None] | None
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return name, source 1 and source 2 of each state: as fused, and before a registration that was believed."""
    one, two = sources
    registration = record.get("registration") or {}
    moved_by_it = registration.get("performed") and registration.get("accepted")
    lay = before() if before is not None and moved_by_it else None
    if lay is None:
        return [("as fused", one, two)]
    moved = list(record["sources"]).index(moving_source(record))
    earlier = (as_array(lay), two) if moved == 0 else (one, as_array(lay))
    return [("before", *earlier), ("after", one, two)]


def _offered(
    volumes: Sequence[np.ndarray],
    weight: np.ndarray,
    rgb: np.ndarray,
    mask: Any | None,
    names: Sequence[str],
    units: Sequence[str],
    pet_window: tuple[float, float],
) -> list[ViewerVolume]:
    """Return what the viewer shows: a restored source only where it differs from the source."""
    one, two, one_restored, two_restored, fused = volumes
    first, second = titles(names)

    def span(volume: np.ndarray, low: float, high: float) -> tuple[float, float]:
        a, b = (float(v) for v in np.percentile(volume, (low, high)))
        return a, b if b > a else a + 1.0

    def pair(k: int, role: Role, given: np.ndarray, restored: np.ndarray, w: tuple[float, float]) -> list[ViewerVolume]:
        name, label = names[k], (first, second)[k]
        found = [ViewerVolume(name, label, units[k], role, given, w, name)]
        limit = 1e-4 * max(float(np.ptp(given)), 1e-12)
        if any(not np.allclose(x, y, rtol=0, atol=limit) for x, y in zip(given, restored, strict=True)):
            found.insert(
                0, ViewerVolume(f"{name}-restored", f"{label} restored", units[k], role, restored, w, name, True)
            )
        return found

    coloured = rgb if rgb.dtype == np.uint8 else to_uint8(rgb)
    offered = [
        *pair(0, "base", one, one_restored, span(one, 0.5, 99.5)),
        ViewerVolume("fused", "Fused", "normalised", "base", fused, span(fused, 0.5, 99.8)),
        ViewerVolume("colour", "Colour fusion", units[1], "colour", coloured, pet_window),
        ViewerVolume("weight", f"Weight of the {first}", "0 to 1", "base", weight, (0.0, 1.0)),
        *pair(1, "overlay", two, two_restored, pet_window),
    ]
    if mask is not None:
        labels = as_array(mask)  # where regions overlap, there are several layers
        shown = labels.max(0) if labels.ndim == 4 else labels
        offered.append(ViewerVolume("mask", "Mask", "", "outline", shown, (0.0, 1.0)))
    return offered


def _title(case: str, names: Sequence[str], record: Mapping[str, Any]) -> Markup:
    reference, degradation = record.get("reference") or {}, record.get("degradation") or {}
    shape = " x ".join(str(n) for n in reference.get("shape") or ())
    spacing = " x ".join(f"{s:.3g}" for s in reference.get("spacing_mm") or ())
    facts = [
        ("Fused", " and ".join(f"{title(n)} [{record['sources'][n].get('unit', '')}]" for n in names)),
        ("Grid", f"of the {title(str(reference.get('source', '')))}: {shape} voxels of {spacing} mm"),
        ("Degradation", degradation_name(degradation)),
        ("Registration", registration_state(record)),
        ("Residual chi-square", chi2_text(record)),
        ("Reverse steps", "default" if record.get("steps") is None else str(record["steps"])),
    ]
    entries = [element("div", element("dt", key), element("dd", value)) for key, value in facts]
    links = [
        ("findings", "Read first"), ("pictures", "Pictures"), ("viewer-section", "Look inside"),
        ("registration", "Registration"), ("degradation", "Degradation"), ("values", "Values"), ("methods", "Methods"),
    ]  # fmt: skip
    anchors = [element("a", text, href=f"#{target}") for target, text in links]
    return join(
        [
            element(
                "header",
                element("p", f"{'-'.join(titles(names[::-1]))} fusion report", class_="kind"),
                element("h1", case),
            ),
            element("nav", *anchors, aria_label="Sections"),
            element("dl", *entries, class_="facts"),
        ]
    )


def registration_state(record: Mapping[str, Any]) -> str:
    """Return in a few words what became of the registration."""
    registration = record.get("registration")
    if not registration:
        return "none"
    if not registration.get("performed", True):
        return "skipped, taken as aligned"
    if not registration.get("accepted", True):
        return "refused"
    return f"accepted, moved by up to {registration.get('max_displacement', 0.0):.1f} mm"


def chi2_text(record: Mapping[str, Any]) -> str:
    """Return the residual chi-square of each source that has one."""
    chi2 = {name: source.get("residual_chi2") for name, source in (record.get("sources") or {}).items()}
    return ", ".join(f"{title(n)} {v:.2f}" for n, v in chi2.items() if v is not None) or "none: nothing was restored"


def _findings(record: Mapping[str, Any]) -> Markup:
    items = [
        element("li", element("strong", "Warning: " if f.level == "warning" else "Note: "), f.text, class_=f.level)
        for f in findings(record)
    ]
    return section("findings", "Read first", element("ul", *items, class_="findings"))


def _pictures(mosaic: bytes, names: Sequence[str], units: Sequence[str], colours: ColourFusion) -> Markup:
    first, second = titles(names)
    alt = (
        f"Axial, coronal and sagittal plane of the {first}, the {first} restored, the {second}, the {second} restored, "
        "the fused image, the fusion in colour and the fusion weight, with colour bars"
    )
    caption = (
        f"Planes through the hottest voxel of the restored {second}. A source and its restoration share one window. "
        f"{first} in {units[0]}, {second} in {units[1]}; the fused image is normalised and dimensionless. "
        f"The patient's right is on the left. {_meaning(colours, first, second)}"
    )
    return section("pictures", "Sources, restored, fused", picture(mosaic, alt, caption))


def _meaning(colours: ColourFusion, first: str, second: str) -> str:
    if colours.palette == "OKLAB":
        return (
            f"In the colour fusion the lightness is the {first}, hue and chroma are the {second}, from blue over red "
            "to orange: its bar shows the scale from bright to dark."
        )
    if colours.blend == "luma":
        return (
            f"In the colour fusion the palette of the {second} lies over the fused structure; hotter is never darker."
        )
    return f"In the colour fusion the palette of the {second} is mixed with the {first}, half of each."


def _registration(record: Mapping[str, Any], overlay: bytes, *, both: bool) -> Markup:
    registration = record.get("registration") or {}
    moving, (first, second) = title(moving_source(record)), titles(list(record["sources"]))
    rows: list[tuple[Any, ...]] = [("State", registration_state(record))]
    if registration.get("reasons"):
        rows.append(("Why", "; ".join(registration["reasons"]).removeprefix("skipped: ")))
    if registration.get("warnings"):
        rows.append(("Doubts", "; ".join(registration["warnings"])))
    for key, label, text in (
        ("max_displacement", f"Largest displacement of the {moving}", "{:.1f} mm"),
        ("translation", "Translation (R, A, S)", "{:.1f}, {:.1f}, {:.1f} mm"),
        ("rotation", "Rotation about R, A, S", "{:.1f}, {:.1f}, {:.1f} degrees"),
        ("metric_before", "Mutual information before (higher is better)", "{:.3f} nats"),
        ("metric_after", "Mutual information after", "{:.3f} nats"),
        ("score", "Score: normalised mutual information (1 to 2)", "{:.4f}"),
        ("runner_up", "Score of the best other place", "{:.4f}"),
        ("starts", "Starts", "{}"),
        ("inconsistency", "Disagreement of two halves of the data", "{:.1f} mm"),
        ("overlap", f"Part of the {moving}'s field of view inside the other's", "{:.0%}"),
    ):
        value = registration.get(key)
        if value is not None:
            rows.append((label, text.format(*value) if isinstance(value, list | tuple) else text.format(value)))
    alt = f"Edges of the {first} drawn over the {second} in three planes" + (
        ", before and after registration" if both else ""
    )
    caption = f"Edges of the {first} over the {second}. " + (
        f"Above as the {moving} lay, below registered. " if both else "As the images were fused. "
    )
    caption += "They fit where the lines follow the borders of the uptake."
    return section(
        "registration",
        "Registration",
        picture(overlay, alt, caption),
        table(("Quantity", "Value"), rows, caption="Registration in numbers", numbers_from=9),
    )


def _degradation(record: Mapping[str, Any], leftover: bytes | None) -> Markup:
    degradation, sources = record.get("degradation") or {}, record.get("sources") or {}
    head = ["Source", f"Degradation ({degradation.get('origin', 'given')})", "Residual chi-square"]
    rows = []
    for k, (name, source) in enumerate(sources.items(), 1):
        steps, chi2 = describe_steps(degradation.get(f"source{k}")), source.get("residual_chi2")
        rows.append([title(name), ", then ".join(steps) or "none", "-" if chi2 is None else f"{chi2:.2f}"])
    if any(source.get("against_truth") for source in sources.values()):
        head.append("Against truth")
        for row, source in zip(rows, sources.values(), strict=True):
            truth = source.get("against_truth")
            row.append(f"{truth['psnr']:.2f} dB, SSIM {truth['ssim']:.4f}" if truth else "-")
    caption = "What happened to the data, and what the restoration leaves of them"
    parts: list[Any] = [table(head, rows, caption=caption, numbers_from=2)]
    parts += [
        table(
            ["Figure", "Value"], native_rows(source["native"]), caption=f"{title(name)} on its own grid", numbers_from=1
        )
        for name, source in sources.items()
        if source.get("native")
    ]
    estimates = degradation.get("estimates") or {}
    found = [
        [name.upper(), *estimate_cells(estimate)]
        for k, name in enumerate(sources, 1)
        for estimate in estimates.get(f"source{k}") or ()
    ]
    if found:
        head = ["Source", *ESTIMATE_COLUMNS]
        parts.append(table(head, found, caption="What was estimated from the images", numbers_from=len(head)))
    if changed := sensitivity_rows(record):
        caption = "What changes where widths of blurs, or else levels of noise, are wrong by 20 %"
        parts.append(table(CHANGES, changed, caption=caption, numbers_from=2))
    if leftover:
        text = (
            "The chi-square is the mean of the squared residual (data less degraded restoration) in units of the "
            "noise that was stated or measured. At most about 1: the restoration agrees with the data. Above: it does "
            "not explain them. Far below: that noise may be too high. Agreement is no proof of truth."
        )
        parts.append(element("p", text))
        alt = "Residual of each restored source in three planes, in standard deviations of the noise, with a histogram"
        caption = (
            "Data less degraded restoration. It should look like noise: structure in it was not explained. Empty "
            "space leaves a residual near 0, and may be why the distribution is narrower than the noise."
        )
        parts.append(picture(leftover, alt, caption))
    return section("degradation", "Degradation and agreement with the data", *parts)


def _methods(record: Mapping[str, Any]) -> Markup:
    rows = [(name, number) for name, number in (record.get("versions") or {}).items()]
    rows.append(("weights, SHA-256", record.get("weights_sha256", "unknown")))
    rows += [
        (f"{title(name)}, SHA-256 of the input", source.get("sha256") or "unknown")
        for name, source in (record.get("sources") or {}).items()
    ]
    return section(
        "methods",
        "Methods",
        element("p", methods_text(record), id="methods-text", class_="copy"),
        element("button", "Copy the text", type="button", data_copy="methods-text"),
        table(("What", "Version or hash"), rows, caption="Versions and hashes", numbers_from=9),
    )
