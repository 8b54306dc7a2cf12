"""The specification of a degradation: one list of steps per source, in the order in which they happened.

version: 1
source1:                                    # MRI or visible
  - blur: {sigma_px: 2.0}                   # or {fwhm_mm: 6.0}; one number, or one per axis
  - noise: {kind: gaussian, sigma: 0.0314}  # fraction of the source's full range, or `unit: input`
source2:                                    # PET or infrared
  - downsample: {factor: 2, kind: bicubic}  # average (default) or bicubic
  - motion: {length_px: 9, angle_deg: 30}
  - noise: {kind: poisson, counts: 60}      # expected events at full range; or {kind: rician, sigma: 0.04}
  - gamma: {exponent: 0.8}                  # a power of the values, last of all

What nobody knows is estimated from the images, see `medfuse.estimation`: `auto` stands for a blur, for noise, for both
of a source (`source2: auto`), or for both of both sources (`auto` alone). It may be bounded:

  - blur: {auto: {sigma_px: [0, 3]}}
  - noise: {kind: rician, auto: {sigma: [0, 0.1]}}
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from medfuse.errors import DegradationError, nearest
from medfuse.physics.degradation import QUANTIZATION, Degradation, JointDegradation, Unknown
from medfuse.physics.noise import GaussianNoise, Noise, PoissonNoise, RicianNoise
from medfuse.physics.operators.base import Gamma, LinearOperator
from medfuse.physics.operators.blur import Downsample, GaussianBlur
from medfuse.physics.operators.convolution import MotionBlur
from medfuse.physics.scanner_noise import ScannerNoise

SPEC_VERSION = 1
_WIDEST_PSF = 20.0  # mm, beyond all scanners
Parsed = LinearOperator | Noise | Unknown | Gamma
AUTO = "auto"  # stands for what is to be estimated
_KINDS = ("gaussian", "poisson", "rician")
_KEYS = ("version", "name", "description", "source1", "source2")
_MOST_LETTERS = 1000  # of a name or a description, which are copied into records
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother, _REPR.maxlist, _REPR.maxdict = 4, 100, 100, 10, 10

# Beyond all images: a slip of the pen must not become a kernel that fills the memory.
_MOST = {"sigma_px": 1e3, "fwhm_mm": 1e3, "length_px": 1e4, "angle_deg": 360.0, "factor": 64, "exponent": 10.0}


def parse_degradation(
    spec: Mapping[str, Any] | str | None,
    *,
    spacing: Sequence[Sequence[float]] | None = None,
    scale: Sequence[float] | None = None,
    floor: float = QUANTIZATION,
) -> JointDegradation:
    """Build the degradations of both sources from their specification.

    Args:
        spec: The mapping shown at the top of this module; `auto`; None means none.
        spacing: Pixel spacing in mm along the spatial axes, one sequence per source; needed for `fwhm_mm`.
        scale: Full range of each source in its own unit; needed for `unit: input`. Infinity: to be known later.
        floor: Noise floor of both sources, fraction of full range.

    Raises:
        DegradationError: Unknown version, source, step or key; a missing or impossible value.
    """
    if spec is None:
        return JointDegradation(Degradation(floor=floor), Degradation(floor=floor))
    if spec == AUTO:
        spec = {"version": SPEC_VERSION, "source1": AUTO, "source2": AUTO}
    if not isinstance(spec, Mapping):
        raise DegradationError(
            f"a degradation must be a mapping with `version`, `source1`, `source2`, got {_short(spec)}."
        )
    if spec.get("version") != SPEC_VERSION:
        raise DegradationError(f"`version` of a degradation must be {SPEC_VERSION}, got {_short(spec.get('version'))}.")
    for key, value in spec.items():
        if key not in _KEYS:
            raise DegradationError(
                f"a degradation must have no other keys than {', '.join(_KEYS)}, got {_short(key)}; "
                f"{nearest(str(key), _KEYS)}."
            )
        if key in ("name", "description") and not (isinstance(value, str) and len(value) <= _MOST_LETTERS):
            raise DegradationError(
                f"`{key}` of a degradation must be a text of at most {_MOST_LETTERS} letters, got {_short(value)}; "
                "change it."
            )
    sources = []
    for i, name in enumerate(("source1", "source2")):
        steps = spec.get(name) or []
        if isinstance(steps, Mapping) and "grid" in steps:  # a PET as its scanner measured it
            raise DegradationError(
                f"`grid: native` must be of source 2 of a pair of volumes with the grid of source 1, got `{name}`; "
                "state its steps as a list here."
            )
        steps = [{"blur": AUTO}, {"noise": AUTO}] if steps == AUTO else steps
        if not isinstance(steps, Sequence) or isinstance(steps, str):
            raise DegradationError(f"`{name}` must be a list of steps, or `{AUTO}`, got {_short(steps)}.")
        context = _Context(name, None if spacing is None else spacing[i], None if scale is None else scale[i])
        sources.append(_in_order([_parse_step(step, context) for step in steps], floor, name))
    return JointDegradation(*sources)


class NativeSource(NamedTuple):
    """A PET as its scanner measured it.

    Attributes:
        psf_fwhm_mm: Full width at half maximum of the PSF along each axis of its grid, mm; None: to be measured.
        noise: Its noise, in its unit; None: to be measured.
        psf_bounds_mm: Between which widths a PSF that is measured lies along each axis.
    """

    psf_fwhm_mm: tuple[float, float, float] | None
    noise: ScannerNoise | None
    psf_bounds_mm: tuple[float, float] = (0.0, math.inf)


def native_of(spec: Any) -> Mapping[str, Any] | None:
    """Return what a specification says of a source 2 on its scanner's own grid; None where it says nothing of it."""
    steps = spec.get("source2") if isinstance(spec, Mapping) else None
    return steps if isinstance(steps, Mapping) and "grid" in steps else None


