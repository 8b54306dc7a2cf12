"""What the command line lets through to the console: warnings of the package, nothing of the libraries' own affairs."""

from __future__ import annotations

import logging
import sys
import warnings


class _Console(logging.Handler):
    """A line on stderr for each warning, above a bar of progress where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(f"medfuse: warning: {record.getMessage()}", file=sys.stderr)


def show_warnings() -> None:
    """Print what the package warns of while it works."""
    logger = logging.getLogger("medfuse")
    if not any(isinstance(handler, _Console) for handler in logger.handlers):
        logger.addHandler(_Console(logging.WARNING))


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
