"""How much noise is in a volume, noted on its own grid: before anything interpolates it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import MapTransform

from medfuse.estimation import noise_profile

NOISE = "noise"


class MeasureNoised(MapTransform):
    """Note the noise of each volume on its own grid, under `<key>_noise`, **[3, n]**: see `noise_profile`.

    Interpolation averages noise and lets neighbours share it, so this comes before any.
    """

    def __init__(self, keys: KeysCollection, *, allow_missing_keys: bool = False) -> None:
        """Make the transform.

        Args:
            keys: Keys of volumes **[1, X, Y, Z]**.
            allow_missing_keys: Pass keys that a case has not.
        """
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the notes."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            spacing = affine_to_spacing(image.affine).tolist() if isinstance(image, MetaTensor) else None
            result[f"{key}_{NOISE}"] = torch.from_numpy(noise_profile(np.asarray(image.detach().cpu()[0]), spacing))
        return result


MeasureNoiseD = MeasureNoiseDict = MeasureNoised
