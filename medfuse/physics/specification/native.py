"""The specification of a volume on its scanner's own grid, in mm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from medfuse.errors import DegradationError
from medfuse.physics.scanner_noise import ScannerNoise
from medfuse.physics.specification.values import AUTO, Context, bounds_of, numbers_of, short, take

_WIDEST_PSF = 20.0  # mm, beyond all scanners


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
    context = Context(source, None, scale)
    if not isinstance(values, Mapping):
        raise DegradationError(f"`{source}` on its own grid must be a mapping, got {short(values)}.")
    given = take(dict(values), source, context, grid=..., psf=AUTO, noise=None)
    if given["grid"] != "native":
        raise DegradationError(f"`grid` of `{source}` must be `native`, got {short(given['grid'])}; write it so.")
    for name in ("psf", "noise"):
        if name in values and given[name] != AUTO and not isinstance(given[name], Mapping):
            raise DegradationError(f"`{name}` of `{source}` must be a mapping or `{AUTO}`, got {short(given[name])}.")
    unknown = given["psf"] == AUTO or AUTO in given["psf"]
    psf = None if unknown else _psf(dict(given["psf"]), context)
    bounds = _psf_bounds(dict(given["psf"]), context) if unknown and given["psf"] != AUTO else (0.0, math.inf)
    if given["noise"] in (None, AUTO):
        return NativeSource(psf, None, bounds)
    stated = {"kind": "gaussian", "sigma": ..., "unit": "fraction", "fwhm_mm": 0.0, "growth": None, "signal": None}
    noise = take(dict(given["noise"]), "noise", context, **stated)
    if noise["unit"] not in ("fraction", "input"):
        unit = short(noise["unit"])
        raise DegradationError(f"`unit` of noise of `{source}` must be `fraction` or `input`, got {unit}; change it.")
    numbers = {k: None if noise[k] is None else numbers_of(noise[k], k, context) for k in ("sigma", "growth", "signal")}
    found = ScannerNoise.stated(noise["kind"], fwhm_mm=_per_axis(noise["fwhm_mm"], context), **numbers)
    if noise["unit"] == "input":
        return NativeSource(psf, found, bounds)
    if scale is None or not 0 < scale < math.inf:
        raise DegradationError(
            f"noise of `{source}` with `unit: fraction` must come with the source's range, which is not known here; "
            "use `unit: input`."
        )
    return NativeSource(psf, found.scaled(1 / scale), bounds)


def _psf(values: dict[str, Any], context: Context) -> tuple[float, float, float]:
    psf = _per_axis(take(values, "psf", context, fwhm_mm=...)["fwhm_mm"], context)
    if min(psf) <= 0 or max(psf) > _WIDEST_PSF:
        raise DegradationError(
            f"`fwhm_mm` of the psf of `{context.source}` must be above 0 and at most {_WIDEST_PSF:g} mm, got "
            f"{short(list(psf))}; check the unit."
        )
    return psf


def _psf_bounds(values: dict[str, Any], context: Context) -> tuple[float, float]:
    given = take(values, "psf", context, auto=...)[AUTO]
    return bounds_of("psf", "fwhm_mm", given, _WIDEST_PSF, context)


def _per_axis(value: Any, context: Context) -> tuple[float, float, float]:
    numbers = numbers_of(value, "fwhm_mm", context)
    several = numbers if isinstance(numbers, list) else [numbers] * 3
    if len(several) != 3 or not all(math.isfinite(v) for v in several):
        raise DegradationError(
            f"`fwhm_mm` of `{context.source}` on its own grid must be one finite number or three, got {short(value)}."
        )
    return several[0], several[1], several[2]
