"""The results pages: what they say follows from the figures, and a goal that is missed is called missed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from results.goals import Goal
from results.page import infrared_visible, pet_mri
from results.tables import scoreboard

PAGES = Path(__file__).resolve().parents[1] / "docs" / "explanation"


def figures(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("values", "row"),
    [
        ({"a": 1.5, "b": 2.0}, ("1.50 to 2.00", "none")),
        ({"a": 1.499, "b": 4.0, "c": 3.001}, ("1.50 to 4.00", "**a 1.50, b 4.00, c 3.00**")),
        ({"a": -0.001}, ("0.00", "**a 0.00**")),
        ({"a": float("nan")}, ("nan", "**a nan**")),
    ],
)
def test_a_figure_beyond_its_bounds_is_missed(values, row):
    assert Goal("goal", values, least=1.5, most=3.0).row() == ("goal", *row)


def test_the_lead_is_that_over_the_best_method_that_is_no_floor():
    peer = {"SSIM_1": 0.5, "SSIM_2": 0.4}
    peers = {"A": {"VIF": 0.4, **peer}, "B": {"VIF": 0.5, **peer}, "maximum": {"VIF": 0.9, **peer}, "copy": dict(peer)}
    board = scoreboard({"VIF": {"mean": 0.45}}, peers, ("A", "B"), ("VIF",))
    assert board.lead("VIF") == pytest.approx(-0.1)
    assert board.ranks == {"B": 1.0, "medfuse": 2.0, "A": 3.0}


def test_the_pages_are_made_of_their_figures(shared_data):
    bench = shared_data.parent / "bench"
    results, peers, ablation = map(figures, (PAGES / "results.json", bench / "peers.json", PAGES / "ablation.json"))
    assert (PAGES / "results.md").read_text(encoding="utf-8") == pet_mri(results, peers, ablation)
    results, peers = map(figures, (PAGES / "results-infrared-visible.json", bench / "peers_irvis.json"))
    assert (PAGES / "results-infrared-visible.md").read_text(encoding="utf-8") == infrared_visible(results, peers)
