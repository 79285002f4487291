"""Steps to a target, against lifelines' and scipy's log-rank tests, hand calculation and simulation."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from normbench.analysis.censored import Steps, log_rank, p_faster, p_speedup, restricted_mean, speedup, steps_to


def rng(seed=0):
    return np.random.default_rng(seed)


def validated(times, every, end) -> Steps:
    """Times that are known by validations alone."""
    high = np.ceil(np.asarray(times) / every) * every
    reached = high <= end
    return Steps(np.where(reached, high - every, end), np.where(reached, high, math.inf), end)


def test_the_validations_before_and_at_which_a_target_was_reached():
    steps, scores = [100, 200, 300, 400], [10.0, math.nan, 31.0, 25.0]
    assert steps_to(30, steps, scores) == (200, 300)
    assert steps_to(5, steps, scores) == (0, 100)
    assert steps_to(32, steps, scores) == (400, math.inf)
    assert steps_to(32, [], []) == (0, math.inf)


def test_the_log_rank_statistic_is_scipys():
    times, events = rng(1).integers(1, 9, 14).astype(float), rng(2).random(14) < 0.7
    first = np.arange(14) < 6
    groups = [stats.CensoredData.right_censored(times[of], ~events[of]) for of in (first, ~first)]
    found = log_rank(times, events, first[None])[0]
    # scipy's is the same over its standard deviation, from the hypergeometric variance.
    variance = 0.0
    for time in np.unique(times[events]):
        n, d = (times >= time).sum(), (events & (times == time)).sum()
        n1 = (first & (times >= time)).sum()
        if n > 1:
            variance += d * n1 / n * (1 - n1 / n) * (n - d) / (n - 1)
    assert abs(found) / math.sqrt(variance) == pytest.approx(abs(stats.logrank(*groups).statistic))


def test_splits_are_all_tried_where_they_are_few():
    early, late = np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])
    everything = np.ones(3, bool)
    assert p_faster((early, everything), (late, everything)) == pytest.approx(1 / 20)
    assert p_faster((late, everything), (early, everything)) == 1
    never = np.zeros(3, bool)
    assert p_faster((late, never), (late, never)) == 1


def test_a_restricted_mean_is_the_area_under_the_survival_curve():
    steps = validated([120, 180, 350, 900, 950], 10, 600)
    seen = np.minimum(steps.middle, 500)
    survival = stats.ecdf(stats.CensoredData.right_censored(seen, steps.middle > 500)).sf
    edges = np.concatenate([[0], survival.quantiles[survival.quantiles < 500], [500]])
    area = sum(survival.evaluate(low) * (high - low) for low, high in pairwise(edges))
    assert restricted_mean(steps, 500) == pytest.approx(area)


def test_a_speedup_by_hand():
    a, b = validated([95, 105, 100, 110, 90], 10, 1000), validated([390, 400, 380, 410, 420], 10, 1000)
    found = speedup(a, b)
    assert found.n == 5
    assert found.low < 4 < found.high
    assert found.estimate == pytest.approx(4, rel=0.1)
    assert p_speedup(a, b, 1) == pytest.approx(1 / 252)
    for end, p in ((found.low, lambda f: p_speedup(a, b, f)), (found.high, lambda f: p_speedup(b, a, 1 / f))):
        inner, outer = (end * 1.001, end * 0.999) if end == found.low else (end * 0.999, end * 1.001)
        assert p(outer) <= 0.025 < p(inner)


def test_what_never_arrives_bounds_one_side_alone():
    a, never = validated([95, 105, 100, 110, 90], 10, 500), validated([900] * 5, 10, 500)
    found = speedup(a, never)
    assert 3.5 < found.low < 5
    assert found.high == math.inf
    mirrored = speedup(never, a)
    assert (mirrored.low, mirrored.high) == (0, pytest.approx(1 / found.low))
    nothing = speedup(never, never)
    assert (nothing.low, nothing.high) == (0, math.inf)
    assert math.isnan(nothing.estimate)


@pytest.mark.parametrize(("n", "true"), [(3, 1.0), (5, 1.0), (5, 2.0)])
def test_the_truth_is_seldom_ruled_out(n, true):
    generator, missed, missed_above = rng(n), 0, 0
    for _ in range(120):
        a = validated(generator.lognormal(5, 0.4, n), 20, 400)
        b = validated(generator.lognormal(5 + math.log(true), 0.4, n), 20, 400)
        found = speedup(a, b)
        missed += not found.low <= true <= found.high
        missed_above += p_speedup(a, b, true) <= 0.025
    assert missed <= 0.05 * 120
    assert missed_above <= 0.04 * 120
