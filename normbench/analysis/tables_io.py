"""Tables as files: CSV, the same bytes for the same table."""

import csv
from collections.abc import Callable, Iterable
from io import StringIO
from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype

from normbench.analysis.columns import NEVER_EMPTY, NUMBERS, TEXTS
from normbench.config.sizes import MOST_INTEGER
from normbench.errors import UserError, choices_text
from normbench.records.files import plainly, write_whole
from normbench.records.metrics import STATUSES, flags, outcomes
from normbench.words import typed


def write(table: pd.DataFrame, path: Path) -> None:
    """A table as CSV, numbers to full precision, the same bytes for the same table. Raises UserError."""
    write_whole(path, _texts(table, _harmless).to_csv(index=False, lineterminator="\n"))


def read(path: Path, columns: Iterable[str] = ()) -> pd.DataFrame:
    """A table that `write` wrote. Raises UserError where there is none, or not one with these columns."""
    if not path.is_file():
        raise UserError(f"{path}: no such table; scripts/collect.py writes it")
    try:
        with plainly(path):
            content = path.read_text("utf-8-sig")  # spreadsheets put a mark before it
        head = next(csv.reader(StringIO(content)), [])
        empty = {column: [""] if column in TEXTS else EMPTY for column in head}
        table = pd.read_csv(StringIO(content), dtype=dict.fromkeys(TEXTS, str), keep_default_na=False, na_values=empty)
    except (ValueError, OverflowError, csv.Error) as error:
        raise UserError(f"{path}: no table that scripts/collect.py wrote ({' '.join(str(error).split())})") from None
    if twice := [column for column in dict.fromkeys(head) if head.count(column) > 1]:
        raise UserError(f"{path}: no table that scripts/collect.py wrote (several columns {', '.join(twice)})")
    table = complete(_texts(table, _as_written), path, columns)
    _check_values(table, path)
    return table.astype({column: "Int64" for column in WHOLE if column in table})


def complete(table: pd.DataFrame, path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """The table, read from that path, if it has these columns. Raises UserError where it lacks one."""
    if lacking := [column for column in columns if column not in table]:
        raise UserError(f"{path}: no table that scripts/collect.py wrote (without {', '.join(lacking)})")
    return table


EMPTY = ("", "nan", "NaN", "NA", "<NA>", "null", "None")  # what is nothing, but in texts: a study may be called NA
WHOLE = ("seed", "diverged_epoch")  # integers, or nothing


def _check_values(table: pd.DataFrame, path: Path) -> None:
    """Raises UserError for the first cell, of a table edited by hand, that cannot be what its column is of."""
    known = outcomes()
    for column in table:
        cells, checks = table[column], []
        if column in NEVER_EMPTY:
            checks.append((cells.isna(), "must not be empty"))
        if column == "status":
            checks.append((~cells.isin(STATUSES), choices_text(None, STATUSES)))
        elif column in WHOLE:
            checks.append((cells.notna() & pd.to_numeric(cells, "coerce").map(_is_broken), "must be an integer"))
        elif column in NUMBERS or column in known:
            checks.append((cells.notna() & pd.to_numeric(cells, "coerce").isna(), "must be a number"))
            if column not in flags():
                checks.append((cells.map(lambda cell: isinstance(cell, bool)), "must be a number"))
        for wrong, words in checks:
            if wrong.any():
                at = int(wrong.to_numpy().argmax())
                raise UserError(f"{path}, row {at + 1}: {column}={typed(cells.iloc[at], empty='')}: {words}")


# What a spreadsheet takes for a formula when a cell begins with it; the mark that makes it text, as there.
FORMULA, MARK = ("=", "+", "-", "@", "\t", "\r"), "'"


def _harmless(cell):
    """A text that a spreadsheet would work out gets a mark before it; so does one that has the mark already."""
    if not isinstance(cell, str) or not cell.startswith((*FORMULA, MARK)):
        return cell
    return cell if _is_number(cell) else MARK + cell


def _texts(table: pd.DataFrame, change: Callable) -> pd.DataFrame:
    """The table with every text changed."""
    columns = [column for column in table if not is_numeric_dtype(table[column])]
    return table.assign(**{column: table[column].map(change) for column in columns})


def _as_written(cell):
    marked = isinstance(cell, str) and cell.startswith(tuple(MARK + first for first in (*FORMULA, MARK)))
    return cell[1:] if marked else cell


def _is_broken(number: float) -> bool:
    return not (number % 1 == 0 and abs(number) <= MOST_INTEGER)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
