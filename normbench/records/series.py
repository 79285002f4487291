"""metrics.csv as it is read: the rows that a run writes, as text, or Damaged."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from normbench.records.damage import Damaged, content_of
from normbench.records.metrics import METRICS


def series_of(path: Path, columns: Iterable[str] = ()) -> list[dict[str, str]]:
    """The rows of metrics.csv, cells as text; none where there is no file. Raises Damaged.

    columns: some that it must have.
    """
    if (content := content_of(path)) is None:
        return []
    if not content:  # a run writes the head of its table at least
        raise Damaged(path, "it is empty")
    try:
        lines = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
        if lines and not set(columns) <= lines[0].keys():
            raise ValueError(f"no columns {', '.join(columns)}")
        for line in lines:
            _check(line)
    except (ValueError, csv.Error) as error:
        raise Damaged(path, error) from None
    return lines


def _check(line: dict[str | None, str | None]) -> None:
    """Raises ValueError for a row of more or fewer cells than there are columns, or with a text for a number."""
    if None in line or None in line.values():
        raise ValueError("a row with more cells than columns, or fewer")
    int(line.get("seed", 0))
    for column in METRICS:
        float(line.get(column) or 0)
