"""Statistics of a metric over seeds, and of the predictions of two runs for the same images."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

NUM_RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Spread:
    """A metric over n seeds. `std`: of the sample (n - 1). `low`, `high`: 95% confidence interval of the mean, by
    Student's t."""

    n: int
    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Second mean minus first. `p`: two-sided. `low`, `high`: 95% confidence interval of the difference."""

    difference: float
    t: float
    df: float
    p: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Two classifiers on the same images. `only_first`, `only_second`: images that only one of them has right.

    `difference`: accuracy of the second minus that of the first, a fraction. `p`: McNemar's, exact, two-sided. `low`,
    `high`: 95% interval of the difference over resampled images.
    """

    num_images: int
    only_first: int
    only_second: int
    difference: float
    p: float
    low: float
    high: float


def describe(values: Sequence[float]) -> Spread | None:
    """None for fewer than two values, or any that is not finite."""
    n = len(values)
    if n < 2 or not all(map(math.isfinite, values)):
        return None
    mean, std = statistics.fmean(values), statistics.stdev(values)
    # Not `ttest_1samp(...).confidence_interval()`: its interval of equal values is NaN.
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * std / math.sqrt(n)
    return Spread(n, mean, std, mean - half, mean + half)


def welch(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Welch's t-test (1947): variances may differ. None with fewer than two values of each, or no spread in either."""
    a, b = describe(first), describe(second)
    if a is None or b is None or a.std == b.std == 0:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # about equal values in one of them
        test = stats.ttest_ind(second, first, equal_var=False)
    numbers = (test.statistic, test.df, test.pvalue, *test.confidence_interval(LEVEL))
    return Difference(b.mean - a.mean, *map(float, numbers))


def compare_paired(first_B: npt.NDArray[np.bool_], second_B: npt.NDArray[np.bool_]) -> Paired:
    """`first_B`, `second_B`: whether each classifies each image correctly. At least one image."""
    n, only_first, only_second = len(first_B), int((first_B & ~second_B).sum()), int((second_B & ~first_B).sum())
    low, high = bootstrap(n, only_first, only_second)
    difference = (only_second - only_first) / n
    return Paired(n, only_first, only_second, difference, mcnemar(only_first, only_second), low, high)


def mcnemar(only_first: int, only_second: int) -> float:
    """p of McNemar's test (1947), exact: of two equally good classifiers, each is right on half of these images."""
    num_images = only_first + only_second
    return float(stats.binomtest(only_first, num_images).pvalue) if num_images else 1.0


def bootstrap(n: int, only_first: int, only_second: int) -> tuple[float, float]:
    """95% percentile interval of the difference in accuracy over resampled images (Efron 1979).

    The number of images of each kind in a resample is multinomial, which equals drawing n images but is faster.
    """
    fracs = np.array([only_first, only_second, n - only_first - only_second]) / n
    drawn_R3 = np.random.default_rng(0).multinomial(n, fracs, size=NUM_RESAMPLES)
    low, high = np.quantile((drawn_R3[:, 1] - drawn_R3[:, 0]) / n, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def adjust(p_values: Sequence[float]) -> list[float]:
    """p values for several tests together: by chance, 5% of such families have one below 0.05 (Holm 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
