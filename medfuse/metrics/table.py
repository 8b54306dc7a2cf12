"""The one table of metrics: what each is, which way is better, its range, its source, and what it cannot see."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from medfuse.errors import MedfuseError
from medfuse.metrics import (
    anatomy,
    contrast,
    gradients,
    information,
    perceptual,
    phase,
    quantitation,
    restoration,
    structure,
)
from medfuse.metrics.filters import PEAK
from medfuse.metrics.images import Images

Direction = Literal[-1, 0, 1]
_ANY = (-math.inf, math.inf)
_POSITIVE = (0.0, math.inf)
_DB = (0.0, 100.0)


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: As in every output.
        function: Takes `Images` and returns **[B]**. Those that need a residual take that and its sigma; those that
            need regions take reference, estimate and labels, and return **[B, K]**.
        definition: In one line; a and b are the clean sources, f the fused image.
        direction: 1 where higher is better, -1 where lower is, 0 where neither is.
        range: Lowest and highest value.
        reference: Where it comes from.
        blind: What it cannot see, or rewards and should not.
        needs: What must be given beside clean sources and fused image.
    """

    name: str
    function: Callable[..., Tensor]
    definition: str
    direction: Direction
    range: tuple[float, float]
    reference: str
    blind: str
    needs: tuple[str, ...] = ()


def _alone(function: Callable[..., Tensor]) -> Callable[[Images], Tensor]:
    return lambda images: function(images.fused, data_range=PEAK)


def _fusion(function: Callable[..., Tensor], **options: bool) -> Callable[[Images], Tensor]:
    return lambda images: function(*images.sources, images.fused, data_range=PEAK, **options)


def _mean_ms_ssim(images: Images) -> Tensor:
    function = structure.multi_scale_structural_similarity
    first, second = (function(s, images.fused, data_range=PEAK) for s in images.sources)
    return (first + second) / 2


# fmt: off
def _descriptive() -> Iterator[Metric]:
    noise = "rises with noise; knows no source"
    yield Metric("EN", _alone(information.entropy), "entropy of the histogram of f, 256 bins, bits", 0, (0, 8),
                 "Roberts et al. 2008", noise)
    yield Metric("SD", _alone(contrast.standard_deviation), "standard deviation of f, on 0..255", 0, (0, 127.5),
                 "-", noise)
    yield Metric("SF", _alone(contrast.spatial_frequency), "root of mean dx^2 + mean dy^2 of f, on 0..255", 0,
                 (0, PEAK * math.sqrt(2)), "Eskicioglu and Fisher 1995", noise)
    yield Metric("AG", _alone(contrast.average_gradient), "mean of sqrt((gx^2 + gy^2) / 2) of f, on 0..255", 0,
                 (0, PEAK), "Cui et al. 2015", noise)


def _information() -> Iterator[Metric]:
    yield Metric("MI", _fusion(information.mutual_information), "I(a; f) + I(b; f), 256 bins, bits", 1, (0, 16),
                 "Qu et al. 2002", "where values are; a copy of one source scores high")
    yield Metric("QMI", _fusion(information.normalised_mutual_information),
                 "2 I(a; f) / (H(a) + H(f)) + 2 I(b; f) / (H(b) + H(f)), each image stretched", 1, (0, 2),
                 "Hossny et al. 2008", "gain and offset; a copy of one source scores high")
    yield Metric("NCIE", _fusion(information.nonlinear_correlation_information_entropy),
                 "1 + sum l/3 log256(l/3) over the eigenvalues of the matrix of MI / 8, each image stretched", 1,
                 (1 - math.log(3, 256), 1), "Wang et al. 2008", "almost everything: nearly constant")
    yield Metric("CC", _fusion(contrast.correlation_coefficient), "mean of r(a, f) and r(b, f)", 1, (-1, 1), "-",
                 "noise; gain and offset; the average wins")
    yield Metric("SCD", _fusion(contrast.sum_of_correlations_of_differences), "r(f - b, a) + r(f - a, b)", 1, (-2, 2),
                 "Aslantas and Bendes 2015", "noise, mostly; not defined for a copy of a source")
    vif = "pixel-domain VIF, 4 scales, visual noise of variance 2"
    about = ("Sheikh and Bovik 2006", "contrast enhancement counts as gain; the VIFF of Han is another number")
    yield Metric("VIF", lambda i: i.vif[0] + i.vif[1], f"sum over both sources of the {vif}", 1, _POSITIVE, about[0],
                 "a copy of one source wins; " + about[1])
    yield from _per_source("VIF", lambda i, k: i.vif[k], vif, 1, _POSITIVE, *about)


