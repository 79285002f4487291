"""Steps to a target, of which a training knows less than their number: between which two validations, or never.

A training that was validated every so many steps reached the target after one validation and not after the one before:
its steps lie in (low, high]. One that never did has high = inf, and low is all its steps.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from normbench.analysis.statistics import Interval

MOST_PERMUTATIONS = 20_000  # above, as many are drawn


@dataclass(frozen=True)
class Steps:
    """Of the replicates of a cell: low, high: (n,), the steps lie above low, and at or below high.

    end: of all their trainings, or of the shortest of them.
    """

    low: np.ndarray
    high: np.ndarray
    end: float

    @property
    def reached(self) -> np.ndarray:
        """Which ever reached the target: (n,), true or false."""
        return np.isfinite(self.high)

    @property
    def earliest(self) -> np.ndarray:
        """The lower bounds of what was reached; inf of what was not."""
        return np.where(self.reached, self.low, math.inf)

    @property
    def middle(self) -> np.ndarray:
        """The middles of the intervals; inf of what was not reached."""
        return (self.low + self.high) / 2


def steps_to(target: float, steps: Sequence[float], scores: Sequence[float]) -> tuple[float, float]:
    """(low, high) of one training. steps, scores: of its validations, in order; low is 0 where the first reached it."""
    reached = np.flatnonzero(np.asarray(scores, dtype=float) >= target)
    if not len(reached):
        return float(max(steps, default=0)), math.inf
    at = reached[0]
    return float(steps[at - 1]) if at else 0.0, float(steps[at])


def restricted_mean(steps: Steps, end: float) -> float:
    """The mean of min(steps, end), of the middles of the intervals.

    Where every training lasts to the end it is the area under the survival curve up to there, and nothing is estimated.
    """
    return float(np.minimum(steps.middle, end).mean())


def log_rank(times: np.ndarray, events: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Observed less expected events of the first sample, Σ d₁ − d · n₁ / n over the times of events: (p,).

    times, events: (n,), of both samples; an event is a target that was reached, else the time is a bound. first:
    (p, n), true for the first sample, a row a way to split them. Mantel 1966.
    """
    total = np.zeros(len(first))
    for time in np.unique(times[events]):
        at_risk, here = times >= time, events & (times == time)
        total += (first & here).sum(1) - here.sum() * (first & at_risk).sum(1) / at_risk.sum()
    return total


def _splits(n: int, m: int) -> np.ndarray:
    """The ways to choose n of n + m, a row each; or as many drawn of them, the same at every call. The first: as is."""
    if math.comb(n + m, n) <= MOST_PERMUTATIONS:
        found = np.zeros((math.comb(n + m, n), n + m), dtype=bool)
        for row, chosen in zip(found, combinations(range(n + m), n), strict=True):
            row[list(chosen)] = True
        return found
    drawn = np.random.default_rng([n, m]).random((MOST_PERMUTATIONS - 1, n + m)).argsort(1) < n
    return np.vstack([np.arange(n + m) < n, drawn])


def p_faster(fast: tuple[np.ndarray, np.ndarray], slow: tuple[np.ndarray, np.ndarray]) -> float:
    """One-sided p value that the first sample comes sooner: the log-rank statistic among all ways to split the values.

    fast, slow: times and whether each is an event, with one end of all observation. Exact where each split is tried.
    """
    times, events = (np.concatenate(both) for both in zip(fast, slow, strict=True))
    found = log_rank(times, events, _splits(len(fast[0]), len(slow[0])))
    return float((found >= found[0] - 1e-9).mean())


def _seen(times: np.ndarray, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Times as far as they are observed, and whether each is an event."""
    return np.minimum(times, end), times <= end


def p_speedup(a: Steps, b: Steps, factor: float) -> float:
    """One-sided p value that b takes more than `factor` times the steps of a.

    The steps of a, times the factor, against those of b. Of each interval that end counts which speaks against it: of a
    the last, of b the first. Both are observed to one end, the earlier of the two.
    """
    end = min(factor * a.end, b.end)
    return p_faster(_seen(factor * a.high, end), _seen(b.earliest, end))


def speedup(a: Steps, b: Steps, level: float = 0.95) -> Interval:
    """How many times the steps of a those of b are: the factors that `p_speedup` does not rule out, either way.

    0 and inf for ends that nothing bounds. The estimate is the factor at which the log-rank statistic of the intervals'
    middles changes its sign.
    """
    alpha = (1 - level) / 2

    def factors(over, under):
        """Where the order of the two samples changes."""
        over, under = (np.append(times[np.isfinite(times)], end) for times, end in ((over, b.end), (under, a.end)))
        found = np.divide.outer(over, under[under > 0])
        found = found[np.isfinite(found) & (found > 0)]
        return np.unique(found)

    low = _last(factors(b.earliest, a.high), lambda factor: p_speedup(a, b, factor * (1 - 1e-9)) <= alpha)
    high = _last(-factors(b.high, a.earliest)[::-1], lambda factor: p_speedup(b, a, -1 / factor * (1 - 1e-9)) <= alpha)

    def sooner(factor):  # a, at this factor
        end = min(factor * a.end, b.end)
        (x, x_event), (y, y_event) = _seen(factor * a.middle, end), _seen(b.middle, end)
        first = np.arange(len(x) + len(y)) < len(x)
        return log_rank(np.concatenate([x, y]), np.concatenate([x_event, y_event]), first[None])[0] > 0

    middles = factors(b.middle, a.middle)
    estimate = _last(middles, lambda factor: sooner(factor * (1 - 1e-9)))
    n = min(len(a.low), len(b.low))
    return Interval(estimate or math.nan, low or 0.0, -high if high else math.inf, n)


def _last(factors: np.ndarray, holds) -> float | None:
    """The last of the rising factors at which something holds that holds for all before it; None where for none."""
    at = bisect_left(range(len(factors)), True, key=lambda index: not holds(factors[index]))
    return float(factors[at - 1]) if at else None
