"""Hand a case to the inferer: its images, and its degradation in the pixels and units of the case."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from torch import Tensor

from medfuse.errors import GeometryError
from medfuse.estimation import estimate, known_specification, records_of
from medfuse.physics import JointDegradation, parse_degradation
from medfuse.transforms.typed import with_meta_of

KNOWN = "known_degradation"
"""Key of a case: JSON of its `degradation`, with what was estimated in place of the unknown, and the `estimates`."""


def case_degradation(
    spec: Mapping[str, Any] | str | None,
    *,
    spacing: Sequence[float] | None,
    spatial_dim: int = 2,
    scales: Sequence[float] | None = None,
) -> JointDegradation:
    """Build the in-plane degradation of a volume that is processed slice by slice.

    Args:
        spec: The specification.
        spacing: Voxel size of the reference grid in mm, **[3]** (or **[2]** for an image); None where unknown.
        spatial_dim: Axis along which the volume is sliced; a blur given per axis in mm acts in the other two.
        scales: Full range of each source in its own unit.

    Raises:
        DegradationError: As `medfuse.physics.parse_degradation`.
        GeometryError: If a volume has no such axis.
    """
    if spatial_dim not in (0, 1, 2):
        raise GeometryError(f"spatial_dim must be 0, 1 or 2, got {spatial_dim!r}; choose an axis of the volume.")
    if spacing is not None and len(spacing) == 3:
        spacing = [s for d, s in enumerate(spacing) if d != spatial_dim]
    return parse_degradation(spec, spacing=None if spacing is None else (spacing, spacing), scale=scales)


class PrepareFusion:
    """Prepare a batch of one case for MONAI's engines."""

    def __init__(
        self,
        degradation: Mapping[str, Any] | str | None = None,
        *,
        key: str = "image",
        source_keys: tuple[str, str] = ("mri", "pet"),
        spatial_dim: int = 2,
        kinds: tuple[str, str] = ("anatomy", "function"),
    ) -> None:
        """Make it.

        Args:
            degradation: The specification. What is unknown of it is estimated, once for a volume, and noted in the
                batch under `known_degradation`.
            key: Key of the pair **[1, 2, *spatial]**.
            source_keys: Keys of the sources, whose scales are under `<key>_scale`.
            spatial_dim: Axis along which volumes are sliced.
            kinds: What the sources are, see `medfuse.estimation.estimate`.

        Raises:
            DegradationError: If the specification makes no sense; what depends on the range of a case is checked with
                the case.
            GeometryError: If a volume has no such axis.
        """
        self.degradation, self.key, self.source_keys, self.spatial_dim = degradation, key, source_keys, spatial_dim
        self.kinds = kinds
        later = (math.inf, math.inf)  # each case has a range of its own
        case_degradation(degradation, spacing=(1.0, 1.0, 1.0), spatial_dim=spatial_dim, scales=later)

    def __call__(
        self,
        batchdata: MutableMapping[str, Any],
        device: torch.device | str | None = None,
        non_blocking: bool = False,
        **_: Any,
    ) -> tuple[Tensor, None, tuple[()], dict[str, Any]]:
        """Return the images, no target, no arguments, and the degradation as a keyword argument.

        A batch holds the voxels of its sources twice, in the pair and by themselves. The latter become views of the
        pair where they are equal: of a large volume, that is half a gigabyte.

        Raises:
            DegradationError: If noise in the unit of a source exceeds its range.
            GeometryError: If there is more than one case, as each has a spacing and scales of its own.
        """
        pair = batchdata[self.key]
        if len(pair) != 1:
            raise GeometryError(f"A batch must be one case, got {len(pair)}; set the loader's batch_size to 1.")
        for number, key in enumerate(self.source_keys):
            batchdata[key] = _view(batchdata.get(key), pair[:, number : number + 1])
        image = pair.to(device=device, non_blocking=non_blocking)
        spacing = None
        if isinstance(image, MetaTensor):
            spacing = affine_to_spacing(image.affine.reshape(image.affine.shape[-2:])).tolist()
        scales = [float(torch.as_tensor(batchdata[f"{k}_scale"]["scale"]).flatten()[0]) for k in self.source_keys]
        degradation = case_degradation(self.degradation, spacing=spacing, spatial_dim=self.spatial_dim, scales=scales)
        if degradation.unknown and self.degradation is not None:
            across = self.spatial_dim if pair.ndim == 5 else None
            degradation, found = estimate(degradation, pair[0], self.kinds, cut=False, across=across)
            known = {"degradation": known_specification(self.degradation, found), "estimates": records_of(found)}
            batchdata[KNOWN] = [json.dumps(known)]
        return image, None, (), {"degradation": degradation}


def _view(source: Any, part: Tensor) -> Any:
    """Return a source whose voxels are those of a part of the pair, where they are equal; else the source itself."""
    plain = part.as_tensor() if isinstance(part, MetaTensor) else part
    if not isinstance(source, MetaTensor) or not torch.equal(source.as_tensor(), plain):
        return source
    return with_meta_of(source, plain)
