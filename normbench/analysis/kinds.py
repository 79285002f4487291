"""The kinds of claims: what each takes from the file, and what it makes of one number a seed for each of its cells.

A kind is a class: its docstring says when such a claim holds, its fields are the keys that it takes, each with its
check, `word` is its name in a file, and `evidence` its test. To add one: a class, and its mention in KINDS.
"""

from dataclasses import dataclass, fields
from itertools import combinations
from typing import Annotated, ClassVar

import numpy as np
import pandas as pd

from normbench.analysis.evidence import BESIDE, Cell, cell, cells_of_levels, levels, listed
from normbench.analysis.statistics import Interval, interaction, slope_weights, t_interval, t_test, tost
from normbench.config.checks import NOT_NEGATIVE, POSITIVE, Check, number, one_of, text
from normbench.errors import InputError
from normbench.records.metrics import outcome_of
from normbench.words import typed


@dataclass(frozen=True)
class Evidence:
    """One number a seed, the one-sided p values for the claim and against it, and what there is to say.

    premise: False where what the claim presupposes is not so, and nothing is tested.
    """

    contrast: np.ndarray
    p_for: float
    p_against: float
    note: str = ""
    premise: bool = True


def _beyond(contrast: np.ndarray, direction: str, margin: float, **more) -> Evidence:
    """That the mean lies above the margin (greater), or below minus the margin (less)."""
    if direction == "less":
        p_against, p_for = t_test(contrast, -margin)
    else:
        p_for, p_against = t_test(contrast, margin)
    return Evidence(contrast, p_for, p_against, **more)


def _within(contrast: np.ndarray, margin: float) -> Evidence:
    """That the mean lies between minus the margin and the margin."""
    return Evidence(contrast, tost(contrast, margin), min(t_test(contrast, margin)[0], t_test(contrast, -margin)[1]))


def _told(known: Interval, metric: str) -> str:
    digits = outcome_of(metric).digits
    return f"{known.estimate:{digits}} [{known.low:{digits}}, {known.high:{digits}}]"


# --- What the keys take. ----------------------------------------------------------------------------------------------


def _cell(value) -> str | None:
    def scalar(v):
        return v is None or isinstance(v, str | int | float)

    if (
        isinstance(value, dict)
        and set(value) - {*BESIDE}
        and all(isinstance(column, str) for column in value)
        and all(scalar(v) or (isinstance(v, list) and v and all(map(scalar, v))) for v in value.values())
        and all(isinstance(value.get(key, ""), str) for key in BESIDE)
    ):
        return None
    return "must be a cell like {method: group, batch_size: [2, 4]}: columns of the table, each with a value or a list"


def _two_columns(value) -> str | None:
    good = isinstance(value, list) and len(value) == 2 and not any(map(text, value)) and value[0] != value[1]
    return None if good else "must be a list of two different columns, like [data.noise, data.input]"


CellKey = Annotated[dict, _cell]
Column = Annotated[str, text]
TwoColumns = Annotated[list[str], _two_columns]
Direction = Annotated[str, one_of(("greater", "less"))]
Margin = Annotated[float, NOT_NEGATIVE]
Width = Annotated[float, POSITIVE]
Share = Annotated[float, number(lambda v: 0 < v <= 1, "above 0, at most 1")]
Value = Annotated[float, number(lambda v: True, "in the metric's unit")]


class Kind:
    """What a kind of claims has beside its keys. Kinds over levels of a column derive from `OverLevels`."""

    word: ClassVar[str]  # as a file names it
    by: ClassVar[str] = "95 % interval"  # what decides such a claim before correction

    @classmethod
    def checks(cls) -> dict[str, Check]:
        """Key → check, of the keys that it takes."""
        return {field.name: field.type.__metadata__[0] for field in fields(cls)}

    def mistake(self) -> tuple[str, str] | None:
        """The key that is wrong beside another one, and what is wrong with it."""
        return None

    @property
    def threshold(self) -> float:
        """What the estimate is held against, in the metric's unit; 0 for a kind without a margin."""
        return getattr(self, "margin", 0.0)

    @property
    def selectors(self) -> dict[str, dict]:
        """The cells that it names, by their keys."""
        return {name: getattr(self, name) for name, check in self.checks().items() if check is _cell}

    def cells(self, claim: str, metric: str, runs: pd.DataFrame) -> tuple[dict[object, Cell], dict[str, list]]:
        """The values of its cells; and column → its levels, of what it goes over. claim: as errors name it."""
        named = self.selectors.items()
        return {key: cell(claim, key, key, selector, metric, runs) for key, selector in named}, {}

    def evidence(self, x: pd.DataFrame, cells: dict[object, Cell], levels: dict[str, list]) -> Evidence:
        """x: (seeds, cells), complete, with at least one seed and two levels of what it is over."""
        raise NotImplementedError


class OverLevels(Kind):
    """A kind with a cell `where` that is cut up by the values of `over`: a column, or a list of them."""

    def mistake(self):
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
class Level(Kind):
    """a > level (greater) or a < level (less)"""

    word = "level"
    a: CellKey
    direction: Direction
    level: Value

    @property
    def threshold(self):
        return self.level

    def evidence(self, x, cells, levels):
        above, below = t_test(x.a, self.level)
        return Evidence(x.a.to_numpy(), *((above, below) if self.direction == "greater" else (below, above)))


