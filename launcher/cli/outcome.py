"""How a command ends: here, and nowhere else, errors become messages and exit codes."""

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
    GpuMemoryError,
    LauncherError,
    RankLost,
    Stopped,
    UserError,
    is_peer_lost,
)
from launcher.text import one_line
from launcher.train.out_of_memory import is_out_of_memory
from shards.manifest import ShardsError
from shards.printable import printable

HOLD_BACK_S = 3.0
"""Delay of ranks that fail like rank 0, which has to print the message: a launcher ends all ranks when one ends."""

ADVICE = "free it from other programs (nvidia-smi shows them), or compute on a CPU (--device cpu, strategy.device=cpu)"
"""Advice where no batch of a training is to blame."""


def run_app(app: App, arguments: list[str] | None) -> int:
    """Run one command and return its exit code.

    `accelerate launch` merges all exit codes: rank 0 writes its own to the file that LAUNCHER_EXIT_CODE names.
    """
    os.umask(os.umask(0o022) | 0o002)  # files written here are not writable by everybody
    code = _run(app, arguments)
    if (path := os.environ.get("LAUNCHER_EXIT_CODE")) and _world().is_first:
        Path(path).write_text(f"{code}\n")
    return code


def _run(app: App, arguments: list[str] | None) -> int:
    try:
        code = app(arguments, exit_on_error=False, print_error=False, verbose=False, result_action="return_value")
    except UnusedCliTokensError as error:
        return _explain(_refuse_arguments(error.unused_tokens or []))
    except CycloptsError as error:
        return _explain(UserError(one_line(error) + " See launcher --help."))
    except Stopped as error:
        _print(str(error))
        return EXIT_RESUMABLE
    except RankLost as error:
        if error.should_print:
            _print(str(error))
        time.sleep(HOLD_BACK_S)  # the rank that failed first ends first
        return EXIT_FAILED
    except (LauncherError, ShardsError) as error:
        return _explain(error)
    except KeyboardInterrupt:
        if _world().local_rank == 0:
            _print("interrupted")
        return EXIT_INTERRUPTED
    except OSError as error:
        where = error.filename or "the run folder"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _explain(UserError(f"no space left on the disk of {where}; free some, then run the same command"))
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return _explain(UserError(f"{where}: {error.strerror}; change its permissions, or choose another"))
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return _explain(UserError(f"{where}: {error.strerror}; choose another"))
        return _show_traceback(error)
    except Exception as error:
        if is_out_of_memory(error):
            return _explain(GpuMemoryError(f"this GPU has not enough memory; {ADVICE}"))
        return _show_traceback(error)
    return int(code or 0)


def _refuse_arguments(arguments: list[str]) -> UserError:
    """Nearly always recipe keys, given to a command that takes a run and no recipe."""
    what = "this command takes no recipe keys" if all("=" in each for each in arguments) else "too many arguments"
    return UserError(f"{' '.join(arguments)}: {what}; leave them out, see launcher --help")


def _explain(error: Exception) -> int:
    """Print a line per problem on the first rank of each node; on any rank what it alone cannot read, fetch or hold."""
    if _world().local_rank == 0 or isinstance(error, DataError | FetchError | GpuMemoryError):
        for line in str(error).splitlines():
            _print(printable(line))
    else:
        time.sleep(HOLD_BACK_S)
    return EXIT_USER_ERROR if isinstance(error, UserError | ShardsError) else EXIT_FAILED


def _show_traceback(error: Exception) -> int:
    """Print the traceback last, where the user sees it."""
    rank = _world().rank
    if is_peer_lost(error):
        _print(f"rank {rank} lost another rank, which has failed; the same command resumes")
        time.sleep(HOLD_BACK_S)
    else:
        text = "\n".join(map(printable, "".join(traceback.format_exception(error)).splitlines()))
        _print(f"rank {rank} failed:\n{text}\n")
    return EXIT_FAILED


def _print(text: str) -> None:
    print(f"launcher: {text}", file=sys.stderr, flush=True)


def _world() -> World:
    try:
        return read_world(os.environ)
    except UserError:
        return World()
