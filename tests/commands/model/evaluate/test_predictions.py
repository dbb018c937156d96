"""The calibration error equals torchmetrics'; the most confident mistakes come first."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassCalibrationError

from launcher.commands.model.evaluate.predictions import Predictions, expected_calibration_error


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 4.0])
def test_expected_calibration_error_equals_torchmetrics(num_classes: int, sharpness: float) -> None:
    torch.manual_seed(1)
    probs_NK = (sharpness * torch.randn(500, num_classes)).softmax(1)
    labels_N = torch.randint(num_classes, (500,))
    expected = MulticlassCalibrationError(num_classes, n_bins=15, norm="l1")(probs_NK, labels_N).item()
    confidences_N, predicted_N = probs_NK.max(dim=1)
    found = expected_calibration_error(confidences_N.numpy(), (predicted_N == labels_N).numpy())
    assert found == pytest.approx(expected, abs=1e-6)
    assert found > 0.01


def test_last_bin_includes_confidence_1() -> None:
    """0.95 right and 1.0 wrong are one bin: mean confidence 0.975, half of them right."""
    confidences_N = np.array([0.95, 1.0], dtype=np.float32)
    assert expected_calibration_error(confidences_N, np.array([True, False])) == pytest.approx(0.475)


def test_worst_gives_the_most_confident_mistakes_first() -> None:
    top_NT = np.array([[0], [1], [1], [0], [1]])
    probs_NT = np.array([[0.6], [0.9], [0.7], [0.8], [0.95]], dtype=np.float32)
    predictions = Predictions(
        ids_N=np.arange(5),
        labels_N=np.array([1, 1, 0, 1, 0]),
        top_NT=top_NT,
        probs_NT=probs_NT,
        label_probs_N=1 - probs_NT[:, 0],
        losses_N=np.array([1, 2, 3, 4, 1e9], dtype=np.float32),
    )
    assert predictions.worst(3).tolist() == [4, 3, 2]
    assert predictions.worst(9).tolist() == [4, 3, 2, 0]
    assert predictions.mean_loss == (10 + 1e9) / 5
