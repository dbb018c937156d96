"""Output of rank 0: a live line on a terminal, plain lines elsewhere, and tables. The only importer of rich."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Sequence

from rich.console import Console as RichConsole
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from launcher.metrics.names import Metrics, show_metric, show_metrics
from launcher.run.journal import epoch_of
from shards.printable import printable

PLAIN_WIDTH = 1000
"""Characters a line without a terminal: nothing is wrapped, and a table takes only what it needs."""

Row = tuple[str, str]


class _MetricsColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("metrics", "")), no_wrap=True, overflow="ellipsis")


class _LastingConsole(RichConsole):
    def on_broken_pipe(self) -> None:
        """Print no more when nobody reads, as after `| head`; the training continues."""
        self.quiet = True
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


class Console:
    """Prints lines and tables on stdout. `is_live`: stdout is a terminal, where lines can be drawn again in place."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a class name that the terminal cannot show must not end a run
        # rich would let FORCE_COLOR decide.
        self.is_live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._rich = _LastingConsole(
            highlight=False, markup=False, emoji=False, soft_wrap=True, force_terminal=self.is_live
        )
        if not self.is_live:
            self._rich.width = PLAIN_WIDTH

    def say(self, text: str) -> None:
        self._rich.print(printable(text))

    def table(self, title: str, rows: Sequence[Row]) -> None:
        self.close()
        self._rich.print(_table(title, rows), soft_wrap=False)

    def columns(self, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table with a name above each column."""
        self._rich.print(_columns(names, rows), soft_wrap=False)

    def close(self) -> None:
        """Remove what is drawn in place."""


class TrainingConsole(Console):
    """The console of a training of `total_steps`, with a progress bar on a terminal."""

    def __init__(self, total_steps: int, steps_per_epoch: int) -> None:
        super().__init__()
        self._total_steps = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._start: tuple[float, int] | None = None
        self._progress: Progress | None = None
        if self.is_live:
            title, bar, steps = TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn()
            columns = (title, bar, steps, _MetricsColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=self._rich, transient=True)
            self._task = self._progress.add_task("epoch 0", total=total_steps)

    def train(self, step: int, metrics: Metrics) -> None:
        """One train record: `loss`, `lr`, `images_per_s`, `data_wait_frac`."""
        if self._start is None:
            self._start = time.monotonic(), step
        text = (
            f"{show_metric('loss', metrics['loss'])}  lr {metrics['lr']:.2e}  {metrics['images_per_s']:,.0f} images/s  "
            f"data wait {metrics['data_wait_frac']:.0%}"
        )
        if self._progress is None:
            self.say(f"{self._epoch(step)}  step {step}/{self._total_steps}  {text}{self._time_left(step)}")
        else:
            self._progress.start()
            self._progress.update(self._task, completed=step, description=self._epoch(step), metrics=text)

    def evaluation(self, split: str, weights_step: int, metrics: Metrics, is_best: bool) -> None:
        """`weights_step`: step of the evaluated weights. `is_best`: better than all before."""
        best = "  best so far" if is_best else ""
        num_images = f"{metrics['num_images']:,} images"
        self.say(f"{self._epoch(weights_step)}  {split}  {show_metrics(metrics)}  {num_images}{best}")

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _epoch(self, step: int) -> str:
        epoch, num_epochs = (epoch_of(each, self._steps_per_epoch) for each in (step, self._total_steps))
        return f"epoch {epoch}/{num_epochs}"

    def _time_left(self, step: int) -> str:
        assert self._start is not None
        start_s, first = self._start
        if step <= first:
            return ""
        left_s = (time.monotonic() - start_s) / (step - first) * (self._total_steps - step)
        return f"  {int(left_s // 3600)}:{int(left_s % 3600 // 60):02d}:{int(left_s % 60):02d} left"


class Board(Console):
    """A table that is drawn again in place on a terminal; elsewhere only its changes, as lines."""

    def __init__(self) -> None:
        super().__init__()
        self._live: Live | None = None

    def draw(self, title: str, rows: Sequence[Row], done: int, total: int) -> None:
        if not self.is_live:
            return
        if self._live is None:
            self._live = Live(console=self._rich, auto_refresh=False, transient=True)
            self._live.start()
        bar = ProgressBar(total=max(total, 1), completed=done, width=40)
        self._live.update(Group(_table(title, rows), bar), refresh=True)

    def change(self, line: str) -> None:
        """Print a change of the table where the table itself is not drawn again."""
        if not self.is_live:
            self.say(line)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def render_columns(names: Sequence[str], rows: Sequence[Sequence[str]], width: int = PLAIN_WIDTH) -> str:
    """The table of `Console.columns`, as text of at most `width` characters a line."""
    stream = io.StringIO()
    RichConsole(file=stream, width=width, highlight=False, markup=False, emoji=False).print(_columns(names, rows))
    return stream.getvalue()


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=printable(title), show_header=False, title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(printable(name), printable(value))
    return table


def _columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*names)
    for row in rows:
        table.add_row(*map(printable, row))
    return table
