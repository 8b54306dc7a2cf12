"""The page of the architecture, held against the code."""

from __future__ import annotations

import inspect
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
