"""Progress of long work: `shards.console.ConsoleProgress` shows it, `SILENT` does not."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    def update(self, task: str, done: int, total: int) -> None:
        """`done` of `total` images or shards of `task` are finished."""

    def note(self, line: str) -> None:
        """Show a message to the user: files ignored, images unassigned."""


class NullProgress:
    def update(self, task: str, done: int, total: int) -> None:
        pass

    def note(self, line: str) -> None:
        pass


SILENT: Progress = NullProgress()
