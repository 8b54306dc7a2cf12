"""`auto`: what nobody stated of a degradation, estimated from the images and put in the place of what is unknown.

A blur that is overstated rings, and noise that is not there is taken out of the image. So the cautious part of an
estimate is stated, and where an image does not tell, nothing: it is then treated as if it had been stated as it is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from medfuse.errors import DegradationError, nearest
from medfuse.estimation.blur import PRIORS, band_power, noiseless_blur, widest_blur, width_of_blur
from medfuse.estimation.differences import smoothed
from medfuse.estimation.noise import Kind, Readings, counts_of, kind_of_noise, read_noise
from medfuse.physics import (
    Degradation,
    Downsample,
    GaussianBlur,
    GaussianNoise,
    JointDegradation,
    LinearOperator,
    Noise,
    PoissonNoise,
    RicianNoise,
    Unknown,
    compose,
)
from medfuse.physics.specification import AUTO, SPEC_VERSION
from medfuse.threads import side_by_side

KINDS = tuple(PRIORS)
"""What an image may be: it says how its spectrum falls where it is sharp."""

_SOURCES = ("source1", "source2")
_LEAST_NOISE = 3.5 / 255  # of full range: less is an image's own grain as often as not, and hardly worth its removal
_SHOWN = 1 / 255  # of full range: no rounding any more
_GRAIN = {"visible": _LEAST_NOISE, "function": _LEAST_NOISE}  # what is not stated with what was added to it
_LEAST_REDUCED = 6 / 255  # of images that were reduced after it: their grain counts so many times
_LEAST_BLUR, _SURE_BLUR = 1.0, 0.6  # px, from which a blur is stated, if its interval begins here or later
_NOISELESS = 0.5 / 255  # of full range: the rounding of a blurred image reads half of it
_SURE = 0.98  # share that is stated of the width of an MRI without noise
_TEXTURE, _FAINT_TEXTURE = 1.35, 1.22  # fastest waves over patches, above which an image has grain, and no white noise
_FAINT = 10 / 255  # of full range, below which grain may be the most of what is found: there less of it is enough
_EDGED_TEXTURE = 1.2  # differences over patches, likewise, where burnt edges hide the waves: noisy CTs have up to 1.13
_COLOURED = 0.5  # fastest waves over differences of neighbours, below which neighbours share their noise
_MISFIT = 2.1  # of the log of the power in any band: 46 blurred MRIs have up to 2, photographs up to 0.5
_TIGHT = 0.72  # likewise of MRIs without noise: 72, blurred by 0.9 to 3 px, have up to 0.7, interpolated ones from 0.7
_WHITE, _EMPTY = 1.2, 8.0  # of the log by which the floor of a spectrum differs: white noise 0.7, nothing 14
_SLICES, _LEAST_SIDE = 12, 48  # slices of a volume that are looked at; px along each side of one
_SIDE = 512  # px: of a larger image the middle is looked at
_NOT_FROM_ITSELF = (
    "the spectrum of a functional image tells nothing of its blur: smooth uptake and blurred uptake look alike; "
    "measure the PSF with a line source, or take it from the scanner's data sheet, and state it"
)


@dataclass(frozen=True)
class Estimate:
    """What was found of one unknown step of a source.

    Attributes:
        step: `blur` or `noise`.
        value: Width of the blur, px; std of the noise, fraction of full range, of counts their expected number at full
            range; None where the image does not tell.
        interval: Of about 90 %, in that unit.
        kind: Of the noise: `gaussian`, `rician` or `poisson`.
        stated: The step that takes its place, as in a specification; None for nothing.
        rests_on: The evidence, in words.
        refused: Why nothing is stated; empty where something is.
    """

    step: str
    value: float | None = None
    interval: tuple[float, float] | None = None
    kind: str | None = None
    stated: dict[str, Any] | None = None
    rests_on: str = ""
    refused: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """The same as JSON."""
        return asdict(self) | {"interval": list(self.interval) if self.interval else None}


class Estimated(NamedTuple):
    """A degradation without unknown steps, and what was found of each that was one, by source."""

    degradation: JointDegradation
    estimates: tuple[tuple[Estimate, ...], tuple[Estimate, ...]]


def estimate(
    stated: JointDegradation,
    image: Tensor,
    kinds: Sequence[str],
    *,
    cut: bool = True,
    across: int | None = None,
) -> Estimated:
    """Estimate what is unknown of the degradations of one pair of images, or of volumes.

    Args:
        stated: What is said to have happened to each source.
        image: Both sources on one grid, **[2, H, W]**, or **[2, X, Y, Z]**; a low-resolution source is replicated.
        kinds: What each source is, one of `KINDS`.
        cut: Whether values above 1 were cut, as in an image of 8 bit.
        across: Axis of a volume across which its slices lie: an estimate is one of all slices.

    Raises:
        DegradationError: A kind is none of `KINDS`.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise DegradationError(
                f"an image that is estimated must be one of {', '.join(KINDS)}, got {kind!r}; {nearest(kind, KINDS)}."
            )
    slices = image[:, None] if across is None else image.movedim(across + 1, 1)

    def found_of(given: tuple[Degradation, Tensor, str]) -> tuple[Degradation, tuple[Estimate, ...]]:
        return _source(*given, 1.0 if cut else math.inf, volume=across is not None)

    with torch.no_grad():
        found = list(side_by_side(found_of, list(zip(stated, slices, kinds, strict=True))))
    return Estimated(JointDegradation(found[0][0], found[1][0]), (found[0][1], found[1][1]))


