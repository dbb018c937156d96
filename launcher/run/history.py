"""Reading a run folder back: its journal, its summary, and whether it runs. Needs no torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.errors import RunError
from launcher.metrics.names import higher_is_better
from launcher.recipe.lock import LOCK_NAME
from launcher.run.folder import FINISHED, SUMMARY_NAME, read_summary
from launcher.run.journal import JOURNAL_NAME, NONFINITE, Record, read_journal
from launcher.run.lock_file import is_running

ENDINGS = (*FINISHED, "preempted", "failed")
"""Names of the last event in the journal of a run that was not cut off."""
STARTS = ("started", "resumed")
RUNNING, CUT_OFF = "running", "cut off"


@dataclass(frozen=True)
class History:
    """`records`: without those that were trained again, see `drop_superseded`. `status`: one of ENDINGS, RUNNING or
    CUT_OFF."""

    folder: Path
    records: list[Record]
    summary: dict[str, Any]
    status: str

    @property
    def start(self) -> Record:
        """The newest `started` or `resumed` record; {} without one."""
        return next((record for record in reversed(self.records) if record.get("name") in STARTS), {})


def read_history(folder: Path) -> History:
    """Raise RunError when there is no journal, or a damaged one."""
    records = read_records(folder)
    return History(folder, drop_superseded(records), read_summary(folder), find_status(folder, records))


def read_records(folder: Path) -> list[Record]:
    """All records of the journal. Raise RunError when there are none, or one is damaged."""
    records = read_journal(folder)
    if not records:
        raise RunError(f"{folder}: its {JOURNAL_NAME} is missing or empty; give a run's folder, runs/NAME/DATE-...")
    return records


def drop_superseded(records: Sequence[Record]) -> list[Record]:
    """Drop the train and eval records after a checkpoint that a run has resumed from: those steps are trained again."""
    kept: list[Record] = []
    for record in records:
        if record["kind"] == "event" and record.get("name") == "resumed":
            kept = [each for each in kept if each["kind"] not in ("train", "eval") or each["step"] <= record["step"]]
        kept.append(record)
    return kept


def is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (LOCK_NAME, JOURNAL_NAME, SUMMARY_NAME))


def find_ending(records: Sequence[Record]) -> str | None:
    """The ending of the run since its last start; None when it has not ended, or was cut off."""
    for record in reversed(records):
        name = record.get("name") if record["kind"] == "event" else None
        if name in (*ENDINGS, *STARTS):
            return str(name) if name in ENDINGS else None
    return None


def find_status(folder: Path, records: Sequence[Record]) -> str:
    ending = find_ending(records)
    if is_running(folder, ending is not None):
        return RUNNING
    if not records:  # cut off before its first record, or only the summary is left
        status = read_summary(folder).get("status")
        return status if status in ENDINGS else CUT_OFF
    return ending or CUT_OFF


def as_number(value: Any) -> float | None:
    """A number of a journal or summary, where NONFINITE strings are numbers, too; None for anything else."""
    if isinstance(value, bool) or not (isinstance(value, int | float) or value in NONFINITE):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number in JSON may have any length
        return None


def find_number(data: Any, *keys: str) -> float | None:
    """The number under `keys` in nested mappings, of which nothing is known."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return as_number(data)


def find_count(data: Any, *keys: str) -> int | None:
    """The same for a whole number; None below 1, too, so that it can divide."""
    number = find_number(data, *keys)
    return int(number) if number is not None and math.isfinite(number) and number >= 1 else None


def read_curve(records: Sequence[Record], kind: str, name: str, split: str | None = None) -> dict[int, float]:
    """Step -> value of a metric, in the order of steps; the later of two records of a step counts.

    Without evaluations of weights of another step, as at the end of a run.
    """
    found = {
        record["step"]: as_number(record.get(name))
        for record in records
        if record["kind"] == kind
        and record.get("split") == split
        and record.get("weights_step", record["step"]) == record["step"]
    }
    return {step: value for step, value in sorted(found.items()) if value is not None}


def read_points(records: Sequence[Record], kind: str, name: str, split: str | None = None) -> list[tuple[float, float]]:
    """(step, value) of `read_curve`, without values that are not finite."""
    curve = read_curve(records, kind, name, split)
    return [(float(step), value) for step, value in curve.items() if math.isfinite(value)]


def find_best_step(records: Sequence[Record], metric: str) -> int | None:
    """The step of the best validation by `metric`; None without one."""
    values = {step: value for step, value in read_curve(records, "eval", metric, "valid").items() if value == value}
    return (max if higher_is_better(metric) else min)(values, key=lambda step: values[step]) if values else None


def count_worked_s(records: Sequence[Record]) -> float:
    """Seconds from each start to the last record before the next, without the pauses between."""
    total = 0.0
    for before, record in itertools.pairwise(records):
        if not (record["kind"] == "event" and record.get("name") in STARTS):
            total += record["time_s"] - before["time_s"]
    return float(total)
