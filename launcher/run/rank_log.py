"""`logs/rank-N.log`: what each process did, and the traceback of the one that failed."""

from __future__ import annotations

import logging
import sys
import warnings
from logging.handlers import MemoryHandler
from pathlib import Path

LOGGER = logging.getLogger("launcher")
_LOGGERS = (LOGGER, logging.getLogger("py.warnings"))


def log_warnings() -> None:
    """Python warnings go to the rank's log instead of the console, where every rank would repeat them.

    Until the log is open they are kept.
    """
    if not sys.warnoptions:
        logging.captureWarnings(True)
        warnings.simplefilter("default")
    _handle(MemoryHandler(capacity=1000, flushLevel=logging.CRITICAL + 1))


def open_rank_log(folder: Path, rank: int) -> None:
    """From here on this process's messages and Python warnings go to `folder/rank-N.log`, added to what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / f"rank-{rank}.log", encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _handle(handler)


def _handle(handler: logging.Handler) -> None:
    """Make it the only handler, and give it what was kept for it."""
    LOGGER.setLevel(logging.INFO)
    for logger in _LOGGERS:
        logger.propagate = False
        for old in list(logger.handlers):
            logger.removeHandler(old)
            if isinstance(old, MemoryHandler):
                old.setTarget(handler)
            old.close()
        logger.addHandler(handler)
