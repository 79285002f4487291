"""Which rows of runs.csv stand behind a statement: one grammar for claims, figures and tables.

`where`, and every cell of a claim, maps a column to a value or to a list of values. A row has the value where

* the value is null and the row's cell is empty;
* the value is a number, and the cell is that number but for rounding (1e-9 of it): a rate that was written to a file
  and read again may differ in its last bit; a column of texts may hold numbers, too;
* the value is a text, and so is the cell, letter by letter.

Where a study has runs of several measurements, what is asked of an outcome is asked of those alone that declare it.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from pandas.api.types import is_list_like, is_numeric_dtype

from normbench.analysis.columns import MEASUREMENT
from normbench.analysis.statistics import Best, best_of
from normbench.errors import InputError, choices_text
from normbench.records.metrics import MEASUREMENTS, OBJECTIVE, OVER, of_measurement, outcome_of
from normbench.words import typed

# What a cell of a claim may say beside columns and their values.
BESIDE = ("metric", "best")
# A metric that every table has: 1 for a replicate that diverged, else 0.
DIVERGED = "diverged"
# How near two numbers are that are the same.
ROUNDING = 1e-9


def listed(value) -> list:
    """The values that are wanted of a column: one, or a list of them."""
    return list(value) if is_list_like(value) and not isinstance(value, dict) else [value]


def has_value(column: pd.Series, value) -> pd.Series:
    """Which cells of a column have a value, or one of a list of them: (n,), true or false."""
    wanted, cells = listed(value), column.unique()
    found = [cell for cell in cells if any(_same(cell, one) for one in wanted)]
    return column.isin(found) | (column.isna() & any(_empty(one) for one in wanted))


def _same(cell, value) -> bool:
    if _empty(cell) or _empty(value):
        return False
    if isinstance(value, str):
        return not _is_number(cell) and str(cell) == value
    if str(cell) == str(value):
        return True
    try:
        return math.isclose(float(cell), float(value), rel_tol=ROUNDING)
    except ValueError:  # a text that is no number
        return False


def _empty(value) -> bool:
    return bool(pd.isna(value))


def _is_number(cell) -> bool:
    return isinstance(cell, int | float | np.number) and not isinstance(cell, bool)


def select(rows: pd.DataFrame, where: Mapping | None, lacks: Callable[[str, object], Exception]) -> pd.DataFrame:
    """The rows that have every value of `where`.

    lacks: makes the error, of a column that the table does not have and the value that it was to have.
    """
    for column, value in (where or {}).items():
        if column not in rows:
            raise lacks(column, value)
        rows = rows[has_value(rows[column], value)]
    return rows


def counted(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that count."""
    return rows[rows["status"].isin(OVER)]


