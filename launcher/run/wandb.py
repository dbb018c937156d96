"""Weights & Biases: a W&B run is started, filled from journal records and finished. The only importer of wandb.

Everything here may block, raise or end in SystemExit; `mirror` keeps that away from a training.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launcher.errors import EXIT_RESUMABLE
from launcher.recipe.fields import with_values
from launcher.recipe.lock import LOCK_NAME
from launcher.recipe.schema import Wandb
from launcher.run.journal import JOURNAL_NAME, Record
from launcher.run.rows import confusion_rows, row_of, summary_of

Mode = Literal["online", "offline", "disabled"]

INIT_TIMEOUT_S = 30.0
API_TIMEOUT_S = 30
STOP_TIMEOUT_S = 5.0

EVALUATIONS = ("evaluations/*/figures.json", "evaluations/*/predictions.npz", "evaluations/*/mistakes.png")
KEPT = (LOCK_NAME, JOURNAL_NAME, "summary.json", *EVALUATIONS)
"""Files of a run folder that W&B stores beside its rows: all that `launcher compare` reads."""
KEEP_EVERY_S = 600.0
"""Shortest time between two uploads of these files during a run; each upload follows an evaluation."""

ENVIRONMENT = {
    "WANDB_ERROR_REPORTING": "false",  # otherwise a DNS look-up goes out even when offline
    "WANDB_SILENT": "true",  # nothing on the console, and so no question either
    "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "1",  # otherwise a killed run loses its last 15 s
}


@dataclass(frozen=True)
class KeptRun:
    """A run in W&B. `path`: entity/project/id. `folder`: where its files were downloaded to. `state`: W&B's word."""

    path: str
    folder: Path
    state: str


@dataclass(frozen=True)
class RunMetadata:
    """Names and describes a run to W&B. `id`: the same through every resume. `folder`: the run folder.

    `config`: the recipe as plain data.
    """

    id: str
    folder: Path
    section: Wandb
    config: Mapping[str, Any]


def metadata_of(config: Mapping[str, Any], folder: Path, run_id: str) -> RunMetadata:
    """`config`: the recipe as plain data. Raise KeyError, TypeError or ValueError when it is something else."""
    section = Wandb.model_validate_json(json.dumps(config["log"]["wandb"]))
    if section.group is None:
        section = with_values(section, {"group": config["run"]["name"]})
    return RunMetadata(run_id, folder, section, config)


