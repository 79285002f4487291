"""The kinds of claims: what each takes from the file, and what it makes of the values that stand behind its cells.

A kind is a class: its docstring says when such a claim holds, its fields are the keys that it takes, each with its
check, `word` is its name in a file, and `evidence` its test. To add one: a class, and its mention in KINDS.
"""

import math
from dataclasses import dataclass, fields, replace
from itertools import combinations
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy import stats

from normbench.analysis.cells import told_interval
from normbench.analysis.censored import p_speedup, restricted_mean, speedup
from normbench.analysis.claim_keys import (
    CellKey,
    Column,
    Direction,
    Factor,
    Margin,
    Percent,
    Share,
    TwoColumns,
    Value,
    Width,
    factor,
)
from normbench.analysis.claim_keys import cell as is_cell
from normbench.analysis.evidence import DIVERGED, Cell, cell, cells_of_levels, levels, listed
from normbench.analysis.power import detectable, equivalent
from normbench.analysis.repeated import FTest, bands, beyond, interaction, isotonic, page, within
from normbench.analysis.samples import Sample
from normbench.analysis.statistics import Interval, Mean, slope_weights, t_interval
from normbench.config.checks import POSITIVE, Check
from normbench.errors import InputError
from normbench.records.metrics import HEADLINE, OBJECTIVE, outcome_of
from normbench.words import typed


@dataclass(frozen=True)
class Evidence:
    """An estimate with its interval, the one-sided p values for the claim and against it, and what there is to say.

    premise: False where what the claim presupposes is not so, and nothing is tested. contrast: one number a seed, where
    the estimate is the mean of such. pairing_ratio: the variance of that over the sum of its cells' variances.
    mean: what a t test is made of. NaN, None: not for such a claim.
    """

    interval: Interval
    p_for: float
    p_against: float
    note: str = ""
    premise: bool = True
    contrast: np.ndarray | None = None
    pairing_ratio: float = math.nan
    mean: Mean | None = None


def _f(test: FTest) -> str:
    """An F test in words: `F(1.47, 5.87) = 18.93, Greenhouse–Geisser`."""
    return f"F({test.df[0]:.3g}, {test.df[1]:.3g}) = {test.f:.2f}, Greenhouse–Geisser"


def _beyond(mean: Mean, direction: str, margin: float) -> tuple[float, float]:
    """p values that it lies above the margin (greater), or below minus the margin (less); and of the contrary."""
    if direction == "less":
        return mean.below(-margin), mean.above(-margin)
    return mean.above(margin), mean.below(margin)


class Kind:
    """What a kind of claims has beside its keys. Kinds over levels of a column derive from `OverLevels`."""

    word: ClassVar[str]  # as a file names it
    by: ClassVar[str] = "p value"  # what decides such a claim before correction
    metric: ClassVar[str] = HEADLINE  # where the file names none
    options: ClassVar[tuple[str, ...]] = ()  # of `scale` and `pairing`, those that it may be given
    scale: ClassVar[str] = "linear"  # of its estimate and margin, where the file does not say

    @classmethod
    def checks(cls) -> dict[str, Check]:
        """Key → check, of the keys that it takes."""
        return {field.name: field.type.__metadata__[0] for field in fields(cls)}

    def mistake(self, metric: str) -> tuple[str, str] | None:
        """The key that is wrong beside another one or the metric, and what is wrong with it."""
        return None

    @classmethod
    def bound(cls) -> str:
        """The key of what the estimate is held against."""
        return "level" if "level" in cls.checks() else "margin"

    @property
    def threshold(self) -> float:
        """What the estimate is held against, in the metric's unit; 0 for a kind without a margin."""
        return getattr(self, self.bound(), 0.0)

    def of_logs(self) -> "Kind":
        """The same claim on the logarithms of the values: its margin is a factor here, and a distance there."""
        return replace(self, **{self.bound(): math.log(self.threshold)})

    @classmethod
    def checks_of_logs(cls) -> dict[str, Check]:
        """The checks of what is a factor on a log scale."""
        return {cls.bound(): POSITIVE if cls.bound() == "level" else factor}

    def takes_bounds(self, logs: bool) -> bool:
        """Whether it can be decided where values are only bounds: steps that were not enough. logs: on a log scale."""
        return False

    @property
    def selectors(self) -> dict[str, dict]:
        """The cells that it names, by their keys."""
        return {name: getattr(self, name) for name, check in self.checks().items() if check is is_cell}

    def cells(self, claim: str, metric: str, runs: pd.DataFrame) -> tuple[dict[object, Cell], dict[str, list]]:
        """The values of its cells; and column → its levels, of what it goes over. claim: as errors name it."""
        named = self.selectors.items()
        return {key: cell(claim, key, key, selector, metric, runs) for key, selector in named}, {}

    def evidence(self, sample: Sample) -> Evidence:
        """sample: with at least one seed in each cell, and two levels of what it is over."""
        raise NotImplementedError


