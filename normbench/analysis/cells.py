"""The cells of summary.md: what the replicates of an arm come to, in digits."""

import math

import pandas as pd

from normbench.analysis.evidence import censored
from normbench.analysis.means import FEWEST, mean_of
from normbench.analysis.statistics import Interval
from normbench.records.metrics import Outcome

MOST_LISTED = 5  # values of a cell that has no mean
FEW = " Of fewer than three replicates the values are shown."


def told(outcome: Outcome, group: pd.DataFrame) -> str:
    """What the rows of an arm that count say of an outcome."""
    if outcome.name not in group:
        return "–"
    if outcome.reached:
        return _bounded(outcome, group)
    if outcome.median is None:
        return told_mean_of(group[outcome.name], outcome.digits, outcome.scale)
    if outcome.sought:
        sought, found = group[outcome.sought].notna().sum(), group[outcome.name].notna().sum()
        return f"{_median(outcome, group)} ({found} of {sought})" if sought else "–"
    return _median(outcome, group)


def told_mean(values: pd.Series, digits: str = ".2f", scale: str = "linear", sign: str = "") -> str:
    """The mean with its interval, or the values themselves; values: without gaps."""
    if values.empty:
        return "–"
    found = mean_of(values, scale)
    if math.isnan(found.low):
        return _listed(values, sign + digits)
    if scale == "log":
        return told_interval(found, sign + digits)
    return f"{found.estimate:{sign}{digits}} ± {found.high - found.estimate:{digits}}"


def told_mean_of(values: pd.Series, digits: str = ".2f", scale: str = "linear") -> str:
    """The same of those that have a value, with their number where that is not all of them."""
    found = values.dropna()
    return told_mean(found, digits, scale) + (f" (n = {len(found)})" if 0 < len(found) < len(values) else "")


def told_interval(interval: Interval, digits: str) -> str:
    """`+1.46 [+0.15, +2.78]`."""
    return f"{interval.estimate:{digits}} [{interval.low:{digits}}, {interval.high:{digits}}]"


def ratio_digits(*ratios: float) -> str:
    """Three digits, or as many as tell a ratio from 1, of an interval its ends from one another."""
    low, high = (min(ratios), max(ratios)) if len(ratios) > 1 else (1.0, ratios[0])
    apart = abs(math.log(high / low)) if low > 0 and 0 < high < math.inf else 0
    digits = 1 + math.ceil(-math.log10(apart)) if apart else 0
    return f"#.{min(digits, 6)}g" if digits > 3 else ".3g"


def told_p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def told_p_range(values: pd.Series) -> str:
    return " to ".join(dict.fromkeys(map(told_p, (values.min(), values.max())))) if len(values) else "–"


def _median(outcome: Outcome, group: pd.DataFrame) -> str:
    values = group[outcome.name].dropna()
    if len(values) < FEWEST and values.nunique() > 1:
        return _listed(values, outcome.median)
    return f"{values.median():{outcome.median}}" if len(values) else "–"


def _listed(values: pd.Series, digits: str) -> str:
    if len(values) > MOST_LISTED:
        return f"{values.median():{digits}} ({values.min():{digits}} to {values.max():{digits}})"
    return ", ".join(f"{value:{digits}}" for value in values) or "–"


def _bounded(outcome: Outcome, group: pd.DataFrame) -> str:
    """The median of what has a value, of which the censored ones are bounds, and how many are none."""
    found = group[group[outcome.name].notna()]
    if found.empty:
        return "–"
    never = censored(found, outcome.name)
    reached = len(found) - never.sum()
    if len(found) < FEWEST:
        values = [
            f"{'≥ ' if bound else ''}{value:{outcome.median}}"
            for value, bound in zip(found[outcome.name], never, strict=True)
        ]
        return f"{', '.join(values)} ({reached} of {len(found)})"
    bound = "≥ " if 2 * reached <= len(found) else ""  # the replicates in the middle are among those not reached
    return f"{bound}{_median(outcome, found)} ({reached} of {len(found)})"
