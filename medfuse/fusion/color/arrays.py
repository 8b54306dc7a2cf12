"""What comes in goes out: images of numpy or torch, computed as tensors and returned as what was given."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from medfuse.errors import GeometryError, ImageError

ArrayLike: TypeAlias = Any  # numpy array, torch tensor or number; what comes in goes out


def to_uint8(rgb: ArrayLike) -> np.ndarray:
    """Convert values in 0..1 to bytes, rounding half to even and clipping what lies beyond.

    Args:
        rgb: Array or tensor of any shape, finite.

    Returns:
        uint8 array of the same shape.
    """
    values = rgb.detach().cpu().numpy() if isinstance(rgb, Tensor) else np.asarray(rgb)
    return np.asarray(np.rint(np.clip(values, 0, 1) * 255), dtype=np.uint8)


def as_tensors(*images: ArrayLike) -> tuple[Tensor, ...]:
    """Return the images as plain tensors of one floating dtype, float32 or better, on one device."""
    device = next((i.device for i in images if isinstance(i, Tensor)), None)
    tensors = [torch.as_tensor(i if isinstance(i, Tensor) else np.array(i)).as_subclass(Tensor) for i in images]
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(t.to(device=device, dtype=dtype) for t in tensors)


def shown_together(**images: ArrayLike) -> tuple[Tensor, ...]:
    """Return images, by their names, as tensors of one shape.

    Raises:
        GeometryError: If the shapes do not broadcast.
        ImageError: If one holds NaN or infinity.
    """
    tensors, names = as_tensors(*images.values()), " and ".join(images)
    try:
        tensors = tuple(torch.broadcast_tensors(*tensors))
    except RuntimeError as error:
        got = " and ".join(str(tuple(t.shape)) for t in tensors)
        raise GeometryError(
            f"{names} must have shapes that broadcast, got {got}; resample one onto the other."
        ) from error
    for name, tensor in zip(images, tensors, strict=True):
        if not bool(torch.isfinite(tensor).all()):
            raise ImageError(f"{name} must be finite, got NaN or infinity; repair it first.")
    return tensors


def as_given(result: Tensor, wants_tensor: bool) -> ArrayLike:
    """Return a result as a tensor if tensors were given, else as an array."""
    return result if wants_tensor else result.numpy()
