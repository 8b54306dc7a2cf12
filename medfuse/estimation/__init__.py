"""What nobody stated of a degradation: noise and blur, estimated from the images before anything is restored."""

from medfuse.estimation.auto import KINDS, Estimate, Estimated, estimate, known_specification, records_of
from medfuse.estimation.coloured import ColouredNoise, coloured_noise
from medfuse.estimation.differences import noise_profile
from medfuse.estimation.noise import Readings, kind_of_noise, read_noise

__all__ = [
    "KINDS",
    "ColouredNoise",
    "Estimate",
    "Estimated",
    "Readings",
    "coloured_noise",
    "estimate",
    "kind_of_noise",
    "known_specification",
    "noise_profile",
    "read_noise",
    "records_of",
]
