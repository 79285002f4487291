"""What is damaged in the folders of runs: it counts as not there, and is told in a line, once."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from normbench.errors import UserError
from normbench.processes import first


class Damaged(UserError):
    """A file that is not what a run writes: `str(error)` names it and says why. reason: a text, or what was raised."""

    def __init__(self, path: Path, reason: object):
        told = getattr(reason, "strerror", None) or reason
        super().__init__(f"{path}: not what a run writes ({' '.join(str(told).split())[:200]})")


@cache
def tell(line: str) -> None:
    """A line on standard error, once."""
    if first():
        print(f"normbench: {line}", file=sys.stderr)


def undamaged(read: Callable, *arguments, otherwise=None):
    """What a reader finds; of a damaged file `otherwise`, as if it were not there."""
    try:
        return read(*arguments)
    except Damaged as error:
        tell(f"{error}; it counts as not there")
        return otherwise


def content_of(path: Path) -> bytes | None:
    """The bytes of a file; None where there is none. Raises Damaged for one that cannot be read."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Damaged(path, error) from None
