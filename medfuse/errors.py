"""Errors that medfuse raises on purpose.

Every message says what must be, what was got and what to do. Messages never hold patient data: case ids only.
Each error is also a `ValueError`, so that callers that know nothing of medfuse can catch it.
"""

import errno
import os

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


def known_error(error: BaseException | None) -> MedfuseError | None:
    """Return the error of ours in a chain of causes, or None: MONAI wraps what happens inside a bundle.

    A disk that is full, or files that may not be touched, are no fault of the code: they become errors of ours, too.
    """
    while error is not None:
        if isinstance(error, MedfuseError):
            return error
        if isinstance(error, OSError) and error.errno in _STORAGE:
            why = os.strerror(error.errno).lower()
            return MedfuseError(f"Inputs must be readable, and OUT writable with space left, got {why!r}; check both.")
        error = error.__cause__ or error.__context__
    return None
