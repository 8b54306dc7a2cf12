"""What is to be sent, to whom, and what was: results wait on the disk until each peer has each object.

    QUEUE/outbox/STUDY.VERSION/*.dcm   the results of a version of a study, as links, until all are sent
    QUEUE/outbox/STUDY.VERSION/begun   something of it may have been sent
    QUEUE/sent/STUDY.tsv               a line for each object and peer that has it, or refused it for good

A line is written when a peer has answered. After a kill in between the object is sent again, with the same UID and the
same bytes, which the peer knows by then. What a later version of a study has in common with an earlier one, UID by UID,
is sent once.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.tag import Tag

from medfuse.io.atomic import atomic_folder, flush
from medfuse.listen.queue import Queue, link

SENT = "sent"
_BEGUN = "begun"
_INSTANCE = Tag("SOPInstanceUID")


@dataclass(frozen=True)
class Parcel:
    """Results of a version of a study, on their way.

    Attributes:
        folder: Where they lie.
        study: Id of the study.
    """

    folder: Path
    study: str

    @property
    def files(self) -> list[Path]:
        """The objects, in order."""
        return sorted(self.folder.glob("*.dcm"))


class Outbox:
    """The results that wait to be sent.

    Args:
        queue: Where they come from.
        peers: Names of those who get them.
    """

    def __init__(self, queue: Queue, peers: Sequence[str]) -> None:
        self.queue, self.peers = queue, tuple(peers)
        self._lock = threading.Lock()

    def put(self, study: str, version: str, series: Iterable[Path]) -> int:
        """Put the results of a version of a study in, and return the number of their objects.

        An earlier version of which nothing was sent is taken out: these results replace it.

        Args:
            study: Its id.
            version: Of its objects.
            series: Folders of DICOM objects.
        """
        files = [path for folder in sorted(series) for path in sorted(folder.glob("*.dcm"))]
        target = self.queue.outbox / f"{study}.{version}"
        if self.peers and files:
            with self._lock:
                for parcel in list(self._parcels()):
                    if parcel.study == study and parcel.folder != target and not (parcel.folder / _BEGUN).exists():
                        shutil.rmtree(parcel.folder, ignore_errors=True)
                if not target.exists():
                    with atomic_folder(target) as temporary:
                        for number, file in enumerate(files):
                            link(file, temporary / f"{number:05d}.dcm")
                    flush(self.queue.outbox)
        return len(files)

    def parcels(self) -> list[Parcel]:
        """Return what is not sent yet: what was begun, then that of the oldest results, first."""

        def age(parcel: Parcel) -> tuple[bool, int, str]:
            waiting = not (parcel.folder / _BEGUN).exists()
            with suppress(FileNotFoundError):
                return waiting, parcel.folder.stat().st_ctime_ns, parcel.study
            return waiting, 0, parcel.study

        return sorted(self._parcels(), key=age)

    def left(self, parcel: Parcel, peer: str) -> dict[str, Path]:
        """Return the objects of a parcel that a peer has not answered for yet, by UID; those that can be read."""
        settled = self.settled(parcel.study)
        return {uid: path for uid, path in self.read(parcel)[0].items() if (uid, peer) not in settled}

    def read(self, parcel: Parcel) -> tuple[dict[str, Path], list[Path]]:
        """Return the objects of a parcel by UID, and files that are none: something has damaged them."""
        objects: dict[str, Path] = {}
        damaged: list[Path] = []
        with suppress(FileNotFoundError):  # it was replaced by a newer one
            for path in parcel.files:
                uid = instance_of(path)
                if uid is None:
                    damaged.append(path)
                else:
                    objects[uid] = path
            return objects, damaged
        return {}, []

    def begin(self, parcel: Parcel) -> bool:
        """Note that something of a parcel may have been sent from now on; return whether it is still there."""
        with self._lock:
            if not parcel.folder.is_dir():
                return False
            (parcel.folder / _BEGUN).touch()
            flush(parcel.folder)
            return True

    def settle(self, parcel: Parcel, uid: str, peer: str, answer: str = SENT) -> None:
        """Note that a peer has an object, or why it will not have it."""
        with self._lock:
            path = self.queue.sent / f"{parcel.study}.tsv"
            is_new = not path.exists()
            with path.open("ab") as file:
                if not _ends_a_line(path):
                    file.write(b"\n")  # a kill has cut the last line short
                file.write(f"{uid}\t{peer}\t{answer}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                flush(self.queue.sent)

    def settled(self, study: str) -> dict[tuple[str, str], str]:
        """Return the answers of peers to the results of a study, by UID and peer."""
        try:
            lines = (self.queue.sent / f"{study}.tsv").read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return {}
        rows = (line.split("\t") for line in lines)
        return {(row[0], row[1]): row[2] for row in rows if len(row) == 3 and row[2]}

    def forget_refusals(self) -> None:
        """Forget what peers refused: it is sent once more, where its parcel is still there."""
        for path in self.queue.sent.glob("*.tsv"):
            text = path.read_text(encoding="utf-8")
            kept = "".join(f"{line}\n" for line in text.splitlines() if line.endswith(f"\t{SENT}"))
            if kept != text:
                temporary = path.with_suffix(".new")
                temporary.write_text(kept, encoding="utf-8")
                flush(temporary)
                temporary.replace(path)

    def close(self, parcel: Parcel) -> bool:
        """Take out a parcel of which every peer has every object; return whether it was.

        One of which a peer refused something stays, for `forget_refusals`; one with a damaged object, for people.
        """
        settled = self.settled(parcel.study)
        with self._lock:
            objects, damaged = self.read(parcel)
            if not objects or damaged or any(settled.get((u, peer)) != SENT for u in objects for peer in self.peers):
                return False
            shutil.rmtree(parcel.folder, ignore_errors=True)
        return True

    def _parcels(self) -> Iterator[Parcel]:
        for folder in self.queue.outbox.iterdir() if self.queue.outbox.is_dir() else ():
            study, _, version = folder.name.partition(".")
            if study and version:  # no temporary one
                yield Parcel(folder, study)


def instance_of(path: Path) -> str | None:
    """Return the SOP Instance UID of a result; None where it cannot be read.

    Raises:
        FileNotFoundError: It is not there.
    """
    try:
        return str(dcmread(path, specific_tags=[_INSTANCE], stop_before_pixels=True)[_INSTANCE].value)
    except FileNotFoundError:
        raise
    except Exception:  # pydicom has many for what is broken
        return None


def _ends_a_line(path: Path) -> bool:
    """Return whether a file ends with a line, or is empty: a full disk leaves one, and so do forgotten refusals."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
