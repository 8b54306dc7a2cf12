"""Who works on what: a claim on a name, which ends with the process that holds it, however it ends.

A claim is a lock of the system on a small file (`flock`), which NFS passes on to its server. It knows no clock and no
process number: nothing is ever taken for stale, and a process that is killed holds nothing.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class Claim:
    """A claim on a path; see `claim`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    def release(self) -> None:
        """Give it up, and remove its file."""
        if self._descriptor >= 0:
            with suppress(OSError):  # while it is held: whoever waits finds that the file is another, see `claim`
                self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = -1


def claim(path: str | Path, *, wait: bool = False) -> Claim | None:
    """Claim a path for this process, by a file `.lock-NAME` beside it.

    Args:
        path: What is claimed; its folder is made if absent.
        wait: Wait until whoever holds it gives it up.

    Returns:
        The claim, to be released; None where another has it. Where the file system knows no locks, everybody gets one.

    Raises:
        OSError: The folder cannot be written to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f".lock-{path.name}")
    while True:
        descriptor = os.open(file, os.O_CREAT | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:  # no locks here
            return Claim(file, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if _is(file, descriptor):
            return Claim(file, descriptor)
        os.close(descriptor)  # its holder removed it when it gave it up: the claim is on nothing


def _is(file: Path, descriptor: int) -> bool:
    """Return whether a file is the one that is open."""
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
