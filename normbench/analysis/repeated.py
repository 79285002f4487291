"""Several levels measured on the same seeds: whether they differ, by more than a margin, by less, and in which order.

values: (n, k) throughout, a row a seed and a column a level.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from scipy import optimize, stats

from normbench.analysis.statistics import Interval, Mean, vanish

DRAWS = 100_000  # of the distribution of the largest t, which has no closed form


@dataclass(frozen=True)
class FTest:
    """f: the ratio of two mean squares. df: their degrees of freedom. p: of a ratio at least as large by chance."""

    f: float
    df: tuple[int, int]
    p: float


# --- By more than a margin: the omnibus test. -------------------------------------------------------------------------


def greenhouse_geisser(values) -> float:
    """ε̂, from 1/(k − 1) to 1: how far the levels are from one variance of all their differences, 1 where they have it.

    With S the covariance of the levels, centred in rows and columns: (tr S)² / ((k − 1) tr S²). values: n, k ≥ 2, of
    some variance. Greenhouse & Geisser 1959, doi 10.1007/BF02289823.
    """
    y = np.asarray(values, dtype=np.float64)
    centring = np.eye(y.shape[1]) - 1 / y.shape[1]
    s = centring @ np.cov(y, rowvar=False) @ centring
    return float(np.trace(s) ** 2 / ((y.shape[1] - 1) * (s**2).sum()))


def beyond(values, margin: float = 0.0) -> FTest:
    """Omnibus test that some two levels differ by more than a margin: repeated measures, Greenhouse–Geisser.

    At margin 0 it is the F test of equal means. A margin takes from the means, before they are tested, the most that
    means within it could explain: each is moved into the window of that width which leaves the least sum of squares, so
    that p is the largest over all means that the claim "within the margin" allows. Degrees of freedom are rounded in
    words alone. One seed leaves nothing to test against.
    """
    y = np.asarray(values, dtype=np.float64)
    n, k = y.shape
    means = y.mean(0)
    if n == 1:
        return FTest(math.nan, (k - 1, 0), 1.0)

    def outside(low):
        return means - np.clip(means, low, low + margin)

    low = optimize.minimize_scalar(
        lambda low: (outside(low) ** 2).sum(), bounds=(means.min() - margin, means.max()), method="bounded"
    ).x
    effects = outside(low) if np.ptp(means) > margin else np.zeros(k)
    effects = means - means.mean() if margin == 0 else effects
    residual = y - y.mean(1, keepdims=True) - means + means.mean()
    if vanish(residual, y):
        none = vanish(effects, y)
        return FTest(0.0 if none else math.inf, (k - 1, (k - 1) * (n - 1)), float(none))
    f = (n * (effects**2).sum() / (k - 1)) / ((residual**2).sum() / ((k - 1) * (n - 1)))
    df = greenhouse_geisser(y) * (k - 1)
    return FTest(float(f), (df, df * (n - 1)), float(stats.f.sf(f, df, df * (n - 1))))


# --- By less than a margin: simultaneous bands. -----------------------------------------------------------------------


@lru_cache
def largest_t(n: int, k: int) -> np.ndarray:
    """The largest |t| of all pairs of k independent normal levels of one variance with n seeds, drawn: sorted.

    The same draws at every call. Each pair has the variance of its own differences: n − 1 degrees of freedom.
    """
    generator, found = np.random.default_rng([n, k]), []
    for _ in range(10):
        y = generator.standard_normal((DRAWS // 10, n, k))
        means = y.mean(1)
        y = y - means[:, None]
        cov = np.einsum("dni,dnj->dij", y, y) / (n - 1)
        i, j = np.triu_indices(k, 1)
        variances = cov[:, i, i] + cov[:, j, j] - 2 * cov[:, i, j]
        found.append((np.abs(means[:, i] - means[:, j]) / np.sqrt(variances / n)).max(1))
    return np.sort(np.concatenate(found))


def _p_of_largest(t: float, n: int, k: int) -> float:
    """P(largest |t| ≥ t)."""
    if k == 2:
        return float(2 * stats.t.sf(t, n - 1))
    return float((1 + DRAWS - np.searchsorted(largest_t(n, k), t)) / (1 + DRAWS))


@dataclass(frozen=True)
class Band:
    """The difference of two levels, a − b ≥ 0, with its band: all pairs' bands hold at once with the level's chance."""

    a: int
    b: int
    interval: Interval


def bands(values, level: float = 0.95) -> list[Band]:
    """The band of each pair, the furthest apart first: max-t, by the distribution of `largest_t`. n ≥ 2."""
    y = np.asarray(values, dtype=np.float64)
    n, k = y.shape
    t = stats.t.isf((1 - level) / 2, n - 1) if k == 2 else np.quantile(largest_t(n, k), level)
    found = []
    for a, b in combinations(range(k), 2):
        a, b = (a, b) if y[:, a].mean() >= y[:, b].mean() else (b, a)
        mean = Mean.of(y[:, a] - y[:, b])
        half = float(t) * mean.se
        found.append(Band(a, b, Interval(mean.estimate, mean.estimate - half, mean.estimate + half, n)))
    return sorted(found, key=lambda band: -band.interval.estimate)


def within(values, margin: float) -> tuple[float, Band]:
    """One-sided p value that no two levels differ by more than a margin, and the pair that is the last to show it.

    Twice p is at most α exactly where all bands of the level 1 − α lie within the margin. n ≥ 2.
    """
    y = np.asarray(values, dtype=np.float64)
    n, k = y.shape

    def room(band):  # standard errors between the difference and the margin
        mean = Mean.of(y[:, band.a] - y[:, band.b])
        left = margin - mean.estimate
        return left / mean.se if mean.se else math.copysign(math.inf, left) if abs(left) > 1e-12 else 0.0

    pairs = bands(y)
    last = min(pairs, key=room)
    p = _p_of_largest(abs(room(last)), n, k) / 2 if math.isfinite(room(last)) else 0.0
    return (p if room(last) >= 0 else 1 - p), last


# --- In order. --------------------------------------------------------------------------------------------------------


def page(values) -> tuple[float, float]:
    """One-sided p values that the values rise from the first level to the last, and that they fall: Page's test.

    Exact where scipy has it so. values: (n, k), n ≥ 2, k ≥ 3; two levels are a sign test. Page 1963,
    doi 10.2307/2282965.
    """
    y = np.asarray(values, dtype=np.float64)
    if y.shape[1] == 2:
        signs = np.sign(y[:, 1] - y[:, 0])
        rises, falls = int((signs > 0).sum()), int((signs < 0).sum())
        tested = rises + falls
        if not tested:
            return 0.5, 0.5
        return tuple(float(stats.binomtest(count, tested, alternative="greater").pvalue) for count in (rises, falls))
    return tuple(float(stats.page_trend_test(each).pvalue) for each in (y, y[:, ::-1]))


def isotonic(means, falls: bool = False) -> np.ndarray:
    """The monotone values nearest to the means of the levels, in the sense of least squares: (k,)."""
    return optimize.isotonic_regression(means, increasing=not falls).x


# --- Whether one effect depends on another. ---------------------------------------------------------------------------


def interaction(values) -> FTest:
    """F test that the effect of one factor is the same at every level of another, with blocks.

    values: (n, I, J), a value for each block and pair of levels; n ≥ 1, I, J ≥ 2, all finite, else ValueError. With
    y_sij = μ + block_s + cell_ij + error, errors independent and of one variance, F = MS_interaction / MS_residual:

        SS_interaction = n Σ_ij (ȳ_ij − ȳ_i − ȳ_j + ȳ)²      (I−1)(J−1) degrees of freedom
        SS_residual = Σ_sij (y_sij − ȳ_s − ȳ_ij + ȳ)²        (IJ−1)(n−1)

    Montgomery 2017, Design and Analysis of Experiments, section 5.6. Without residual variance p is 0, or 1 where there
    is no interaction either; one block leaves nothing to test against.
    """
    y = np.asarray(values, dtype=np.float64)
    if y.ndim != 3 or len(y) < 1 or min(y.shape[1:]) < 2 or not np.isfinite(y).all():
        raise ValueError(f"needs blocks × two levels or more × two levels or more, all finite; got {y}")
    n, rows, columns = y.shape
    df = (rows - 1) * (columns - 1), (rows * columns - 1) * (n - 1)
    if n == 1:
        return FTest(math.nan, df, 1.0)
    cells, mean = y.mean(0), y.mean()
    effects = cells - cells.mean(1, keepdims=True) - cells.mean(0) + mean
    residual = y - y.mean((1, 2), keepdims=True) - cells + mean
    if vanish(residual, y):
        none = vanish(effects, y)
        return FTest(0.0 if none else math.inf, df, float(none))
    f = (n * (effects**2).sum() / df[0]) / ((residual**2).sum() / df[1])
    return FTest(float(f), df, float(stats.f.sf(f, *df)))
