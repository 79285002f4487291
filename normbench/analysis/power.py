"""What so many seeds can show: the power of t tests."""

import math

from scipy import optimize, stats

from normbench.analysis.statistics import Mean

POWER, ALPHA = 0.8, 0.05


def detectable(mean: Mean, power: float = POWER, alpha: float = ALPHA) -> float:
    """The distance from the margin that a two-sided t test at α finds with this probability, in the unit of the mean.

    By the noncentral t distribution, with the spread that was seen. NaN without a spread or its degrees of freedom.
    """
    if not mean.df or mean.se == 0 or math.isnan(mean.se):
        return math.nan
    critical = stats.t.isf(alpha / 2, mean.df)

    def short(distance):  # in standard errors
        return stats.nct.sf(critical, mean.df, distance) - power

    high = critical
    while short(high) < 0:
        high *= 2
    return float(mean.se * optimize.brentq(short, 0, high))


def equivalent(mean: Mean, power: float = POWER, alpha: float = ALPHA) -> float:
    """The least margin within which an equivalence test at α/2 a side puts, with this probability, what is equal.

    Both of its tests have to succeed; each fails with probability (1 − power) / 2 at most.
    """
    return detectable(mean, (1 + power) / 2, alpha)


def like(mean: Mean, n: int) -> Mean:
    """The same spread seen in n values, of each cell, instead."""
    return Mean(mean.estimate, mean.se * math.sqrt(mean.n / n), mean.df / (mean.n - 1) * (n - 1), n)
