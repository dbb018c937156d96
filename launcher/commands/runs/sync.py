"""`launcher sync RUN ...`: one W&B run from the journal of each run, whatever of it W&B has already. Needs no torch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from launcher.errors import EXIT_DONE, EXIT_FAILED, EXIT_RESUMABLE, RunError, UserError, nearest_path
from launcher.recipe.lock import LOCK_NAME, read_lock
from launcher.run.console import Console
from launcher.run.credentials import has_wandb_credentials
from launcher.run.folder import claim, read_id, read_summary
from launcher.run.journal import JOURNAL_NAME, Record, read_journal
from launcher.run.wandb import RunMetadata, WandbRun, metadata_of, quiet_wandb, stop_service
from launcher.text import first_line

UPLOAD_TIMEOUT_S = 600.0
"""The longest that the last rows of a run may take."""

EXIT_CODES = {"done": EXIT_DONE, "stopped": EXIT_DONE, "preempted": EXIT_RESUMABLE}
"""Status in the summary -> what W&B is told; a run that was cut off has none, and failed."""


def sync(folders: Sequence[Path]) -> int:
    """Send what W&B lacks of each run, and say how much that was. Nothing in the run folder changes.

    Raise UserError when there are no credentials or W&B does not take it, RunError when a folder is no run or in use;
    all folders are looked at before the first is sent.
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
        console.say(f"{metadata.folder}: {num_sent:,} of {len(records):,} records sent, the others were there: {url}")
    return EXIT_DONE


def _read(folder: Path) -> tuple[RunMetadata, list[Record]]:
    """Raise RunError when something of the run is not there, or not to be read."""
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run; give the run's folder, runs/NAME/DATE-...{nearest_path(folder)}")
    try:
        records = read_journal(folder)
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / JOURNAL_NAME}: cannot be read ({error}); it cannot be sent") from None
    if not records:
        raise RunError(f"{folder}: has no {JOURNAL_NAME} with anything in it; give a run's folder, runs/NAME/DATE-...")
    run_id = read_id(folder)
    if run_id is None:
        raise RunError(f"{folder}: its {JOURNAL_NAME} names no W&B run: only trainings can be sent")
    try:
        return metadata_of(read_lock(folder), folder.resolve(), run_id), records
    except (KeyError, ValueError, TypeError):
        raise RunError(f"{folder / LOCK_NAME}: not the recipe of a run; it cannot be sent") from None


def _send(metadata: RunMetadata, records: list[Record]) -> tuple[int, str]:
    """How many records were sent, and where to."""
    try:
        with tempfile.TemporaryDirectory(prefix="launcher-sync-") as local:
            run = WandbRun(metadata, "online", Path(local), UPLOAD_TIMEOUT_S, measure=False)
            there = run.find_records()
            for number, record in enumerate(records):
                run.add(number, record, is_there=number in there)
            run.finish(EXIT_CODES.get(read_summary(metadata.folder).get("status", ""), EXIT_FAILED))
            return len(records) - len(there), run.url
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{metadata.folder}: W&B did not take everything ({first_line(error)}); the same command sends the rest"
        ) from None
    finally:
        stop_service()
