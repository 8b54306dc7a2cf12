"""Physics: what happened to a source, and what the data still say about it."""

from medfuse.physics.collaborative import Grain, collaborated_across, grain, is_grainy
from medfuse.physics.corrections import CORRECTIONS, Correction, Cut, Free, Joint, Paper, Prediction, correction
from medfuse.physics.degradation import Degradation, JointDegradation, Unknown, sigma_map
from medfuse.physics.evidence import Findings, Fitted, common_share, data_alone, fit
from medfuse.physics.models.conjugate_gradients import Solution
from medfuse.physics.models.krylov import KrylovModel
from medfuse.physics.models.source import SourceModel
from medfuse.physics.models.spectral import SpectralModel
from medfuse.physics.models.volume import Corrected, VolumeModel
from medfuse.physics.noise import AveragedNoise, GaussianNoise, Noise, PoissonNoise, RicianNoise
from medfuse.physics.observation import Agreement, JointObservation, bind
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
from medfuse.physics.replication import replicate, unreplicate
from medfuse.physics.scanner_noise import ScannerNoise, Whitening
from medfuse.physics.space import Grid
from medfuse.physics.specification import NativeSource, in_plane, native_of, parse_degradation, parse_native

__all__ = [
    "CORRECTIONS",
    "Agreement",
    "AveragedNoise",
    "Composition",
    "Convolution",
    "Corrected",
    "Correction",
    "Cut",
    "Degradation",
    "Downsample",
    "Findings",
    "Fitted",
    "Free",
    "Gamma",
    "GaussianBlur",
    "GaussianNoise",
    "Grain",
    "Grid",
    "Identity",
    "Joint",
    "JointDegradation",
    "JointObservation",
    "KrylovModel",
    "LinearOperator",
    "Mask",
    "MissingSlices",
    "MotionBlur",
    "NativeSource",
    "Noise",
    "Operator",
    "Paper",
    "PoissonNoise",
    "Prediction",
    "RicianNoise",
    "ScannerNoise",
    "ScannerSampling",
    "Solution",
    "SourceModel",
    "SpectralChain",
    "SpectralModel",
    "SpectralOperator",
    "Unknown",
    "VolumeModel",
    "Whitening",
    "bind",
    "collaborated_across",
    "common_share",
    "compose",
    "correction",
    "data_alone",
    "fit",
    "grain",
    "in_plane",
    "is_grainy",
    "native_of",
    "parse_degradation",
    "parse_native",
    "replicate",
    "sigma_map",
    "unreplicate",
]
