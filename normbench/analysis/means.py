"""Means and their intervals, on the scale of an outcome; and where there are none to be had from so few values."""

import math
from collections.abc import Sequence

import numpy as np

from normbench.analysis.statistics import Interval, t_interval

FEWEST = 3  # with fewer values an interval says less than they do


def mean_of(values: Sequence[float], scale: str = "linear", level: float = 0.95) -> Interval:
    """The mean and its t interval; on a log scale the geometric mean, and the interval of the logarithms.

    values: (n,), n ≥ 1 and finite, else ValueError. Of fewer than `FEWEST`, and of some that a log scale does not have,
    the ends are NaN and the estimate is the median: they are to be shown one by one.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < FEWEST or (scale == "log" and (values <= 0).any()):
        return Interval(float(np.median(values)), math.nan, math.nan, len(values))
    if scale != "log":
        return t_interval(values, level)
    found = t_interval(np.log(values), level)
    return Interval(math.exp(found.estimate), math.exp(found.low), math.exp(found.high), found.n)
