"""Logistic regression on standardised features, as one linear layer. The only importer of scikit-learn.

N images, D features, K classes.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

MAX_ITERATIONS = 1000

GRID = tuple(10.0**power for power in range(-4, 3))
"""Values of C to try, the strongest regularisation first."""

C_WITHOUT_VALID = 1.0

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layer:
    """A linear layer whose softmax gives the regression's probabilities from features that are not standardised."""

    weight_KD: Array
    bias_K: Array

    def scores(self, features_ND: Array) -> Array:
        scores_NK: Array = features_ND @ self.weight_KD.T + self.bias_K
        return scores_NK


@dataclass(frozen=True)
class Fit:
    C: float
    layer: Layer
    valid_accuracy: float | None
    """None without a valid split."""
    is_converged: bool
    """Within MAX_ITERATIONS."""
    fit_s: float

    def to_json(self) -> dict[str, Any]:
        return {
            "C": self.C,
            "valid_accuracy": self.valid_accuracy,
            "is_converged": self.is_converged,
            "fit_s": round(self.fit_s, 3),
        }


def fit_grid(train: tuple[Array, Labels], valid: tuple[Array, Labels] | None) -> Iterator[Fit]:
    """A fit to `train` for every C, scored on `valid`; without `valid` a single fit.

    Every class must be in `train`.
    """
    features_ND, labels_N = train
    scaler = StandardScaler().fit(features_ND)
    standard_ND = scaler.transform(features_ND)
    for C in GRID if valid is not None else (C_WITHOUT_VALID,):
        start_s = time.perf_counter()
        regression, is_converged = _fit(C, standard_ND, labels_N)
        layer = _as_layer(scaler, regression)
        accuracy = None if valid is None else float(np.mean(layer.scores(valid[0]).argmax(axis=1) == valid[1]))
        yield Fit(C, layer, accuracy, is_converged, time.perf_counter() - start_s)


def choose_best(fits: list[Fit]) -> Fit:
    """The most accurate fit on valid; among equals the one with the smallest C."""
    return max(fits, key=lambda fit: (fit.valid_accuracy or 0.0, -fit.C))


def _fit(C: float, standard_ND: Array, labels_N: Labels) -> tuple[LogisticRegression, bool]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        regression = LogisticRegression(C=C, max_iter=MAX_ITERATIONS).fit(standard_ND, labels_N)
    others = [warning for warning in caught if not issubclass(warning.category, ConvergenceWarning)]
    for warning in others:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return regression, len(others) == len(caught)


def _as_layer(scaler: StandardScaler, regression: LogisticRegression) -> Layer:
    coef_KD, intercept_K = regression.coef_, regression.intercept_
    if len(coef_KD) == 1:
        # For two classes scikit-learn gives the log odds of the second; half of it each way has the same softmax.
        coef_KD = np.concatenate([-coef_KD, coef_KD]) / 2
        intercept_K = np.concatenate([-intercept_K, intercept_K]) / 2
    return Layer(coef_KD / scaler.scale_, intercept_K - coef_KD @ (scaler.mean_ / scaler.scale_))
