"""The error tree and the exit codes.

    LauncherError
    ├── UserError          the user can fix it: one line, what to do next                    exit 2
    │   ├── RecipeError    all problems of a recipe, a line each                             exit 2
    │   ├── RunError       the run folder cannot be used as wanted                           exit 2
    │   ├── DataError      an image cannot be read; names shard and image                    exit 2
    │   ├── FetchError     a remote shard cannot be downloaded or stored                     exit 2
    │   └── GpuMemoryError a GPU has not enough memory for a batch                           exit 2
    ├── SpawnedRunError    a training that another command started has failed or hangs       exit 1
    ├── Stopped            stop requested before there is a checkpoint of it                 exit 75
    ├── RankLost           another rank has failed, and this one because of it               exit 1
    └── CheckpointError    a checkpoint is incomplete or damaged: the one before it is tried

Anything else is a bug: its traceback is shown, exit 1. The package `shards` raises ShardsError, exit 2.
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
"""Ctrl-C in a command that has nothing to save."""

PEER_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "ncclRemoteError")
"""Messages of gloo and NCCL on a rank when another one has failed."""


class LauncherError(Exception):
    """Root of every error of this package."""


class UserError(LauncherError):
    """The user can fix it. The message is one line, with what to do next."""


class RecipeError(UserError):
    """All problems of a recipe. `lines`: one `file:line: path: what, nearest valid name` each."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = [printable(line) for line in lines]
        super().__init__("\n".join(self.lines))

    def __reduce__(self) -> tuple[type[RecipeError], tuple[list[str]]]:
        return RecipeError, (self.lines,)  # rank 0 sends its errors to the other ranks


class RunError(UserError):
    """The run folder is in use, is of another recipe, or cannot be made."""


class DataError(UserError):
    """An image is cut short, cannot be decoded, or has a label that is no class."""


class FetchError(UserError):
    """A remote shard cannot be downloaded after all tries, or not stored. Its images are fine: none is skipped."""


class GpuMemoryError(UserError):
    """The memory of this rank's GPU is not enough. The message: for which batch, and what to try."""


class Stopped(LauncherError):  # noqa: N818  # no error of anyone
    """Stop requested in work that saves nothing itself: packing, features, evaluation; the same command repeats it."""


class SpawnedRunError(LauncherError):
    """A training that this command started has failed or hangs. `code`: its exit code, if it has ended."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class RankLost(LauncherError):  # noqa: N818  # it is the other rank's error
    """Another rank has failed, and this one because of it. The message: which, and why.

    `should_print`: whether this rank prints it: no other does on this console.
    """

    def __init__(self, message: str, should_print: bool) -> None:
        super().__init__(message)
        self.should_print = should_print

    def __reduce__(self) -> tuple[type[RankLost], tuple[str, bool]]:
        return RankLost, (str(self), self.should_print)


class CheckpointError(LauncherError):
    """A checkpoint is incomplete or damaged. The message names the file."""


def is_peer_lost(error: BaseException) -> bool:
    """Whether the error, or one of its causes, is that another rank was lost."""
    text = "".join(traceback.format_exception(error))
    return any(words in text for words in PEER_LOST)


def nearest(name: str, valid: Iterable[str]) -> str:
    """End of an error line: `; did you mean 'x'?` for the closest valid name, else `; valid: a, b, c`."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"; valid: {shown}" if names else ""


def nearest_path(path: Path) -> str:
    """End of an error line: `; did you mean 'runs/pets'?` for the existing path closest to `path`, else nothing."""
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


def check_at_least_1(**options: int | None) -> None:
    """Raise UserError naming the option of the command line that was given and is less than 1."""
    for name, number in options.items():
        if number is not None and number < 1:
            raise UserError(f"--{name.replace('_', '-')} {number}: must be at least 1")
