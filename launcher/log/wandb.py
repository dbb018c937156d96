"""Weights & Biases mirrors the journal and can never slow, stop or fail the training. The only importer of wandb.

Every call only puts work on a queue; one thread does it. When W&B hangs, the queue fills up, rows are dropped and
counted, and the run ends on time: the journal has everything.
"""

from __future__ import annotations

import netrc
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from launcher.metrics import Figures
from launcher.recipe.schema import Wandb

Mode = Literal["online", "offline", "disabled"]

MAX_QUEUED = 10_000
INIT_TIMEOUT_S = 30
FINISH_TIMEOUT_S = 60

ENVIRONMENT = {
    "WANDB_ERROR_REPORTING": "false",  # otherwise a name look-up goes out even when offline
    "WANDB_SILENT": "true",
    "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "1",  # otherwise a killed run loses its last 15 s
}


class WandbMirror:
    """One W&B run. `mode` is what became of the recipe's mode; `id` names the run through every resume."""

    def __init__(
        self, section: Wandb, mode: Mode, folder: Path, run_id: str, name: str, config: Mapping[str, Any]
    ) -> None:
        self.mode: Mode = mode
        self.id = run_id
        self._section = section
        self._folder = folder
        self._name = name
        self._config = dict(config)
        self._queue: queue.Queue[Callable[[Any], None] | None] = queue.Queue(MAX_QUEUED)
        self._failures: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._dropped = 0
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def log(self, step: int, epoch: int, prefix: str, figures: Mapping[str, Any]) -> None:
        """Scalars of one record, as `prefix/name`, on the axes `step` and `epoch`."""
        row = {f"{prefix}/{key}": value for key, value in figures.items() if isinstance(value, int | float)}
        self._put(lambda run: run.log({**row, "step": step, "epoch": epoch}, step=step))

    def log_picture(self, step: int, name: str, path: Path) -> None:
        def work(run: Any) -> None:
            import wandb

            run.log({name: wandb.Image(str(path)), "step": step}, step=step)

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
                cells = [
                    [a, p, n]
                    for a, row in zip(classes, confusion, strict=True)
                    for p, n in zip(classes, row, strict=True)
                ]
                table = wandb.Table(["Actual", "Predicted", "nPredictions"], data=cells)
                fields: dict[str, Any] = {str(name): name for name in table.columns}
                tables[f"{split}/confusion"] = wandb.plot_table("wandb/confusion_matrix/v1", table, fields)
            run.log({**tables, "step": step}, step=step)
            run.summary.update({f"{split}_{k}": v for k, v in figures.items() if isinstance(v, int | float)})

        self._put(work)

    def take_failures(self) -> list[str]:
        """What went wrong since the last call, one line each."""
        failures = []
        while not self._failures.empty():
            failures.append(self._failures.get())
        return failures

    def finish(self, exit_code: int) -> list[str]:
        """Close the W&B run, wait for it at most FINISH_TIMEOUT_S, and return the last failures."""
        self._put(lambda run: run.finish(exit_code=exit_code))
        self._put(None)
        self._thread.join(FINISH_TIMEOUT_S)
        failures = self.take_failures()
        if self._dropped:
            failures.append(f"{self._dropped} rows were dropped: W&B took too long; the journal has them")
        if self._thread.is_alive():
            failures.append(
                f"W&B did not end in {FINISH_TIMEOUT_S} s; send the rest: wandb sync {self._folder / 'wandb'}/*run-*"
            )
        return failures

    def _put(self, work: Callable[[Any], None] | None) -> None:
        try:
            self._queue.put_nowait(work)
        except queue.Full:
            self._dropped += 1

    def _work(self) -> None:
        try:
            run = self._init()
        except Exception as error:  # whatever W&B raises must not reach the training
            self._failures.put(f"W&B could not start ({_first_line(error)}); this run is in the journal only")
            self.mode = "disabled"
            run = None
        while (work := self._queue.get()) is not None:
            if run is None:
                continue
            try:
                work(run)
            except Exception as error:
                self._failures.put(f"W&B refused a record ({_first_line(error)}); it is in the journal")

    def _init(self) -> Any:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import wandb

        section = self._section
        run = wandb.init(
            mode=self.mode,
            project=section.project,
            entity=section.entity,
            group=section.group,
            job_type=section.job_type,
            tags=list(section.tags),
            name=self._name,
            id=self.id,
            resume="allow",
            dir=str(self._folder),
            config=self._config,
            allow_val_change=True,
            settings=wandb.Settings(console="off", init_timeout=INIT_TIMEOUT_S, finish_timeout=FINISH_TIMEOUT_S),
        )
        for axis in ("step", "epoch"):
            run.define_metric(axis, hidden=True)
        for prefix in ("train", "valid", "test"):
            run.define_metric(f"{prefix}/*", step_metric="step")
        return run


class NoWandb(WandbMirror):
    """For `mode: disabled`, and for every rank but the first."""

    def __init__(self, run_id: str = "") -> None:
        self.mode = "disabled"
        self.id = run_id

    def _put(self, work: Callable[[Any], None] | None) -> None:
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
    return "online" if _has_credentials(environment) else "offline"


def _has_credentials(environment: Mapping[str, str]) -> bool:
    if environment.get("WANDB_API_KEY"):
        return True
    host = urlsplit(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = Path(environment.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(str(path)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
