"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path
from typing import Any

from medfuse.errors import MedfuseError


@contextmanager
def atomic_path(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """Give a temporary path in the same folder, and rename it to `path` when the block ends well.

    For libraries that want a name to write to; the temporary name keeps the suffix. A reader sees the old file or the
    whole new one, never a part. If the block raises, the temporary file is removed and `path` stays as it was.

    Args:
        path: File to write; its folder is made if absent.
        durable: Flush the file and its folder to the disk before returning, against a loss of power.

    Yields:
        Path to write to. It is reserved: an empty file with the permissions of an ordinary new file.

    Raises:
        OSError: If the folder cannot be written to, or `path` is a folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{secrets.token_hex(6)}-{path.name}")
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        if durable:
            flush(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable and os.name == "posix":
        flush(path.parent)


@contextmanager
def atomic_file(path: str | Path, *, durable: bool = False) -> Iterator[BufferedWriter]:
    """Open a binary file for writing that becomes `path` when the block ends well.

    Args:
        path: File to write; its folder is made if absent.
        durable: Flush to the disk before returning.

    Yields:
        Binary file, open for writing.

    Raises:
        OSError: If the folder cannot be written to, or `path` is a folder.
    """
    with atomic_path(path, durable=durable) as temporary, temporary.open("wb") as file:
        yield file
        file.close()  # before the rename, as some systems do not rename an open file


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`, and rename it to `path` when the block ends well.

    A folder that is there already is replaced as a whole. If the block raises, it stays as it was.

    Args:
        path: Folder to write; that which it lies in is made if absent.

    Yields:
        The temporary folder, empty.

    Raises:
        OSError: If the folder cannot be written to, or `path` is a file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(6)
    temporary, old = (path.with_name(f".{kind}-{token}-{path.name}") for kind in ("tmp", "old"))
    temporary.mkdir()
    try:
        yield temporary
        if path.is_dir():  # a folder with files in it cannot be renamed over
            path.rename(old)
        temporary.rename(path)
    except BaseException:
        if old.is_dir() and not path.exists():
            old.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def require_writable(folder: str | Path) -> None:
    """Check, before any work, that a folder can be written to, or made; nothing is.

    Raises:
        MedfuseError: If it cannot.
    """
    folder = Path(folder).absolute()
    place = next(p for p in (folder, *folder.parents) if p.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise MedfuseError("OUT must be a folder that can be written to, got one that cannot; choose another.")


def write_json(path: str | Path, value: Any, *, durable: bool = False) -> None:
    """Write `value` as indented JSON, atomically; equal values give equal bytes.

    Args:
        path: File to write; its folder is made if absent.
        value: Anything `json` can write. NaN and infinity are refused: they are no JSON.
        durable: Flush to the disk before returning.

    Raises:
        OSError: If the folder cannot be written to, or `path` is a folder.
        TypeError: If a part of `value` is no JSON type.
        ValueError: If a number is not finite.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_file(path, durable=durable) as file:
        file.write(text.encode())


def flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk.

    Raises:
        OSError: It cannot be.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
