"""What an image goes through: linear maps with their adjoints, and point-wise powers."""

from medfuse.physics.operators.base import (
    Composition,
    Gamma,
    LinearOperator,
    Mask,
    MissingSlices,
    Operator,
    compose,
)
from medfuse.physics.operators.blur import Downsample, GaussianBlur, Identity, SpectralChain, SpectralOperator
from medfuse.physics.operators.convolution import Convolution, MotionBlur
from medfuse.physics.operators.scanner import ScannerSampling

__all__ = [
    "Composition",
    "Convolution",
    "Downsample",
    "Gamma",
    "GaussianBlur",
    "Identity",
    "LinearOperator",
    "Mask",
    "MissingSlices",
    "MotionBlur",
    "Operator",
    "ScannerSampling",
    "SpectralChain",
    "SpectralOperator",
    "compose",
]
