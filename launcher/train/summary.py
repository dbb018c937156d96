"""`summary.json` and the final table: how a run ended, and how well."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from launcher.checkpoint.state import Progress
from launcher.metrics.names import Metrics, show_metric, show_metrics
from launcher.run.console import Row
from launcher.run.folder import SUMMARY_NAME
from launcher.run.history import count_worked_s
from launcher.run.journal import read_journal, render_json
from launcher.train.bottleneck import InputReport
from launcher.train.inputs import Inputs
from launcher.train.job import Job
from shards.files import write_atomically

Summary = dict[str, Any]


def build_summary(
    job: Job,
    inputs: Inputs,
    progress: Progress,
    status: str,
    wandb_mode: str,
    test: Metrics | None = None,
    frozen_sha256: str | None = None,
    report: InputReport | None = None,
) -> Summary:
    """`valid` is the best validation; `test` was measured with the same weights."""
    best, records = progress.best, read_journal(job.run.path)
    # Over all resumes, without the pauses between.
    wall_s = count_worked_s(records) + (time.time() - records[-1]["time_s"] if records else 0.0)
    summary: Summary = {
        "name": job.recipe.run.name,
        "status": status,
        "epochs_done": progress.step // job.plan.steps_per_epoch,
        "steps_done": progress.step,
        "world_size": job.plan.world_size,
        "global_batch": job.plan.global_batch,
        "valid": best.metrics if best is not None and best.metrics else None,
        "valid_last": progress.last_valid,
        "best": {k: v for k, v in asdict(best).items() if k != "metrics"} if best is not None else None,
        "train": {**inputs.timer.totals(), "steps": progress.step},
        "input": asdict(report) if report is not None else None,
        "wall_s": round(wall_s, 2),
        "wandb": {"mode": wandb_mode, "id": job.run.id},
        "device": job.strategy.device.type,
        "precision": job.recipe.strategy.precision,
        "frozen_sha256": frozen_sha256,
        "skipped_samples": inputs.skipped.counts(),
        "dropped_per_epoch": job.plan.dropped_per_epoch,
        "wrapped_per_epoch": job.plan.wrapped_per_epoch,
    }
    return summary if test is None else {**summary, "test": test}


def write_summary(job: Job, summary: Summary) -> None:
    write_atomically(job.run.path / SUMMARY_NAME, f"{render_json(summary, indent=1)}\n".encode())


def summary_rows(summary: Summary, folder: str) -> list[Row]:
    """The final table: what a person wants to know first."""
    rows = [
        ("status", str(summary["status"])),
        ("epochs", f"{summary['epochs_done']} ({summary['steps_done']:,} steps of {summary['global_batch']:,} images)"),
    ]
    best = summary["best"]
    if best and best["metric"] != "step":
        rows.append(("best epoch", f"{best['epoch']}, by valid {show_metric(best['metric'], best['value'])}"))
    for split in ("valid", "test"):
        if metrics := summary.get(split):
            rows += metrics_rows(split, metrics)
    rows.append(("speed", f"{summary['train']['images_per_s']:,.0f} images/s"))
    if report := summary.get("input"):
        rows.append(("input", report["sentence"]))
        if report.get("straggler"):
            rows.append(("straggler", report["straggler"]))
    machine = f"{summary['world_size']} x {summary['device']}, {summary['precision']} AMP"
    rows.append(("time", f"{summary['wall_s']:,.1f} s on {machine}"))
    rows.append(("W&B", f"{summary['wandb']['mode']} {summary['wandb']['id']}"))
    rows.append(("folder", folder))
    return rows


def metrics_rows(split: str, metrics: Metrics) -> list[Row]:
    """The metrics of a split, and its worst classes."""
    rows = [(split, f"{show_metrics(metrics)}  ({metrics['num_images']:,} images)")]
    known = [(each["recall"], name) for name, each in metrics["per_class"].items() if each["recall"] is not None]
    if len(known) > 1:
        worst = ", ".join(f"{name} {recall:.1%}" for recall, name in sorted(known)[:3])
        rows.append((f"{split}, worst classes", worst))
    return rows
