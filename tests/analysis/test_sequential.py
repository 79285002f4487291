"""Group-sequential plans, against published constants, closed forms and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from normbench.analysis.sequential import crossing, obrien_fleming, sequential_p


@pytest.mark.parametrize(("looks", "constant"), [(1, 1.960), (2, 1.977), (3, 2.004), (4, 2.024), (5, 2.040)])
def test_the_constants_are_those_of_the_tables(looks, constant):
    """Jennison & Turnbull 2000, table 2.3: C_B(K, 0.05), by which z_k is held against C_B √(K / k)."""
    levels = obrien_fleming(tuple((k + 1) / looks for k in range(looks)))
    z = stats.norm.isf(np.array(levels) / 2)
    assert z == pytest.approx([constant * math.sqrt(looks / (k + 1)) for k in range(looks)], abs=1.5e-3)


def test_a_crossing_by_hand():
    assert crossing(1.3, (1.0,)) == pytest.approx(stats.norm.sf(1.3), rel=1e-9)
    # At 0 both looks are positive with 1/4 + arcsin(√(1/2)) / 2π, and so are both negative.
    both = 0.25 + math.asin(math.sqrt(0.5)) / (2 * math.pi)
    assert crossing(0.0, (0.5, 1.0)) == pytest.approx(1 - both, rel=1e-6)
    uneven = stats.multivariate_normal([0, 0, 0], [[0.25, 0.25, 0.25], [0.25, 0.5, 0.5], [0.25, 0.5, 1.0]])
    assert crossing(1.1, (0.25, 0.5, 1.0)) == pytest.approx(1 - uneven.cdf([1.1] * 3), abs=1e-4)


def test_one_p_value_stops_where_the_plan_does():
    times = (0.25, 0.5, 1.0)
    for alpha in (0.01, 0.05):
        levels = np.array(obrien_fleming(times, alpha)) / 2
        for look in range(3):
            before = [0.5] * look
            assert sequential_p([*before, levels[look]], times) == pytest.approx(alpha / 2, rel=1e-6)
    assert sequential_p([0.5, 0.001], times) == sequential_p([0.5, 0.001, 0.9], times)  # once stopped, stopped
    assert sequential_p([0.02], (1.0,)) == pytest.approx(0.02)
    assert sequential_p([1.0, 1.0], times) == 1
    for p in (1e-16, 1e-40, 0.0):  # rounding takes none below 0
        assert [0 <= sequential_p([*before, p], times) < 1e-4 for before in ([], [0.5])] == [True, True]
        assert 0 <= sequential_p([p], (1.0,)) < 1e-12


@pytest.mark.parametrize("plan", [(3, 5, 10), (5, 10), (5, 10, 20)])
def test_a_plan_errs_as_seldom_as_it_says_and_looking_without_one_more_often(plan):
    draws, times = np.random.default_rng(1).standard_normal((4000, plan[-1])), tuple(n / plan[-1] for n in plan)
    t = [draws[:, :n].mean(1) / draws[:, :n].std(1, ddof=1) * math.sqrt(n) for n in plan]
    p = np.array([stats.t.sf(each, n - 1) for each, n in zip(t, plan, strict=True)]).T
    stopped = np.mean((p <= np.array(obrien_fleming(times)) / 2).any(axis=1))
    assert 0.018 <= stopped <= 0.032  # one side: half of 5 %
    assert (p <= 0.025).any(axis=1).mean() > 0.035
    for row in p[:25]:
        assert (sequential_p(row, times) <= 0.025) == (row <= np.array(obrien_fleming(times)) / 2).any()
