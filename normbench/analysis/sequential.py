"""Group-sequential plans: a claim looked at several times as seeds come in, and yet wrong no more often than once.

A look at n of N seeds has the information t = n / N. Under the hypothesis the test statistics z at the looks are those
of a Brownian motion, z_k = B(t_k) / √t_k, and O'Brien–Fleming's plan stops at the first B(t_k) beyond a constant: early
looks need far more than late ones. With few seeds z is that of the t test's p value, as Jennison & Turnbull 2000 (Group
Sequential Methods, sections 2.3 and 4.4) have it.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import optimize, stats

NODES = 96  # of the Gauss–Legendre rule between a boundary and eight standard deviations below


def crossing(boundary: float, times: Sequence[float]) -> float:
    """The probability that a Brownian motion is at or above the boundary at one of the times at least.

    times: rising, above 0. Armitage, McPherson & Rowe 1969 (doi 10.2307/2343787): the density of what is still below
    goes from look to look by a convolution.
    """
    x, weights = np.polynomial.legendre.leggauss(NODES)
    points = density = None
    last = 0.0
    for time in times:
        low = min(boundary, 0.0) - 8 * math.sqrt(time)
        at = low + (boundary - low) * (x + 1) / 2
        step = math.sqrt(time - last)
        if points is None:
            found = _normal(at / step) / step
        else:
            found = _normal((at[:, None] - points) / step) @ density / step
        points, density, last = at, found * weights * (boundary - low) / 2, time
    return max(0.0, float(1 - density.sum()))  # of what is all but impossible rounding leaves less than nothing


def _normal(z: np.ndarray) -> np.ndarray:
    return np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def sequential_p(p_values: Sequence[float], times: Sequence[float]) -> float:
    """The one p value of the looks made so far: at most α where O'Brien–Fleming's plan at α had stopped at one of them.

    p_values: one-sided, of the first looks, at least one. times: the information of all looks that were planned, the
    last one 1. It may be corrected for many claims as any p value (Liu & Anderson 2008,
    doi 10.1198/016214508000000986).
    """
    z = stats.norm.isf(np.clip(p_values, 1e-300, 1.0))
    furthest = max(np.sqrt(np.asarray(times)[: len(z)]) * z)
    return 1.0 if furthest == -math.inf else min(1.0, crossing(float(furthest), times))


@lru_cache
def obrien_fleming(times: tuple[float, ...], alpha: float = 0.05) -> tuple[float, ...]:
    """The nominal two-sided level of each look: a p value at most that stops there. They rise towards alpha."""
    bound = optimize.brentq(lambda c: crossing(c, times) - alpha / 2, 0.1, 10)
    return tuple(float(2 * stats.norm.sf(bound / math.sqrt(time))) for time in times)
