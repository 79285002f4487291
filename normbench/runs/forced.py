"""`force=true`, once: what a command forces counts as not there if it was begun before the command was first given.

So the same command goes on with what a stop left of it, a sweep too, until every run of it is over; given once more it
runs them all again. When it was first given is the time of a file in the output folder, `.forced-…` with a hash of the
names of its runs, there as long as some run is left.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from normbench.processes import first
from normbench.records.files import plainly
from normbench.runs.planned import Run, over


def since(runs: Sequence[Run]) -> int | None:
    """When a forced command with these runs began, in nanoseconds; None where none is under way."""
    if not runs:  # all that was asked for is there
        return None
    try:
        return _mark(runs).stat().st_mtime_ns
    except OSError:
        return None


@contextmanager
def forced(runs: Sequence[Run]) -> Iterator[int | None]:
    """Work on runs, some of them forced perhaps: gives when that began. A stop within leaves it to be gone on with."""
    if not any(run.config.force for run in runs) or not first():
        yield None
        return
    mark = _mark(runs)
    with plainly(mark):
        mark.parent.mkdir(parents=True, exist_ok=True)
        if not mark.is_file():
            mark.open("x").close()
    began = since(runs)
    yield began
    if all(over(run, began) for run in runs):
        mark.unlink(missing_ok=True)


def _mark(runs: Sequence[Run]) -> Path:
    names = "\n".join(sorted(run.name for run in runs))
    return Path(runs[0].config.output) / f".forced-{sha256(names.encode()).hexdigest()[:16]}"
