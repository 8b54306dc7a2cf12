"""The page on PET restored on its own grid, from the figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from results.tables import table
from results.volume_scenes import SETTINGS

PEERS = Path(__file__).with_name("volume_peers.json")
"""Methods that were run once, in an environment of their own; the file says how."""
_RADII = (12, 8, 6, 4)
_FIGURES = ("RMSE", "RMSE, lesion-free", "bias grey, %", "bias white, %", "bias deep, %", "total, %")
_DATA = ("gradients", "chi-square", "degrees of freedom", "corrected chi-square", "CPU seconds")
_HEAD = """# Results, volumes

A PET restored on the grid of its MRI from what the scanner measured on its own: in three dimensions, with the scanner's
PSF in mm. Measured by `python tests/results --data DATA --only volumes`. Research use only.

**Phantoms.** {seeds}, of {brains}, deformed strongly; T1, 2 % noise, {spacing:g} mm voxels. Uptake is sharp at
borders and varies by 8 % over 30 mm, and by 8 or 15 % in a texture of 6 to 14 mm that the MRI does not show. Each head
has {lesions} spheres of 4, 6, 8 and 12 mm radius: hot or cold in the PET alone, or in the MRI alone. The PET has voxels
of 2 to 4.2 mm and a PSF of 4.5 to 7 mm, turned and shifted, Poisson-like noise, correlated in one of the heads. It is
made from the uptake on a grid of half the MRI's voxels, and no method is told of that grid. Methods get the right PSF
and the right place, but for the last table.

**Counterparts** have the same operator. Van Cittert and Richardson-Lucy take 10 iterations. Region methods, iterative
Yang and GTM, get regions from the same MRI (k-means of its intensity in the true brain, which favours them; parcels
of space) or the true ones, marked *true*: those know what nobody knows.

**Intervals** are of 95 %: Student's t over the heads, bootstrap over the lesions. With so few heads they are wide.
RMSE is in units of the uptake of white matter, within the brain. Regions are whole, borders included, in the
lesion-free twin. What counts are the voxels that the PET measured, 99 % of each brain; beyond, medfuse restores none.
Contrast is the difference to the twin with the same noise, over that of the truth, 100 % at best.
"""
_LESIONS = """Contrast of lesions that the PET alone shows, %, by radius, mm:
"""
_MRI_ONLY = """By how much lesions that the MRI alone shows change the PET, in percent of it, by radius, mm:
restored with the lesion less restored without it, same noise; and the error there against the truth.
"""
_DATA_SAID = """What the data say: through-plane over in-plane gradient energy, of the truth's; chi-square on the
PET's grid, and the same corrected for the degrees of freedom. The chi-square of the true image is {truth}: what is
above 1 in it is the step from the fine grid to the MRI's.
"""
_HARD = """## Borders along the voxels

The same heads, drawn on the grid of the MRI itself, as phantoms often are: each voxel holds one tissue, 8 % of
texture. The blur takes more of such borders, all of a lesion's sphere counts, and regions that the MRI tells are
nearly the true ones.
"""
_WRONG = """## What is told wrong

RMSE on one head, 8 % of texture. What is off is told to every method.
"""


_RULE = """\
**medfuse** is the default, whose estimate a trained network mends; **medfuse, rule** is without it ([how](scanner.md)).
Nothing of either was chosen on these heads; earlier versions restored them.
"""


def volumes_page(results: Mapping[str, Any], peers: Mapping[str, Any] | None = None) -> str:
    """Return the page; `peers` are the methods of another environment, and may be absent."""
    rows, methods = results["rows"], results["methods"]
    seeds = len({row["seed"] for row in rows})
    first = next(r for r in results["lesions"])
    lesions = sum(all(r[k] == first[k] for k in ("seed", "texture", "method")) for r in results["lesions"])
    parts = [
        _HEAD.format(
            seeds=_heads(seeds), brains=" and ".join(results["brains"]), lesions=lesions, **_spacing(results["grid"])
        ),
        *([_RULE] if any("medfuse, rule" in found for found in methods.values()) else []),
        "![MRI, truth and methods in three planes](../images/volumes.png)\n",
    ]
    for texture, found in methods.items():
        truth = found["truth"]["chi-square"]
        known = {name: values for name, values in found.items() if name != "truth"}
        parts += [
            f"## {100 * float(texture):.0f} % of texture\n",
            _heads(truth["n"]) + ".\n",
            _table(known, _FIGURES),
            _LESIONS,
            _table(known, [f"contrast {kind} {r} mm, %" for kind in ("hot", "cold") for r in _RADII], short=True),
            _MRI_ONLY,
            _table(known, [f"{what} MRI-only {r} mm, %" for what in ("changed", "error") for r in _RADII], short=True),
            _DATA_SAID.format(truth=_cell(truth, 2)),
            _table(known, _DATA),
        ]
    if hard := results.get("hard", {}).get("methods"):
        known = {name: values for name, values in hard.items() if name != "truth"}
        contrasts = [f"contrast {kind} {r} mm, %" for kind in ("hot", "cold") for r in _RADII]
        parts += [_HARD, _table(known, _FIGURES), _LESIONS, _table(known, contrasts, short=True)]
    if wrong := results["wrong"]:
        names = list(next(iter(wrong.values())))
        said = ((case, *(f"{v[name]:.3f}" for name in names)) for case, v in wrong.items())
        parts += [_WRONG, table(("told", *names), said)]
    if peers is not None:
        parts += ["## From other packages\n", peers["how"] + "\n", *_others(peers)]
    return "\n".join(parts).rstrip() + "\n"


def _heads(count: int) -> str:
    return f"{count} head{'s' * (count != 1)}" + (" of 5 that the settings have" if count < len(SETTINGS) else "")


def _spacing(grid: Mapping[str, Any]) -> dict[str, float]:
    return {"spacing": grid["spacing_mm"]}


def _others(peers: Mapping[str, Any]) -> list[str]:
    names = list(next(iter(peers["methods"].values())))
    rows = ((method, *(f"{values[n]:.2f}" for n in names)) for method, values in peers["methods"].items())
    return [table(("method", *names), rows)]


def _table(methods: Mapping[str, Any], names: Any, *, short: bool = False) -> str:
    shown = [n.removesuffix(" mm, %").removeprefix("contrast ").replace(" MRI-only", "") if short else n for n in names]
    digits = 0 if short else 2
    rows = (
        (method, *(_cell(values.get(n), 1 if "%" in n and not short else digits) for n in names))
        for method, values in methods.items()
    )
    return table(("method", *shown), rows)


def _cell(figure: Mapping[str, Any] | None, digits: int) -> str:
    if figure is None:
        return ""
    if figure["interval"] is None:
        return f"{figure['mean']:.{digits}f}"
    low, high = figure["interval"]
    return f"{figure['mean']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
