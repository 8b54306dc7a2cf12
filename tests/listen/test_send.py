"""Results on their way out: each peer gets each object, once, however often something goes wrong."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator

import pydicom
import pytest
from listen.conftest import Archive, make_study, until
from pydicom import config

from medfuse.listen.outbox import SENT, Outbox
from medfuse.listen.peers import Tls, peer
from medfuse.listen.queue import Queue
from medfuse.listen.send import Sender
from medfuse.listen.status import SOME_FAILED, queue_status

# pynetdicom 3.0.4 leaves sockets to the collector where a connection was refused
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("collected"),
]

STUDY = "study-0123456789abcdef"


@pytest.fixture
def results(tmp_path):
    """Return a folder with a series of twelve objects."""
    folder = tmp_path / "results" / "series"
    folder.mkdir(parents=True)
    with config.disable_value_validation():
        for k, dataset in enumerate(make_study(1)):
            dataset.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    return folder


class Sending:
    """Senders to peers, in this process."""

    def __init__(self, queue: Queue, *peers: str, **options) -> None:
        self.outbox, self.stop = Outbox(queue, peers), threading.Event()
        settings = {"aet": "MEDFUSE", "tls": Tls(), "timeout": 5.0, "pause": 0.1} | options
        self.senders = [Sender(self.outbox, peer(text), stop=self.stop, **settings) for text in peers]
        for sender in self.senders:
            sender.start()

    def wake(self) -> None:
        for sender in self.senders:
            sender.wake.set()

    def end(self) -> None:
        for sender in self.senders:
            sender.finish()
            sender.join(20)


def once(objects: dict[str, list]) -> int:
    assert all(len(found) == 1 for found in objects.values())
    return len(objects)


def test_each_peer_gets_each_object_once_and_the_outbox_is_empty_then(queue, results):
    first, second = Archive(), Archive()
    sending = Sending(queue, first.name, second.name)
    assert sending.outbox.put(STUDY, "1", [results]) == 12
    sending.wake()
    until(lambda: not sending.outbox.parcels(), 30)
    sending.end()
    assert once(first.objects) == once(second.objects) == 12
    for found in (first, second):
        found.entity.shutdown()
    for path in results.iterdir():
        sent = pydicom.dcmread(path)
        (got,) = first.objects[str(sent.SOPInstanceUID)]
        assert [(e.tag, e.value) for e in got] == [(e.tag, e.value) for e in sent]


def test_a_peer_that_is_away_gets_all_when_it_comes_and_stops_no_other(queue, results, archive):
    gone = Archive()
    gone.entity.shutdown()
    sending = Sending(queue, gone.name, archive.name)
    sending.outbox.put(STUDY, "1", [results])
    sending.wake()
    until(lambda: len(archive.objects) == 12, 30)
    assert len(sending.outbox.parcels()) == 1
    sending.end()
    sending = Sending(queue, archive.name)  # after a restart, without the peer that is gone
    until(lambda: not sending.outbox.parcels(), 30)
    sending.end()
    assert once(archive.objects) == 12


def test_a_peer_without_room_is_asked_again(queue, results, archive):
    calls = []

    def answer(dataset) -> int:
        calls.append(dataset.SOPInstanceUID)
        return 0xA700 if len(calls) in (3, 4, 9) else 0

    archive.answer = answer
    sending = Sending(queue, archive.name)
    sending.outbox.put(STUDY, "1", [results])
    sending.wake()
    until(lambda: not sending.outbox.parcels(), 30)
    sending.end()
    assert once(archive.objects) == 12
    assert len(calls) == 15


def test_a_refusal_is_one_after_several_tries_and_stops_no_other_object(queue, results, archive):
    bad = str(make_study(1)[0].SOPInstanceUID)
    archive.answer = lambda dataset: 0xA900 if dataset.SOPInstanceUID == bad else 0
    sending = Sending(queue, archive.name)
    sending.outbox.put(STUDY, "1", [results])
    sending.wake()
    settled = until(lambda: (s := sending.outbox.settled(STUDY)) and len(s) == 12 and s, 30)
    assert settled[bad, archive.name] == "status 0xA900"
    assert once(archive.objects) == 11
    sending.end()
    archive.answer = lambda _: 0
    sending.outbox.forget_refusals()  # --again
    sending = Sending(queue, archive.name)
    until(lambda: not sending.outbox.parcels(), 30)
    sending.end()
    assert once(archive.objects) == 12


def test_a_class_that_a_peer_does_not_know_is_a_refusal(queue, results, archive):
    archive.server.contexts = [c for c in archive.server.contexts if "MR Image" not in c.abstract_syntax.name]
    sending = Sending(queue, archive.name)
    sending.outbox.put(STUDY, "1", [results])
    sending.wake()
    settled = until(lambda: (s := sending.outbox.settled(STUDY)) and len(s) == 12 and s, 30)
    sending.end()
    assert sorted(settled.values()) == ["MR Image Storage is not supported"] * 6 + [SENT] * 6


def test_what_a_later_version_has_in_common_is_sent_once(queue, results, archive):
    sending = Sending(queue, archive.name)
    sending.outbox.put(STUDY, "1", [results])
    sending.wake()
    until(lambda: not sending.outbox.parcels(), 30)
    sending.outbox.put(STUDY, "2", [results])
    sending.wake()
    until(lambda: not sending.outbox.parcels(), 30)
    sending.end()
    assert once(archive.objects) == 12


def test_results_that_nobody_has_got_yet_are_replaced_by_newer_ones(queue, results):
    outbox = Outbox(queue, ["A@b:1"])
    outbox.put(STUDY, "1", [results])
    outbox.put(STUDY, "2", [results])
    (parcel,) = outbox.parcels()
    assert parcel.folder.name == f"{STUDY}.2"
    assert outbox.begin(parcel)
    outbox.put(STUDY, "3", [results])  # that of 2 is finished first: something of it may be there
    assert [p.folder.name for p in outbox.parcels()] == [f"{STUDY}.2", f"{STUDY}.3"]


def test_a_line_that_a_kill_has_cut_short_is_sent_again_and_spoils_no_other(queue, results, archive):
    outbox = Outbox(queue, [archive.name])
    outbox.put(STUDY, "1", [results])
    uids = list(outbox.left(*outbox.parcels(), archive.name))
    journal = queue.sent / f"{STUDY}.tsv"
    journal.write_text(f"{uids[0]}\t{archive.name}\t{SENT}\n{uids[1]}\t{archive.name[:5]}")
    sending = Sending(queue, archive.name)
    until(lambda: not sending.outbox.parcels(), 30)
    sending.end()
    assert set(archive.objects) == set(uids[1:])
    assert len(sending.outbox.settled(STUDY)) == 12


def test_a_journal_that_is_empty_takes_its_first_line(queue, results):
    """A full disk leaves an empty one; `--again` does where all was refused: both must be able to go on."""
    outbox = Outbox(queue, ["A@b:1"])
    outbox.put(STUDY, "1", [results])
    (parcel,) = outbox.parcels()
    outbox.settle(parcel, "1.2.3", "A@b:1", "status 0xA900")
    outbox.forget_refusals()
    assert (queue.sent / f"{STUDY}.tsv").read_bytes() == b""
    outbox.settle(parcel, "1.2.3", "A@b:1")
    assert (queue.sent / f"{STUDY}.tsv").read_bytes() == f"1.2.3\tA@b:1\t{SENT}\n".encode()


def test_results_that_cannot_be_read_stop_no_other_study(queue, results, archive):
    other = STUDY.replace("0", "1")
    outbox = Outbox(queue, [archive.name])
    outbox.put(STUDY, "1", [results])
    (queue.outbox / f"{STUDY}.1" / "00000.dcm").unlink()
    (queue.outbox / f"{STUDY}.1" / "00000.dcm").write_bytes(b"no DICOM")
    outbox.put(other, "1", [results])
    sending = Sending(queue, archive.name)
    until(lambda: [p.study for p in outbox.parcels()] == [STUDY], 30)
    sending.end()
    assert len(archive.objects) == 12


def test_over_tls_a_peer_that_the_authority_vouches_for_gets_all_and_another_nothing(queue, results, certificates):
    mine = Tls(certificates / "caller.pem", certificates / "caller.key", certificates / "ca.pem")
    theirs = Tls(certificates / "server.pem", certificates / "server.key", certificates / "ca.pem")
    archive = Archive(theirs.server())
    text = f"tls:{archive.name}"
    stranger = Sending(queue, text, tls=Tls())  # knows no authority that vouches for the peer
    stranger.outbox.put(STUDY, "1", [results])
    stranger.wake()
    until(lambda: stranger.outbox.parcels()[0].folder.joinpath("begun").exists(), 30)
    stranger.end()
    assert archive.objects == {}
    sending = Sending(queue, text, tls=mine)
    until(lambda: not sending.outbox.parcels(), 30)
    sending.end()
    archive.entity.shutdown()
    assert once(archive.objects) == 12


def test_a_damaged_result_is_told_and_the_others_are_sent(queue, results, archive):
    outbox = Outbox(queue, [archive.name])
    outbox.put(STUDY, "1", [results])
    queue.note_peers([archive.name])
    damaged = queue.outbox / f"{STUDY}.1" / "00003.dcm"
    damaged.unlink()
    damaged.write_bytes(b"no DICOM")
    sending = Sending(queue, archive.name)
    until(lambda: len(archive.objects) == 11 and not outbox.left(*outbox.parcels(), archive.name), 30)
    sending.end()
    found = queue_status(queue.folder)
    assert found.exit_code == SOME_FAILED
    assert list(found.lines())[1:] == [
        f"{STUDY}: 1 result in outbox/{STUDY}.1 cannot be read; to have the study fused again, stop the service, and "
        f"remove outbox/{STUDY}.1 and ledger/{STUDY}.json"
    ]


class _Web(http.server.BaseHTTPRequestHandler):
    objects: dict[str, list[bytes]]
    refuse: set[str]
    broken: int
    headers_seen: set[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
        (part,) = body.split(b"--" + boundary)[1:-1]
        head, _, content = part.partition(b"\r\n\r\n")
        assert head.strip() == b"Content-Type: application/dicom"
        self.headers_seen.add(self.headers["Authorization"] or "")
        found = pydicom.dcmread(pydicom.filebase.DicomBytesIO(content.removesuffix(b"\r\n")))
        uid = str(found.SOPInstanceUID)
        if type(self).broken:
            type(self).broken -= 1
            self.send_response(503)
            answer = {}
        elif uid in self.refuse:
            self.send_response(409)
            answer = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xA900]}}]}}
        else:
            self.objects.setdefault(uid, []).append(content)
            self.send_response(200)
            answer = {"00081199": {"vr": "SQ", "Value": [{}]}}
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[tuple[str, type[_Web]]]:
    """Return the URL of a DICOMweb service, and what it has seen."""
    handler = type("Web", (_Web,), {"objects": {}, "refuse": set(), "broken": 0, "headers_seen": set()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/dicom-web", handler
        server.shutdown()


def test_a_web_service_gets_each_object_once(queue, results, web, tmp_path):
    url, seen = web
    seen.broken, seen.refuse = 2, {str(make_study(1)[3].SOPInstanceUID)}
    (tmp_path / "header").write_text("Bearer abc\n")
    sending = Sending(queue, url, header=tmp_path / "header")
    sending.outbox.put(STUDY, "1", [results])
    sending.wake()
    settled = until(lambda: (s := sending.outbox.settled(STUDY)) and len(s) == 12 and s, 30)
    sending.end()
    assert once(seen.objects) == 11
    assert sorted(set(settled.values())) == ["0xA900", SENT]
    assert seen.headers_seen == {"Bearer abc"}
