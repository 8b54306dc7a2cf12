"""How a command speaks: results on stdout, warnings and progress on stderr, and in a log where one is asked for."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from medfuse.about import NOTICE
from medfuse.errors import MedfuseError

_PROGRESS = "medfuse.progress"  # see `medfuse.progress`, which is slow to load
_SAID = logging.INFO + 1  # of an error, which the console prints itself
_told: dict[str, Any] = {}  # of the command that runs


class _Console(logging.Handler):
    """A line on stderr for what is logged, above a bar of progress where there is one."""

    def __init__(self, *, lines: bool, verbose: bool) -> None:
        super().__init__(logging.INFO)
        self.lines, self.verbose = lines, verbose

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            text = f"medfuse: warning: {record.getMessage()}"
        elif record.levelno != _SAID and (self.lines if record.name == _PROGRESS else self.verbose):
            text = f"medfuse: {record.getMessage()}"
        else:
            return
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)


def add_console(command: argparse.ArgumentParser, *, as_json: bool = True) -> None:
    """Add the options that say how a command speaks."""
    group = command.add_argument_group("what is said")
    loud = group.add_mutually_exclusive_group()
    loud.add_argument("--quiet", action="store_true", help="print errors and warnings only")
    loud.add_argument("--verbose", action="store_true", help="also print what the program does, step by step")
    group.add_argument("--log", type=Path, metavar="FILE", help="append warnings, progress and errors to a file")
    if as_json:
        command.set_defaults(says_json=True)
        group.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else, on stdout")


def add_dry_run(command: argparse.ArgumentParser) -> None:
    """Add the option that has nothing done."""
    command.add_argument("--dry-run", action="store_true", help="say what would be done, with sizes, and do none of it")


@contextmanager
def speaking(options: argparse.Namespace) -> Iterator[None]:
    """Let a command speak as its options say, while it runs.

    Raises:
        MedfuseError: The log cannot be written.
    """
    quiet, verbose = getattr(options, "quiet", False), getattr(options, "verbose", False)
    logger = logging.getLogger("medfuse")
    bar = logging.getLogger(f"{_PROGRESS}.bar")
    with ExitStack() as stack:
        lines = verbose or (not quiet and (getattr(options, "says_lines", False) or not sys.stderr.isatty()))
        handlers: list[logging.Handler] = [_Console(lines=lines, verbose=verbose)]
        if (path := getattr(options, "log", None)) is not None:
            handlers.append(_file(path))
        for handler in handlers:
            logger.addHandler(handler)
            stack.callback(handler.close)
            stack.callback(logger.removeHandler, handler)
        for known, level in ((logger, logging.INFO), (bar, logging.ERROR if quiet else logging.NOTSET)):
            stack.callback(known.setLevel, known.level)
            known.setLevel(level)
        if speaks_json(options):
            stack.enter_context(redirect_stdout(sys.stderr))
        if quiet:
            stack.enter_context(redirect_stdout(stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))))
        _told.clear()
        yield


def speaks_json(options: argparse.Namespace) -> bool:
    """Return whether stdout is to hold one JSON object, see `result_json`; some commands print their own."""
    return bool(getattr(options, "says_json", False) and options.json)


def tell(**result: Any) -> None:
    """Note the result of the command that runs, for `--json`."""
    _told.update(result)


def result_json(command: str, code: int, error: str | None = None) -> str:
    """Return what `--json` prints: command, exit code, the error if there is one, and what was told."""
    failed = {} if error is None else {"error": error}
    return json.dumps(
        {"notice": NOTICE, "command": command, "exit_code": code, **failed, **_told}, indent=2, ensure_ascii=False
    )


def note_error(message: str, page: str | None = None) -> None:
    """Print in one line what a command was stopped by, and the page that helps; log it."""
    said = f"{message} (see {page})" if page else message
    logging.getLogger("medfuse").log(_SAID, "error: %s", said)
    sys.stderr.write(f"medfuse: error: {said}\n")


def _file(path: Path) -> logging.Handler:
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise MedfuseError(f"--log must be a file that can be written, got {why!r}; choose another.") from error
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


def quieten() -> None:
    """Silence what MONAI and torch say on every run about their own affairs."""
    for message in (".*nvimgcodec.*", ".*nvImageCodec.*", ".*NvImgCodec.*", "`torch.jit.*"):
        warnings.filterwarnings("ignore", message=message)
    for name in ("monai.bundle.workflows", "monai.data.image_reader", "monai.data.nvimgcodec_pydicom_plugin"):
        # a filter, since MONAI sets the level when it is imported
        logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.ERROR)
    # what stopped a run is said by `main`, or by its traceback
    engine = logging.getLogger("ignite.engine.engine.SupervisedEvaluator")
    engine.addFilter(lambda record: "terminating due to exception" not in record.getMessage())
