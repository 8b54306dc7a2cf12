"""MONAI transforms."""

from medfuse.transforms.bias import BIAS_FIELD, CorrectBiasField, CorrectBiasFieldd
from medfuse.transforms.checks import CheckVolumesd
from medfuse.transforms.intensity import (
    ScaleIntensityAffine,
    ScaleIntensityAffined,
    UnscaleIntensityd,
    inverse_values,
    inverse_values_,
)
from medfuse.transforms.noise import NOISE, MeasureNoised
from medfuse.transforms.prepare import KNOWN, PrepareFusion, case_degradation
from medfuse.transforms.spatial import RegisterRigid, RegisterRigidd, ResampleToReference, ResampleToReferenced

__all__ = [
    "BIAS_FIELD",
    "KNOWN",
    "NOISE",
    "CheckVolumesd",
    "CorrectBiasField",
    "CorrectBiasFieldd",
    "MeasureNoised",
    "PrepareFusion",
    "RegisterRigid",
    "RegisterRigidd",
    "ResampleToReference",
    "ResampleToReferenced",
    "ScaleIntensityAffine",
    "ScaleIntensityAffined",
    "UnscaleIntensityd",
    "case_degradation",
    "inverse_values",
    "inverse_values_",
]
