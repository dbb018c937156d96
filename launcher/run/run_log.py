"""One place for what a training reports: each thing once, to the journal, to the console, and through both to W&B."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from launcher.metrics.names import Metrics
from launcher.run.console import Row, TrainingConsole
from launcher.run.journal import Journal
from launcher.run.mirror import Mirror


class RunLog(Protocol):
    """`step` everywhere: optimizer steps done."""

    @property
    def wandb_mode(self) -> str: ...

    def say(self, message: str) -> None:
        """Only on the console."""

    def event(self, step: int, name: str, message: str = "", *, show: bool = False, **fields: Any) -> None:
        """A record of kind event. `show`: its message on the console, too."""

    def note(self, step: int, message: str) -> None:
        """An event that the console shows as `note: ...`."""

    def train(self, step: int, metrics: Metrics, *, show: bool, **fields: Any) -> None:
        """A record of kind train, and whatever W&B has failed at since the last."""

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
        """A record of kind eval. `weights_step`: the step whose weights were evaluated. `is_best`: so far."""

    def checkpoint(self, step: int, **fields: Any) -> None:
        """A record of kind checkpoint."""

    def table(self, title: str, rows: Sequence[Row]) -> None:
        """On the console, the last thing of a run."""

    def end(self, step: int, status: str, exit_code: int) -> None:
        """Close W&B, and write the last event, which is named `status`."""

    def close(self) -> None: ...


class Rank0Log:
    def __init__(self, journal: Journal, console: TrainingConsole, mirror: Mirror) -> None:
        self._journal = journal
        self._console = console
        self._mirror = mirror

    @property
    def wandb_mode(self) -> str:
        return self._mirror.mode

    def say(self, message: str) -> None:
        self._console.say(message)

    def event(self, step: int, name: str, message: str = "", *, show: bool = False, **fields: Any) -> None:
        words = {"message": message} if message else {}
        self._journal.write("event", step, name=name, **words, **fields)
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


class NullLog:
    """For every rank but the first."""

    wandb_mode = "disabled"

    def say(self, message: str) -> None:
        pass

    def event(self, step: int, name: str, message: str = "", *, show: bool = False, **fields: Any) -> None:
        pass

    def note(self, step: int, message: str) -> None:
        pass

    def train(self, step: int, metrics: Metrics, *, show: bool, **fields: Any) -> None:
        pass

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
        pass

    def checkpoint(self, step: int, **fields: Any) -> None:
        pass

    def table(self, title: str, rows: Sequence[Row]) -> None:
        pass

    def end(self, step: int, status: str, exit_code: int) -> None:
        pass

    def close(self) -> None:
        pass
