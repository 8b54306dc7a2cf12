"""What MONAI's own functions without types return, typed, and the backends that a transform names."""

from __future__ import annotations

from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform
from monai.utils import TransformBackends
from torch import Tensor

NUMPY = [TransformBackends.NUMPY]
TORCH = [TransformBackends.TORCH]


def affine_of(image: MetaTensor) -> np.ndarray:
    """Return the affine of an image, **[4, 4]** of a volume, float64, on any device."""
    return np.asarray(image.affine.detach().cpu(), dtype=np.float64)


def with_meta_of(image: MetaTensor, values: Tensor) -> MetaTensor:
    """Return values with the meta data of an image, its affine among them."""
    result: MetaTensor = MetaTensor(values).copy_meta_from(image)
    return result


def copy_of(image: MetaTensor) -> MetaTensor:
    """Return a copy of an image and of its meta data."""
    result: MetaTensor = image.clone()
    return result


def traced(transform: InvertibleTransform, image: MetaTensor, **info: Any) -> MetaTensor:
    """Return an image that remembers a transform, and what that needs for `inverse`."""
    result: MetaTensor = transform.push_transform(image, **info)
    return result
