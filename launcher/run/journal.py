"""`journal.jsonl`: the history of a run, one JSON object a line, only ever appended to.

Every record has `step` (optimizer steps done), `epoch` (from 1; 0 before the first step), `time_s` (since 1970) and
`kind`: train, eval, checkpoint or event. After a resume the steps since the checkpoint appear again: the later record
counts.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from launcher.errors import RunError

JOURNAL_NAME = "journal.jsonl"

TAIL_BYTES = 1 << 16
"""Bytes that `read_ends` reads of the end."""

NONFINITE = ("nan", "inf", "-inf")
"""Numbers that JSON lacks, as `render_json` writes them."""

Kind = Literal["train", "eval", "checkpoint", "event"]
Record = dict[str, Any]


class Journal:
    """Appends records. Each is on disk, whole, when `write` returns, as far as the operating system is concerned.

    `mirror` is called with the number of the record's line, from 0, and the record. Any thread may write.
    """

    def __init__(
        self, folder: Path, steps_per_epoch: int, mirror: Callable[[int, Record], None] = lambda number, record: None
    ) -> None:
        self._file = os.open(folder / JOURNAL_NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        self._steps_per_epoch = steps_per_epoch
        self._mirror = mirror
        self._num_records = _cut_torn_tail(self._file)
        self._lock = threading.Lock()

    def write(self, kind: Kind, step: int, **fields: Any) -> None:
        """`step`: optimizer steps done."""
        epoch = epoch_of(step, self._steps_per_epoch)
        record = {"step": step, "epoch": epoch, "kind": kind, "time_s": round(time.time(), 3), **fields}
        line = f"{render_json(record)}\n".encode()
        with self._lock:
            size = os.fstat(self._file).st_size
            if os.write(self._file, line) < len(line):
                os.ftruncate(self._file, size)  # or the next record would be appended to half a line
                raise OSError(errno.ENOSPC, "no space left for the journal")
            self._mirror(self._num_records, record)
            self._num_records += 1

    def close(self) -> None:
        os.close(self._file)


class JournalTail:
    """Reads a journal while it grows: each record once."""

    def __init__(self, folder: Path, from_end: bool = False) -> None:
        """`from_end`: skip the records that are there already."""
        self._path = folder / JOURNAL_NAME
        self._offset = self._num_lines = 0
        if from_end:
            self.read()

    def read(self) -> list[Record]:
        """The records since the last call; [] while there is no journal. Raise RunError for a damaged one.

        A last line without an end does not count yet: its process completes it, or it is cut off at the next resume.
        """
        with _open(self._path) as file:
            if file.seek(0, os.SEEK_END) < self._offset:  # another journal in its place
                self._offset = self._num_lines = 0
            file.seek(self._offset)
            content = file.read()
        lines = content.split(b"\n")[:-1]
        first = self._num_lines + 1
        records = [_parse(line, self._path, f"line {number}") for number, line in enumerate(lines, first)]
        self._offset += content.rfind(b"\n") + 1
        self._num_lines += len(lines)
        return records


def read_journal(folder: Path) -> list[Record]:
    """All whole records; [] when there is no journal. Raise RunError that names the first damaged line."""
    return JournalTail(folder).read()


def read_first(folder: Path) -> Record:
    """The first record, without reading the rest; {} when there is none. Raise RunError when it is damaged."""
    path = folder / JOURNAL_NAME
    with _open(path) as file:
        line = file.readline()
    return _parse(line, path, "line 1") if line.endswith(b"\n") else {}


def read_ends(folder: Path) -> tuple[Record, list[Record]]:
    """The first record and some of the last, without reading those between; ({}, []) when there is none.

    Raise RunError when it is damaged there.
    """
    path = folder / JOURNAL_NAME
    with _open(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        lines = file.read().split(b"\n")[:-1]
    whole = lines if size <= TAIL_BYTES else lines[1:]
    return read_first(folder), [_parse(line, path, "a line near its end") for line in whole]


def epoch_of(step: int, steps_per_epoch: int) -> int:
    """The epoch of optimizer step `step`, from 1; 0 before the first step."""
    return -(-step // steps_per_epoch)


def render_json(value: Any, indent: int | None = None) -> str:
    """Strict JSON: numbers that are not finite become the strings of NONFINITE."""
    return json.dumps(_finite(value), allow_nan=False, indent=indent)


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """The file, or an empty one when there is none. Raise RunError when it cannot be read."""
    try:
        with path.open("rb") if path.exists() else io.BytesIO() as file:
            yield file
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def _parse(line: bytes, path: Path, where: str) -> Record:
    try:
        record = json.loads(line)
        if _is_record(record):
            return dict(record)
    except (ValueError, RecursionError):
        pass
    raise RunError(f"{path}: damaged: {where} is not a record; leave this run out, or train it anew with --fresh")


def _is_record(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and all(isinstance(record.get(name), int) for name in ("step", "epoch"))
        and isinstance(record.get("time_s"), int | float)
        and isinstance(record.get("kind"), str)
    )


def _cut_torn_tail(file: int) -> int:
    """Cut off a last line without an end, which a process killed while writing has left. Return the number of lines."""
    num_lines = end = 0
    with open(file, "rb", closefd=False) as lines:
        for line in lines:
            if line.endswith(b"\n"):
                num_lines, end = num_lines + 1, end + len(line)
    os.ftruncate(file, end)
    return num_lines


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
