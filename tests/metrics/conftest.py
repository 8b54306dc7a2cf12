"""Images for the tests of metrics, and the independent instrument that they must equal."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

BENCH = Path(__file__).resolve().parents[3] / "shared" / "bench"


@pytest.fixture(scope="session")
def instrument() -> ModuleType:
    """Return the evaluator that shares no code with medfuse; it is not part of the repository."""
    path = BENCH / "fusion_eval.py"
    if not path.is_file():
        pytest.skip("the independent evaluator is not here")
    spec = importlib.util.spec_from_file_location("fusion_eval", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def dev_image() -> Callable[[str, str], np.ndarray]:
    """Return a reader of the images of development, which are not part of the repository: float64, 0..255."""
    folder = BENCH / "dev"
    if not folder.is_dir():
        pytest.skip("the images of development are not here")

    def read(kind: str, name: str) -> np.ndarray:
        with Image.open(folder / kind / f"{name}.png") as image:
            return np.asarray(image).astype(np.float64)

    return read


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """Return two sources **[2, 1, 48, 56]** in whole levels of 0..255, on black, with edges of their own."""
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(56.0), indexing="ij")
    generator = torch.Generator().manual_seed(3)
    texture = torch.randint(0, 40, (2, 2, 48, 56), generator=generator).double()
    head = ((y - 24) ** 2 + (x - 28) ** 2 < 330).double()
    first = head * (90 + 60 * torch.sin(x / 3)) + texture[:, 0] * head
    second = head * 200 * torch.exp(-((y - 20) ** 2 + (x - 32) ** 2) / 60) + 0.5 * texture[:, 1] * head
    return first[:, None].round().clamp(0, 255), second[:, None].round().clamp(0, 255)