def in_plane(spec: Any) -> Any:
    """Return a specification without a source 2 on its scanner's own grid, whose restoration is not slice by slice."""
    return spec if native_of(spec) is None else {**spec, "source2": []}


def parse_native(values: Mapping[str, Any], *, source: str = "source2", scale: float | None = None) -> NativeSource:
    """Read what is said of a volume on its scanner's own grid.

    `{grid: native, psf: {fwhm_mm: [6, 6, 5]}, noise: {kind: poisson, sigma: 0.1, unit: input, fwhm_mm: [5, 5, 4]}}`

    Args:
        values: As above; `psf` and `noise` are `auto` where left out. `sigma` of Poisson-like noise is the std where
            the signal is one unit, of the file with `unit: input`, of full range with `fraction`, the default; `growth`
            its power of the signal, by default 0.5; of `kind: table`, `sigma` is a list, the std at each of `signal`.
            `fwhm_mm` of noise, by default 0: white. One number: of all axes. A PSF that is to be measured may be
            bounded: `psf: {auto: {fwhm_mm: [4, 8]}}`.
        source: Its name, for errors.
        scale: Full range of the source in its unit; needed for `unit: fraction`.

    Raises:
        DegradationError: A key that is unknown or missing, a value that makes no sense.
    """
    context = _Context(source, None, scale)
    if not isinstance(values, Mapping):
        raise DegradationError(f"`{source}` on its own grid must be a mapping, got {_short(values)}.")
    given = _take(dict(values), source, context, grid=..., psf=AUTO, noise=None)
    if given["grid"] != "native":
        raise DegradationError(f"`grid` of `{source}` must be `native`, got {_short(given['grid'])}; write it so.")
    for name in ("psf", "noise"):
        if name in values and given[name] != AUTO and not isinstance(given[name], Mapping):
            raise DegradationError(f"`{name}` of `{source}` must be a mapping or `{AUTO}`, got {_short(given[name])}.")
    unknown = given["psf"] == AUTO or AUTO in given["psf"]
    psf = None if unknown else _psf(dict(given["psf"]), context)
    bounds = _psf_bounds(dict(given["psf"]), context) if unknown and given["psf"] != AUTO else (0.0, math.inf)
    if given["noise"] in (None, AUTO):
        return NativeSource(psf, None, bounds)
    stated = {"kind": "gaussian", "sigma": ..., "unit": "fraction", "fwhm_mm": 0.0, "growth": None, "signal": None}
    noise = _take(dict(given["noise"]), "noise", context, **stated)
    if noise["unit"] not in ("fraction", "input"):
        unit = _short(noise["unit"])
        raise DegradationError(f"`unit` of noise of `{source}` must be `fraction` or `input`, got {unit}; change it.")
    numbers = {k: None if noise[k] is None else _numbers(noise[k], k, context) for k in ("sigma", "growth", "signal")}
    found = ScannerNoise.stated(noise["kind"], fwhm_mm=_per_axis(noise["fwhm_mm"], context), **numbers)
    if noise["unit"] == "input":
        return NativeSource(psf, found, bounds)
    if scale is None or not 0 < scale < math.inf:
        raise DegradationError(
            f"noise of `{source}` with `unit: fraction` must come with the source's range, which is not known here; "
            "use `unit: input`."
        )
    return NativeSource(psf, found.scaled(1 / scale), bounds)


