"""What a malformed input is, and what becomes of it.

A case is a sound input and one damage. It goes through the command line's own function, in one process for all cases,
within a bound of time and memory, and ends in one of five ways:

    refused     one sentence of ours, and nothing written
    harmless    accepted, and every result equal, byte for byte, to that of the sound input
    warned      accepted, a result differs, and a warning says why that the sound input does not have
    silent      accepted, and a result differs without a word
    traceback   another exception, a crash, no end within the time, or files where none may be
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import resource
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

SECONDS = 600.0  # for one case, on a busy machine; seconds on an idle one
MEMORY = 3 << 30  # bytes, beyond what the programs themselves take
KINDS = ("refused", "harmless", "warned", "silent", "traceback")
_RESULTS = (".gz", ".png", ".npy")

Write = Callable[[Path], object]


@dataclass(frozen=True)
class Way:
    """A way in: commands, with IN and OUT for the folders, and what writes a sound input."""

    sound: Write
    commands: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Case:
    """One damage to the sound input of a way."""

    family: str
    name: str
    way: Way = field(repr=False)
    damage: Write = field(repr=False)


@dataclass(frozen=True)
class Outcome:
    """How a case ended, in how many seconds, and what was said."""

    kind: str
    text: str
    seconds: float = 0.0


def judge(case: Case) -> Outcome:
    """Run a case in this process."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "work"
        try:
            code, text, results, strays = _run(case.way, case.damage, root)
        except BaseException:
            return Outcome("traceback", traceback.format_exc())
    errors = [line for line in text.splitlines() if line.startswith("medfuse: ")]
    if strays:
        return Outcome("traceback", f"files where none may be: {strays}")
    if code:
        # of a batch, and of folders of images, the others may be sound
        whole = _sound(case.way)[0]
        rest = all(set(digests) <= set(whole.get(folder, ())) for folder, digests in results.items())
        clean = not results or (code == 1 and rest)
        explained = errors and len(errors[0]) < 2000
        return Outcome("refused" if clean and explained else "traceback", errors[0] if errors else text)
    sound, said = _sound(case.way)
    if results == sound:
        return Outcome("harmless", text)
    return Outcome("warned" if _warnings(text) - _warnings(said) else "silent", text)


def _warnings(text: str) -> set[str]:
    return {line for line in text.splitlines() if line.startswith("medfuse: warning: ")}


def _run(way: Way, damage: Write, root: Path) -> tuple[int, str, dict[str, list[str]], list[str]]:
    """Return exit code, what was printed, the hash of each result, and files that may not be there."""
    from medfuse import cli

    source, out = root / "in", root / "out"
    source.mkdir(parents=True)
    way.sound(source)
    damage(source)
    places = {"IN": str(source), "OUT": str(out)}
    said = io.StringIO()
    for command in way.commands:
        arguments = [places.get(a, a.replace("IN/", f"{source}/")) for a in command]
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = cli.main(arguments)
    files = [p for p in out.rglob("*") if p.is_file()] if out.is_dir() else []
    results: dict[str, list[str]] = {}
    for path in sorted(files):
        if (
            path.suffix in _RESULTS and path.name != "contact_sheet.png"
        ):  # a name may differ, as where it is what is hostile
            results.setdefault(str(path.relative_to(out).parent), []).append(_digest(path))
    strays = [p.name for p in root.parent.iterdir() if p != root] + [
        p.name for p in root.iterdir() if p not in (source, out)
    ]
    strays += [p.name for p in files if p.name.startswith(".tmp") or p.name == "error.txt"]
    if code == 2:
        strays += [p.name for p in files]
    for digests in results.values():
        digests.sort()
    return code, said.getvalue(), results, strays


@cache
def _sound(way: Way) -> tuple[dict[str, list[str]], str]:
    """Return the results of the sound input, and what was said."""
    with tempfile.TemporaryDirectory() as folder:
        code, text, results, strays = _run(way, lambda source: None, Path(folder) / "work")
    if code or not results or strays:
        raise AssertionError(f"the sound input must be accepted, got {code}: {text}")
    return results, text


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Worker:
    """A process that judges cases by their number; one that crashes or does not end is replaced."""

    def __init__(self, cases: list[Case]) -> None:
        self._cases = cases
        self._start()

    def __call__(self, number: int) -> Outcome:
        started = time.perf_counter()
        self._pipe.send(number)
        try:
            outcome = (
                self._pipe.recv() if self._pipe.poll(SECONDS) else Outcome("traceback", f"no end in {SECONDS:g} s")
            )
        except (EOFError, OSError):
            outcome = Outcome("traceback", "the process died")
        if outcome.text in ("the process died", f"no end in {SECONDS:g} s"):
            self.stop()
            self._start()
        return Outcome(outcome.kind, outcome.text, time.perf_counter() - started)

    def stop(self) -> None:
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")  # cases need not be pickled; nothing has started threads yet
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(far, self._cases), daemon=True)
        self._process.start()
        far.close()
        self._pipe.recv()  # that the sound inputs are accepted


def _serve(pipe, cases: list[Case]) -> None:
    import torch

    from medfuse.diffusion import FusionModel
    from medfuse.diffusion.unet import FusionUNet
    from medfuse.inferers import FusionInferer
    from medfuse.pipeline import SaveFusiond, write_outputs

    def write(self, result, folder):  # pictures and pages take most of the time, and read nothing
        quick = [output for output in self.outputs if output.name not in ("mosaic", "preview", "report")]
        write_outputs(result, folder, quick)

    torch.manual_seed(0)
    small = FusionModel(FusionUNet(widths=(8, 8), encoder_blocks=(1, 1), decoder_blocks=(1,), embedding=8)).eval()
    fuse = FusionInferer.__call__  # by a network that needs no time, and stays where weights are being changed
    FusionInferer.__call__ = lambda self, inputs, network, **options: fuse(self, inputs, small, **options)
    SaveFusiond.write = write
    for way in {case.way for case in cases}:
        _sound(way)
    if Path("/proc/self/statm").is_file():
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    pipe.send("ready")
    while True:
        pipe.send(judge(cases[pipe.recv()]))


def cut(name: str, fraction: float) -> Write:
    """Return the damage that keeps a part of a file."""

    def damage(folder: Path) -> None:
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * fraction)])

    return damage


def flip(name: str, byte: int, bit: int) -> Write:
    """Return the damage that flips one bit of a file; a negative byte counts from its end."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[byte] ^= 1 << bit
        (folder / name).write_bytes(content)

    return damage


def put(name: str, content: bytes | str | Callable[[], bytes]) -> Write:
    """Return the damage that replaces a file; large contents are made when they are needed."""

    def damage(folder: Path) -> None:
        data = content() if callable(content) else content
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    return damage


def drop(name: str) -> Write:
    """Return the damage that removes a file or folder."""

    def damage(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage
