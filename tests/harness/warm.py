"""The program, run by forks of a process that has imported everything: each begins at once, not after five seconds.

    python -m tests.harness.warm        # a request a line on stdin, see `Request`

Each rank is a fork that runs `launcher.__main__.main`, as `python -m launcher` or one task of srun does. A fork between
them and this process waits for them and writes their exit codes. What launchers themselves do is tested with the real
commands: `runs.start(..., launcher="torchrun")`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TypedDict

LATE_S = 60.0
"""What other ranks have to end in when one has failed."""
TIMEOUT_S = 300.0
"""Of all of them."""
OUT = os.O_WRONLY | os.O_CREAT | os.O_APPEND


class Request(TypedDict):
    """`ranks`: variables of each. `faults`: of `tests.multi.faulty`, one for each rank. `results`: a folder, in which
    are then `out` and `err`, `pids` once the ranks have started, `codes` once all have ended."""

    arguments: list[str]
    cwd: str
    environment: dict[str, str]
    ranks: list[dict[str, str]]
    faults: list[str]
    results: str


def serve() -> None:
    import matplotlib.backends.backend_agg as charts

    from launcher.__main__ import main
    from launcher.commands.jobs.verify_resume import main as verify
    from launcher.commands.model.explain.methods import import_captum
    from launcher.commands.recipe import check, fetch, show
    from launcher.commands.recipe.bench import main as bench
    from launcher.commands.recipe.probe import main as probe_main
    from launcher.train import main as train
    from tests.multi import faulty

    assert all((main, bench, charts, check, faulty, fetch, probe_main, show, train, verify))
    import_captum()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks that wait
    for line in sys.stdin:
        request: Request = json.loads(line)
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            supervise(request)
            os._exit(0)


def supervise(request: Request) -> None:
    pids = []
    for rank, fault in zip(request["ranks"], request["faults"], strict=True):
        pid = os.fork()
        if not pid:
            run_rank(request, rank, fault)
        pids.append(pid)
    answer(request, "pids", pids)
    answer(request, "codes", wait(pids))


def answer(request: Request, name: str, numbers: list[int]) -> None:
    """Whole, for who waits for the file."""
    path = Path(request["results"]) / f".{name}"
    path.write_text(json.dumps(numbers))
    path.rename(path.with_name(name))


def run_rank(request: Request, rank: dict[str, str], fault: str) -> None:
    """Become a process like one that was started by itself, run, and exit."""
    from launcher.__main__ import main
    from tests.multi.faulty import FAULTS

    try:
        os.setsid()
        results = Path(request["results"])
        for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, results / "out", OUT), (2, results / "err", OUT)):
            os.dup2(os.open(path, flags, 0o644), number)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"] | rank)
        sys.argv = ["launcher", *request["arguments"]]
        FAULTS[fault]()
        main()
    finally:
        os._exit(99)


def wait(pids: list[int]) -> list[int]:
    """Exit codes, or minus the signal. A rank that runs long after another has failed is killed."""
    codes: dict[int, int] = {}
    end_s = time.monotonic() + TIMEOUT_S
    while len(codes) < len(pids):
        for pid in {*pids} - {*codes}:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                codes[pid] = os.waitstatus_to_exitcode(status)
        if any(codes.values()):
            end_s = min(end_s, time.monotonic() + LATE_S)
        if time.monotonic() > end_s:
            for pid in {*pids} - {*codes}:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return [codes[pid] for pid in pids]


if __name__ == "__main__":
    serve()
