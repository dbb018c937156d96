from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from launcher.models.loss import build_loss, class_scores, count_outputs, with_auxiliary
from launcher.recipe.schema import Bce, CrossEntropy

PLAIN = CrossEntropy(name="cross_entropy")
SMOOTH = CrossEntropy(name="cross_entropy", label_smoothing=0.1)
BCE = Bce(name="bce")


OUTPUTS_BK = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)) * 3
LABELS_B = torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.mark.parametrize("training", [True, False])
def test_cross_entropy_is_minus_the_log_of_the_softmax(training: bool) -> None:
    losses_B = build_loss(PLAIN, training)(OUTPUTS_BK, LABELS_B)
    torch.testing.assert_close(losses_B, -OUTPUTS_BK.softmax(1)[range(6), LABELS_B].log())


def test_smoothing_spreads_the_target_in_training_only() -> None:
    target_BK = 0.9 * F.one_hot(LABELS_B, 5) + 0.1 / 5
    smooth_B = -(target_BK * OUTPUTS_BK.log_softmax(1)).sum(1)
    torch.testing.assert_close(build_loss(SMOOTH, training=True)(OUTPUTS_BK, LABELS_B), smooth_B)
    plain_B = build_loss(PLAIN, training=False)(OUTPUTS_BK, LABELS_B)
    torch.testing.assert_close(build_loss(SMOOTH, training=False)(OUTPUTS_BK, LABELS_B), plain_B)
    assert not torch.allclose(smooth_B, plain_B)


def test_bce_is_the_cross_entropy_of_two_classes_with_one_logit() -> None:
    logits_B1 = torch.tensor([[-2.0], [0.5], [3.0], [40.0]])
    labels_B = torch.tensor([0, 1, 0, 1])
    losses_B = build_loss(BCE, training=True)(logits_B1, labels_B)
    torch.testing.assert_close(losses_B, F.cross_entropy(class_scores(logits_B1), labels_B, reduction="none"))
    torch.testing.assert_close(
        losses_B, F.binary_cross_entropy_with_logits(logits_B1[:, 0], labels_B.float(), reduction="none")
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_of_half_precision_are_computed_in_fp32(dtype: torch.dtype) -> None:
    for section, outputs in ((PLAIN, OUTPUTS_BK.to(dtype)), (BCE, OUTPUTS_BK[:, :1].to(dtype))):
        losses_B = build_loss(section, training=True)(outputs, LABELS_B % 2)
        assert losses_B.dtype == torch.float32
        torch.testing.assert_close(losses_B, build_loss(section, training=True)(outputs.float(), LABELS_B % 2))


def test_scores_of_one_logit_predict_class_1_when_it_is_positive() -> None:
    assert class_scores(torch.tensor([[-0.1], [0.1]])).argmax(1).tolist() == [0, 1]
    scores_BK = torch.rand(2, 3)
    assert class_scores(scores_BK) is scores_BK


def test_bce_has_one_output_and_cross_entropy_one_per_class() -> None:
    assert (count_outputs(PLAIN, 7), count_outputs(BCE, 2)) == (7, 1)


def test_each_auxiliary_loss_is_added_with_its_weight() -> None:
    plain = build_loss(SMOOTH, training=True)
    others = [OUTPUTS_BK.flip(0), OUTPUTS_BK.flip(1)]
    expected_B = plain(OUTPUTS_BK, LABELS_B) + 0.3 * plain(others[0], LABELS_B) + 0.3 * plain(others[1], LABELS_B)
    torch.testing.assert_close(with_auxiliary(plain, 0.3)((OUTPUTS_BK, *others), LABELS_B), expected_B)


def test_a_network_without_auxiliary_classifiers_has_the_plain_loss() -> None:
    plain = build_loss(PLAIN, training=True)
    assert torch.equal(with_auxiliary(plain, 0.3)(OUTPUTS_BK, LABELS_B), plain(OUTPUTS_BK, LABELS_B))


SHARES_BK = torch.rand(6, 5, generator=torch.Generator().manual_seed(1)).softmax(1)


@pytest.mark.parametrize("section", [PLAIN, SMOOTH])
def test_shares_of_classes_are_torchs_probabilities(section: CrossEntropy) -> None:
    losses_B = build_loss(section, training=True)(OUTPUTS_BK, SHARES_BK)
    smoothing = section.label_smoothing
    expected = F.cross_entropy(OUTPUTS_BK, SHARES_BK, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(losses_B, expected)
    each_KB = [build_loss(section, training=True)(OUTPUTS_BK, torch.full((6,), k)) for k in range(5)]
    torch.testing.assert_close(losses_B, (SHARES_BK * torch.stack(each_KB, dim=1)).sum(1))


def test_bce_takes_the_share_of_class_1() -> None:
    logits_B1, shares_BK = OUTPUTS_BK[:, :1], SHARES_BK[:, :2] / SHARES_BK[:, :2].sum(1, keepdim=True)
    losses_B = build_loss(BCE, training=True)(logits_B1, shares_BK)
    torch.testing.assert_close(losses_B, F.cross_entropy(class_scores(logits_B1), shares_BK, reduction="none"))
