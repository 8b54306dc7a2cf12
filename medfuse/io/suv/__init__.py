"""Standardised uptake values: pure functions of what PET headers say, and a record of everything that was read.

`tags` is what headers say, `times` and `checks` hold it against each other, `body` is what SUV is normalised by, and
`rules` makes a factor of it all.
"""

from medfuse.io.suv.body import body_size
from medfuse.io.suv.checks import Content
from medfuse.io.suv.nuclides import HALF_LIVES
from medfuse.io.suv.rules import Suv, suv
from medfuse.io.suv.tags import OVERRIDES, Moment, PetTags
from medfuse.io.units import CHOICES, FILE_UNITS, KINDS

__all__ = [
    "CHOICES",
    "FILE_UNITS",
    "HALF_LIVES",
    "KINDS",
    "OVERRIDES",
    "Content",
    "Moment",
    "PetTags",
    "Suv",
    "body_size",
    "suv",
]
