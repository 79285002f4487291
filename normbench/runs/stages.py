"""A study that is judged at several looks: a sweep does the seeds of one look, and decides which go on to the next."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from normbench.analysis.claims import Claim, Verdict, decide, parse_claims
from normbench.analysis.evidence import concerning, rows_of
from normbench.analysis.study import other_primaries, study_of
from normbench.config.files import study_names
from normbench.config.values import plain
from normbench.errors import InputError, UserError
from normbench.processes import first, launched
from normbench.records.metrics import OVER
from normbench.runs.collect import of_runs
from normbench.runs.planned import Run, at_work, block
from normbench.runs.seeds import carried
from normbench.words import typed

UNDECIDED = ("inconclusive", "not enough runs")


def stages(runs: list[Run], looks: Sequence[int], reuse=None) -> Iterator[tuple[list[Run], list[Run]]]:
    """Look by look: the runs that do its seeds, to be done before the next is asked for; and all the runs so far.

    runs: with the seeds of the first look, and their parts. It ends with the last look, where no claim is undecided,
    and where some run is not over. What was decided is told on stderr.
    """
    if launched() > 1:
        raise InputError("looks", typed(list(looks)), "is for a single process; looks=null does the first seeds alone")
    claims, going = parse_claims(plain(runs[0].job.config.get("claims"))), list(range(len(runs)))
    done: list[list[Run]] = [[] for _ in runs]
    for at, (before, look) in enumerate(pairwise((0, *looks))):
        stage = runs if not at else carried([_further(runs[i], before, look) for i in going], reuse)
        for i, run in zip(going, stage, strict=True):
            done[i].append(run)
        yield at_work(stage), [_joined(some) for some in done]
        if any(run.directory.status() not in OVER for run in at_work(stage)):
            return
        behind, words = _judged(claims, runs, looks, at, reuse)
        going = [i for i in going if behind & {name for run in done[i] for name in _names(run)}]
        if at + 1 < len(looks) and going:
            words += f"; on to {looks[at + 1]} seeds with {len(going)} of {len(runs)} configurations"
        if first():
            print(f"normbench: look at {look} seeds: {words}", file=sys.stderr)
        if not going:
            return


def _further(run: Run, before: int, look: int) -> Run:
    """The run of the seeds that a look has more than the one before it."""
    return block(run, run.config.seed + before, look - before)


def _joined(some: list[Run]) -> Run:
    """The runs of several looks of a configuration as one."""
    if len(some) == 1:
        return some[0]
    whole = block(some[0], some[0].config.seed, sum(run.config.replicates for run in some))
    whole.parts = at_work(some)
    whole.reused = {seed: row for run in some for seed, row in (run.reused or {}).items()}
    return whole


def _names(run: Run) -> set[str]:
    """The run_ids that the rows of a run have."""
    return {part.name for part in run.work()} | {row["run_id"] for row in (run.reused or {}).values()}


def _judged(claims: list[Claim], runs: list[Run], looks: Sequence[int], at: int, reuse) -> tuple[set[str], str]:
    """The run_ids that stand behind what a look leaves undecided, and what it decided in words."""
    collected = of_runs(runs, looks[: at + 1], reuse)
    try:
        verdicts = decide(claims, collected.runs, collected.numbers(), list(looks), _others(runs[0]))
        deciding = _deciding(claims, verdicts)
        behind = [_behind(claim, collected.runs) for claim, verdict in deciding if verdict.verdict in UNDECIDED]
    except UserError as error:  # such as a part of a study, which lacks what a claim is about
        return set(), f"the claims cannot be decided ({error})"
    counts = Counter(verdict.verdict for _, verdict in deciding)
    told = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))
    return set().union(*behind), told or "no claims"


def _others(run: Run) -> list[float]:
    """The p values of the primary claims of all other studies, as the study's tables have them."""
    name = run.config.study
    return other_primaries(study_of(name, None)) if name in study_names() else []


def _deciding(claims: list[Claim], verdicts: list[Verdict]) -> list[tuple[Claim, Verdict]]:
    """The claims that say whether a study goes on: its primary ones, where it has any."""
    every = list(zip(claims, verdicts, strict=True))
    return [pair for pair in every if pair[0].primary] or every


def _behind(claim: Claim, table) -> set[str]:
    """The run_ids of the cells of a claim."""
    found = set()
    for key, selector in claim.kind.selectors.items():
        rows = rows_of(f"{claim.place}.{key}", selector, table)
        found |= set(concerning(rows, selector.get("metric", claim.metric))["run_id"])
    return found
