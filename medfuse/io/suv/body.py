"""What SUV is normalised by: body weight, lean body mass, body surface, ideal weight."""

from __future__ import annotations

from medfuse.errors import DicomError
from medfuse.io.suv.tags import SIDECAR, checked

KINDS = ("bw", "lbm", "lbm-james", "bsa", "ibw")


def body_size(kind: str, *, weight: float | None, size: float | None = None, sex: str = "") -> float:
    """Return what SUV is normalised by: g, or cm2 for "bsa".

    Args:
        kind: One of `KINDS`.
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
    if kind == "ibw":
        tall = checked("size", size)
        ideal = (50.0 if _is_male(sex) else 45.5) + 2.3 * (tall / 0.0254 - 60.0)
        return 1000.0 * _positive(ideal, "ideal weight")
    heavy = checked("weight", weight)
    if kind == "bw":
        return 1000.0 * heavy
    tall = checked("size", size)
    if kind == "bsa":
        return 1e4 * 0.007184 * heavy**0.425 * (100.0 * tall) ** 0.725
    male = _is_male(sex)
    if kind == "lbm":
        bmi = heavy / tall**2
        return 1000.0 * 9270.0 * heavy / (6680.0 + 216.0 * bmi if male else 8780.0 + 244.0 * bmi)
    ratio = (heavy / (100.0 * tall)) ** 2
    return 1000.0 * _positive(1.10 * heavy - 128.0 * ratio if male else 1.07 * heavy - 148.0 * ratio, "lean body mass")


def _is_male(sex: str) -> bool:
    if sex not in ("M", "F"):
        raise DicomError(f"PatientSex must be M or F for this SUV, got another or none; {SIDECAR}")
    return sex == "M"


def _positive(value: float, what: str) -> float:
    if value <= 0:
        raise DicomError(f"The {what} must be positive, got {value:g} kg; choose another kind of SUV.")
    return value
