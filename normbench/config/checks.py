"""What a value may be: a check is a function that says what is wrong with a value, or None."""

import re
from collections.abc import Callable
from itertools import pairwise

from normbench.config.sizes import MOST_INTEGER
from normbench.errors import choices_text

Check = Callable[[object], str | None]

MOST_FLOAT = (2 - 2**-23) * 2.0**127  # the largest number of float32
LEAST_FLOAT = 2.0**-149  # the smallest above 0
TOLD = 10  # a range of integers that is as short is told whatever is wrong


def is_integer(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value) -> bool:
    """Whether it is a finite number that float32 holds: none that becomes infinite there, or 0 without being 0."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return value == 0 or LEAST_FLOAT <= abs(value) <= MOST_FLOAT


def integer(low: int, high: int = MOST_INTEGER) -> Check:
    """Takes an integer from low to high, which a reader is told of where he gave one below or has to know it."""

    def checked(v):
        if is_integer(v) and low <= v <= high:
            return None
        beyond = is_integer(v) and v > high
        return f"must be an integer from {low} to {high}" if beyond or high <= TOLD else f"must be an integer ≥ {low}"

    return checked


def number(test: Callable[[float], bool], words: str) -> Check:
    """Takes a number of float32 that passes a test. words: what it asks for, after `a number`."""

    def checked(v):
        if is_number(v) and test(v):
            return None
        return f"must be a number {words}{_in_float32(v)}"

    return checked


def _in_float32(v) -> str:
    """What to say of a number that is one in float64 alone."""
    if isinstance(v, int | float) and not isinstance(v, bool) and v == v and not is_number(v):
        return f" that float32 holds, {LEAST_FLOAT:.2g} to {MOST_FLOAT:.2g} in size"
    return ""


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
    if v in ("auto", "cpu", "cuda") or (isinstance(v, str) and re.fullmatch("cuda:[0-9]{1,4}", v)):
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
    match = re.fullmatch(r"tuned(\*([0-9]+\.?[0-9]*))?", v) if isinstance(v, str) else None
    return (
        None
        if match and (match[1] is None or POSITIVE(float(match[2])) is None)
        else "must be tuned or a multiple like tuned*0.5"
    )


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

MOST_OPTION = 2**31 - 1  # of a method, model or measurement; they know more of their own


def _option(v) -> str | None:
    if is_integer(v):
        return None if abs(v) <= MOST_OPTION else f"must be an integer, at most {MOST_OPTION} in size"
    return "must be an integer"


BY_TYPE: dict[type, Check] = {
    int: _option,
    float: lambda v: None if is_number(v) else f"must be a number{_in_float32(v)}",
    bool: boolean,
    str: text,
    list: lambda v: None if isinstance(v, list) and all(map(is_number, v)) else "must be a list of numbers",
}


def like(default) -> Check:
    """Takes what has the type of a default value: an integer, number, flag, name or list of numbers."""
    return BY_TYPE[type(default)]