def _edges() -> Iterator[Metric]:
    copy = "a copy of the stronger source wins; punishes mild blur more than noise"
    yield Metric("Qabf", _fusion(gradients.edge_transfer),
                 "preserved strength and orientation of Sobel edges, ratio of sums, as papers quote it", 1, (0, 0.976),
                 "Xydeas and Petrovic 2000", copy + "; orientations are not taken modulo pi")
    yield Metric("QabfW", _fusion(gradients.edge_transfer, wrap=True), "the same with orientations modulo pi", 1,
                 (0, 0.976), "Xydeas and Petrovic 2000", copy)
    yield Metric("QG", _fusion(gradients.gradient_quality),
                 "Q_AB/F of the toolbox: other constants, mean of the ratio at each pixel", 1, (0, 0.987),
                 "Liu et al. 2012", "flat background counts fully; a copy of one source scores high")
    yield from _per_source("edge", lambda i, k: i.edge[k],
                           "correlation of the gradient vectors of source and f on the source's strongest tenth", 1,
                           (-1, 1), "medfuse", "contrast; anything off the strong edges")


def _structure() -> Iterator[Metric]:
    ssim = "SSIM, Gaussian window of 11 x 11, std 1.5"
    about = ("Wang et al. 2004", "offsets where it is bright; colour")
    yield Metric("SSIM", lambda i: (i.ssim[0] + i.ssim[1]) / 2, f"mean over both sources of {ssim}", 1, (-1, 1),
                 about[0], "one source lost and the other copied")
    yield from _per_source("SSIM", lambda i, k: i.ssim[k], ssim, 1, (-1, 1), *about)
    yield Metric("MSSSIM", _mean_ms_ssim, "mean over both sources of SSIM over 5 scales", 1, (0, 1), "Wang et al. 2003",
                 "one source lost and the other copied; fine noise")
    yield Metric("PSNR", _fusion(structure.mean_psnr), "10 log10(255^2 / mean of both squared errors), dB", 1, _DB, "-",
                 "the average wins by construction")
    yield from _per_source("PSNR", lambda i, k: i.psnr[k], "PSNR of f against the source, dB", 1, _DB, "-",
                           "structure; what f took from the other source counts as error")
    yield Metric("QW", _fusion(structure.piella_quality), "SSIM with a and b, weighed by their local variances", 1,
                 (-1, 1), "Piella and Heijmans 2003", "noise; flat regions; a copy of one source wins")
    yield Metric("QY", _fusion(structure.yang_quality), "SSIM with both where a and b agree, else the better", 1,
                 (-1, 1), "Yang et al. 2008", "one source lost where they differ")


def _anatomy() -> Iterator[Metric]:
    hot = "where b, smoothed by 2 px, is above 0.45 of its maximum and a above 0.05; detail is what 3 px leave"
    rows: tuple[tuple[str, str, Direction, tuple[float, float], str], ...] = (
        ("anatomy_corr", f"correlation of the details of a and f {hot}", 1, (-1, 1),
         "contrast; all beyond the hot region; a copy of source 1 wins"),
        ("anatomy_gain", "weight of the detail of a in that of f there, by least squares with b; 1 is right", 0, _ANY,
         "what f has of neither source; a copy of source 1 has 1"),
        ("function_gain", "weight of the detail of b there; 1 is right", 0, _ANY,
         "what f has of neither source; a copy of source 2 has 1"),
    )
    for name, definition, direction, bounds, blind in rows:
        yield Metric(name, partial(_anatomy_value, name=name), definition, direction, bounds, "medfuse", blind)
    yield Metric("uptake_rank", _fusion(anatomy.uptake_rank),
                 "rank correlation of b and f, smoothed by 4 px, where a or b, smoothed by 2 px, is above 0.1", 1,
                 (-1, 1), "Spearman 1904", "any monotone change of contrast; detail; a copy of source 2 wins")


def _anatomy_value(images: Images, name: str) -> Tensor:
    return images.anatomy[name]


def _vision() -> Iterator[Metric]:
    yield Metric("QP", _fusion(phase.phase_congruency_quality),
                 "product of three local correlations of phase congruency and its moments", 1, (-1, 1),
                 "Zhao et al. 2007",
                 "contrast; a copy of one source wins; an empty f beside noise scores near 1; punishes mild blur more "
                 "than noise")
    yield Metric("QCB", _fusion(perceptual.chen_blum_quality), "preserved local contrast after a sensitivity function",
                 1, (0, 1), "Chen and Blum 2009",
                 "gain and offset; depends on the size of the image; on black background rounding decides")
    yield Metric("QCV", _fusion(perceptual.chen_varshney_error),
                 "squared error after a sensitivity function, blocks of 16 x 16, weights gradient^5", -1, _POSITIVE,
                 "Chen and Varshney 2007", "all but a few blocks; a copy of one source wins")


