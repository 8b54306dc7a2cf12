"""Small studies, the service in a process of its own, and a caller and an archive of pynetdicom."""

from __future__ import annotations

import gc
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from malformed.dicom import SLICES, scans, study
from pydicom import config, uid
from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.presentation import build_context

from medfuse.listen.queue import Queue, study_id
from medfuse.listen.receive import Entrance, Receiver

STEM = "1.2.826.0.1.3680043.8.498"  # as of those that may be made at will


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    """Return an open queue."""
    queue = Queue(tmp_path / "queue")
    held = queue.open()
    yield queue
    held.release()


def make_study(number: int) -> list[Dataset]:
    """Return the images of a study of six slices of MRI and PET: each number gives another patient."""
    mri, pet = study()
    noise = np.random.default_rng(number).integers(0, 20, mri.stored.shape).astype(np.int16)
    root = f"{STEM}.{number}"
    mri = mri.change(stored=mri.stored + noise, series=f"{root}.1", world=f"{root}.9")
    pet = pet.change(series=f"{root}.2", world=f"{root}.9")
    datasets = [*mri.slices(), *pet.slices()]
    for dataset in datasets:
        dataset.StudyInstanceUID, dataset.PatientID = root, f"MRN-{number}"
        _complete(dataset)
    return datasets


def _complete(dataset: Dataset) -> None:
    """Give an image all that its class asks for, see `dciodvfy`."""
    dataset.StudyTime, dataset.BodyPartExamined, dataset.PatientSex = "103000", "BRAIN", "M"
    dataset.ReferringPhysicianName = dataset.StudyID = dataset.AccessionNumber = dataset.Manufacturer = ""
    dataset.PositionReferenceIndicator, dataset.SeriesNumber, dataset.SliceThickness = "", 1, "3"
    if dataset.Modality == "MR":
        dataset.PatientPosition, dataset.ImageType = "HFS", ["ORIGINAL", "PRIMARY", "M"]
        dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "GR", "SP", ""
        dataset.MRAcquisitionType, dataset.RepetitionTime = "3D", "2000"
        dataset.EchoTime, dataset.EchoTrainLength = "3", "1"
        return
    dataset.NumberOfSlices, dataset.ImageIndex = SLICES, dataset.InstanceNumber
    dataset.DecayFactor, dataset.FrameReferenceTime, dataset.ActualFrameDuration = "1.01", "1000", "60000"
    dataset.CountsSource, dataset.SeriesType, dataset.CollimatorType = "EMISSION", ["WHOLE BODY", "IMAGE"], "NONE"
    dataset.PatientOrientationCodeSequence = dataset.PatientGantryRelationshipCodeSequence = []
    dataset.RadiopharmaceuticalInformationSequence[0].RadionuclideCodeSequence = []


def case_of(number: int) -> str:
    return study_id(f"{STEM}.{number}")


@pytest.fixture(scope="module")
def collected() -> Iterator[None]:
    """Collect what tests have left while their filters of warnings count: later it would be a fault of others."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    """Return a folder with an authority, and a certificate of this machine and of a caller that it vouches for."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")

    def run(*words: str) -> None:
        subprocess.run([openssl, *words], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    run("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority", "-days", "2")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "caller"):
        run("req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", f"{name}.pem", "-days", "2", "-extfile", "names")  # fmt: skip
    return folder


class Listening:
    """A service, started anew as often as is wanted, always on one queue and one port."""

    def __init__(self, queue: Path, *options: str) -> None:
        self.queue, self.options, self.port = queue, options, 0
        self.log = queue.with_suffix(".log")
        self.process: subprocess.Popen[str] | None = None

    def start(self, *more: str) -> Listening:
        words = ["listen", str(self.queue), "--port", str(self.port), "--steps", "1", "--device", "cpu", *self.options]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "medfuse", *words, *more], stdout=subprocess.PIPE, stderr=log, text=True
            )
        line = self.process.stdout.readline()
        if "listens at" not in line:
            pytest.fail(f"the service did not start: {line}{self.log.read_text()}")
        self.port = int(line.rpartition(":")[2])
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)
        self.process.stdout.close()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self.process.stdout.close()
        return code

    def send(self, datasets: list[Dataset], aet: str = "MODALITY", **options) -> list[int | None]:
        return send(datasets, self.port, aet, **options)