def _psf(values: dict[str, Any], context: _Context) -> tuple[float, float, float]:
    psf = _per_axis(_take(values, "psf", context, fwhm_mm=...)["fwhm_mm"], context)
    if min(psf) <= 0 or max(psf) > _WIDEST_PSF:
        raise DegradationError(
            f"`fwhm_mm` of the psf of `{context.source}` must be above 0 and at most {_WIDEST_PSF:g} mm, got "
            f"{_short(list(psf))}; check the unit."
        )
    return psf


def _psf_bounds(values: dict[str, Any], context: _Context) -> tuple[float, float]:
    given = _take(values, "psf", context, auto=...)[AUTO]
    return _bounds("psf", "fwhm_mm", given, _WIDEST_PSF, context)


def _per_axis(value: Any, context: _Context) -> tuple[float, float, float]:
    numbers = _numbers(value, "fwhm_mm", context)
    several = numbers if isinstance(numbers, list) else [numbers] * 3
    if len(several) != 3 or not all(math.isfinite(v) for v in several):
        raise DegradationError(
            f"`fwhm_mm` of `{context.source}` on its own grid must be one finite number or three, got {_short(value)}."
        )
    return several[0], several[1], several[2]


@dataclass(frozen=True)
class _Context:
    source: str
    spacing: Sequence[float] | None
    scale: float | None


def _in_order(steps: Sequence[Parsed], floor: float, source: str) -> Degradation:
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


def _parse_step(step: Any, context: _Context) -> Parsed:
    rows = {row.name: row for row in STEPS}
    if not isinstance(step, Mapping) or len(step) != 1:
        raise DegradationError(
            f"a step of `{context.source}` must be one of {sorted(rows)} with its values, got {_short(step)}."
        )
    ((kind, values),) = step.items()
    if kind not in rows:
        raise DegradationError(
            f"a step of `{context.source}` must be one of {sorted(rows)}, got {_short(kind)}; "
            f"{nearest(str(kind), rows)}."
        )
    if values == AUTO and kind in _UNKNOWN:
        values = {AUTO: None}
    if not isinstance(values, Mapping):
        raise DegradationError(f"the values of `{kind}` of `{context.source}` must be a mapping, got {_short(values)}.")
    if AUTO in values and kind in _UNKNOWN:
        return _parse_unknown(cast(Literal["blur", "noise"], kind), dict(values), context)
    return rows[kind].parse(dict(values), context)


_EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+")  # what YAML 1.1 leaves a text, such as 1e-3, as it has no dot
_UNKNOWN: Mapping[str, tuple[str, float]] = {"blur": ("sigma_px", 5.0), "noise": ("sigma", 1.0)}
"""What can be estimated: what bounds it, and the largest bound."""


def _parse_unknown(name: Literal["blur", "noise"], values: dict[str, Any], context: _Context) -> Unknown:
    key, largest = _UNKNOWN[name]
    given = _take(values, name, context, auto=..., **({"kind": None} if name == "noise" else {}))
    kind, bounds = given.get("kind"), given[AUTO]
    if kind not in (None, *_KINDS):
        raise DegradationError(f"the noise of `{context.source}` must be {_one_of(_KINDS)}, got {_short(kind)}.")
    if bounds is None:
        return Unknown(name, kind=kind)
    return Unknown(name, *_bounds(name, key, bounds, largest, context), kind)


def _bounds(name: str, key: str, bounds: Any, largest: float, context: _Context) -> tuple[float, float]:
    """Return the least and the most that an estimate may be."""
    if not isinstance(bounds, Mapping) or set(bounds) != {key}:
        raise DegradationError(
            f"the bounds of the `{AUTO}` of `{name}` of `{context.source}` must be a mapping {{{key}: [least, most]}}, "
            f"got {_short(bounds)}."
        )
    pair = _numbers(bounds[key], key, context)
    if not isinstance(pair, list) or len(pair) != 2 or not 0 <= pair[0] <= pair[1] <= largest:
        raise DegradationError(
            f"the bounds of `{key}` of `{context.source}` must be [least, most], ascending, from 0 to {largest:g}, got "
            f"{_short(bounds[key])}."
        )
    return pair[0], pair[1]


