"""Gzip streams that are written: by ISA-L where it is installed, several times as fast, else by zlib."""

from __future__ import annotations

import gzip
from importlib import import_module
from io import IOBase
from typing import Any, BinaryIO, cast


def _isal() -> Any:
    """Return `isal.igzip`, or None where medfuse[fast] is not installed, or not made for this processor."""
    try:
        return import_module("isal.igzip")
    except ImportError:
        return None


igzip = _isal()
_LEVELS = {"zlib": 1, "isal": 2}  # measured on volumes: more packs hardly more, and takes longer


def packer() -> str:
    """Return by what gzip streams are packed: `isal` or `zlib`; any program unpacks both."""
    return "zlib" if igzip is None else "isal"


def packed(file: BinaryIO) -> IOBase:
    """Return a stream that packs what is written to it into `file`, without name and time: equal input, equal bytes.

    Equal on machines that pack by the same library, see `packer`. It must be closed; `file` stays open.
    """
    kind = gzip.GzipFile if igzip is None else igzip.IGzipFile
    stream = kind(filename="", mode="wb", compresslevel=_LEVELS[packer()], fileobj=file, mtime=0)
    return cast(IOBase, stream)
