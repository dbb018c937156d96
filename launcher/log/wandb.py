"""Weights & Biases mirrors the journal and can never slow, stop or fail the training. The only importer of wandb.

Every call only puts work on a queue; one thread does it. When W&B hangs, the queue fills up, rows are dropped and
counted, and the run ends on time: the journal has everything.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from launcher.errors import EXIT_RESUMABLE
from launcher.log.credentials import has_wandb_credentials
from launcher.log.journal import read_journal
from launcher.recipe.schema import Wandb

if TYPE_CHECKING:
    from launcher.metrics import Figures

Mode = Literal["online", "offline", "disabled"]

MAX_QUEUED = 10_000
INIT_TIMEOUT_S = 30.0
UPLOAD_TIMEOUT_S = 45.0  # after the last row
FINISH_TIMEOUT_S = 60.0  # the longest that the end of a run waits, for all of W&B
MAX_CELLS = 10_000  # rows that W&B keeps of a table

ENVIRONMENT = {
    "WANDB_ERROR_REPORTING": "false",  # otherwise a name look-up goes out even when offline
    "WANDB_SILENT": "true",  # nothing on the console, and with that no question either
    "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "1",  # otherwise a killed run loses its last 15 s
}


class WandbMirror:
    """One W&B run. `mode`: as wanted, after `finish` what became of it; `id` names the run through every resume."""

    def __init__(
        self, section: Wandb, mode: Mode, folder: Path, run_id: str, name: str, config: Mapping[str, Any]
    ) -> None:
        os.environ.update(ENVIRONMENT)
        self.mode: Mode = mode
        self.id = run_id
        self._section = section
        self._folder = folder
        self._name = name
        self._config = dict(config)
        self._queue: queue.Queue[Callable[[Any], None] | None] = queue.Queue(MAX_QUEUED)
        self._failures: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._dropped = 0
        self._refused = 0
        self._exit_code = 0
        self._next_row = 0
        self._became: Mode | None = None
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def log(self, step: int, epoch: int, prefix: str, figures: Mapping[str, Any]) -> None:
        """Scalars of one record, as `prefix/name`, on the axes `step` and `epoch`."""
        row = {f"{prefix}/{key}": value for key, value in figures.items() if isinstance(value, int | float)}
        self._put(lambda run: self._add_row(run, {**row, "step": step, "epoch": epoch}))

    def log_picture(self, step: int, name: str, path: Path) -> None:
        def work(run: Any) -> None:
            import wandb

            self._add_row(run, {name: wandb.Image(str(path)), "step": step})

        self._put(work)

    def log_evaluation(
        self, step: int, split: str, figures: Figures, classes: Sequence[str], confusion: list[list[int]]
    ) -> None:
        """Per-class table and confusion matrix of the final evaluation, and its figures as the run's summary."""

        def work(run: Any) -> None:
            import wandb

            rows = [[name, f["top1_frac"], f["num_images"]] for name, f in figures["per_class"].items()]
            tables: dict[str, Any] = {
                f"{split}/per_class": wandb.Table(["class", "top1_frac", "num_images"], data=rows)
            }
            if confusion:
                table = wandb.Table(["Actual", "Predicted", "nPredictions"], data=_cells(classes, confusion))
                fields: dict[str, Any] = {str(name): name for name in table.columns}
                tables[f"{split}/confusion"] = wandb.plot_table("wandb/confusion_matrix/v1", table, fields)
            self._add_row(run, {**tables, "step": step})
            run.summary.update({f"{split}_{k}": v for k, v in figures.items() if isinstance(v, int | float)})

        self._put(work)

    def take_failures(self) -> list[str]:
        """What went wrong since the last call, one line each."""
        return [self._failures.get() for _ in range(self._failures.qsize())]

    def finish(self, exit_code: int) -> list[str]:
        """Close the W&B run, wait for it at most FINISH_TIMEOUT_S, and return the last failures."""
        self._exit_code = exit_code
        until = time.monotonic() + FINISH_TIMEOUT_S
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=FINISH_TIMEOUT_S)
        self._thread.join(max(0.0, until - time.monotonic()))
        failures = self.take_failures()
        if self._dropped:
            failures.append(f"{self._dropped} rows were dropped: W&B took too long; the journal has them")
        if self._refused > 1:
            failures.append(f"W&B refused {self._refused} records; the journal has them")
        if self._thread.is_alive():
            failures.append(f"W&B did not end in {FINISH_TIMEOUT_S:.0f} s; {self._how_to_sync()}")
        self.mode = self._became or "disabled"
        self._dropped = self._refused = 0
        return failures

    def _put(self, work: Callable[[Any], None]) -> None:
        try:
            self._queue.put_nowait(work)
        except queue.Full:
            self._dropped += 1

    def _work(self) -> None:
        run = self._start()
        while (work := self._queue.get()) is not None:
            if run is None:
                continue
            try:
                work(run)
            except BaseException as error:
                self._refused += 1
                if self._refused == 1:
                    self._failures.put(f"W&B refused a record ({_first_line(error)}); it is in the journal")
        if run is not None:
            self._end(run)

    def _start(self) -> Any:
        """A W&B run; offline where online cannot be had; None where not even that."""
        for mode in ("online", "offline") if self.mode == "online" else (self.mode,):
            try:
                run = self._init(mode)
            except BaseException as error:  # SystemExit too: nothing that W&B does may reach the training
                rest = f"offline instead, {self._how_to_sync()}" if mode == "online" else "the journal has everything"
                self._failures.put(f"W&B could not start {mode} ({_first_line(error)}): {rest}")
                self._stop_service()  # or the id counts as in use
            else:
                self._became = mode
                return run
        self._became = "disabled"
        return None

    def _end(self, run: Any) -> None:
        try:
            if self._exit_code == EXIT_RESUMABLE:
                run.mark_preempting()
            run.finish(exit_code=self._exit_code)
        except BaseException as error:
            self._failures.put(f"W&B did not take everything ({_first_line(error)}); {self._how_to_sync()}")
        self._stop_service()

    def _stop_service(self) -> None:
        """End W&B's own process, which else stays until the training's ends."""
        with contextlib.suppress(BaseException):
            import wandb

            wandb.teardown()

    def _init(self, mode: Mode) -> Any:
        import wandb

        section = self._section
        run = wandb.init(
            mode=mode,
            project=section.project,
            entity=section.entity,
            group=section.group,
            job_type=section.job_type,
            tags=list(section.tags),
            name=self._name,
            id=self.id,
            resume="allow",
            reinit="create_new",
            dir=str(self._folder),
            config=self._config,
            allow_val_change=True,
            settings=wandb.Settings(
                console="off", init_timeout=INIT_TIMEOUT_S, finish_timeout=UPLOAD_TIMEOUT_S, finish_timeout_raises=True
            ),
        )
        for axis in ("step", "epoch"):
            run.define_metric(axis, hidden=True)
        for prefix in ("train", "valid", "test"):
            run.define_metric(f"{prefix}/*", step_metric="step")
        self._next_row = max(run.step, len(read_journal(self._folder)))
        return run

    def _add_row(self, run: Any, row: dict[str, Any]) -> None:
        """Rows are numbered, not named by their step.

        W&B keeps a row in memory until the next step, loses it when the process is killed, and drops every row of a
        step that it has passed, which all are for a while after a resume. A row with a number of its own is kept at
        once and for good; its axis is `step`. A resumed run counts on from the journal, which has at least as many
        records as W&B has rows.
        """
        run.log(row, step=self._next_row, commit=True)
        self._next_row += 1

    def _how_to_sync(self) -> str:
        return f"send it later: wandb sync --include-online {self._folder / 'wandb'}/*run-*"


class NoWandb(WandbMirror):
    """For `mode: disabled`, and for every rank but the first."""

    def __init__(self, run_id: str = "") -> None:
        self.mode = "disabled"
        self.id = run_id

    def _put(self, work: Callable[[Any], None]) -> None:
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


def _cells(classes: Sequence[str], confusion: list[list[int]]) -> list[tuple[str, str, int]]:
    """Actual class, predicted class, images; of many classes the fullest MAX_CELLS."""
    cells = [
        (actual, predicted, num)
        for actual, row in zip(classes, confusion, strict=True)
        for predicted, num in zip(classes, row, strict=True)
    ]
    return cells if len(cells) <= MAX_CELLS else sorted(cells, key=lambda cell: -cell[2])[:MAX_CELLS]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
