"""How long work reports: `Progress` is silent, `shards.console.ConsoleProgress` shows it."""

from __future__ import annotations


class Progress:
    """Hears about long work and shows nothing; subclass it to show something."""

    def update(self, task: str, done: int, total: int) -> None:
        """`done` of `total` images or shards of `task` are finished."""

    def note(self, line: str) -> None:
        """Something the user should know: files ignored, images left out."""


SILENT = Progress()
