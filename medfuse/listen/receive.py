"""Receive objects by C-STORE, and answer C-ECHO (PS3.4 annexes A and B).

An object is acknowledged when it is on the disk, whole. What cannot be kept is refused with a status that says why:
0xA700 where disk or queue are full, or it is too large, 0xA900 where it is not what its request says, 0xC000 where it
is broken.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import BaseServer
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

from medfuse.errors import DicomError, MedfuseError
from medfuse.io.dicom.header import CLASSES, CODECS, JPEG_LOSSLESS, MODEL, NATIVE, Header, quiet, read_header
from medfuse.io.dicom.values import Values
from medfuse.listen.intake import Incoming, Intake, Limits
from medfuse.listen.peers import Tls
from medfuse.listen.queue import Queue, study_id
from medfuse.progress import LINES

_logger = logging.getLogger(LINES)
_TAKEN, _NO_ROOM, _MISMATCH, _BROKEN, _FAILURE = 0x0000, 0xA700, 0xA900, 0xC000, 0x0110
_GRACE = 2.0  # s that a caller has to finish when the service stops
_COMMENT = 64  # letters of an Error Comment (PS3.7 annex C)


@dataclass(frozen=True)
class Entrance:
    """Who may come in, and how.

    Attributes:
        host: Address to listen at.
        port: Port; 0 for any that is free.
        aet: AE title, which callers must name.
        callers: AE titles that may call; all where none is named.
        most: Associations at a time.
        timeout: Of a negotiation, between two messages, and for each fragment of one, s.
        tls: Files of TLS.
        limits: What callers may fill.
    """

    host: str = "127.0.0.1"
    port: int = 11112
    aet: str = "MEDFUSE"
    callers: tuple[str, ...] = ()
    most: int = 10
    timeout: float = 60.0
    tls: Tls = field(default_factory=Tls)
    limits: Limits = field(default_factory=Limits)


class Receiver:
    """Receives into a queue.

    Args:
        queue: It.
        entrance: Who may come in.
        arrived: Is called with the id of a study of which there is a new object, in any thread.
    """

    def __init__(self, queue: Queue, entrance: Entrance, arrived: Callable[[str], None]) -> None:
        self.queue, self.entrance, self.arrived = queue, entrance, arrived
        self._counts: dict[int, Counter[int]] = {}
        self._intake = Intake(queue, entrance.limits, entrance.timeout)
        entity = AE(ae_title=entrance.aet)
        entity.add_supported_context(Verification, list(NATIVE))
        # the first that a caller offers, too, is agreed on: explicit ones keep what private elements are
        packed = [ExplicitVRLittleEndian, *NATIVE, *CODECS, *JPEG_LOSSLESS]
        every = [*packed, *(s for s in ALL_TRANSFER_SYNTAXES if s not in (*packed, DeflatedExplicitVRLittleEndian))]
        for context in AllStoragePresentationContexts:
            kind = UID(str(context.abstract_syntax))
            entity.add_supported_context(kind, packed if kind in CLASSES else every)
        entity.require_called_aet = True
        entity.require_calling_aet = list(entrance.callers)
        entity.maximum_associations = entrance.most
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entrance.timeout
        self._entity = entity
        self._server: Any = None

    def start(self) -> tuple[str, int]:
        """Listen, in threads, and return address and port.

        Raises:
            MedfuseError: The address or a file of TLS cannot be used.
        """
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # it may repeat values of headers
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._store), (evt.EVT_C_ECHO, lambda _: _TAKEN), (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_REJECTED, self._rejected), (evt.EVT_CONN_CLOSE, self._closed),
            (evt.EVT_CONN_OPEN, self._intake.opened), (evt.EVT_PDU_RECV, self._intake.fragment),
        ]  # fmt: skip
        where = (self.entrance.host, self.entrance.port)
        context = self.entrance.tls.server()
        try:
            self._server = self._entity.make_server(
                where, ssl_context=context, evt_handlers=handlers, server_class=_Server
            )
        except (OSError, OverflowError) as error:
            why = (getattr(error, "strerror", None) or type(error).__name__).lower()
            raise MedfuseError(
                f"--host and --port must be an address of this machine that is free, got {why!r}; choose another."
            ) from None
        self._server.start()
        return self._server.server_address[0], self._server.server_address[1]

    def stop(self) -> None:
        """Stop listening; what is being written is finished and acknowledged, or is not."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _store(self, event: Any) -> Dataset:
        request, incoming = event.request, self._intake.taken(event)
        status, comment = _FAILURE, ""
        try:
            instance, sop_class = str(request.AffectedSOPInstanceUID), str(request.AffectedSOPClassUID)
            status, comment = self._kept(incoming, instance, sop_class)
        except OSError as error:
            status, comment = _NO_ROOM, (error.strerror or type(error).__name__).lower()
            _logger.error("an object was refused: %s", comment)
        except MemoryError:
            status, comment = _NO_ROOM, "out of memory"
        except Exception as error:
            _logger.error("an object was refused: an unexpected error (%s)", type(error).__name__)
        self._counts.setdefault(id(event.assoc), Counter())[status] += 1
        answer = Dataset()
        answer.Status = status
        if comment:
            answer.ErrorComment = comment[:_COMMENT]
        return answer

    def _kept(self, incoming: Incoming, instance: str, sop_class: str) -> tuple[int, str]:
        """Keep an object, and return a status and a comment."""
        try:
            if incoming.problem:
                _logger.error("an object was refused: %s", incoming.problem)
                return _NO_ROOM, incoming.problem
            digest = incoming.finish()
            try:
                found = _read(incoming.path)
            except DicomError as error:
                return _BROKEN, str(error)
            if found.instance != instance or found.sop_class != sop_class:
                return _MISMATCH, "SOP class and instance must be those of the request"
            if not found.study:
                return _MISMATCH, "must have a Study Instance UID, got none"
            is_new = self.queue.place(
                incoming.path, study=found.study, instance=instance, content=digest, is_result=found.is_result
            )
            if is_new:
                incoming.keep()
            if is_new and not found.is_result:
                self.arrived(study_id(found.study))
            return _TAKEN, ""
        finally:
            incoming.drop()

    def _accepted(self, event: Any) -> None:
        self._counts[id(event.assoc)] = Counter()

    def _rejected(self, event: Any) -> None:
        _logger.warning("an association was rejected: %s", _caller(event))

    def _closed(self, event: Any) -> None:
        self._intake.closed(event)
        counts = self._counts.pop(id(event.assoc), Counter())
        if counts:
            refused = {f"0x{status:04X}": n for status, n in sorted(counts.items()) if status != _TAKEN}
            tail = "".join(f", {n} refused with {status}" for status, n in refused.items())
            _logger.info("%d objects received from %s%s", counts[_TAKEN], _caller(event), tail)


