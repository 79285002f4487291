"""Intervals and tests of a few values, against scipy's distributions and hand calculation."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from normbench.analysis.statistics import (
    Interval,
    bca_interval,
    holm,
    interaction,
    mcnemar,
    paired,
    probability_of_improvement,
    slope_weights,
    t_interval,
    t_test,
    tost,
)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def rng(seed=0):
    return np.random.default_rng(seed)


# --- Intervals --------------------------------------------------------------------------------------------------------


def test_t_interval_by_hand():
    # Mean 4, standard deviation 2, n = 3. With 2 degrees of freedom P(|T|<t) = t / √(t² + 2), so t = P·√(2 / (1−P²)).
    found = t_interval([2, 4, 6])
    half = 0.95 * math.sqrt(2 / (1 - 0.95**2)) * 2 / math.sqrt(3)
    assert (found.estimate, found.n) == (4, 3)
    assert [found.low, found.high] == pytest.approx([4 - half, 4 + half], rel=1e-12)
    assert t_interval([2, 4, 6], 0.9).high == pytest.approx(
        4 + 0.9 * math.sqrt(2 / (1 - 0.9**2)) * 2 / math.sqrt(3), rel=1e-12
    )


def test_t_intervals_cover_the_mean_as_often_as_they_say():
    samples = rng(1).normal(70, 3, (2000, 5))
    intervals = [t_interval(sample) for sample in samples]
    assert 0.93 <= np.mean([found.low <= 70 <= found.high for found in intervals]) <= 0.97


@pytest.mark.parametrize("interval", [t_interval, lambda values: bca_interval(values, rng())])
def test_intervals_of_one_value_and_of_equal_values(interval):
    one = interval([71.5])
    assert (one.estimate, one.n) == (71.5, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert interval([10.0] * 4) == Interval(10, 10, 10, 4)
    close = interval([50.02 - 40.01, 60.02 - 50.01, 70.02 - 60.01])  # 10.01, but for the last bits
    assert close.low == close.high == pytest.approx(10.01)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0, 2.0]]])
def test_what_is_no_sample_is_refused(values):
    for function in (t_interval, t_test, lambda v: bca_interval(v, rng()), lambda v: tost(v, 1)):
        with pytest.raises(ValueError, match="at least one value"):
            function(values)


def test_bca_against_its_formula():
    """Efron & Tibshirani 1993, equations 14.10, 14.14 and 14.15, on the resamples that the generator gives."""
    values = np.array([1.0, 2.0, 2.5, 4.0, 9.0, 15.0])
    found = bca_interval(values, rng(3), resamples=4000)
    means = values[rng(3).integers(0, 6, (4000, 6))].mean(1)
    bias = stats.norm.ppf((np.mean(means < values.mean()) + np.mean(means <= values.mean())) / 2)
    left_out = np.array([np.delete(values, i).mean() for i in range(6)])
    pull = left_out.mean() - left_out
    acceleration = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
    z = bias + stats.norm.ppf([0.025, 0.975])
    expected = np.quantile(means, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    assert [found.low, found.high] == pytest.approx(expected, rel=1e-9)
    assert found.high - found.estimate > found.estimate - found.low > 0  # the sample leans to the right
    assert (found.estimate, found.n) == (values.mean(), 6)


def test_the_bootstrap_draws_from_its_generator_alone():
    values = [1.0, 2.0, 2.5, 4.0, 9.0]
    for interval in (bca_interval, lambda a, g: probability_of_improvement(a, [2.0, 3.0, 5.0], g)):
        np.random.seed(0)
        first = interval(values, rng(7))
        np.random.seed(1)
        assert interval(values, rng(7)) == first
    assert bca_interval(values, rng(8)) != bca_interval(values, rng(7))


# --- Tests ------------------------------------------------------------------------------------------------------------


def test_t_test_by_hand():
    # Mean 2, standard error 1/√3, so t = 2√3 on 2 degrees of freedom, where P(T < t) = 1/2 + t / (2 √(t² + 2)).
    t = 2 * math.sqrt(3)
    below = 0.5 + t / (2 * math.sqrt(t**2 + 2))
    assert t_test([1, 2, 3]) == pytest.approx((1 - below, below), rel=1e-12)
    assert t_test([1, 2, 3], 2) == pytest.approx((0.5, 0.5))
    assert t_test([1, 2, 3], 4) == pytest.approx((below, 1 - below), rel=1e-12)


def test_t_test_and_t_interval_agree():
    values = rng(5).normal(0.4, 1, 6)
    found = t_interval(values)
    assert t_test(values, found.low)[0] == pytest.approx(0.025)
    assert t_test(values, found.high)[1] == pytest.approx(0.025)


def test_equal_values_are_settled_exactly():
    assert t_test([2.0, 2.0, 2.0], 1) == (0, 1)
    assert t_test([2.0, 2.0, 2.0], 3) == (1, 0)
    assert t_test([0.0, 0.0], 0) == (0.5, 0.5)
    rounded = [50.02 - 40.01, 60.02 - 50.01, 70.02 - 60.01]
    assert len(set(rounded)) > 1
    assert t_test(rounded, 10.01) == (0.5, 0.5)
    assert t_test(rounded, 10) == (0, 1)


def test_one_value_shows_nothing():
    assert t_test([90.0], 1) == (1, 1)
    assert tost([0.0], 5) == 1


def test_tost_by_hand():
    # Mean 1, standard error 1/√3: t is 2√3 above −1 and √3 below 2.
    def above(t):
        return 0.5 - t / (2 * math.sqrt(t**2 + 2))

    assert tost([0, 1, 2], 2) == pytest.approx(above(math.sqrt(3)), rel=1e-12)
    assert tost([0, -1, -2], 2) == pytest.approx(above(math.sqrt(3)), rel=1e-12)
    assert tost([-1, 0, 1], 2) == pytest.approx(above(2 * math.sqrt(3)), rel=1e-12)
    assert tost([0, 1, 2], 0.5) > 0.5
    assert tost([0.3, 0.3, 0.3], 0.5) == 0
    assert tost([0.7, 0.7, 0.7], 0.5) == 1


def test_holm_by_hand():
    # Sorted .005, .01, .03, .04: ×4, ×3, ×2, ×1 is .02, .03, .06, .04, and the last may not be below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]).tolist() == [1, 1]
    assert holm([0.02]).tolist() == [0.02]
    assert holm([]).tolist() == []
    for wrong in ([0.1, math.nan], [1.1], [-0.1]):
        with pytest.raises(ValueError, match="between 0 and 1"):
            holm(wrong)


@pytest.mark.parametrize(
    ("gained", "lost", "expected"),
    [
        (0, 0, 1),
        (1, 0, 1),
        (5, 1, 2 * (1 + 6) / 2**6),  # P(X ≤ 1) of six coins: no head or one
        (1, 5, 2 * (1 + 6) / 2**6),
        (4, 4, 1),
        (0, 10, 2 / 2**10),
    ],
)
def test_mcnemar_by_hand(gained, lost, expected):
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("gained", "lost"), [(121, 59), (13, 13), (14, 13), (300, 200), (2000, 2100)])
def test_mcnemar_is_an_exact_binomial_test(gained, lost):
    assert mcnemar(gained, lost) == pytest.approx(stats.binomtest(gained, gained + lost).pvalue, rel=1e-9)
    with pytest.raises(ValueError, match="not negative"):
        mcnemar(gained, -lost)


def nested_models(y):
    """F, its degrees of freedom and p: the additive model against that with a mean for each cell, by least squares."""
    n, rows, columns = y.shape
    block, row, column = (index.ravel() for index in np.indices(y.shape))
    additive = np.hstack([np.eye(n)[block], np.eye(rows)[row], np.eye(columns)[column]])
    full = np.hstack([additive, np.eye(rows * columns)[row * columns + column]])
    left, ranks = [], []
    for design in (additive, full):
        solution, _, rank, _ = np.linalg.lstsq(design, y.ravel(), rcond=None)
        left.append(((y.ravel() - design @ solution) ** 2).sum())
        ranks.append(rank)
    df = ranks[1] - ranks[0], y.size - ranks[1]
    f = ((left[0] - left[1]) / df[0]) / (left[1] / df[1])
    return f, df, stats.f.sf(f, *df)


@pytest.mark.parametrize("shape", [(3, 2, 2), (5, 3, 2), (4, 4, 8)])
def test_an_interaction_is_a_comparison_of_nested_models(shape):
    n, rows, columns = shape
    y = rng(2).normal(60, 1, shape) + rng(3).normal(0, 5, (n, 1, 1))
    y += rng(4).normal(0, 3, (rows, 1)) + rng(5).normal(0, 3, columns)
    for size in (0, 0.5):
        changed = y + size * rng(6).normal(0, 1, (rows, columns))
        found, (f, df, p) = interaction(changed), nested_models(changed)
        assert found.df == df == ((rows - 1) * (columns - 1), (rows * columns - 1) * (n - 1))
        assert (found.f, found.p) == pytest.approx((f, p), rel=1e-8)


def test_an_interaction_by_hand():
    # Cell means 1, 2, 3, 8: effects ±1, so SS = 3 · 4 · 1 = 12. Residuals: one cell ±1, less the block's mean ±1/4, so
    # SS = 2 · ((3/4)² + 3 · (1/4)²) = 3/2 on 6 degrees of freedom.
    y = np.array([[[1.0, 2], [3, 7]], [[1, 2], [3, 8]], [[1, 2], [3, 9]]])
    found = interaction(y)
    assert (found.f, found.df) == (pytest.approx(12 / (1.5 / 6)), (1, 6))
    blocks = np.array([10.0, -3, 40]).reshape(3, 1, 1)
    assert interaction(y + blocks).f == pytest.approx(found.f)


def test_interactions_by_chance_are_found_as_often_as_they_should():
    found = [interaction(sample).p for sample in rng(7).normal(0, 1, (2000, 4, 3, 2))]
    assert 0.035 <= np.mean(np.less_equal(found, 0.05)) <= 0.065


def test_interactions_without_residual_variance_or_blocks():
    levels = np.array([[1.1, 2.2], [3.3, 4.4]]) + np.array([0.1, 7.7, 20.3]).reshape(3, 1, 1)
    found = interaction(levels)
    assert (found.f, found.p) == (0, 1)
    levels[:, 1, 1] += 0.5
    found = interaction(levels)
    assert (found.f, found.p) == (math.inf, 0)
    assert interaction(np.zeros((4, 2, 2))).p == 1
    one = interaction(levels[:1])
    assert (one.p, one.df) == (1, (1, 0))
    assert math.isnan(one.f)
    for wrong in (np.ones((3, 2)), np.ones((3, 1, 2)), np.full((3, 2, 2), math.nan), np.ones((0, 2, 2))):
        with pytest.raises(ValueError, match="two levels or more"):
            interaction(wrong)


# --- Pairs, probabilities, slopes -------------------------------------------------------------------------------------


def test_pairs_are_those_seeds_that_both_have():
    differences, seeds = paired({3: 5.0, 1: 2.0, 2: 9.0, 4: math.nan}, {1: 1.5, 3: 7.0, 4: 1.0, 5: 0.0})
    assert seeds == [1, 3]
    assert differences.tolist() == [0.5, -2]
    series, same = paired(pd.Series([5.0, 2.0], index=[3, 1]), pd.Series([1.5, 7.0], index=[1, 3]))
    assert (series.tolist(), same) == ([0.5, -2], [1, 3])
    assert paired({1: 1.0}, {2: 1.0})[0].shape == (0,)


def test_probability_of_improvement_counts_pairs():
    # Of the 3 × 2 pairs 1 < 2, 2 = 2, 4 > 2, and 1, 2, 4 > 0: 4 wins, 1 tie.
    found = probability_of_improvement([1, 2, 4], [2, 0], rng())
    assert found.estimate == pytest.approx(4.5 / 6)
    assert found.n == 2
    assert 0 <= found.low < found.estimate < found.high <= 1
    a, b = rng(1).normal(0.5, 1, 20), rng(2).normal(0, 1, 15)
    assert probability_of_improvement(a, b, rng()).estimate == pytest.approx(
        stats.mannwhitneyu(a, b).statistic / (20 * 15)
    )


def test_probability_of_improvement_interval_is_the_percentiles():
    a, b = rng(1).normal(0.5, 1, 6), rng(2).normal(0, 1, 4)
    found = probability_of_improvement(a, b, rng(3), level=0.9)
    again = rng(3)
    resampled_a, resampled_b = a[again.integers(0, 6, (2000, 6))], b[again.integers(0, 4, (2000, 4))]
    shares = [np.mean(np.greater.outer(x, y)) for x, y in zip(resampled_a, resampled_b, strict=True)]
    assert [found.low, found.high] == pytest.approx(np.quantile(shares, [0.05, 0.95]))


def test_probability_of_improvement_at_its_edges():
    certain = probability_of_improvement([5, 6], [1, 2], rng())
    assert (certain.estimate, certain.low, certain.high) == (1, 1, 1)
    one = probability_of_improvement([5], [1, 2], rng())
    assert one.estimate == 1
    assert math.isnan(one.low)


def test_slope_weights_give_the_least_squares_slope():
    assert slope_weights([1, 2, 3]) == pytest.approx([-0.5, 0, 0.5])
    x, y = np.log2([2, 4, 8, 32, 128]), rng(4).normal(60, 5, 5)
    assert slope_weights(x) @ y == pytest.approx(stats.linregress(x, y).slope, rel=1e-12)
    assert slope_weights(x).sum() == pytest.approx(0, abs=1e-15)
    with pytest.raises(ValueError, match="two different points"):
        slope_weights([2, 2])
