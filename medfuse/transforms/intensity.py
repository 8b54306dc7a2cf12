"""Affine intensity scaling that loses nothing: no clipping, and an exact way back to the input's unit."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys, ensure_tuple_rep
from torch import Tensor

from medfuse.errors import ImageError
from medfuse.transforms.typed import TORCH, copy_of, traced, with_meta_of

Lower = Literal["auto", "zero", "min"] | float
SCALE = "intensity_scale"
_PART = 1 << 22  # values that are computed at once
_MAX_NEGATIVE = 0.05  # of the maximum: what reconstruction noise leaves in a PET
_MIN_RELATIVE_SCALE = 1e-6  # of the largest value; below, float32 holds little but rounding


class ScaleIntensityAffine(InvertibleTransform):
    """Scale an image by `y = (x - offset) / scale`; values beyond 0..1 stay what they are."""

    backend = TORCH

    def __init__(
        self, *, lower: Lower = "auto", upper_percentile: float = 100.0, unit: str = "a.u.", traced: bool = True
    ) -> None:
        """Make the transform.

        Args:
            lower: What becomes 0: 0 itself ("zero"), the minimum ("min"), a percentile (0..100), or "auto": 0, unless
                the image has values below -5 % of its maximum; then the minimum.
            upper_percentile: Percentile that becomes 1, in (0, 100]; 100 is the maximum.
            unit: Unit of the image, where the image does not know it (meta entry `unit`).
            traced: Whether `inverse`, and with it MONAI's `Invertd`, undo the scaling. With False they leave it, where
                the result of `Invertd` is to stay dimensionless.

        Raises:
            ImageError: If an option is unknown or out of range.
        """
        known = lower in ("auto", "zero", "min") if isinstance(lower, str) else 0 <= lower < upper_percentile
        if not known or not 0 < upper_percentile <= 100:
            raise ImageError(
                "lower must be 'auto', 'zero', 'min' or a percentile below upper_percentile, and that in (0, 100], "
                f"got {lower!r} and {upper_percentile!r}; change them."
            )
        self.lower, self.upper_percentile, self.unit, self.traced = lower, upper_percentile, unit, traced

    def __call__(self, image: Tensor, unit: str | None = None, beside: Tensor | None = None) -> MetaTensor:
        """Scale `image` **[C, *spatial]** of any real type, all channels alike.

        Args:
            image: Finite, in its own unit.
            unit: Its unit, if the caller knows better.
            beside: Another image in the same unit, which the range is to hold, too.

        Returns:
            float32, about 0..1, with `offset`, `scale` and `unit` in its meta entry `intensity_scale`.

        Raises:
            ImageError: If the image is not finite, constant, or holds nothing above what becomes 0.
        """
        given = image if isinstance(image, MetaTensor) else MetaTensor(torch.as_tensor(image))
        both = given if beside is None else with_meta_of(given, torch.cat([given.flatten(), beside.flatten()]))
        record = self.measure(both, unit)
        offset, scale = record["offset"], record["scale"]
        out = with_meta_of(given, _mapped(given.as_tensor(), lambda x: (x - offset) / scale))
        out.meta[SCALE] = record
        return traced(self, out, extra_info=dict(record)) if self.traced else out

    def measure(self, image: Tensor, unit: str | None = None) -> dict[str, Any]:
        """Return the map of an image: `offset`, `scale` (both in its unit) and `unit`.

        Raises:
            ImageError: If the image is not finite, constant, or holds nothing above what becomes 0.
        """
        values = np.asarray(image.detach().cpu())
        if values.size == 0 or not np.isfinite(values).all():
            raise ImageError("The image must be finite and not empty, got NaN, infinity or nothing; repair it first.")
        low, high = float(values.min()), float(values.max())
        if high - low <= _MIN_RELATIVE_SCALE * max(abs(low), abs(high)):
            raise ImageError(f"The image must not be constant, got {low:g} everywhere; check the file.")
        upper = high if self.upper_percentile == 100 else _percentile(values, self.upper_percentile)
        if self.lower == "auto":
            offset = 0.0 if low >= -_MAX_NEGATIVE * high else low
        elif isinstance(self.lower, str):
            offset = 0.0 if self.lower == "zero" else low
        else:
            offset = _percentile(values, self.lower)
        scale = upper - offset
        if scale <= _MIN_RELATIVE_SCALE * max(abs(low), abs(high)):
            raise ImageError(
                f"The image must have values above the lower bound, got {upper:g} for the upper and {offset:g} for the "
                "lower; set lower to 'min', or raise upper_percentile."
            )
        meta = image.meta if isinstance(image, MetaTensor) else {}
        return {"offset": offset, "scale": scale, "unit": str(unit or meta.get("unit") or self.unit)}

    def inverse(self, data: MetaTensor) -> Tensor:
        """Give an image its own values back, and its unit in the meta entry `unit`; an untraced one stays scaled."""
        image = copy_of(data)
        return _unscaled(image, self.pop_transform(image)[TraceKeys.EXTRA_INFO]) if self.traced else image


def inverse_values(x: Tensor, record: Mapping[str, Any]) -> Tensor:
    """Return `x * scale + offset`, in the unit of the record.

    Args:
        x: Scaled values of any shape.
        record: `offset` and `scale`, numbers or tensors of one element, as `ScaleIntensityAffine` records them.

    Returns:
        float32 like `x`, a MetaTensor if that is one.

    Raises:
        ImageError: If the record lacks an entry.
    """
    missing = {"offset", "scale"} - set(record)
    if missing:
        raise ImageError(f"A scale must have offset and scale, got none for {', '.join(sorted(missing))}; record them.")
    offset, scale = (float(torch.as_tensor(record[k]).flatten()[0]) for k in ("offset", "scale"))
    if isinstance(x, MetaTensor):
        return with_meta_of(x, _mapped(x.as_tensor(), lambda v: v * scale + offset))
    return _mapped(torch.as_tensor(x), lambda v: v * scale + offset)


def inverse_values_(x: Tensor, record: Mapping[str, Any]) -> Tensor:
    """Do as `inverse_values`, in the memory of a float32 tensor itself, and return that."""
    for part in _parts(x):
        part.copy_(inverse_values(part, record))
    return x


class ScaleIntensityAffined(MapTransform, InvertibleTransform):
    """Dictionary version of `ScaleIntensityAffine`; records the map under `<key>_scale`.

    An image under `<key>_restored` is scaled alike, by a map that holds both.

    The unit is that of an SUV that the reader made of the image (meta entries `unit` and `suv`), else the case's
    `<key>_unit`, else the image's meta entry `unit`, else the argument.
    """

    backend = ScaleIntensityAffine.backend

    def __init__(
        self,
        keys: KeysCollection,
        *,
        lower: Lower | tuple[Lower, ...] = "auto",
        upper_percentile: float | tuple[float, ...] = 100.0,
        unit: str | tuple[str, ...] = "a.u.",
        traced: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        """Make the transform; options are those of `ScaleIntensityAffine`, one for all keys or one for each."""
        MapTransform.__init__(self, keys, allow_missing_keys)
        n = len(self.keys)
        options = zip(*(ensure_tuple_rep(o, n) for o in (lower, upper_percentile, unit)), strict=True)
        self.transforms = {
            key: ScaleIntensityAffine(lower=low, upper_percentile=upper, unit=name, traced=traced)
            for key, (low, upper, name) in zip(self.keys, options, strict=True)
        }

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale each key.

        Raises:
            ImageError: One cannot be scaled; its key is named.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            restored = result.get(f"{key}_restored")
            try:
                result[key] = self.transforms[key](result[key], _unit(result, key), restored)
            except ImageError as error:
                raise ImageError(f"{key}: {error}") from error
            scale = result[f"{key}_scale"] = dict(result[key].meta[SCALE])
            if restored is not None:
                values = (restored.as_tensor() - scale["offset"]) / scale["scale"]
                result[f"{key}_restored"] = with_meta_of(restored, values)
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Give each key its own values back."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transforms[key].inverse(result[key])
            if self.transforms[key].traced:
                result.pop(f"{key}_scale", None)
        return result


class UnscaleIntensityd(MapTransform):
    """Give results the unit of the source they come from, such as a restored PET that of the PET."""

    backend = TORCH

    def __init__(self, keys: KeysCollection, source_keys: KeysCollection, *, allow_missing_keys: bool = False) -> None:
        """Make the transform.

        Args:
            keys: Keys of scaled results, of any shape.
            source_keys: Key of the source of each, whose map is under `<source>_scale`; one for all or one for each.
            allow_missing_keys: Pass keys that a case has not.
        """
        super().__init__(keys, allow_missing_keys)
        self.source_keys: tuple[Hashable, ...] = ensure_tuple_rep(source_keys, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Unscale each key; a MetaTensor gets the unit in its meta entry `unit`.

        Raises:
            ImageError: If a source's map is not there.
        """
        result = dict(data)
        for key, source in self.key_iterator(result, self.source_keys):
            record = result.get(f"{source}_scale")
            if record is None:
                raise ImageError(f"{source} must be scaled before {key} is unscaled, got no {source}_scale; scale it.")
            result[key] = _unscaled(result[key], record)
        return result