@dataclass(frozen=True)
class _Found:
    """What an object says it is."""

    instance: str
    sop_class: str
    study: str
    is_result: bool


def _read(file: Path) -> _Found:
    """Read an object as whole as it is, and return what it says it is.

    Raises:
        DicomError: It cannot be read, or is cut short.
    """
    header = read_header(file)
    if isinstance(header, Header) and header.is_cut:
        raise DicomError(header.problem)
    try:
        with quiet():
            found = dcmread(file, defer_size=4096)  # to its end
            values = Values(found)
            return _Found(
                values.uid("SOPInstanceUID"), values.uid("SOPClassUID"), values.uid("StudyInstanceUID", needed=False),
                values.text("ManufacturerModelName") == MODEL,
            )  # fmt: skip
    except DicomError:
        raise
    except Exception:
        raise DicomError("must be a whole data set, got a broken one") from None


class _Server(ThreadedAssociationServer):
    """A server that shakes hands for TLS in the thread of a connection: one that says nothing stops no other."""

    @property
    def _listening(self) -> socket.socket:
        if self.socket is None:
            raise OSError("the server is closed")
        return self.socket

    def start(self) -> None:
        """Serve in a thread."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    def stop(self) -> None:
        """Take no more connections, and end those that do not end by themselves."""
        BaseServer.shutdown(self)
        self.server_close()
        last = time.monotonic() + _GRACE
        while self.active_associations and time.monotonic() < last:
            time.sleep(0.05)
        for association in self.active_associations:
            association.abort()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Take a connection."""
        client, address = self._listening.accept()
        if self.ssl_context:
            client = self.ssl_context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        return client, address

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shake hands, and go on as without TLS."""
        if isinstance(request, ssl.SSLSocket):
            try:
                request.settimeout(self.ae.acse_timeout)
                request.do_handshake()
                request.settimeout(None)
            except OSError:
                _logger.warning("a connection was refused: no TLS, or no certificate that --tls-ca vouches for")
                self.shutdown_request(request)
                return
        super().process_request_thread(request, client_address)


def _caller(event: Any) -> str:
    requestor = event.assoc.requestor
    title = "".join(letter if letter.isalnum() or letter in "-_." else "?" for letter in str(requestor.ae_title))
    return f"{title}@{requestor.address}"
