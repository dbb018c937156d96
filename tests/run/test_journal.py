"""The journal: only appended to, whole lines only, readable while it is written."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.errors import RunError
from launcher.run.journal import JOURNAL_NAME, Journal, JournalTail, epoch_of, read_ends, read_first, read_journal

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from launcher.run.journal import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path(sys.argv[1]), 10)
journal.write("train", 1, loss=1.0)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
try:
    journal.write("train", 2, samples=list(range(1000)))
except OSError as error:
    print(error)
journal.write("event", 2, name="failed")
"""


RECORD = {"step": 1, "epoch": 1, "kind": "train", "time_s": 1.5}
LINE = json.dumps(RECORD).encode() + b"\n"


def steps(folder: Path) -> list[int]:
    return [record["step"] for record in read_journal(folder)]


def test_a_record_is_one_line_with_its_fields(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 10)
    journal.write("train", 17, loss=0.5, samples=[3, 1])
    journal.close()
    (line,) = (tmp_path / JOURNAL_NAME).read_text().splitlines()
    record = json.loads(line)
    assert record.pop("time_s") > 1.7e9
    assert record == {"step": 17, "epoch": 2, "kind": "train", "loss": 0.5, "samples": [3, 1]}


@pytest.mark.parametrize(("step", "epoch"), [(0, 0), (1, 1), (10, 1), (11, 2), (20, 2)])
def test_the_epoch_follows_from_the_step(tmp_path: Path, step: int, epoch: int) -> None:
    journal = Journal(tmp_path, 10)
    journal.write("event", step, name="note")
    journal.close()
    assert epoch_of(step, 10) == epoch
    assert [record["epoch"] for record in read_journal(tmp_path)] == [epoch]


def test_a_journal_that_is_opened_again_is_appended_to(tmp_path: Path) -> None:
    for step in (1, 2):
        journal = Journal(tmp_path, 10)
        journal.write("train", step)
        journal.close()
    assert steps(tmp_path) == [1, 2]


