"""Errors that medfuse raises on purpose.

Every message says what must be, what was got and what to do. Messages never hold patient data: case ids only.
Each error is also a `ValueError`, so that callers that know nothing of medfuse can catch it.
"""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType

_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


class MedfuseError(ValueError):
    """Base of every error that medfuse raises on purpose."""


class DegradationError(MedfuseError):
    """A degradation specification, operator or noise model that makes no sense."""


class GeometryError(MedfuseError):
    """Shapes, affines or grids that do not fit."""


class ImageError(MedfuseError):
    """A file or an array that cannot be used as an image."""


class DicomError(MedfuseError):
    """A DICOM file or series that cannot be used, or a header that does not say what is needed."""


class RegistrationError(MedfuseError):
    """Two volumes that cannot be brought into register, or should not be."""


class BundleError(MedfuseError):
    """A bundle, its weights or its data folder that is missing or incomplete."""


class OthersResultsError(BundleError):
    """Results of other sources lie where those of a run would come to lie."""


class StorageError(MedfuseError):
    """A disk that is full, or files that may not be touched: the same may be tried again later."""


def known_error(error: BaseException | None) -> MedfuseError | None:
    """Return the error of ours in a chain of causes, or None: MONAI wraps what happens inside a bundle.

    A disk that is full, files that may not be touched, or a name too long for the file system are no fault of the code:
    they become errors of ours, too.
    """
    while error is not None:
        if isinstance(error, MedfuseError):
            return error
        if isinstance(error, OSError) and error.errno in _STORAGE:
            why = os.strerror(error.errno).lower()
            return StorageError(f"Inputs must be readable, and OUT writable with space left, got {why!r}; check both.")
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            return MedfuseError(
                "Names of files and folders must be as short as the file system wants (255 bytes as a rule), got a "
                "longer one; shorten it."
            )
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise an error of ours in place of those of MONAI that it is wrapped in."""
    try:
        yield
    except Exception as error:
        known = known_error(error)
        if known is None or known is error:
            raise
        raise known from None


def nearest(name: str, legal: Iterable[str]) -> str:
    """Return what a message about an unknown name ends with: the legal name that is most like it, if one is."""
    found = difflib.get_close_matches(name, list(legal), n=1, cutoff=0.6)
    return f"write {found[0]}, or remove it" if found else "remove it"


def say_last() -> None:
    """Let an error of ours that stops the program be said once more, in one sentence, below its traceback.

    For the `initialize` of bundles: MONAI wraps what happens in a bundle in errors of its own, and theirs come last.
    """
    before = sys.excepthook
    if getattr(before, "says_last", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        before(kind, error, trace)
        known = known_error(error)
        if known is not None:
            sys.stderr.write(f"medfuse: error: {known}\n")

    hook.says_last = True  # type: ignore[attr-defined]
    sys.excepthook = hook