def _restoration() -> Iterator[Metric]:
    both = ("degraded1", "degraded2")
    yield from _per_source("leak", lambda i, k: i.leak[k],
                           "share of the source's degradation error in f: 1 copied, 0 restored", -1, _ANY, "medfuse",
                           "blur, for which it only indicates; below 0 is over-corrected, not better",
                           lambda k: both)
    for k in (0, 1):
        n, s, d, r = k + 1, f"source {k + 1}", f"degraded{k + 1}", f"restored{k + 1}"
        yield Metric(f"d{n}_PSNR", partial(Images.against_source, index=k, kind="degraded"),
                     f"PSNR of the degraded {s}, dB", 0, _DB, "-", "structure", (d,))
        yield Metric(f"r{n}_PSNR", partial(Images.against_source, index=k, kind="restored"),
                     f"PSNR of the restored {s}, dB", 1, _DB, "-", "structure; made-up detail", (r,))
        yield Metric(f"r{n}_SSIM", partial(Images.restored_ssim, index=k), f"SSIM of the restored {s}", 1, (-1, 1),
                     "Wang et al. 2004", "offsets where it is bright; made-up detail", (r,))
    yield from _per_source("gain", Images.gain, "PSNR of the restored source less that of the degraded one, dB", 1,
                           (-100, 100), "medfuse", "structure; made-up detail",
                           lambda k: (f"degraded{k + 1}", f"restored{k + 1}"))
    for name, of in (
        ("Qabf", _fusion(gradients.edge_transfer)),
        ("VIF", lambda i: i.vif[0] + i.vif[1]),
        ("SSIM", lambda i: (i.ssim[0] + i.ssim[1]) / 2),
        ("PSNR_1", lambda i: i.psnr[0]),
        ("PSNR_2", lambda i: i.psnr[1]),
    ):
        yield Metric(f"deg_{name}", _as_degraded(of), f"{name} against the degraded sources", 0,
                     {"Qabf": (0.0, 0.976), "VIF": _POSITIVE, "SSIM": (-1.0, 1.0)}.get(name, _DB), f"as {name}",
                     "restoration: the degradation itself is rewarded", both)


def _as_degraded(function: Callable[[Images], Tensor]) -> Callable[[Images], Tensor]:
    return lambda images: function(images.seen_as_degraded())


def _colour() -> Iterator[Metric]:
    rows: tuple[tuple[str, str, Direction, tuple[float, float], str], ...] = (
        ("dE00", "mean CIEDE2000 difference of f and the coloured source", -1, _POSITIVE,
         "the difference in lightness that fused structure brings counts too; background fills the mean"),
        ("dE00_pet", "the same where the coloured source has a chroma above 10", -1, _POSITIVE,
         "the difference in lightness that fused structure brings counts too"),
        ("dC_abs", "mean absolute difference of chroma there", -1, _POSITIVE, "hue"),
        ("dC_signed", "mean difference of chroma there, f less source", 0, _ANY, "hue; errors cancel"),
        ("dH_deg", "mean difference of hue there, degrees, weighed by the lesser chroma", -1, (0, 180),
         "lightness; colour that was lost altogether"),
        ("leakC", "mean chroma of f where the coloured source has one below 2", -1, _POSITIVE, "coloured regions"),
    )
    for name, definition, direction, bounds, blind in rows:
        yield Metric(name, partial(_colour_value, name=name), definition, direction, bounds, "Sharma et al. 2005",
                     blind, ("colours",))


def _colour_value(images: Images, name: str) -> Tensor:
    return images.colour[name]


def _residuals() -> Iterator[Metric]:
    whole = "what A removes: its null space"
    rows: tuple[tuple[str, str, Direction, tuple[float, float]], ...] = (
        ("chi2", "mean of ((y - A x) / sigma)^2; 1 is right, not lowest nor highest", 0, _POSITIVE),
        ("mean_z", "mean of (y - A x) / sigma, over its std; 0 is right", 0, _ANY),
        ("rho_01", "correlation of neighbours along rows in the residual; 0 is right", 0, (-1, 1)),
        ("rho_10", "the same along columns", 0, (-1, 1)),
        ("rho_11", "the same along the diagonal", 0, (-1, 1)),
        ("low_high_power", "power of the residual below 1/8 over that in 1/4..1/2 cycles per px; 1 is right", 0,
         _POSITIVE),
    )
    for name, definition, direction, bounds in rows:
        yield Metric(name, partial(_residual_value, name=name), definition, direction, bounds,
                     "Almeida and Figueiredo 2013", whole, ("residual",))


def _residual_value(residual: Tensor, sigma: float | Tensor, name: str) -> Tensor:
    return restoration.residual_statistics(residual, sigma)[name]


