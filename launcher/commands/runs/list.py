"""`launcher runs`: a table of run folders. Nothing in a folder makes it fail. Needs no torch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launcher.errors import EXIT_DONE, RunError, nearest_path
from launcher.metrics.names import show_metric
from launcher.recipe.lock import LOCK_NAME, flatten, read_lock
from launcher.run.console import Console
from launcher.run.folder import read_summary
from launcher.run.history import (
    CUT_OFF,
    RUNNING,
    History,
    drop_superseded,
    find_best_step,
    find_count,
    find_ending,
    find_number,
    find_status,
    is_run,
    read_curve,
)
from launcher.run.journal import Record, epoch_of, read_ends, read_journal, render_json
from launcher.text import one_line, show_duration

HOME = Path("runs")
DAMAGED = "damaged"
MAX_DEPTH = 4
"""Levels of folders that are searched below the one that is named."""
COLUMNS = ("run", "name", "status", "step", "epoch", "best valid", "images/s", "last record")


@dataclass(frozen=True)
class Overview:
    """None: not known. `age_s`: seconds since the newest record."""

    folder: str
    name: str | None
    status: str
    age_s: float
    problem: str | None = None
    step: int | None = None
    total_steps: int | None = None
    epoch: int | None = None
    num_epochs: int | None = None
    best_metric: str | None = None
    best_value: float | None = None
    best_epoch: int | None = None
    images_per_s: float | None = None


def list_runs(folders: Sequence[Path], as_json: bool) -> int:
    """Print the runs in these folders, the one with the newest record first. Raise RunError for what is no folder."""
    for folder in folders:
        if not folder.is_dir():
            what = "not a folder" if folder.exists() else "no such folder"
            advice = f"give folders that hold runs, or none for {HOME}/{nearest_path(folder)}"
            raise RunError(f"{folder}: {what}; {advice}")
    paths = dict.fromkeys(path for folder in folders or [HOME] for path in find_runs(folder))
    found = sorted(map(read_overview, paths), key=lambda each: each.age_s)
    console = Console()
    if as_json:
        print(render_json([asdict(each) for each in found], indent=1))
    elif found:
        console.columns(COLUMNS, [_row(each) for each in found])
    else:
        console.say(f"{', '.join(map(str, folders or [HOME]))}: no runs; launcher RECIPE starts one")
    return EXIT_DONE


def find_runs(folder: Path, depth: int = MAX_DEPTH) -> Iterator[Path]:
    """The folder itself when it is a run, else the runs below it. No link is followed."""
    if is_run(folder):
        yield folder
        return
    try:
        below = sorted(Path(each) for each in os.scandir(folder) if each.is_dir(follow_symlinks=False))
    except OSError:
        return
    for path in below if depth else ():
        yield from find_runs(path, depth - 1)


def read_overview(folder: Path) -> Overview:
    """From the summary of a run that has ended, else from its whole journal."""
    summary = read_summary(folder)
    try:
        first, last = read_ends(folder)
        status = find_status(folder, last)
        if last and (status in (RUNNING, CUT_OFF) or not summary or find_ending(last) != summary.get("status")):
            last = drop_superseded(read_journal(folder))
            summary = {}
        return _build_overview(History(folder, last, summary, status), first)
    except (RunError, KeyError, TypeError, ValueError, AttributeError) as error:
        return Overview(str(folder), _name(folder, summary), DAMAGED, _age_s(folder, []), problem=one_line(error))


def _build_overview(run: History, first: Record) -> Overview:
    """`run`: with its newest records and its summary, or with all records and {}. `first`: the first record."""
    folder, summary, records = run.folder, run.summary, run.records
    total, per_epoch = (find_count(run.start or first, "plan", key) for key in ("total_steps", "steps_per_epoch"))
    steps = [record["step"] for record in records if record["kind"] == "train"]
    step = find_count(summary, "steps_done") if summary else max(steps, default=None)
    metric, value, best_epoch = _find_best(run, per_epoch)
    rates = read_curve(records, "train", "images_per_s").values()
    rate = find_number(summary, "train", "images_per_s") if summary else next(reversed(rates), None)
    return Overview(
        folder=str(folder),
        name=_name(folder, summary),
        status=run.status,
        age_s=_age_s(folder, records),
        step=step,
        total_steps=total,
        epoch=None if step is None or not per_epoch else epoch_of(step, per_epoch),
        num_epochs=None if total is None or not per_epoch else epoch_of(total, per_epoch),
        best_metric=metric,
        best_value=value,
        best_epoch=best_epoch,
        images_per_s=rate,
    )


def _find_best(run: History, per_epoch: int | None) -> tuple[str | None, float | None, int | None]:
    """Metric, value and epoch of the best validation."""
    if run.summary:
        best = run.summary.get("best")
        if isinstance(best, dict) and best.get("metric") != "step":
            return str(best.get("metric")), find_number(best, "value"), find_count(best, "epoch")
        return None, None, None
    lock = flatten(read_lock(run.folder)) if (run.folder / LOCK_NAME).exists() else {}
    metric = str(lock.get("train.best_metric", "accuracy"))
    step = find_best_step(run.records, metric)
    if step is None or not per_epoch:
        return None, None, None
    return metric, read_curve(run.records, "eval", metric, "valid")[step], epoch_of(step, per_epoch)


def _name(folder: Path, summary: dict[str, Any]) -> str | None:
    name = summary.get("name")
    if not isinstance(name, str):
        try:
            name = flatten(read_lock(folder)).get("run.name")
        except RunError:
            return None
    return name if isinstance(name, str) else None


def _age_s(folder: Path, records: Sequence[Record]) -> float:
    try:
        changed_s = records[-1]["time_s"] if records else folder.stat().st_mtime
    except OSError:
        changed_s = 0.0
    return max(0.0, round(time.time() - changed_s, 1))


def _row(run: Overview) -> list[str]:
    best = "-" if run.best_value is None else show_metric(str(run.best_metric), run.best_value)
    where = f" (epoch {run.best_epoch})" if run.best_value is not None and run.best_epoch else ""
    return [
        run.folder,
        run.name or "-",
        run.status,
        _of(run.step, run.total_steps),
        _of(run.epoch, run.num_epochs),
        f"{best}{where}",
        "-" if run.images_per_s is None else f"{run.images_per_s:,.0f}",
        f"{show_duration(run.age_s)} ago",
    ]


def _of(done: int | None, total: int | None) -> str:
    if done is None:
        return "-"
    return f"{done:,}" if total is None else f"{done:,}/{total:,}"
