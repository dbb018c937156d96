"""A mirror of the journal in W&B, which can never slow, stop or fail the training.

Every call only puts a record on a queue, which one thread empties. When W&B hangs, the queue fills up, records are
dropped and counted, and the run ends on time: the journal has everything, and `launcher sync` sends it later.
"""

from __future__ import annotations

import contextlib
import queue
import shlex
import threading
import time
from collections.abc import Mapping
from typing import Literal, Protocol

from launcher.errors import EXIT_RESUMABLE
from launcher.run.credentials import has_wandb_credentials
from launcher.run.journal import Record
from launcher.run.wandb import Mode, RunMetadata, WandbRun, quiet_wandb, stop_service
from launcher.text import first_line, show_count

MAX_QUEUED = 10_000
UPLOAD_TIMEOUT_S = 45.0
"""Time that W&B itself may take after the last record."""
FINISH_TIMEOUT_S = 60.0
"""Time that the end of a run waits for W&B, all together."""
STOPPED_TIMEOUT_S = 10.0
"""The same for a run that was requested to stop: torch elastic kills it after 30 s."""


class Mirror(Protocol):
    """`mode`: requested; after `finish`, the mode actually used. `NullMirror` inherits these bodies."""

    mode: Mode = "disabled"

    def log(self, number: int, record: Record) -> None:
        """Mirror line `number` of the journal, from 0. The journal calls it for every record."""
        return

    def take_failures(self) -> list[str]:
        """The failures since the last call, one line each."""
        return []

    def finish(self, exit_code: int) -> list[str]:
        """Close the W&B run, for no longer than the timeout, and return the last failures."""
        return []


class WandbMirror:
    """One W&B run."""

    def __init__(self, metadata: RunMetadata, mode: Mode) -> None:
        quiet_wandb()
        self.mode: Mode = mode
        self._metadata = metadata
        self._queue: queue.Queue[tuple[int, Record] | None] = queue.Queue(MAX_QUEUED)
        self._failures: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._num_dropped = 0
        self._num_refused = 0
        self._exit_code = 0
        self._mode_used: Mode | None = None
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def log(self, number: int, record: Record) -> None:
        try:
            self._queue.put_nowait((number, {name: value for name, value in record.items() if name != "samples"}))
        except queue.Full:
            self._num_dropped += 1

    def take_failures(self) -> list[str]:
        return [self._failures.get() for _ in range(self._failures.qsize())]

    def finish(self, exit_code: int) -> list[str]:
        self._exit_code = exit_code
        timeout_s = STOPPED_TIMEOUT_S if exit_code == EXIT_RESUMABLE else FINISH_TIMEOUT_S
        until_s = time.monotonic() + timeout_s
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=timeout_s)
        self._thread.join(max(0.0, until_s - time.monotonic()))
        failures = self.take_failures()
        if self._num_dropped:
            failures.append(
                f"W&B took too long, {show_count(self._num_dropped, 'record')} dropped; {self._how_to_sync()}"
            )
        if self._num_refused > 1:
            failures.append(f"W&B refused {show_count(self._num_refused, 'record')}; {self._how_to_sync()}")
        if self._thread.is_alive():
            failures.append(f"W&B did not finish in {timeout_s:.0f} s; {self._how_to_sync()}")
        self.mode = self._mode_used or "disabled"
        self._num_dropped = self._num_refused = 0
        return failures

    def _work(self) -> None:
        run = self._start()
        while (numbered := self._queue.get()) is not None:
            if run is None:
                continue
            try:
                run.add(*numbered)
            except BaseException as error:
                self._num_refused += 1
                if self._num_refused == 1:
                    self._failures.put(f"W&B refused a record ({first_line(error)}); it is in the journal")
        if run is None:
            return
        try:
            run.finish(self._exit_code)
        except BaseException as error:
            self._failures.put(f"W&B did not receive everything ({first_line(error)}); {self._how_to_sync()}")
        stop_service()

    def _start(self) -> WandbRun | None:
        """A W&B run, offline when online fails; None when that fails, too."""
        for mode in ("online", "offline") if self.mode == "online" else (self.mode,):
            try:
                run = WandbRun(self._metadata, mode, self._metadata.folder, UPLOAD_TIMEOUT_S)
            except BaseException as error:  # SystemExit, too: nothing that W&B does may reach the training
                rest = f"offline instead; {self._how_to_sync()}" if mode == "online" else "the journal has everything"
                self._failures.put(f"W&B could not start {mode} ({first_line(error)}): {rest}")
                stop_service()  # or the id counts as in use
            else:
                self._mode_used = mode
                return run
        self._mode_used = "disabled"
        return None

    def _how_to_sync(self) -> str:
        return f"send it later: launcher sync {shlex.quote(str(self._metadata.folder))}"


class NullMirror(Mirror):
    """Mirrors nothing."""


def choose_mode(requested: Literal["auto", "online", "offline", "disabled"], environment: Mapping[str, str]) -> Mode:
    """`auto`: WANDB_MODE, else online with credentials, else offline; never a question to the user."""
    if requested != "auto":
        return requested
    mode = environment.get("WANDB_MODE", "")
    if mode in ("online", "offline", "disabled"):
        return mode  # type: ignore[return-value]
    return "online" if has_wandb_credentials(environment) else "offline"
