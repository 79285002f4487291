"""Values and tables in words: how a value, a time and a table are written wherever they are read by people."""

import math
import re


def typed(value, empty: str = "null") -> str:
    """A value on one line, as it is typed in YAML and on the command line: 128 rather than 128.0.

    empty: for what is None or no number. Floats are shortened to six digits; `errors` alone shows them in full.
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {typed(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(typed, value)) + "]"
    value = value.item() if hasattr(value, "item") else value  # numpy's
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return empty if math.isnan(value) else f"{value:g}"
    if value is None or str(value) == "<NA>":  # pandas' NA
        return empty
    return " ".join(str(value).split())


def duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def markdown(head: list[str], alignment: str, rows: list[list[str]]) -> str:
    """A table. alignment: a letter a column, l or r."""
    rule = ["---:" if side == "r" else "---" for side in alignment]
    lines = [head, rule, *[[re.sub(r"([|\n])", " ", cell) for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
