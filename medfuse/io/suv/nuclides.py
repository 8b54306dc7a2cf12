"""Positron nuclides and their half lives."""

from __future__ import annotations

import re

_MEANING = re.compile(r"\W*(\d{1,3}m?)\W*([A-Za-z]+)\W*|\W*([A-Za-z]+)\W*(\d{1,3}m?)\W*")  # of ^18^Fluorine, F-18
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
HALF_LIVES = {
    "C-11": 20.36 * _MINUTE, "N-13": 9.965 * _MINUTE, "O-14": 70.62, "O-15": 122.24, "F-18": 109.77 * _MINUTE,
    "Na-22": 950.3 * _DAY, "Cl-34m": 32.0 * _MINUTE, "K-38": 7.636 * _MINUTE, "Sc-43": 3.891 * _HOUR,
    "Sc-44": 4.0 * _HOUR, "Ti-45": 184.8 * _MINUTE, "Mn-51": 46.2 * _MINUTE, "Mn-52": 5.591 * _DAY,
    "Mn-52m": 21.1 * _MINUTE, "Fe-52": 8.275 * _HOUR, "Co-55": 17.53 * _HOUR, "Cu-60": 23.7 * _MINUTE,
    "Cu-61": 3.336 * _HOUR, "Cu-62": 9.7 * _MINUTE, "Cu-64": 12.70 * _HOUR, "Zn-62": 9.19 * _HOUR,
    "Zn-63": 38.4 * _MINUTE, "Ga-66": 9.4 * _HOUR, "Ga-68": 67.7 * _MINUTE, "Ge-68": 270.9 * _DAY,
    "As-70": 52.6 * _MINUTE, "As-72": 26.0 * _HOUR, "Se-73": 7.15 * _HOUR, "Br-75": 96.7 * _MINUTE,
    "Br-76": 16.2 * _HOUR, "Br-77": 57.04 * _HOUR, "Rb-82": 76.0, "Y-86": 14.74 * _HOUR, "Y-90": 64.1 * _HOUR,
    "Zr-89": 78.4 * _HOUR, "Nb-90": 14.6 * _HOUR, "Tc-94m": 52.0 * _MINUTE, "I-120": 81.6 * _MINUTE,
    "I-124": 4.176 * _DAY, "La-133": 3.912 * _HOUR, "Tb-149": 4.12 * _HOUR, "Tb-152": 17.5 * _HOUR,
}  # fmt: skip
"""Half lives of the nuclides of PET, s: those of PS3.16 CID 4020, and a few more (ICRP Publication 107; NNDC)."""
TOLERANCE = 0.03
"""Part by which a half life in a header may differ: tables of different years do, for Rb-82 by 0.02."""


def is_half_life(value: float, nuclide: str) -> bool:
    """Return whether a half life, s, is that of a nuclide."""
    return abs(value / HALF_LIVES[nuclide] - 1.0) <= TOLERANCE


def nuclides_of(half_life: float) -> list[str]:
    """Return the nuclides of a half life, s."""
    return [nuclide for nuclide in HALF_LIVES if is_half_life(half_life, nuclide)]


def named_nuclide(text: str) -> str:
    """Return the known nuclide of a code's meaning, such as ^18^Fluorine, 18F or F-18; else nothing."""
    match = _MEANING.fullmatch(text)
    if match is None:
        return ""
    element, mass = (match[2], match[1]) if match[2] else (match[3], match[4])
    symbol = _SYMBOLS.get(element.lower(), element.capitalize())
    return nuclide if (nuclide := f"{symbol}-{mass}") in HALF_LIVES else ""


_SYMBOLS = {
    "carbon": "C", "nitrogen": "N", "oxygen": "O", "fluorine": "F", "sodium": "Na", "potassium": "K", "scandium": "Sc",
    "titanium": "Ti", "manganese": "Mn", "iron": "Fe", "copper": "Cu", "zinc": "Zn", "gallium": "Ga", "germanium": "Ge",
    "arsenic": "As", "selenium": "Se", "bromine": "Br", "rubidium": "Rb", "yttrium": "Y", "zirconium": "Zr",
    "niobium": "Nb", "technetium": "Tc", "iodine": "I", "terbium": "Tb", "cobalt": "Co", "chlorine": "Cl",
    "lanthanum": "La",
}  # fmt: skip
