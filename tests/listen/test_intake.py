"""What a caller may fill: neither memory nor disk, and no place of another caller."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
import time
import tracemalloc
from contextlib import suppress
from io import BytesIO

import pytest
from listen.conftest import Open, case_of, make_study, send, until
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification

from medfuse.listen.intake import Incoming, Limits, Room

# pynetdicom 3.0.4 leaves sockets to the collector where a connection was refused
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("collected"),
]
NO_ROOM = 0xA700


def larger(dataset, size: int):
    dataset.add_new(0x00091010, "OB", bytes(size))
    dataset.add_new(0x00090010, "LO", "of ours")
    return dataset


def size_of(receiver: Open) -> int:
    return sum(path.stat().st_size for path in receiver.queue.studies.rglob("*.dcm"))


def incoming(receiver: Open) -> list:
    return list(receiver.queue.incoming.iterdir())


def open_link(port: int, dataset):
    """Return an association of a caller that goes its own way, and its lowest layer."""
    entity = AE(ae_title="CALLER")
    link = entity.associate(
        "127.0.0.1", port, [build_context(dataset.SOPClassUID, ExplicitVRLittleEndian)], ae_title="MEDFUSE"
    )
    assert link.is_established
    return link


def fragments(dataset, size: int = 4096, number: int = 1) -> list[bytes]:
    """Return a request to store an object as it goes over the line."""
    request = C_STORE()
    request.MessageID, request.Priority = number, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    request.DataSet = BytesIO(encode(dataset, False, True))
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    found = []
    for primitive in message.encode_msg(1, size):
        pdu = P_DATA_TF()
        pdu.from_primitive(primitive)
        found.append(pdu.encode())
    return found


def ends(line: socket.socket, seconds: float) -> bool:
    """Return whether the other side ends a connection within a time."""
    line.settimeout(seconds)
    try:
        while line.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def test_an_object_goes_to_the_disk_and_not_to_memory(queue):
    room = Room(queue, Limits())
    found = Incoming(queue, room, lambda: b"head")
    part = bytes(1 << 14)
    tracemalloc.start()
    for _ in range(2048):  # 32 MiB
        found.write(part)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    found.finish()
    assert found.path.stat().st_size == 4 + (32 << 20)
    assert peak < 1 << 20
    found.drop()
    assert not found.path.exists()


def test_an_object_that_is_too_large_is_refused_and_the_next_one_taken(opened):
    receiver, (first, second, *_) = opened(limits=Limits(one=100_000)), make_study(1)
    assert send([larger(first, 100_000), second], receiver.port) == [NO_ROOM, 0]
    assert set(receiver.objects(1)) == {str(second.SOPInstanceUID)}
    assert incoming(receiver) == []


def test_a_full_queue_takes_nothing_until_there_is_room(opened, monkeypatch):
    monkeypatch.setattr("medfuse.listen.intake._RECOUNT", 0.0)
    receiver, study = opened(limits=Limits(all=60_000)), make_study(1)
    statuses = send([larger(dataset, 15_000) for dataset in study[:6]], receiver.port)
    assert statuses == [0, 0, 0, NO_ROOM, NO_ROOM, NO_ROOM]
    assert 45_000 < size_of(receiver) <= 60_000
    assert send(study[:3], receiver.port) == [0, 0, 0] or size_of(receiver) <= 60_000
    for path in list((receiver.queue.studies / case_of(1)).iterdir())[:2]:  # people make room
        path.unlink()
    assert send(study[4:5], receiver.port) == [0]
    assert size_of(receiver) <= 60_000
    assert incoming(receiver) == []


def test_a_disk_keeps_what_must_stay_free(opened):
    receiver, study = opened(limits=Limits(free=1 << 60)), make_study(1)
    assert send(study[:2], receiver.port) == [NO_ROOM] * 2
    assert size_of(receiver) == 0


def test_echoes_on_one_connection_leave_nothing_in_memory(opened):
    """Each is a message, too, and none is an object that anybody takes."""
    receiver = opened()
    entity = AE(ae_title="CALLER")
    entity.add_requested_context(Verification)
    link = entity.associate("127.0.0.1", receiver.port, ae_title="MEDFUSE")
    assert [link.send_c_echo().Status for _ in range(20)] == [0] * 20
    (open_,) = receiver.receiver._intake._open.values()
    assert len(open_) == 1
    link.release()


def test_a_disk_that_is_full_to_the_last_byte_is_told(opened, monkeypatch):
    """Neither a fragment nor the end of the file finds room; then there is some."""

    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        flush = close = lambda self: self.write(b"")

    receiver, study = opened(), make_study(1)
    begin = Incoming._begin
    monkeypatch.setattr(Incoming, "_begin", lambda self: setattr(self, "_file", Full()))
    assert send(study[:2], receiver.port) == [NO_ROOM] * 2
    assert incoming(receiver) == []
    monkeypatch.setattr(Incoming, "_begin", begin)
    assert send(study[:2], receiver.port) == [0] * 2
    assert receiver.receiver._intake.room._taken == size_of(receiver)


def test_a_limit_below_the_head_of_a_file_is_one_too(opened):
    receiver, study = opened(limits=Limits(one=10)), make_study(1)
    assert send(study[:2], receiver.port) == [NO_ROOM] * 2
    assert incoming(receiver) == []


def test_a_caller_that_ends_within_an_object_leaves_nothing(opened):
    receiver, (dataset, *_) = opened(), make_study(1)
    for end in ("abort", "close"):
        link = open_link(receiver.port, larger(dataset, 50_000))
        for part in fragments(dataset)[:5]:
            link.dul.socket.socket.sendall(part)
        until(lambda: incoming(receiver), 10)
        link.abort() if end == "abort" else link.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        until(lambda: not incoming(receiver), 10)
        until(lambda: not receiver.receiver._entity.active_associations, 10)
    assert size_of(receiver) == 0


def test_fragments_as_small_and_as_large_as_they_may_be_are_put_together(opened):
    receiver, (first, second, *_) = opened(), make_study(1)
    for dataset, size in ((first, 64), (second, 500_000)):
        link = open_link(receiver.port, larger(dataset, 20_000))
        link.dul.socket.socket.sendall(b"".join(fragments(dataset, size)))
        until(lambda dataset=dataset: str(dataset.SOPInstanceUID) in receiver.objects(1), 20)
        link.abort()
    kept = receiver.objects(1)[str(second.SOPInstanceUID)]
    assert kept.PixelData == second.PixelData
    assert len(kept[0x00091010].value) == 20_000


@pytest.mark.parametrize("kind", [1, 4])
def test_a_fragment_that_says_it_has_gigabytes_is_not_waited_for(opened, kind):
    receiver = opened(timeout=30.0)
    with socket.create_connection(("127.0.0.1", receiver.port)) as line:
        line.sendall(struct.pack(">BBL", kind, 0, 0xFFFFFFFF) + bytes(1000))
        assert ends(line, 15)


def test_a_caller_that_stops_within_a_fragment_is_left(opened):
    receiver = opened(timeout=1.0)
    with socket.create_connection(("127.0.0.1", receiver.port)) as line:
        started = time.monotonic()
        line.sendall(struct.pack(">BBL", 1, 0, 500) + bytes(10))
        assert ends(line, 15)
    assert time.monotonic() - started < 14


def test_a_command_without_end_is_left(opened):
    receiver, (dataset, *_) = opened(), make_study(1)
    link = open_link(receiver.port, dataset)
    line = link.dul.socket.socket
    part = b"\x01\x01" + bytes(10_000)  # of a command, not the last
    pdu = struct.pack(">BBLL", 4, 0, 4 + len(part), len(part)) + part
    for _ in range(10):
        try:
            line.sendall(pdu)
        except OSError:
            break
    until(lambda: not link.is_established, 20)
    assert incoming(receiver) == []


def test_an_object_without_end_is_left(opened):
    receiver, (dataset, *_) = opened(limits=Limits(one=100_000)), make_study(1)
    link = open_link(receiver.port, larger(dataset, 1_000_000))
    line = link.dul.socket.socket
    with suppress(OSError):
        for part in fragments(dataset)[:-1]:
            line.sendall(part)
    until(lambda: not link.is_established, 20)
    until(lambda: not receiver.receiver._entity.active_associations, 10)
    assert incoming(receiver) == []
    assert send([make_study(1)[1]], receiver.port) == [0]


def test_a_caller_that_waits_for_no_answer_is_left(opened, monkeypatch):
    receiver, study = opened(), make_study(1)
    go, place = threading.Event(), receiver.queue.place
    monkeypatch.setattr(receiver.queue, "place", lambda *a, **k: go.wait(30) and place(*a, **k))
    link = open_link(receiver.port, study[0])
    line = link.dul.socket.socket
    for number in range(40):
        try:
            line.sendall(b"".join(fragments(study[number % 6], number=number + 1)))
        except OSError:
            break
    until(lambda: not link.is_established, 20)
    go.set()
    until(lambda: not incoming(receiver), 10)
