"""What the keys of a claim take: a type each, whose check says what is wrong with a value."""

from typing import Annotated

from normbench.analysis.evidence import BESIDE
from normbench.config.checks import NOT_NEGATIVE, POSITIVE, number, one_of, text


def cell(value) -> str | None:
    """None for a cell: columns of the table, each with a value or a list of values; else what it must be."""

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


def factor(value) -> str | None:
    """Of a margin or level on a log scale."""
    return number(lambda v: v >= 1, "of at least 1: a factor")(value)


CellKey = Annotated[dict, cell]
Column = Annotated[str, text]
TwoColumns = Annotated[list[str], _two_columns]
Direction = Annotated[str, one_of(("greater", "less"))]
Margin = Annotated[float, NOT_NEGATIVE]
Width = Annotated[float, POSITIVE]
Factor = Annotated[float, factor]
Share = Annotated[float, number(lambda v: 0 < v <= 1, "above 0, at most 1")]
Percent = Annotated[float, number(lambda v: 0 <= v <= 100, "from 0 to 100: a percentage")]
Value = Annotated[float, number(lambda v: True, "in the metric's unit")]
