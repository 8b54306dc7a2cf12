"""Settings and fixtures that many tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# The images are small: more threads than two cost more than they bring. OMP_NUM_THREADS wins, as everywhere.
if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(min(2, os.cpu_count() or 1))

# The same examples in every run, and no deadline: a busy machine is no bug. Explore: --hypothesis-profile=default.
settings.register_profile("medfuse", deadline=None, derandomize=True)
settings.load_profile("medfuse")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of the research data, which are not part of the repository."""
    folder = Path(os.environ.get("MEDFUSE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the research data are not here; set MEDFUSE_DATA to their folder")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """Return NumPy's generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture
def generator() -> torch.Generator:
    """Return torch's generator with a fixed seed."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def seeded() -> Iterator[None]:
    """Fix torch's global generator, from which modules take their first weights, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a workflow write volumes and record alone: pictures and pages take most of the time."""
    from medfuse.pipeline import OUTPUTS, CaseResult, SaveFusiond, write_outputs

    volumes = [output for output in OUTPUTS if output.bids_label is not None]

    def write(self: SaveFusiond, result: CaseResult, folder: Path) -> None:
        write_outputs(result, folder, volumes, replace=self.replace)

    monkeypatch.setattr(SaveFusiond, "write", write)
