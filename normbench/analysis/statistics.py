"""Intervals and tests for the few values that a handful of seeds give: pure functions of numbers.

Values that are equal, which diverged replicates at chance often are, are settled exactly: an interval of no width, a
p value of 0, 1/2 or 1. What one value cannot show it does not show: NaN for the ends of an interval, 1 for a p value.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype
from scipy import optimize, stats

# Differences of equal accuracies differ in their last bits; that is no variance to test against.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Interval:
    """An estimate with the two ends of its confidence interval, in the unit of the values, from n of them."""

    estimate: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Best:
    """The best value of a grid: its mean score, from n scores, and how many values were tried.

    edge: "lowest" or "highest" where it is the first or the last number of the grid, else empty.
    """

    value: object
    mean: float
    n: int
    tried: int
    edge: str


def best_of(scores: pd.Series, grid: pd.Series) -> Best:
    """The value with the highest mean score, the lowest one where equal. scores, grid: (n,), n ≥ 1, without gaps."""
    means = scores.groupby(grid).agg(["mean", "size"])
    value, numbers = means["mean"].idxmax(), is_numeric_dtype(means.index)
    edge = "lowest" if value == means.index[0] else "highest" if value == means.index[-1] else ""
    mean, n = means.loc[value]
    return Best(value, float(mean), int(n), len(means), edge if numbers else "")


def within_error(scores: pd.Series, grid: pd.Series) -> tuple[float, float]:
    """The lowest value whose mean score is within one standard error of the best one's, and that standard error.

    scores, grid: as `best_of` takes them. The rule of Breiman et al. 1984 (Classification and Regression Trees, section
    3.4.3), by which noise does not choose; of a single score there is no error, and the best value stays.
    """
    means = scores.groupby(grid).mean()
    best = scores[grid == means.idxmax()]
    error = float(best.std(ddof=1) / math.sqrt(len(best))) if len(best) > 1 else 0.0
    return float(means.index[means >= means.max() - error][0]), error


def _sample(values) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"needs at least one value, all of them finite, in one dimension; got {values}")
    return values


def _near(difference: float, *scale: float) -> bool:
    return abs(difference) <= ROUNDING * max(map(abs, scale))


def _constant(values: np.ndarray) -> bool:
    return _near(np.ptp(values), values.min(), values.max())


def vanish(deviations: np.ndarray, values: np.ndarray) -> bool:
    return _near(np.abs(deviations).max(), np.abs(values).max())


@dataclass(frozen=True)
class Mean:
    """An estimate with its standard error and the degrees of freedom of that, from n values (of a cell, at least).

    Without an error (equal values) everything is settled; without degrees of freedom (one value) nothing is known.
    """

    estimate: float
    se: float
    df: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """Of the mean of values: (n,), n ≥ 1 and finite, else ValueError."""
        values = _sample(values)
        n = len(values)
        se = 0.0 if _constant(values) else float(values.std(ddof=1)) / math.sqrt(n)
        return cls(float(values.mean()), se, n - 1, n)

    @classmethod
    def welch(cls, samples: Sequence[Sequence[float]], weights: Sequence[float]) -> "Mean":
        """Of Σ w · mean over samples that have nothing to do with one another, each of a variance of its own.

        Each sample: n ≥ 1 and finite, else ValueError. Degrees of freedom after Welch 1947, doi 10.2307/2332510.
        """
        parts = [cls.of(sample) for sample in samples]
        terms = [(weight * part.se) ** 2 for weight, part in zip(weights, parts, strict=True)]
        estimate = sum(weight * part.estimate for weight, part in zip(weights, parts, strict=True))
        n, total = min(part.n for part in parts), sum(terms)
        if n < 2 or total == 0:
            return cls(float(estimate), 0.0, n - 1, n)
        df = total**2 / sum(term**2 / part.df for term, part in zip(terms, parts, strict=True))
        return cls(float(estimate), math.sqrt(total), float(df), n)

    def interval(self, level: float = 0.95) -> Interval:
        """Student's interval."""
        half = self.se * stats.t.ppf((1 + level) / 2, self.df) if self.df else math.nan
        return Interval(self.estimate, float(self.estimate - half), float(self.estimate + half), self.n)

    def above(self, margin: float = 0.0) -> float:
        """p value of a one-sided t test that it lies above the margin."""
        return self._p(self.estimate - margin, margin)

    def below(self, margin: float = 0.0) -> float:
        """p value of a one-sided t test that it lies below the margin."""
        return self._p(margin - self.estimate, margin)

    def _p(self, excess: float, margin: float) -> float:
        if not self.df:
            return 1.0
        if self.se == 0:
            return 0.5 if _near(excess, self.estimate, margin) else float(excess < 0)
        return float(stats.t.sf(excess / self.se, self.df))


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's interval of the mean. values: (n,), n ≥ 1 and finite, else ValueError."""
    return Mean.of(values).interval(level)


# A bootstrap of fewer values than these covers far less than it says: BCa 54, 73 and 84 % at n = 2, 3 and 5.
FEWEST_RESAMPLED = 10