class WandbRun:
    """A W&B run, new or resumed. Every method may raise whatever W&B raises.

    `local`: folder of W&B's own files. `upload_timeout_s`: the longest that `finish` waits for the last rows.
    `measure`: whether W&B logs the load of this machine, too.
    """

    def __init__(
        self, metadata: RunMetadata, mode: Mode, local: Path, upload_timeout_s: float, *, measure: bool = True
    ) -> None:
        import wandb

        section = metadata.section
        self._metadata = metadata
        self._evaluations: dict[str, Record] = {}
        self._kept_s = time.monotonic()
        self._run = wandb.init(
            mode=mode,
            project=section.project,
            entity=section.entity,
            group=section.group,
            job_type=section.job_type,
            tags=list(section.tags),
            name=metadata.folder.name,
            id=metadata.id,
            resume="allow",
            reinit="create_new",
            dir=str(local),
            config=dict(metadata.config),
            allow_val_change=True,
            settings=wandb.Settings(
                console="off",
                init_timeout=INIT_TIMEOUT_S,
                finish_timeout=upload_timeout_s,
                finish_timeout_raises=True,
                x_disable_stats=not measure,
                x_disable_meta=not measure,
                x_disable_machine_info=not measure,
            ),
        )
        for axis in ("record", "step", "epoch"):
            self._run.define_metric(axis, hidden=True)
        for prefix in ("train", "valid", "test"):
            self._run.define_metric(f"{prefix}/*", step_metric="step")
        for prefix in ("checkpoint", "event"):
            self._run.define_metric(f"{prefix}/*", step_metric="step", hidden=True, summary="none")
        self._next_row = int(self._run.starting_step)  # `step` is 0 in a resumed run, too

    @property
    def url(self) -> str:
        return str(self._run.url)

    def find_records(self) -> set[int]:
        """Numbers of the journal records that have a row on the server."""
        import wandb

        if not self._run.starting_step:
            return set()
        found = wandb.Api(timeout=API_TIMEOUT_S).run(self._run.path)
        return {int(row["record"]) for row in found.scan_history(keys=["record"], use_cache=False)}

    def add(self, number: int, record: Record, is_there: bool = False) -> None:
        """Send line `number` of the journal, unless `is_there`; then only remember what later records need of it.

        W&B holds a row in memory until the next step, loses it when the process is killed, and drops every row of a
        step that it has passed, as all are for a while after a resume. So a row has a number of its own, the record's
        or else the next that is free, is sent at once, and has `step` as its axis.
        """
        row = row_of(number, record)
        if record["kind"] == "eval":
            self._evaluations[record["split"]] = {name: record[name] for name in record if name != "samples"}
        if record["kind"] == "event" and record["name"] == "picture":
            row |= self._picture(str(record["picture"]))
        if record["kind"] == "event" and record["name"] == "confusion":
            evaluation = self._evaluations[record["split"]]
            row |= self._tables(evaluation, record["rows"])
            self._run.summary.update(summary_of(evaluation))
        if not is_there:
            self._next_row = max(self._next_row, number)
            self._run.log(row, step=self._next_row, commit=True)
            self._next_row += 1
        if record["kind"] == "eval" and time.monotonic() - self._kept_s > KEEP_EVERY_S:
            self._keep_files()

    def finish(self, exit_code: int) -> None:
        """Send the last rows and files, and end the W&B run."""
        self._keep_files()
        if exit_code == EXIT_RESUMABLE:
            self._run.mark_preempting()
        self._run.finish(exit_code=exit_code)

    def _keep_files(self) -> None:
        """Upload the files as they are now; W&B sends only those that have changed."""
        self._kept_s = time.monotonic()
        folder = self._metadata.folder.resolve()
        for file in (file for pattern in KEPT for file in sorted(folder.glob(pattern))):
            if file.resolve() == file:  # a link may lead to somebody else's file
                self._run.save(glob.escape(str(file)), base_path=str(folder), policy="now")

    def _picture(self, name: str) -> dict[str, Any]:
        import wandb

        path = self._metadata.folder / "pictures" / f"{Path(name).name}.png"  # the journal may be somebody else's
        return {name: wandb.Image(str(path))} if path.is_file() and not path.is_symlink() else {}

    def _tables(self, evaluation: Record, confusion_KK: list[list[int]]) -> dict[str, Any]:
        """Per-class table and confusion matrix."""
        import wandb

        split = evaluation["split"]
        columns: list[str | int] = ["class", "recall", "support"]
        per_class = [[name, each["recall"], each["support"]] for name, each in evaluation["per_class"].items()]
        tables: dict[str, Any] = {f"{split}/per_class": wandb.Table(columns, data=per_class)}
        if confusion_KK:
            cells = confusion_rows(evaluation, confusion_KK)
            table = wandb.Table(["Actual", "Predicted", "nPredictions"], data=cells)
            fields: dict[str, Any] = {str(name): name for name in table.columns}
            tables[f"{split}/confusion"] = wandb.plot_table("wandb/confusion_matrix/v1", table, fields)
        return tables


def fetch_runs(name: str, store: Path) -> list[KeptRun]:
    """Download the run `entity/project/id`, or those of `entity/project/group:NAME`, oldest first, into `store`.

    `group:NAME` alone: of the user's own entity and WANDB_PROJECT. May raise whatever W&B raises.
    """
    import wandb

    os.environ["WANDB_DIR"] = str(store)  # or W&B leaves an empty folder of each run in /tmp
    api = wandb.Api(timeout=API_TIMEOUT_S)
    project, is_group, group = name.partition("group:")
    if not is_group:
        return [_fetch(api.run(name), store)]
    project = project.rstrip("/") or os.environ.get("WANDB_PROJECT") or Wandb().project
    return [_fetch(run, store) for run in api.runs(project, filters={"group": group}, order="+created_at")]


def _fetch(run: Any, store: Path) -> KeptRun:
    path = "/".join(run.path)
    folder = store / path
    folder.mkdir(parents=True, exist_ok=True)
    for file in run.files():
        if any(fnmatch.fnmatchcase(file.name, pattern) for pattern in KEPT):
            file.download(root=str(folder), replace=True).close()
    return KeptRun(path, folder, str(run.state))


def quiet_wandb() -> None:
    """Set W&B's environment variables. Call it before wandb is first imported."""
    os.environ.update(ENVIRONMENT)


def stop_service() -> None:
    """End W&B's own process, which otherwise lives as long as ours, without waiting long for one that hangs."""
    thread = threading.Thread(target=_teardown, name="wandb end", daemon=True)
    thread.start()
    thread.join(STOP_TIMEOUT_S)


def _teardown() -> None:
    with contextlib.suppress(BaseException):
        import wandb

        wandb.teardown()
