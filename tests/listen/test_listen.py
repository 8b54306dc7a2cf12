"""The service as a whole, in a process of its own: from studies that arrive to results that are sent."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from listen.conftest import Archive, Listening, case_of, make_study, until

from medfuse import cli
from medfuse.bundles import case_keys
from medfuse.listen.commands import _check, series_names
from medfuse.listen.peers import Tls
from medfuse.listen.queue import FAILED, FUSED, Queue
from medfuse.listen.work import How, Worker

# pynetdicom 3.0.4 leaves sockets to the collector where a connection was refused
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("collected"),
]
CANARIES = ("CANARY", "MRN-", "19010203", "20240229")  # of tests/io/conftest.py
RESULTS = 14  # objects of six slices: restored PET 6, colours 6, one of all slices, one map


def entry(service: Listening, number: int):
    return Queue(service.queue).entry(case_of(number))


def worker_of(service: Listening) -> int:
    """Return the process that fuses."""
    children = Path(f"/proc/{service.process.pid}/task").glob("*/children")
    pids = {int(pid) for path in children for pid in path.read_text().split()}
    return max(pid for pid in pids if "--multiprocessing-fork" in Path(f"/proc/{pid}/cmdline").read_text())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_series_that_can_be_chosen_are_those_that_are_written():
    from medfuse.pipeline.outputs.dicom import series_of

    assert series_names("pet_mri_fusion") == tuple(series_of(case_keys("pet_mri_fusion")[1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--port", "70000"), "0 to 65535"),
        (("--send", "nobody"), "a peer must be"),
        (("--aet", "A" * 17), "AE title"),
        (("--stable", "0"), "seconds above 0"),
        (("--series", "bones"), "--series must be of"),
        (("--tls-key", "key.pem"), "--tls-cert"),
        (("--tls-cert", "none.pem"), "PEM files"),
        (("--stow-header", "none"), "--stow-header must be a file"),
        (("--bundle", "none"), "bundle"),
    ],
)
def test_a_slip_is_said_before_anything_is_made(options, message, tmp_path, capsys):
    try:
        code = cli.main(["listen", str(tmp_path / "queue"), *options])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "queue").exists()


def test_a_header_that_goes_over_plain_http_is_a_warning(tmp_path, caplog):
    (tmp_path / "header").write_text("Bearer abc")
    parse = cli._parser().parse_args
    words = ["listen", str(tmp_path / "queue"), "--stow-header", str(tmp_path / "header"), "--send"]
    for url, warned in (("http://pacs:8042/dicom-web", 1), ("https://pacs/dicom-web", 0), ("A@pacs:104", 0)):
        caplog.clear()
        _check(parse([*words, url]), Tls())
        assert len([r for r in caplog.records if "should go over https" in r.getMessage()]) == warned


def _stuck(pipe, *_: object) -> None:
    """A process that fuses nothing, as one in an endless loop."""
    pipe.send("")
    time.sleep(600)


def test_a_study_that_takes_too_long_fails_and_its_process_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("medfuse.listen.work._work", _stuck)
    worker = Worker(tmp_path, How({}, limit=0.3))
    for study in ("study-1", "study-2"):  # the next one gets a process of its own
        worker.begin(study, tmp_path)
        process = worker._process
        outcome = until(lambda: worker.outcome(0.1), 60)
        assert (outcome.study, outcome.died, outcome.is_unstored) == (study, False, False)
        assert outcome.message.startswith("The study must be fused within 0.3 s, got one that was not; raise --time-l")
        assert not process.is_alive()
    worker.stop()


def test_a_study_that_comes_is_fused_and_sent_and_a_bad_one_stops_no_other(listening, archive, capsys):
    """Also: no name and no line tells who the patient is, and a late image gives new results."""
    service = listening("--send", archive.name).start()
    bad = [d for d in make_study(1) if d.Modality == "MR"]
    good, late = make_study(2)[:-1], make_study(2)[-1:]
    for dataset in good + late:
        if dataset.Modality == "PT":
            dataset.NumberOfSlices = 0
    assert service.send(bad) == [0] * 6
    assert service.send(good + good) == [0] * 22
    until(lambda: len(archive.objects) == RESULTS, 120)
    assert {str(d.PatientID) for (d,) in archive.objects.values()} == {"MRN-2"}
    assert entry(service, 1).state == FAILED
    assert "PT series" in entry(service, 1).message
    assert entry(service, 2).state == FUSED
    first = set(archive.objects)

    assert service.send(late) == [0]
    until(lambda: len(archive.objects) == 2 * RESULTS, 120)
    assert service.send(good) == [0] * 11  # once more: nothing new
    assert service.send(list(archive.objects[min(first)])) == [0]  # a result that comes back: nothing new
    until(lambda: not list(Queue(service.queue).outbox.iterdir()), 60)
    assert service.stop() == 0
    assert all(len(found) == 1 for found in archive.objects.values())
    assert len(archive.objects) == 2 * RESULTS

    said = service.log.read_text() + "".join(path.as_posix() for path in service.queue.rglob("*"))
    said += "".join(path.read_text() for path in (service.queue / "ledger").iterdir())
    assert not [word for word in CANARIES if word in said]
    assert cli.main(["status", str(service.queue)]) == 1
    out = capsys.readouterr().out
    assert "2 studies: 1 fused, 1 failed, 0 waiting" in out
    assert cli.main(["status", str(service.queue), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["studies"]) == 2


@pytest.mark.full
def test_kills_of_service_and_worker_lose_and_double_nothing(listening, archive):
    """The service is killed while it fuses, then its worker is; what one run gives is what all give together."""
    service = listening("--send", archive.name).start()
    assert service.send(make_study(3)) == [0] * 12
    until(lambda: list((service.queue / "work").iterdir()), 60)
    orphan = worker_of(service)
    service.kill()
    until(lambda: not alive(orphan), 20)
    assert entry(service, 3) is None
    assert not archive.objects

    service.start()
    until(lambda: list((service.queue / "work").iterdir()), 60)
    os.kill(worker_of(service), signal.SIGKILL)
    until(lambda: len(archive.objects) == RESULTS, 120)
    until(lambda: not list((service.queue / "outbox").iterdir()), 60)
    assert "is tried again when others are done" in service.log.read_text()
    assert service.stop() == 0

    other = Archive()
    try:
        again = listening("--send", other.name, queue="again").start()
        again.send(make_study(3))
        until(lambda: len(other.objects) == RESULTS, 120)
        assert again.stop() == 0
    finally:
        other.entity.shutdown()
    assert set(other.objects) == set(archive.objects)  # the same UIDs
    for uid, found in archive.objects.items():
        assert len(found) == len(other.objects[uid]) == 1
        assert found[0].get("PixelData") == other.objects[uid][0].get("PixelData")
        assert found[0].get("FloatPixelData") == other.objects[uid][0].get("FloatPixelData")