def known_specification(spec: Mapping[str, Any] | str, estimates: Sequence[Sequence[Estimate]]) -> dict[str, Any]:
    """Return a specification with what was found in the place of what is unknown.

    Args:
        spec: The specification, as `medfuse.physics.parse_degradation` takes it.
        estimates: What was found, by source, see `Estimated`.
    """
    known: dict[str, Any] = {"version": SPEC_VERSION} | ({} if isinstance(spec, str) else dict(spec))
    for name, found in zip(_SOURCES, estimates, strict=True):
        steps = AUTO if isinstance(spec, str) else spec.get(name) or []
        every = iter(found)
        known[name] = [{kind: made} for kind, values in _written(steps) if (made := _made(values, every)) is not None]
    return known


def records_of(estimates: Sequence[Sequence[Estimate]]) -> dict[str, list[dict[str, Any]]]:
    """Return estimates as JSON, by source."""
    return {name: [e.record for e in found] for name, found in zip(_SOURCES, estimates, strict=True)}


def _written(steps: Any) -> list[tuple[str, Any]]:
    return [("blur", AUTO), ("noise", AUTO)] if steps == AUTO else [item for step in steps for item in step.items()]


def _made(values: Any, every: Iterator[Estimate]) -> Any:
    unknown = values == AUTO or (isinstance(values, Mapping) and AUTO in values)
    return next(every).stated if unknown else values


def _source(
    part: Degradation, source: Tensor, kind: str, top: float, *, volume: bool
) -> tuple[Degradation, tuple[Estimate, ...]]:
    """Estimate what is unknown of one source, slices **[N, H, W]**."""
    if not part.unknown:
        return part, ()
    data = part.observed(_fullest(source)[:, None].cpu())[:, 0].double().numpy()
    slices = [_middle(y) for y in data]
    large = min(slices[0].shape) >= _LEAST_SIDE
    means = [smoothed(y) for y in slices] if large and (kind != "function" or not volume) else []
    readings = _common_readings(slices, means, top) if means else _UNREAD
    steps: list[LinearOperator | Noise] = []
    estimates = []
    for i, step in enumerate(part.steps):
        if not isinstance(step, Unknown):
            steps.append(step)
            continue
        after = [s for s in part.steps[i + 1 :] if isinstance(s, LinearOperator)]
        beside = [s for s in part.steps if isinstance(s, LinearOperator)]
        built: LinearOperator | Noise | None = None
        if kind == "function" and (volume or step.name == "blur"):
            found = Estimate(step.name, refused=_NOT_FROM_ITSELF if step.name == "blur" else _SHARED)
        elif not large:
            found = Estimate(step.name, refused=f"the image must have {_LEAST_SIDE} px a side to tell")
        elif step.name == "noise":
            built, found = _noise(
                step, slices, means, readings, compose(*reversed(after)) if after else None, _GRAIN.get(kind, 0.0)
            )
        else:
            built, found = _blur(step, slices, readings, beside, kind, part.floor)
        steps += [] if built is None else [built]
        estimates.append(found)
    return replace(part, steps=tuple(steps)), tuple(estimates)


