"""The documentation: links lead somewhere, commands parse, configurations exist. Its blocks run in test_docs_run.py."""

from __future__ import annotations

import ast
import itertools
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from medfuse import cli
from medfuse.bundles import bundle_names, preset_names
from medfuse.pipeline import sha256

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "pet_mri_fusion"
BUNDLES = sorted(ROOT / "bundles" / name for name in bundle_names())
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "bundles").rglob("*.md")])
KINDS = {"tutorials", "how-to", "explanation", "reference"}
RUN_ARGUMENTS = {"run_id", "config_file", "bundle_root", "args_file", "meta_file", "logging_file"}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def prose(page: Path) -> str:
    """Return the text of a page without its fenced and indented blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^    .*$", "", text, flags=re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    fence = rf"^```{language}\n(.*?)^```"
    return re.findall(fence, page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[list[str]]:
    """Give the words of every command in the shell blocks of a page."""
    for block in blocks(page, "(?:bash|sh)"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def places(page: Path, name: str) -> tuple[Path, Path]:
    """Return where a file may lie that a page names: in the repository, or in the bundle of the page."""
    return ROOT / name, next((b for b in BUNDLES if page.is_relative_to(b)), BUNDLE) / name


def configuration(files: str, page: Path) -> dict[str, Any]:
    """Merge what `--config_file` names: paths in the repository or in the bundle, or a reader's own file."""
    names = ast.literal_eval(files) if files.startswith("[") else [files]
    merged: dict[str, Any] = {}
    for name in names:
        path = next((p for p in places(page, name) if p.is_file()), None)
        if path is None:
            assert "/" not in name, f"{name} is neither a file of the repository nor a plain example"
            continue
        merged |= yaml.safe_load(path.read_text(encoding="utf-8"))
    return merged


def test_all_four_kinds_of_pages_are_there() -> None:
    assert {p.name for p in (ROOT / "docs").iterdir() if p.is_dir()} >= KINDS
    linked = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for kind in KINDS:
        for page in (ROOT / "docs" / kind).glob("*.md"):
            assert f"({kind}/{page.name})" in linked


@pages
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), f"broken link: {target}"
        if anchor:
            assert anchor in anchors(path), f"no such heading: {target}"


@pages
def test_files_in_configs_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for prefix, name in re.findall(r"(bundles/[\w-]+/)?(configs/[\w./-]*\w\.(?:json|yaml|conf))", text):
        assert any(p.is_file() for p in places(page, prefix + name)), f"no such file: {prefix}{name}"


@pages
def test_command_lines_parse(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(page):
        if words[0] != "medfuse":
            continue
        try:
            own, _ = cli.split_passed(words[1 : words.index(">")] if ">" in words else words[1:])
            options = cli._parser().parse_args(own)
        except SystemExit:
            pytest.fail(f"{shlex.join(words)}: {capsys.readouterr().err}")
        degradation = getattr(options, "degradation", None) or "none"
        assert degradation in preset_names() or degradation.endswith((".yaml", ".yml", ".json"))


@pages
def test_keys_of_bundle_runs_exist(page: Path) -> None:
    """MONAI takes a misspelt key without a word."""
    for words in commands(page):
        if words[:4] != ["python", "-m", "monai.bundle", "run"]:
            continue
        options = dict(itertools.pairwise(words))
        if "--args_file" in options:
            continue
        config = configuration(options["--config_file"], page)
        run_id = "run" if len(words) < 5 or words[4].startswith("--") else words[4]
        assert run_id in config
        for word in words:
            key = re.split("#|::", word.removeprefix("--"))[0]
            assert not word.startswith("--") or key in RUN_ARGUMENTS | set(config), f"no such key: {word}"


@pages
def test_python_blocks_compile(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")


def test_configuration_page_names_every_preset_overlay_and_value() -> None:
    text = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
    for name in preset_names():
        assert f"| `{name}` |" in text
    for overlay in (ROOT / "configs" / "run").glob("*.yaml"):
        assert f"`configs/run/{overlay.name}`" in text
    config = json.loads((BUNDLE / "configs" / "inference.json").read_text(encoding="utf-8"))
    for key, default in config.items():
        plain = isinstance(default, bool | int | float | str | None) and not str(default).startswith(("$@net", "%"))
        if plain and key != "network":
            assert f"| `{key}` |" in text


def test_tests_that_pages_name_exist() -> None:
    """A file, or a function of the file that is named before it in the same row or paragraph."""
    named = 0
    for page in [*PAGES, ROOT / "findings" / "README.md", ROOT / "CONTRIBUTING.md"]:
        for line in page.read_text(encoding="utf-8").splitlines():
            file = None
            for word in re.findall(r"`((?:tests/[\w/]+\.py)|test_\w+)`", line):
                if word.endswith(".py"):
                    file = ROOT / word
                    assert file.is_file(), f"{page.name}: {word}"
                elif file is not None:
                    assert f"def {word}(" in file.read_text(encoding="utf-8"), f"{page.name}: {word} in {file.name}"
                    named += 1
    assert named > 30


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda p: p.name)
def test_the_bundles_licence_is_that_of_the_code(bundle: Path) -> None:
    assert (bundle / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


RESULTS = {
    "pet_mri_fusion": (ROOT / "docs/explanation/results.json", "function degraded"),
    "ir_vis_fusion": (ROOT / "docs/explanation/results-infrared-visible.json", "infrared degraded"),
}


@pytest.mark.parametrize("bundle", RESULTS)
def test_figures_of_the_results_are_those_of_the_weights_that_are_shipped(bundle):
    results = json.loads(RESULTS[bundle][0].read_text(encoding="utf-8"))
    assert results["weights_sha256"] == sha256(ROOT / "bundles" / bundle / "models" / "model.pt")


@pytest.mark.parametrize("bundle", RESULTS)
@pytest.mark.parametrize("page", [ROOT / "README.md", None], ids=["README", "bundle"])
def test_figures_that_a_page_repeats_are_those_of_the_results(bundle, page):
    path, column = RESULTS[bundle]
    page = page or ROOT / "bundles" / bundle / "docs" / "README.md"
    scenarios = json.loads(path.read_text(encoding="utf-8"))["scenarios"]
    table = next(t for t in page.read_text(encoding="utf-8").split("\n\n") if t.startswith("| PSNR") and column in t)
    rows = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ["noise", "blur", "composite"]
    for scenario, *figures in rows:
        found = scenarios[scenario]["3"]
        known = [f"{found[key]['mean']:.2f}" for key in ("d1_PSNR", "r1_PSNR", "d2_PSNR", "r2_PSNR")]
        assert [figures[k] for k in (0, 2, 3, 5)] == known
