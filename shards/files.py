"""Files and folders that are whole or not there, whatever is killed: temporary name, fsync, rename. Needs no torch."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

HALF = ".half"
"""Suffix of a file while it is written."""
ABANDONED_S = 86_400.0
"""Seconds without growth after which nobody writes such a file any more."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or none, as `open_atomically`."""
    with open_atomically(path) as write:
        write(content)


@contextmanager
def open_atomically(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Yield a function that writes a part: temporary name, fsync, rename, fsync of the folder. Follows no link.

    The file appears whole or not at all; of several concurrent writers the last to finish wins. Raise OSError with the
    name of the file, and leave nothing behind.
    """
    remove_leftovers(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{HALF}")
    with _naming(path):
        file = temporary.open("xb")

    def write(content: bytes) -> None:
        with _naming(path):
            file.write(content)

    try:
        yield write
        with _naming(path):
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
            fsync(path.parent)
    finally:
        with suppress(OSError):  # a failed write has been raised already
            file.close()
        temporary.unlink(missing_ok=True)  # on a full disk others need the space


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file `path` in an OSError, which has the temporary name, or none where the system saw a descriptor."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise


@lru_cache
def remove_leftovers(folder: Path) -> None:
    """Remove half-written files of killed processes from a folder; only once, as it may have many files."""
    with suppress(OSError):  # other processes do the same, and some folders cannot be listed
        for path in folder.iterdir():
            if is_leftover(path.name) and time.time() - path.lstat().st_mtime > ABANDONED_S:
                path.unlink(missing_ok=True)


def is_leftover(name: str) -> bool:
    """Whether this is the name of a half-written file, abandoned or still being written."""
    return re.fullmatch(rf"\..+\.[0-9a-f]{{8}}{re.escape(HALF)}", name) is not None


def commit_folder(temporary: Path, final: Path, replaced: Path | None = None) -> None:
    """Bring a folder of files, or a file, to the disk, then give it its name.

    `replaced`: the place to which whatever has the name is moved first. Raise OSError when the name is taken.
    """
    for path in [temporary] if temporary.is_file() else [*temporary.iterdir(), temporary]:
        fsync(path)
    if replaced is not None and final.exists():
        final.rename(replaced)
    temporary.rename(final)
    fsync(final.parent)


def fsync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
