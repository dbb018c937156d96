"""One place for what a training reports: each thing once, to the journal, which W&B mirrors, and to the console."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from launcher.metrics.names import Metrics
from launcher.run.console import Row, TrainingConsole
from launcher.run.journal import Journal
from launcher.run.mirror import Mirror


class RunLog(Protocol):
    """`step` everywhere: optimizer steps done. `fields`: more fields of the record."""

    # `NullLog` inherits these bodies. Each has a `return`, because mypy takes a body without one as abstract.

    @property
    def wandb_mode(self) -> str:
        """The requested mode; after `end`, the mode actually used."""
        return "disabled"

    def say(self, message: str) -> None:
        """Show a line on the console only."""
        return

    def event(self, step: int, name: str, message: str = "", *, show: bool = False, **fields: Any) -> None:
        """Write an event record. `show`: its message on the console, too."""
        return

    def note(self, step: int, message: str) -> None:
        """Write an event named `note`, and show it as `note: ...`."""
        return

    def train(self, step: int, metrics: Metrics, *, show: bool, **fields: Any) -> None:
        """Write a train record, and report what has failed in W&B since the last one."""
        return

    def evaluation(
        self,
        step: int,
        split: str,
        metrics: Metrics,
        *,
        weights_step: int,
        is_best: bool = False,
        show: bool = True,
        **fields: Any,
    ) -> None:
        """Write an eval record. `weights_step`: step of the evaluated weights. `is_best`: better than all before."""
        return

    def checkpoint(self, step: int, **fields: Any) -> None:
        """Write a checkpoint record."""
        return

    def table(self, title: str, rows: Sequence[Row]) -> None:
        """Show the final table on the console."""
        return

    def end(self, step: int, status: str, exit_code: int) -> None:
        """Close W&B, report what has failed there, and write the last event, named `status`."""
        return

    def close(self) -> None:
        """Close console and journal."""
        return


class Rank0Log:
    """The log of rank 0. Any thread may write to it."""

    def __init__(self, journal: Journal, console: TrainingConsole, mirror: Mirror) -> None:
        """`mirror`: the one that `journal` calls; here it only reports and ends."""
        self._journal = journal
        self._console = console
        self._mirror = mirror

    @property
    def wandb_mode(self) -> str:
        return self._mirror.mode

    def say(self, message: str) -> None:
        self._console.say(message)

    def event(self, step: int, name: str, message: str = "", *, show: bool = False, **fields: Any) -> None:
        if message:
            fields = {"message": message, **fields}
        self._journal.write("event", step, name=name, **fields)
        if show:
            self._console.say(message)

    def note(self, step: int, message: str) -> None:
        self.event(step, "note", message)
        self._console.say(f"note: {message}")

    def train(self, step: int, metrics: Metrics, *, show: bool, **fields: Any) -> None:
        self._journal.write("train", step, **metrics, **fields)
        if show:
            self._console.train(step, metrics)
        self._report_failures(step, self._mirror.take_failures())

    def evaluation(
        self,
        step: int,
        split: str,
        metrics: Metrics,
        *,
        weights_step: int,
        is_best: bool = False,
        show: bool = True,
        **fields: Any,
    ) -> None:
        self._journal.write("eval", step, split=split, weights_step=weights_step, **metrics, **fields)
        if show:
            self._console.evaluation(split, weights_step, metrics, is_best)

    def checkpoint(self, step: int, **fields: Any) -> None:
        self._journal.write("checkpoint", step, **fields)

    def table(self, title: str, rows: Sequence[Row]) -> None:
        self._console.table(title, rows)

    def end(self, step: int, status: str, exit_code: int) -> None:
        self._report_failures(step, self._mirror.finish(exit_code))
        self.event(step, status)

    def close(self) -> None:
        self._console.close()
        self._journal.close()

    def _report_failures(self, step: int, failures: Sequence[str]) -> None:
        for failure in failures:
            self.event(step, "wandb_failed", failure, show=True)


class NullLog(RunLog):
    """The log of every other rank: it writes and shows nothing."""
