"""A study that tunes the rate by halving: a sweep does the runs of a rung, and decides which rates go on to the next.

Each arm is on its own: what it has to do follows from its runs alone, so that a sweep that is stopped, repeated or done
by two processes decides the same.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from normbench.analysis.rungs import MOST_BEYOND, Rung, beyond, parse_rungs, ranked
from normbench.config.overrides import Job
from normbench.config.values import plain
from normbench.errors import InputError
from normbench.processes import first, launched
from normbench.records.metrics import OBJECTIVE, OVER, TRAIN
from normbench.runs.planned import Run, at_work, block
from normbench.runs.seeds import carried, placed, settings
from normbench.words import typed

RATE = "optim.lr"
Tried = dict[float, Run]  # rate → the run that tries it


@dataclass
class Arm:
    """All that is the same for several rates. planned: how many rates each rung so far began with."""

    rungs: list[Tried]
    planned: list[int]
    step: float

    def further(self, plan: Sequence[Rung]) -> Tried:
        """What there is to do next: a rate beyond the edge, or the next rung; nothing where runs are left, or all done.

        plan: the rungs after the first. What it gives is part of the arm then.
        """
        scores = {rate: _scores(run) for rate, run in self.rungs[-1].items()}
        if not all(scores.values()):
            return {}
        edge = beyond(scores, self.step) if len(scores) - self.planned[-1] < MOST_BEYOND else None
        if edge is not None:
            like = next(iter(self.rungs[-1].values()))
            new = {edge: block(like, like.config.seed, like.config.replicates, **{RATE: edge})}
            self.rungs[-1] |= new
            return new
        if len(self.rungs) > len(plan):
            return {}
        return self.climb(plan[len(self.rungs) - 1], ranked(scores))

    def through(self, plan: Sequence[Rung]) -> bool:
        """Whether its last rung is over."""
        return len(self.rungs) > len(plan) and all(map(_scores, self.rungs[-1].values()))

    def climb(self, rung: Rung, rates: Sequence[float]) -> Tried:
        """The runs of the next rung, with seeds that none before has had. rates: the best of them first."""
        like = next(iter(self.rungs[0].values()))
        last = next(iter(self.rungs[-1].values())).config
        count = rung.keys.get("replicates", last.replicates)
        others = {key: value for key, value in rung.keys.items() if key != "replicates"}
        seed = last.seed + last.replicates
        new = {rate: block(like, seed, count, **{RATE: rate}, **others) for rate in rates[: rung.rates]}
        self.rungs.append(new)
        self.planned.append(len(new))
        return new


def _scores(run: Run) -> list[float]:
    """What its replicates came to on validation; none while a part of it is not over."""
    result = run.result()
    if result is None or result["status"] not in OVER:
        return []
    return [entry[OBJECTIVE] for entry in result["replicates"]]


class Halving:
    """The rungs of a study's runs. runs: those of the first. plan: the rungs after it. reading: for tables.

    Raises InputError for what cannot be halved.
    """

    def __init__(self, runs: list[Run], plan: Sequence[Rung], reuse=None, shelf=None, reading: bool = False):
        if launched() > 1:
            raise InputError("rungs", typed(len(plan)), "are for a single process; rungs=null does the first one alone")
        self.plan, self.carry = plan, lambda new: carried(new, reuse, shelf, reading)
        self.arms = _arms(runs)
        self.to_come()  # a mistake in a rung shows before the first run

    def stages(self) -> Iterator[tuple[list[Run], list[Run]]]:
        """Stage by stage: the runs to be done before the next is asked for; and all the runs so far.

        It ends where nothing is left to decide, or nothing can be: an arm waits for its runs that are not over, and the
        others go on. What was decided is told on stderr.
        """
        new, told = self.runs, []
        while new:
            yield at_work(new), self.runs
            new, told = self._further()
            if told and first():
                print(f"normbench: {', '.join(told)}", file=sys.stderr)
        if first():
            through = sum(arm.through(self.plan) for arm in self.arms)
            told = f"through all {len(self.plan) + 1} rungs: {through} of {len(self.arms)} arms"
            print(f"normbench: {told}", file=sys.stderr)

    def climb(self) -> None:
        """Take in all that is there already, whose runs are not to be done."""
        while self._further()[0]:
            pass

    def _further(self) -> tuple[list[Run], list[str]]:
        """The runs of the next stage, and what was decided in words."""
        new, higher, edges = [], Counter(), 0
        for arm in self.arms:
            before = len(arm.rungs)
            if not (tried := arm.further(self.plan)):
                continue
            runs = self.carry(list(tried.values()))
            arm.rungs[-1].update(zip(tried, runs, strict=True))
            new += runs
            higher[len(arm.rungs)] += len(arm.rungs) > before
            edges += len(arm.rungs) == before
        told = [
            f"on to rung {rung}: {count} of {len(self.arms)} arms" for rung, count in sorted(higher.items()) if count
        ]
        return new, told + [f"a rate beyond the edge: {edges} of {len(self.arms)} arms"] * bool(edges)

    @property
    def runs(self) -> list[Run]:
        """All so far, the first rung's first."""
        return [run for rung in self.by_rung() for run in rung]

    def by_rung(self) -> list[list[Run]]:
        """The same, rung by rung."""
        most = max(len(arm.rungs) for arm in self.arms)
        return [
            [run for arm in self.arms if len(arm.rungs) > at for run in arm.rungs[at].values()] for at in range(most)
        ]

    def to_come(self) -> list[list[Run]]:
        """Of each rung after the first, what the arms have yet to begin there: as many runs, at whichever rates."""
        found = [[] for _ in self.plan]
        for arm in self.arms:
            ahead = Arm(list(arm.rungs), list(arm.planned), arm.step)
            for rung, runs in list(zip(self.plan, found, strict=True))[len(arm.rungs) - 1 :]:
                runs += ahead.climb(rung, list(ahead.rungs[-1])).values()
        return found


def rungs_of(jobs: Sequence[Job]) -> tuple[Rung, ...]:
    """The rungs after the first of the study that these are the runs of; none where it has none.

    Raises InputError for what is no plan.
    """
    said = jobs[0].config
    plan = parse_rungs(plain(said.get("tunes")), plain(said.get("rungs")))
    if plan and (looks := said.get("looks")) is not None:
        raise InputError("looks", typed(plain(looks)), "and rungs are two plans for the same seeds: leave one out")
    return plan


def _arms(runs: list[Run]) -> list[Arm]:
    """The runs of a grid over the rate as arms. Raises InputError where an arm has a single rate, or several seeds."""
    arms: dict[str, Tried] = {}
    for run in runs:
        if run.config.measure.name != TRAIN:
            raise InputError("measure", run.config.measure.name, "has no rate to tune; a halving is of measure=train")
        leaves = {key: value for key, value in placed(run.config).items() if key != RATE}
        tried = arms.setdefault(settings(leaves), {})
        if run.config.optim.lr in tried:
            raise InputError("seed", run.config.seed, "a halving has one first seed: its rungs have further ones")
        tried[run.config.optim.lr] = run
    for tried in arms.values():
        if len(tried) < 2:
            raise InputError(RATE, typed(next(iter(tried))), "a halving needs a grid of several rates")
    return [Arm([tried], [len(tried)], _step(tried)) for tried in arms.values()]


def _step(tried: Tried) -> float:
    """From one rate of a grid to the next, where they are nearest."""
    return min(high / low for low, high in pairwise(sorted(tried)))
