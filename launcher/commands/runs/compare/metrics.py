"""The measures that runs are compared by, from their summaries, or from the journals of unfinished runs."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Any

from launcher.metrics.names import shows_top5
from launcher.run.history import History, count_worked_s, find_best_step, find_count, find_number, read_curve
from launcher.run.journal import Record, epoch_of

NONE = "-"
"""Shown in place of a value that is not known."""


@dataclass(frozen=True)
class Measure:
    """`is_fraction`: shown as a percentage. `is_tested`: whether groups are tested for a difference in it."""

    name: str
    is_fraction: bool = False
    is_tested: bool = False
    digits: int = 4

    def show(self, value: float | None) -> str:
        if value is None:
            return NONE
        return f"{100 * value:.2f}%" if self.is_fraction else f"{value:,.{self.digits}f}"

    def show_difference(self, value: float) -> str:
        return f"{100 * value:+.2f} points" if self.is_fraction else f"{value:+,.{self.digits}f}"


MEASURES = (
    Measure("test accuracy", is_fraction=True, is_tested=True),
    Measure("test top-5 accuracy", is_fraction=True),
    Measure("test loss", is_tested=True),
    Measure("best valid accuracy", is_fraction=True, is_tested=True),
    Measure("best valid loss", is_tested=True),
    Measure("best epoch", digits=1),
    Measure("last valid accuracy", is_fraction=True),
    Measure("last valid loss"),
    Measure("last train loss"),
    Measure("time, s", digits=1),
    Measure("images/s", digits=1),
)


def find_evaluation(history: History, split: str = "test") -> Record:
    """The newest evaluation of a split, which for a finished run is of the best weights; {} without one."""
    evaluations = (r for r in reversed(history.records) if r["kind"] == "eval" and r.get("split") == split)
    return next(evaluations, {})


def read_recalls(history: History) -> dict[str, float]:
    """Recall of each class on the test split; without classes that have no images there."""
    classes = _read_test(history).get("per_class")
    found = classes.items() if isinstance(classes, dict) else ()
    recalls = {str(name): find_number(each, "recall") for name, each in found}
    return {name: recall for name, recall in recalls.items() if recall is not None}


def read_measures(history: History, best_metric: str) -> dict[str, float]:
    """Name of a measure -> value, for those that the run has. The best epoch of an unfinished run is the best so far.

    The speed is that of the process that ended the run; for an unfinished run it is the mean of the records.
    """
    summary, records, test = history.summary, history.records, _read_test(history)
    losses, accuracies = (read_curve(records, "eval", name, "valid") for name in ("loss", "accuracy"))
    train_losses, speeds = (read_curve(records, "train", name).values() for name in ("loss", "images_per_s"))
    best_step = find_best_step(records, best_metric) or 0
    found = {
        "test accuracy": find_number(test, "accuracy"),
        "test top-5 accuracy": find_number(test, "top5_accuracy") if shows_top5(test) else None,
        "test loss": find_number(test, "loss"),
        "best valid accuracy": _first(find_number(summary, "valid", "accuracy"), accuracies.get(best_step)),
        "best valid loss": _first(find_number(summary, "valid", "loss"), losses.get(best_step)),
        "best epoch": _find_best_epoch(history, best_step),
        "last valid accuracy": _first(*reversed(accuracies.values())),
        "last valid loss": _first(*reversed(losses.values())),
        "last train loss": _first(*reversed(train_losses)),
        "time, s": _first(find_number(summary, "wall_s"), count_worked_s(records)),
        "images/s": _first(find_number(summary, "train", "images_per_s"), fmean(speeds) if speeds else None),
    }
    return {name: value for name, value in found.items() if value is not None}


def _read_test(history: History) -> dict[str, Any]:
    test = history.summary.get("test")
    return find_evaluation(history) | (test if isinstance(test, dict) else {})


def _find_best_epoch(history: History, best_step: int) -> float | None:
    best = history.summary.get("best")
    if isinstance(best, dict) and best.get("metric") != "step":
        return find_number(best, "epoch")
    per_epoch = find_count(history.start, "plan", "steps_per_epoch")
    return float(epoch_of(best_step, per_epoch)) if best_step and per_epoch else None


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
