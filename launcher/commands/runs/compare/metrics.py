"""The numbers that runs are compared by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from launcher.commands.runs.compare.groups import Run
from launcher.metrics.names import higher_is_better, shows_top5
from launcher.run.history import count_worked_s, find_count, find_number, read_curve
from launcher.run.journal import Record


@dataclass(frozen=True)
class Measure:
    """`is_frac`: shown in per cent. `is_tested`: whether groups are tested for a difference in it."""

    name: str
    find: Callable[[Run], float | None]
    is_frac: bool = False
    is_tested: bool = False
    digits: int = 4

    def show(self, value: float) -> str:
        return f"{100 * value:.2f} %" if self.is_frac else f"{value:,.{self.digits}f}"

    def show_difference(self, value: float) -> str:
        return f"{100 * value:+.2f} points" if self.is_frac else f"{value:+,.{self.digits}f}"


def final_evaluation(run: Run, split: str = "test") -> Record:
    """The newest evaluation of a split, of the best weights where the run came to its end; {} without one."""
    found = [r for r in run.history.records if r["kind"] == "eval" and r.get("split") == split]
    return found[-1] if found else {}


def per_class(run: Run, split: str = "test") -> dict[str, float]:
    """Class -> recall; without those that have no images."""
    summary = run.history.summary.get(split)
    classes: Any = (summary if isinstance(summary, dict) else final_evaluation(run, split)).get("per_class")
    if not isinstance(classes, dict):
        return {}
    values = {str(name): find_number(metrics, "recall") for name, metrics in classes.items()}
    return {name: value for name, value in values.items() if value is not None}


def _test(name: str) -> Callable[[Run], float | None]:
    def find(run: Run) -> float | None:
        value = find_number(run.history.summary, "test", name)
        return value if value is not None else find_number(final_evaluation(run), name)

    return find


def _test_top5(run: Run) -> float | None:
    test = run.history.summary.get("test")
    evaluation = test if isinstance(test, dict) else final_evaluation(run)
    return _test("top5_accuracy")(run) if shows_top5(evaluation) else None


def _best_valid(name: str) -> Callable[[Run], float | None]:
    """Of the epoch that was chosen; of an unfinished run by the recipe's metric."""

    def find(run: Run) -> float | None:
        value = find_number(run.history.summary, "valid", name)
        step = _best_step(run)
        return value if value is not None or step is None else _valid(run, name).get(step)

    return find


def _valid(run: Run, name: str) -> dict[int, float]:
    return read_curve(run.history.records, "eval", name, "valid")


def _best_step(run: Run) -> int | None:
    metric = str(run.recipe.get("train.best_metric", "accuracy"))
    values = {step: value for step, value in _valid(run, metric).items() if value == value}
    return (max if higher_is_better(metric) else min)(values, key=lambda step: values[step]) if values else None


def _best_epoch(run: Run) -> float | None:
    best = run.history.summary.get("best")
    if isinstance(best, dict) and best.get("metric") != "step":
        return find_number(best, "epoch")
    per_epoch, step = find_count(run.history.start, "plan", "steps_per_epoch"), _best_step(run)
    return float(-(-step // per_epoch)) if step is not None and per_epoch else None


def _last_valid(name: str) -> Callable[[Run], float | None]:
    return lambda run: next(reversed(_valid(run, name).values()), None)


def _last_train_loss(run: Run) -> float | None:
    return next(reversed(read_curve(run.history.records, "train", "loss").values()), None)


def _wall_s(run: Run) -> float | None:
    value = find_number(run.history.summary, "wall_s")
    return value if value is not None else count_worked_s(run.history.records)


def _images_per_s(run: Run) -> float | None:
    """Of the process that ended the run; of an unfinished run the mean of its records."""
    value = find_number(run.history.summary, "train", "images_per_s")
    rates = list(read_curve(run.history.records, "train", "images_per_s").values())
    return value if value is not None else sum(rates) / len(rates) if rates else None


MEASURES = (
    Measure("test accuracy", _test("accuracy"), is_frac=True, is_tested=True),
    Measure("test top-5 accuracy", _test_top5, is_frac=True),
    Measure("test loss", _test("loss"), is_tested=True),
    Measure("best valid accuracy", _best_valid("accuracy"), is_frac=True, is_tested=True),
    Measure("best valid loss", _best_valid("loss"), is_tested=True),
    Measure("best epoch", _best_epoch, digits=1),
    Measure("last valid accuracy", _last_valid("accuracy"), is_frac=True),
    Measure("last valid loss", _last_valid("loss")),
    Measure("last train loss", _last_train_loss),
    Measure("time, s", _wall_s, digits=1),
    Measure("images/s", _images_per_s, digits=1),
)
