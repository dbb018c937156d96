"""`.in-use`: the file that a process locks while it works in a run folder. No link may lead out of such a folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from launcher.errors import RunError

IN_USE = ".in-use"
FOLDERS = ("checkpoints", "logs", "pictures")
"""Folders in a run folder that a training writes to."""


def claim(path: Path, option: str = "run.dir") -> int:
    """Lock the folder and return the open file, whose lock ends with the process, however that ends.

    `option`: names what a user changes to get another folder. Raise RunError when another process holds the lock, or
    a link leads out of the folder.
    """
    _check_links(path, option)
    try:
        file = os.open(path / IN_USE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); choose another {option}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise RunError(f"{path}: another process is running it; wait for it, or choose another {option}") from None
    except OSError as error:
        os.close(file)
        raise RunError(f"{path}: cannot be locked ({error.strerror}); choose a {option} on another disk") from None
    return file


def is_running(folder: Path, has_ended: bool) -> bool:
    """Whether a process holds the lock. `has_ended`: whether the journal ends with the end of a run.

    Trying the lock would, for a moment, keep a training from taking it. So it is tried only when `/proc/locks`, which
    lacks the locks of other machines, does not list it and the run has not ended.
    """
    try:
        file = os.open(folder / IN_USE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if _is_listed(os.fstat(file)):
            return True
        if not has_ended:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a disk that has no locks
        return False
    finally:
        os.close(file)
    return False


def _check_links(path: Path, option: str) -> None:
    """Raise RunError for a link in the folder: anybody who may write there could have this process write elsewhere.

    Links above the run folder are the user's own, as to a larger disk. `checkpoints/last` and `best` are ours, and lead
    to a neighbor.
    """
    try:
        folders = [folder for folder in (path, *(path / name for name in FOLDERS)) if folder.is_dir()]
        inside = [each for folder in folders for each in folder.iterdir()]
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); choose another {option}") from None
    for each in (path, *inside):
        if each.is_symlink() and not (each.parent == path / "checkpoints" and len(each.readlink().parts) == 1):
            raise RunError(f"{each}: is a link, and a run writes through none; remove it, or choose another {option}")


def _is_listed(status: os.stat_result) -> bool:
    """Whether a line of `/proc/locks` names this file: `1: FLOCK ADVISORY WRITE 708 08:01:4242 0 EOF`."""
    name = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return False
    return any("FLOCK" in words and "WRITE" in words and name in words for words in map(str.split, lines))
