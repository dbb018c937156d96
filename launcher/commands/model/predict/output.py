"""Predictions as text: a table, JSON lines or CSV, on stdout or in a file.

T the most probable classes of an image.
"""

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
from shards.files import open_atomically

TABLE_ROWS = 500
"""Rows of a table; further rows make another one. A table can be printed only when all its rows are known."""

Write = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Prediction:
    name: str
    """Path of the image, or its name in the shards."""
    best: tuple[tuple[str, float], ...]
    """T classes and their probabilities, the most probable first."""
    truth: str | None
    """The true class, where it is known."""

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
    names = ["image", *map(str, range(1, num_best + 1)), "truth"]
    remaining = iter(predictions)
    while block := list(islice(remaining, TABLE_ROWS)):
        num_columns = len(names) if any(each.truth is not None for each in block) else len(names) - 1
        rows = [[each.name, *(f"{name} {prob:.1%}" for name, prob in each.best), each.truth or ""] for each in block]
        yield render_columns(names[:num_columns], [row[:num_columns] for row in rows], width)


FORMATS: Mapping[str, Callable[[Iterable[Prediction], int, int], Iterator[str]]] = {
    "table": render_tables,
    "jsonl": render_jsonl,
    "csv": render_csv,
}
"""Renderers by `--format`: (predictions, T, width of a table) -> pieces of text."""

SUFFIXES: Mapping[str, str] = {".txt": "table", ".jsonl": "jsonl", ".csv": "csv"}
"""Format of each file suffix."""


def choose_format(wanted: str | None, output: Path | None) -> str:
    """`wanted`, or the format of the output's suffix, or a table. Raise UserError when wanted and suffix differ."""
    suffix = "" if output is None else output.suffix.lower()
    if not suffix:
        return wanted or "table"
    if wanted is not None and wanted != SUFFIXES.get(suffix):
        right = next(each for each, name in SUFFIXES.items() if name == wanted)
        raise UserError(f"--output {output}: --format {wanted} is for {right}, not {suffix}; leave one of the two out")
    if suffix not in SUFFIXES:
        raise UserError(f"--output {output}: no format has the suffix {suffix}{nearest(suffix, SUFFIXES)}")
    return SUFFIXES[suffix]


def find_width(output: Path | None) -> int:
    """Width of a table in characters."""
    is_terminal = output is None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if is_terminal else PLAIN_WIDTH


@contextmanager
def open_output(output: Path | None) -> Iterator[Write]:
    """Yields the function that writes text to stdout, or to a file that gets its name when it is complete.

    Raise UserError when the file cannot be created, OSError with its name when the disk is full.
    """
    if output is None:
        yield _write_stdout
        return
    with ExitStack() as stack:
        try:
            write = stack.enter_context(open_atomically(output))
        except OSError as error:
            raise UserError(f"--output {output}: cannot be written ({error.strerror}); choose another file") from None
        yield lambda text: write(text.encode("utf-8", "surrogateescape"))


def _write_stdout(text: str) -> None:
    """Print no more once nobody reads any more, as after `| head`."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
