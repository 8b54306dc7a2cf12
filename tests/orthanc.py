"""The real Orthanc, of its Debian package, for tests."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

PROMPT = {**os.environ, "TCP_NODELAY": "1"}  # dcmtk else waits 40 ms for each message


def tool(name: str) -> str:
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed; its Debian package is in .ci/run")
    return path


class Pacs:
    """An Orthanc that answers this machine alone, and the commands of dcmtk that talk to it."""

    def __init__(self, folder: Path, **more: object) -> None:
        with socket.socket() as a, socket.socket() as b, socket.socket() as c:
            for s in (a, b, c):
                s.bind(("127.0.0.1", 0))
            self.http, self.dicom, self.back = (s.getsockname()[1] for s in (a, b, c))
        modalities = {"medfuse": ["MEDFUSE", "127.0.0.1", self.back]}
        settings = {"DicomModalities": modalities, "Plugins": []} | more | {
            "HttpPort": self.http, "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
            "DicomPort": self.dicom, "DicomAet": "ORTHANC", "DicomAlwaysAllowStore": False,
            "DicomCheckModalityHost": True,
            "StorageDirectory": str(folder), "IndexDirectory": str(folder),
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(settings))
        command = [tool("Orthanc"), str(folder / "orthanc.json")]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=PROMPT, **quiet)
        for _ in range(200):
            try:
                self.ask("/system")
                return
            except OSError:
                time.sleep(0.1)
        self.stop()
        pytest.fail("Orthanc did not answer within 20 s")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def ask(self, path: str, body: str | None = None) -> bytes:
        data = None if body is None else body.encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", data, timeout=60) as answer:
            return answer.read()

    def instance(self, uid: str) -> str:
        """Return the address of an image by its UID."""
        (found,) = json.loads(self.ask("/tools/lookup", uid))
        return found["Path"]

    def run(self, name: str, *options: str) -> str:
        command = [tool(name), "-aet", "MEDFUSE", "-aec", "ORTHANC", *options]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=PROMPT)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def store(self, *folders: Path) -> None:
        self.run("storescu", "+sd", "+r", "-R", "127.0.0.1", str(self.dicom), *map(str, folders))

    def find(self, study: str) -> set[str]:
        keys = ("QueryRetrieveLevel=SERIES", f"StudyInstanceUID={study}", "SeriesInstanceUID")
        told = self.run("findscu", "-S", *(p for k in keys for p in ("-k", k)), "127.0.0.1", str(self.dicom))
        return {
            line.split("[")[1].split("]")[0].strip(" \0") for line in told.splitlines() if "(0020,000e) UI [" in line
        }

    def move(self, study: str, folder: Path) -> None:
        folder.mkdir()
        keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}")
        back = ("-aem", "MEDFUSE", "+P", str(self.back), "-od", str(folder))
        self.run("movescu", "-S", *back, *keys, "127.0.0.1", str(self.dicom))
