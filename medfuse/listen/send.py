"""How results are sent: by C-STORE (PS3.4 annex B) or by STOW-RS (PS3.18 10.5), each object by itself."""

from __future__ import annotations

import json
import logging
import secrets
import ssl
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

from pydicom import dcmread
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.presentation import build_context

from medfuse.errors import MedfuseError
from medfuse.listen.outbox import SENT, Outbox, Parcel
from medfuse.listen.peers import Peer, Tls
from medfuse.progress import LINES

_logger = logging.getLogger(LINES)
_CLASS = Tag("SOPClassUID")
_SYNTAXES: list[str | UID] = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
]  # that of the results, and that which all must know
_KNOWN = 0x0111  # duplicate SOP instance: the peer has it (PS3.7 annex C)
_BUSY = range(0xA700, 0xA800)  # out of resources
_LONGEST = 600.0  # s between two tries
_PATIENCE = 5  # refusals of an object before it counts as refused for good

Answers = Generator[tuple[str, str], None, None]
"""UIDs, each with `SENT` or why the peer did not take the object."""


class BusyError(MedfuseError):
    """A peer that cannot be reached, or takes nothing at this time."""


class Sender(threading.Thread):
    """Sends what is in an outbox to one peer, again and again until it has all.

    Args:
        outbox: It.
        peer: Who gets it.
        aet: AE title of the service.
        tls: Its files.
        header: File with the value of the Authorization header for STOW-RS.
        timeout: Of a connection and of an answer, s.
        pause: Before the second try, s; it doubles with each.
        stop: Ends it.
    """

    def __init__(
        self,
        outbox: Outbox,
        peer: Peer,
        *,
        aet: str,
        tls: Tls,
        header: Path | None = None,
        timeout: float = 30.0,
        pause: float = 5.0,
        stop: threading.Event,
    ) -> None:
        super().__init__(name=f"medfuse-send-{peer.host}", daemon=True)
        self.outbox, self.peer, self.stop, self.pause = outbox, peer, stop, pause
        self.wake = threading.Event()
        self._refusals: Counter[str] = Counter()
        self._told: set[Path] = set()
        encrypted = peer.tls or peer.url.startswith("https:")
        context = tls.client() if encrypted else None
        self._store: Callable[[dict[str, Path]], Answers]
        if peer.url:
            self._store = _Stow(peer, context, header, timeout)
        else:
            self._store = _Dimse(peer, aet, context, timeout)

    def run(self) -> None:
        """Send, until `stop` is set."""
        failures = 0
        while True:
            self.wake.clear()
            if self.stop.is_set():  # asked here: `finish` may have come just before
                return
            left = 0
            try:
                for parcel in self.outbox.parcels():
                    left += self._guarded(parcel)
            except (BusyError, OSError) as error:  # OSError: the queue's disk may be full
                left += 1
                reason = (
                    str(error) if isinstance(error, BusyError) else (error.strerror or type(error).__name__).lower()
                )
                _logger.warning("%s takes nothing at this time: %s", self.peer.text, reason)
            failures = failures + 1 if left else 0
            wait = min(_LONGEST, self.pause * 2 ** min(failures - 1, 16)) if left else None
            if wait is None:
                self.wake.wait()
            else:
                self.stop.wait(wait)

    def finish(self) -> None:
        """End as soon as the object that is on its way is answered."""
        self.stop.set()
        self.wake.set()

    def _guarded(self, parcel: Parcel) -> int:
        """Send what is left of a parcel, as `_send`; one that cannot be read stops no other."""
        try:
            return self._send(parcel)
        except (BusyError, OSError):
            raise
        except Exception as error:
            _logger.error("%s: an unexpected error (%s) with %s", self.peer.text, type(error).__name__, parcel.study)
            return 1

    def _send(self, parcel: Parcel) -> int:
        """Send what is left of a parcel; return how much is left then."""
        left = self.outbox.left(parcel, self.peer.text)
        if left and self.outbox.begin(parcel):
            before = len(left)
            try:
                with closing(self._store(dict(left))) as answers:
                    for uid, answer in answers:
                        if self._is_settled(parcel, uid, answer):
                            del left[uid]
                        if self.stop.is_set():
                            break
            finally:
                if len(left) < before:
                    _logger.info("%s: %d objects sent to %s", parcel.study, before - len(left), self.peer.text)
        if not left and not self.outbox.close(parcel):
            self._tell_damage(parcel)
        return len(left)

    def _tell_damage(self, parcel: Parcel) -> None:
        """Say once which results cannot be sent."""
        damaged = self.outbox.read(parcel)[1]
        if damaged and parcel.folder not in self._told:
            self._told.add(parcel.folder)
            _logger.error("%s: %d of its results cannot be read; see `medfuse status`", parcel.study, len(damaged))

    def _is_settled(self, parcel: Parcel, uid: str, answer: str) -> bool:
        """Note an answer, unless it is a refusal that may be none the next time; return whether it was noted."""
        if answer != SENT:
            self._refusals[uid] += 1
            if self._refusals[uid] < _PATIENCE:
                return False
            _logger.warning("%s refused an object of %s: %s", self.peer.text, parcel.study, answer)
        self.outbox.settle(parcel, uid, self.peer.text, answer)
        return True


