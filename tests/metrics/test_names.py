from __future__ import annotations

import math
from typing import Any

import pytest

from launcher.metrics.names import METRICS, higher_is_better, is_better, show_metric, show_metrics, shows_top5


def metrics_of(num_classes: int) -> dict[str, Any]:
    return {
        "num_images": 10,
        "top5_accuracy": 0.99,
        "accuracy": 0.912,
        "loss": 0.23104,
        "per_class": {str(k): {"recall": 1.0, "support": 1} for k in range(num_classes)},
    }


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("loss", 0.23104, "loss 0.2310"),
        ("accuracy", 0.912, "accuracy 91.20%"),
        ("top5_accuracy", 1.0, "top-5 accuracy 100.00%"),
        ("step", 480, "step 480.0000"),
    ],
)
def test_fractions_are_shown_as_percentages(name: str, value: float, text: str) -> None:
    assert show_metric(name, value) == text


def test_metrics_are_shown_in_the_order_of_the_table() -> None:
    assert show_metrics(metrics_of(6)) == "loss 0.2310  accuracy 91.20%  top-5 accuracy 99.00%"
    assert show_metrics({"accuracy": 0.5}) == "accuracy 50.00%"
    assert show_metrics({}) == ""


@pytest.mark.parametrize(("num_classes", "shows"), [(2, False), (5, False), (6, True)])
def test_top5_is_shown_from_six_classes_on(num_classes: int, shows: bool) -> None:
    metrics = metrics_of(num_classes)
    assert shows_top5(metrics) is shows
    assert ("top-5" in show_metrics(metrics)) is shows


def test_top5_is_shown_when_the_classes_are_unknown() -> None:
    assert shows_top5({"top5_accuracy": 0.9})


def test_only_the_loss_is_better_when_lower() -> None:
    assert [name for name in (*METRICS, "step") if not higher_is_better(name)] == ["loss"]


@pytest.mark.parametrize(
    ("metric", "value", "best", "better"),
    [
        ("loss", 1.0, 2.0, True),
        ("loss", 2.0, 1.0, False),
        ("accuracy", 0.6, 0.5, True),
        ("accuracy", 0.5, 0.5, False),
        ("top5_accuracy", 0.5, 0.6, False),
        ("loss", 5.0, None, True),
        ("loss", math.nan, 5.0, False),
        ("loss", math.nan, None, False),
    ],
)
def test_a_lower_loss_and_a_higher_fraction_are_better(
    metric: str, value: float, best: float | None, better: bool
) -> None:
    assert is_better(metric, {"loss": 1.0, metric: value}, best) is better


def test_metrics_with_a_loss_that_is_not_finite_are_never_better() -> None:
    assert not is_better("accuracy", {"loss": math.nan, "accuracy": 1.0}, 0.1)
    assert not is_better("accuracy", {"loss": math.inf, "accuracy": 1.0}, None)
