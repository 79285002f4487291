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
from scipy import stats

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


def _sample(values) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"needs at least one value, all of them finite, in one dimension; got {values}")
    return values


def _near(difference: float, *scale: float) -> bool:
    return abs(difference) <= ROUNDING * max(map(abs, scale))


def _constant(values: np.ndarray) -> bool:
    return _near(np.ptp(values), values.min(), values.max())


def _vanish(deviations: np.ndarray, values: np.ndarray) -> bool:
    return _near(np.abs(deviations).max(), np.abs(values).max())


def _settled(values: np.ndarray) -> Interval | None:
    """The interval that needs no computation: of one value, or of equal ones."""
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    return Interval(mean, mean, mean, len(values)) if _constant(values) else None


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's interval of the mean. values: (n,), n ≥ 1 and finite, else ValueError."""
    values = _sample(values)
    if settled := _settled(values):
        return settled
    ends = stats.ttest_1samp(values, 0.0).confidence_interval(level)
    return Interval(float(values.mean()), float(ends.low), float(ends.high), len(values))


def bca_interval(
    values: Sequence[float], generator: np.random.Generator, level: float = 0.95, resamples: int = 9999
) -> Interval:
    """Bootstrap interval of the mean, bias-corrected and accelerated (Efron 1987, doi 10.1080/01621459.1987.10478410).

    values: (n,), n ≥ 1 and finite, else ValueError. generator: the only source of chance. With five values it is
    narrower than it should be; `t_interval` is the one to decide by.
    """
    values = _sample(values)
    if settled := _settled(values):
        return settled
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
    values = _sample(values)
    if len(values) == 1:
        return 1.0, 1.0
    if _constant(values):
        excess = values.mean() - margin
        p = 0.5 if _near(excess, values.mean(), margin) else float(excess < 0)
        return p, 1 - p
    greater, less = (stats.ttest_1samp(values, margin, alternative=side).pvalue for side in ("greater", "less"))
    return float(greater), float(less)


def tost(values: Sequence[float], margin: float) -> float:
    """p value for |mean| < margin: the larger of two one-sided t tests (Schuirmann 1987, doi 10.1007/BF01068419).

    values: (n,), n ≥ 1 and finite, else ValueError.
    """
    return max(t_test(values, -margin)[0], t_test(values, margin)[1])


def probability_of_improvement(
    a: Sequence[float],
    b: Sequence[float],
    generator: np.random.Generator,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """P(A > B) + ½ P(A = B) over all pairs, with a percentile bootstrap interval.

    a: (n,), b: (m,), resampled apart from each other; the interval's n is the smaller of the two. generator: the only
    source of chance. Raises ValueError where one is empty or not finite. Agarwal et al. 2021, arXiv 2108.13264.
    """
    a, b = _sample(a), _sample(b)

    def share(a, b, axis=-1):
        return (1 + np.sign(a[..., :, None] - b[..., None, :])).mean(axis=(-2, -1)) / 2

    estimate, n = float(share(a, b)), min(len(a), len(b))
    if n == 1:
        return Interval(estimate, math.nan, math.nan, n)
    options = {"confidence_level": level, "n_resamples": resamples, "method": "percentile", "rng": generator}
    found = stats.bootstrap((a, b), share, vectorized=True, **options).confidence_interval
    return Interval(estimate, float(found.low), float(found.high), n)


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


@dataclass(frozen=True)
class FTest:
    """f: the ratio of two mean squares. df: their degrees of freedom. p: of a ratio at least as large by chance."""

    f: float
    df: tuple[int, int]
    p: float


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
    if _vanish(residual, y):
        none = _vanish(effects, y)
        return FTest(0.0 if none else math.inf, df, float(none))
    f = (n * (effects**2).sum() / df[0]) / ((residual**2).sum() / df[1])
    return FTest(float(f), df, float(stats.f.sf(f, *df)))


def slope_weights(x: Sequence[float]) -> np.ndarray:
    """Weights w, (k,), with which Σ w·y is the least-squares slope of y over x; they sum to 0.

    x: (k,), finite, not all equal, else ValueError.
    """
    x = _sample(x)
    if _constant(x):
        raise ValueError(f"a slope needs two different points; got {x}")
    centred = x - x.mean()
    return centred / (centred @ centred)