class _Dimse:
    """Stores objects by C-STORE."""

    def __init__(self, peer: Peer, aet: str, context: ssl.SSLContext | None, timeout: float) -> None:
        self.peer, self.aet, self.timeout = peer, aet, timeout
        self.tls = None if context is None else (context, peer.host)

    def __call__(self, files: dict[str, Path]) -> Answers:
        entity = AE(ae_title=self.aet)
        entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = self.timeout
        entity.network_timeout = 2 * self.timeout
        classes = {uid: _class_of(path) for uid, path in files.items()}
        contexts = [build_context(c, _SYNTAXES) for c in sorted(set(classes.values()))]
        peer = self.peer
        link = entity.associate(peer.host, peer.port, contexts, ae_title=peer.aet, tls_args=self.tls)
        if not link.is_established and len(link.rejected_contexts) < len(contexts):
            raise BusyError("it rejects the association" if link.is_rejected else "it cannot be reached")
        try:
            accepted = {context.abstract_syntax for context in link.accepted_contexts}
            for number, (uid, sop_class) in enumerate(classes.items()):
                if sop_class not in accepted:
                    yield uid, f"{sop_class.name} is not supported"
                    continue
                try:
                    answer = link.send_c_store(dcmread(files[uid]), msg_id=number % 65535 + 1)
                except (RuntimeError, ValueError) as error:
                    raise BusyError("it ended the association") from error
                if "Status" not in answer:
                    raise BusyError("it did not answer")
                yield uid, _judged(int(answer.Status))
        finally:
            link.release()


def _class_of(path: Path) -> UID:
    return UID(str(dcmread(path, specific_tags=[_CLASS], stop_before_pixels=True)[_CLASS].value))


def _judged(status: int) -> str:
    """Return what a status of C-STORE says (PS3.4 B.2.3)."""
    if status in _BUSY:
        raise BusyError(f"out of resources, status 0x{status:04X}")
    taken = status in (0, _KNOWN) or 0xB000 <= status < 0xC000 or status == 1
    return SENT if taken else f"status 0x{status:04X}"


class _Stow:
    """Stores objects by STOW-RS."""

    def __init__(self, peer: Peer, context: ssl.SSLContext | None, header: Path | None, timeout: float) -> None:
        self.url, self.header, self.timeout = f"{peer.url}/studies", header, timeout
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if context is not None:
            handlers.append(urllib.request.HTTPSHandler(context=context))
        self.open = urllib.request.build_opener(*handlers).open

    def __call__(self, files: dict[str, Path]) -> Answers:
        for uid, path in files.items():
            yield uid, self._stored(path.read_bytes())

    def _stored(self, content: bytes) -> str:
        boundary = f"medfuse-{secrets.token_hex(16)}"
        head, tail = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n", f"\r\n--{boundary}--\r\n"
        request = urllib.request.Request(self.url, head.encode() + content + tail.encode(), method="POST")
        request.add_header("Content-Type", f'multipart/related; type="application/dicom"; boundary={boundary}')
        request.add_header("Accept", "application/dicom+json")
        if self.header is not None:
            request.add_unredirected_header("Authorization", self.header.read_text(encoding="utf-8").strip())
        try:
            with self.open(request, timeout=self.timeout) as answer:
                return _refusal(answer.read(1 << 20)) or SENT
        except urllib.error.HTTPError as error:
            if error.code in (408, 429) or error.code >= 500 or error.code in (401, 403, 404):
                raise BusyError(f"HTTP status {error.code}") from None
            reason = _refusal(error.read(1 << 20))
            return SENT if reason == f"0x{_KNOWN:04X}" else reason or f"HTTP status {error.code}"
        except OSError as error:  # of the network; URLError is one
            raise BusyError(f"it cannot be reached ({type(error).__name__})") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Sends objects nowhere but where it was told."""

    def redirect_request(self, *args: object, **options: object) -> None:
        return None


def _refusal(body: bytes) -> str:
    """Return the Failure Reason of the one object that was sent (PS3.18 10.5.3); empty where there is none."""
    try:
        failed = json.loads(body)["00081198"]["Value"][0]
        reason = int(failed["00081197"]["Value"][0])
    except (ValueError, OverflowError, RecursionError, KeyError, IndexError, TypeError):
        return ""
    return f"0x{reason:04X}"
