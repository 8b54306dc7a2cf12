"""Physics: what happened to a source, and what the data still say about it."""

from medfuse.physics.degradation import Degradation, JointDegradation, parse_degradation, sigma_map
from medfuse.physics.models.bind import bind, common_share
from medfuse.physics.models.krylov import KrylovModel
from medfuse.physics.models.source import SourceModel
from medfuse.physics.models.spectral import SpectralModel
from medfuse.physics.noise import AveragedNoise, GaussianNoise, Noise, PoissonNoise, RicianNoise
from medfuse.physics.observation import CORRECTIONS, JointObservation
from medfuse.physics.operators.base import Composition, Gamma, LinearOperator, Mask, MissingSlices, Operator, compose
from medfuse.physics.operators.blur import Downsample, GaussianBlur, Identity, SpectralChain, SpectralOperator
from medfuse.physics.operators.convolution import Convolution, MotionBlur
from medfuse.physics.replication import replicate, unreplicate

__all__ = [
    "CORRECTIONS",
    "AveragedNoise",
    "Composition",
    "Convolution",
    "Degradation",
    "Downsample",
    "Gamma",
    "GaussianBlur",
    "GaussianNoise",
    "Identity",
    "JointDegradation",
    "JointObservation",
    "KrylovModel",
    "LinearOperator",
    "Mask",
    "MissingSlices",
    "MotionBlur",
    "Noise",
    "Operator",
    "PoissonNoise",
    "RicianNoise",
    "SourceModel",
    "SpectralChain",
    "SpectralModel",
    "SpectralOperator",
    "bind",
    "common_share",
    "compose",
    "parse_degradation",
    "replicate",
    "sigma_map",
    "unreplicate",
]
