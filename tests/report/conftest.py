from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from medfuse.fusion.color import fuse_color, to_uint8

SHAPE = (28, 32, 20)
AFFINE = np.array([[-2.0, 0.1, 0.0, 30.0], [0.1, 2.0, 0.2, -40.0], [0.0, -0.2, 3.0, -20.0], [0.0, 0.0, 0.0, 1.0]])
STEPS = [{"blur": {"fwhm_mm": 5.0}}, {"noise": {"kind": "gaussian", "sigma": 0.05}}]


class Page(HTMLParser):
    """The elements of a page, the text outside of scripts and styles, and what is not closed."""

    EMPTY = frozenset({"meta", "img", "input", "br", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not (self.open and self.open[-1] == "style"):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def _record(**changes):
    """Return a record of a case as the pipeline writes it."""
    figures = {"mean": 1.0, "max": 7.5, "peak": 6.0}
    whole = {"label": None, "volume_ml": 215.0, "given": figures, "restored": {**figures, "max": 8.25}}
    record = {
        "case": "case-1",
        "versions": {"medfuse": "0.1.0", "monai": "1.6.1", "torch": "2.13.0"},
        "weights_sha256": "ab" * 32,
        "steps": 3,
        "degradation": {"origin": "given", "version": 1, "name": "mine", "source1": [], "source2": STEPS},
        "reference": {"source": "mri", "shape": list(SHAPE), "spacing_mm": [2.0, 2.0, 3.0], "outside_fraction": 0.0},
        "sources": {
            "mri": {"sha256": "12" * 32, "unit": "a.u.", "residual_chi2": None},
            "pet": {"sha256": "34" * 32, "unit": "SUV", "residual_chi2": 0.97, "regions": [whole]},
        },
        "registration": {
            "performed": True,
            "accepted": True,
            "reasons": [],
            "matrix": [[1, 0, 0, 4.0], [0, 1, 0, -6.0], [0, 0, 1, 3.0], [0, 0, 0, 1]],
            "rotation": [0.0, 0.0, 0.0],
            "translation": [4.0, -6.0, 3.0],
            "max_displacement": 7.8,
            "metric_before": 0.3,
            "metric_after": 0.8,
            "overlap": 0.9,
            "inconsistency": 0.6,
        },
    }
    return {**record, **changes}


@pytest.fixture(scope="session")
def volumes():
    """Return the volumes of a case: a ball with a hot spot in it."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"))
    ball = (np.linalg.norm(grid, axis=0) < 0.8).astype(np.float32)
    spot = np.exp(-20 * ((grid - 0.3) ** 2).sum(0)).astype(np.float32)
    mri = 100 * ball * (1 + 0.2 * grid[0]).astype(np.float32)
    pet = 2 * ball + 5.5 * spot
    noise = rng.normal(size=SHAPE).astype(np.float32)
    fused = 0.5 * ball + 0.5 * spot
    return {
        "sources": (mri, pet + 0.1 * noise),
        "restored": (mri, pet),
        "fused": fused,
        "rgb": to_uint8(fuse_color(fused, pet / 8)),
        "weight": np.full(SHAPE, 0.5, np.float32),
        "affine": AFFINE,
        "pet_window": (0.0, 7.0),
        "residuals": (None, noise),
    }


@pytest.fixture(scope="session")
def make_record():
    """Return a function that makes a record of a case, with changes."""
    return _record


@pytest.fixture(scope="session")
def read_page():
    """Return a function that takes the text of a page apart."""
    return Page
