"""There and back with the real Orthanc: twenty studies, two kills of the service, nothing lost or doubled."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import threading
import urllib.error
from pathlib import Path

import pydicom
import pytest
from listen.conftest import case_of, make_study, send, until
from orthanc import Pacs

from medfuse.listen.outbox import SENT, Outbox
from medfuse.listen.peers import Tls, peer
from medfuse.listen.queue import FUSED, Queue
from medfuse.listen.send import BusyError, Sender
from medfuse.listen.status import ALL_DONE, queue_status

# pynetdicom 3.0.4 leaves sockets to the collector where a connection was refused
pytestmark = [
    pytest.mark.full,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("collected"),
]
STUDIES, SOURCES, RESULTS = 20, 12, 14
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")  # of Debian's orthanc-dicomweb
SHIPPED = Path(__file__).parents[2] / "engines" / "orthanc"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def back() -> int:
    """Return a port for the service."""
    return free_port()


@pytest.fixture
def pacs(tmp_path, back):
    """Return an Orthanc that sends each study that has come to rest, with the configuration that is shipped."""
    folder = tmp_path / "orthanc"
    folder.mkdir()
    settings = json.loads((SHIPPED / "orthanc.json").read_text())
    settings["LuaScripts"] = [str(SHIPPED / script) for script in settings["LuaScripts"]]
    settings["DicomModalities"]["medfuse"][2] = back
    settings["DicomModalities"]["modality"] = ["MODALITY", "127.0.0.1", 1]
    found = Pacs(folder, **settings | {"StableAge": 1})
    yield found
    found.stop()


def instances(pacs: Pacs) -> list[str]:
    return json.loads(pacs.ask("/instances"))


def send_again(pacs: Pacs) -> None:
    """Have every study sent to the service, as a person does who is not sure; what is there already is known."""
    for study in json.loads(pacs.ask("/studies")):
        until(lambda study=study: _sent(pacs, study), 60)


def _sent(pacs: Pacs, study: str) -> bool:
    try:
        pacs.ask("/modalities/medfuse/store", study)
    except urllib.error.HTTPError:
        return False
    return True


def errors(path: Path) -> list[str]:
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    assert done.stderr, "it names at least the kind of object"
    return [line for line in done.stderr.splitlines() if line.startswith(("Error", "Abort"))]


def test_twenty_studies_and_two_kills(pacs, back, listening, tmp_path):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed; its Debian package is in .ci/run")
    service = listening("--send", f"ORTHANC@127.0.0.1:{pacs.dicom}", stable="1")
    service.port = back
    service.start()
    for number in range(1, 8):
        assert send(make_study(number), pacs.dicom, called="ORTHANC") == [0] * SOURCES
    until(lambda: list((service.queue / "work").iterdir()), 120)
    service.kill()  # while it fuses
    for number in range(8, STUDIES + 1):  # Orthanc takes them, and cannot pass them on
        assert send(make_study(number), pacs.dicom, called="ORTHANC") == [0] * SOURCES
    service.start()
    send_again(pacs)
    until(lambda: len(instances(pacs)) >= STUDIES * SOURCES + 5 * RESULTS + 3, 600)
    service.kill()  # while it sends
    service.start()
    send_again(pacs)
    until(lambda: queue_status(service.queue).exit_code == ALL_DONE, 900)
    send_again(pacs)  # with the results in them
    until(lambda: queue_status(service.queue).exit_code == ALL_DONE, 60)
    assert service.stop() == 0

    queue, there = Queue(service.queue), {}
    for place in instances(pacs):
        image = pydicom.dcmread(io.BytesIO(pacs.ask(f"/instances/{place}/file")))
        assert there.setdefault(str(image.SOPInstanceUID), image) is image  # once
        path = tmp_path / "image.dcm"
        path.write_bytes(pacs.ask(f"/instances/{place}/file"))
        assert errors(path) == []
    assert len(there) == STUDIES * (SOURCES + RESULTS)
    results = {uid for uid, image in there.items() if image.get("ManufacturerModelName") == "medfuse"}
    for number in range(1, STUDIES + 1):
        case, study = case_of(number), make_study(number)
        assert queue.entry(case).state == FUSED
        kept = {str(pydicom.dcmread(queue.studies / case / name).SOPInstanceUID) for name in queue.sources(case)}
        assert kept == {str(dataset.SOPInstanceUID) for dataset in study}
        for dataset in study:
            assert there[str(dataset.SOPInstanceUID)].PixelData == dataset.PixelData
        own = {uid for uid in results if there[uid].StudyInstanceUID == study[0].StudyInstanceUID}
        assert len(own) == RESULTS
        assert {there[uid].PatientID for uid in own} == {f"MRN-{number}"}
        for path in (service.queue / "results" / case / "dicom").rglob("*.dcm"):
            mine = pydicom.dcmread(path)
            theirs = there[str(mine.SOPInstanceUID)]
            assert mine.get("PixelData") == theirs.get("PixelData")
            assert mine.get("FloatPixelData") == theirs.get("FloatPixelData")
    for path in queue.studies.rglob("*.dcm"):
        assert errors(path) == []


@pytest.fixture
def secure(tmp_path, certificates):
    """Return an Orthanc that speaks TLS to those whom the authority vouches for, and DICOMweb."""
    if not PLUGIN.exists():
        pytest.skip("orthanc-dicomweb is not installed; it is in .ci/run")
    folder = tmp_path / "orthanc"
    folder.mkdir()
    files = {"Certificate": "server.pem", "PrivateKey": "server.key", "TrustedCertificates": "ca.pem"}
    tls = {f"DicomTls{name}": str(certificates / file) for name, file in files.items()}
    required = {"DicomTlsEnabled": True, "DicomTlsRemoteCertificateRequired": True}
    found = Pacs(folder, Plugins=[str(PLUGIN)], **tls, **required)
    yield found
    found.stop()


@pytest.mark.parametrize("way", ["TLS", "STOW-RS"])
def test_results_reach_it_over_tls_and_by_stow(secure, certificates, queue, tmp_path, way):
    """It takes objects over TLS from a caller with a certificate, and the same by the DICOMweb of its plugin."""
    folder = tmp_path / "results" / "series"
    folder.mkdir(parents=True)
    for k, dataset in enumerate(make_study(1)):
        dataset.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    address = {
        "TLS": f"tls:ORTHANC@127.0.0.1:{secure.dicom}",
        "STOW-RS": f"http://127.0.0.1:{secure.http}/dicom-web",
    }[way]
    outbox, stop = Outbox(queue, [address]), threading.Event()
    outbox.put(case_of(1), "1", [folder])
    files = Tls(certificates / "caller.pem", certificates / "caller.key", certificates / "ca.pem")
    sender = Sender(outbox, peer(address), aet="MEDFUSE", tls=files, timeout=20.0, pause=0.3, stop=stop)
    sender.start()
    until(lambda: not outbox.parcels(), 60)
    sender.finish()
    sender.join(20)
    assert set(outbox.settled(case_of(1)).values()) == {SENT}
    there = {}
    for place in instances(secure):
        image = pydicom.dcmread(io.BytesIO(secure.ask(f"/instances/{place}/file")))
        there[str(image.SOPInstanceUID)] = image.PixelData
    assert there == {str(dataset.SOPInstanceUID): dataset.PixelData for dataset in make_study(1)}
    plain = Sender(outbox, peer(f"ORTHANC@127.0.0.1:{secure.dicom}"), aet="MEDFUSE", tls=Tls(), timeout=5.0, stop=stop)
    with pytest.raises(BusyError):  # without TLS nobody comes in
        list(plain._store({"1.2.3": folder / "0.dcm"}))
