"""Several levels on the same seeds, against statsmodels, scipy, textbook formulas, hand calculation and simulation."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.anova import AnovaRM

from normbench.analysis.repeated import (
    bands,
    beyond,
    greenhouse_geisser,
    interaction,
    isotonic,
    largest_t,
    page,
    within,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def levels(n, k, seed=0, shift=0.0, spread=None):
    """k levels on n seeds, each seed of its own height. shift: of the last level. spread: of each level."""
    y = rng(seed).normal(0, 1, (n, k)) * (np.ones(k) if spread is None else spread) + rng(seed + 1).normal(
        50, 4, (n, 1)
    )
    y[:, -1] += shift
    return y


# --- By more than a margin --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(3, 3), (5, 7), (10, 4)])
def test_the_omnibus_test_is_greenhouse_and_geissers(n, k):
    y = levels(n, k, seed=n, shift=1.5, spread=np.linspace(1, 3, k))
    found, s = beyond(y), np.cov(y, rowvar=False)
    # Winer 1971, section 4.4, from the entries of the covariance, its diagonal and its rows' means.
    entries = (s**2).sum() - 2 * k * (s.mean(1) ** 2).sum() + k**2 * s.mean() ** 2
    epsilon = k**2 * (np.diag(s).mean() - s.mean()) ** 2 / ((k - 1) * entries)
    assert greenhouse_geisser(y - y.mean(1, keepdims=True), k - 1) == pytest.approx(epsilon)
    long = pd.DataFrame(y).melt(ignore_index=False).reset_index()
    plain = AnovaRM(long, "value", "index", within=["variable"]).fit().anova_table.iloc[0]
    assert found.f == pytest.approx(plain["F Value"])
    df = [epsilon * plain["Num DF"], epsilon * plain["Den DF"]]
    assert found.df == pytest.approx(df)
    assert found.p == pytest.approx(stats.f.sf(plain["F Value"], *df))


def test_a_margin_takes_the_most_that_it_could_explain():
    y = levels(6, 3, seed=3)
    y += [0, 1, 4] - y.mean(0)
    # The nearest means within 2 of one another are 1, 1 and 3: of 0, 1 and 4 they leave −1, 0 and 1.
    assert beyond(y, 2).f == pytest.approx(_f_of(y, [-1, 0, 1]))
    assert beyond(y, 4).p == 1
    assert beyond(y, 2).p > beyond(y, 1).p > beyond(y, 0).p


def _f_of(y, effects):
    """F of these effects over the residual of y."""
    n, k = y.shape
    residual = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
    return n * np.square(effects).sum() / (k - 1) / ((residual**2).sum() / ((k - 1) * (n - 1)))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_levels_within_the_margin_are_seldom_said_to_be_beyond(n):
    """The worst that the claim allows: half of the levels at either end of the margin."""
    shift = np.where(np.arange(6) < 3, 0.0, 2.0)
    found = [beyond(rng([n, i]).normal(0, 1, (n, 6)) + shift, 2.0).p <= 0.05 for i in range(400)]
    assert np.mean(found) <= 0.08


def test_an_omnibus_test_without_residual_variance_or_seeds():
    exact = np.arange(3) + np.arange(4.0)[:, None]
    assert (beyond(exact).p, beyond(exact, 1).p, beyond(exact, 2).p) == (0, 0, 1)
    assert beyond(exact[:1]).p == 1


# --- By less than a margin --------------------------------------------------------------------------------------------


def test_the_largest_t_of_two_levels_is_students():
    assert np.quantile(largest_t(5, 2), 0.95) == pytest.approx(stats.t.isf(0.025, 4), rel=0.03)
    y = levels(5, 2, shift=2.0)
    [band], ends = bands(y), stats.ttest_rel(y[:, 1], y[:, 0]).confidence_interval()
    assert (band.a, band.b) == (1, 0)
    assert [band.interval.low, band.interval.high] == pytest.approx([ends.low, ends.high])


def test_bands_are_wider_than_one_interval_and_narrower_than_bonferronis():
    for n, k in ((3, 4), (5, 7), (10, 5)):
        pairs = k * (k - 1) / 2
        assert stats.t.isf(0.025, n - 1) < np.quantile(largest_t(n, k), 0.95) < stats.t.isf(0.025 / pairs, n - 1)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("spread", [None, [1, 1, 1, 8]])
def test_all_bands_hold_at_once(n, spread):
    truth = np.array([0.0, 1.0, 1.0, 3.0])

    def all_hold(seed):
        y = rng([n, seed]).normal(0, 1, (n, 4)) * (spread or 1) + truth
        return all(b.interval.low <= truth[b.a] - truth[b.b] <= b.interval.high for b in bands(y))

    assert np.mean([all_hold(seed) for seed in range(400)]) >= 0.92


def test_within_is_where_all_bands_are():
    y = levels(6, 4, seed=5, shift=0.5)
    furthest = max(max(-b.interval.low, b.interval.high) for b in bands(y))
    for margin, inside in ((furthest * 1.001, True), (furthest * 0.999, False)):
        p, last = within(y, margin)
        assert (2 * p <= 0.05) == inside
    assert max(-last.interval.low, last.interval.high) == pytest.approx(furthest)
    exact = np.arange(3) + np.arange(4.0)[:, None]
    assert (within(exact, 2.5)[0], within(exact, 1.5)[0]) == (0, 1)


# --- In order ---------------------------------------------------------------------------------------------------------


def test_pages_test_by_hand():
    """Of two rankings of three, each of 36 equally likely: L = 28 where both rise, 27 in four more cases."""
    rising = [[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]
    assert page(rising) == (pytest.approx(1 / 36), 1)
    assert page([[1.0, 2.0, 3.0], [10.0, 30.0, 20.0]])[0] == pytest.approx(5 / 36)
    assert page(np.negative(rising)) == (1, pytest.approx(1 / 36))
    assert page([[1, 2], [3, 4], [5, 4]]) == (pytest.approx(0.5), pytest.approx(7 / 8))


def test_an_isotonic_fit_pools_what_is_out_of_order():
    assert isotonic([1.0, 3.0, 2.0, 5.0]).tolist() == [1, 2.5, 2.5, 5]
    assert isotonic([5.0, 1.0, 3.0], falls=True).tolist() == [5, 2, 2]


# --- Whether one effect depends on another ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 2, 2), (5, 3, 2), (4, 4, 8)])
def test_an_interaction_is_one_of_repeated_measures(shape):
    n, rows, columns = shape
    y = rng(2).normal(60, 1, shape) + rng(3).normal(0, 5, (n, 1, 1)) + 0.5 * rng(6).normal(0, 1, (rows, columns))
    found, df = interaction(y), (rows - 1) * (columns - 1)
    index = pd.MultiIndex.from_product([range(n), range(rows), range(columns)], names=["seed", "row", "column"])
    long = pd.Series(y.ravel(), index, name="value").reset_index()
    plain = AnovaRM(long, "value", "seed", within=["row", "column"]).fit().anova_table.loc["row:column"]
    assert found.f == pytest.approx(plain["F Value"], rel=1e-8)
    assert (plain["Num DF"], plain["Den DF"]) == (df, df * (n - 1))
    # ε̂ by orthonormal contrasts: from the eigenvalues of their covariance (Box 1954).
    contrasts = np.kron(*(np.linalg.qr(np.column_stack([np.ones(k), *np.eye(k)[1:]]))[0][:, 1:] for k in shape[1:]))
    eigenvalues = np.linalg.eigvalsh(np.atleast_2d(np.cov(y.reshape(n, -1) @ contrasts, rowvar=False)))
    epsilon = eigenvalues.sum() ** 2 / (df * (eigenvalues**2).sum())
    assert found.df == pytest.approx((epsilon * df, epsilon * df * (n - 1)))
    assert found.p == pytest.approx(stats.f.sf(plain["F Value"], *found.df))


def test_an_interaction_of_two_by_two_is_the_difference_of_differences():
    y = rng(8).normal(50, 1, (5, 2, 2)) + np.array([[0, 0], [0, 1.5]])
    found = interaction(y)
    expected = stats.ttest_1samp(y[:, 0, 0] - y[:, 0, 1] - y[:, 1, 0] + y[:, 1, 1], 0)
    assert (found.f, found.p) == (pytest.approx(expected.statistic**2), pytest.approx(expected.pvalue))
    seeds = np.array([10.0, -3, 40, 7, 0]).reshape(5, 1, 1)
    assert interaction(y + seeds).f == pytest.approx(found.f)


@pytest.mark.parametrize("spread", [1, 4])
def test_interactions_by_chance_are_found_as_seldom_as_they_should(spread):
    y = rng(7).normal(0, 1, (1000, 4, 3, 2))
    y[:, :, 0, 0] *= spread
    assert 0.015 <= np.mean([interaction(sample).p <= 0.05 for sample in y]) <= 0.065


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
