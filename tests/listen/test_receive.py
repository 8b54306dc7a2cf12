"""What the service receives over the network: who may come in, what is kept, and what is answered."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
from copy import deepcopy

import pytest
from listen.conftest import STEM, case_of, make_study, send, until
from pydicom import config, uid
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from medfuse.listen.peers import Tls

# pynetdicom 3.0.4 leaves sockets to the collector where a connection was refused
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("collected"),
]


def association(port: int, aet: str = "MODALITY", called: str = "MEDFUSE", tls=None):
    entity = AE(ae_title=aet)
    entity.acse_timeout = 10
    entity.add_requested_context(Verification)
    return entity.associate("127.0.0.1", port, ae_title=called, tls_args=tls)


def test_it_answers_an_echo_at_this_machine_alone(opened):
    receiver = opened()
    link = association(receiver.port)
    assert link.send_c_echo().Status == 0
    link.release()
    assert receiver.host == "127.0.0.1"


def test_each_object_is_kept_as_it_was_sent(opened):
    receiver, study = opened(), make_study(1)
    assert send(study, receiver.port) == [0] * 12
    kept = receiver.objects(1)
    assert set(kept) == {str(d.SOPInstanceUID) for d in study}
    for dataset in study:
        assert kept[str(dataset.SOPInstanceUID)].PixelData == dataset.PixelData
        assert kept[str(dataset.SOPInstanceUID)].PatientName == dataset.PatientName
    assert receiver.arrived == [case_of(1)] * 12
    assert list(receiver.queue.incoming.iterdir()) == []


@pytest.mark.parametrize(
    "syntax",
    [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless],
)
def test_usual_transfer_syntaxes_are_taken_as_they_are(opened, syntax):
    receiver, (dataset, *_) = opened(), make_study(1)
    if syntax.is_compressed:
        dataset.PixelRepresentation = 0
        dataset.compress(syntax, generate_instance_uid=False)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
        if syntax == uid.ExplicitVRBigEndian:
            words = dataset.PixelData
            dataset.PixelData = b"".join(words[k : k + 2][::-1] for k in range(0, len(words), 2))
    assert send([dataset], receiver.port) == [0]
    (kept,) = receiver.objects(1).values()
    assert kept.file_meta.TransferSyntaxUID == syntax
    assert kept.PixelData == dataset.PixelData


@pytest.mark.parametrize("offered", [[uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian], None])
def test_private_numbers_arrive_as_numbers(opened, offered):
    """PS3.5 6.2.2: in Implicit VR what is in no dictionary is UN; where Explicit VR is offered, it is agreed on."""
    receiver, (dataset, *_) = opened(), make_study(1)
    block = dataset.private_block(0x0077, "PHANTOM 1.0", create=True)
    block.add_new(1, "FD", 0.5)
    block.add_new(2, "SQ", [Dataset()])
    entity = AE(ae_title="MODALITY")
    entity.add_requested_context(dataset.SOPClassUID, offered)  # None: all that pynetdicom proposes, implicit first
    link = entity.associate("127.0.0.1", receiver.port, ae_title="MEDFUSE")
    assert link.send_c_store(dataset).Status == 0
    link.release()
    (kept,) = receiver.objects(1).values()
    assert (kept[0x0077, 0x1001].VR, kept[0x0077, 0x1001].value) == ("FD", 0.5)
    assert len(kept[0x0077, 0x1002].value) == 1 and kept[0x0077, 0x1002].VR == "SQ"


def test_a_transfer_syntax_that_cannot_be_read_is_not_agreed_to(opened):
    """So that the sender knows at once, or sends another."""
    receiver, (dataset, *_) = opened(), make_study(1)
    dataset.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    assert send([dataset], receiver.port) == [None]
    assert receiver.objects(1) == {}


def test_the_same_object_again_is_acknowledged_and_kept_once(opened):
    receiver, study = opened(), make_study(1)
    assert send([*study, *study], receiver.port) == [0] * 24
    assert len(receiver.objects(1)) == 12
    assert receiver.arrived == [case_of(1)] * 12


def test_callers_that_are_not_allowed_are_rejected(opened):
    receiver = opened(callers=("SCANNER", "PACS"))
    assert association(receiver.port, "PACS").is_established
    assert association(receiver.port, "STRANGER").is_rejected
    assert association(receiver.port, "PACS", called="OTHER").is_rejected


def test_no_more_associations_than_are_allowed(opened):
    receiver = opened(most=2)
    links = [association(receiver.port) for _ in range(3)]
    assert [link.is_established for link in links] == [True, True, False]
    assert links[2].is_rejected
    links[0].release()
    until(lambda: association(receiver.port).is_established, 10)


def test_a_caller_that_says_nothing_is_left(opened):
    receiver = opened(timeout=0.5)
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as silent:
        assert silent.recv(1) == b""  # the end of the connection


def cut(dataset: Dataset) -> Dataset:
    dataset.PixelData = dataset.PixelData[:-200]
    return dataset


def without(dataset: Dataset, name: str) -> Dataset:
    delattr(dataset, name)
    return dataset


@pytest.mark.parametrize(
    ("damage", "status"),
    [
        (cut, 0xC000),
        (lambda d: without(d, "PixelData"), 0xC000),
        (lambda d: without(d, "SeriesInstanceUID"), 0xC000),
        (lambda d: without(d, "StudyInstanceUID"), 0xA900),
    ],
)
def test_a_bad_object_is_refused_and_not_kept(opened, damage, status):
    receiver, (first, second, *_) = opened(), make_study(1)
    assert send([damage(first), second], receiver.port) == [status, 0]
    assert set(receiver.objects(1)) == {str(second.SOPInstanceUID)}
    assert list(receiver.queue.incoming.iterdir()) == []


def test_an_object_that_is_none_is_refused(opened, monkeypatch):
    """What follows the request is no data set at all."""
    receiver, (dataset, *_) = opened(), make_study(1)
    monkeypatch.setattr("pynetdicom.association.encode", lambda *_: b"\x08\x00\x18\x00UI\xff\xff no data set")
    assert send([dataset], receiver.port) == [0xC000]
    assert receiver.objects(1) == {}


def test_an_object_that_is_not_what_its_request_says_is_refused(opened, monkeypatch):
    receiver, (dataset, *_) = opened(), make_study(1)
    other = deepcopy(dataset)
    other.SOPInstanceUID = f"{STEM}.99.1"
    from pynetdicom import association as module

    true = module.encode
    monkeypatch.setattr(module, "encode", lambda _, *how: true(other, *how))
    assert send([dataset], receiver.port) == [0xA900]
    assert receiver.objects(1) == {}


def test_a_full_disk_is_said_and_nothing_half_written_stays(opened, monkeypatch):
    receiver, study = opened(), make_study(1)
    room = threading.Event()
    true = os.fsync

    def fsync(descriptor: int) -> None:
        if not room.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        true(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert send(study[:2], receiver.port) == [0xA700] * 2
    assert receiver.objects(1) == {}
    assert list(receiver.queue.incoming.iterdir()) == []
    room.set()
    assert send(study[:2], receiver.port) == [0] * 2
    assert len(receiver.objects(1)) == 2


def test_results_of_ours_that_come_back_start_nothing(opened):
    receiver, (dataset, *_) = opened(), make_study(1)
    dataset.ManufacturerModelName = "medfuse"
    assert send([dataset], receiver.port) == [0]
    assert receiver.arrived == []
    assert len(receiver.objects(1)) == 1


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI:UserWarning")
def test_identifiers_that_look_like_paths_stay_in_the_queue(opened, tmp_path):
    """A broken UID in the header is no UID; and none of them is in a name."""
    receiver, (dataset, *_) = opened(), make_study(1)
    with config.disable_value_validation():
        dataset.StudyInstanceUID = "../../../evil"
    (status,) = send([dataset], receiver.port)
    assert status == 0xC000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["queue"]


def test_tls_lets_in_whom_the_authority_vouches_for(opened, certificates):
    files = Tls(certificates / "server.pem", certificates / "server.key", certificates / "ca.pem")
    receiver = opened(tls=files)
    caller = Tls(certificates / "caller.pem", certificates / "caller.key", certificates / "ca.pem").client()
    stranger = ssl.create_default_context(cafile=certificates / "ca.pem")
    with socket.create_connection(("127.0.0.1", receiver.port)):  # says nothing, and stops no other
        assert send(make_study(1)[:1], receiver.port, tls=(caller, "127.0.0.1")) == [0]
    assert send(make_study(1)[1:2], receiver.port, tls=(stranger, "127.0.0.1")) == [None]
    assert send(make_study(1)[1:2], receiver.port) == [None]
    assert len(receiver.objects(1)) == 1
