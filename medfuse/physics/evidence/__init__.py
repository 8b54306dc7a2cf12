"""What the data prove: of their noise, their blur, an estimate. Each file asks any observation model one thing."""

from medfuse.physics.evidence.bias import bias_of_noise
from medfuse.physics.evidence.blur import allowed_width
from medfuse.physics.evidence.data_alone import data_alone
from medfuse.physics.evidence.fit import Findings, Fitted, common_share, fit
from medfuse.physics.evidence.local_means import settled_in_place
from medfuse.physics.evidence.noise import proven_excess
from medfuse.physics.evidence.slow_waves import settled_slowly

__all__ = [
    "Findings",
    "Fitted",
    "allowed_width",
    "bias_of_noise",
    "common_share",
    "data_alone",
    "fit",
    "proven_excess",
    "settled_in_place",
    "settled_slowly",
]
