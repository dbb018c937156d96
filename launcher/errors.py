"""The error tree and the exit codes.

    LauncherError
    ├── UserError          the user can mend it: one line, what to do next      exit 2
    │   ├── RecipeError    every problem of a recipe at once, a line each       exit 2
    │   ├── RunError       the run folder cannot be used as asked               exit 2
    │   ├── DataError      an image cannot be read: names shard and image       exit 2
    │   └── FetchError     a remote shard cannot be had, or not kept here       exit 2
    ├── Stopped            asked to stop before training; the same command goes on     exit 75
    └── CheckpointError    a checkpoint is incomplete or damaged: it is skipped, the next older one is tried

Anything else is our own mistake: its traceback is shown, exit 1. Shards raise `shards.manifest.ShardsError` (exit 2).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_RESUMABLE = 75


class LauncherError(Exception):
    """Root of every error of this package."""


class UserError(LauncherError):
    """The user can mend it. The message is one line and says what to do next."""


class RecipeError(UserError):
    """Every problem of a recipe. `lines`: one `file:line: path: what, nearest valid name` each."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = [_on_one_line(line) for line in lines]
        super().__init__("\n".join(self.lines))


class RunError(UserError):
    """The run folder is in use, is of another recipe, or cannot be made."""


class DataError(UserError):
    """An image is not there whole, cannot be decoded, or has a label that is no class."""


class FetchError(UserError):
    """A remote shard cannot be had after all tries, or not be kept. Its images are not damaged: none is left out."""


class Stopped(LauncherError):  # noqa: N818  # nobody's mistake
    """Asked to stop while there was nothing to save yet; the same command begins again."""


class CheckpointError(LauncherError):
    """A checkpoint is incomplete or damaged. The message names the file."""


def _on_one_line(text: str) -> str:
    """Line ends and control characters, which a recipe's keys and values may hold, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest valid name, else `; valid: a, b, c`, for the end of an error line."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"; valid: {shown}" if names else ""
