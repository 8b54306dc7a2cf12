"""MONAI inferers: bind, fit, sample, finish. For batches of slices, and for volumes slice by slice."""

from medfuse.inferers.settings import LIMIT, Settings, uses_bfloat16
from medfuse.inferers.slices import FusionInferer, as_degradation
from medfuse.inferers.volumes import VolumeFusionInferer

__all__ = ["LIMIT", "FusionInferer", "Settings", "VolumeFusionInferer", "as_degradation", "uses_bfloat16"]
