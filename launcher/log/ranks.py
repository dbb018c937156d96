"""`logs/rank-N.log`: what each process did, and the traceback of the one that failed."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

LOGGER = logging.getLogger("launcher")


def open_rank_log(folder: Path, rank: int) -> None:
    """From here on this process's messages and Python warnings go to `folder/rank-N.log`, added to what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / f"rank-{rank}.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for logger in (LOGGER, logging.getLogger("py.warnings")):
        for old in list(logger.handlers):
            logger.removeHandler(old)
            old.close()
        logger.addHandler(handler)
        logger.propagate = False
    LOGGER.setLevel(logging.INFO)


def log_warnings() -> None:
    """Python warnings go to the rank's log instead of the console, where every rank would repeat them."""
    if not sys.warnoptions:
        logging.captureWarnings(True)
        warnings.simplefilter("default")
