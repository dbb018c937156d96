from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics.functional.classification as reference
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, log_loss

from launcher.metrics import counts as counts_module
from launcher.metrics.counts import Counts

CPU = torch.device("cpu")
K = 7
NAMES = [f"class {k}" for k in range(K)]


def draw(num: int, num_classes: int = K, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """scores_BK, labels_B, weights_B; about every fifth is padding."""
    generator = torch.Generator().manual_seed(seed)
    scores_BK = torch.randn(num, num_classes, generator=generator)
    labels_B = torch.randint(num_classes, (num,), generator=generator)
    return scores_BK, labels_B, (torch.rand(num, generator=generator) > 0.2).long()


def count(
    scores_BK: torch.Tensor, labels_B: torch.Tensor, weights_B: torch.Tensor, parts: list[int] | None = None
) -> Counts:
    counts = Counts(scores_BK.shape[1], CPU)
    losses_B = F.cross_entropy(scores_BK, labels_B, reduction="none")
    for ids in torch.arange(len(scores_BK)).split_with_sizes(parts or [len(scores_BK)]):
        counts.add(scores_BK[ids], labels_B[ids], losses_B[ids], weights_B[ids])
    return counts


def test_metrics_are_those_of_torchmetrics_and_scikit_learn() -> None:
    scores_BK, labels_B, weights_B = draw(300)
    counts = count(scores_BK, labels_B, weights_B)
    metrics = counts.metrics(NAMES)
    scores_BK, labels_B = scores_BK[weights_B > 0], labels_B[weights_B > 0]
    assert metrics["num_images"] == len(labels_B) < 300
    for name, k in (("accuracy", 1), ("top5_accuracy", 5)):
        expected = reference.multiclass_accuracy(scores_BK, labels_B, K, average="micro", top_k=k)
        assert metrics[name] == pytest.approx(expected.item())
    recalls = reference.multiclass_accuracy(scores_BK, labels_B, K, average="none")
    assert [each["recall"] for each in metrics["per_class"].values()] == pytest.approx(recalls.tolist())
    assert [each["support"] for each in metrics["per_class"].values()] == labels_B.bincount(minlength=K).tolist()
    expected_KK = confusion_matrix(labels_B, scores_BK.argmax(1), labels=range(K))
    np.testing.assert_array_equal(counts.confusion_KK, expected_KK)
    np.testing.assert_array_equal(counts.confusion_KK, reference.multiclass_confusion_matrix(scores_BK, labels_B, K))
    assert metrics["loss"] == pytest.approx(log_loss(labels_B, scores_BK.double().softmax(1), labels=range(K)))


@given(cuts=st.lists(st.integers(1, 99), max_size=8, unique=True), seed=st.integers(0, 5))
def test_any_division_into_batches_gives_the_same_integers(cuts: list[int], seed: int) -> None:
    sample = draw(100, seed=seed)
    edges = [0, *sorted(cuts), 100]
    parts = [after - before for before, after in pairwise(edges)]
    whole, split = count(*sample), count(*sample, parts=parts)
    for name in ("total", "per_class_K2", "confusion_KK"):
        assert torch.equal(getattr(whole, name), getattr(split, name))
    torch.testing.assert_close(split.loss_sum, whole.loss_sum, rtol=1e-12, atol=0)


def test_counts_of_ranks_add_up() -> None:
    scores_BK, labels_B, weights_B = draw(100)
    whole = count(scores_BK, labels_B, weights_B)
    ranks = [count(scores_BK[r::2], labels_B[r::2], weights_B[r::2]) for r in (0, 1)]
    others = iter([ranks[1].total, ranks[1].seen, ranks[1].per_class_K2, ranks[1].confusion_KK, ranks[1].loss_sum])
    ranks[0].reduce(lambda tensor: tensor.add_(next(others)))
    together, expected = ranks[0].metrics(NAMES), whole.metrics(NAMES)
    assert together.pop("loss") == pytest.approx(expected.pop("loss"))
    assert together == expected
    assert torch.equal(ranks[0].confusion_KK, whole.confusion_KK)


@pytest.mark.parametrize("num_classes", [2, 3, 4, 5])
def test_top5_accuracy_is_1_with_five_classes_or_fewer(num_classes: int) -> None:
    counts = count(*draw(20, num_classes))
    assert counts.metrics([str(k) for k in range(num_classes)])["top5_accuracy"] == 1.0


def test_a_class_without_images_has_no_recall() -> None:
    scores_BK = torch.eye(3)[[0, 1, 0]]
    metrics = count(scores_BK, torch.tensor([0, 1, 1]), torch.ones(3, dtype=torch.int64)).metrics(["a", "b", "c"])
    assert metrics["per_class"] == {
        "a": {"recall": 1.0, "support": 1},
        "b": {"recall": 0.5, "support": 2},
        "c": {"recall": None, "support": 0},
    }


def test_padding_is_not_counted_even_when_its_loss_is_nan() -> None:
    counts = Counts(3, CPU)
    scores_BK = torch.tensor([[0.0, 1.0, 0.0], [math.nan] * 3])
    counts.add(scores_BK, torch.tensor([1, 0]), torch.tensor([0.5, math.nan]), torch.tensor([1, 0]))
    assert counts.total.tolist() == [1, 1, 1]
    assert counts.per_class_K2.tolist() == [[0, 0], [1, 1], [0, 0]]
    assert counts.confusion_KK.sum() == 1
    assert counts.loss_sum.item() == 0.5


def test_scores_that_are_nan_give_a_loss_that_is_nan() -> None:
    scores_BK = torch.full((4, 7), math.nan)
    counts = count(scores_BK, torch.arange(4), torch.ones(4, dtype=torch.int64))
    assert counts.metrics(NAMES)["num_images"] == 4
    assert math.isnan(counts.metrics(NAMES)["loss"])


def test_no_confusion_matrix_is_kept_for_too_many_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts_module, "MAX_CONFUSION_CLASSES", K - 1)
    counts = count(*draw(50))
    assert counts.confusion_KK.numel() == 0
    summed: list[torch.Tensor] = []
    counts.reduce(lambda tensor: summed.append(tensor) or tensor)  # type: ignore[func-returns-value]
    assert len(summed) == 4


def test_skipped_images_are_those_seen_and_not_counted() -> None:
    counts = count(*draw(20))
    assert "num_skipped" not in counts.metrics(NAMES)
    counts.seen += int(counts.total[0])
    assert "num_skipped" not in counts.metrics(NAMES)
    counts.seen += 2
    assert counts.metrics(NAMES)["num_skipped"] == 2
