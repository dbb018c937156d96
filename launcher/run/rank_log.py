"""`logs/rank-N.log`: messages and warnings of each rank, and the traceback of one that fails."""

from __future__ import annotations

import logging
import sys
import warnings
from logging.handlers import MemoryHandler
from pathlib import Path

LOGGER = logging.getLogger("launcher")
_LOGGERS = (LOGGER, logging.getLogger("py.warnings"))


def log_warnings() -> None:
    """Send Python warnings to the rank's log instead of the console, where every rank would repeat them.

    They are kept until that log is open.
    """
    if not sys.warnoptions:
        logging.captureWarnings(True)
        warnings.simplefilter("default")
    _handle(MemoryHandler(capacity=1000, flushLevel=logging.CRITICAL + 1))


def open_rank_log(folder: Path, rank: int) -> None:
    """Append this process's messages and Python warnings to `folder/rank-N.log` from now on."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / f"rank-{rank}.log", encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _handle(handler)


def _handle(handler: logging.Handler) -> None:
    """Make it the only handler, and give it the messages that were kept."""
    LOGGER.setLevel(logging.INFO)
    for logger in _LOGGERS:
        logger.propagate = False
        for old in list(logger.handlers):
            logger.removeHandler(old)
            if isinstance(old, MemoryHandler):
                old.setTarget(handler)
            old.close()
        logger.addHandler(handler)
