"""The service: it receives, waits until a study is whole, has it fused, and has the results sent."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medfuse.errors import MedfuseError
from medfuse.io.places import DICOM_FOLDER
from medfuse.listen.outbox import Outbox
from medfuse.listen.peers import Peer
from medfuse.listen.queue import FAILED, FUSED, Entry, Queue
from medfuse.listen.receive import Entrance, Receiver
from medfuse.listen.send import Sender
from medfuse.listen.work import How, Outcome, Worker
from medfuse.progress import LINES

_logger = logging.getLogger(LINES)
_TICK = 0.2  # s
_PAUSE = 10.0  # s, after the disk was full
_DEATHS = 2  # times that a study may end the process that fuses it


@dataclass(frozen=True)
class Dispatch:
    """Where results go.

    Attributes:
        peers: Who gets them.
        series: Names of the series that are sent, such as `fused_rgb`; all where none is named.
        header: File with the value of the Authorization header for STOW-RS.
        pause: Before a second try, s; it doubles with each.
    """

    peers: tuple[Peer, ...] = ()
    series: tuple[str, ...] = ()
    header: Path | None = None
    pause: float = 5.0


@dataclass
class _Waiting:
    """Studies that are not fused yet: when each last changed, by a clock that nobody can set back."""

    stable: float
    changed: dict[str, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, study: str, pause: float = 0.0) -> None:
        with self.lock:
            self.changed[study] = time.monotonic() + pause

    def next(self, last: Mapping[str, int]) -> str | None:
        """Return the study that has been whole for longest, of those that have done least harm."""
        with self.lock:
            ripe = [s for s, changed in self.changed.items() if time.monotonic() - changed >= self.stable]
            return min(ripe, key=lambda s: (last[s], self.changed[s], s), default=None)

    def take(self, study: str) -> None:
        with self.lock:
            self.changed.pop(study, None)


class Service:
    """The service around a queue.

    Args:
        queue: It, open.
        entrance: Who may send studies.
        dispatch: Where results go.
        stable: A study is whole when nothing of it has come for so long, s.
        how: How studies are fused.
    """

    def __init__(self, queue: Queue, entrance: Entrance, dispatch: Dispatch, *, stable: float, how: How) -> None:
        self.queue, self.dispatch = queue, dispatch
        self.stop = threading.Event()
        self._waiting = _Waiting(stable)
        self._deaths: Counter[str] = Counter()
        self._receiver = Receiver(queue, entrance, self._waiting.note)
        self._outbox = Outbox(queue, [peer.text for peer in dispatch.peers])
        self._worker = Worker(queue.results, how)
        timing = {"timeout": entrance.timeout, "pause": dispatch.pause}
        self._senders = [
            Sender(
                self._outbox, peer, aet=entrance.aet, tls=entrance.tls, header=dispatch.header, stop=self.stop, **timing
            )
            for peer in dispatch.peers
        ]

    def start(self, *, again: bool = False) -> tuple[str, int]:
        """Load the bundle, take up what is waiting, and listen; return address and port.

        Args:
            again: Also take up what failed, and send what was refused once more.

        Raises:
            MedfuseError: The bundle, the address or a file cannot be used.
        """
        self._worker.start()
        self.queue.note_peers(self._outbox.peers)
        if again:
            self._outbox.forget_refusals()
        for study in self.queue.list():
            entry = self.queue.entry(study)
            if self.queue.is_waiting(study) or (again and entry is not None and entry.state == FAILED):
                self._waiting.note(study)
        where = self._receiver.start()
        for sender in self._senders:
            sender.start()
        return where

    def run(self) -> None:
        """Work until `stop` is set, and end in order."""
        try:
            while not self.stop.is_set():
                study = self._waiting.next(self._deaths)
                if study is None:
                    self.stop.wait(_TICK)
                else:
                    self._fuse(study)
        finally:
            self.end()

    def end(self) -> None:
        """Stop receiving, sending and fusing."""
        self.stop.set()
        self._receiver.stop()
        for sender in self._senders:
            sender.finish()
        self._worker.stop()
        for sender in self._senders:
            if sender.is_alive():
                sender.join(10)

    def _fuse(self, study: str) -> None:
        """Fuse a study, and note what became of it; no error of a study leaves this."""
        self._waiting.take(study)  # what arrives from here on is noted anew
        started = time.monotonic()
        try:
            folder, version = self.queue.snapshot(study)
            entry = self.queue.entry(study)
            if not any(folder.iterdir()) or (entry and (entry.version, entry.state) == (version, FUSED)):
                return  # an object came between `take` and `snapshot`
            self._worker.begin(study, folder)
            outcome = None
            while outcome is None:
                if self.stop.is_set():
                    return
                outcome = self._worker.outcome(_TICK)
            self._settle(outcome, version, time.monotonic() - started)
        except (MedfuseError, OSError) as error:
            reason = str(error) if isinstance(error, MedfuseError) else (error.strerror or type(error).__name__).lower()
            _logger.error("%s is tried again later: %s", study, reason)
            self._waiting.note(study, pause=_PAUSE)
        finally:
            self.queue.drop_snapshot(study)

    def _settle(self, outcome: Outcome, version: str, seconds: float) -> None:
        """Put the results into the outbox, and then into the ledger what became of a study."""
        study, message = outcome.study, outcome.message
        if outcome.died:
            self._deaths[study] += 1
            if self._deaths[study] < _DEATHS:
                _logger.error("%s is tried again when others are done: %s", study, message)
                self._waiting.note(study)
                return
        if outcome.is_unstored:
            raise MedfuseError(message)
        state, count = (FAILED, 0) if message else (FUSED, self._outbox.put(study, version, self._series(study)))
        self.queue.note(Entry(study, version, state, message, outcome.warnings, round(seconds, 3), count))
        if message:
            _logger.error("%s failed: %s", study, message)
            return
        _logger.info("%s fused in %.1f s, warnings: %d", study, seconds, len(outcome.warnings))
        for sender in self._senders:
            sender.wake.set()

    def _series(self, study: str) -> Sequence[Path]:
        """Return the folders of the series of a study that are sent."""
        folder, names = self.queue.results / study / DICOM_FOLDER, self.dispatch.series
        if not folder.is_dir():  # an overlay may leave DICOM out
            return []
        return [path for path in folder.iterdir() if path.is_dir() and (not names or path.name in names)]
