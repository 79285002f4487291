"""Successive halving: many rates are tried shortly, the best of them again for longer (arXiv 1502.07943, 1603.06560).

The first rung is the grid of the study's file; each further one takes the best rates of the one before, with seeds that
none has had. Where the best rate is the lowest or the highest of its rung, one beyond it is tried there as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from normbench.config.checks import is_integer
from normbench.errors import InputError
from normbench.words import typed

HALVING = {"lr": "halving"}  # what a study's file says under `tunes`
MOST_BEYOND = 4  # rates beyond those that a rung began with
OWN = ("seed", "optim.lr")  # keys that a rung settles itself


@dataclass(frozen=True)
class Rung:
    """rates: how many of the rung before are tried. keys: with their values, where its runs differ from the first's."""

    rates: int
    keys: Mapping[str, object]


def parse_rungs(tunes, rungs) -> tuple[Rung, ...]:
    """The rungs after the first, from what a study's file says under `tunes` and `rungs`; none where that is None.

    Raises InputError.
    """
    if tunes not in (None, "lr", HALVING):
        raise InputError("tunes", typed(tunes), "choices: lr, {lr: halving}")
    if rungs is None:
        return ()
    if tunes != HALVING:
        raise InputError("rungs", typed(rungs), "are those of a halving: add tunes: {lr: halving}")
    if not isinstance(rungs, list) or not rungs:
        raise InputError("rungs", typed(rungs), "must be a list of rungs, like [{rates: 3, replicates: 3, epochs: 4}]")
    return tuple(map(_rung, rungs))


def _rung(given) -> Rung:
    rates = given.get("rates") if isinstance(given, dict) else None
    if not is_integer(rates) or rates < 1:
        raise InputError("rungs", typed(given), "a rung says how many rates it takes, like {rates: 3, epochs: 4}")
    for key in OWN:
        if key in given:
            raise InputError(f"rungs.{key}", typed(given[key]), "follows from the rungs before: leave it out")
    return Rung(rates, {key: value for key, value in given.items() if key != "rates"})


def ranked(scores: Mapping[float, Sequence[float]]) -> list[float]:
    """The rates, that with the highest mean score first, the lower one where equal. scores: of each its replicates'."""
    means = {rate: fmean(values) for rate, values in scores.items()}
    return sorted(means, key=lambda rate: (-means[rate], rate))


def beyond(scores: Mapping[float, Sequence[float]], step: float) -> float | None:
    """The rate a step beyond the best one, where that is the lowest or the highest of several; else None."""
    best = ranked(scores)[0]
    if len(scores) == 1 or best not in (min(scores), max(scores)):
        return None
    return float(f"{best / step if best == min(scores) else best * step:.6g}")
