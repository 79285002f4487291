"""Tables as files: CSV, the same bytes for the same table."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from normbench.errors import UserError
from normbench.records.directory import plainly


def write(table: pd.DataFrame, path: Path) -> None:
    """A table as CSV, numbers to full precision, the same bytes for the same table. Raises UserError."""
    with plainly(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False, lineterminator="\n")


def read(path: Path, columns: Iterable[str] = ()) -> pd.DataFrame:
    """A table that `write` wrote. Raises UserError where there is none, or not one with these columns."""
    if not path.is_file():
        raise UserError(f"{path}: no such table; scripts/collect.py writes it")
    types = {"diverged_epoch": "Int64", "seed": "Int64", "error": object, "commit": object}
    try:
        table = pd.read_csv(path, dtype=types)
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no table that scripts/collect.py wrote ({' '.join(str(error).split())})") from None
    return complete(table, path, columns)


def complete(table: pd.DataFrame, path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """The table, read from that path, if it has these columns. Raises UserError where it lacks one."""
    if lacking := [column for column in columns if column not in table]:
        raise UserError(f"{path}: no table that scripts/collect.py wrote (without {', '.join(lacking)})")
    return table
