"""Studies are fused in a process of their own, which loads the bundle once.

What a study does to it, be it a fault of a decoder or more memory than there is, ends this process alone: the service
goes on to receive, and starts another. It ends with the service, too, however that ends.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from medfuse.errors import MedfuseError, known_error

_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class How:
    """How studies are fused.

    Attributes:
        loading: Arguments of `medfuse.pipeline.load_workflow`.
        frames: Frames of dynamic PETs, see `medfuse.io.frames`.
        limit: Time that a study may take, s.
    """

    loading: Mapping[str, Any]
    frames: str | None = None
    limit: float = 3600.0


@dataclass(frozen=True)
class Outcome:
    """What became of a study.

    Attributes:
        study: Its id.
        message: Why it failed; empty where it was fused.
        warnings: Of the fusion.
        is_unstored: Whether it failed for the disk, and may be tried again.
        died: Whether the process ended with it.
    """

    study: str
    message: str = ""
    warnings: tuple[str, ...] = ()
    is_unstored: bool = False
    died: bool = False


class Worker:
    """The process. One study at a time: `begin` it, and ask for its `outcome`.

    Args:
        results: Folder for the results.
        how: How studies are fused.
    """

    def __init__(self, results: Path, how: How) -> None:
        self._results, self._how = results, how
        self._process: Any = None
        self._pipe: Connection | None = None
        self.study: str | None = None
        self._last = 0.0

    def start(self) -> None:
        """Start the process, and wait until the bundle is loaded.

        Raises:
            MedfuseError: It cannot be.
        """
        self.stop()
        self._pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(
            target=_work, args=(theirs, str(self._results), self._how), name="medfuse-work", daemon=True
        )
        self._process.start()
        theirs.close()
        try:
            problem = self._pipe.recv()
        except EOFError:
            problem = "it ended; is there memory enough?"
        if problem:
            self.stop()
            raise MedfuseError(f"The bundle must be one that can be loaded, got: {problem}")

    def begin(self, study: str, folder: Path) -> None:
        """Have a study fused.

        Args:
            study: Its id.
            folder: Of its objects.

        Raises:
            MedfuseError: The process ended before, and cannot be started anew.
        """
        if self._process is None or not self._process.is_alive():
            self.start()
        self.study, self._last = study, time.monotonic() + self._how.limit
        with suppress(OSError):  # it has ended since: `outcome` says so
            self._sender.send((study, str(folder)))

    def outcome(self, wait: float) -> Outcome | None:
        """Return what became of the study that was begun; None while it is fused.

        One that takes longer than it may has failed, and its process ends.

        Args:
            wait: For how long, s.
        """
        study = self.study or ""
        try:
            if not self._sender.poll(wait):
                if time.monotonic() < self._last:
                    return None
                self.stop()
                self.study = None
                return Outcome(study, message=_late(self._how.limit))
            found: Outcome = self._sender.recv()
        except (EOFError, OSError):
            self._process.join(10)
            self.study = None
            return Outcome(study, message=_ended(self._process.exitcode), died=True)
        self.study = None
        return found

    def stop(self) -> None:
        """End the process at once; a study that is fused is left as it was before."""
        if self._process is not None:
            self._process.kill()
            self._process.join(10)
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    @property
    def _sender(self) -> Connection:
        if self._pipe is None:
            raise OSError("the process was not started")
        return self._pipe


def _ended(code: int | None) -> str:
    """Return how a process ended that fused a study."""
    how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
    return f"The study must leave the program whole, got one with which it ended {how}; is there memory enough?"


def _late(limit: float) -> str:
    return (
        f"The study must be fused within {limit:g} s, got one that was not; raise --time-limit, and start the service "
        "with --again."
    )


def _work(pipe: Connection, results: str, how: How) -> None:
    """Fuse what comes through a pipe, until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # those who start and stop it do so by its parent
        signal.signal(number, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)  # what is to be said is in the ledger
    warnings.simplefilter("ignore")
    tqdm.set_lock(threading.RLock())  # its own is one between processes, which outlives a process that is ended
    tasks: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, tasks), daemon=True).start()
    try:
        from medfuse.pipeline import load_workflow

        workflow = load_workflow(**how.loading)
        basis = workflow.basis
    except Exception as error:
        known = known_error(error)
        pipe.send(str(known) if known else f"an unexpected error ({type(error).__name__})")
        return
    pipe.send("" if basis else "no weights")
    while True:
        pipe.send(_fused(workflow, *tasks.get(), results, how.frames))


def _listen(pipe: Connection, tasks: queue.SimpleQueue[tuple[str, str]]) -> None:
    """Pass tasks on; end the process when the other end of the pipe is closed, as when the service was killed."""
    while True:
        try:
            tasks.put(pipe.recv())
        except (EOFError, OSError):
            sys.stderr.flush()
            os._exit(0)


def _fused(workflow: Any, study: str, folder: str, results: str, frames: str | None) -> Outcome:
    from medfuse.pipeline.batch import fuse_case

    keys = workflow.writer.source_keys
    item: dict[str, Any] = {"case": study} | dict.fromkeys(keys, folder)
    if frames is not None:
        item[f"{keys[1]}_frames"] = frames
    try:
        summary = fuse_case(workflow, item, results)
    except Exception as error:
        known = known_error(error)
        return Outcome(study, str(known) if known else f"an unexpected error ({type(error).__name__})")
    told = tuple(summary.warned.get(study, ()))
    return Outcome(study, summary.failed.get(study, ""), told, study in summary.unstored)