def test_the_mirror_gets_every_record_with_the_number_of_its_line(tmp_path: Path) -> None:
    mirrored: list[tuple[int, int]] = []
    for start in (1, 3):
        journal = Journal(tmp_path, 10, lambda number, record: mirrored.append((number, record["step"])))
        for step in (start, start + 1):
            journal.write("train", step)
        journal.close()
    assert mirrored == [(0, 1), (1, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize("tail", [b'{"step": 2, "ki', b"{", '{"name": "Käse'.encode()[:-3]])
def test_a_torn_tail_is_no_record_and_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / JOURNAL_NAME
    path.write_bytes(LINE + tail)
    assert read_journal(tmp_path) == [RECORD]
    mirrored: list[int] = []
    journal = Journal(tmp_path, 10, lambda number, record: mirrored.append(number))
    assert path.read_bytes() == LINE
    journal.write("train", 2)
    journal.close()
    assert (steps(tmp_path), mirrored) == ([1, 2], [1])


def test_a_journal_of_nothing_but_a_torn_line_is_empty(tmp_path: Path) -> None:
    (tmp_path / JOURNAL_NAME).write_bytes(b'{"step"')
    Journal(tmp_path, 10).close()
    assert (tmp_path / JOURNAL_NAME).read_bytes() == b""


def test_no_journal_reads_as_empty(tmp_path: Path) -> None:
    assert (read_journal(tmp_path), read_first(tmp_path), read_ends(tmp_path)) == ([], {}, ({}, []))


def test_numbers_that_are_not_finite_are_strings(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 10)
    journal.write("train", 1, loss=math.nan, deep={"a": [math.inf, (-math.inf, 1.0)]})
    journal.close()
    (record,) = read_journal(tmp_path)
    assert (record["loss"], record["deep"]) == ("nan", {"a": ["inf", ["-inf", 1.0]]})


@pytest.mark.parametrize("text", ["Käse 猫 🐈", "a\nb\r\u2028c", "file-\udcff.jpg", "\x00"])
def test_any_text_stays_on_its_line(tmp_path: Path, text: str) -> None:
    journal = Journal(tmp_path, 10)
    journal.write("event", 1, name=text)
    journal.write("event", 2, name="next")
    journal.close()
    assert [record["name"] for record in read_journal(tmp_path)] == [text, "next"]


def test_a_record_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    write = os.write

    def counted(file: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(file, data)

    journal = Journal(tmp_path, 10)
    monkeypatch.setattr(os, "write", counted)
    journal.write("train", 1, samples=list(range(200_000)))
    monkeypatch.undo()
    journal.close()
    assert sizes == [(tmp_path / JOURNAL_NAME).stat().st_size]
    assert sizes[0] > 1_000_000


def test_a_reader_sees_whole_records_while_they_are_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 10)
    samples = list(range(5000))

    def write() -> None:
        for step in range(200):
            journal.write("train", step, samples=samples)

    writer = threading.Thread(target=write)
    writer.start()
    seen = 0
    while writer.is_alive():
        records = read_journal(tmp_path)
        assert [record["step"] for record in records] == list(range(len(records)))
        assert len(records) >= seen
        seen = len(records)
    writer.join()
    journal.close()
    assert len(read_journal(tmp_path)) == 200


def test_a_tail_reads_each_record_once_while_they_are_written(tmp_path: Path) -> None:
    tail = JournalTail(tmp_path)
    assert tail.read() == []
    journal = Journal(tmp_path, 10)

    def write() -> None:
        for step in range(200):
            journal.write("train", step, samples=[0] * 5000)

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while writer.is_alive():
        seen += tail.read()
    writer.join()
    journal.close()
    seen += tail.read()
    assert [record["step"] for record in seen] == list(range(200))
    assert tail.read() == []


def test_a_tail_waits_for_the_end_of_a_line_and_follows_another_journal(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL_NAME
    path.write_bytes(LINE * 2 + LINE[:9])
    tail = JournalTail(tmp_path)
    assert len(tail.read()) == 2
    with path.open("ab") as file:
        file.write(LINE[9:])
    assert tail.read() == [RECORD]
    path.write_bytes(LINE)
    assert tail.read() == [RECORD]


def test_a_tail_from_the_end_skips_the_records_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL_NAME
    path.write_bytes(LINE * 3 + b'{"torn')
    tail = JournalTail(tmp_path, from_end=True)
    assert tail.read() == []
    journal = Journal(tmp_path, 10)  # cuts off the torn line
    journal.write("event", 9, name="resumed")
    journal.close()
    assert [record["step"] for record in tail.read()] == [9]


@pytest.mark.parametrize("line", ["{", "[1]", "7", "{}", json.dumps({**RECORD, "kind": 3}), "[" * 9000, "\xe4"])
def test_a_damaged_line_is_an_error_that_names_it(tmp_path: Path, line: str) -> None:
    path = tmp_path / JOURNAL_NAME
    path.write_bytes(LINE + line.encode("latin-1") + b"\n" + LINE)
    assert read_first(tmp_path) == RECORD
    advice = "is not a record; leave this run out, or train it anew with --fresh"
    readers: list[tuple[Callable[[Path], object], str]] = [
        (read_journal, "line 2"),
        (lambda folder: JournalTail(folder, from_end=True), "line 2"),
        (read_ends, "a line near its end"),
    ]
    for read, where in readers:
        with pytest.raises(RunError) as error:
            read(tmp_path)
        assert str(error.value) == f"{path}: damaged: {where} {advice}"


def test_a_damaged_first_line_is_an_error(tmp_path: Path) -> None:
    (tmp_path / JOURNAL_NAME).write_bytes(b"{}\n" + LINE)
    with pytest.raises(RunError, match="damaged: line 1 is not a record"):
        read_first(tmp_path)


def test_a_journal_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / JOURNAL_NAME).mkdir()
    for read in (read_journal, read_first, read_ends):
        with pytest.raises(RunError, match=r"journal.jsonl: cannot be read \(Is a directory\); check its permissions$"):
            read(tmp_path)


def test_a_full_disk_is_an_error_and_leaves_no_half_record(tmp_path: Path) -> None:
    """A limit on the size of files, in a process of its own, stands in for the disk."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "[Errno 28] no space left for the journal\n"
    assert [record["kind"] for record in read_journal(tmp_path)] == ["train", "event"]
