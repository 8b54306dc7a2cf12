"""Metrics of fusion and restoration.

Each is a pure function on batches **[B, 1, H, W]** with an explicit `data_range`; `METRICS` lists them all with
direction, range, reference and what they cannot see; `measure` computes any of them; `FusionMetric` is MONAI's.
A fusion that copies one source wins many of them: read values per source, their minimum, and the `floors` beside them.
"""

from medfuse.metrics.anatomy import anatomy_in_uptake, uptake_rank
from medfuse.metrics.color import ciede2000, colour_fidelity, rgb_to_lab
from medfuse.metrics.contrast import (
    average_gradient,
    correlation_coefficient,
    spatial_frequency,
    standard_deviation,
    sum_of_correlations_of_differences,
)
from medfuse.metrics.cumulative import FusionMetric
from medfuse.metrics.gradients import edge_preservation, edge_transfer, gradient_quality
from medfuse.metrics.images import Images, floors
from medfuse.metrics.information import (
    entropy,
    mutual_information,
    nonlinear_correlation_information_entropy,
    normalised_mutual_information,
    visual_information_fidelity,
)
from medfuse.metrics.perceptual import chen_blum_quality, chen_varshney_error
from medfuse.metrics.phase import phase_congruency, phase_congruency_quality
from medfuse.metrics.quantitation import regional_quantitation, total_ratio
from medfuse.metrics.restoration import leakage, psnr_gain, residual_statistics
from medfuse.metrics.structure import (
    mean_psnr,
    multi_scale_structural_similarity,
    peak_signal_to_noise_ratio,
    piella_quality,
    structural_similarity,
    yang_quality,
)
from medfuse.metrics.table import METRICS, PRIMARY, Metric, available, measure

__all__ = [
    "METRICS",
    "PRIMARY",
    "FusionMetric",
    "Images",
    "Metric",
    "anatomy_in_uptake",
    "available",
    "average_gradient",
    "chen_blum_quality",
    "chen_varshney_error",
    "ciede2000",
    "colour_fidelity",
    "correlation_coefficient",
    "edge_preservation",
    "edge_transfer",
    "entropy",
    "floors",
    "gradient_quality",
    "leakage",
    "mean_psnr",
    "measure",
    "multi_scale_structural_similarity",
    "mutual_information",
    "nonlinear_correlation_information_entropy",
    "normalised_mutual_information",
    "peak_signal_to_noise_ratio",
    "phase_congruency",
    "phase_congruency_quality",
    "piella_quality",
    "psnr_gain",
    "regional_quantitation",
    "residual_statistics",
    "rgb_to_lab",
    "spatial_frequency",
    "standard_deviation",
    "structural_similarity",
    "sum_of_correlations_of_differences",
    "total_ratio",
    "uptake_rank",
    "visual_information_fidelity",
    "yang_quality",
]