@dataclass(frozen=True)
class Difference(Kind):
    """a − b > margin (greater) or a − b < −margin (less)"""

    word = "difference"
    a: CellKey
    b: CellKey
    direction: Direction
    margin: Margin

    def evidence(self, x, cells, levels):
        return _beyond((x.a - x.b).to_numpy(), self.direction, self.margin)


@dataclass(frozen=True)
class Equivalence(Kind):
    """|a − b| < margin"""

    word = "equivalence"
    a: CellKey
    b: CellKey
    margin: Width

    def evidence(self, x, cells, levels):
        return _within((x.a - x.b).to_numpy(), self.margin)


@dataclass(frozen=True)
class Spread(OverLevels):
    """any two values of the column `over` differ by less than margin"""

    word = "spread"
    where: CellKey
    over: Column
    margin: Width

    def evidence(self, x, cells, levels):
        pairs = {(a, b): _within((x[a] - x[b]).to_numpy(), self.margin) for a, b in combinations(x.columns, 2)}
        widest = max(pairs, key=lambda pair: abs(pairs[pair].contrast.mean()))
        contrast = pairs[widest].contrast
        if contrast.mean() < 0:
            widest, contrast = widest[::-1], -contrast
        # The claim is that all pairs lie within (intersection-union: no correction), its contrary that one does not.
        return Evidence(
            contrast,
            max(pair.p_for for pair in pairs.values()),
            min(1.0, len(pairs) * min(pair.p_against for pair in pairs.values())),
            note=f"furthest apart: {cells[widest[0]].label} above {cells[widest[1]].label}",
        )


@dataclass(frozen=True)
class Trend(OverLevels):
    """the slope per doubling of `over` is > margin or < −margin"""

    word = "trend"
    where: CellKey
    over: Column
    direction: Direction
    margin: Margin

    def check_levels(self, claim, levels):
        if not all(POSITIVE(value) is None for value in levels[self.over]):
            wrong = f"has values that do not double: {typed(levels[self.over])}"
            raise InputError(f"{claim}.over", self.over, wrong)

    def evidence(self, x, cells, levels):
        # The weights sum to 0; without the common level the slope of equal values is exactly 0.
        rise = (x - x[[x.columns[0]]].to_numpy()).to_numpy()
        return _beyond(rise @ slope_weights(np.log2(x.columns.tolist())), self.direction, self.margin)


@dataclass(frozen=True)
class Recovery(Kind):
    """a − b > share · (reference − b), where b falls short of reference"""

    word = "recovery"
    a: CellKey
    b: CellKey
    reference: CellKey
    share: Share

    def evidence(self, x, cells, levels):
        gain, deficit = (x.a - x.b).to_numpy(), (x.reference - x.b).to_numpy()
        known = t_interval(deficit)
        told = _told(known, cells["b"].metric)
        if known.low > 0:
            note = f"recovers {100 * gain.mean() / known.estimate:.0f} % of a deficit of {told}"
        else:
            note = f"no deficit to recover: reference − b is {told}"
        return _beyond(gain - self.share * deficit, "greater", 0.0, note=note, premise=known.low > 0)


@dataclass(frozen=True)
class Interaction(OverLevels):
    """the effect of one column depends on the other; `over` lists the two"""

    word, by = "interaction", "F test"
    where: CellKey
    over: TwoColumns

    def evidence(self, x, cells, levels):
        (row, rows), (column, columns) = levels.items()
        values = x.to_numpy().reshape(len(x), len(rows), len(columns))

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
        note = f"F({found.df[0]}, {found.df[1]}) = {found.f:.2f}; estimate and interval: {one}, of {effect}"
        note += f" at {column}={typed(columns[j])} less that at {typed(columns[m])}"
        # An F test has no two sides: half of its p stands for the claim, as a two-sided test has it, none against it.
        return Evidence(contrast(i, k, j, m), found.p / 2, 1 - found.p / 2, note)


@dataclass(frozen=True)
class DifferenceOfDifferences(Kind):
    """(a − b) − (c − d) > margin or < −margin"""

    word = "difference_of_differences"
    a: CellKey
    b: CellKey
    c: CellKey
    d: CellKey
    direction: Direction
    margin: Margin

    def evidence(self, x, cells, levels):
        return _beyond(((x.a - x.b) - (x.c - x.d)).to_numpy(), self.direction, self.margin)


KINDS: dict[str, type[Kind]] = {
    kind.word: kind
    for kind in (Level, Difference, Equivalence, Spread, Trend, Recovery, Interaction, DifferenceOfDifferences)
}


def table_of_kinds() -> str:
    """A line a kind: its name, its keys, and when such a claim holds; `claims` has it in its docstring."""
    lines = []
    for word, kind in KINDS.items():
        name = f"{word:<13}" if len(word) < 13 else f"{word}\n{'':13}"
        lines.append(f"{name}{', '.join(kind.checks()):<34}{kind.__doc__}")
    return "\n".join(lines)
