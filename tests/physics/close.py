"""Random images, and how close two of them must be."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_close(actual: Tensor, expected: Tensor, rtol: float = 1e-10) -> None:
    scale = max(float(expected.abs().max()), 1e-300) if expected.numel() else 1.0
    error = float((actual - expected).abs().max()) if expected.numel() else 0.0
    assert actual.shape == expected.shape
    assert error <= rtol * scale, f"relative error {error / scale:.2e}"


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