class Linear(Kind):
    """A kind about one weighted sum of its cells' means: a t test, paired by seed or (`pairing: none`) Welch's."""

    options = ("scale", "pairing")

    def weights(self, sample: Sample) -> dict[object, float]:
        """Cell → its weight."""
        raise NotImplementedError

    def test(self, mean: Mean) -> tuple[float, float]:
        """p values for the claim and against it."""
        return _beyond(mean, self.direction, self.margin)

    def power(self, mean: Mean) -> float:
        """What so many seeds of such a spread show with 80 % power, as a distance from the margin."""
        return detectable(mean)

    def evidence(self, sample):
        weights = self.weights(sample)
        mean = sample.mean(weights)
        contrast = sample.contrast(weights) if sample.paired else None
        ratio = sample.pairing_ratio(weights)
        interval = mean.interval(sample.level)
        return Evidence(interval, *self.test(mean), contrast=contrast, pairing_ratio=ratio, mean=mean)


class OverLevels(Kind):
    """A kind with a cell `where` that is cut up by the values of `over`: a column, or a list of them."""

    def mistake(self, metric):
        for column in listed(self.over):
            values = self.where.get(column)
            if column in self.where and (not isinstance(values, list) or len(set(values)) < 2 or None in values):
                return "where", f"must list two values of {column} or more, none of them null, or not name it"
        return None

    def cells(self, claim, metric, runs):
        found = levels(claim, self.where, listed(self.over), self.over, metric, runs)
        self.check_levels(claim, found)
        return cells_of_levels(claim, self.where, found, metric, runs), found

    def check_levels(self, claim: str, levels: dict[str, list]) -> None:
        """Raises InputError for levels that such a claim cannot be over."""


# --- The kinds. -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Level(Linear):
    """a > level (greater) or a < level (less)"""

    word, options = "level", ("scale",)
    a: CellKey
    direction: Direction
    level: Value

    def weights(self, sample):
        return {"a": 1}

    def test(self, mean):
        p = mean.above(self.level), mean.below(self.level)
        return p if self.direction == "greater" else p[::-1]


@dataclass(frozen=True)
class Difference(Linear):
    """a − b > margin (greater) or a − b < −margin (less)"""

    word = "difference"
    a: CellKey
    b: CellKey
    direction: Direction
    margin: Margin

    def weights(self, sample):
        return {"a": 1, "b": -1}

    def takes_bounds(self, logs):
        return not (self.margin or logs)

    def evidence(self, sample):
        if not sample.censored:
            return super().evidence(sample)
        # Of steps to a target that some never reached the order decides, by the log-rank test.
        a, b = sample.steps("a"), sample.steps("b")
        sooner, later = p_speedup(a, b, 1.0), p_speedup(b, a, 1.0)
        p_for, p_against = (sooner, later) if self.direction == "less" else (later, sooner)
        end = min(a.end, b.end)
        means = [np.minimum(steps.middle, end) for steps in (a, b)]
        note = f"restricted means, up to {end:g}; p: exact log-rank test"
        return Evidence(Mean.welch(means, [1, -1]).interval(sample.level), p_for, p_against, note)


@dataclass(frozen=True)
class Equivalence(Linear):
    """|a − b| < margin"""

    word = "equivalence"
    a: CellKey
    b: CellKey
    margin: Width

    def weights(self, sample):
        return {"a": 1, "b": -1}

    def test(self, mean):
        inside = max(mean.above(-self.margin), mean.below(self.margin))
        return inside, min(mean.above(self.margin), mean.below(-self.margin))

    def power(self, mean):
        return equivalent(mean)


