"""Positron nuclides, their half lives, and which of them a text names."""

from __future__ import annotations

import re

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

_NO_PET = {  # those of PS3.16 CID 18, and of therapy
    "C": "14", "P": "32", "Na": "24", "K": "42 43", "Cr": "51", "Co": "57 58 60", "Fe": "59", "Cu": "67", "Ga": "67",
    "Se": "75", "Kr": "81m 85", "Sr": "85 87m 89", "Ru": "97", "Tc": "99m", "In": "111 113m", "I": "123 125 131",
    "Xe": "127 133", "Ba": "133", "Sm": "153", "Gd": "153", "Tb": "161", "Ho": "166", "Yb": "169", "Lu": "177",
    "Ta": "178", "Re": "186 188", "Ir": "191m", "Au": "198 199", "Tl": "201", "Pb": "203 212", "Bi": "213", "At": "211",
    "Ra": "223", "Ac": "225", "Th": "227",
}  # fmt: skip
_KNOWN = HALF_LIVES.keys() | {f"{element}-{mass}" for element, masses in _NO_PET.items() for mass in masses.split()}
_ELEMENTS = {
    "carbon": "C", "nitrogen": "N", "oxygen": "O", "fluorine": "F", "fluor": "F", "sodium": "Na", "phosphorus": "P",
    "chlorine": "Cl", "potassium": "K", "scandium": "Sc", "titanium": "Ti", "chromium": "Cr", "manganese": "Mn",
    "iron": "Fe", "cobalt": "Co", "copper": "Cu", "zinc": "Zn", "gallium": "Ga", "germanium": "Ge", "arsenic": "As",
    "selenium": "Se", "bromine": "Br", "krypton": "Kr", "rubidium": "Rb", "strontium": "Sr", "yttrium": "Y",
    "zirconium": "Zr", "niobium": "Nb", "ruthenium": "Ru", "technetium": "Tc", "indium": "In", "iodine": "I",
    "xenon": "Xe", "barium": "Ba", "lanthanum": "La", "samarium": "Sm", "gadolinium": "Gd", "terbium": "Tb",
    "holmium": "Ho", "ytterbium": "Yb", "lutetium": "Lu", "tantalum": "Ta", "rhenium": "Re", "iridium": "Ir",
    "gold": "Au", "thallium": "Tl", "lead": "Pb", "bismuth": "Bi", "astatine": "At", "radium": "Ra", "actinium": "Ac",
    "thorium": "Th",
}  # fmt: skip
_SYMBOLS = _ELEMENTS | {symbol.lower(): symbol for symbol in _ELEMENTS.values()}
_NAMED = "|".join(sorted(_SYMBOLS, key=len, reverse=True))
_GAP = r"[\s^()\[\]_-]{0,3}"  # of ^18^F, F-18, [18F], (18)F
_MASS_FIRST = re.compile(rf"(?<![a-z0-9])(?P<mass>\d{{1,3}}m?){_GAP}(?P<element>{_NAMED})(?![a-z0-9])")
_MASS_LAST = re.compile(rf"(?<![a-z0-9])(?P<element>{_NAMED}){_GAP}(?P<mass>\d{{1,3}}m?)(?![a-z0-9])")

_TRACERS = {  # names of what exists with one nuclide only, and is called so
    "F-18": (
        "fdg fluorodeoxyglucose fludeoxyglucose fluorodesoxyglucose fluordesoxyglucose naf florbetapir florbetaben "
        "flutemetamol flortaucipir fluciclovine piflufolastat flotufolastat flurpiridaz fluoroestradiol fluorodopa "
        "fdopa flt fet fluorothymidine fluoroethyltyrosine fluorocholine fluoromisonidazole fmiso amyvid vizamyl "
        "neuraceq tauvid axumin pylarify posluma cerianna flyrcado"
    ),
    "C-11": "pib raclopride methionine",
    "N-13": "ammonia",
    "Cu-64": "detectnet",
    "Ga-68": "netspot illuccix locametz",
    "Rb-82": "rubidium cardiogen",
}
_TRACER = {name: nuclide for nuclide, names in _TRACERS.items() for name in names.split()}
_WORD = re.compile(rf"(?<![a-z])({'|'.join(_TRACER)})(?![a-z])")


def is_half_life(value: float, nuclide: str) -> bool:
    """Return whether a half life, s, is that of a nuclide."""
    return abs(value / HALF_LIVES[nuclide] - 1.0) <= TOLERANCE


def nuclides_of(half_life: float) -> list[str]:
    """Return the nuclides of a half life, s."""
    return [nuclide for nuclide in HALF_LIVES if is_half_life(half_life, nuclide)]


def nuclides_in(text: str) -> set[str]:
    """Return the nuclides that a text names, such as ^18^Fluorine, F-18, 18F or, in it, FDG F^18^; of PET or not.

    Where it names none, that of a tracer which exists with one nuclide only: FDG is F-18, whereas PSMA, DOTATATE,
    choline or flumazenil may be two, and say nothing.
    """
    lower = text.lower()
    found = {
        f"{_SYMBOLS[match['element']]}-{match['mass']}"
        for pattern in (_MASS_FIRST, _MASS_LAST)
        for match in pattern.finditer(lower)
    }
    return found & _KNOWN or {_TRACER[name] for name in _WORD.findall(lower)}


def named_nuclide(text: str) -> str:
    """Return the one nuclide of PET that a text names, see `nuclides_in`; nothing where it names none, or several."""
    found = nuclides_in(text)
    return found.pop() if len(found) == 1 and found <= HALF_LIVES.keys() else ""
