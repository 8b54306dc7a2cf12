"""Units: what values of a source may be in, a row each, with their DICOM and UCUM names. Loads neither torch nor MONAI.

A kind of SUV is a row here and a function in `medfuse.io.suv.body`. A unit that no row knows may be stated of a source,
too: it is then a name and no more.
"""

from __future__ import annotations

from dataclasses import dataclass

ARBITRARY = "a.u."
"""In place of a unit that nobody knows."""


@dataclass(frozen=True)
class Unit:
    """A unit.

    Attributes:
        name: What outputs call it.
        kind: Of an SUV, by what it is normalised: one of `KINDS`; empty for any other unit.
        dicom_units: Units (0054,1001) of a PET image in it, PS3.3 C.8.9.1.1.3; empty where there is none.
        suv_type: SUV Type (0054,1006), PS3.3 C.8.9.1; empty where there is none.
        ucum: Code of the Unified Code for Units of Measure, PS3.16 CID 84 and 85; empty where there is none.
        meaning: Code Meaning (0008,0104) of that code.
        spellings: Other ways in which files write it; upper and lower case are the same.
        is_comparable: Whether values of two scans can be compared.
    """

    name: str
    kind: str = ""
    dicom_units: str = ""
    suv_type: str = ""
    ucum: str = ""
    meaning: str = ""
    spellings: tuple[str, ...] = ()
    is_comparable: bool = True


_BW, _LBM = "Standardized Uptake Value body weight", "Standardized Uptake Value lean body mass"
UNITS: tuple[Unit, ...] = (
    Unit("SUV", "bw", "GML", "BW", "{SUVbw}g/ml", _BW, spellings=("SUVbw", "g/ml{SUVbw}")),
    Unit("SUVlbm", "lbm", "GML", "LBMJANMA", "{SUVlbm}g/ml", _LBM, spellings=("SUL", "g/ml{SUVlbm}")),
    Unit("SUVlbm", "lbm-james", "GML", "LBMJAMES128", "{SUVlbm}g/ml", _LBM),
    Unit(
        "SUVbsa", "bsa", "CM2ML", "BSA", "{SUVbsa}cm2/ml", "Standardized Uptake Value body surface area",
        spellings=("cm2/ml{SUVbsa}",),
    ),
    Unit(
        "SUVibw", "ibw", "GML", "IBW", "{SUVibw}g/ml", "Standardized Uptake Value ideal body weight",
        spellings=("g/ml{SUVibw}",),
    ),
    Unit("Bq/ml", dicom_units="BQML", ucum="Bq/ml", meaning="Becquerels/milliliter", spellings=("Bq/cc", "Bq/cm3")),
    Unit("counts", dicom_units="CNTS", ucum="{counts}", meaning="Counts", is_comparable=False),
    Unit("g/ml", dicom_units="GML"),
    Unit("cm2/ml", dicom_units="CM2ML"),
    Unit("HU", ucum="[hnsf'U]", meaning="Hounsfield unit", spellings=("Hounsfield",)),
    Unit(ARBITRARY, spellings=("arbitrary", "arbitrary units", "arb. unit", "arbitrary unit"), is_comparable=False),
)  # fmt: skip

KINDS = tuple(unit.kind for unit in UNITS if unit.kind)
"""By what an SUV may be normalised."""
CHOICES = ("auto", *KINDS, "none")
"""What may be asked for of a PET: a kind, what can be computed, or no SUV."""
FILE_UNITS = {unit.dicom_units: unit.name for unit in UNITS if unit.dicom_units and not unit.kind}
"""Names of the Units (0054,1001) that are read, as the file has them."""
SUV_TYPES = {unit.suv_type: unit.kind for unit in UNITS if unit.suv_type}
"""Kinds by SUV Type (0054,1006)."""


def suv_unit(kind: str) -> Unit:
    """Return the unit of a kind of SUV, one of `KINDS`."""
    return next(unit for unit in UNITS if unit.kind == kind)


def find_unit(text: str) -> Unit | None:
    """Return the unit that a text means, by its name, UCUM code, DICOM code or another spelling; None for none.

    Upper and lower case are the same; of several kinds of SUV that a text may mean, it is the first.
    """
    return _SPELT.get(text.strip().casefold())


def is_comparable(text: str) -> bool:
    """Return whether values in a unit can be compared with another scan's: not where it is unknown, or a count."""
    unit = find_unit(text)
    return text not in ("", ARBITRARY) and (unit is None or unit.is_comparable)


def _spelt() -> dict[str, Unit]:
    found: dict[str, Unit] = {}
    for unit in UNITS:
        for text in (unit.name, unit.ucum, "" if unit.kind else unit.dicom_units, *unit.spellings):
            if text:
                found.setdefault(text.casefold(), unit)
    return found


_SPELT = _spelt()
