"""The error tree and the exit codes.

    LauncherError
    ├── UserError          the user can mend it: one line, what to do next      exit 2
    │   ├── RecipeError    every problem of a recipe at once, a line each       exit 2
    │   ├── RunError       the run folder cannot be used as asked               exit 2
    │   ├── DataError      an image cannot be read: names shard and image       exit 2
    │   └── FetchError     a remote shard cannot be had, or not kept here       exit 2
    ├── AttemptError       a run that verify-resume started fails or hangs      exit 1
    ├── Stopped            asked to stop before training; the same command goes on     exit 75
    ├── RankLost           another process has failed, and this one because of it       exit 1
    └── CheckpointError    a checkpoint is incomplete or damaged: it is skipped, the next older one is tried

Anything else is our own mistake: its traceback is shown, exit 1. Shards raise `shards.manifest.ShardsError` (exit 2).
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path

from shards.printable import printable

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_RESUMABLE = 75
EXIT_INTERRUPTED = 130
"""Ctrl-C, where there is nothing to save."""

PEER_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "ncclRemoteError")
"""What gloo and NCCL say on a rank when it is another that has failed."""


class LauncherError(Exception):
    """Root of every error of this package."""


class UserError(LauncherError):
    """The user can mend it. The message is one line and says what to do next."""


class RecipeError(UserError):
    """Every problem of a recipe. `lines`: one `file:line: path: what, nearest valid name` each."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = [printable(line) for line in lines]
        super().__init__("\n".join(self.lines))


class RunError(UserError):
    """The run folder is in use, is of another recipe, or cannot be made."""


class DataError(UserError):
    """An image is not there whole, cannot be decoded, or has a label that is no class."""


class FetchError(UserError):
    """A remote shard cannot be had after all tries, or not be kept. Its images are not damaged: none is left out."""


class Stopped(LauncherError):  # noqa: N818  # nobody's mistake
    """Asked to stop while there was nothing to save yet; the same command begins again."""


class SpawnedRunError(LauncherError):
    """A run that was started to be watched has failed or hangs. `code`: its exit code, where it ended."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class RankLost(LauncherError):  # noqa: N818  # it is the other rank's error
    """Another process has failed, and this one because of it. The message: which, and of what.

    `speaks`: whether nobody else tells the user on this console.
    """

    def __init__(self, words: str, speaks: bool) -> None:
        super().__init__(words)
        self.speaks = speaks


class CheckpointError(LauncherError):
    """A checkpoint is incomplete or damaged. The message names the file."""


def is_peer_lost(error: BaseException) -> bool:
    """Whether it is because of another process."""
    text = "".join(traceback.format_exception(error))
    return any(words in text for words in PEER_LOST)


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest valid name, else `; valid: a, b, c`, for the end of an error line."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"; valid: {shown}" if names else ""


def nearest_path(path: Path) -> str:
    """`; did you mean 'runs/pets'?` for what is there by nearly the name of `path`, else nothing, for an error line."""
    if path.exists():
        return ""
    missing = path
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    try:
        names = sorted(each.name for each in missing.parent.iterdir() if each.exists() and each.name[0] != ".")
    except OSError:
        return ""
    close = difflib.get_close_matches(missing.name, names, n=1, cutoff=0.6)
    if not close:
        return ""
    found = missing.parent / close[0]
    rest = found / path.relative_to(missing)
    return f"; did you mean '{rest if rest.exists() else found}'?"
