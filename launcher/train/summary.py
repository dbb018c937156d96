"""`summary.json` and the final table: what became of a run."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from launcher.checkpoint.restore import Progress
from launcher.metrics.counts import Figures
from launcher.run.console import Row
from launcher.run.folder import SUMMARY_NAME
from launcher.run.history import count_worked_s
from launcher.run.journal import read_journal, render_json
from launcher.run.rows import shows_top5
from launcher.train.bottleneck import Verdict
from launcher.train.context import Training
from shards.manifest import write_atomically

Summary = dict[str, Any]


def write_summary(
    t: Training,
    status: str,
    progress: Progress,
    test: Figures | None,
    frozen_sha256: str | None,
    verdict: Verdict | None,
) -> Summary:
    """Write and return it. `valid` is the best validation; `test` was measured with the same weights."""
    best = progress.best
    summary: Summary = {
        "name": t.recipe.run.name,
        "status": status,
        "epochs_done": progress.step // t.plan.steps_per_epoch,
        "steps_done": progress.step,
        "world_size": t.plan.world_size,
        "global_batch": t.plan.global_batch,
        "valid": best.figures if best is not None and best.figures else None,
        "valid_last": progress.last_valid,
        "best": {k: v for k, v in asdict(best).items() if k != "figures"} if best is not None else None,
        "train": {**t.watch.whole(), "steps": progress.step},
        "input": asdict(verdict) if verdict is not None else None,
        "wall_s": round(count_wall_s(t), 2),
        "wandb": {"mode": t.wandb.mode, "id": t.run.id},
        "device": t.strategy.device.type,
        "precision": t.recipe.strategy.precision,
        "frozen_sha256": frozen_sha256,
        "left_out": {split: len(images) for split, images in t.left_out.items() if images},
        "dropped_per_epoch": t.plan.dropped_per_epoch,
        "wrapped_per_epoch": t.plan.wrapped_per_epoch,
    }
    if test is not None:
        summary["test"] = test
    write_atomically(t.run.path / SUMMARY_NAME, f"{render_json(summary, indent=1)}\n".encode())
    return summary


def count_wall_s(t: Training) -> float:
    """Seconds this run has been worked on, over all its resumes: by the journal, without the pauses between."""
    records = read_journal(t.run.path)
    return count_worked_s(records) + (time.time() - records[-1]["time_s"] if records else 0.0)


def summary_rows(summary: Summary, folder: str) -> list[Row]:
    """What a person wants to know first."""
    rows = [
        ("status", str(summary["status"])),
        (
            "epochs",
            f"{summary['epochs_done']} ({summary['steps_done']:,} steps of {summary['global_batch']:,} images)",
        ),
    ]
    if summary["best"] and summary["best"]["metric"] != "step":
        best = summary["best"]
        rows.append(("best epoch", f"{best['epoch']}, by valid {best['metric']} {best['value']:.4f}"))
    for split in ("valid", "test"):
        if figures := summary.get(split):
            rows += figures_rows(split, figures)
    train = summary["train"]
    rows += [
        ("speed", f"{train['images_per_s']:,.0f} images/s"),
        *([("input", summary["input"]["sentence"])] if summary.get("input") else []),
        *([("straggler", straggler)] if (straggler := (summary.get("input") or {}).get("straggler")) else []),
        (
            "time",
            f"{summary['wall_s']:,.1f} s on {summary['world_size']} x {summary['device']}, {summary['precision']} AMP",
        ),
        ("W&B", f"{summary['wandb']['mode']} {summary['wandb']['id']}"),
        ("folder", folder),
    ]
    return rows


def probe_rows(summary: Summary, folder: str) -> list[Row]:
    """The same of a probe."""
    chosen = f"best of {len(summary['tried'])} on valid" if "valid" in summary else "no valid split to choose it by"
    rows = [("status", summary["status"]), ("C", f"{summary['C']:g}, {chosen}")]
    for split in ("train", "valid", "test"):
        if split in summary:
            rows += figures_rows(split, summary[split])
    num_computed = sum(summary["num_computed"].values())
    return [
        *rows,
        ("features", f"{summary['num_features']:,} an image, {num_computed:,} images computed"),
        ("time", f"features {summary['features_s']:,.1f} s, fits {summary['fit_s']:,.1f} s"),
        ("folder", folder),
    ]


def figures_rows(split: str, figures: Figures) -> list[Row]:
    """What a split came to, and its worst classes."""
    top5 = f"top-5 {figures['top5_frac']:.2%}  " if shows_top5(figures) else ""
    words = f"top-1 {figures['top1_frac']:.2%}  {top5}loss {figures['loss']:.4f}"
    return [(split, f"{words}  ({figures['num_images']:,} images)"), *_worst_classes(split, figures)]


def _worst_classes(split: str, figures: Figures) -> list[Row]:
    known = [(f["top1_frac"], name) for name, f in figures["per_class"].items() if f["top1_frac"] is not None]
    worst = ", ".join(f"{name} {accuracy:.1%}" for accuracy, name in sorted(known)[:3])
    return [(f"{split}, worst classes", worst)] if len(known) > 1 else []
