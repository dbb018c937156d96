"""Progress on stderr, tables on stdout. The only importer of rich in this package."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column, Table

from shards.manifest import Manifest
from shards.printable import printable
from shards.progress import Progress

PLAIN_EVERY_S = 10.0
"""Seconds between two plain lines of progress."""


class ConsoleProgress(Progress):
    """A bar per task on a terminal; elsewhere plain lines, the last one at the end of the task."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Bars(*columns, console=console) if console.is_terminal else None
        self._tasks: dict[str, TaskID] = {}
        self._last_line_s = time.monotonic()

    def __enter__(self) -> ConsoleProgress:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def update(self, task: str, done: int, total: int) -> None:
        if self._bars:
            if task not in self._tasks:
                self._tasks[task] = self._bars.add_task(task, total=total)
            self._bars.update(self._tasks[task], completed=done)
        elif done == total or time.monotonic() - self._last_line_s > PLAIN_EVERY_S:
            self._last_line_s = time.monotonic()
            print(f"{task}: {done:,} of {total:,}", file=sys.stderr)

    def note(self, line: str) -> None:
        line = printable(line)
        if self._bars:
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr)


def print_manifest(manifest: Manifest) -> None:
    """Print a row per split, then source, classes and channel statistics."""
    table = Table("split", *(Column(name, justify="right") for name in ("shards", "images", "bytes", "classes")))
    for split in manifest.splits:
        shards = manifest.shards_of(split)
        num_classes = sum(count > 0 for count in manifest.class_counts[split])
        cells = (len(shards), manifest.num_images(split), sum(shard.num_bytes for shard in shards), num_classes)
        table.add_row(printable(split), *(f"{cell:,}" for cell in cells))
    console = Console(soft_wrap=True, markup=False, highlight=False)
    console.print(table)
    console.print(f"source  {printable(manifest.source)}")
    console.print(f"classes {len(manifest.classes)}")
    for name, values in (("mean", manifest.mean), ("std", manifest.std)):
        console.print(f"{name:<7} {' '.join(f'{value:.4f}' for value in values)}")