def send(datasets: list[Dataset], port: int, aet: str = "MODALITY", called: str = "MEDFUSE", tls=None) -> list:
    """Send data sets in one association; return the status of each, None where there was no answer."""
    entity = AE(ae_title=aet)
    entity.acse_timeout = entity.dimse_timeout = 20
    kinds = {(d.SOPClassUID, d.file_meta.TransferSyntaxUID) for d in datasets}
    contexts = [build_context(kind, syntax) for kind, syntax in sorted(kinds)]
    link = entity.associate("127.0.0.1", port, contexts, ae_title=called, tls_args=tls)
    if not link.is_established:
        return [None] * len(datasets)
    found = []
    with config.disable_value_validation():
        for dataset in datasets:
            try:
                found.append(link.send_c_store(dataset).get("Status"))
            except (RuntimeError, ValueError):
                found.append(None)
    link.release()
    return found


class Archive:
    """A peer that keeps what it gets: UID and how often; `answer` may refuse."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.objects: dict[str, list[Dataset]] = {}
        self.answer: Callable[[Dataset], int] = lambda _: 0
        self.entity = AE(ae_title="ARCHIVE")
        native = (uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian)
        for context in AllStoragePresentationContexts:
            self.entity.add_supported_context(context.abstract_syntax, [uid.ExplicitVRLittleEndian, *native])
        self.lock = threading.Lock()
        self.server = self.entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)], ssl_context=tls
        )
        self.port = self.server.server_address[1]

    @property
    def name(self) -> str:
        return f"ARCHIVE@127.0.0.1:{self.port}"

    def _store(self, event) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        status = self.answer(dataset)
        if status == 0:
            with self.lock:
                self.objects.setdefault(str(dataset.SOPInstanceUID), []).append(dataset)
        return status


class Open:
    """A receiver in this process."""

    def __init__(self, folder: Path, **options) -> None:
        self.queue, self.arrived = Queue(folder / "queue"), []
        self.held = self.queue.open()
        self.receiver = Receiver(self.queue, Entrance(port=0, **options), self.arrived.append)
        self.host, self.port = self.receiver.start()

    def close(self) -> None:
        self.receiver.stop()
        self.held.release()

    def objects(self, number: int) -> dict[str, Dataset]:
        folder = self.queue.studies / case_of(number)
        found = [pydicom.dcmread(path) for path in folder.iterdir()] if folder.is_dir() else []
        return {str(d.SOPInstanceUID): d for d in found}


@pytest.fixture
def opened(tmp_path):
    """Return a function that opens a receiver, which ends with the test."""
    made = []

    def make(**options) -> Open:
        made.append(Open(tmp_path, **options))
        return made[-1]

    yield make
    for receiver in made:
        receiver.close()


def until(what: Callable[[], object], seconds: float = 60.0) -> object:
    """Wait until something is so, and return it."""
    last = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > last:
            pytest.fail("it did not come to be in time")
        time.sleep(0.05)
    return found


@pytest.fixture
def archive() -> Iterator[Archive]:
    """Return a peer."""
    found = Archive()
    yield found
    found.entity.shutdown()


@pytest.fixture
def listening(tmp_path) -> Iterator[Callable[..., Listening]]:
    """Return a function that makes a service, which ends with the test."""
    made: list[Listening] = []

    def make(*options: str, queue: str = "queue", stable: str = "0.5") -> Listening:
        made.append(Listening(tmp_path / queue, "--stable", stable, "--retry", "0.3", *options))
        return made[-1]

    yield make
    for service in made:
        if service.process is not None and service.process.poll() is None:
            service.kill()


__all__ = ["Archive", "Listening", "Open", "case_of", "make_study", "scans", "send", "until"]
