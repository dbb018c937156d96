"""Ranks of the program that begin at once: the client of tests/harness/warm.py."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from tests.harness.warm import Request

_ROOT = Path(__file__).parent.parent.parent
START_S = 60.0
"""For the server to import everything, on a busy machine."""


class WarmRanks:
    """Much as a `subprocess.Popen`, of one rank or several that share stdout and stderr."""

    def __init__(
        self,
        arguments: Sequence[str],
        cwd: Path,
        environment: dict[str, str],
        ranks: list[dict[str, str]],
        faults: list[str] | None = None,
    ) -> None:
        self._results = Path(tempfile.mkdtemp(prefix="ranks-"))
        request: Request = {
            "arguments": list(arguments),
            "cwd": str(cwd),
            "environment": environment,
            "ranks": ranks,
            "faults": faults or ["none"] * len(ranks),
            "results": str(self._results),
        }
        server = _server()
        assert server.stdin is not None
        print(json.dumps(request), file=server.stdin, flush=True)
        self.codes: tuple[int, ...] | None = None
        self.pids = self._wait_for("pids", START_S)

    @property
    def err(self) -> str:
        path = self._results / "err"
        return path.read_text() if path.exists() else ""

    def poll(self) -> int | None:
        if self.codes is None and (self._results / "codes").exists():
            self.codes = tuple(json.loads((self._results / "codes").read_text()))
        return None if self.codes is None else next(filter(None, self.codes), 0)

    def send_signal(self, number: int) -> None:
        """To every rank, as launchers pass it on."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float) -> int:
        self._wait_for("codes", timeout)
        code = self.poll()
        assert code is not None
        return code

    def communicate(self, timeout: float = 300.0) -> tuple[str, str]:
        """Wait for the end. Raise TimeoutExpired."""
        self.wait(timeout)
        out, err = ((self._results / name).read_text() for name in ("out", "err"))
        shutil.rmtree(self._results)
        return out, err

    def _wait_for(self, name: str, timeout_s: float) -> list[int]:
        path, end_s = self._results / name, time.monotonic() + timeout_s
        while not path.exists():
            if time.monotonic() > end_s:
                raise subprocess.TimeoutExpired("ranks of the program", timeout_s)
            time.sleep(0.005)
        numbers: list[int] = json.loads(path.read_text())
        return numbers


@cache
def _server() -> subprocess.Popen[str]:
    """Ends with this process."""
    hidden = ("WANDB_", "SLURM_", "ACCELERATE_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.harness.warm"],
        cwd=_ROOT,
        env={**environment, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)  # which closes its stdin, and waits
    return server
