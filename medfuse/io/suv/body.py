"""What SUV is normalised by: body weight, lean body mass, body surface, ideal weight. A function for each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from medfuse.errors import DicomError
from medfuse.io.suv.tags import SIDECAR, checked
from medfuse.io.units import KINDS


def body_size(kind: str, *, weight: float | None, size: float | None = None, sex: str = "") -> float:
    """Return what SUV is normalised by: g, or cm2 for "bsa".

    Args:
        kind: One of `medfuse.io.units.KINDS`.
        weight: kg.
        size: Height, m.
        sex: "M" or "F"; needed for lean body mass and ideal weight.

    Raises:
        DicomError: If something is missing, or out of the range of a human being in these units.

    Reference:
        lbm: Janmahasatian et al., Clin Pharmacokinet 44 (2005) 1051. lbm-james: James, Research on Obesity, HMSO 1976,
        with his 128 for men (DICOM's LBMJAMES128; a widespread misprint has 120). bsa: Du Bois and Du Bois, Arch Intern
        Med 17 (1916) 863. ibw: Devine, Drug Intell Clin Pharm 8 (1974) 650: 50 kg (men) or 45.5 kg (women), and 2.3 kg
        for each inch above 5 feet.
    """
    if kind not in _SIZES:
        raise DicomError(f"The kind of an SUV must be one of {', '.join(KINDS)}, got {kind!r}; choose one of them.")
    return _SIZES[kind](weight, size, sex)


def _weight(weight: float | None, size: float | None, sex: str) -> float:
    return 1000.0 * checked("weight", weight)


def _janmahasatian(weight: float | None, size: float | None, sex: str) -> float:
    heavy, tall = checked("weight", weight), checked("size", size)
    bmi = heavy / tall**2
    return 1000.0 * 9270.0 * heavy / (6680.0 + 216.0 * bmi if _is_male(sex) else 8780.0 + 244.0 * bmi)


def _james(weight: float | None, size: float | None, sex: str) -> float:
    heavy, tall = checked("weight", weight), checked("size", size)
    ratio = (heavy / (100.0 * tall)) ** 2
    lean = 1.10 * heavy - 128.0 * ratio if _is_male(sex) else 1.07 * heavy - 148.0 * ratio
    return 1000.0 * _positive(lean, "lean body mass")


def _surface(weight: float | None, size: float | None, sex: str) -> float:
    heavy, tall = checked("weight", weight), checked("size", size)
    return float(1e4 * 0.007184 * heavy**0.425 * (100.0 * tall) ** 0.725)


def _ideal(weight: float | None, size: float | None, sex: str) -> float:
    tall = checked("size", size)
    ideal = (50.0 if _is_male(sex) else 45.5) + 2.3 * (tall / 0.0254 - 60.0)
    return 1000.0 * _positive(ideal, "ideal weight")


_SIZES: Mapping[str, Callable[[float | None, float | None, str], float]] = {
    "bw": _weight,
    "lbm": _janmahasatian,
    "lbm-james": _james,
    "bsa": _surface,
    "ibw": _ideal,
}
"""By kind of SUV: what it is normalised by, of weight (kg), size (m) and sex."""


def _is_male(sex: str) -> bool:
    if sex not in ("M", "F"):
        raise DicomError(f"PatientSex must be M or F for this SUV, got another or none; {SIDECAR}")
    return sex == "M"


def _positive(value: float, what: str) -> float:
    if value <= 0:
        raise DicomError(f"The {what} must be positive, got {value:g} kg; choose another kind of SUV.")
    return value