_SHARED = (
    "the noise of a reconstructed volume is shared by neighbours and may grow with its values, and the model of a "
    "slice knows white noise alone; interpolated to a finer grid, 1 to 9 % of its standard deviation is seen"
)


def _fullest(source: Tensor) -> Tensor:
    """Return up to 12 slices of a volume, evenly spread over those that show the most."""
    if len(source) == 1:
        return source
    shown = (source > 0.1 * source.amax()).flatten(1).double().mean(1)
    full = torch.nonzero(shown >= 0.5 * shown.max())[:, 0]
    return source[full[torch.linspace(0, len(full) - 1, min(_SLICES, len(full))).round().long()]]


def _middle(image: np.ndarray) -> np.ndarray:
    rows, columns = (slice((n - min(n, _SIDE)) // 2, (n + min(n, _SIDE)) // 2) for n in image.shape)
    return image[rows, columns]


_UNREAD = Readings(math.nan, math.nan, math.nan)


def _common_readings(slices: Sequence[np.ndarray], means: Sequence[np.ndarray], top: float) -> Readings:
    every = [read_noise(y, top, mean) for y, mean in zip(slices, means, strict=True)]
    return Readings(*(_median(v) for v in zip(*every, strict=True)))


def _noise(
    unknown: Unknown,
    slices: Sequence[np.ndarray],
    means: Sequence[np.ndarray],
    readings: Readings,
    after: LinearOperator | None,
    grain: float,
) -> tuple[Noise | None, Estimate]:
    """Estimate white noise, or where later steps have coloured it, what differences of neighbours leave of it.

    Variances add: that of the image's own grain is taken from the one found before it is stated, so that the grain is
    not taken out with the noise.
    """
    gain = 1.0 if after is None else _left(after, slices[0].shape)
    read = [v for v in (readings if after is None else readings[:1]) if math.isfinite(v)]
    if not read:
        return None, Estimate("noise", refused="too little of the image is foreground")
    level = float(np.median(read))
    rests = f"second differences {_grey(readings.differences)}"
    if after is None:
        rests += f", patches {_grey(readings.patches)}, fastest waves {_grey(readings.waves)}"
    else:
        rests += f", of which the later steps leave {gain:.0%}"
    rests += " of 255"
    if after is None and readings.differences > _SHOWN and readings.waves < _COLOURED * readings.differences:
        why = "its fastest waves are empty: the image was interpolated or filtered; give it on the grid it was made on"
        return None, Estimate("noise", rests_on=rests, refused=why)
    spread = 0.04 + min((abs(v / level - 1) for v in read if v != level), default=0.06) if level else 0.1
    std = min(max(level / gain, unknown.least), unknown.most)
    least = _LEAST_NOISE if after is None else _LEAST_REDUCED
    why = ""
    if min(read) / gain <= least:
        why = f"less than {_grey(least)} of 255 may be the grain of the image itself, and costs little"
    elif after is None and _is_grainy(readings, level):
        why = (
            "the image is grainy: what is fast in it is far stronger than its flat parts show, as of texture, not of "
            "white noise; state it to have it taken out"
        )
    if (why and unknown.least == 0) or not std:
        return None, Estimate("noise", std, _around(std, spread), "gaussian", None, rests, why)
    seen = list(zip(slices, means, strict=True))
    kind = Kind("gaussian") if after is not None else _common([kind_of_noise(y, level, mean) for y, mean in seen])
    name = unknown.kind or kind.name
    rests += f"; {kind.told}" if after is None and unknown.kind is None else ""
    counts = _median([counts_of(y) for y in slices]) if name == "poisson" else math.nan
    share = 1.0 if after is not None else math.sqrt(max(1 - (grain / std) ** 2, 0.0))
    if counts > 0:
        found, stated = (1 / min(max(s / math.sqrt(counts), unknown.least), unknown.most) ** 2 for s in (1.0, share))
        told = {"kind": name, "counts": stated}
        return PoissonNoise(stated), Estimate("noise", found, _around(found, 2 * spread), name, told, rests)
    name = "gaussian" if name == "poisson" else name
    stated = max(share * std, unknown.least)
    told = {"kind": name, "sigma": stated}
    made = (RicianNoise if name == "rician" else GaussianNoise)(stated)
    return made, Estimate("noise", std, _around(std, spread), name, told, rests)


def _is_grainy(readings: Readings, level: float) -> bool:
    """Tell whether what is fast is far stronger than flat parts show."""
    if math.isnan(readings.waves):
        return readings.differences > _EDGED_TEXTURE * readings.patches
    return readings.waves > (_FAINT_TEXTURE if level < _FAINT else _TEXTURE) * readings.patches


def _blur(
    unknown: Unknown,
    slices: Sequence[np.ndarray],
    readings: Readings,
    beside: Sequence[LinearOperator],
    kind: str,
    floor: float,
) -> tuple[LinearOperator | None, Estimate]:
    """Estimate a Gaussian blur, in pixels of the image; of a reduced one, in pixels that are so many times larger."""
    prior = PRIORS[kind]
    if prior is None:
        return None, Estimate("blur", refused=_NOT_FROM_ITSELF)
    if not all(isinstance(step, Downsample) for step in beside):
        return None, Estimate("blur", refused="another blur is stated beside it, and a spectrum shows both as one")
    factor = math.prod(float(step.in_spatial((1,))[0]) for step in beside)
    bands = [band_power(y) for y in slices]
    power = np.mean([b.power for b in bands], axis=0)
    width = width_of_blur(bands[0]._replace(power=power), prior, floor**2)
    low, middle, high = (factor * w for w in (width.low, width.middle, width.high))
    rests = (
        f"the fall of the spectrum, compared with that of sharp images of its kind ({kind}: r^-{prior.mean:.1f} "
        f"+- {prior.std:.1f})"
    )
    noiseless, most = False, math.inf
    if kind == "anatomy" and not beside and readings.differences <= _NOISELESS and middle >= _LEAST_BLUR:
        widest = _median([v for y in slices if (v := widest_blur(y, middle, floor**2)) is not None])
        noiseless, (after, most) = True, noiseless_blur(middle, widest)
        low, middle, high = low * after / middle, after, high * after / middle
        if math.isfinite(widest):
            rests += f"; beside black the log of the image bends as after at most {widest:.2f} px"
    value = min(max(middle, unknown.least), unknown.most)
    found = Estimate("blur", value, (low, high), rests_on=rests)
    if unknown.least == 0:
        if width.misfit > (_TIGHT if noiseless else _MISFIT) or _WHITE < width.floor < _EMPTY:
            why = "the spectrum is not that of a Gaussian blur: interpolation, sharpening or motion shows in it"
            return None, replace(found, refused=why)
        if value < _LEAST_BLUR * factor or low < _SURE_BLUR * factor:
            why = f"less than {_LEAST_BLUR * factor:.2g} px is what a sharp image may show"
            return None, replace(found, refused=why)
    beyond = math.sqrt(max(value**2 - (factor * prior.own) ** 2, 0.0))
    stated = max(min(_SURE * value, most) if noiseless else prior.stated * beyond, unknown.least)
    return GaussianBlur(stated), replace(found, stated={"sigma_px": stated})


def _left(after: LinearOperator, shape: Sequence[int]) -> float:
    """Return which share of the std of white noise the differences of neighbours show after a linear step."""
    noise = torch.randn(1, 1, *after.in_spatial(shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return read_noise(after.forward(noise)[0, 0].numpy() + 100, math.inf).differences


def _common(kinds: Sequence[Kind]) -> Kind:
    """Return the kind that most slices show."""
    (name, _), *_ = Counter(kind.name for kind in kinds).most_common(1)
    return next(kind for kind in kinds if kind.name == name)


def _around(value: float, spread: float) -> tuple[float, float]:
    return value * max(1 - spread, 0.0), value * (1 + spread)


def _median(values: Sequence[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return float(np.median(finite)) if finite else math.nan


def _grey(value: float) -> str:
    return "not known" if math.isnan(value) else f"{255 * value:.1f}"
