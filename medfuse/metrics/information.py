"""Information: entropy, mutual information, and the pixel-domain fidelity VIF."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medfuse.metrics.filters import TINY, as_levels, gaussian_window, ratio, smooth, stretch, total

_BINS = 256
_VIF_NOISE = 2.0  # variance of the visual noise, on 0..255
_GRID = 2.0**15  # steps per level to which values are rounded before they are binned


def entropy(fused: Tensor, *, data_range: float) -> Tensor:
    """Return EN, the entropy of the histogram of 256 bins, in bits.

    Args:
        fused: **[B, 1, H, W]**; clipped to its range.
        data_range: Full range of the image.

    Returns:
        **[B]**, 0..8.

    Reference:
        Roberts, van Aardt and Ahmed, Assessment of image fusion procedures using entropy (J. Appl. Remote Sens. 2008).
    """
    (f,) = as_levels(data_range, fused=fused)
    bins = _bins(f)
    counts = torch.stack([torch.bincount(row, minlength=_BINS) for row in bins])
    return _entropy(counts.double() / bins.shape[1])


def mutual_information(source1: Tensor, source2: Tensor, fused: Tensor, *, data_range: float) -> Tensor:
    """Return MI, `I(a; f) + I(b; f)`, from histograms of 256 bins, in bits.

    Args:
        source1: **[B or 1, 1, H, W]**.
        source2: **[B or 1, 1, H, W]**.
        fused: **[B, 1, H, W]**.
        data_range: Full range of the images; what lies beyond is clipped.

    Returns:
        **[B]**, 0..16.

    Reference:
        Qu, Zhang and Yan, Information measure for performance of image fusion (Electron. Lett. 2002).
    """
    a, b, f = as_levels(data_range, source1=source1, source2=source2, fused=fused)
    return _joint(_bins(a), _bins(f))[0] + _joint(_bins(b), _bins(f))[0]


def normalised_mutual_information(source1: Tensor, source2: Tensor, fused: Tensor, *, data_range: float) -> Tensor:
    """Return Q_MI, `2 I(a; f) / (H(a) + H(f)) + 2 I(b; f) / (H(b) + H(f))`, each image stretched to 0..255 first.

    Args:
        source1: **[B or 1, 1, H, W]**.
        source2: **[B or 1, 1, H, W]**.
        fused: **[B, 1, H, W]**.
        data_range: Full range of the images.

    Returns:
        **[B]**, 0..2; a term of which both images are constant is 0.

    Reference:
        Hossny, Nahavandi and Creighton, Comments on "Information measure for performance of image fusion" (2008).
    """
    a, b, f = (_bins(stretch(x)) for x in as_levels(data_range, source1=source1, source2=source2, fused=fused))
    value = f.new_zeros((), dtype=torch.float64)
    for source in (a, b):
        information, of_source, of_fused = _joint(source, f)
        value = value + ratio(2 * information, of_source + of_fused, 0.0)
    return value


def nonlinear_correlation_information_entropy(
    source1: Tensor, source2: Tensor, fused: Tensor, *, data_range: float
) -> Tensor:
    """Return NCIE, `1 + sum l/3 log256(l/3)` over the eigenvalues `l` of the matrix of mutual informations over 8 bits.

    Args:
        source1: **[B or 1, 1, H, W]**.
        source2: **[B or 1, 1, H, W]**.
        fused: **[B, 1, H, W]**.
        data_range: Full range of the images; each is stretched to 0..255 first.

    Returns:
        **[B]**, 0.80..1.

    Reference:
        Wang, Shen and Jin, Performance evaluation of image fusion techniques, in Image Fusion (2008), chapter 19.
    """
    images = [_bins(stretch(x)) for x in as_levels(data_range, source1=source1, source2=source2, fused=fused)]
    batch = max(len(i) for i in images)
    matrix = torch.eye(3, dtype=torch.float64, device=fused.device).repeat(batch, 1, 1)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        matrix[:, i, j] = matrix[:, j, i] = _joint(images[i], images[j])[0] / 8
    share = torch.linalg.eigvalsh(matrix).clamp_min(0) / 3
    return 1 + torch.xlogy(share, share).sum(1) / math.log(_BINS)


def visual_information_fidelity(reference: Tensor, image: Tensor, *, data_range: float) -> Tensor:
    """Return the pixel-domain VIF of an image against one source.

    The VIF of a fusion is the sum over both sources. What the literature of fusion calls VIF, VIFF or VIFP is mostly
    this; the VIFF of Han et al. is another number.

    Args:
        reference: The source, **[B or 1, 1, H, W]**, at least 17 x 17.
        image: **[B, 1, H, W]**.
        data_range: Full range of the images.

    Returns:
        **[B]**, at least 0; 1 for the source itself, above 1 where contrast was enhanced. 1 for a flat source.

    Reference:
        Sheikh and Bovik, Image information and visual quality (TIP 2006); variance of the visual noise 2.
    """
    x, y = as_levels(data_range, 17, reference=reference, image=image)
    kept = known = x.new_zeros(())
    for size in (17, 9, 5, 3):
        window = gaussian_window(size, size / 5)
        if size < 17:
            x, y = (smooth(v, window)[..., ::2, ::2] for v in (x, y))
        if min(x.shape[2:]) < size:
            break
        more, of_all = _scale_information(x, y, window)
        kept, known = kept + more, known + of_all
    return ratio(kept, known.expand_as(kept), 1.0)


def _scale_information(x: Tensor, y: Tensor, window: list[float]) -> tuple[Tensor, Tensor]:
    """Return the information about one scale of the source in the image and in the source itself, **[B]**."""
    mx, my = smooth(x, window), smooth(y, window)
    vx = (smooth(x * x, window) - mx * mx).clamp_min(0)
    vy = (smooth(y * y, window) - my * my).clamp_min(0)
    common = smooth(x * y, window) - mx * my
    gain = common / (vx + TINY)
    rest = vy - gain * common
    blind = (vx < TINY) | (gain < 0)
    rest = torch.where(blind, vy, rest)
    gain = torch.where(blind | (vy < TINY), 0.0, gain)
    rest = torch.where(vy < TINY, 0.0, rest).clamp_min(TINY)
    vx = torch.where(vx < TINY, 0.0, vx)
    in_image = torch.log10(1 + gain * gain * vx / (rest + _VIF_NOISE))
    return total(in_image), total(torch.log10(1 + vx / _VIF_NOISE))


def _bins(x: Tensor) -> Tensor:
    """Round levels to bins **[B, H W]**, half to even.

    Values are rounded to a fine grid first: 100.5 stays a tie when it comes back from 0..1 in float32.
    """
    return ((x * _GRID).round() / _GRID).round().clamp(0, _BINS - 1).long().flatten(1)


def _joint(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mutual information and both entropies in bits, **[B]**, of bins **[B or 1, N]**."""
    x, y = torch.broadcast_tensors(x, y)
    pairs = x * _BINS + y
    counts = torch.stack([torch.bincount(row, minlength=_BINS * _BINS) for row in pairs])
    table = (counts.double() / pairs.shape[1]).reshape(-1, _BINS, _BINS)
    of_x, of_y = _entropy(table.sum(2)), _entropy(table.sum(1))
    return of_x + of_y - _entropy(table.flatten(1)), of_x, of_y


def _entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum(1) / math.log(2)
