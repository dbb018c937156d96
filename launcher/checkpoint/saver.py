"""Saves beside the training: it waits for a copy between two steps; one thread then writes, one save at a time.

A failed save is reported and the previous checkpoint stays valid: training continues until `checkpoint.patience` saves
in a row have failed. The best is only ever a step whose checkpoint is on disk.

Not by `torch.distributed.checkpoint`: safetensors files with a manifest of hashes are what users and tools read.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.checkpoint.snapshot import HostMemory, Snapshot, take_snapshot, write_snapshot
from launcher.checkpoint.state import Best, Progress, TrainState, step_name
from launcher.distributed.strategy import get_rng_state
from launcher.errors import RunError
from launcher.recipe.schema import Checkpoint
from launcher.run.run_log import RunLog
from launcher.text import one_line

LONG_WAIT_S = 1.0
"""Wait of the training for the previous save from which it is reported."""


@dataclass(frozen=True, slots=True)
class Writing:
    """A save in flight."""

    progress: Progress
    blocked_s: float
    """Seconds that the training waited for the copy."""
    write_s: Future[float]
    """Seconds of writing; OSError when it failed."""


class Saver:
    """Saves one training into `folder`. Every rank calls `save` and `wait`; rank 0 writes."""

    def __init__(self, folder: Path, section: Checkpoint, state: TrainState, log: RunLog) -> None:
        self._folder = folder
        self._section = section
        self._state = state
        self._log = log
        self._memory = HostMemory()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._pending: Progress | None = None
        """The save whose outcome `wait` has not shared yet. The same on every rank, as is `_best`."""
        self._best: Best | None = None
        """The newest best whose checkpoint is on disk."""
        self._writing: Writing | None = None
        """The save whose outcome is not logged yet. On rank 0 only, as are the next two."""
        self._reason: str | None = None
        """Why the newest save failed; None: it succeeded."""
        self._failed_in_a_row = 0

    def save(self, progress: Progress) -> None:
        """Copy the state of the training and begin to write it. Call `wait` first."""
        assert self._pending is None, "call wait before the next save"
        self._pending = progress
        start_s, strategy = time.monotonic(), self._state.strategy
        strategy.comm.beacon.enter("save")
        rngs = strategy.comm.all_gather_object(get_rng_state(strategy.device))
        if strategy.world.is_first:
            snapshot = take_snapshot(self._state, progress, rngs, self._memory)
            write_s = self._thread.submit(self._write, snapshot)
            self._writing = Writing(progress, time.monotonic() - start_s, write_s)

    def wait(self, progress: Progress, is_last: bool = False) -> Progress:
        """Wait for the save in flight. Return `progress`, with the previous best when the new one could not be saved.

        A collective, to be called before the next validation and the next save: the best is only ever on disk.
        Raise RunError when too many saves in a row have failed; with `is_last`, when this one has.
        """
        comm = self._state.strategy.comm
        comm.beacon.enter("save")
        pending, self._pending = self._pending, None
        if pending is not None:
            is_saved = comm.run_on_rank0(lambda: self._await_writing(pending, progress.step, is_last))
            if not is_saved and progress.best == pending.best:
                progress = replace(progress, best=self._best)
        self._best = progress.best
        return progress

    def log_finished(self, step: int) -> None:
        """Log the save in flight if it has ended. `step`: steps done."""
        if self._writing is not None and self._writing.write_s.done():
            self._log_outcome(self._writing, step)

    def close(self) -> None:
        """Wait for a save in flight, and log it."""
        self._thread.shutdown()
        if self._writing is not None:
            self._log_outcome(self._writing, self._writing.progress.step)

    def _write(self, snapshot: Snapshot) -> float:
        start_s = time.monotonic()
        write_snapshot(self._folder, snapshot, self._section.keep)
        return time.monotonic() - start_s

    def _await_writing(self, pending: Progress, step: int, is_last: bool) -> bool:
        """Rank 0's part of `wait`: whether `pending` was saved."""
        start_s, name = time.monotonic(), step_name(pending.step)
        if self._writing is not None:
            self._log_outcome(self._writing, step)
        waited_s = time.monotonic() - start_s
        if waited_s >= LONG_WAIT_S and not is_last:
            message = f"training waited {waited_s:.1f} s for {name} to be written"
            self._log.event(step, "save_waited", message, show=True)
        if self._reason is not None and (is_last or self._failed_in_a_row >= self._section.patience):
            which = "the last save" if is_last else f"failure {self._failed_in_a_row} in a row"
            problem = f"{self._folder / name}: cannot be written ({self._reason}), {which}"
            raise RunError(f"{problem}; fix that, and the same command resumes from {self._resume_point()}")
        return self._reason is None

    def _log_outcome(self, writing: Writing, step: int) -> None:
        """Wait for the thread, and log whether the save succeeded."""
        self._writing = None  # first: an error that is raised here is not raised by `close` again
        saved, name = writing.progress, step_name(writing.progress.step)
        try:
            write_s = writing.write_s.result()
        except OSError as error:
            self._reason = one_line(error)
            self._failed_in_a_row += 1
            failures = f"failure {self._failed_in_a_row} in a row, {self._section.patience} end the run"
            problem = f"{name} could not be saved ({self._reason}): {failures}"
            message = f"{problem}; a resume starts from {self._resume_point()}"
            self._log.event(step, "checkpoint_failed", message, show=True, failed_in_a_row=self._failed_in_a_row)
        else:
            self._reason, self._failed_in_a_row = None, 0
            times = {"blocked_s": round(writing.blocked_s, 4), "write_s": round(write_s, 3)}
            self._log.checkpoint(step, name=name, is_best=saved.is_best, **times)

    def _resume_point(self) -> str:
        last = self._folder / "last"
        return last.readlink().name if last.is_symlink() else "the beginning"
