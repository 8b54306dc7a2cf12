"""The interactive viewer of a report: niivue, and volumes reduced to what a page can carry."""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import nibabel as nib
import numpy as np
from scipy.ndimage import binary_erosion, gaussian_filter1d

from medfuse.fusion import ColourFusion
from medfuse.fusion.color import PALETTES
from medfuse.fusion.color import palette as color_palette
from medfuse.regions.values import as_array
from medfuse.report.markup import Markup, element, join, json_block

SIZES = (96, 80, 64, 48, 32)  # voxels along an axis, the first that fits the budget
_FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))
_PLANES = (
    ("axial", "Axial"),
    ("coronal", "Coronal"),
    ("sagittal", "Sagittal"),
    ("three", "Three planes"),
    ("render", "3-D"),
)


Role = Literal["base", "colour", "overlay", "outline"]


@dataclass(frozen=True)
class ViewerVolume:
    """A volume that the viewer offers.

    Attributes:
        key: Its id.
        label: Its name for people.
        unit: Unit of its values.
        role: Whether it is shown below in grey, or below in its own colours, in a palette over the other, or as a line.
        volume: **[X, Y, Z]**; in colours **[X, Y, Z, 3]**, uint8.
        window: Ends of its display window; of colours, those of their scale.
        source: Name of the source that it is, for the values under the cursor; empty for what is none.
        restored: Whether it is the restoration of that source.
    """

    key: str
    label: str
    unit: str
    role: Role
    volume: Any
    window: tuple[float, float]
    source: str = ""
    restored: bool = False


def viewer(
    volumes: Sequence[ViewerVolume],
    *,
    affine: Any,
    start: Sequence[float] | np.ndarray,
    colours: ColourFusion,
    budget: int = 3_500_000,
) -> Markup:
    """Return the viewer's part of a page; the page's scripts must be niivue.min.js and viewer.js.

    Without JavaScript or WebGL a sentence says so, and nothing else of the page is lost.

    Args:
        volumes: What to offer, on one grid; the first of each role is shown first.
        affine: **[4, 4]**, voxel index to RAS mm.
        start: Where the planes meet first, RAS mm.
        colours: How the colour fusion was made; its palette is that of the overlays at first.
        budget: Characters that all volumes may take; they are reduced until they fit.
    """
    encoded, size = _encode(volumes, as_array(affine).astype(np.float64), budget)
    blocks = [
        Markup(f'<script type="text/plain" id="volume-{v.key}">{text}</script>')
        for v, text in zip(volumes, encoded, strict=True)
    ]
    outline = next((v.key for v in volumes if v.role == "outline"), "")
    told = {
        "volumes": [_told(v, volumes, colours) for v in volumes],
        "palettes": {name.lower(): _palette(name) for name in PALETTES},
        "outline": outline,
        "probes": _probes(volumes),
        "start": [round(float(x), 3) for x in start],
    }
    return element(
        "div",
        _controls(volumes, colours.alone.lower()),
        element(
            "div",
            element(
                "canvas", "Three-dimensional viewer", id="viewer-canvas", tabindex="0", role="img",
                aria_label="Interactive view of the volumes; the controls above choose plane and slice",
            ),
            element("p", "The viewer needs JavaScript and WebGL 2. The pictures above do not.", id="viewer-message"),
            class_="stage",
        ),
        element("div", _legend(), element("output", "", id="viewer-readout"), class_="legend"),
        element(
            "p",
            f"Reduced to at most {size} voxels an axis and 256 levels: to look at, not to measure in. The line above "
            "has the values of both sources under the pointer, else at the cross. A click moves the cross, arrow keys "
            "on the slider turn the pages; in 3-D the slider cuts away what lies above. Level and window are in "
            "percent of the first window. L left, R right, A front, P back, S top, I bottom.",
            class_="hint",
        ),
        json_block("viewer-config", told),
        *blocks,
        id="viewer",
        data_state="waiting",
    )  # fmt: skip


