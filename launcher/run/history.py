"""What a run's folder says to those who only look: its journal, its summary, and whether it runs. Needs no torch."""

from __future__ import annotations

import fcntl
import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.errors import RunError
from launcher.recipe.lock import LOCK_NAME
from launcher.run.folder import IN_USE, SUMMARY_NAME, read_summary
from launcher.run.journal import JOURNAL_NAME, Record, read_journal
from launcher.run.rows import WORDS

ENDINGS = ("done", "stopped", "preempted", "failed")
"""Names of the event that is a journal's last, where the run itself came to write one."""
STARTS = ("started", "resumed")
RUNNING, CUT_OFF = "running", "cut off"


@dataclass(frozen=True)
class History:
    """`records`: those that count, see `drop_superseded`. `status`: one of ENDINGS, RUNNING or CUT_OFF."""

    folder: Path
    records: list[Record]
    summary: dict[str, Any]
    status: str

    @property
    def start(self) -> Record:
        """With what the run was begun, or last gone on with."""
        return next((r for r in reversed(self.records) if r.get("name") in STARTS), {})


def read_history(folder: Path) -> History:
    """Raise RunError when the journal is not there, or damaged."""
    records = read_journal(folder)
    if not records:
        raise RunError(f"{folder}: has no {JOURNAL_NAME} with anything in it; give a run's folder, runs/NAME/DATE-...")
    return History(folder, drop_superseded(records), read_own_summary(folder), find_status(folder, records))


def drop_superseded(records: Sequence[Record]) -> list[Record]:
    """Without the steps after a checkpoint that a resumed run has gone back to, and done again."""
    kept: list[Record] = []
    for record in records:
        if record["kind"] == "event" and record.get("name") == "resumed":
            kept = [each for each in kept if each["kind"] not in ("train", "eval") or each["step"] <= record["step"]]
        kept.append(record)
    return kept


def read_own_summary(folder: Path) -> dict[str, Any]:
    """{} also where `summary.json` holds something else than a run writes."""
    summary: Any = read_summary(folder)
    return summary if isinstance(summary, dict) else {}


def is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (LOCK_NAME, JOURNAL_NAME, SUMMARY_NAME))


def find_ending(records: Sequence[Record]) -> str | None:
    """How it ended since it was last started; None where it did not say."""
    for record in reversed(records):
        name = record.get("name") if record["kind"] == "event" else None
        if name in (*ENDINGS, *STARTS):
            return str(name) if name in ENDINGS else None
    return None


def find_status(folder: Path, records: Sequence[Record]) -> str:
    ending = find_ending(records)
    if is_running(folder, ending is not None):
        return RUNNING
    if not records:  # probes keep no journal
        status = read_own_summary(folder).get("status")
        return status if status in ENDINGS else CUT_OFF
    return ending or CUT_OFF


def is_running(folder: Path, has_ended: bool) -> bool:
    """Whether a process holds the run's lock.

    Asking for the lock would, for that moment, keep a training from having it: it is asked for only where the system's
    list, which knows no other machine's, does not name it, and the journal does not say that the run has ended.
    """
    try:
        file = os.open(folder / IN_USE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if _is_listed(os.fstat(file)):
            return True
        if not has_ended:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a disk that has no locks
        return False
    finally:
        os.close(file)
    return False


def _is_listed(status: os.stat_result) -> bool:
    """`/proc/locks`: `1: FLOCK ADVISORY WRITE 708 08:01:4242 0 EOF`."""
    name = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return False
    return any("FLOCK" in words and "WRITE" in words and name in words for words in map(str.split, lines))


def as_number(value: Any) -> float | None:
    """None for what is no number; the journal writes `nan` and `inf` as words."""
    if isinstance(value, bool) or not (isinstance(value, int | float) or value in WORDS):
        return None
    try:
        return float(value)
    except OverflowError:  # JSON's whole numbers may be of any length
        return None


def find_number(data: Any, *keys: str) -> float | None:
    """A number in nested mappings, whoever wrote them."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return as_number(data)


def find_count(data: Any, *keys: str) -> int | None:
    """The same of whole numbers; 0 and less are None, too: nothing can be divided by them."""
    number = find_number(data, *keys)
    return int(number) if number is not None and math.isfinite(number) and number >= 1 else None


def read_curve(records: Sequence[Record], kind: str, name: str, split: str | None = None) -> dict[int, float]:
    """Step -> value of a figure, in the order of steps; of a step written twice the later counts.

    Without what was measured at the end with the weights of another step.
    """
    found = {
        record["step"]: as_number(record.get(name))
        for record in records
        if record["kind"] == kind
        and record.get("split") == split
        and record.get("weights_step", record["step"]) == record["step"]
    }
    return {step: value for step, value in sorted(found.items()) if value is not None}


def count_worked_s(records: Sequence[Record]) -> float:
    """Seconds from each start to the last record before the next, without the pauses between."""
    total = 0.0
    for before, record in itertools.pairwise(records):
        if not (record["kind"] == "event" and record.get("name") in STARTS):
            total += record["time_s"] - before["time_s"]
    return float(total)
