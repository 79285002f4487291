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


# What Markdown and HTML take for more than text: emphasis and code, links, tags, entities, the bars of a table.
MEANT = r"[\\`*~|]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])|<(?=[A-Za-z/!?])|&(?=#?\w+;)"


def literal(text: str) -> str:
    """A text from outside, such as a name or an error, that stands in Markdown as it is."""
    return re.sub(MEANT, r"\\\g<0>", text)


def code(text: str) -> str:
    """A text as code in Markdown, whatever backticks it has itself."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    room = " " if "`" in text else ""
    return f"{fence}{room}{text}{room}{fence}"


def markdown(head: list[str], alignment: str, rows: list[list[str]]) -> str:
    """A table. alignment: a letter a column, l or r."""
    rule = ["---:" if side == "r" else "---" for side in alignment]
    lines = [[_cell(cell) for cell in head], rule, *[[_cell(cell) for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """On one line, within its bars, and no page's tag: what is meant in it is Markdown."""
    return re.sub(r"(?<!\\)(\||<(?=[A-Za-z/!?])|&(?=#?\w+;))", r"\\\1", " ".join(text.split()))
