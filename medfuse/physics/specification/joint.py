"""The specification of what happened to both sources of a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medfuse.errors import DegradationError, nearest
from medfuse.physics.degradation import QUANTIZATION, Degradation, JointDegradation
from medfuse.physics.specification.steps import in_order, parse_step
from medfuse.physics.specification.values import AUTO, Context, short

SPEC_VERSION = 1
_KEYS = ("version", "name", "description", "source1", "source2")
_MOST_LETTERS = 1000  # of a name or a description, which are copied into records


def parse_degradation(
    spec: Mapping[str, Any] | str | None,
    *,
    spacing: Sequence[Sequence[float]] | None = None,
    scale: Sequence[float] | None = None,
    floor: float = QUANTIZATION,
) -> JointDegradation:
    """Build the degradations of both sources from their specification.

    Args:
        spec: The mapping shown in `medfuse.physics.specification`; `auto`; None means none.
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
            f"a degradation must be a mapping with `version`, `source1`, `source2`, got {short(spec)}."
        )
    if spec.get("version") != SPEC_VERSION:
        raise DegradationError(f"`version` of a degradation must be {SPEC_VERSION}, got {short(spec.get('version'))}.")
    for key, value in spec.items():
        if key not in _KEYS:
            raise DegradationError(
                f"a degradation must have no other keys than {', '.join(_KEYS)}, got {short(key)}; "
                f"{nearest(str(key), _KEYS)}."
            )
        if key in ("name", "description") and not (isinstance(value, str) and len(value) <= _MOST_LETTERS):
            raise DegradationError(
                f"`{key}` of a degradation must be a text of at most {_MOST_LETTERS} letters, got {short(value)}; "
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
            raise DegradationError(f"`{name}` must be a list of steps, or `{AUTO}`, got {short(steps)}.")
        context = Context(name, None if spacing is None else spacing[i], None if scale is None else scale[i])
        sources.append(in_order([parse_step(step, context) for step in steps], floor, name))
    return JointDegradation(*sources)
