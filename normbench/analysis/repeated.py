"""Several levels measured on the same seeds: whether they differ, by more than a margin, by less, and in which order.

values: (n, k) throughout, a row a seed and a column a level.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from scipy import stats
from scipy.optimize import isotonic_regression, minimize_scalar

from normbench.analysis.statistics import Interval, Mean, vanish

DRAWS = 100_000  # of the distribution of the largest t, which has no closed form


@dataclass(frozen=True)
class FTest:
    """f: the ratio of two mean squares. df: their degrees of freedom. p: of a ratio at least as large by chance."""

    f: float
    df: tuple[float, float]
    p: float


# --- By more than a margin: the omnibus test. -------------------------------------------------------------------------


def greenhouse_geisser(parts: np.ndarray, rank: int) -> float:
    """ε̂, from 1/rank to 1: how far what is tested is from one variance in all directions, 1 where it has that.

    parts: (n, m), of each seed what is tested, in a space of so many dimensions; of some variance. With S their
    covariance it is (tr S)² / (rank · tr S²). Greenhouse & Geisser 1959, doi 10.1007/BF02289823.
    """
    s = np.cov(parts, rowvar=False)
    return float(np.trace(s) ** 2 / (rank * (s**2).sum()))


def _omnibus(parts: np.ndarray, effects: np.ndarray, rank: int, y: np.ndarray) -> FTest:
    """Repeated-measures F test that the mean of the parts is not what it would be but for these effects: (m,).

    y: what they are parts of, by which rounding is told from variance.
    """
    n = len(parts)
    if n == 1:
        return FTest(math.nan, (rank, 0), 1.0)
    residual = parts - parts.mean(0)
    if vanish(residual, y):
        none = vanish(effects, y)
        return FTest(0.0 if none else math.inf, (rank, rank * (n - 1)), float(none))
    f = n * (effects**2).sum() / ((residual**2).sum() / (n - 1))
    df = greenhouse_geisser(parts, rank) * rank
    return FTest(float(f), (df, df * (n - 1)), float(stats.f.sf(f, df, df * (n - 1))))


def beyond(values, margin: float = 0.0) -> FTest:
    """Omnibus test that some two levels differ by more than a margin: repeated measures, Greenhouse–Geisser.

    At margin 0 it is the F test of equal means. A margin takes from the means, before they are tested, the most that
    means within it could explain: each is moved into the window of that width which leaves the least sum of squares: so
    that p is the largest over all means that the claim "within the margin" allows. One seed leaves nothing to test
    against.
    """
    y = np.asarray(values, dtype=np.float64)
    means, k = y.mean(0), y.shape[1]

    def outside(low):
        return means - np.clip(means, low, low + margin)

    if margin == 0:
        effects = means - means.mean()
    elif np.ptp(means) <= margin:
        effects = np.zeros(k)
    else:
        ends = (means.min() - margin, means.max())
        effects = outside(minimize_scalar(lambda low: (outside(low) ** 2).sum(), bounds=ends, method="bounded").x)
    return _omnibus(y - y.mean(1, keepdims=True), effects, k - 1, y)


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
    mean: Mean
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
        found.append(Band(a, b, mean, Interval(mean.estimate, mean.estimate - half, mean.estimate + half, n)))
    return sorted(found, key=lambda band: -band.interval.estimate)


def within(values, margin: float) -> tuple[float, Band]:
    """One-sided p value that no two levels differ by more than a margin, and the pair that is the last to show it.

    Twice p is at most α exactly where all bands of the level 1 − α lie within the margin. n ≥ 2.
    """
    y = np.asarray(values, dtype=np.float64)
    n, k = y.shape

    def room(band):  # standard errors between the difference and the margin
        left = margin - band.mean.estimate
        return left / band.mean.se if band.mean.se else math.copysign(math.inf, left) if abs(left) > 1e-12 else 0.0

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
    return isotonic_regression(means, increasing=not falls).x


# --- Whether one effect depends on another. ---------------------------------------------------------------------------


def interaction(values) -> FTest:
    """F test that the effect of one factor is the same at every level of another, on the same seeds.

    values: (n, I, J), a value for each seed and pair of levels; n ≥ 1, I, J ≥ 2, all finite, else ValueError. With
    z_sij = y_sij − ȳ_si − ȳ_sj + ȳ_s, of each seed what its rows and columns do not explain, it tests that the mean of
    z is 0, against how z varies between seeds, on (I−1)(J−1) and (I−1)(J−1)(n−1) degrees of freedom, both corrected
    after Greenhouse & Geisser. Of two by two it is the t test of the difference of differences. Without residual
    variance p is 0, or 1 where there is no interaction either; one seed leaves nothing to test against.
    """
    y = np.asarray(values, dtype=np.float64)
    if y.ndim != 3 or len(y) < 1 or min(y.shape[1:]) < 2 or not np.isfinite(y).all():
        raise ValueError(f"needs blocks × two levels or more × two levels or more, all finite; got {y}")
    z = y - y.mean(1, keepdims=True) - y.mean(2, keepdims=True) + y.mean((1, 2), keepdims=True)
    z = z.reshape(len(y), -1)
    return _omnibus(z, z.mean(0), (y.shape[1] - 1) * (y.shape[2] - 1), y)
