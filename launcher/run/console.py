"""What rank 0 shows: a live line on a terminal, plain lines elsewhere, and a final table. The only importer of rich."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console as RichConsole
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from launcher.run.rows import shows_top5
from shards.printable import printable

if TYPE_CHECKING:
    from launcher.metrics.counts import Figures

PLAIN_WIDTH = 1000
"""Columns where there is no terminal to ask: nothing is wrapped, and a table takes only what it needs."""

Row = tuple[str, str]


class _FiguresColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("figures", "")), no_wrap=True, overflow="ellipsis")


class _LastingConsole(RichConsole):
    def on_broken_pipe(self) -> None:
        """Nobody reads any more, as after `| head`: the training goes on, and says no more."""
        self.quiet = True
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


class Console:
    """Speaks on stdout. `total_steps`: length of the run; `steps_per_epoch`: to name the epoch."""

    def __init__(self, total_steps: int, steps_per_epoch: int) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a class name that the terminal cannot show must not end a run
        is_live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"  # rich would let FORCE_COLOR decide
        self._console = _LastingConsole(
            highlight=False, markup=False, emoji=False, soft_wrap=True, force_terminal=is_live
        )
        if not is_live:
            self._console.width = PLAIN_WIDTH
        self._total_steps = total_steps
        self._num_epochs = -(-total_steps // steps_per_epoch)
        self._start: tuple[float, int] | None = None
        self._progress: Progress | None = None
        if is_live:
            title, bar, steps, left = (
                TextColumn("{task.description}"),
                BarColumn(20),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._progress = Progress(title, bar, steps, _FiguresColumn(), left, console=self._console, transient=True)
            self._task = self._progress.add_task("epoch 0", total=total_steps)

    def say(self, text: str) -> None:
        self._console.print(printable(text))

    def train(self, step: int, epoch: int, figures: Figures) -> None:
        """One train record: `loss`, `lr`, `images_per_s`, `data_wait_frac`."""
        if self._start is None:
            self._start = time.monotonic(), step
        words = (
            f"loss {figures['loss']:.4f}  lr {figures['lr']:.2e}  {figures['images_per_s']:,.0f} images/s  "
            f"data wait {figures['data_wait_frac']:.0%}"
        )
        title = f"epoch {epoch}/{self._num_epochs}"
        if self._progress is None:
            self.say(f"{title}  step {step}/{self._total_steps}  {words}{self._eta(step)}")
        else:
            self._progress.start()
            self._progress.update(self._task, completed=step, description=title, figures=words)

    def evaluation(self, split: str, epoch: int, figures: Figures, is_best: bool) -> None:
        top5 = f"top-5 {figures['top5_frac']:.2%}  " if shows_top5(figures) else ""
        self.say(
            f"epoch {epoch}/{self._num_epochs}  {split}  loss {figures['loss']:.4f}  top-1 {figures['top1_frac']:.2%}  "
            f"{top5}{figures['num_images']:,} images{'  best' if is_best else ''}"
        )

    def table(self, title: str, rows: Sequence[Row]) -> None:
        self.close()
        table = Table(title=printable(title), show_header=False, title_justify="left")
        table.add_column()
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(printable(name), printable(value))
        self._console.print(table, soft_wrap=False)

    def columns(self, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table with a name above each column."""
        table = Table(*names)
        for row in rows:
            table.add_row(*map(printable, row))
        self._console.print(table, soft_wrap=False)

    def close(self) -> None:
        """Take the live line away."""
        if self._progress is not None:
            self._progress.stop()

    def _eta(self, step: int) -> str:
        assert self._start is not None
        since, first = self._start
        if step <= first:
            return ""
        left_s = (time.monotonic() - since) / (step - first) * (self._total_steps - step)
        return f"  left {int(left_s // 3600)}:{int(left_s % 3600 // 60):02d}:{int(left_s % 60):02d}"


class Board(Console):
    """Of those who watch: a table drawn again in its place on a terminal; elsewhere a line for what is new."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.is_live = self._progress is not None
        self._live: Live | None = None

    def draw(self, title: str, rows: Sequence[Row], done: int, total: int) -> None:
        if not self.is_live:
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        table = Table(title=printable(title), show_header=False, title_justify="left")
        table.add_column()
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(printable(name), printable(value))
        self._live.update(Group(table, ProgressBar(total=max(total, 1), completed=done, width=40)), refresh=True)

    def note(self, line: str) -> None:
        """What the table shows anyway is a line only where there is no table."""
        if not self.is_live:
            self.say(line)

    def close(self) -> None:
        super().close()
        if self._live is not None:
            self._live.stop()
            self._live = None


def render_columns(names: Sequence[str], rows: Sequence[Sequence[str]], width: int = PLAIN_WIDTH) -> str:
    """The table of `Console.columns`, as text of at most `width` characters a line."""
    stream = io.StringIO()
    table = Table(*names)
    for row in rows:
        table.add_row(*map(printable, row))
    RichConsole(file=stream, width=width, highlight=False, markup=False, emoji=False).print(table)
    return stream.getvalue()


class NoConsole(Console):
    """For every rank but the first."""

    def __init__(self) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def train(self, step: int, epoch: int, figures: Figures) -> None:
        pass

    def evaluation(self, split: str, epoch: int, figures: Figures, is_best: bool) -> None:
        pass

    def table(self, title: str, rows: Sequence[Row]) -> None:
        pass

    def close(self) -> None:
        pass
