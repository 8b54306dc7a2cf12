"""What can be read back from the 8-bit colours of the clean dev pairs, by each way of showing both sources."""

from __future__ import annotations

from typing import Any

import numpy as np
from results.images import Dev, read
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from scipy.stats import spearmanr

from medfuse.fusion import ColourFusion, TwoScale, to_uint8
from medfuse.fusion.color import rgb_to_oklab

LOOKS = {
    "OKLAB": ColourFusion(),
    "HOT_IRON, luma": ColourFusion("HOT_IRON", "luma"),
    "HOT_IRON, alpha": ColourFusion("HOT_IRON", "alpha"),
    "RAINBOW, alpha": ColourFusion("RAINBOW", "alpha"),
}
FIGURES = (
    *("uptake rank", "uptake error", "MRI correlation", "MRI gain"),
    *("protanopia", "deuteranopia", "protanopia, b alone", "deuteranopia, b alone"),
)
_LEVELS, _CHROMA = 256, 0.02
# Machado, Oliveira and Fernandes (TVCG 2009), severity 1.0, on linear sRGB
_DICHROMATS = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
}
_ALL_CONES = "all cones"
_EYES = {_ALL_CONES: np.eye(3)} | {name: np.array(matrix) for name, matrix in _DICHROMATS.items()}


def of_colours(dev: Dev) -> dict[str, Any]:
    """Return, by look, mean and worst pair of each figure, and whether the hue runs one way along the scale."""
    return {name: _of_look(dev, look) for name, look in LOOKS.items()}


def _of_look(dev: Dev, look: ColourFusion) -> dict[str, Any]:
    values = np.linspace(0, 1, _LEVELS)
    scale = to_uint8(look(values[None], values[:, None]))  # uptake by structure
    trees = {name: _tree(scale, matrix) for name, matrix in _EYES.items()}
    rows = []
    for name in dev.names:
        a, u = (read(dev.clean / kind / f"{name}.png")[0, 0] for kind in dev.kinds)
        structure = a if look.shows_anatomy else TwoScale()(a, u).clamp(0, 1)
        rows.append(_figures(a.numpy(), u.numpy(), to_uint8(look(structure, u)), trees))
    result: dict[str, Any] = {
        key: {"mean": float(np.mean([r[key] for r in rows])), "worst": float(_worst(key)([r[key] for r in rows]))}
        for key in FIGURES
    }
    return result | {"hue runs one way": _monotone(look)}


def _worst(key: str) -> Any:
    return np.max if key == "uptake error" else np.min


def _figures(a: np.ndarray, u: np.ndarray, rgb: np.ndarray, trees: dict[str, cKDTree]) -> dict[str, float]:
    lab = rgb_to_oklab(rgb / 255.0)
    smooth = gaussian_filter(u, 2)
    body, hot = (gaussian_filter(a, 2) > 0.1) | (smooth > 0.1), (smooth > 0.45 * smooth.max()) & (a > 0.05)
    details = [(x - gaussian_filter(x, 3))[hot] for x in (a, u, lab[..., 0])]
    gain = np.linalg.lstsq(np.stack(details[:2], 1), details[2], rcond=None)[0][0]
    row = {"MRI correlation": np.corrcoef(details[0], details[2])[0, 1], "MRI gain": gain}
    for name, matrix in _EYES.items():
        seen = rgb_to_oklab(_seen(rgb[body], matrix) / 255.0)
        found = trees[name].query(seen)[1] // _LEVELS / (_LEVELS - 1)
        rank = spearmanr(found, u[body])[0]
        if name == _ALL_CONES:
            row |= {"uptake rank": rank, "uptake error": np.abs(found - u[body]).mean()}
        else:
            row |= {name: rank, f"{name}, b alone": spearmanr(seen[..., 2], u[body])[0]}
    return {key: float(row[key]) for key in FIGURES}


def _tree(rgb: np.ndarray, matrix: np.ndarray) -> cKDTree:
    """Return the colours of a scale as they are seen, as points in OKLab."""
    return cKDTree(rgb_to_oklab(_seen(rgb, matrix) / 255.0).reshape(-1, 3))


def _seen(rgb: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Simulate dichromacy of 8-bit sRGB."""
    x = rgb / 255.0
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    linear = (linear @ matrix.T).clip(0, 1)
    return np.asarray(np.rint(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)))


def _monotone(look: ColourFusion) -> bool:
    """Whether hue never turns back along the scale, where there is a colour, at five brightnesses of the structure."""
    uptake = np.linspace(0, 1, 501)
    for level in (0.0, 0.25, 0.5, 0.75, 1.0):
        lab = rgb_to_oklab(np.asarray(look(np.full(501, level), uptake), dtype=np.float64))
        coloured = np.hypot(lab[:, 1], lab[:, 2]) > (_CHROMA if level else 0.005)
        hue = np.diff(np.unwrap(np.arctan2(lab[coloured, 2], lab[coloured, 1])))
        if not ((hue >= -1e-3).all() or (hue <= 1e-3).all()):
            return False
    return True