def _unit(data: Mapping[Hashable, Any], key: Hashable) -> str | None:
    """Return the unit of an image, where its meta data do not tell it: a case states that of its file, not of SUV."""
    meta = getattr(data[key], "meta", {})
    made = (meta.get("suv") or {}).get("kind", "none") != "none"
    return None if made else data.get(f"{key}_unit")


def _mapped(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a function of each value, computed in float64 and part by part, as float32."""
    result = torch.empty_like(x, dtype=torch.float32)
    for part, target in zip(_parts(x), _parts(result), strict=True):
        target.copy_(function(part.double()))
    return result


def _parts(x: Tensor) -> Iterator[Tensor]:
    """Give the parts of a tensor, as views: a large one in float64 would take too much memory at once."""
    if x.numel() <= _PART:
        yield x
    else:
        for half in x.chunk(2, int(np.argmax(x.shape))):
            yield from _parts(half)


def _percentile(values: np.ndarray, percent: float) -> float:
    return float(np.percentile(values.astype(np.float64), percent))


def _unscaled(x: Tensor, record: Mapping[str, Any]) -> Tensor:
    """Return `inverse_values`, with the unit in the meta data of a MetaTensor."""
    restored = inverse_values(x, record)
    if isinstance(restored, MetaTensor):
        unit = record.get("unit", "a.u.")
        restored.meta["unit"] = unit if isinstance(unit, str) else str(unit[0])
        restored.meta.pop(SCALE, None)
    return restored


ScaleIntensityAffineD = ScaleIntensityAffineDict = ScaleIntensityAffined
UnscaleIntensityD = UnscaleIntensityDict = UnscaleIntensityd
__all__ = ["ScaleIntensityAffine", "ScaleIntensityAffined", "UnscaleIntensityd", "inverse_values"]
