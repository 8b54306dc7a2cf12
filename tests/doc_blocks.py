"""Reads the fenced blocks of a page, and runs them in order, as a reader would, in one folder."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from medfuse import cli
from medfuse.bundles import bundle_names, load_spec
from medfuse.defaults import read_defaults
from medfuse.physics import in_plane, native_of, parse_degradation, parse_native

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "bundles").rglob("*.md")])
FENCE = re.compile(r"^```([\w-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELLS = ("bash", "shell", "sh")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the text of the page before it."""

    language: str
    text: str
    before: str

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block, one a line."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [" ".join(line.split()) for line in lines if line.partition("#")[0].strip()]

    @property
    def comments(self) -> list[str]:
        """What stands after `#` in it."""
        if self.language == "python":
            tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
            return [t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT]
        if self.language in (*SHELLS, "yaml"):
            return re.findall(r"(?:^|\s)# (.+)$", self.text, flags=re.MULTILINE)
        return []


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    text, found, end = page.read_text(encoding="utf-8"), [], 0
    for match in FENCE.finditer(text):
        found.append(Block(match[1], match[2], text[end : match.start()]))
        end = match.end()
    return found


def label(page: Path) -> str:
    """Return the path of a page in the repository."""
    return page.relative_to(ROOT).as_posix()


@dataclass
class Reader:
    """Somebody who runs the blocks of a page, one after the other.

    Attributes:
        folder: Where all of it takes place.
        start: Where each shell block begins, as the page says.
        full: Run what is expensive, too, and `python -m monai.bundle` in a process of its own.
        instead: What is run in place of a command, by its beginning; None for nothing.
        printed: What the last command or program printed.
        written: What the last block has added to the folder.
        names: What the programs of the page have defined.
        patched: Whether the page has changed medfuse: programs then run with the changed copy.
    """

    folder: Path
    start: Path
    full: bool
    instead: dict[str, str | None]
    costly: Callable[[str], bool]
    printed: str = ""
    written: set[Path] = field(default_factory=set)
    names: dict[str, Any] = field(default_factory=dict)
    patched: bool = False

    def run(self, block: Block) -> bool:
        """Run a block, and tell whether all of it ran."""
        before = self._files()
        try:
            return self._run(block)
        finally:
            self.written = self._files() - before

    def _files(self) -> set[Path]:
        return {p.relative_to(self.start) for p in self.start.rglob("*")}

    def _run(self, block: Block) -> bool:
        with contextlib.chdir(self.start):
            match block.language:
                case "python":
                    return self._program(block)
                case "bash" | "shell" | "sh":
                    return min([self._command(command) for command in block.commands])
                case "yaml":
                    self._specification(block)
                case "json":
                    self._data(block)
                case "diff":
                    self._patch(block)
                case "text":
                    self._claim(block)
                case other:
                    raise AssertionError(f"a block of the language {other!r} is not run")
        return True

    def _program(self, block: Block) -> bool:
        if self.costly(block.text) and not self.full:
            return False
        if self.patched:
            self._process(f"python -c {shlex.quote(block.text)}")
            return True
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(block.text, "block", "exec"), self.names)
        self.printed = out.getvalue()
        return True

    def _patch(self, block: Block) -> None:
        """Apply a change to a copy of the package, beside the bundles."""
        if not self.patched:
            shutil.copytree(ROOT / "medfuse", "medfuse", ignore=shutil.ignore_patterns("__pycache__"))
        self.patched = True
        done = subprocess.run(["git", "apply", "-"], input=block.text, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr

    def _command(self, command: str) -> bool:
        told = next((c for c in self.instead if command.startswith(c)), None)
        if told is not None:
            if (other := self.instead[told]) is None:
                return True
            command = other.format(command)
        if self.costly(command) and not self.full:
            return False
        if command.startswith("cd "):
            os.chdir(command.removeprefix("cd "))
        elif command.startswith("medfuse ") and "$" not in command:
            self._in_process(shlex.split(command, comments=True)[1:])
        else:
            self._process(command)
        return True

    def _in_process(self, words: list[str]) -> None:
        """The same function as that of the console script."""
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            code = cli.main(words)
        self.printed = out.getvalue()
        assert code == 0, f"medfuse {shlex.join(words)}: {err.getvalue()}"

    def _process(self, command: str) -> None:
        """By a shell, in which `python` and the scripts beside it are those of the tests."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "PYTHONPATH": str(self.start if self.patched else ROOT)}
        done = subprocess.run(
            ["bash", "-euc", command], env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        self.printed = done.stdout
        assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}{done.stdout[-500:]}"

    def _specification(self, block: Block) -> None:
        """Load a degradation, or a file of defaults, as the product does; a name in the first line is the file's."""
        name = re.match(r"# ([\w.]+\.yaml)\n", block.text)
        path = Path(name[1] if name else "block.yaml")
        path.write_text(block.text, encoding="utf-8")
        if "`medfuse/defaults.yaml`" in block.before:
            read_defaults(path)
            return
        spec = load_spec(path)
        if (native := native_of(spec)) is not None:
            parse_native(native)
        parse_degradation(in_plane(spec), spacing=((1.0, 1.0), (1.0, 1.0)), scale=(1.0, 1.0))

    def _data(self, block: Block) -> None:
        """Save a file that the text before it names, or build the part of a configuration."""
        content = yaml.safe_load(block.text)
        if "_target_" in content:
            parser = ConfigParser({"part": content})
            self.names["part"] = parser.get_parsed_content("part")
            return
        (name,) = NAMED & set(re.findall(r"`(\w+\.json)`", block.before))
        (Path(NAMED_IN[name]) / name).write_text(block.text, encoding="utf-8")

    def _claim(self, block: Block) -> None:
        """Hold what was printed against a block of output: `...` is any text, a number any number."""
        for line in block.text.splitlines():
            pattern = re.sub(r"\d+(?:\\\.\d+)*", r"[\\d.]+", re.escape(line)).replace(r"\.\.\.", r".*")
            assert re.search(f"^{pattern}$", self.printed, re.MULTILINE), f"{line!r} is not in:\n{self.printed}"


NAMED_IN = {"args.json": ".", "filter.json": ".", "suv.json": "STUDY/PET"}
NAMED = set(NAMED_IN)


def unclaimed(block: Block, printed: str) -> Iterator[str]:
    """Give the comments of a block that are not, literally, what it printed."""
    yield from (c for c in block.comments if not (block.language == "python" and c in printed.splitlines()))


def start_of(page: Path) -> str:
    """Return where the commands of a page are given: those of a bundle's page from the bundle's folder."""
    return next((f"bundles/{n}" for n in bundle_names() if page.is_relative_to(ROOT / "bundles" / n)), ".")
