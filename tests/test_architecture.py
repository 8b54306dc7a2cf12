"""The page of the architecture, held against the code."""

from __future__ import annotations

import inspect
import json
import runpy
from pathlib import Path

import pytest
import yaml

from medfuse.diffusion import sample

ROOT = Path(__file__).resolve().parents[1]


def test_the_drawing_is_that_of_the_code():
    pytest.importorskip("grimp")
    drawing = runpy.run_path(str(ROOT / "docs" / "explanation" / "draw_architecture.py"))
    assert "physics" in drawing["draw"]()
    assert drawing["PICTURE"].read_text(encoding="utf-8") == drawing["draw"](), "draw it anew"


def test_the_page_names_every_room():
    rooms = {p.stem for p in (ROOT / "medfuse").glob("[a-z]*") if p.is_dir() or p.suffix == ".py"} - {"errors"}
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    assert not [room for room in sorted(rooms) if f"`{room}" not in page]


def test_the_sampler_has_at_most_six_parameters():
    assert len(inspect.signature(sample).parameters) <= 6


def test_pre_commit_runs_what_make_lint_runs():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\nlint:")[1].split("\n\n")[0]
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()[1:]]
    assert [hook["entry"] for hook in hooks] == commands


def test_the_picture_of_the_speed_is_that_of_its_history():
    folder = ROOT / "docs" / "reference"
    drawing = runpy.run_path(str(folder / "draw_speed.py"))
    picture = drawing["draw"](json.loads((folder / "speed.json").read_text()))
    assert picture == (ROOT / "docs" / "images" / "speed.svg").read_text(), "run docs/reference/draw_speed.py"
    two = [
        {"version": "1", "against": "0.1", "equal": False, "date": "2026-01-01", "rows": [{"name": "a<b", "ratio": r}]}
        for r in (2.0, 4.0)
    ]
    assert drawing["draw"](two).count("<rect") == 2  # the ground, and the last of one name
    assert "a&lt;b" in drawing["draw"](two) and ">4.00<" in drawing["draw"](two)
