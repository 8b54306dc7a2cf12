"""Modalities: the kinds of images that a source may be, a row each. Loads neither torch nor MONAI.

A bundle names its two in `configs/metadata.json`, `"modalities": ["mri", "pet"]`: source 1, whose grid is the
reference, then source 2, which is shown in colour. Keys of cases, options of the command line, names of outputs and
titles of reports follow from the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medfuse.errors import BundleError, nearest
from medfuse.io.units import ARBITRARY


@dataclass(frozen=True)
class Modality:
    """A kind of image.

    Attributes:
        key: Its name in cases, options, files and records: one word in small letters.
        title: Its name in sentences.
        article: Before the title, "a" or "an".
        dicom: Modality (0008,0060) of its DICOM images, PS3.3 C.7.3.1.1.1; empty where there are none.
        unit: Unit of its values where DICOM headers say no other, after the rescaling (PS3.3 C.11.1).
        has_uptake: Whether it shows the uptake of a tracer, as PET and SPECT do.
        is_measured: Whether its values can be compared with those of another scan, once their unit is known.
        has_bias_field: Whether coils leave a smooth multiplicative error in it.
        is_volume: Whether it is a volume; else a 2-D image.
        bids_folder: Folder of its files in a BIDS dataset (datatype); empty where BIDS has no place for it.
        bids_suffix: Suffix of their names.
        bids_space: Label of its grid in the names of derivatives.
        synonyms: Other names that its files may have in a folder of cases.
    """

    key: str
    title: str
    article: str = "a"
    dicom: str = ""
    unit: str = ARBITRARY
    has_uptake: bool = False
    is_measured: bool = True
    has_bias_field: bool = False
    is_volume: bool = True
    bids_folder: str = ""
    bids_suffix: str = ""
    bids_space: str = ""
    synonyms: tuple[str, ...] = ()

    @property
    def has_suv(self) -> bool:
        """Whether its DICOM headers can tell how its values become SUV, as those of PET can (PS3.3 C.8.9)."""
        return self.dicom == "PT"


_ROWS = (
    Modality(
        "mri", "MRI", "an", "MR", is_measured=False, has_bias_field=True,
        bids_folder="anat", bids_suffix="T1w", bids_space="T1w", synonyms=("mr", "t1", "t1w"),
    ),
    Modality(
        "pet", "PET", dicom="PT", has_uptake=True,
        bids_folder="pet", bids_suffix="pet", bids_space="PET", synonyms=("suv",),
    ),
    Modality("ct", "CT", dicom="CT", unit="HU"),
    Modality(
        "spect", "SPECT", dicom="NM", has_uptake=True,
        bids_folder="spect", bids_suffix="spect", bids_space="SPECT",  # no datatype of BIDS 1.10, but what is in use
    ),
    Modality("visible", "visible image", is_measured=False, is_volume=False),
    Modality("infrared", "infrared image", "an", is_measured=False, is_volume=False),
)  # fmt: skip
MODALITIES: Mapping[str, Modality] = {row.key: row for row in _ROWS}
"""By key."""
DEFAULT_PAIR = ("mri", "pet")
"""Keys of sources 1 and 2 where a bundle, or a caller, names none."""
ANATOMY, UPTAKE = (MODALITIES[key] for key in DEFAULT_PAIR)
"""Their rows, which BIDS has places for."""


def modality(key: str) -> Modality:
    """Return a modality by its key.

    Raises:
        BundleError: If no row has it.
    """
    try:
        return MODALITIES[key]
    except KeyError:
        known = ", ".join(MODALITIES)
        raise BundleError(f"A modality must be one of {known}, got {key!r}; {nearest(key, MODALITIES)}.") from None


def pair(metadata: Mapping[str, Any]) -> tuple[Modality, Modality]:
    """Return the modalities of source 1 and source 2 that a bundle's metadata name; the default pair for none.

    Raises:
        BundleError: If they are not two different ones of the table, both of volumes or both of 2-D images.
    """
    keys = metadata.get("modalities", list(DEFAULT_PAIR))
    if not isinstance(keys, list) or len(keys) != 2 or not all(isinstance(key, str) for key in keys):
        raise BundleError("modalities in the metadata of a bundle must be a list of two keys, got another; correct it.")
    first, second = modality(keys[0]), modality(keys[1])
    if first == second or first.is_volume != second.is_volume:
        what = "one twice" if first == second else "a volume and a 2-D image"
        raise BundleError(
            f"The modalities of a bundle must be two that can be fused, got {what}; correct its metadata."
        )
    return first, second


def titles(keys: Sequence[str]) -> tuple[str, ...]:
    """Return what sources are called in sentences; one without a row by its key in capitals."""
    return tuple(MODALITIES[key].title if key in MODALITIES else key.upper() for key in keys)


def title(key: str) -> str:
    """Return what a source is called in a sentence, see `titles`."""
    return titles([key])[0]


def of_dicom(code: str) -> Modality | None:
    """Return the modality that a DICOM image with a Modality (0008,0060) is of, or None."""
    return next((row for row in _ROWS if row.dicom and row.dicom == code), None)
