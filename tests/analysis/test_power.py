"""What so many seeds can show, against statsmodels and simulation."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from normbench.analysis.power import detectable, equivalent, like
from normbench.analysis.statistics import Mean


@pytest.mark.parametrize("n", [3, 5, 20])
def test_what_a_t_test_detects_is_statsmodels(n):
    sd = 1.7
    mean = Mean(0.0, sd / math.sqrt(n), n - 1, n)
    expected = TTestPower().solve_power(None, nobs=n, alpha=0.05, power=0.8) * sd
    assert detectable(mean) == pytest.approx(expected, rel=1e-3)
    assert detectable(mean, alpha=0.01) > detectable(mean) > detectable(mean, power=0.5)


def test_what_is_equal_is_put_within_the_margin_as_often():
    n, margin = 6, equivalent(Mean(0.0, 1 / math.sqrt(6), 5, 6))
    x = np.random.default_rng(0).standard_normal((20000, n))
    half = x.std(1, ddof=1) / math.sqrt(n) * stats.t.isf(0.025, n - 1)
    assert (np.abs(x.mean(1)) + half < margin).mean() == pytest.approx(0.8, abs=0.01)


def test_more_seeds_of_the_same_spread():
    few = Mean.of(np.random.default_rng(1).normal(0, 2, 5))
    many = like(few, 20)
    assert (many.se, many.df, many.n) == (pytest.approx(few.se / 2), 19, 20)
    for nothing in ([1.0, 1.0], [1.0]):
        assert math.isnan(detectable(Mean.of(nothing)))
