"""The program, run by forks of a process that has imported everything: each begins at once, not after five seconds.

    python -m tests.harness.warm        # a request a line on stdin: arguments, folder, environment, ranks, out, err

Each fork runs `launcher.__main__.main`, as `python -m launcher` does, or as one of several ranks, as srun starts them.
Answers with a line, the exit codes. What launchers and signals do is tested with the real command: `runs.start`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

LATE_S = 20.0
"""What other ranks have to end in when one has failed."""
TIMEOUT_S = 240.0
"""Of all of them."""


def serve() -> None:
    import matplotlib.backends.backend_agg as charts

    from launcher.__main__ import main as run_program
    from launcher.commands.jobs.verify_resume import main as verify
    from launcher.commands.model.explain.methods import import_captum
    from launcher.commands.recipe import check, fetch, show
    from launcher.commands.recipe.bench import main as bench
    from launcher.commands.recipe.probe import main as probe_main
    from launcher.train import main as train

    assert all((bench, charts, check, fetch, probe_main, show, train, verify))
    import_captum()
    for line in sys.stdin:
        request = json.loads(line)
        pids = []
        for rank in request["ranks"]:
            pid = os.fork()
            if not pid:
                try:
                    become(request, rank)
                    run_program()
                finally:
                    os._exit(99)
            pids.append(pid)
        print(json.dumps(wait(pids)), flush=True)


def become(request: dict[str, Any], rank: dict[str, str]) -> None:
    """A process like one that was started by itself."""
    os.setsid()
    for number, (name, flags) in enumerate(((os.devnull, os.O_RDONLY), *((request[w], OUT) for w in ("out", "err")))):
        os.dup2(os.open(name, flags, 0o644), number)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"] | rank)
    sys.argv = ["launcher", *request["arguments"]]


OUT = os.O_WRONLY | os.O_CREAT | os.O_APPEND


def wait(pids: list[int]) -> list[int]:
    """Exit codes, or minus the signal. One that runs long after another has failed is ended."""
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