def _quantities() -> Iterator[Metric]:
    display = "errors that cancel; must be measured on the PET, never on a display"
    yield Metric("total_ratio", quantitation.total_ratio, "total of the estimate over that of the truth; 1 is right", 0,
                 _ANY, "-", "where activity is", ("regions",))
    rows: tuple[tuple[str, str, Direction, tuple[float, float], str], ...] = (
        ("bias_pct", "mean of a region over the true one, less 1, percent; 0 is right", 0, _ANY, display),
        ("max_bias_pct", "maximum of a region over the true one, less 1, percent; 0 is right", 0, _ANY,
         "anything but one voxel; rises with noise"),
        ("rmse_pct", "root of the mean squared error in a region over the true mean, percent", -1, _POSITIVE,
         "bias and noise apart"),
        ("cov_est", "std over mean within a region", -1, _ANY, "bias: smoothing lowers it"),
        ("CRC", "contrast to the background over the true one; 1 is right", 0, _ANY,
         "noise: give it with cov_est"),
        ("CNR_est", "difference of the means of region and background over the background's std", 1, _ANY,
         "bias: smoothing raises it"),
    )
    for name, definition, direction, bounds, blind in rows:
        yield Metric(name, partial(_regional_value, name=name), definition, direction, bounds, "NEMA NU 2", blind,
                     ("regions",))


def _regional_value(
    reference: Tensor, estimate: Tensor, labels: Tensor, *, name: str, background: int | None = None
) -> Tensor:
    return quantitation.regional_quantitation(reference, estimate, labels, background=background)[name]


# fmt: on
def _per_source(
    name: str,
    function: Callable[[Images, int], Tensor],
    definition: str,
    direction: Direction,
    bounds: tuple[float, float],
    reference: str,
    blind: str,
    needs: Callable[[int], tuple[str, ...]] = lambda k: (),
) -> Iterator[Metric]:
    """Give a metric of source 1, of source 2, and the worse of both: the minimum, or the maximum of an error.

    Where one is not defined, the other is the worse.
    """
    for k in (0, 1):
        of_source, words = partial(_of_source, function=function, index=k), f"{definition}, source {k + 1}"
        yield Metric(f"{name}_{k + 1}", of_source, words, direction, bounds, reference, blind, needs(k))
    end = "min" if direction > 0 else "max"
    all_needs = tuple(dict.fromkeys(needs(0) + needs(1)))
    worse = partial(_worse, function=function, pick=torch.fmin if direction > 0 else torch.fmax)
    words = f"the {'lower' if direction > 0 else 'higher'} of {name}_1 and {name}_2"
    yield Metric(f"{name}_{end}", worse, words, direction, bounds, reference, blind, all_needs)


def _of_source(images: Images, function: Callable[[Images, int], Tensor], index: int) -> Tensor:
    return function(images, index)


def _worse(images: Images, function: Callable[[Images, int], Tensor], pick: Callable[..., Tensor]) -> Tensor:
    return pick(function(images, 0), function(images, 1))


def _table() -> dict[str, Metric]:
    fusion = (_structure, _anatomy, _edges, _information, _vision)
    groups = (*fusion, _restoration, _colour, _descriptive, _residuals, _quantities)
    return {metric.name: metric for group in groups for metric in group()}


METRICS: dict[str, Metric] = _table()
"""Every metric by its name."""

PRIMARY = (
    "SSIM_min", "QabfW", "QMI", "QG", "edge_min", "leak_1", "leak_2", "gain_1", "gain_2", "r1_SSIM", "r2_SSIM",
    "dE00_pet", "dH_deg",
)  # fmt: skip
"""The metrics to judge by; the others stand beside them."""


def available(images: Images) -> list[str]:
    """Return the names of the metrics that can be computed of these images."""
    return [m.name for m in METRICS.values() if set(m.needs) <= images.given]


def measure(images: Images, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Compute metrics of a batch.

    Args:
        images: What to judge.
        names: Metrics; by default all that can be computed.

    Returns:
        Each **[B]** float64; NaN where a metric is not defined for a sample.

    Raises:
        MedfuseError: If a metric is unknown, or needs what was not given.
    """
    chosen = [METRICS[name] for name in available(images)] if names is None else [_checked(n, images) for n in names]
    return {metric.name: metric.function(images) for metric in chosen}


def _checked(name: str, images: Images) -> Metric:
    if name not in METRICS:
        raise MedfuseError(f"A metric must be one of {', '.join(METRICS)}, got {name!r}; choose one of them.")
    missing = [need for need in METRICS[name].needs if need not in images.given]
    if missing:
        raise MedfuseError(f"{name} must be given {', '.join(missing)}, got none; give it or leave {name} out.")
    return METRICS[name]
