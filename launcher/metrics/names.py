"""Metrics under scikit-learn's names: their labels, and which of two values is better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Metrics = dict[str, Any]
"""`accuracy`, `top5_accuracy` (fractions), `loss` (nats), `num_images`, and `per_class`: class name -> `recall`,
`support`."""

TOP5_CLASSES = 5
"""With this many classes or fewer, top-5 accuracy is always 1 and is not shown."""


@dataclass(frozen=True, slots=True)
class Metric:
    """`label`: name for the user. `is_fraction`: shown as a percentage."""

    label: str
    is_fraction: bool
    higher_is_better: bool


METRICS = {
    "loss": Metric("loss", is_fraction=False, higher_is_better=False),
    "accuracy": Metric("accuracy", is_fraction=True, higher_is_better=True),
    "top5_accuracy": Metric("top-5 accuracy", is_fraction=True, higher_is_better=True),
}
"""Metric by name, in the order in which they are shown."""


def show_metric(name: str, value: float) -> str:
    """`accuracy 91.20%` or `loss 0.2310`."""
    metric = METRICS.get(name, Metric(name, is_fraction=False, higher_is_better=True))
    return f"{metric.label} {value:.2%}" if metric.is_fraction else f"{metric.label} {value:.4f}"


def show_metrics(metrics: Mapping[str, Any]) -> str:
    """`loss 0.2310  accuracy 91.20%`."""
    names = [name for name in METRICS if name in metrics and (name != "top5_accuracy" or shows_top5(metrics))]
    return "  ".join(show_metric(name, metrics[name]) for name in names)


def shows_top5(metrics: Mapping[str, Any]) -> bool:
    """Whether there are more than TOP5_CLASSES classes, or their number is unknown."""
    classes = metrics.get("per_class")
    return not (isinstance(classes, dict) and len(classes) <= TOP5_CLASSES)


def higher_is_better(name: str) -> bool:
    return name not in METRICS or METRICS[name].higher_is_better


def is_better(name: str, metrics: Metrics, best_value: float | None) -> bool:
    """Whether `metrics` are better than the best so far. With a loss that is not finite they never are."""
    if not math.isfinite(metrics["loss"]):
        return False
    if best_value is None:
        return True
    value: float = metrics[name]
    return value > best_value if higher_is_better(name) else value < best_value
