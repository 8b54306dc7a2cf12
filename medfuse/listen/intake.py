"""An object on its way in: on the disk as it comes, fragment by fragment, and no larger than is allowed.

Neither memory nor disk is a caller's to fill. What would exceed a limit, or finds the disk full, is taken from the
line and thrown away: the request is then answered with a reason, and the caller's other objects are taken. Who breaks
the protocol itself, by a fragment (PS3.8 9.3.5) or a command (PS3.7 6.3.1) that no caller has a use for, is left.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom.uid import UID
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dsutils import create_file_meta, encode_file_meta
from pynetdicom.pdu import P_DATA_TF

from medfuse.listen.queue import Queue

_PDU = 1 << 20  # bytes of a fragment, of which 16 kB are asked for; a request of an association may have 200 kB
_COMMAND = 1 << 16  # bytes of a command
_AHEAD = 16  # messages sent before the first is answered, which PS3.7 D.3.3.3 wants to be one
_RECOUNT = 10.0  # s


@dataclass(frozen=True)
class Limits:
    """What callers may fill.

    Attributes:
        one: Bytes of an object.
        all: Bytes of all objects in the queue.
        free: Bytes that stay free on the disk.
    """

    one: int = 2 << 30
    all: int = 1 << 62
    free: int = 1 << 30


class Room:
    """What is left of the limits of a queue.

    Args:
        queue: It.
        limits: They.
    """

    def __init__(self, queue: Queue, limits: Limits) -> None:
        self.queue, self.limits = queue, limits
        self._lock = threading.Lock()
        self._taken, self._counted = 0, -_RECOUNT
        self._count()

    def take(self, size: int) -> str:
        """Take so many bytes; return why there are none, or nothing."""
        if shutil.disk_usage(self.queue.folder).free - size < self.limits.free:
            return f"the disk must keep {self.limits.free:,} bytes free"
        with self._lock:
            if self._taken + size > self.limits.all:
                self._count()
            if self._taken + size > self.limits.all:
                return f"the queue must have at most {self.limits.all:,} bytes"
            self._taken += size
        return ""

    def give(self, size: int) -> None:
        """Give so many back."""
        with self._lock:
            self._taken -= size

    def _count(self) -> None:
        """Look what is there, at times: people may have removed something."""
        if time.monotonic() - self._counted >= _RECOUNT:
            self._taken, self._counted = self.queue.size(), time.monotonic()


class Incoming(BytesIO):
    """The data set of a message, as pynetdicom writes it: a file in place of memory.

    Args:
        queue: Where it goes.
        room: How much there is.
        meta: Gives the File Meta Information once the command is known, or None where it brings no object.

    Attributes:
        path: The file.
        problem: Why it is not kept; empty where it is.
        wasted: Bytes that came nevertheless.
    """

    def __init__(self, queue: Queue, room: Room, meta: Callable[[], bytes | None]) -> None:
        super().__init__()
        self.path, self.problem, self.wasted = queue.new_file(), "", 0
        self._room, self._meta, self._size = room, meta, 0
        self._digest = hashlib.sha256()
        self._file: Any = None

    @property
    def begun(self) -> bool:
        """Whether there is, or was, anything of it on the disk."""
        return self._file is not None

    def write(self, data: Any, /) -> int:
        """Take a fragment in, or throw it away."""
        try:
            if self._file is None and not self.problem:
                self._begin()
            self._add(data)
        except OSError as error:
            self.drop((error.strerror or type(error).__name__).lower())
        return len(data)

    def finish(self) -> str:
        """Bring it to the disk; return the SHA-256 of its content.

        Raises:
            OSError: It cannot be.
        """
        if self._file is None:
            self.path.touch()
        else:
            with self._file as file:
                file.flush()
                os.fsync(file.fileno())
        return self._digest.hexdigest()

    def keep(self) -> None:
        """Leave what it has taken to the queue: it was placed there."""
        self._size = 0

    def drop(self, problem: str = "") -> None:
        """Remove it."""
        self.problem = self.problem or problem or "it was not finished"
        if self._file is not None:
            with suppress(OSError):  # a full disk has no room for the last bytes, either
                self._file.close()
        self.path.unlink(missing_ok=True)
        self._room.give(self._size)
        self._size = 0

    def _begin(self) -> None:
        head = self._meta()
        if head is None:
            self.problem = "must be a request to store an object"
            return
        self._file = self.path.open("wb")
        self._add(head)

    def _add(self, data: bytes) -> None:
        if self.problem:
            self.wasted += len(data)
        elif self._size + len(data) > self._room.limits.one:
            self.drop(f"must have at most {self._room.limits.one:,} bytes")
        elif problem := self._room.take(len(data)):
            self.drop(problem)
        else:
            self._size += len(data)
            self._digest.update(data)
            self._file.write(data)


class Intake:
    """What all connections bring: for each, at most one object on its way.

    Args:
        queue: Where they go.
        limits: What they may fill.
        timeout: For a fragment to come whole, s.
    """

    def __init__(self, queue: Queue, limits: Limits, timeout: float) -> None:
        self.queue, self.room, self.timeout = queue, Room(queue, limits), timeout
        self._open: dict[int, list[Incoming]] = {}
        self._commands: dict[int, int] = {}

    def opened(self, event: Any) -> None:
        """Bound each read of a connection, in size and time."""
        line = event.assoc.dul.socket
        line.recv = _Bounded(line, self.timeout)

    def fragment(self, event: Any) -> None:
        """Have what follows be written to the disk."""
        if not isinstance(event.pdu, P_DATA_TF):
            return
        assoc, key = event.assoc, id(event.assoc)
        if assoc.dimse.message is None:
            message = DIMSEMessage()
            message.data_set = Incoming(self.queue, self.room, lambda: _meta_of(message, assoc))
            before = self._open.setdefault(key, [])
            for one in [one for one in before if not one.begun]:  # such as those of echoes, which nobody takes
                with suppress(ValueError):  # it was taken meanwhile
                    before.remove(one)
            before.append(message.data_set)
            self._commands[key] = 0
            assoc.dimse.message = message
        values = (item.presentation_data_value for item in event.pdu.presentation_data_value_items)
        self._commands[key] += sum(len(value) for value in values if value and value[0] & 1)
        endless = self._commands[key] > _COMMAND or self._open[key][-1].wasted > self.room.limits.one
        if endless or assoc.dimse.msg_queue.qsize() > _AHEAD:
            assoc.abort(block=False)

    def taken(self, event: Any) -> Incoming:
        """Return the object of a request."""
        found: Incoming = event.request.DataSet
        with_it = self._open.get(id(event.assoc), [])
        if found in with_it:
            with_it.remove(found)
        return found

    def closed(self, event: Any) -> None:
        """Remove what a connection has left unfinished."""
        self._commands.pop(id(event.assoc), None)
        for incoming in self._open.pop(id(event.assoc), []):
            incoming.drop()


class _Bounded:
    """Reads of a connection, none larger than a fragment may be, and each done in time."""

    def __init__(self, line: Any, timeout: float) -> None:
        self.line, self.timeout = line, timeout

    def __call__(self, count: int) -> bytearray:
        """Read so many bytes; fewer where the connection ends.

        Raises:
            OSError: There are too many, or they take too long.
        """
        if count > _PDU:
            raise OSError(f"a PDU must have at most {_PDU} bytes")
        found, last = bytearray(), time.monotonic() + self.timeout
        line = self.line.socket
        try:
            while len(found) < count:
                line.settimeout(max(last - time.monotonic(), 0.001))
                part = line.recv(min(count - len(found), 1 << 16))
                if not part:
                    break
                found += part
        finally:
            line.settimeout(None)
        return found


def _meta_of(message: DIMSEMessage, assoc: Any) -> bytes | None:
    """Return what a file of an object begins with (PS3.10 7.1); None where a message brings none."""
    command = message.command_set
    names = [command.get(name) for name in ("AffectedSOPClassUID", "AffectedSOPInstanceUID")]
    syntaxes = {c.context_id: c.transfer_syntax[0] for c in assoc.accepted_contexts}
    if not all(names) or message.context_id not in syntaxes:
        return None
    meta = create_file_meta(
        sop_class_uid=UID(names[0]), sop_instance_uid=UID(names[1]), transfer_syntax=syntaxes[message.context_id]
    )
    return b"\x00" * 128 + b"DICM" + encode_file_meta(meta)
