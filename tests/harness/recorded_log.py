"""A RunLog that keeps what it is told, for tests of one part of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from launcher.metrics.names import Metrics
from launcher.run.console import Row
from tests.harness.runs import Record


class RecordedLog:
    """A `RunLog`."""

    wandb_mode = "disabled"

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.shown: list[str] = []

    def events(self, name: str) -> list[Record]:
        return [record for record in self.records if record.get("name") == name]

    def say(self, message: str) -> None:
        self.shown.append(message)

    def event(self, step: int, name: str, message: str = "", *, show: bool = False, **fields: Any) -> None:
        self.records.append({"kind": "event", "step": step, "name": name, "message": message, **fields})
        if show:
            self.shown.append(message)

    def note(self, step: int, message: str) -> None:
        self.event(step, "note", message, show=True)

    def train(self, step: int, metrics: Metrics, *, show: bool, **fields: Any) -> None:
        self.records.append({"kind": "train", "step": step, "show": show, **metrics, **fields})

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
        self.records.append({"kind": "eval", "step": step, "split": split, "is_best": is_best, **metrics, **fields})

    def checkpoint(self, step: int, **fields: Any) -> None:
        self.records.append({"kind": "checkpoint", "step": step, **fields})

    def table(self, title: str, rows: Sequence[Row]) -> None:
        self.shown += [title, *(f"{name}: {value}" for name, value in rows)]

    def end(self, step: int, status: str, exit_code: int) -> None:
        self.event(step, status, exit_code=exit_code)

    def close(self) -> None:
        pass