def _told(volume: ViewerVolume, volumes: Sequence[ViewerVolume], colours: ColourFusion) -> dict[str, Any]:
    """Return what the script is told of a volume; its twin is the same source, restored or given."""
    twin = next((v.key for v in volumes if v.source and v.source == volume.source and v is not volume), "")
    told = {
        "key": volume.key, "label": volume.label, "unit": volume.unit, "role": volume.role, "twin": twin,
        "low": volume.window[0], "high": volume.window[1], "kin": volume.source or volume.key,
        "restored": volume.restored,
    }  # fmt: skip
    if volume.role == "colour":
        rows = [_gradient(row) for row in colours.scale(16)]
        parts = (f"{row} 0 {100 * k / max(len(rows) - 1, 1):.0f}% / 100% {100 / len(rows):.1f}% no-repeat"
                 for k, row in enumerate(rows))  # fmt: skip
        told["bar"] = ", ".join(parts)
    return told


def _probes(volumes: Sequence[ViewerVolume]) -> list[dict[str, str]]:
    """Return the sources whose values are told, given before restored; one that was not changed says so."""
    probes = []
    for name in dict.fromkeys(v.source for v in volumes if v.source):
        both = sorted((v for v in volumes if v.source == name), key=lambda v: v.restored)
        for v in both:
            label = v.label if v.restored else f"{v.label} given" + (" and restored" if len(both) == 1 else "")
            probes.append({"key": v.key, "label": label, "unit": v.unit})
    return probes


def _controls(volumes: Sequence[ViewerVolume], chosen: str) -> Markup:
    planes = [
        element("button", title, type="button", data_plane=key, aria_pressed=str(key == "three").lower())
        for key, title in _PLANES
    ]
    below = [element("option", v.label, value=v.key) for v in volumes if v.role in ("base", "colour")]
    above = [element("option", v.label, value=v.key) for v in volumes if v.role == "overlay"]
    above.append(element("option", "nothing", value=""))
    palettes = [
        element("option", name.lower().replace("_", " "), value=name.lower(), selected=name.lower() == chosen)
        for name in PALETTES
    ]
    looks = [
        element("label", "Image ", element("select", *below, id="viewer-base")),
        _slider("base-level", "Level ", 50),
        _slider("base-window", "Window ", 100, least=1),
        element("label", "Colour overlay ", element("select", *above, id="viewer-overlay")),
        _slider("overlay-level", "Level ", 50),
        _slider("overlay-window", "Window ", 100, least=1),
        element("label", "Palette ", element("select", *palettes, id="viewer-palette")),
    ]
    moves = [
        element("label", "Slice ", element("input", type="range", id="viewer-slice", min=0, max=1, value=0, step=1)),
        element(
            "label", "Opacity ", element("input", type="range", id="viewer-opacity", min=0, max=100, value=90, step=5)
        ),
    ]
    if any(v.role == "outline" for v in volumes):
        box = element("input", type="checkbox", id="viewer-outline", checked=True)
        moves.append(element("label", box, " Outline of the mask"))
    if any(v.restored for v in volumes):
        moves += [
            element("button", "Given or restored", type="button", id="viewer-turn"),
            element("button", "Blink", type="button", id="viewer-blink", aria_pressed="false"),
            element("output", "", id="viewer-turned"),
        ]
    return join(
        [
            element("div", *planes, class_="controls", role="group", aria_label="Plane"),
            element("div", *looks, class_="controls"),
            element("div", *moves, class_="controls"),
        ]
    )


def _slider(name: str, label: str, value: int, *, least: int = 0) -> Markup:
    most = 100 if "level" in name else 200
    return element(
        "label", label, element("input", type="range", id=f"viewer-{name}", min=least, max=most, value=value, step=1)
    )


def _legend() -> Markup:
    bar = element("span", "", class_="bar", id="viewer-bar")
    return element(
        "span", element("span", "", id="viewer-low"), bar, element("span", "", id="viewer-high"), class_="scale"
    )


def _gradient(colours: np.ndarray) -> str:
    stops = ", ".join(f"rgb({r},{g},{b})" for r, g, b in (colours * 255).round().astype(int))
    return f"linear-gradient(to right, {stops})"


