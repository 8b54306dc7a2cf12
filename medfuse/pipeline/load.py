"""The sources of a case, loaded each as what it is: of a PET the frames that the case chooses, and how they moved."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImage, MapTransform

from medfuse.errors import MedfuseError
from medfuse.io import VolumeReader
from medfuse.io.dynamic import FRAMES
from medfuse.io.modalities import MODALITIES
from medfuse.registration.motion import measure_motion

_BLOCKS = 6  # parts of a scan whose places are compared, at most
_COARSE = 4.0  # mm, to which voxels are averaged for that
_FEWEST = 8  # voxels along an axis, where there are as many


class LoadSourcesd(MapTransform):
    """Load the sources of a case, **[1, X, Y, Z]**, with MONAI's `LoadImage` and `medfuse.io.VolumeReader`.

    Of what shows uptake, the case's `<key>_frames` chooses frames, see `medfuse.io.frames`; where several are averaged,
    their motion is measured, and not corrected. The record of both is the meta entry `frames`, as JSON.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        suv: str = "auto",
        nonfinite: str = "error",
        strict: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        """Make the transform.

        Args:
            keys: Keys of the sources' paths.
            suv: SUV of a PET, one of `medfuse.io.suv.CHOICES`.
            nonfinite: NaN and infinity in NIfTI, one of `medfuse.io.NONFINITE`.
            strict: Refuse a NIfTI whose sform and qform disagree.
            allow_missing_keys: Pass keys that a case has not.
        """
        super().__init__(keys, allow_missing_keys)
        self.options: dict[str, Any] = {"nonfinite": nonfinite, "strict": strict}
        self.suv = suv
        VolumeReader(suv=suv, **self.options)  # a wrong option is none of a case

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load each key.

        Raises:
            MedfuseError: As `medfuse.io.VolumeReader`.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            row = MODALITIES.get(str(key))
            if row is None or not row.has_uptake:
                reader, blocks = VolumeReader(suv=self.suv, **self.options), None
            else:
                blocks = _Blocks()
                suv = self.suv if row.has_suv else "none"
                frames = result.get(f"{key}_frames")
                reader = VolumeReader(suv=suv, uptake=True, frames=frames, watch=blocks.add, **self.options)
            image: Any = LoadImage(reader=reader, ensure_channel_first=True, image_only=True)(result[key])
            if blocks is not None and blocks.count > 1:
                _note_motion(image, blocks)
            result[key] = image
        return result


class _Blocks:
    """The frames that were averaged, coarsely, to be compared."""

    def __init__(self) -> None:
        self._frames: list[tuple[int, float, np.ndarray]] = []

    @property
    def count(self) -> int:
        return len(self._frames)

    def add(self, frame: int, weight: float, values: np.ndarray, spacing: np.ndarray) -> None:
        """Keep a frame, its voxels averaged to about 4 mm."""
        for axis, step in enumerate(spacing):
            n = values.shape[axis]
            factor = max(1, min(int(_COARSE / step + 0.01), n // _FEWEST))
            if factor > 1:
                moved = np.moveaxis(values, axis, 0)[: n // factor * factor]
                values = np.moveaxis(moved.reshape(-1, factor, *moved.shape[1:]).mean(1), 0, axis)
        self._frames.append((frame, weight, values.copy()))

    def parts(self) -> list[tuple[str, np.ndarray]]:
        """Return the means of runs of frames that weigh about as much each, and the numbers of their frames."""
        least = math.fsum(weight for _, weight, _ in self._frames) / _BLOCKS
        runs: list[list[tuple[int, float, np.ndarray]]] = [[]]
        for item in self._frames:
            if runs[-1] and math.fsum(w for _, w, _ in runs[-1]) >= least * 0.99:
                runs.append([])
            runs[-1].append(item)
        return [
            (
                f"{run[0][0] + 1}-{run[-1][0] + 1}" if len(run) > 1 else str(run[0][0] + 1),
                np.average([values for *_, values in run], axis=0, weights=[weight for _, weight, _ in run]),
            )
            for run in runs
        ]


def _note_motion(image: MetaTensor, blocks: _Blocks) -> None:
    """Note in the meta data how far each part of the scan lies from the last one."""
    record = json.loads(image.meta[FRAMES])
    *parts, (last, still) = blocks.parts()
    spacing = np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0)
    factors = np.maximum(1, np.minimum((_COARSE / spacing + 0.01).astype(int), np.array(image.shape[1:]) // _FEWEST))
    affine = np.asarray(image.affine, dtype=np.float64) @ np.diag([*factors, 1.0])  # where it begins is all the same
    found: dict[str, float | None] = {}
    for name, values in parts:
        try:
            motion = measure_motion(still, values, affine)
            found[name] = None if motion is None else round(motion[1], 2)
        except MedfuseError:  # an empty first frame has no place
            found[name] = None
    record["motion_mm"] = {"against": last, "of": found}
    image.meta[FRAMES] = json.dumps(record)


LoadSourcesD = LoadSourcesDict = LoadSourcesd
