"""The queue on the disk: what was acknowledged is there, whole and once, whatever came in between."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import time

import pytest

from medfuse.errors import MedfuseError
from medfuse.listen.commands import _warn_of_others
from medfuse.listen.outbox import SENT, Outbox
from medfuse.listen.peers import ae_title, peer
from medfuse.listen.queue import FAILED, FUSED, Entry, Queue, is_queue, study_id
from medfuse.listen.status import ALL_DONE, SOME_FAILED, SOME_WAITING, queue_status

STUDY = "1.2.3"


def put(queue: Queue, instance: str, content: bytes, *, study: str = STUDY, is_result: bool = False) -> bool:
    file = queue.new_file()
    file.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return queue.place(file, study=study, instance=instance, content=digest, is_result=is_result)


def contents(queue: Queue) -> list[bytes]:
    return sorted(path.read_bytes() for path in (queue.studies / study_id(STUDY)).iterdir())


def test_an_object_that_comes_twice_is_there_once(queue):
    assert put(queue, "1.1", b"one")
    version = queue.version(study_id(STUDY))
    assert not put(queue, "1.1", b"one")
    assert contents(queue) == [b"one"]
    assert queue.version(study_id(STUDY)) == version


def test_a_corrected_object_replaces_the_first_and_makes_another_version(queue):
    put(queue, "1.1", b"one")
    put(queue, "1.2", b"two")
    version = queue.version(study_id(STUDY))
    assert put(queue, "1.1", b"corrected")
    assert contents(queue) == [b"corrected", b"two"]
    assert queue.version(study_id(STUDY)) != version


def test_a_kill_between_the_new_and_the_old_leaves_the_new(queue):
    put(queue, "1.1", b"one")
    folder = queue.studies / study_id(STUDY)
    (old,) = folder.iterdir()
    kept = old.read_bytes()
    put(queue, "1.1", b"corrected")
    old.write_bytes(kept)  # as if it had not been removed yet
    os.utime(old, (time.time() - 60,) * 2)
    again = Queue(queue.folder)
    with pytest.raises(MedfuseError, match="of one service"):
        again.open()
    again._drop_replaced(study_id(STUDY))
    assert contents(queue) == [b"corrected"]


def test_what_was_on_its_way_in_is_cleared_away_and_nothing_else(tmp_path):
    queue = Queue(tmp_path / "queue")
    queue.open().release()
    put(queue, "1.1", b"one")
    queue.new_file().write_bytes(b"half of an obj")
    queue.open().release()
    assert list(queue.incoming.iterdir()) == []
    assert contents(queue) == [b"one"]


def test_a_killed_service_holds_nothing(tmp_path):
    code = (
        f"from medfuse.listen.queue import Queue; held = Queue({str(tmp_path / 'q')!r}).open()\n"
        "print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(MedfuseError, match="of one service"):
            Queue(tmp_path / "q").open()
        child.kill()
        child.wait()
    Queue(tmp_path / "q").open().release()


def test_no_folder_with_other_files_becomes_a_queue(tmp_path):
    (tmp_path / "thesis.doc").write_text("mine")
    with pytest.raises(MedfuseError, match="QUEUE must be a new folder or a queue"):
        Queue(tmp_path).open()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]
    assert not is_queue(tmp_path)


def test_a_queue_of_another_format_is_left_alone(tmp_path):
    Queue(tmp_path / "q").open().release()
    (tmp_path / "q" / "queue.json").write_text('{"format": 99}')
    with pytest.raises(MedfuseError, match="format 1"):
        Queue(tmp_path / "q").open()


def test_names_tell_nothing_and_lead_nowhere(queue):
    for number, text in enumerate(("../../evil", "/etc/evil", "CANARY^NAME", "1.2/3")):
        put(queue, text, f"{number}".encode(), study=text)
    names = [path.relative_to(queue.folder).as_posix() for path in queue.folder.rglob("*.dcm")]
    assert len(names) == 4
    assert all(name.startswith("studies/study-") and "evil" not in name and "CANARY" not in name for name in names)
    assert sorted(path.name for path in queue.folder.parent.iterdir()) == ["queue"]


def test_a_snapshot_stays_as_it_was(queue):
    put(queue, "1.1", b"one")
    put(queue, "9.9", b"a result of ours", is_result=True)
    folder, version = queue.snapshot(study_id(STUDY))
    assert version == queue.version(study_id(STUDY))
    put(queue, "1.1", b"corrected")
    put(queue, "1.2", b"late")
    assert [path.read_bytes() for path in folder.iterdir()] == [b"one"]
    assert version != queue.version(study_id(STUDY))


def test_results_of_ours_make_no_new_version(queue):
    put(queue, "1.1", b"one")
    queue.note(Entry(study_id(STUDY), queue.version(study_id(STUDY)), FUSED))
    put(queue, "9.9", b"a result of ours", is_result=True)
    assert not queue.is_waiting(study_id(STUDY))
    put(queue, "1.2", b"late")
    assert queue.is_waiting(study_id(STUDY))


def test_status_says_what_waits_failed_and_is_to_be_sent(queue):
    study = study_id(STUDY)
    put(queue, "1.1", b"one")
    assert queue_status(queue.folder).exit_code == SOME_WAITING
    queue.note(Entry(study, queue.version(study), FAILED, "the folder must hold one PT series, got 0."))
    found = queue_status(queue.folder)
    assert found.exit_code == SOME_FAILED
    assert list(found.lines()) == [
        "1 study: 0 fused, 1 failed, 0 waiting",
        f"{study} failed: the folder must hold one PT series, got 0.",
    ]
    queue.note(Entry(study, queue.version(study), FUSED))
    assert queue_status(queue.folder).exit_code == ALL_DONE
    put(queue, "1.2", b"late")
    assert list(queue_status(queue.folder).lines())[1] == f"{study} waiting: 2 objects"


def test_a_line_of_the_journal_that_was_cut_short_counts_as_none(queue):
    outbox = Outbox(queue, ["A@b:1"])
    path = queue.sent / "study-0000000000000000.tsv"
    path.write_bytes(b"1.2.3\tA@b:1\tsent\n1.2.4\tA@b:1")
    assert outbox.settled("study-0000000000000000") == {("1.2.3", "A@b:1"): SENT}


@pytest.mark.parametrize(
    "text", ["PACS@host:104", "tls:PACS@10.0.0.5:2762", "A B@[::1]:104", "https://pacs/dicom-web", "http://h:8042/x"]
)
def test_peers_are_known_by_their_texts(text):
    assert peer(text).text == text


@pytest.mark.parametrize(
    "text",
    ["host:104", "@h:1", "PACS@h", "PACS@h:0", "PACS@h:65536", "ABCDEFGHIJKLMNOPQ@h:1", "A\\B@h:1", "PACS@h x:1",
     "ftp://h/x", "https://user:secret@h/x", "https://:secret@h/x", "https://h/x?token=1", "https://h:0/x",
     "https://h/a b", "https://h/a\tb", "https://h/a\n", "https://h/\N{LATIN SMALL LETTER E WITH ACUTE}"],
)  # fmt: skip
def test_what_is_no_peer_is_refused(text):
    with pytest.raises(ValueError, match="must be"):
        peer(text)


@pytest.mark.parametrize("text", ["https://h:99999/x", "https://h:port/x"])
def test_a_service_with_a_port_that_is_none_is_refused_before_it_is_called(text):
    with pytest.raises(ValueError, match=r"[Pp]ort"):
        peer(text)


def test_a_new_queue_is_for_the_service_alone_and_one_that_is_there_stays_as_it_is(tmp_path):
    """Received objects name patients: with the usual umask of 022 all could read them."""
    for name, mode in (("new", 0o700), ("shared", 0o750)):
        if name == "shared":
            (tmp_path / name).mkdir(mode=mode)
        Queue(tmp_path / name).open().release()
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode


def test_a_queue_that_every_user_may_enter_is_a_warning(tmp_path, caplog):
    for mode, warned in ((0o700, False), (0o750, False), (0o755, True), (0o777, True)):
        tmp_path.chmod(mode)
        caplog.clear()
        _warn_of_others(tmp_path)
        assert ("run chmod o= on it" in caplog.text) == warned
    tmp_path.chmod(0o700)


def test_status_of_a_queue_whose_first_start_was_killed(tmp_path):
    """The mark is written before the folders are made."""
    (tmp_path / "queue.json").write_text('{"format": 1}')
    assert queue_status(tmp_path).exit_code == ALL_DONE
    assert list(queue_status(tmp_path).lines()) == ["0 studies: 0 fused, 0 failed, 0 waiting"]


@pytest.mark.parametrize("text", ["", " ", "A\\B", "ÄE", "A" * 17, "A\n"])
def test_what_is_no_ae_title_is_refused(text):
    with pytest.raises(ValueError, match="AE title"):
        ae_title(text)
