"""What became of the studies of a queue, and what is still to be sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medfuse.listen.queue import FAILED, Entry, Queue
from medfuse.progress import counted

ALL_DONE, SOME_FAILED, SOME_WAITING = 0, 1, 3
"""Exit codes, as those of a plan."""


@dataclass(frozen=True)
class QueueStatus:
    """What became of a queue.

    Attributes:
        entries: What the ledger says of each study that is settled.
        waiting: Ids of studies that are not settled, and the number of objects of each.
        unsent: Objects that wait to be sent, by study.
        refused: Objects that a peer refused for good, by study and peer.
        damaged: Objects in the outbox that cannot be read, by the name of their folder there.
    """

    entries: tuple[Entry, ...]
    waiting: dict[str, int]
    unsent: dict[str, int]
    refused: dict[tuple[str, str], int]
    damaged: dict[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> tuple[Entry, ...]:
        """What failed."""
        return tuple(entry for entry in self.entries if entry.state == FAILED)

    @property
    def exit_code(self) -> int:
        """`ALL_DONE`, `SOME_FAILED` where nothing waits, or `SOME_WAITING`."""
        if self.waiting or self.unsent:
            return SOME_WAITING
        return SOME_FAILED if self.failed or self.refused or self.damaged else ALL_DONE

    def lines(self) -> Iterator[str]:
        """Give the status in words."""
        count, failed = len(self.entries) + len(self.waiting), len(self.failed)
        fused, waiting = len(self.entries) - failed, len(self.waiting)
        yield f"{counted(count, 'study', 'studies')}: {fused:,} fused, {failed:,} failed, {waiting:,} waiting"
        for entry in self.failed:
            yield f"{entry.study} failed: {entry.message.splitlines()[0] if entry.message else ''}"
        for study, number in self.waiting.items():
            yield f"{study} waiting: {counted(number, 'object')}"
        for study, number in self.unsent.items():
            yield f"{study}: {counted(number, 'object')} to be sent"
        for (study, peer), number in self.refused.items():
            yield f"{study}: {counted(number, 'object')} refused by {peer}"
        for name, number in self.damaged.items():
            study = name.partition(".")[0]
            yield (
                f"{study}: {counted(number, 'result')} in outbox/{name} cannot be read; to have the study fused again, "
                f"stop the service, and remove outbox/{name} and ledger/{study}.json"
            )

    def record(self) -> dict[str, Any]:
        """Return the status for JSON."""
        return {
            "studies": [vars(entry) | {"warnings": list(entry.warnings)} for entry in self.entries],
            "waiting": self.waiting,
            "unsent": self.unsent,
            "refused": [{"study": s, "peer": p, "objects": n} for (s, p), n in self.refused.items()],
            "damaged": self.damaged,
        }


def queue_status(folder: str | Path) -> QueueStatus:
    """Look up what became of a queue; a service may be at work on it."""
    from medfuse.listen.outbox import SENT, Outbox

    queue = Queue(folder)
    studies = queue.list()
    waiting = {study: queue.count(study) for study in studies if queue.is_waiting(study)}
    entries = [e for study in studies if study not in waiting and (e := queue.entry(study)) is not None]
    outbox = Outbox(queue, queue.peers())
    parcels = outbox.parcels()
    unsent, refused = Counter[str](), Counter[tuple[str, str]]()
    for parcel, peer in ((parcel, peer) for parcel in parcels for peer in outbox.peers):
        unsent[parcel.study] += len(outbox.left(parcel, peer))
    damaged = {parcel.folder.name: len(files) for parcel in parcels if (files := outbox.read(parcel)[1])}
    for study in sorted({parcel.study for parcel in parcels}):
        answers = outbox.settled(study).items()
        refused.update((study, peer) for (_, peer), answer in answers if answer != SENT)
    open_ = {study: number for study, number in sorted(unsent.items()) if number}
    return QueueStatus(tuple(entries), waiting, open_, dict(refused), damaged)
