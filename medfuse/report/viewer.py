"""The interactive viewer of a report: niivue, and volumes reduced to what a page can carry."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import nibabel as nib
import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

from medfuse.fusion.color import palette as color_palette
from medfuse.report.canvas import as_array
from medfuse.report.markup import Markup, element, join, json_block

SIZES = (96, 80, 64, 48, 32)  # voxels along an axis, the first that fits the budget
_FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
_PLANES = (
    ("axial", "Axial"),
    ("coronal", "Coronal"),
    ("sagittal", "Sagittal"),
    ("three", "Three planes"),
    ("render", "3-D"),
)


@dataclass(frozen=True)
class ViewerVolume:
    """A volume that the viewer offers.

    Attributes:
        key: Its id.
        label: Its name for people.
        unit: Unit of its values.
        role: Whether it is shown below, or in colour over the other.
        volume: **[X, Y, Z]**.
        window: Ends of its display window.
    """

    key: str
    label: str
    unit: str
    role: Literal["base", "overlay"]
    volume: Any
    window: tuple[float, float]


def viewer(
    volumes: Sequence[ViewerVolume],
    *,
    affine: Any,
    start: Sequence[float] | np.ndarray,
    palette: str = "HOT_IRON",
    budget: int = 3_500_000,
) -> Markup:
    """Return the viewer's part of a page; the page's scripts must be niivue.min.js and viewer.js.

    Without JavaScript or WebGL a sentence says so, and nothing else of the page is lost.

    Args:
        volumes: What to offer, on one grid; the first of each role is shown first.
        affine: **[4, 4]**, voxel index to RAS mm.
        start: Where the planes meet first, RAS mm.
        palette: Palette of the overlays.
        budget: Characters that all volumes may take; they are reduced until they fit.
    """
    encoded, size = _encode(volumes, as_array(affine).astype(np.float64), budget)
    entries = [
        {"key": v.key, "label": v.label, "unit": v.unit, "role": v.role, "low": v.window[0], "high": v.window[1]}
        for v in volumes
    ]
    blocks = [
        Markup(f'<script type="text/plain" id="volume-{v.key}">{text}</script>')
        for v, text in zip(volumes, encoded, strict=True)
    ]
    place = [round(float(x), 3) for x in start]
    config = json_block("viewer-config", {"volumes": entries, "palette": _palette(palette), "start": place})
    return element(
        "div",
        _controls(volumes),
        element(
            "div",
            element(
                "canvas", "Three-dimensional viewer", id="viewer-canvas", tabindex="0", role="img",
                aria_label="Interactive view of the volumes; the controls above choose plane and slice",
            ),
            element("p", "The viewer needs JavaScript and WebGL 2. The pictures above do not.", id="viewer-message"),
            class_="stage",
        ),
        element("div", _legend(palette), element("output", "", id="viewer-readout"), class_="legend"),
        element(
            "p",
            f"Reduced to at most {size} voxels an axis and 256 levels: to look at, not to measure in. A click moves "
            "the cross, arrow keys on the slider turn the pages; in 3-D the slice cuts away what lies above. "
            "L left, R right, A front, P back, S top, I bottom.",
            class_="hint",
        ),
        config,
        *blocks,
        id="viewer",
        data_state="waiting",
    )  # fmt: skip


def _controls(volumes: Sequence[ViewerVolume]) -> Markup:
    buttons = [
        element("button", title, type="button", data_plane=key, aria_pressed=str(key == "three").lower())
        for key, title in _PLANES
    ]
    choices = []
    for role, title in (("base", "Image"), ("overlay", "Colour overlay")):
        options = [element("option", v.label, value=v.key) for v in volumes if v.role == role]
        if role == "overlay":
            options.append(element("option", "nothing", value=""))
        choices.append(element("label", title, " ", element("select", *options, id=f"viewer-{role}")))
    sliders = [
        element("label", "Slice ", element("input", type="range", id="viewer-slice", min=0, max=1, value=0, step=1)),
        element(
            "label", "Opacity ", element("input", type="range", id="viewer-opacity", min=0, max=100, value=90, step=5)
        ),
    ]
    return join(
        [
            element("div", *buttons, class_="controls", role="group", aria_label="Plane"),
            element("div", *choices, *sliders, class_="controls"),
        ]
    )


def _legend(palette: str) -> Markup:
    colours = (color_palette(palette)[:: 255 // 15] * 255).round().astype(int)
    stops = ", ".join(f"rgb({r},{g},{b})" for r, g, b in colours)
    bar = element("span", "", class_="bar", style=f"background: linear-gradient(to right, {stops})")
    return element(
        "span", element("span", "", id="viewer-low"), bar, element("span", "", id="viewer-high"), class_="scale"
    )


def _palette(name: str) -> dict[str, list[int]]:
    """Return a palette as niivue takes it; how much of it is seen follows the value, by viewer.js."""
    table = (color_palette(name) * 255).round().astype(int)
    columns = {"R": table[:, 0], "G": table[:, 1], "B": table[:, 2], "A": np.full(256, 255), "I": np.arange(256)}
    return {k: [int(v) for v in values] for k, values in columns.items()}


def _encode(volumes: Sequence[ViewerVolume], affine: np.ndarray, budget: int) -> tuple[list[str], int]:
    """Return base64 of each volume, of the largest size that fits the budget, and that size."""
    encoded: list[str] = []
    size = SIZES[0]
    for size in SIZES:
        encoded = [nifti_base64(v.volume, affine, size) for v in volumes]
        if sum(map(len, encoded)) <= budget:
            break
    return encoded, size


def nifti_base64(volume: Any, affine: np.ndarray, size: int) -> str:
    """Return a volume as base64 of `.nii.gz`, reduced to `size` voxels an axis and 256 levels; equal each time."""
    array = as_array(volume).astype(np.float32, copy=False)
    new = np.minimum(array.shape, size)
    ratio = np.array(array.shape) / new
    if (ratio > 1).any():
        array = gaussian_filter(array, np.sqrt(ratio**2 - 1) / _FWHM_PER_SIGMA, mode="nearest")
        array = affine_transform(array, ratio, (ratio - 1) / 2, tuple(new), order=1, mode="nearest")
    step = np.eye(4)
    step[:3, :3], step[:3, 3] = np.diag(ratio), (ratio - 1) / 2
    low, high = float(array.min()), float(array.max())
    slope = (high - low) / 255 or 1.0
    image = nib.Nifti1Image(np.rint((array - low) / slope).astype(np.uint8), affine @ step)
    image.header.set_slope_inter(slope, low)
    return base64.b64encode(gzip.compress(image.to_bytes(), compresslevel=9, mtime=0)).decode()
