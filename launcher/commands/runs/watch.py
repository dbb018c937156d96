"""`launcher watch RUN`: follows a run from another terminal, by its journal as it grows. Needs no torch."""

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
    is_running,
)
from launcher.run.journal import JournalTail, Record
from launcher.text import show_duration

EVERY_S = 0.5
PACE_RECORDS = 50
"""Train records that the time left is reckoned from."""
NUM_EVENTS = 5
"""That are shown, the newest."""


class State:
    """What is known of a run after some of its records."""

    def __init__(self) -> None:
        self.start: Record = {}
        self.train: Record = {}
        self.evals: dict[str, Record] = {}
        self.events: deque[str] = deque(maxlen=NUM_EVENTS)
        self.ending: str | None = None
        self._pace: deque[tuple[float, int]] = deque(maxlen=PACE_RECORDS)

    def add(self, record: Record) -> None:
        kind, name = record["kind"], str(record.get("name"))
        if kind == "train":
            self.train = record
            self._pace.append((record["time_s"], record["step"]))
        elif kind == "eval":
            self.evals[str(record.get("split"))] = record
        elif kind == "event":
            if name in STARTS:
                self.start, self.train, self.ending = record, {}, None
                self._pace.clear()
            self.ending = find_ending([record]) or self.ending
            if message := show_event(record):
                self.events.append(message)

    @property
    def total_steps(self) -> int:
        return find_count(self.start, "plan", "total_steps") or 0

    @property
    def left_s(self) -> float | None:
        """Seconds to the last step, at the pace of the last records, validations included."""
        if len(self._pace) < 2 or self._pace[-1][1] <= self._pace[0][1]:
            return None
        (since_s, first), (until_s, last) = self._pace[0], self._pace[-1]
        return (until_s - since_s) / (last - first) * max(self.total_steps - last, 0)

    def rows(self, status: str) -> list[Row]:
        step = self.train.get("step", self.start.get("step", 0))
        rows = [("status", status), ("step", f"{step:,}/{self.total_steps:,}")]
        if self.train:
            rows.append(("train", show_train(self.train)))
        rows += [(split, show_evaluation(record)) for split, record in self.evals.items()]
        if status == RUNNING and self.left_s is not None:
            rows.append(("left", show_duration(self.left_s)))
        return [*rows, *(("event", event) for event in self.events)]


def watch(folder: Path, once: bool, every_s: float = EVERY_S) -> int:
    """Show the run until it ends. Raise RunError when the folder is none, or its journal is damaged."""
    if not folder.is_dir() or not (is_run(folder) or is_running(folder, False)):
        what = "no run's folder" if folder.exists() else "no such folder"
        advice = f"give a run's, runs/NAME/DATE-...; launcher runs lists them{nearest_path(folder)}"
        raise RunError(f"{folder}: {what}; {advice}")
    journal, state, board = JournalTail(folder), State(), Board()
    before = journal.read()
    status = find_status(folder, before)
    if status == CUT_OFF:  # or it has ended, and let go, since its journal was read
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
    except KeyboardInterrupt:  # whoever watches may leave: the run goes on
        board.close()
    return EXIT_DONE


def _follow(folder: Path, journal: JournalTail, state: State, board: Board, status: str, every_s: float) -> None:
    total, has_ended = state.total_steps, False
    # An ending from before is the last time's: the run is being resumed, and has yet to write so.
    while status == RUNNING and not has_ended:
        board.draw(str(folder), state.rows(status), state.train.get("step", 0), total)
        time.sleep(every_s)
        # Asked before the journal is read: what a run wrote before it let go is then still seen.
        is_held = is_running(folder, state.ending is not None)
        new = journal.read()
        has_ended = find_ending(new) is not None
        for record in new:
            state.add(record)
            if line := _line(record, state.total_steps):
                board.note(line)
        total = state.total_steps
        if not is_held:
            break
    status = state.ending or (CUT_OFF if status == RUNNING else status)
    if board.is_live:
        board.table(str(folder), state.rows(status))
    board.say(f"{folder}: {status}")


def _line(record: Record, total_steps: int) -> str | None:
    """A record on a line of its own; None for what nobody waits for."""
    where = f"epoch {record['epoch']}  step {record['step']:,}/{total_steps:,}"
    if record["kind"] == "train":
        return f"{where}  {show_train(record)}"
    if record["kind"] == "eval":
        return f"{where}  {record.get('split')}  {show_evaluation(record)}"
    event = show_event(record) if record["kind"] == "event" and record.get("name") not in ENDINGS else None
    return event and f"{where}  {event}"


def show_train(record: Record) -> str:
    loss, lr, rate = (as_number(record.get(name)) for name in ("loss", "lr", "images_per_s"))
    words = (f"loss {loss:.4f}" if loss is not None else "", f"lr {lr:.2e}" if lr is not None else "")
    return "  ".join(word for word in (*words, f"{rate:,.0f} images/s" if rate is not None else "") if word)


def show_evaluation(record: Record) -> str:
    numbers = {name: value for name in METRICS if (value := as_number(record.get(name))) is not None}
    words = show_metrics({**numbers, "per_class": record.get("per_class")})
    return "  ".join([*([words] if words else []), f"weights of step {find_step(record):,}"])


def find_step(record: Record) -> int:
    return find_count(record, "weights_step") or int(record["step"])


def show_event(record: Record) -> str | None:
    """Its words; None for events that only programs read."""
    text = record.get("message", record.get("sentence"))
    name = record.get("name")
    if isinstance(text, str):
        return f"{name}: {text}"
    return str(name) if name in (*STARTS, *ENDINGS) else None
