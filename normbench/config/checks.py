"""What a value may be: a check is a function that says what is wrong with a value, or None."""

import math
import re
from collections.abc import Callable
from itertools import pairwise

from normbench.errors import choices_text

Check = Callable[[object], str | None]


def is_integer(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def integer(low: int, high: int | None = None) -> Check:
    text = f"must be an integer ≥ {low}" if high is None else f"must be an integer from {low} to {high}"
    return lambda v: None if is_integer(v) and v >= low and (high is None or v <= high) else text


def number(test: Callable[[float], bool], words: str) -> Check:
    return lambda v: None if is_number(v) and test(v) else f"must be a number {words}"


def one_of(options) -> Check:
    return lambda v: None if isinstance(v, str) and v in options else choices_text(v, options)


def boolean(v) -> str | None:
    return None if isinstance(v, bool) else "must be true or false"


def text(v) -> str | None:
    return None if isinstance(v, str) and v else "must be a name"


def folders(v) -> str | None:
    names = v if isinstance(v, list) else [v]
    return None if names and not any(map(text, names)) else "must be a folder, or a list of them"


def optional(check: Check) -> Check:
    def checked(v):
        wrong = None if v is None else check(v)
        return wrong and f"{wrong}, or null"

    return checked


def either(word: str, check: Check) -> Check:
    def checked(v):
        wrong = None if v == word else check(v)
        return wrong and f"{wrong}, or {word}"

    return checked


def device_name(v) -> str | None:
    if v in ("auto", "cpu", "cuda") or (isinstance(v, str) and v.startswith("cuda:") and v[5:].isdigit()):
        return None
    return "choices: auto, cpu, cuda, cuda:N"


def rising_shares(v) -> str | None:
    good = isinstance(v, list) and all(is_number(x) and 0 < x < 1 for x in v) and v == sorted(v)
    return None if good else "must be a list of rising numbers between 0 and 1, like [0.5,0.75]"


def size_schedule(v) -> str | None:
    good = (
        isinstance(v, list)
        and v
        and all(isinstance(pair, list) and len(pair) == 2 for pair in v)
        and all(is_number(share) and 0 <= share < 1 and is_integer(size) and 4 <= size <= 128 for share, size in v)
        and v[0][0] == 0
        and all(earlier[0] < later[0] for earlier, later in pairwise(v))
    )
    words = "must be pairs of a share of training (from 0, rising) and a size (4 to 128), like [[0,16],[0.5,32]]"
    return None if good else words


def two_betas(v) -> str | None:
    good = isinstance(v, list) and len(v) == 2 and all(is_number(x) and 0 <= x < 1 for x in v)
    return None if good else "must be two numbers, each 0 ≤ β < 1, like [0.9,0.999]"


def tuned(v) -> str | None:
    """`tuned`, or `tuned*2`: the rate of a table, or a multiple of it."""
    match = re.fullmatch(r"tuned(\*(\d+\.?\d*))?", v) if isinstance(v, str) else None
    return None if match and (match[1] is None or float(match[2]) > 0) else "must be tuned or a multiple like tuned*0.5"


def any_of(*checks: Check) -> Check:
    def checked(v):
        wrongs = [check(v) for check in checks]
        return None if None in wrongs else ", or ".join(wrongs)

    return checked


POSITIVE = number(lambda v: v > 0, "> 0")
NOT_NEGATIVE = number(lambda v: v >= 0, "≥ 0")
SHARE = number(lambda v: 0 <= v < 1, "from 0 to below 1")
STRENGTH = number(lambda v: 0 <= v <= 10, "from 0 to 10")
FACTOR = number(lambda v: 1e-9 <= v <= 1e9, "from 1e-9 to 1e9")  # float32 holds its squares

BY_TYPE: dict[type, Check] = {
    int: lambda v: None if is_integer(v) else "must be an integer",
    float: lambda v: None if is_number(v) else "must be a number",
    bool: boolean,
    str: text,
    list: lambda v: None if isinstance(v, list) and all(map(is_number, v)) else "must be a list of numbers",
}


def like(default) -> Check:
    """Takes what has the type of a default value: an integer, number, flag, name or list of numbers."""
    return BY_TYPE[type(default)]
