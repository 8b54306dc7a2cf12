"""The wheel: it holds what it should and nothing else, and finds its bundles where it is installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

import medfuse
from medfuse.bundles import bundle_names, preset_names

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = [p for p in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if p and not p.startswith("#")]
FIND = """
import json
from medfuse.bundles import bundle_dir, bundle_names, preset_names, share_dir
shipped = sorted(str(p.relative_to(share_dir())) for p in share_dir().rglob("*") if p.is_file())
print(json.dumps([str(share_dir()), bundle_names(), preset_names(), shipped]))
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command outside the checkout and return what it prints."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=clean | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a source distribution built from the checkout, offline."""
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", folder, cwd=ROOT)
    (path,) = folder.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel built from the checkout, offline."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=ROOT)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_is_pure_and_named_after_the_version(wheel: Path) -> None:
    assert wheel.name == f"medfuse-{medfuse.__version__}-py3-none-any.whl"


def test_wheel_and_sdist_say_that_the_package_is_typed(wheel: Path, sdist: Path) -> None:
    with ZipFile(wheel) as archive:
        assert "medfuse/py.typed" in archive.namelist()
    with tarfile.open(sdist) as archive:
        assert f"medfuse-{medfuse.__version__}/medfuse/py.typed" in archive.getnames()


def test_what_is_at_the_top_is_loaded_when_it_is_asked_for(tmp_path: Path) -> None:
    code = """
import sys, medfuse
heavy = {"torch", "monai", "numpy", "medfuse.pipeline"}
assert not heavy & set(sys.modules), "import medfuse must be cheap"
assert {"fuse", "load_fusion"} <= set(dir(medfuse)) and not hasattr(medfuse, "fused")
assert not heavy & set(sys.modules), "asking for names must be cheap"
from medfuse import fuse, load_fusion
from medfuse import pipeline
assert (fuse, load_fusion) == (pipeline.fuse, pipeline.load_fusion) == (medfuse.fuse, medfuse.load_fusion)
try:
    from medfuse import fused
except ImportError as error:
    print(error)
"""
    said = run(sys.executable, "-W", "ignore", "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert "cannot import name 'fused' from 'medfuse'" in said


def test_type_checkers_see_what_is_at_the_top_of_an_installed_package(wheel: Path, tmp_path: Path) -> None:
    """Of an installed package without `py.typed` mypy reads nothing (PEP 561)."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    with ZipFile(wheel) as archive:
        archive.extractall(site)
    lines = ("from medfuse import fuse, load_fusion", "reveal_type(load_fusion)", "reveal_type(fuse)")
    (tmp_path / "use.py").write_text("\n".join(lines), encoding="utf-8")
    flags = ["--python-executable", tmp_path / "venv" / "bin" / "python", "--cache-dir", tmp_path / "cache"]
    shown = run(sys.executable, "-m", "mypy", *flags, "--ignore-missing-imports", "use.py", cwd=tmp_path)
    assert re.search(r'"def \(bundle: .*device: .*\) -> medfuse\.pipeline\.bundle\.Fusion"', shown)
    assert re.search(r'"def \(pet: .*mri: .*\) -> medfuse\.pipeline\.result\.CaseResult"', shown)


def test_wheel_holds_package_bundles_configs_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"medfuse-{medfuse.__version__}.dist-info"
    assert {n.split("/")[0] for n in names} == {"medfuse", info}
    assert {n.split("/")[2] for n in names if n.startswith("medfuse/_share/")} == {"bundles", "configs"}
    assert f"{info}/licenses/LICENSE" in names
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "medfuse").rglob("*.py")}
    assert modules == {n for n in names if n.endswith(".py")}
    assets = {"niivue.min.js", "NIIVUE_LICENSE.txt", "viewer.js", "report.js", "group.js", "report.css"}
    assert {f"medfuse/report/assets/{name}" for name in assets} <= names
    for name in bundle_names():
        assert {f"medfuse/_share/bundles/{name}/configs/{kind}.json" for kind in ("metadata", "inference")} <= names
    assert not [n for n in names if "__pycache__" in n or n.endswith((".pyc", ".log"))]


def test_installed_wheel_finds_bundles_and_configs(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index"]
    run(*pip, "--target", target, wheel, cwd=tmp_path)
    share, bundles, presets, shipped = json.loads(run(sys.executable, "-c", FIND, cwd=tmp_path, PYTHONPATH=str(target)))
    assert Path(share) == target / "medfuse" / "_share"
    assert (bundles, presets) == (bundle_names(), preset_names())
    assert "pet_mri_fusion" in bundles
    assert {"bundles/pet_mri_fusion/configs/inference.json", "configs/degradation/none.yaml"} <= set(shipped)


@pytest.mark.full
def test_wheel_works_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    """A throw-away environment borrows the dependencies of this one; medfuse itself comes from the wheel."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    scripts, python = home / "bin", home / "bin" / "python"
    (site,) = (home / "lib").glob("python*/site-packages")
    # A .pth file comes after site-packages, and does not follow the .pth files of the folder that it names.
    borrowed = [p for p in map(Path, sys.path) if p.name == "site-packages"]
    (site / "borrowed.pth").write_text("\n".join(map(str, borrowed)), encoding="utf-8")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", wheel, cwd=tmp_path)
    share, *_ = json.loads(run(python, "-c", FIND, cwd=tmp_path))
    assert Path(share) == site / "medfuse" / "_share"
    printed = run(scripts / "medfuse", "info", cwd=tmp_path)
    assert medfuse.__version__ in printed
    assert str(site) in printed
    assert all(name in printed for name in bundle_names())


def test_bundles_load_neither_torch_nor_monai(tmp_path: Path) -> None:
    code = "import sys, medfuse.bundles; print(sorted({'torch', 'monai', 'numpy'} & set(sys.modules)))"
    assert run(sys.executable, "-c", code, cwd=tmp_path).strip() == "[]"


def test_constraints_pin_exactly_and_name_no_place() -> None:
    wrong = [p for p in PINS if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", p)]
    assert not wrong


def test_constraints_pin_every_direct_dependency() -> None:
    pinned = {_normal(p.split("==")[0]) for p in PINS}
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    wanted = {_normal(re.split(r"[^A-Za-z0-9._-]", d, maxsplit=1)[0]) for group in groups for d in group}
    assert wanted - {PROJECT["name"]} <= pinned


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("extra", sorted(set(PROJECT["optional-dependencies"]) - {"dev", "docs", "release"}))
def test_an_extra_is_asked_for_by_the_code_that_needs_it_and_told_in_the_docs(extra: str) -> None:
    """An extra that is another name of one is told where that is."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "medfuse").rglob("*.py"))
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    other = re.fullmatch(r"medfuse\[(\w+)\]", PROJECT["optional-dependencies"][extra][0])
    name = other[1] if other else extra
    assert f"medfuse[{name}]" in code and f"medfuse[{extra}]" in pages
    assert f'pip install "medfuse[{name}]"' in pages
    assert f"[{name}]" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_survives_an_index_page(wheel: Path, sdist: Path) -> None:
    """An index shows the description of the metadata, where a relative link leads nowhere: paths are of the sdist."""
    with ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        description = archive.read(name).decode().split("\n\n", 1)[1]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(description) > 0.9 * len(readme) and "Research use only" in description
    links = re.findall(r"\]\(([^)\s]+)\)", description)
    assert links and [link for link in links if not link.startswith("https://")] == []
    told = {path.split("#")[0] for path in re.findall(r"(?<!!)\[[^\]]*\]\((?!\w+:|#)([^)\s]+)\)", readme)}
    assert told and [path for path in told if f"(`{path}`)" not in description] == []
    with tarfile.open(sdist) as archive:
        held = {n.split("/", 1)[1] for n in archive.getnames() if "/" in n}
    assert [path for path in told if not any(n == path or n.startswith(f"{path}/") for n in held)] == []
