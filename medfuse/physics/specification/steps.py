"""The steps of a specification: of each kind a row, how it is read, and how training varies it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from medfuse.errors import DegradationError, nearest
from medfuse.physics.degradation import Degradation, Unknown
from medfuse.physics.noise import GaussianNoise, Noise, PoissonNoise, RicianNoise
from medfuse.physics.operators.base import Gamma, LinearOperator
from medfuse.physics.operators.blur import Downsample, GaussianBlur
from medfuse.physics.operators.convolution import MotionBlur
from medfuse.physics.specification.values import AUTO, Context, bounds_of, number_of, numbers_of, one_of, short, take

Parsed = LinearOperator | Noise | Unknown | Gamma
_KINDS = ("gaussian", "poisson", "rician")
_UNKNOWN: Mapping[str, tuple[str, float]] = {"blur": ("sigma_px", 5.0), "noise": ("sigma", 1.0)}
"""What can be estimated: what bounds it, and the largest bound."""


def in_order(steps: Sequence[Parsed], floor: float, source: str) -> Degradation:
    """Build a degradation from its parsed steps, of which the last one alone may be a power."""
    linear = tuple(step for step in steps if not isinstance(step, Gamma))
    powers = [step.gamma for step in steps if isinstance(step, Gamma)]
    if not powers:
        return Degradation(linear, floor)
    if len(powers) > 1 or not isinstance(steps[-1], Gamma):
        raise DegradationError(f"`gamma` of `{source}` must be the last step, got others after it; reorder them.")
    return Degradation(linear, _rounding(powers[0], floor), powers[0])


def _rounding(power: float, floor: float) -> float:
    """Return the root mean square of rounding of std `floor` once a power of values 0..1 was undone.

    A power above 1 leaves few levels to the dark, whose rounding is far from that of the rest.
    """
    step = max(floor, 1e-6) * math.sqrt(12.0)
    x = torch.linspace(0, 1, 10001, dtype=torch.float64)
    return float(((x.pow(power) / step).round().mul(step).pow(1 / power) - x).square().mean().sqrt())


def parse_step(step: Any, context: Context) -> Parsed:
    """Build one step of a source from its name and values."""
    rows = {row.name: row for row in STEPS}
    if not isinstance(step, Mapping) or len(step) != 1:
        raise DegradationError(
            f"a step of `{context.source}` must be one of {sorted(rows)} with its values, got {short(step)}."
        )
    ((kind, values),) = step.items()
    if kind not in rows:
        raise DegradationError(
            f"a step of `{context.source}` must be one of {sorted(rows)}, got {short(kind)}; "
            f"{nearest(str(kind), rows)}."
        )
    if values == AUTO and kind in _UNKNOWN:
        values = {AUTO: None}
    if not isinstance(values, Mapping):
        raise DegradationError(f"the values of `{kind}` of `{context.source}` must be a mapping, got {short(values)}.")
    if AUTO in values and kind in _UNKNOWN:
        return _parse_unknown(cast(Literal["blur", "noise"], kind), dict(values), context)
    return rows[kind].parse(dict(values), context)


def _parse_unknown(name: Literal["blur", "noise"], values: dict[str, Any], context: Context) -> Unknown:
    key, largest = _UNKNOWN[name]
    given = take(values, name, context, auto=..., **({"kind": None} if name == "noise" else {}))
    kind, bounds = given.get("kind"), given[AUTO]
    if kind not in (None, *_KINDS):
        raise DegradationError(f"the noise of `{context.source}` must be {one_of(_KINDS)}, got {short(kind)}.")
    if bounds is None:
        return Unknown(name, kind=kind)
    return Unknown(name, *bounds_of(name, key, bounds, largest, context), kind)


def _parse_blur(values: dict[str, Any], context: Context) -> GaussianBlur:
    given = take(values, "blur", context, sigma_px=None, fwhm_mm=None)
    if (given["sigma_px"] is None) == (given["fwhm_mm"] is None):
        raise DegradationError(
            f"`blur` of `{context.source}` must have either `sigma_px` or `fwhm_mm`, got {short(values)}."
        )
    if given["sigma_px"] is not None:
        return GaussianBlur(numbers_of(given["sigma_px"], "sigma_px", context))
    if context.spacing is None:
        raise DegradationError(
            f"`fwhm_mm` of `{context.source}` must come with a pixel spacing, which these images do not have; "
            "use `sigma_px`."
        )
    return GaussianBlur.from_fwhm(numbers_of(given["fwhm_mm"], "fwhm_mm", context), context.spacing)


def _parse_motion(values: dict[str, Any], context: Context) -> MotionBlur:
    given = take(values, "motion", context, length_px=..., angle_deg=0.0)
    return MotionBlur(*(number_of(given[k], k, context) for k in ("length_px", "angle_deg")))


def _parse_downsample(values: dict[str, Any], context: Context) -> Downsample:
    given = take(values, "downsample", context, factor=..., kind="average")
    factor = given["factor"]
    if not all(type(f) is int for f in (factor if isinstance(factor, list) else [factor])):
        raise DegradationError(
            f"`factor` of `{context.source}` must be an integer or a list of integers, got {short(factor)}."
        )
    numbers_of(factor, "factor", context)
    return Downsample(factor, given["kind"])


def _parse_noise(values: dict[str, Any], context: Context) -> Noise:
    given = take(values, "noise", context, kind="gaussian", sigma=None, counts=None, unit="fraction")
    kind, unit = given["kind"], given["unit"]
    needed = "counts" if kind == "poisson" else "sigma"
    if kind not in _KINDS:
        raise DegradationError(f"the noise of `{context.source}` must be {one_of(_KINDS)}, got {short(kind)}.")
    if given[needed] is None or given["sigma" if kind == "poisson" else "counts"] is not None:
        raise DegradationError(f"{kind} noise of `{context.source}` must have `{needed}` alone, got {short(values)}.")
    if unit not in ("fraction", "input"):
        raise DegradationError(
            f"`unit` of the noise of `{context.source}` must be `fraction` or `input`, got {short(unit)}."
        )
    value = number_of(given[needed], needed, context)
    if not 0 <= value < math.inf:
        raise DegradationError(
            f"`{needed}` of the noise of `{context.source}` must be finite and not negative, got {value:g}."
        )
    if unit == "input":
        return _noise_of_input(kind, value, context)
    if kind == "poisson":
        return PoissonNoise(value)
    if value > 1:
        raise DegradationError(
            f"`sigma` of `{context.source}` must be at most 1, the full range, got {value:g}; "
            "give grey levels as a fraction of 255, a unit as `unit: input`."
        )
    return GaussianNoise(value) if kind == "gaussian" else RicianNoise(value)


def _noise_of_input(kind: str, value: float, context: Context) -> Noise:
    """Build noise from its level in the unit of the source: its std, or the expected events of one unit of it.

    Where the range is infinite, it is not known yet: what can be said without it is.
    """
    if context.scale is None:
        raise DegradationError(
            f"noise of `{context.source}` with `unit: input` must come with the source's range, which is not known "
            "here; give `sigma` as a fraction of full range."
        )
    if kind == "poisson":
        return PoissonNoise(value if math.isinf(context.scale) else value * context.scale)
    if value > context.scale:
        raise DegradationError(
            f"`sigma` of `{context.source}` must be at most the full range of its source, {context.scale:g} in its "
            f"unit, got {value:g} with `unit: input`; state less, or check the unit."
        )
    fraction = value / context.scale
    return GaussianNoise(fraction) if kind == "gaussian" else RicianNoise(fraction)


def _parse_gamma(values: dict[str, Any], context: Context) -> Gamma:
    exponent = number_of(take(values, "gamma", context, exponent=...)["exponent"], "exponent", context)
    if context.scale is not None:
        raise DegradationError(
            f"`gamma` of `{context.source}` must be that of a 2-D image, whose full range is known, got a volume's; "
            "undo the power before, and leave it out."
        )
    if not exponent >= 0.1:
        raise DegradationError(f"`exponent` of `{context.source}` must be at least 0.1, got {exponent:g}.")
    return Gamma(exponent)


def _vary_noise(given: GaussianNoise | PoissonNoise | RicianNoise, factor: Tensor) -> Noise:
    if isinstance(given, PoissonNoise):
        return PoissonNoise(given.counts / factor.square())
    return type(given)(given.sigma * factor)


@dataclass(frozen=True)
class Step:
    """One kind of step of a specification.

    Attributes:
        name: Its name there.
        parse: Builds it from its values.
        makes: What `parse` builds, one of these.
        vary: Returns it with its strength, a std, changed by a factor **[B]** for each sample; None: training leaves it
            as it is.
    """

    name: str
    parse: Callable[[dict[str, Any], Context], Parsed]
    makes: tuple[type, ...]
    vary: Callable[[Any, Tensor], LinearOperator | Noise] | None = None


STEPS = (
    Step("blur", _parse_blur, (GaussianBlur,), lambda given, factor: GaussianBlur(given.sigma * factor[:, None])),
    Step("motion", _parse_motion, (MotionBlur,)),
    Step("downsample", _parse_downsample, (Downsample,)),
    Step("noise", _parse_noise, (GaussianNoise, PoissonNoise, RicianNoise), _vary_noise),
    Step("gamma", _parse_gamma, (Gamma,)),
)
"""All kinds of steps: a new one is a row here and the function that parses it."""


def varied(step: LinearOperator | Noise, factor: Tensor) -> LinearOperator | Noise:
    """Return a step whose strength is changed by a factor **[B]** for each sample; itself where it has no strength."""
    row = next((row for row in STEPS if isinstance(step, row.makes)), None)
    return step if row is None or row.vary is None else row.vary(step, factor)
