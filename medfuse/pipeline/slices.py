"""How thick the slices of an MRI are, from what came with it: its DICOM headers, or the sidecars of its NIfTI."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from monai.data import MetaTensor
from monai.utils import ImageMetaKey
from monai.utils.enums import MetaKeys

from medfuse.io.acquisition import ACQUISITION
from medfuse.io.sidecars import read_thickness
from medfuse.physics import Grid
from medfuse.volumes import slices_mm


def slices_of(image: MetaTensor, grid: Grid) -> tuple[float, float, float]:
    """Return over how many mm the values of an MRI **[1, X, Y, Z]** are means along each axis, where that counts.

    See `medfuse.volumes.slices_mm`. Slices lie across the third axis of a series of DICOM as it was read, and along
    that of the largest spacing otherwise.

    Args:
        image: The MRI.
        grid: Its grid.
    """
    noted = image.meta.get(ACQUISITION)
    thick = json.loads(str(noted)).get("thickness_mm") if noted is not None else None
    if thick is not None:
        original = image.meta.get(MetaKeys.ORIGINAL_AFFINE)
        if original is None:
            return slices_mm(grid, thick)
        across = np.asarray(original, np.float64)[:3, 2]
        return slices_mm(grid, thick, int(np.argmax([abs(np.dot(axis, across)) for axis in grid.axes])))
    path = image.meta.get(ImageMetaKey.FILENAME_OR_OBJ)
    return slices_mm(grid, read_thickness(Path(str(path))) if path else None)
