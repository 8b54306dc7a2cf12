"""What a service knows, on the disk: objects that were received, and what became of each study.

    QUEUE/queue.json, peers.json       what this folder is, and who gets the results
    QUEUE/incoming/                    objects on their way in; what lies here was not acknowledged
    QUEUE/studies/STUDY/*.dcm          objects that were received, whole
    QUEUE/work/STUDY/                  those that are fused at this time, as links
    QUEUE/results/STUDY/               what `medfuse batch` writes of a case
    QUEUE/ledger/STUDY.json            what became of a study
    QUEUE/outbox/, QUEUE/sent/         see `medfuse.listen.outbox`

A study is called `study-` and 16 digits of the SHA-256 of its UID, an object 16 of its UID and 16 of its content: no
name says who the patient is, and the names of a folder say what is in it. What a study consists of, its version, is the
digest of these names. A version that the ledger does not name is to be fused; there is no other list.

Every step is one rename, and what it moves is on the disk before. So a kill at any time leaves the queue as it was
before a step, or after it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medfuse.about import NOTICE
from medfuse.errors import MedfuseError
from medfuse.io.atomic import flush, write_json
from medfuse.io.claims import Claim, claim

FUSED, FAILED = "fused", "failed"
"""States in the ledger."""
_MARK, _PEERS = "queue.json", "peers.json"
_FORMAT = 1
_STUDY = re.compile(r"study-[0-9a-f]{16}")
_OBJECT = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})(\.result)?\.dcm")


@dataclass(frozen=True)
class Entry:
    """What the ledger says of a study.

    Attributes:
        study: Its id.
        version: Of which objects this is said, see `Queue.version`.
        state: `FUSED` or `FAILED`.
        message: Why it failed.
        warnings: Of the fusion.
        seconds: That it took.
        results: DICOM objects that it gave.
    """

    study: str
    version: str
    state: str
    message: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    results: int = 0


def study_id(uid: str) -> str:
    """Return what a study is called, by its UID."""
    return f"study-{_digits(uid.encode())}"


def is_queue(folder: str | Path) -> bool:
    """Return whether a folder is a queue."""
    return (Path(folder) / _MARK).is_file()


class Queue:
    """The folder of a service.

    Args:
        folder: It.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.incoming, self.studies, self.work = (self.folder / n for n in ("incoming", "studies", "work"))
        self.results, self.ledger = self.folder / "results", self.folder / "ledger"
        self.outbox, self.sent = self.folder / "outbox", self.folder / "sent"
        self._placing = threading.Lock()

    def open(self) -> Claim:
        """Make the folder a queue if it is none, claim it for this process, and clear away what a kill has left.

        Raises:
            MedfuseError: It holds something else, or another process has it.
            OSError: It cannot be written to.
        """
        if self.folder.exists() and not is_queue(self.folder) and (self.folder.is_file() or any(self._foreign())):
            raise MedfuseError("QUEUE must be a new folder or a queue, got a folder with other files; choose another.")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # objects come with names of patients
        held = claim(self.folder / "service")
        if held is None:
            raise MedfuseError("QUEUE must be of one service, got one that another holds; stop it, or choose another.")
        if is_queue(self.folder):
            self._require_known()
        else:
            write_json(self.folder / _MARK, {"format": _FORMAT, "notice": NOTICE}, durable=True)
        for path in (self.incoming, self.work):
            shutil.rmtree(path, ignore_errors=True)
        for path in (
            self.incoming, self.studies, self.work, self.results, self.ledger, self.outbox, self.sent
        ):  # fmt: skip
            path.mkdir(exist_ok=True)
        flush(self.folder)
        for study in self.list():
            self._drop_replaced(study)
        return held

    def list(self) -> list[str]:
        """Return the ids of all studies of which there is an object."""
        if not self.studies.is_dir():  # the service was killed at its first start
            return []
        with os.scandir(self.studies) as entries:
            return sorted(e.name for e in entries if _STUDY.fullmatch(e.name) and any(self._objects(e.name)))

    def version(self, study: str) -> str:
        """Return the digest of what a study consists of; results of medfuse are no part of it.

        Empty where there is nothing else.
        """
        names = sorted(self.sources(study))
        return _digits("\n".join(names).encode()) if names else ""

    def sources(self, study: str) -> Iterator[str]:
        """Give the names of the objects of a study, without results of medfuse."""
        return (name for name in self._objects(study) if not name.endswith(".result.dcm"))

    def count(self, study: str) -> int:
        """Return the number of objects of a study."""
        return sum(1 for _ in self._objects(study))

    def size(self) -> int:
        """Return the bytes of all objects, of those on their way in too."""
        total = 0
        for folder in (self.incoming, self.studies):
            for path in folder.rglob("*.dcm"):
                with suppress(FileNotFoundError):  # it was placed, or replaced
                    total += path.stat().st_size
        return total

    def new_file(self) -> Path:
        """Return where an object may be written before it is placed."""
        return self.incoming / f"{secrets.token_hex(8)}.dcm"

    def place(self, file: Path, *, study: str, instance: str, content: str, is_result: bool = False) -> bool:
        """Take an object in: it is on the disk, whole, when this returns.

        An object that is there already stays as it is. One of the same UID with other content is replaced, as when an
        archive has corrected a header.

        Args:
            file: It, flushed, in `incoming`.
            study: UID of its study.
            instance: Its own UID.
            content: SHA-256 of its content.
            is_result: Whether medfuse made it.

        Returns:
            Whether it is new, or has other content.

        Raises:
            OSError: It cannot be moved.
        """
        folder = self.studies / study_id(study)
        name = f"{_digits(instance.encode())}-{content[:16]}{'.result' if is_result else ''}.dcm"
        with self._placing:
            if (folder / name).exists():
                return False
            if not folder.exists():
                folder.mkdir()
                flush(self.studies)
            file.replace(folder / name)
            flush(folder)
            for other in list(self._objects(folder.name)):
                if other != name and other.startswith(name[:16]):
                    (folder / other).unlink()
        return True

    def snapshot(self, study: str) -> tuple[Path, str]:
        """Return a folder with links to the objects of a study as they are now, and its version.

        What arrives later changes nothing in it. Results of medfuse are no sources, and are left out.
        """
        folder = self.work / study
        self.drop_snapshot(study)
        folder.mkdir()
        with self._placing:
            names = sorted(self.sources(study))
            for name in names:
                link(self.studies / study / name, folder / name)
        return folder, _digits("\n".join(names).encode())

    def drop_snapshot(self, study: str) -> None:
        """Remove what `snapshot` made."""
        shutil.rmtree(self.work / study, ignore_errors=True)

    def entry(self, study: str) -> Entry | None:
        """Return what the ledger says of a study; None where it says nothing."""
        try:
            told = json.loads((self.ledger / f"{study}.json").read_text(encoding="utf-8"))
            return Entry(
                study, str(told["version"]), str(told["state"]), str(told["message"]),
                tuple(map(str, told["warnings"])), float(told["seconds"]), int(told["results"]),
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def note(self, entry: Entry) -> None:
        """Write an entry into the ledger."""
        known = {name: value for name, value in vars(entry).items() if name != "warnings"}
        record = {"notice": NOTICE, **known, "warnings": list(entry.warnings)}
        write_json(self.ledger / f"{entry.study}.json", record, durable=True)

    def note_peers(self, peers: Sequence[str]) -> None:
        """Write who gets the results, for those who ask what is still to be sent."""
        write_json(self.folder / _PEERS, list(peers), durable=True)

    def peers(self) -> tuple[str, ...]:
        """Return who gets the results, as it was last written."""
        try:
            return tuple(map(str, json.loads((self.folder / _PEERS).read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            return ()

    def is_waiting(self, study: str) -> bool:
        """Return whether a study is to be fused: it has objects of which the ledger says nothing."""
        version, entry = self.version(study), self.entry(study)
        return bool(version) and (entry is None or entry.version != version)

    def _objects(self, study: str) -> Iterator[str]:
        with suppress(FileNotFoundError), os.scandir(self.studies / study) as entries:
            yield from (entry.name for entry in entries if _OBJECT.fullmatch(entry.name))

    def _drop_replaced(self, study: str) -> None:
        """Remove what was replaced when the service was killed in between: of two of one UID, the older."""
        newest: dict[str, str] = {}
        folder = self.studies / study
        for name in sorted(self._objects(study), key=lambda n: (folder / n).stat().st_mtime_ns):
            if (older := newest.get(name[:16])) is not None:
                (folder / older).unlink()
            newest[name[:16]] = name

    def _foreign(self) -> Iterator[Path]:
        return (path for path in self.folder.iterdir() if path.name != ".lock-service")

    def _require_known(self) -> None:
        try:
            told = json.loads((self.folder / _MARK).read_text(encoding="utf-8")).get("format")
        except (OSError, ValueError, AttributeError):
            told = None
        if told != _FORMAT:
            raise MedfuseError(
                f"QUEUE must be a queue of format {_FORMAT}, got another; use the medfuse that wrote it, or choose "
                "another folder."
            )


def link(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the file system knows none."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _digits(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
