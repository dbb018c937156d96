"""W&B mirrors the journal and can never slow, stop or fail the training.

Every call only puts work on a queue; one thread does it. When W&B hangs, the queue fills up, rows are dropped and
counted, and the run ends on time: the journal has everything, and `launcher sync` sends it later.
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
from launcher.text import first_line

MAX_QUEUED = 10_000
UPLOAD_TIMEOUT_S = 45.0  # after the last row
FINISH_TIMEOUT_S = 60.0  # the longest that the end of a run waits, for all of W&B
STOPPED_TIMEOUT_S = 10.0  # and that of one which is asked to stop: its launcher kills it after 30

Numbered = tuple[int, Record]


class Mirror(Protocol):
    mode: Mode

    def log(self, number: int, record: Record) -> None:
        """Line `number` of the journal; what a journal calls for every record."""

    def take_failures(self) -> list[str]:
        """What went wrong since the last call, one line each."""

    def finish(self, exit_code: int) -> list[str]:
        """Close the W&B run, wait for it no longer than is allowed, and return the last failures."""


class WandbMirror:
    """One W&B run. `mode`: requested; after `finish`, the mode actually used."""

    def __init__(self, metadata: RunMetadata, mode: Mode) -> None:
        quiet_wandb()
        self.mode: Mode = mode
        self._metadata = metadata
        self._queue: queue.Queue[Numbered | None] = queue.Queue(MAX_QUEUED)
        self._failures: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._dropped = 0
        self._refused = 0
        self._exit_code = 0
        self._became: Mode | None = None
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def log(self, number: int, record: Record) -> None:
        try:
            self._queue.put_nowait((number, {name: value for name, value in record.items() if name != "samples"}))
        except queue.Full:
            self._dropped += 1

    def take_failures(self) -> list[str]:
        return [self._failures.get() for _ in range(self._failures.qsize())]

    def finish(self, exit_code: int) -> list[str]:
        self._exit_code = exit_code
        timeout_s = STOPPED_TIMEOUT_S if exit_code == EXIT_RESUMABLE else FINISH_TIMEOUT_S
        until = time.monotonic() + timeout_s
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=timeout_s)
        self._thread.join(max(0.0, until - time.monotonic()))
        failures = self.take_failures()
        if self._dropped:
            failures.append(f"{self._dropped} rows were dropped: W&B took too long; {self._how_to_sync()}")
        if self._refused > 1:
            failures.append(f"W&B refused {self._refused} records; {self._how_to_sync()}")
        if self._thread.is_alive():
            failures.append(f"W&B did not end in {timeout_s:.0f} s; {self._how_to_sync()}")
        self.mode = self._became or "disabled"
        self._dropped = self._refused = 0
        return failures

    def _work(self) -> None:
        run = self._start()
        while (numbered := self._queue.get()) is not None:
            if run is None:
                continue
            try:
                run.add(*numbered)
            except BaseException as error:
                self._refused += 1
                if self._refused == 1:
                    self._failures.put(f"W&B refused a record ({first_line(error)}); it is in the journal")
        if run is not None:
            self._end(run)

    def _start(self) -> WandbRun | None:
        """A W&B run; offline where online cannot be had; None where not even that."""
        for mode in ("online", "offline") if self.mode == "online" else (self.mode,):
            try:
                run = WandbRun(self._metadata, mode, self._metadata.folder, UPLOAD_TIMEOUT_S)
            except BaseException as error:  # SystemExit too: nothing that W&B does may reach the training
                rest = f"offline instead, {self._how_to_sync()}" if mode == "online" else "the journal has everything"
                self._failures.put(f"W&B could not start {mode} ({first_line(error)}): {rest}")
                stop_service()  # or the id counts as in use
            else:
                self._became = mode
                return run
        self._became = "disabled"
        return None

    def _end(self, run: WandbRun) -> None:
        try:
            run.finish(self._exit_code)
        except BaseException as error:
            self._failures.put(f"W&B did not take everything ({first_line(error)}); {self._how_to_sync()}")
        stop_service()

    def _how_to_sync(self) -> str:
        return f"send it later: launcher sync {shlex.quote(str(self._metadata.folder))}"


class NullMirror:
    """For `mode: disabled`."""

    mode: Mode = "disabled"

    def log(self, number: int, record: Record) -> None:
        pass

    def take_failures(self) -> list[str]:
        return []

    def finish(self, exit_code: int) -> list[str]:
        return []


def choose_mode(wanted: Literal["auto", "online", "offline", "disabled"], environment: Mapping[str, str]) -> Mode:
    """`auto`: what WANDB_MODE says, else online where credentials are, else offline; never a question to the user."""
    if wanted != "auto":
        return wanted
    asked = environment.get("WANDB_MODE", "")
    if asked in ("online", "offline", "disabled"):
        return asked  # type: ignore[return-value]
    return "online" if has_wandb_credentials(environment) else "offline"
