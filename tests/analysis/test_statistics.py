"""Intervals and tests of a few values, against scipy's distributions and hand calculation."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from normbench.analysis.statistics import (
    FEWEST_RESAMPLED,
    Interval,
    Mean,
    bca_interval,
    holm,
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
    assert interval([10.0] * 12) == Interval(10, 10, 10, 12)
    close = interval([50.02 - 40.01, 60.02 - 50.01, 70.02 - 60.01] * 4)  # 10.01, but for the last bits
    assert close.low == close.high == pytest.approx(10.01)


def test_a_bootstrap_of_few_values_has_no_interval():
    values = rng(2).normal(70, 3, FEWEST_RESAMPLED)
    few = bca_interval(values[1:], rng())
    assert (few.estimate, few.n) == (values[1:].mean(), FEWEST_RESAMPLED - 1)
    assert math.isnan(few.low)
    assert math.isnan(few.high)
    assert bca_interval(values, rng()).low < values.mean()


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0, 2.0]]])
def test_what_is_no_sample_is_refused(values):
    for function in (t_interval, t_test, lambda v: bca_interval(v, rng()), lambda v: tost(v, 1)):
        with pytest.raises(ValueError, match="at least one value"):
            function(values)


def test_bca_against_its_formula():
    """Efron & Tibshirani 1993, equations 14.10, 14.14 and 14.15, on the resamples that the generator gives."""
    values = np.array([1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 9.0, 15.0])
    found = bca_interval(values, rng(3), resamples=4000)
    means = values[rng(3).integers(0, 10, (4000, 10))].mean(1)
    bias = stats.norm.ppf((np.mean(means < values.mean()) + np.mean(means <= values.mean())) / 2)
    left_out = np.array([np.delete(values, i).mean() for i in range(10)])
    pull = left_out.mean() - left_out
    acceleration = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
    z = bias + stats.norm.ppf([0.025, 0.975])
    expected = np.quantile(means, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    assert [found.low, found.high] == pytest.approx(expected, rel=1e-9)
    assert found.high - found.estimate > found.estimate - found.low > 0  # the sample leans to the right
    assert (found.estimate, found.n) == (values.mean(), 10)


def test_the_bootstrap_draws_from_its_generator_alone():
    values = rng(4).normal(0, 1, 10)
    np.random.seed(0)
    first = bca_interval(values, rng(7))
    np.random.seed(1)
    assert bca_interval(values, rng(7)) == first
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


def test_samples_that_share_nothing_are_welchs_test():
    a, b = rng(8).normal(1, 1, 5), rng(9).normal(0, 3, 8)
    found, expected = Mean.welch([a, b], [1, -1]), stats.ttest_ind(a, b, equal_var=False)
    assert (found.df, found.n) == (pytest.approx(expected.df), 5)
    assert 2 * min(found.above(), found.below()) == pytest.approx(expected.pvalue)
    ends, interval = expected.confidence_interval(), found.interval()
    assert [interval.low, interval.high] == pytest.approx([ends.low, ends.high])
    assert Mean.welch([[1, 1], [3, 3, 3]], [1, -1]).above(-3) == 0
    assert Mean.welch([[1, 2], [3]], [1, -1]).above() == 1


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


# --- Pairs, probabilities, slopes -------------------------------------------------------------------------------------


def test_pairs_are_those_seeds_that_both_have():
    differences, seeds = paired({3: 5.0, 1: 2.0, 2: 9.0, 4: math.nan}, {1: 1.5, 3: 7.0, 4: 1.0, 5: 0.0})
    assert seeds == [1, 3]
    assert differences.tolist() == [0.5, -2]
    series, same = paired(pd.Series([5.0, 2.0], index=[3, 1]), pd.Series([1.5, 7.0], index=[1, 3]))
    assert (series.tolist(), same) == ([0.5, -2], [1, 3])
    assert paired({1: 1.0}, {2: 1.0})[0].shape == (0,)


def test_probability_of_improvement_counts_pairs():
    # 1 > 0, 2 = 2, 2 > 0, 4 > 2, 4 > 0, and 1 < 2: four and a half of six.
    assert probability_of_improvement([1, 2, 4], [2, 0]).estimate == pytest.approx(4.5 / 6)
    a, b = rng(1).normal(0, 1, 30), rng(2).normal(0.5, 1, 20)
    assert probability_of_improvement(a, b).estimate == pytest.approx(stats.mannwhitneyu(a, b).statistic / 600)


def test_the_ends_of_a_probability_of_improvement_are_as_many_errors_away():
    a, b = rng(1).normal(0, 1, 7), rng(2).normal(0.5, 1, 5)
    found = probability_of_improvement(a, b, level=0.9)
    for theta in (found.low, found.high):  # Newcombe 2006, method 5: both samples of the mean size 6
        q1, q2 = theta / (2 - theta), 2 * theta**2 / (1 + theta)
        variance = (theta * (1 - theta) + 5 * (q1 - theta**2) + 5 * (q2 - theta**2)) / 35
        assert (found.estimate - theta) ** 2 / variance == pytest.approx(stats.norm.isf(0.05) ** 2)
    assert found.low < found.estimate < found.high


def test_a_probability_of_improvement_at_its_edges_has_a_width():
    certain = probability_of_improvement([2, 3, 4, 5, 6], [1, 1, 1, 1, 1])
    assert (certain.estimate, certain.high) == (1, 1)
    assert 0.6 < certain.low < 0.7
    mirrored = probability_of_improvement([1, 1, 1, 1, 1], [2, 3, 4, 5, 6])
    assert [mirrored.low, mirrored.high] == pytest.approx([0, 1 - certain.low])
    one = probability_of_improvement([5], [1, 2])
    assert (one.estimate, one.n) == (1, 1)
    assert math.isnan(one.low)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("shift", [0, 2])
def test_a_probability_of_improvement_is_covered(n, shift):
    generator, truth = rng(n), stats.norm.cdf(shift / math.sqrt(2))
    found = [probability_of_improvement(generator.normal(shift, 1, n), generator.normal(0, 1, n)) for _ in range(400)]
    assert np.mean([each.low <= truth <= each.high for each in found]) >= (0.87 if n == 3 else 0.92)


def test_slope_weights_give_the_least_squares_slope():
    assert slope_weights([1, 2, 3]) == pytest.approx([-0.5, 0, 0.5])
    x, y = np.log2([2, 4, 8, 32, 128]), rng(4).normal(60, 5, 5)
    assert slope_weights(x) @ y == pytest.approx(stats.linregress(x, y).slope, rel=1e-12)
    assert slope_weights(x).sum() == pytest.approx(0, abs=1e-15)
    with pytest.raises(ValueError, match="two different points"):
        slope_weights([2, 2])