def concerning(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of the measurements that declare this outcome; all where it is none, or all are of one measurement."""
    declare = [name for name in MEASUREMENTS if metric in {outcome.name for outcome in of_measurement(name)}]
    return rows[rows[MEASUREMENT].isin(declare)] if declare and MEASUREMENT in rows else rows


def measured(rows: pd.DataFrame, columns: Iterable[str]) -> list[str]:
    """Those of the columns that the table has, and has values in."""
    return [column for column in columns if column in rows and rows[column].notna().any()]


def censored(rows: pd.DataFrame, metric: str) -> pd.Series:
    """Where the value is only a bound: the target was not reached in all the steps of a training."""
    reached = outcome_of(metric).reached
    return rows[reached].eq(False) if reached in rows else pd.Series(False, rows.index)


def best(rows: pd.DataFrame, column: str) -> Best | None:
    """The value of a column that the objective is best at, of the rows that count; None where there are none."""
    tried = counted(rows)
    tried = tried[tried[column].notna() & tried[OBJECTIVE].notna()]
    return None if tried.empty else best_of(tried[OBJECTIVE].astype(float), tried[column])


# --- The cells of a claim. --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """The replicates of one cell by seed: their value (NaN where there is none), and what became of them.

    over: whose runs are over. runs: the run_id of each. remark: which value `best` chose, and how many lack a value
    that was sought.
    """

    label: str
    metric: str
    values: pd.Series
    over: pd.Series
    diverged: pd.Series
    censored: pd.Series
    runs: pd.Series
    remark: str = ""


def require(place: str, value, column: str, columns, what: str = "column") -> None:
    """Raises an InputError of the key `place` where the table lacks the column."""
    if column not in columns:
        raise lacking(place, value, column, columns, what)


def lacking(place: str, value, column: str, columns, what: str = "column") -> InputError:
    return InputError(place, typed(value), f"the table has no such {what}; {choices_text(column, columns)}")


def columns_of(selector: Mapping) -> dict:
    """The columns and values of a cell, without what else it says."""
    return {column: value for column, value in selector.items() if column not in BESIDE}


def rows_of(place: str, selector: Mapping, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of a cell. place: the claim and its key. Raises InputError for a column that the table lacks."""

    def lacks(column, value):
        return lacking(f"{place}.{column}", value, column, runs.columns)

    return select(runs, columns_of(selector), lacks)


def cell(claim: str, key: str, label: str, selector: Mapping, metric: str, runs: pd.DataFrame) -> Cell:
    """The values of a cell.

    claim, key: where it stands in the file. metric: of the claim; the cell may have one of its own.
    Raises InputError where a seed has more than one row, or the metric is no column of numbers.
    """
    place = f"{claim}.{key}"
    own, metric = "metric" in selector, selector.get("metric", metric)
    rows, remark = concerning(rows_of(place, selector, runs), metric), ""
    if "best" in selector:
        rows, remark = _at_best(place, label, selector["best"], rows)
    numbers = [DIVERGED, *(column for column in runs if is_numeric_dtype(runs[column]) or runs[column].isna().all())]
    require(f"{place}.metric" if own else f"{claim}.metric", metric, metric, numbers, "column of numbers")
    if rows.seed.duplicated().any():
        seed = rows.seed[rows.seed.duplicated()].iloc[0]
        found = ", ".join(rows.run_id[rows.seed == seed])
        wrong = f"several runs with seed {seed}: {found}; add a column that tells them apart"
        raise InputError(place, typed(dict(selector)), wrong)
    rows = rows.set_index("seed")
    diverged, over, outcome = rows.status.eq("diverged"), rows.status.isin(OVER), outcome_of(metric)
    values = (diverged if metric == DIVERGED else rows[metric]).astype(float)
    values = values.where(over & np.isfinite(values))
    if outcome.sought:  # what became of the training beside which it was sought has nothing to do with it
        diverged &= False
        if none := (rows.get(outcome.sought, values).notna() & values.isna()).sum():
            remark = "; ".join(filter(None, (remark, f"{label}: no {outcome.title} for {none} of {len(rows)}")))
    if metric == DIVERGED:  # that is the value
        diverged = diverged & False
    return Cell(label, metric, values, over, diverged, censored(rows, metric), rows.run_id, remark)


def _at_best(place: str, label: str, column: str, rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows at the best value of a column, and a remark on which that is."""
    for needed in (column, OBJECTIVE):
        require(f"{place}.best", column, needed, rows.columns)
    found = best(rows, column)
    if found is None:
        return rows[:0], ""
    tried = "value" if found.tried == 1 else f"of {found.tried} values"
    remark = f"{label}: {column}={typed(found.value)} is the best {tried}"
    if found.tried > 1 and found.edge:
        remark += f", the {found.edge} of the grid: widen it"
    return rows[rows[column] == found.value], remark


def levels(claim: str, where: Mapping, columns: list[str], given, metric: str, runs: pd.DataFrame) -> dict[str, list]:
    """The values of each of the columns that a claim goes over. given: `over` as it stands in the file."""
    found = {}
    for column in columns:
        require(f"{claim}.over", given, column, runs.columns)
        # Values that the claim lists are levels even where the table has none of their runs.
        there = concerning(rows_of(f"{claim}.where", where, runs), metric)[column].dropna().unique().tolist()
        found[column] = list(dict.fromkeys(where.get(column, sorted(there))))
    return found


def cells_of_levels(claim: str, where: Mapping, levels: dict[str, list], metric: str, runs) -> dict[object, Cell]:
    """By the value of the one column, or by the pair of values, those of the first column outermost."""
    cells = {}
    for values in product(*levels.values()):
        chosen = dict(zip(levels, values, strict=True))
        label = " ".join(f"{column}={typed(value)}" for column, value in chosen.items())
        key = values if len(values) > 1 else values[0]
        cells[key] = cell(claim, "where", label, {**where, **chosen}, metric, runs)
    return cells


def remarks(selectors: Iterable[Mapping], runs: pd.DataFrame, cells: list[Cell], table: pd.DataFrame) -> list[str]:
    """What a reader has to know about the replicates that stand behind a verdict. table: (seeds, cells), with gaps."""
    told = []
    for selector in selectors:
        for column, value in columns_of(selector).items():
            strange = [one for one in listed(value) if not has_value(runs[column], one).any()]
            told += [f"no run of the table has {column}={typed(one)}" for one in strange]
    told += [cell.remark for cell in cells if cell.remark]
    for cell in cells:
        if cell.values.isna().all():
            told.append(f"{cell.label}: no {'values of ' + cell.metric if len(cell.values) else 'runs'}")
    complete = table.dropna().index
    if len(complete) < len(table):
        told.append(f"{len(table) - len(complete)} of {len(table)} seeds missing")
    for cell in cells:
        told += _fates(cell, complete)
    return list(dict.fromkeys(told))


def _fates(cell: Cell, complete: pd.Index) -> list[str]:
    """How many of a cell's replicates diverged, or are censored, among the seeds that all cells have."""
    told = []
    lost, silent = cell.diverged, cell.diverged & cell.values.isna()
    if count := lost.reindex(complete, fill_value=False).sum():
        at_chance = " at chance" if outcome_of(cell.metric).chance else ""
        told.append(f"{cell.label}: {count} of {len(complete)} diverged, counted{at_chance}")
    if silent.any():
        told.append(f"{cell.label}: {silent.sum()} diverged without {cell.metric}, not counted")
    if count := cell.censored.reindex(complete, fill_value=False).sum():
        told.append(f"{cell.label}: {count} of {len(complete)} censored: target not reached")
    return told
