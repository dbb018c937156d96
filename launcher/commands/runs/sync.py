"""`launcher sync RUN ...`: send what W&B lacks of the journals of runs. Needs no torch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from launcher.errors import EXIT_DONE, EXIT_FAILED, EXIT_RESUMABLE, RunError, UserError, nearest_path
from launcher.recipe.lock import LOCK_NAME, read_lock
from launcher.run.console import Console
from launcher.run.credentials import has_wandb_credentials
from launcher.run.folder import FINISHED, read_id, read_summary
from launcher.run.history import read_records
from launcher.run.journal import JOURNAL_NAME, Record
from launcher.run.lock_file import claim
from launcher.run.wandb import RunMetadata, WandbRun, metadata_of, quiet_wandb, stop_service
from launcher.text import first_line

UPLOAD_TIMEOUT_S = 600.0
"""Time that the last records of a run may take."""

EXIT_CODES = {**dict.fromkeys(FINISHED, EXIT_DONE), "preempted": EXIT_RESUMABLE}
"""Status in the summary -> exit code in W&B; every other run has failed there, as one that was cut off."""


def sync(folders: Sequence[Path]) -> int:
    """Send what W&B lacks of each run, and print how much that was. Nothing in the run folder changes.

    All folders are checked before the first is sent. Raise UserError when there are no credentials or W&B fails,
    RunError when a folder is no run or in use.
    """
    runs = [_read(folder) for folder in folders]
    if not has_wandb_credentials(os.environ):
        raise UserError("sync: no credentials for W&B; run 'wandb login', or set WANDB_API_KEY")
    quiet_wandb()
    console = Console()
    for metadata, records in runs:
        in_use = claim(metadata.folder)
        try:
            num_sent, url = _send(metadata, records)
        finally:
            os.close(in_use)
        console.say(f"{metadata.folder}: sent {num_sent:,} of {len(records):,} records, W&B had the others: {url}")
    return EXIT_DONE


def _read(folder: Path) -> tuple[RunMetadata, list[Record]]:
    """Raise RunError when a part of the run is missing or damaged."""
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run; give a run's folder, runs/NAME/DATE-...{nearest_path(folder)}")
    records, run_id = read_records(folder), read_id(folder)
    if run_id is None:
        raise RunError(f"{folder}: its {JOURNAL_NAME} has no id of a W&B run; only trainings can be sent")
    try:
        return metadata_of(read_lock(folder), folder.resolve(), run_id), records
    except (KeyError, ValueError, TypeError):
        raise RunError(f"{folder / LOCK_NAME}: not the recipe of a run, which cannot be sent without it") from None


def _send(metadata: RunMetadata, records: list[Record]) -> tuple[int, str]:
    """Return the number of records sent, and the address of the W&B run."""
    try:
        with tempfile.TemporaryDirectory(prefix="launcher-sync-") as local:
            run = WandbRun(metadata, "online", Path(local), UPLOAD_TIMEOUT_S, measure=False)
            there = run.find_records()
            for number, record in enumerate(records):
                run.add(number, record, is_there=number in there)
            run.finish(EXIT_CODES.get(str(read_summary(metadata.folder).get("status")), EXIT_FAILED))
            return len(records) - len(there), run.url
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{metadata.folder}: W&B did not receive everything ({first_line(error)}); the same command sends the rest"
        ) from None
    finally:
        stop_service()