def _one_of(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _short(value: Any) -> str:
    """Return a value as text, cut where it is long."""
    return _REPR.repr(value)


def _take(values: dict[str, Any], name: str, context: _Context, **fields: Any) -> dict[str, Any]:
    """Return the fields with their defaults replaced by the given values; `...` marks a required one."""
    unknown = sorted(map(str, set(values) - set(fields)))
    missing = sorted(k for k, default in fields.items() if default is ... and k not in values)
    if unknown or missing:
        remedy = nearest(unknown[0], fields) if unknown else f"add {missing[0]}"
        raise DegradationError(
            f"`{name}` of `{context.source}` must have the values {sorted(fields)}, got "
            f"{_short(sorted(map(str, values)))}; unknown: {_short(unknown)}, missing: {missing}; {remedy}."
        )
    return {**fields, **values}


def _numbers(value: Any, name: str, context: _Context) -> float | list[float]:
    several = value if isinstance(value, (list, tuple)) else [value]
    try:
        numbers = [float(v) for v in several]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    texts = [v for v in several if isinstance(v, str | bytes) and not (isinstance(v, str) and _EXPONENT.fullmatch(v))]
    if not numbers or texts or any(isinstance(v, bool) for v in several):
        text = ", a text; write it without quotes" if texts else ""
        raise DegradationError(f"`{name}` of `{context.source}` must be a number, got {_short(value)}{text}.")
    if max(map(abs, numbers)) > _MOST.get(name, math.inf):
        raise DegradationError(f"`{name}` of `{context.source}` must be at most {_MOST[name]:g}, got {_short(value)}.")
    return numbers if isinstance(value, (list, tuple)) else numbers[0]


def _number(value: Any, name: str, context: _Context) -> float:
    number = _numbers(value, name, context)
    if isinstance(number, list):
        raise DegradationError(f"`{name}` of `{context.source}` must be one number, got {_short(value)}.")
    return number


def _parse_blur(values: dict[str, Any], context: _Context) -> GaussianBlur:
    given = _take(values, "blur", context, sigma_px=None, fwhm_mm=None)
    if (given["sigma_px"] is None) == (given["fwhm_mm"] is None):
        raise DegradationError(
            f"`blur` of `{context.source}` must have either `sigma_px` or `fwhm_mm`, got {_short(values)}."
        )
    if given["sigma_px"] is not None:
        return GaussianBlur(_numbers(given["sigma_px"], "sigma_px", context))
    if context.spacing is None:
        raise DegradationError(
            f"`fwhm_mm` of `{context.source}` must come with a pixel spacing, which these images do not have; "
            "use `sigma_px`."
        )
    return GaussianBlur.from_fwhm(_numbers(given["fwhm_mm"], "fwhm_mm", context), context.spacing)


def _parse_motion(values: dict[str, Any], context: _Context) -> MotionBlur:
    given = _take(values, "motion", context, length_px=..., angle_deg=0.0)
    return MotionBlur(*(_number(given[k], k, context) for k in ("length_px", "angle_deg")))


def _parse_downsample(values: dict[str, Any], context: _Context) -> Downsample:
    given = _take(values, "downsample", context, factor=..., kind="average")
    factor = given["factor"]
    if not all(type(f) is int for f in (factor if isinstance(factor, list) else [factor])):
        raise DegradationError(
            f"`factor` of `{context.source}` must be an integer or a list of integers, got {_short(factor)}."
        )
    _numbers(factor, "factor", context)
    return Downsample(factor, given["kind"])


def _parse_noise(values: dict[str, Any], context: _Context) -> Noise:
    given = _take(values, "noise", context, kind="gaussian", sigma=None, counts=None, unit="fraction")
    kind, unit = given["kind"], given["unit"]
    needed = "counts" if kind == "poisson" else "sigma"
    if kind not in _KINDS:
        raise DegradationError(f"the noise of `{context.source}` must be {_one_of(_KINDS)}, got {_short(kind)}.")
    if given[needed] is None or given["sigma" if kind == "poisson" else "counts"] is not None:
        raise DegradationError(f"{kind} noise of `{context.source}` must have `{needed}` alone, got {_short(values)}.")
    if unit not in ("fraction", "input"):
        raise DegradationError(
            f"`unit` of the noise of `{context.source}` must be `fraction` or `input`, got {_short(unit)}."
        )
    value = _number(given[needed], needed, context)
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


def _noise_of_input(kind: str, value: float, context: _Context) -> Noise:
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


def _parse_gamma(values: dict[str, Any], context: _Context) -> Gamma:
    exponent = _number(_take(values, "gamma", context, exponent=...)["exponent"], "exponent", context)
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
    parse: Callable[[dict[str, Any], _Context], Parsed]
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
