"""The statistics against scipy and statsmodels, and against drawing images one by one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from launcher.commands.runs.compare.statistics import (
    NUM_RESAMPLES,
    Spread,
    adjust,
    bootstrap,
    compare_paired,
    describe,
    mcnemar,
    welch,
)

FIRST = [0.912, 0.905, 0.921, 0.899]
SECOND = [0.931, 0.925, 0.941]


def test_the_interval_of_a_mean_is_that_of_statsmodels() -> None:
    found, theirs = describe(FIRST), DescrStatsW(FIRST)
    assert found is not None
    assert found.mean == pytest.approx(theirs.mean)
    assert found.std == pytest.approx(np.std(FIRST, ddof=1))
    assert (found.low, found.high) == pytest.approx(theirs.tconfint_mean(0.05))


def test_a_single_value_has_no_spread() -> None:
    assert describe([0.9]) is None
    assert describe([1.0, float("nan")]) is None


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert describe([0.5, 0.5, 0.5]) == Spread(3, 0.5, 0.0, 0.5, 0.5)


def test_welch_is_that_of_statsmodels_and_scipy() -> None:
    found, theirs = welch(FIRST, SECOND), stats.ttest_ind(SECOND, FIRST, equal_var=False)
    assert found is not None
    assert (found.t, found.df, found.p) == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue))
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    both = CompareMeans(DescrStatsW(SECOND), DescrStatsW(FIRST))
    assert (found.t, found.p, found.df) == pytest.approx(both.ttest_ind(usevar="unequal"))
    assert (found.low, found.high) == pytest.approx(both.tconfint_diff(0.05, usevar="unequal"))
    assert found.difference == pytest.approx(np.mean(SECOND) - np.mean(FIRST))


def test_welch_needs_spread_and_two_values() -> None:
    assert welch([0.9], SECOND) is None
    assert welch([0.9, 0.9], [0.8, 0.8]) is None
    found = welch([0.9, 0.9], SECOND)
    assert found is not None
    difference, error = np.mean(SECOND) - 0.9, np.std(SECOND, ddof=1) / np.sqrt(3)
    assert (found.difference, found.t, found.df) == pytest.approx((difference, difference / error, 2.0))
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 2, loc=difference, scale=error))


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (5, 5), (3, 14), (14, 3), (200, 260)])
def test_mcnemar_is_that_of_statsmodels_and_scipy(b: int, c: int) -> None:
    theirs = their_mcnemar([[100, b], [c, 50]], exact=True).pvalue
    assert mcnemar(b, c) == pytest.approx(theirs if b + c else 1.0)
    assert mcnemar(b, c) == pytest.approx(stats.binomtest(b, b + c).pvalue if b + c else 1.0)


def test_bootstrap_is_that_of_images_drawn_one_by_one() -> None:
    generator = np.random.default_rng(1)
    first, second = generator.random(300) < 0.8, generator.random(300) < 0.9
    found = compare_paired(first, second)
    drawn = generator.integers(300, size=(NUM_RESAMPLES, 300))
    differences = second[drawn].mean(axis=1) - first[drawn].mean(axis=1)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])), abs=0.004)
    assert found.difference == pytest.approx(second.mean() - first.mean())
    assert found.only_first == sum(a and not b for a, b in zip(first, second, strict=True))
    assert found.p == mcnemar(found.only_first, found.only_second)


def test_bootstrap_is_the_same_each_time_and_of_no_width_without_differences() -> None:
    assert bootstrap(100, 10, 4) == bootstrap(100, 10, 4)
    assert bootstrap(100, 0, 0) == (0.0, 0.0)


def test_holm_is_that_of_statsmodels() -> None:
    p_values = [0.04, 0.001, 0.03, 0.5, 0.03]
    assert adjust(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert adjust([]) == []