def _palette(name: str) -> dict[str, Any]:
    """Return a palette for the script, and its bar; how much of it is seen follows the value, by viewer.js."""
    table = color_palette(name)
    columns = {k: [int(v) for v in (table[::5, i] * 255).round()] for i, k in enumerate("RGB")}  # 0, 5, ..., 255
    return {"colours": columns, "bar": _gradient(table[:: 255 // 15])}


def _encode(volumes: Sequence[ViewerVolume], affine: np.ndarray, budget: int) -> tuple[list[str], int]:
    """Return base64 of each volume, of the largest size that fits the budget, and that size."""
    encoded: list[str] = []
    size = SIZES[0]
    for size in SIZES:
        encoded = [_volume_base64(v, affine, size) for v in volumes]
        if sum(map(len, encoded)) <= budget:
            break
    return encoded, size


def _volume_base64(volume: ViewerVolume, affine: np.ndarray, size: int) -> str:
    array = as_array(volume.volume)
    if volume.role == "colour":
        return _rgb_base64(array, affine, size)
    if volume.role == "outline":
        reduced, turned = _reduced(array > 0, affine, size)
        inside = reduced > 0.5 if (reduced > 0.5).any() else reduced > 0
        return _encoded((inside & ~binary_erosion(inside)).astype(np.uint8), turned)
    return nifti_base64(array, affine, size)


def _rgb_base64(rgb: np.ndarray, affine: np.ndarray, size: int) -> str:
    """Return a colour volume as base64 of an RGB `.nii.gz`, reduced."""
    channels = [_reduced(rgb[..., k], affine, size) for k in range(3)]
    colours = np.stack([np.rint(c).clip(0, 255).astype(np.uint8) for c, _ in channels], -1)
    voxels = np.ascontiguousarray(colours).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    return _encoded(voxels, channels[0][1])


def _reduced(array: np.ndarray, affine: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a volume of at most `size` voxels an axis, smoothed before, and its affine."""
    new = np.minimum(array.shape, size)
    ratio = np.array(array.shape) / new
    one, two, three = (_reduction(n, m) for n, m in zip(array.shape, new, strict=True))
    planes = []  # one after another: a copy of a large volume is room for nothing
    for plane in array:
        flat = plane.astype(np.float32, copy=False)
        flat = flat if three is None else flat @ three.T
        planes.append(flat if two is None else two @ flat)
    reduced = np.stack(planes)
    reduced = reduced if one is None else np.tensordot(one, reduced, 1)
    step = np.eye(4)
    step[:3, :3], step[:3, 3] = np.diag(ratio), (ratio - 1) / 2
    return reduced, affine @ step


@lru_cache(maxsize=16)
def _reduction(old: int, new: int) -> np.ndarray | None:
    """Return the smoothing of an axis and the linear interpolation behind it as one matrix **[new, old]**."""
    if new == old:
        return None
    ratio = old / new
    smooth = gaussian_filter1d(np.eye(old), math.sqrt(ratio**2 - 1) / _FWHM_PER_SIGMA, axis=0, mode="nearest")
    place = (np.arange(new) + 0.5) * ratio - 0.5
    lower = np.minimum(place.astype(int), old - 2)
    share = (place - lower)[:, None]
    return np.asarray((1 - share) * smooth[lower] + share * smooth[lower + 1], np.float32)


def _encoded(voxels: np.ndarray, affine: np.ndarray, scale: tuple[float, float] = (1.0, 0.0)) -> str:
    image = nib.Nifti1Image(voxels, affine)
    if voxels.dtype == np.uint8:
        image.header.set_slope_inter(*scale)
    return base64.b64encode(gzip.compress(image.to_bytes(), compresslevel=9, mtime=0)).decode()


def nifti_base64(volume: Any, affine: np.ndarray, size: int) -> str:
    """Return a volume as base64 of `.nii.gz`, reduced to `size` voxels an axis and 256 levels; equal each time."""
    array, turned = _reduced(as_array(volume).astype(np.float32, copy=False), affine, size)
    low, high = float(array.min()), float(array.max())
    slope = (high - low) / 255 or 1.0
    return _encoded(np.rint((array - low) / slope).astype(np.uint8), turned, (slope, low))
