"""Predictions as text: a table, JSON lines, CSV; on stdout or in a file. T the best classes of an image."""

from __future__ import annotations

import csv
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from launcher.errors import UserError, nearest
from launcher.run.console import PLAIN_WIDTH, render_columns
from launcher.run.journal import render_json
from shards.manifest import open_atomically

TABLE_ROWS = 500
"""After so many there is a new table: the width of columns is known only when all rows of one are there."""

Write = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Prediction:
    """`best`: T classes and their probabilities, the likeliest first. `truth`: None where nobody has said it."""

    name: str
    best: tuple[tuple[str, float], ...]
    truth: str | None

    @property
    def is_right(self) -> bool:
        return self.best[0][0] == self.truth


def render_jsonl(predictions: Iterable[Prediction], _num_best: int, _width: int) -> Iterator[str]:
    for each in predictions:
        best = [{"class": name, "probability": probability} for name, probability in each.best]
        yield render_json({"image": each.name, "predictions": best, "truth": each.truth}) + "\n"


def render_csv(predictions: Iterable[Prediction], num_best: int, _width: int) -> Iterator[str]:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    numbers = range(1, num_best + 1)
    writer.writerow(["image", "truth", *(f"{what}_{i}" for i in numbers for what in ("class", "probability"))])
    for each in predictions:
        writer.writerow([each.name, each.truth or "", *(value for pair in each.best for value in pair)])
        yield stream.getvalue()
        stream.seek(0)
        stream.truncate()


def render_tables(predictions: Iterable[Prediction], num_best: int, width: int) -> Iterator[str]:
    names = ["image", *map(str, range(1, num_best + 1))]
    coming = iter(predictions)
    while block := list(islice(coming, TABLE_ROWS)):
        has_truth = any(each.truth is not None for each in block)
        rows = [
            [
                each.name,
                *(f"{name} {probability:.1%}" for name, probability in each.best),
                *([each.truth or ""] if has_truth else []),
            ]
            for each in block
        ]
        yield render_columns([*names, "truth"] if has_truth else names, rows, width)


FORMATS: Mapping[str, Callable[[Iterable[Prediction], int, int], Iterator[str]]] = {
    "table": render_tables,
    "jsonl": render_jsonl,
    "csv": render_csv,
}
"""What `--format` may be."""


ENDINGS: Mapping[str, str] = {".txt": "table", ".jsonl": "jsonl", ".csv": "csv"}
"""Of files, and their formats."""


def choose_format(wanted: str | None, output: Path | None) -> str:
    """Said, or by the ending of the file, or a table. Raise UserError when the file is named as something else is."""
    ending = "" if output is None else output.suffix.lower()
    if not ending:
        return wanted or "table"
    if wanted is not None and wanted != ENDINGS.get(ending):
        its = next(each for each, name in ENDINGS.items() if name == wanted)
        raise UserError(f"--output {output}: --format {wanted} is for {its}, not {ending}; leave one of the two out")
    if ending not in ENDINGS:
        raise UserError(f"--output {output}: no format ends in {ending}{nearest(ending, ENDINGS)}")
    return ENDINGS[ending]


def find_width(output: Path | None) -> int:
    """Of a table, in characters."""
    is_terminal = output is None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if is_terminal else PLAIN_WIDTH


@contextmanager
def open_output(output: Path | None) -> Iterator[Write]:
    """Writes to the file, which has its name when all is in it, or to stdout.

    Raise UserError where it cannot be; OSError with its name when there is no room for it.
    """
    if output is None:
        yield _write_stdout
        return
    with ExitStack() as stack:
        try:
            write = stack.enter_context(open_atomically(output))
        except OSError as error:
            raise UserError(f"--output {output}: cannot be written ({error.strerror}); name another file") from None
        yield lambda text: write(text.encode("utf-8", "surrogateescape"))


def _write_stdout(text: str) -> None:
    """Nobody reads any more, as after `| head`: nothing more is said."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
