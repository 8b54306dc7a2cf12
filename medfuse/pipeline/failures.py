"""Why something could not be fused, without a path or a text that came with the data: either may name a patient."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

from medfuse.errors import known_error
from medfuse.io import atomic_file

ERROR = "error.txt"
"""Where an error that is none of ours came from in the code."""


def failure_message(error: Exception, paths: Mapping[str, Path]) -> str:
    """Return our own message, without a path, or that the error is a foreign one.

    Args:
        error: What was raised.
        paths: Of the inputs, each by the name that may be told.
    """
    known = known_error(error)
    if known is None:
        return f"an unexpected error ({type(error).__name__}); see {ERROR}, and please report it."
    message = str(known)
    for key, path in paths.items():  # whole, or its folder and name
        for name in (str(path), "/".join(path.parts[-2:])):
            message = message.replace(name, key)
    return message


def write_trace(path: Path, error: Exception) -> None:
    """Write where in the code an error came from."""
    with atomic_file(path) as file:
        file.write("\n".join(_trace(error)).encode() + b"\n")


def _trace(error: BaseException) -> Iterator[str]:
    """Give the lines of a traceback without messages: types, and where in which module; the first cause comes first."""
    cause = error.__cause__ or error.__context__
    if cause is not None:
        yield from _trace(cause)
        yield "which led to"
    for frame in traceback.extract_tb(error.__traceback__):
        yield f"  {_module_path(frame.filename)}, line {frame.lineno}, in {frame.name}"
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    reason = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
    yield kind + reason


def _module_path(name: str) -> str:
    """Return the path of a module within the folder it is imported from."""
    path = Path(name)
    roots = sorted((Path(p) for p in sys.path if p), key=lambda p: -len(p.parts))
    root = next((root for root in roots if path.is_relative_to(root)), None)
    return path.relative_to(root).as_posix() if root else path.name