@dataclass(frozen=True)
class NonInferiority(Linear):
    """a is worse than b by less than margin, by what is better of the metric"""

    word = "non_inferiority"
    a: CellKey
    b: CellKey
    margin: Width

    def mistake(self, metric):
        if outcome_of(metric).better is None:
            return "metric", f"{metric} is neither better where higher nor where lower: the kind difference takes it"
        return None

    def weights(self, sample):
        sign = 1 if outcome_of(sample.metric).better == "higher" else -1
        return {"a": sign, "b": -sign}

    def test(self, mean):
        return mean.above(-self.margin), mean.below(-self.margin)


@dataclass(frozen=True)
class DifferenceOfDifferences(Linear):
    """(a − b) − (c − d) > margin or < −margin"""

    word = "difference_of_differences"
    a: CellKey
    b: CellKey
    c: CellKey
    d: CellKey
    direction: Direction
    margin: Margin

    def weights(self, sample):
        return {"a": 1, "b": -1, "c": -1, "d": 1}


@dataclass(frozen=True)
class Recovery(Linear):
    """a − b > share · (reference − b), where b falls short of reference"""

    word, options = "recovery", ("pairing",)
    a: CellKey
    b: CellKey
    reference: CellKey
    share: Share

    def weights(self, sample):
        return {"a": 1, "b": self.share - 1, "reference": -self.share}

    def test(self, mean):
        return mean.above(), mean.below()

    def evidence(self, sample):
        found = super().evidence(sample)
        deficit = sample.mean({"reference": 1, "b": -1}).interval()
        gain = sample.mean({"a": 1, "b": -1}).estimate
        told = told_interval(deficit, outcome_of(sample.metric).digits)
        if deficit.low > 0:
            note = f"recovers {100 * gain / deficit.estimate:.0f} % of a deficit of {told}"
        else:
            note = f"no deficit to recover: reference − b is {told}"
        return replace(found, note=note, premise=deficit.low > 0)


@dataclass(frozen=True)
class Trend(OverLevels, Linear):
    """the values rise with `over` (greater) or fall (less); with a margin, by more than it per doubling of `over`"""

    word, options = "trend", ("scale",)
    where: CellKey
    over: Column
    direction: Direction
    margin: Margin

    def check_levels(self, claim, levels):
        if not all(POSITIVE(value) is None for value in levels[self.over]):
            wrong = f"has values that do not double: {typed(levels[self.over])}"
            raise InputError(f"{claim}.over", self.over, wrong)

    def weights(self, sample):
        keys = list(sample.values)
        if self.margin:
            return dict(zip(keys, slope_weights(np.log2(keys)), strict=True))
        return {max(keys): 1, min(keys): -1}

    def evidence(self, sample):
        found = super().evidence(sample)
        if self.margin:
            return found
        # The order of the levels decides: a slope misjudges a curve that is flat beyond a knee.
        x = sample.x[sorted(sample.x)]
        rises, falls = page(x) if len(x) > 1 else (1.0, 1.0)
        p_for, p_against = (falls, rises) if self.direction == "less" else (rises, falls)
        note = f"Page's test; estimate and interval: {x.columns[-1]:g} less {x.columns[0]:g}"
        fit = isotonic(x.mean().to_numpy(), self.direction == "less")
        note += _knee(fit, list(x), outcome_of(sample.metric).digits)
        return replace(found, p_for=p_for, p_against=p_against, note=note, mean=None)


def _knee(fit: np.ndarray, levels: list, digits: str) -> str:
    """Where a monotone fit is flat, at either end."""
    flat = np.isclose(fit, fit[-1])
    if flat[-2] and not flat.all():
        return f"; isotonic fit: flat at {fit[-1]:{digits}} from {levels[int(flat.argmax())]:g} on"
    flat = np.isclose(fit, fit[0])
    if flat[1] and not flat.all():
        return f"; isotonic fit: flat at {fit[0]:{digits}} up to {levels[int(flat.sum()) - 1]:g}"
    return ""


