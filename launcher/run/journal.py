"""`journal.jsonl`: the run's history, one JSON object a line, only ever appended to.

Every record has `step` (optimizer steps done), `epoch` (from 1; 0 before the first) and `kind`: train, eval,
checkpoint or event. After a resume the steps since the checkpoint appear again: the later record counts.
"""

from __future__ import annotations

import errno
import json
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

JOURNAL_NAME = "journal.jsonl"

TAIL_BYTES = 1 << 16

Kind = Literal["train", "eval", "checkpoint", "event"]
Record = dict[str, Any]


class Journal:
    """Appends records; each is on disk, whole, when `write` returns, as far as the operating system is concerned.

    `mirror` is then given the number of the record's line, from 0, and the record. Any thread may write.
    """

    def __init__(self, folder: Path, mirror: Callable[[int, Record], None] = lambda number, record: None) -> None:
        path = folder / JOURNAL_NAME
        _cut_torn_tail(path)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        self._mirror = mirror
        self._num_records = _count_lines(path)
        self._lock = threading.Lock()

    def write(self, kind: Kind, step: int, epoch: int, **figures: Any) -> None:
        record = {"step": step, "epoch": epoch, "kind": kind, "time_s": round(time.time(), 3), **figures}
        line = f"{render_json(record)}\n".encode()
        with self._lock:
            size = os.fstat(self._file).st_size
            if os.write(self._file, line) < len(line):
                os.ftruncate(self._file, size)  # or the next record would hang on to this half
                raise OSError(errno.ENOSPC, "no space left for the journal")
            self._mirror(self._num_records, record)
            self._num_records += 1

    def close(self) -> None:
        os.close(self._file)


class NoJournal(Journal):
    """For every rank but the first."""

    def __init__(self) -> None:
        pass

    def write(self, kind: Kind, step: int, epoch: int, **figures: Any) -> None:
        pass

    def close(self) -> None:
        pass


def read_journal(folder: Path) -> list[Record]:
    """All whole records; [] when there is no journal."""
    try:
        content = (folder / JOURNAL_NAME).read_bytes()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in content.split(b"\n")[:-1]]


def read_first(folder: Path) -> Record:
    """The first record, without reading the rest; {} when there is none."""
    try:
        with (folder / JOURNAL_NAME).open("rb") as file:
            line = file.readline()
        return dict(json.loads(line)) if line.endswith(b"\n") else {}
    except (FileNotFoundError, ValueError):
        return {}


def render_json(value: Any, indent: int | None = None) -> str:
    """JSON has no NaN or infinity: they become the words."""
    return json.dumps(_finite(value), allow_nan=False, indent=indent)


def _cut_torn_tail(path: Path) -> None:
    """A process killed while writing leaves a line without an end: it never became a record."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - TAIL_BYTES)
            file.seek(start)
            line_end = file.read(end - start).rfind(b"\n")
            if line_end >= 0:
                file.truncate(start + line_end + 1)
                return
            end = start
        file.truncate(0)


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
