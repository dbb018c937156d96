"""What becomes of a command: errors are messages and exit codes here and nowhere else."""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from pathlib import Path

from cyclopts import App, CycloptsError, UnusedCliTokensError

from launcher.distributed.world import World, read_world
from launcher.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_RESUMABLE,
    EXIT_USER_ERROR,
    DataError,
    FetchError,
    LauncherError,
    RankLost,
    Stopped,
    UserError,
    is_peer_lost,
)
from launcher.text import one_line
from shards.manifest import ShardsError
from shards.printable import printable

HOLD_BACK_S = 3.0
"""A launcher ends all ranks when one ends: those that fail in the same words leave rank 0 the time to say them."""


def run_app(app: App, arguments: list[str] | None) -> int:
    """Run one command.

    `accelerate launch` makes one of all exit codes: rank 0 leaves its own in the file that LAUNCHER_EXIT_CODE names.
    """
    os.umask(os.umask(0o022) | 0o002)  # what is written here, everybody may not change
    code = _run(app, arguments)
    if (path := os.environ.get("LAUNCHER_EXIT_CODE")) and _world().is_first:
        Path(path).write_text(f"{code}\n")
    return code


def _run(app: App, arguments: list[str] | None) -> int:
    """Errors become messages and exit codes here and nowhere else."""
    try:
        code = app(arguments, exit_on_error=False, print_error=False, verbose=False, result_action="return_value")
    except UnusedCliTokensError as error:
        return _explain(_refuse_words(error.unused_tokens or []))
    except CycloptsError as error:
        return _explain(UserError(one_line(error) + " See launcher --help."))
    except Stopped as error:
        print(f"launcher: {error}", file=sys.stderr, flush=True)
        return EXIT_RESUMABLE
    except RankLost as error:
        return _tell_of_lost_rank(error)
    except (LauncherError, ShardsError) as error:
        return _explain(error)
    except KeyboardInterrupt:
        if _world().local_rank == 0:
            print("launcher: interrupted", file=sys.stderr, flush=True)
        return EXIT_INTERRUPTED
    except OSError as error:
        where = error.filename or "the run folder"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _explain(UserError(f"no space left on the disk of {where}; make room, then give the same command"))
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return _explain(UserError(f"{where}: {error.strerror}; see to who may read and write it, or name another"))
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return _explain(UserError(f"{where}: {error.strerror}; name another"))
        return _show_traceback(error)
    except Exception as error:
        return _show_traceback(error)
    return int(code or 0)


def _refuse_words(words: list[str]) -> UserError:
    """Nearly always recipe keys, after what takes a run and not a recipe."""
    if all("=" in word for word in words):
        return UserError(f"{' '.join(words)}: this command takes no recipe keys; leave them out, see launcher --help")
    return UserError(f"{' '.join(words)}: more than this command takes; leave it out, see launcher --help")


def _explain(error: Exception) -> int:
    """One line a problem, said by the first rank of each node; what one rank cannot read or fetch, by that rank."""
    if _world().local_rank == 0 or isinstance(error, DataError | FetchError):
        for line in str(error).splitlines():
            print(f"launcher: {printable(line)}", file=sys.stderr, flush=True)
    else:
        time.sleep(HOLD_BACK_S)
    return EXIT_USER_ERROR if isinstance(error, UserError | ShardsError) else EXIT_FAILED


def _tell_of_lost_rank(error: RankLost) -> int:
    """Said by one rank alone; and the one that failed first is to end first."""
    if error.speaks:
        print(f"launcher: {error}", file=sys.stderr, flush=True)
    time.sleep(HOLD_BACK_S)
    return EXIT_FAILED


def _show_traceback(error: Exception) -> int:
    """The rank's own failure, last of all it says."""
    rank = _world().rank
    text = "\n".join(map(printable, "".join(traceback.format_exception(error)).splitlines()))
    if is_peer_lost(error):
        print(
            f"launcher: rank {rank} lost another rank, which has failed; the same command goes on",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(HOLD_BACK_S)
    else:
        print(f"launcher: rank {rank} failed:\n{text}\n", file=sys.stderr, flush=True)
    return EXIT_FAILED


def _world() -> World:
    try:
        return read_world(os.environ)
    except UserError:
        return World()
