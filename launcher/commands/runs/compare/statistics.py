"""What figures of several runs, and predictions of two on the same images, allow to say. Plain numbers in and out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

NUM_RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Spread:
    """Of a figure over seeds. `std`: of the sample (n - 1). `low`, `high`: 95 % confidence interval of the mean, by
    Student's t. None where a single value tells nothing of it."""

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """Second mean less first. `p`: two-sided. `low`, `high`: 95 % confidence interval of the difference."""

    difference: float
    t: float
    df: float
    p: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Two classifiers on the same images. `only_first`, `only_second`: images that one of them alone has right.

    `difference`: accuracy of the second less that of the first, a fraction; `p`: McNemar's, exact, two-sided; `low`,
    `high`: 95 % interval of the difference over resampled images.
    """

    num_images: int
    only_first: int
    only_second: int
    difference: float
    p: float
    low: float
    high: float


def describe(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    n, mean = len(values), statistics.fmean(values)
    if n < 2 or not all(map(math.isfinite, values)):
        return Spread(n, mean, None, None, None)
    std = statistics.stdev(values)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * std / math.sqrt(n)
    return Spread(n, mean, std, mean - half, mean + half)


def welch(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Welch's t-test (1947): variances may differ. None with fewer than two values of each, or no spread in either."""
    a, b = describe(first), describe(second)
    if a.std is None or b.std is None or a.std == b.std == 0:
        return None
    difference, of_a, of_b = b.mean - a.mean, a.std**2 / a.n, b.std**2 / b.n
    error = math.sqrt(of_a + of_b)
    df = (of_a + of_b) ** 2 / (of_a**2 / (a.n - 1) + of_b**2 / (b.n - 1))
    t = difference / error
    half = float(stats.t.ppf((1 + LEVEL) / 2, df)) * error
    return Difference(difference, t, df, float(2 * stats.t.sf(abs(t), df)), difference - half, difference + half)


def compare_paired(first_B: npt.NDArray[np.bool_], second_B: npt.NDArray[np.bool_], seed: int = 0) -> Paired:
    """`first_B`, `second_B`: whether each image, the same in both, is classified rightly; at least one image."""
    n, only_first, only_second = len(first_B), int((first_B & ~second_B).sum()), int((second_B & ~first_B).sum())
    low, high = bootstrap(n, only_first, only_second, seed)
    difference = (only_second - only_first) / n
    return Paired(n, only_first, only_second, difference, mcnemar(only_first, only_second), low, high)


def mcnemar(only_first: int, only_second: int) -> float:
    """p of McNemar's test (1947), exact: were both as good, each image that they differ on would be a fair coin."""
    discordant = only_first + only_second
    if not discordant:
        return 1.0
    return min(1.0, 2 * float(stats.binom.cdf(min(only_first, only_second), discordant, 0.5)))


def bootstrap(n: int, only_first: int, only_second: int, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the difference in accuracy over resampled images (Efron 1979).

    How often each kind of image is drawn is multinomial: the same as drawing n images, without drawing them.
    """
    shares = np.array([only_first, only_second, n - only_first - only_second]) / n
    drawn_R3 = np.random.default_rng(seed).multinomial(n, shares, size=NUM_RESAMPLES)
    low, high = np.quantile((drawn_R3[:, 1] - drawn_R3[:, 0]) / n, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def adjust(p_values: Sequence[float]) -> list[float]:
    """Of several tests together: no more than 5 % of such families have one below 0.05 by chance (Holm 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
