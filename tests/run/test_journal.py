"""The journal: only appended to, whole lines only, readable while it is written."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from launcher.run.journal import JOURNAL_NAME, Journal, NoJournal, read_journal

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from launcher.run.journal import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path(sys.argv[1]))
journal.write("train", 1, 1, loss=1.0)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
try:
    journal.write("train", 2, 1, samples=list(range(1000)))
except OSError as error:
    print(error)
journal.write("event", 2, 1, name="failed")
"""


def test_a_record_is_one_line_with_its_figures(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write("train", 7, 2, loss=0.5, samples=[3, 1])
    journal.close()
    (line,) = (tmp_path / JOURNAL_NAME).read_text().splitlines()
    record = json.loads(line)
    assert record.pop("time_s") > 1.7e9
    assert record == {"step": 7, "epoch": 2, "kind": "train", "loss": 0.5, "samples": [3, 1]}


def test_opened_again_it_goes_on(tmp_path: Path) -> None:
    for step in (1, 2):
        journal = Journal(tmp_path)
        journal.write("train", step, 1)
        journal.close()
    assert [record["step"] for record in read_journal(tmp_path)] == [1, 2]


@pytest.mark.parametrize("tail", [b'{"step": 2, "ki', b"{", '{"name": "Käse'.encode()[:-3]])
def test_a_torn_tail_is_no_record_and_goes_away(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / JOURNAL_NAME
    path.write_bytes(b'{"step": 1}\n' + tail)
    assert read_journal(tmp_path) == [{"step": 1}]
    journal = Journal(tmp_path)
    assert path.read_bytes() == b'{"step": 1}\n'
    journal.write("train", 2, 1)
    journal.close()
    assert [record["step"] for record in read_journal(tmp_path)] == [1, 2]


def test_a_journal_of_nothing_but_a_torn_line_is_empty(tmp_path: Path) -> None:
    (tmp_path / JOURNAL_NAME).write_bytes(b'{"step"')
    Journal(tmp_path).close()
    assert (tmp_path / JOURNAL_NAME).read_bytes() == b""


def test_no_journal_reads_as_empty(tmp_path: Path) -> None:
    assert read_journal(tmp_path) == []


def test_what_is_not_a_number_is_a_word(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write("train", 1, 1, loss=math.nan, deep={"a": [math.inf, (-math.inf, 1.0)]})
    journal.close()
    (record,) = read_journal(tmp_path)
    assert (record["loss"], record["deep"]) == ("nan", {"a": ["inf", ["-inf", 1.0]]})


@pytest.mark.parametrize("text", ["Käse 猫 🐈", "a\nb\r\u2028c", "file-\udcff.jpg", "\x00"])
def test_any_text_stays_on_its_line(tmp_path: Path, text: str) -> None:
    journal = Journal(tmp_path)
    journal.write("event", 1, 1, name=text)
    journal.write("event", 2, 1, name="next")
    journal.close()
    assert [record["name"] for record in read_journal(tmp_path)] == [text, "next"]


def test_a_record_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    write = os.write

    def counted(file: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(file, data)

    journal = Journal(tmp_path)
    monkeypatch.setattr(os, "write", counted)
    journal.write("train", 1, 1, samples=list(range(200_000)))
    monkeypatch.undo()
    journal.close()
    assert sizes == [(tmp_path / JOURNAL_NAME).stat().st_size]
    assert sizes[0] > 1_000_000


def test_a_reader_sees_whole_records_while_they_are_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    samples = list(range(5000))

    def write() -> None:
        for step in range(200):
            journal.write("train", step, 1, samples=samples)

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


def test_a_full_disk_is_an_error_and_leaves_no_half_record(tmp_path: Path) -> None:
    """A limit on the size of files, in a process of its own, stands in for the disk."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "[Errno 28] no space left for the journal\n"
    assert [record["kind"] for record in read_journal(tmp_path)] == ["train", "event"]


def test_no_journal_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    journal = NoJournal()
    journal.write("train", 1, 1, loss=1.0)
    journal.close()
    assert list(tmp_path.iterdir()) == []