def bca_interval(
    values: Sequence[float], generator: np.random.Generator, level: float = 0.95, resamples: int = 9999
) -> Interval:
    """Bootstrap interval of the mean, bias-corrected and accelerated (Efron 1987, doi 10.1080/01621459.1987.10478410).

    values: (n,), n ≥ 1 and finite, else ValueError. generator: the only source of chance. NaN for the ends below
    `FEWEST_RESAMPLED` values.
    """
    values = _sample(values)
    if len(values) < FEWEST_RESAMPLED:
        return Interval(float(values.mean()), math.nan, math.nan, len(values))
    if _constant(values):
        return Mean.of(values).interval()
    found = stats.bootstrap(
        (values,), np.mean, confidence_level=level, n_resamples=resamples, method="BCa", rng=generator
    ).confidence_interval
    return Interval(float(values.mean()), float(found.low), float(found.high), len(values))


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> tuple[np.ndarray, list[int]]:
    """Differences a − b, (n,), and their seeds in rising order: those that have a finite value in both.

    a, b: seed → value, dictionaries or pandas Series.
    """
    seeds = sorted(seed for seed in set(a.keys()) & set(b.keys()) if np.isfinite(a[seed]) and np.isfinite(b[seed]))
    return np.array([a[seed] - b[seed] for seed in seeds], dtype=np.float64), seeds


def t_test(values: Sequence[float], margin: float = 0.0) -> tuple[float, float]:
    """p values of two one-sided t tests: for a mean above `margin`, and for a mean below it.

    values: (n,), n ≥ 1 and finite, else ValueError.
    """
    mean = Mean.of(values)
    return mean.above(margin), mean.below(margin)


def tost(values: Sequence[float], margin: float) -> float:
    """p value for |mean| < margin: the larger of two one-sided t tests (Schuirmann 1987, doi 10.1007/BF01068419).

    values: (n,), n ≥ 1 and finite, else ValueError.
    """
    mean = Mean.of(values)
    return max(mean.above(-margin), mean.below(margin))


def probability_of_improvement(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Interval:
    """P(A > B) + ½ P(A = B) over all pairs, with its pseudo-score interval.

    a: (n,), b: (m,); the interval's n is the smaller of the two; one value leaves the ends NaN. The ends are those θ at
    which the estimate is z standard errors away, with the variance that θ itself has where scores are exponential and
    both samples of the mean size k = (n + m) / 2:

        V(θ) = θ (1 − θ) (1 + (k − 1) ((1 − θ) / (2 − θ) + θ / (1 + θ))) / (n m)

    Unlike a bootstrap's it has a width where every a is above every b. Newcombe 2006, doi 10.1002/sim.2324, method 5.
    Raises ValueError where one is empty or not finite.
    """
    a, b = _sample(a), _sample(b)
    estimate, n = float((1 + np.sign(np.subtract.outer(a, b))).mean() / 2), min(len(a), len(b))
    if n == 1:
        return Interval(estimate, math.nan, math.nan, n)
    z, k = stats.norm.isf((1 - level) / 2), (len(a) + len(b)) / 2

    def beyond(theta):
        spread = 1 + (k - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (estimate - theta) ** 2 - z**2 * theta * (1 - theta) * spread / (len(a) * len(b))

    inside = min(max(estimate, 1e-9), 1 - 1e-9)  # 0 and 1 themselves are zero errors away from themselves
    low = 0.0 if estimate == 0 else optimize.brentq(beyond, 0, inside)
    high = 1.0 if estimate == 1 else optimize.brentq(beyond, inside, 1)
    return Interval(estimate, float(low), float(high), n)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Adjusted p values, (m,), in the given order: rejecting those ≤ α errs at all with probability ≤ α.

    p_values: (m,), m ≥ 0, each from 0 to 1, else ValueError. Holm 1979, jstor 4615733.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p values lie between 0 and 1; got {p}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order]), 1)
    return adjusted


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p value that two classifiers err equally often on the same images.

    gained, lost: images that the second alone has right, and the first alone, ≥ 0, else ValueError. Where neither is
    better each such image is a fair coin's throw: p = min(1, 2 · P(X ≤ min(gained, lost))), X ~ B(gained + lost, 1/2).
    McNemar 1947, doi 10.1007/BF02295996.
    """
    if min(gained, lost) < 0:
        raise ValueError(f"counts of images are not negative; got {gained} and {lost}")
    return min(1.0, 2 * float(stats.binom.cdf(min(gained, lost), gained + lost, 0.5)))


def slope_weights(x: Sequence[float]) -> np.ndarray:
    """Weights w, (k,), with which Σ w·y is the least-squares slope of y over x; they sum to 0.

    x: (k,), finite, not all equal, else ValueError.
    """
    x = _sample(x)
    if _constant(x):
        raise ValueError(f"a slope needs two different points; got {x}")
    centred = x - x.mean()
    return centred / (centred @ centred)
