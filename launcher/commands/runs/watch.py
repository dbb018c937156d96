"""`launcher watch RUN`: follow a run from another terminal by its journal. Needs no torch."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

from launcher.errors import EXIT_DONE, RunError, nearest_path
from launcher.metrics.names import METRICS, show_metrics
from launcher.run.console import Board, Row
from launcher.run.history import (
    CUT_OFF,
    ENDINGS,
    RUNNING,
    STARTS,
    as_number,
    find_count,
    find_ending,
    find_status,
    is_run,
)
from launcher.run.journal import JournalTail, Record
from launcher.run.lock_file import is_running
from launcher.text import show_duration

EVERY_S = 0.5
"""Time between two looks at the journal."""
SPEED_RECORDS = 50
"""Newest train records, from which the time left is estimated."""
NUM_EVENTS = 5
"""Newest events that are shown."""
NAMED_EVENTS = ("note", "input", "hang", "error")
"""Events whose message does not tell what it is about."""


class RunState:
    """The state of a run after some of its records."""

    def __init__(self) -> None:
        self.start: Record = {}
        self.train: Record = {}
        self.evals: dict[str, Record] = {}
        self.events: deque[str] = deque(maxlen=NUM_EVENTS)
        self.ending: str | None = None
        self._times: deque[tuple[float, int]] = deque(maxlen=SPEED_RECORDS)

    def add(self, record: Record) -> None:
        kind, name = record["kind"], str(record.get("name"))
        if kind == "train":
            self.train = record
            self._times.append((record["time_s"], record["step"]))
        elif kind == "eval":
            self.evals[str(record.get("split"))] = record
        elif kind == "event":
            if name in STARTS:
                self.start, self.train, self.ending = record, {}, None
                self._times.clear()
            self.ending = find_ending([record]) or self.ending
            if message := show_event(record):
                self.events.append(message)

    @property
    def total_steps(self) -> int:
        return find_count(self.start, "plan", "total_steps") or 0

    @property
    def left_s(self) -> float | None:
        """Seconds to the last step at the speed of the newest records, validations included."""
        if len(self._times) < 2 or self._times[-1][1] <= self._times[0][1]:
            return None
        (since_s, first), (until_s, last) = self._times[0], self._times[-1]
        return (until_s - since_s) / (last - first) * max(self.total_steps - last, 0)

    def rows(self, status: str) -> list[Row]:
        step = self.train.get("step", self.start.get("step", 0))
        rows = [("status", status), ("step", f"{step:,}/{self.total_steps:,}")]
        if self.train:
            rows.append(("train", show_train(self.train)))
        rows += [(split, show_evaluation(record)) for split, record in self.evals.items()]
        if status == RUNNING and self.left_s is not None:
            rows.append(("time left", show_duration(self.left_s)))
        return [*rows, *(("event", event) for event in self.events)]


def watch(folder: Path, once: bool, every_s: float = EVERY_S) -> int:
    """Show the run until it ends. Raise RunError when the folder is no run, or its journal is damaged."""
    if not folder.is_dir() or not (is_run(folder) or is_running(folder, False)):
        what = "not a run folder" if folder.exists() else "no such folder"
        advice = f"give a run's folder, runs/NAME/DATE-...; launcher runs lists them{nearest_path(folder)}"
        raise RunError(f"{folder}: {what}; {advice}")
    journal, state, board = JournalTail(folder), RunState(), Board()
    before = journal.read()
    status = find_status(folder, before)
    if status == CUT_OFF:  # or it has ended, and released its lock, since its journal was read
        before += journal.read()
        status = find_status(folder, before)
    for record in before:
        state.add(record)
    if once or not board.is_live:
        board.table(str(folder), state.rows(status))
    if once:
        return EXIT_DONE
    try:
        _follow(folder, journal, state, board, status, every_s)
    except KeyboardInterrupt:  # ends the watching, not the run
        board.close()
    return EXIT_DONE


def _follow(folder: Path, journal: JournalTail, state: RunState, board: Board, status: str, every_s: float) -> None:
    has_ended = False
    # An ending in the records so far is that of an earlier start: the run is about to write that it resumes.
    while status == RUNNING and not has_ended:
        board.draw(str(folder), state.rows(status), state.train.get("step", 0), state.total_steps)
        time.sleep(every_s)
        # Before the journal is read, so that what a run wrote before it released its lock is still seen.
        is_held = is_running(folder, state.ending is not None)
        new = journal.read()
        has_ended = find_ending(new) is not None
        for record in new:
            state.add(record)
            if line := _show_record(record, state.total_steps):
                board.change(line)
        if not is_held:
            break
    status = state.ending or (CUT_OFF if status == RUNNING else status)
    if board.is_live:
        board.table(str(folder), state.rows(status))
    board.say(f"{folder}: {status}")


def _show_record(record: Record, total_steps: int) -> str | None:
    """A record as a line; None for one that is not shown."""
    where = f"epoch {record['epoch']}  step {record['step']:,}/{total_steps:,}"
    if record["kind"] == "train":
        return f"{where}  {show_train(record)}"
    if record["kind"] == "eval":
        return f"{where}  {record.get('split')}  {show_evaluation(record)}"
    event = show_event(record) if record["kind"] == "event" and record.get("name") not in ENDINGS else None
    return event and f"{where}  {event}"


def show_train(record: Record) -> str:
    formats = {"loss": "loss {:.4f}", "lr": "lr {:.2e}", "images_per_s": "{:,.0f} images/s"}
    numbers = {name: as_number(record.get(name)) for name in formats}
    return "  ".join(formats[name].format(number) for name, number in numbers.items() if number is not None)


def show_evaluation(record: Record) -> str:
    numbers = {name: value for name in METRICS if (value := as_number(record.get(name))) is not None}
    metrics = show_metrics({**numbers, "per_class": record.get("per_class")})
    step = find_count(record, "weights_step") or int(record["step"])
    return "  ".join([*([metrics] if metrics else []), f"weights of step {step:,}"])


def show_event(record: Record) -> str | None:
    """Its message, or name; None for an event without a message, which only programs read."""
    message, name = record.get("message", record.get("sentence")), record.get("name")
    if isinstance(message, str):
        return f"{name}: {message}" if name in NAMED_EVENTS else message
    return str(name) if name in (*STARTS, *ENDINGS) else None
