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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from launcher.errors import RunError

JOURNAL_NAME = "journal.jsonl"

TAIL_BYTES = 1 << 16

Kind = Literal["train", "eval", "checkpoint", "event"]
Record = dict[str, Any]


class Journal:
    """Appends records; each is on disk, whole, when `write` returns, as far as the operating system is concerned.

    `mirror` is then given the number of the record's line, from 0, and the record. Any thread may write.
    """

    def __init__(
        self, folder: Path, steps_per_epoch: int, mirror: Callable[[int, Record], None] = lambda number, record: None
    ) -> None:
        path = folder / JOURNAL_NAME
        _cut_torn_tail(path)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        self._steps_per_epoch = steps_per_epoch
        self._mirror = mirror
        self._num_records = _count_lines(path)
        self._lock = threading.Lock()

    def write(self, kind: Kind, step: int, **fields: Any) -> None:
        """`step`: optimizer steps done."""
        epoch = -(-step // self._steps_per_epoch)
        record = {"step": step, "epoch": epoch, "kind": kind, "time_s": round(time.time(), 3), **fields}
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


class JournalTail:
    """The records of a journal, each once, as they are written."""

    def __init__(self, folder: Path, from_end: bool = False) -> None:
        """`from_end`: leave out what is there already."""
        self._folder = folder
        self._offset = self._num_lines = 0
        if from_end:
            self.read()

    def read(self) -> list[Record]:
        """Those since the last call; [] while there is no journal. Raise RunError when one is damaged.

        A line without an end is not there yet: its process writes it, or cuts it off when the run resumes.
        """
        path = self._folder / JOURNAL_NAME
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:  # another journal in its place
                    self._offset = self._num_lines = 0
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunError(f"{path}: cannot be read ({error.strerror}); see to who may read it") from None
        lines = content[: content.rfind(b"\n") + 1].split(b"\n")[:-1]
        records = _parse_records(lines, path, self._num_lines + 1)
        self._offset += content.rfind(b"\n") + 1
        self._num_lines += len(lines)
        return records


def read_journal(folder: Path) -> list[Record]:
    """All whole records; [] when there is no journal. Raise RunError that names the first line which is no record."""
    return JournalTail(folder).read()


def read_first(folder: Path) -> Record:
    """The first record, without reading the rest; {} when there is none."""
    try:
        with (folder / JOURNAL_NAME).open("rb") as file:
            line = file.readline()
        return dict(json.loads(line)) if line.endswith(b"\n") else {}
    except (FileNotFoundError, ValueError):
        return {}


def read_ends(folder: Path) -> tuple[Record, list[Record]]:
    """The first record and some of the last, without reading those between; ({}, []) when there is none.

    Raise RunError when it is damaged there.
    """
    path = folder / JOURNAL_NAME
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None
    return read_first(folder), _parse_records(lines[1:] if size > TAIL_BYTES else lines, path)


def _parse_records(lines: Sequence[bytes], path: Path, first: int = 1) -> list[Record]:
    """`first`: number of the first line."""
    return [_parse(line, path, number) for number, line in enumerate(lines, first)]


def _parse(line: bytes, path: Path, number: int) -> Record:
    try:
        record = json.loads(line)
        if _is_record(record):
            return dict(record)
    except (ValueError, RecursionError):
        pass
    raise RunError(f"{path}: damaged: line {number} is no record; leave this run out")


def _is_record(record: Any) -> bool:
    """A kind, whole numbers of step and epoch, and a time."""
    return (
        isinstance(record, dict)
        and all(isinstance(record.get(name), int) for name in ("step", "epoch"))
        and isinstance(record.get("time_s"), int | float)
        and isinstance(record.get("kind"), str)
    )


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