@dataclass(frozen=True)
class Spread(OverLevels):
    """any two values of the column `over` differ by less than margin"""

    word, options = "spread", ("scale",)
    where: CellKey
    over: Column
    margin: Width

    def evidence(self, sample):
        x = sample.x.to_numpy()
        if len(x) < 2:
            return Evidence(t_interval([np.ptp(x)]), 1.0, 1.0)
        (p_for, last), apart = within(x, self.margin), beyond(x, self.margin)
        # An F test has no two sides: half of its p stands against the claim, as a two-sided test has it.
        p_against = apart.p / 2
        furthest = bands(x, sample.level)
        decides = next(b for b in furthest if (b.a, b.b) == (last.a, last.b)) if p_for < p_against else furthest[0]
        a, b = (sample.cells[sample.x.columns[at]].label for at in (decides.a, decides.b))
        note = f"{'last within' if p_for < p_against else 'furthest apart'}: {a} above {b}, max-t band"
        if p_against <= p_for:
            note += f"; {_f(apart)}, beyond the margin"
        return Evidence(decides.interval, p_for, p_against, note)


@dataclass(frozen=True)
class Interaction(OverLevels):
    """the effect of one column depends on the other; `over` lists the two"""

    word, by, options = "interaction", "F test", ()
    where: CellKey
    over: TwoColumns

    def evidence(self, sample):
        (row, rows), (column, columns) = sample.levels.items()
        values = sample.x.to_numpy().reshape(len(sample.x), len(rows), len(columns))

        def contrast(i, k, j, m):
            return (values[:, i, j] - values[:, k, j]) - (values[:, i, m] - values[:, k, m])

        rises = combinations(range(len(rows)), 2)
        squares = [(*rise, *places) for rise in rises for places in combinations(range(len(columns)), 2)]
        i, k, j, m = max(squares, key=lambda square: abs(contrast(*square).mean()))
        if contrast(i, k, j, m).mean() < 0:
            j, m = m, j
        found = interaction(values)
        one = "difference of differences"
        one = f"the {one}" if len(squares) == 1 else f"the largest {one}, uncorrected"
        effect = f"{row}={typed(rows[i])} above {typed(rows[k])}"
        note = f"{_f(found)}; estimate and interval: {one}, of {effect}"
        note += f" at {column}={typed(columns[j])} less that at {typed(columns[m])}"
        one = contrast(i, k, j, m)
        # An F test has no two sides: half of its p stands for the claim, as a two-sided test has it, none against it.
        return Evidence(t_interval(one, sample.level), found.p / 2, 1 - found.p / 2, note, contrast=one)


@dataclass(frozen=True)
class ShareOf(Kind):
    """more (greater) or less than level % of a's replicates diverged, or have another outcome that is true or not"""

    word, metric = "share", DIVERGED
    a: CellKey
    direction: Direction
    level: Percent

    def evidence(self, sample):
        values = sample.own("a")
        count, n = int(values.sum()), len(values)
        more, fewer = (stats.binomtest(count, n, self.level / 100, alternative=side) for side in ("greater", "less"))
        ends = stats.binomtest(count, n).proportion_ci(sample.level, method="exact")
        p_for, p_against = (more, fewer) if self.direction == "greater" else (fewer, more)
        interval = Interval(100 * count / n, 100 * ends.low, 100 * ends.high, n)
        return Evidence(interval, p_for.pvalue, p_against.pvalue, f"{count} of {n}; exact binomial test and interval")


@dataclass(frozen=True)
class Speedup(Kind):
    """b takes more than `margin` times the steps of a to the best validation score that the reference comes to"""

    word, metric, scale = "speedup", OBJECTIVE, "log"
    a: CellKey
    b: CellKey
    reference: CellKey
    margin: Factor

    def evidence(self, sample):
        target = sample.best_score("reference")
        a, b = (sample.steps_to(target, key) for key in ("a", "b"))
        interval = speedup(a, b, sample.level)
        p_for, p_against = p_speedup(a, b, self.margin), p_speedup(b, a, 1 / self.margin)
        arms, end = {"a": a, "b": b}, min(a.end, b.end)
        means = ", ".join(f"{key} {restricted_mean(steps, end):.3g}" for key, steps in arms.items())
        note = f"to {target:{outcome_of(sample.metric).digits}}; restricted means up to {end:g} {sample.unit}: {means}"
        for key, steps in arms.items():
            if never := (~steps.reached).sum():
                note += f"; {key}: {never} of {len(steps.reached)} never reached it"
        return Evidence(interval, p_for, p_against, f"{note}; exact log-rank test")


KINDS: dict[str, type[Kind]] = {
    kind.word: kind
    for kind in (
        Level,
        Difference,
        Equivalence,
        NonInferiority,
        Spread,
        Trend,
        Recovery,
        Interaction,
        DifferenceOfDifferences,
        ShareOf,
        Speedup,
    )
}
