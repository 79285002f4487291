"""Claims: statements fixed in conf/experiment/NAME.yaml before the runs, decided by the study's table alone.

    claims:
      - name: gn_beats_bn_at_2                     # once in a study
        statement: GroupNorm beats BatchNorm with running averages at batch size 2
        source: Wu & He 2018, arXiv 1803.08494
        kind: difference                           # a − b > margin (greater), or a − b < −margin (less)
        metric: test_acc                           # a column of numbers; test_acc if left out
        a: {method: group, batch_size: 2}          # a cell: column: value, or a list of values; null where it is empty
        b: {method: batch, batch_size: 2, metric: test_acc_precise}   # a cell may have a metric of its own
        direction: greater
        margin: 0                                  # ≥ 0, in the metric's unit

Each kind (`normbench.analysis.kinds`) takes keys of its own beside name, statement, source and metric; some may have

    scale: log        on the logarithms of the values: margin (or level) is a factor, ≥ 1, and so is the estimate
    pairing: none     Welch's test, where the seeds of two arms share nothing that matters
    primary: true     one of at most four of the study that are corrected together with those of all studies

A cell with `best: lr` is of the value of that column, among those the rest of the cell leaves, with the highest mean
validation accuracy: what is tuned is compared at its best, chosen without the test set.

`where` is a cell as well, cut up by the values of `over`: those it lists for that column, else those in the table.

Replicates are paired by seed, and the ratio that says what this bought is told: the variance of the paired difference
over the sum of the two variances. A diverged replicate counts at the chance accuracy that the table has for it; what
failed or is not over does not count. `p` is twice the smaller of two one-sided p values, for the claim and against it.
The verdict follows p_holm: p corrected, for a primary claim over the primary claims of all studies, for another over
the others of its study.

A study with `looks` (`normbench.analysis.sequential`) is judged at so many seeds, the first of the table: at the last
look that all cells of a claim have come to, with the p value of all its looks and the interval of its level.

An interaction (`repeated.interaction`), and a spread against its claim (`repeated.beyond`), are tested by F tests of
repeated measures with Greenhouse–Geisser's correction: such a test has no contrary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from normbench.analysis.evidence import remarks
from normbench.analysis.kinds import KINDS, Evidence, Kind, Linear
from normbench.analysis.power import ALPHA
from normbench.analysis.samples import Sample
from normbench.analysis.sequential import obrien_fleming, sequential_p
from normbench.analysis.statistics import Interval, Mean, bca_interval, holm
from normbench.config.checks import boolean, is_integer, one_of, text
from normbench.errors import InputError, choices_text
from normbench.words import typed

FEWEST_SEEDS = 3
MOST_PRIMARY = 4  # claims of a study


@dataclass(frozen=True)
class Claim:
    """A claim as it stands in the file, checked. kind: of its class, with what that takes."""

    name: str
    statement: str
    source: str
    kind: Kind
    metric: str
    scale: str = "linear"
    paired: bool = True
    primary: bool = False

    @property
    def logs(self) -> bool:
        """Whether it is decided on the logarithms of its values."""
        return self.scale == "log" != self.kind.scale

    @property
    def place(self) -> str:
        """How errors name it."""
        return f"claims.{self.name}"


@dataclass(frozen=True)
class Verdict:
    """What the table says of a claim.

    tier: primary or secondary. estimate, low, high: what its kind estimates, with the interval of 95 %, or of the
    level of its look, in the metric's unit; on scale log they and margin are factors. n: seeds, paired or of the cell
    that has fewest. bca_low, bca_high: bootstrap interval, from 10 seeds on. margin: of a level, that level. p, p_holm:
    NaN where nothing was tested. pairing_ratio: NaN where there is none. detectable: the distance from the margin that
    so many seeds show with 80 % power, uncorrected, likewise a factor on scale log. look: of a study with looks, the
    last one that all its cells have come to, from 1.
    verdict: holds, does not hold, inconclusive, not enough runs, or premise not met.
    """

    name: str
    statement: str
    source: str
    metric: str
    kind: str
    tier: str
    scale: str
    n: int
    estimate: float
    low: float
    high: float
    bca_low: float
    bca_high: float
    margin: float
    p: float
    p_holm: float
    verdict: str
    note: str
    pairing_ratio: float = math.nan
    detectable: float = math.nan
    look: int = 0


# --- From the file to claims that are known to be well formed. --------------------------------------------------------


def _sentence(value) -> str | None:
    return None if isinstance(value, str) and value.strip() else "must be a text"


# What every claim says, and what it may say.
CHECKS = {"name": text, "statement": _sentence, "source": _sentence, "kind": one_of(KINDS)}
OPTIONAL = {"metric": text, "primary": boolean}
OPTIONS = {"scale": one_of(("linear", "log")), "pairing": one_of(("seed", "none"))}  # of some kinds


def parse_claims(entries: list[dict] | None) -> list[Claim]:
    """Claims from the list that the file has under `claims`, None where it has none.

    Raises an InputError that names the claim, key, value and choices.
    """
    entries = [] if entries is None else entries
    if not isinstance(entries, list):
        raise InputError("claims", typed(entries), "must be a list of claims")
    claims = []
    for index, entry in enumerate(entries):
        claims.append(_parse(entry, index))
        if claims[-1].name in [claim.name for claim in claims[:-1]]:
            raise InputError(f"claims[{index}].name", claims[-1].name, "an earlier claim has this name")
        if sum(claim.primary for claim in claims) > MOST_PRIMARY:
            wrong = f"{MOST_PRIMARY} earlier claims are primary, and more no study has"
            raise InputError(f"{claims[-1].place}.primary", "true", wrong)
    return claims


def parse_looks(value) -> tuple[int, ...]:
    """The numbers of seeds of a study's looks, from what its file has under `looks`; none where that is None.

    Raises an InputError.
    """
    if value is None:
        return ()
    good = isinstance(value, list) and value and all(is_integer(n) and n >= FEWEST_SEEDS for n in value)
    if not good or sorted(set(value)) != value:
        raise InputError(
            "looks", typed(value), f"must be rising numbers of seeds from {FEWEST_SEEDS} on, like [5, 10, 20]"
        )
    return tuple(value)


def _parse(entry, index: int) -> Claim:
    if not isinstance(entry, dict):
        raise InputError(f"claims[{index}]", typed(entry), "must be a claim: name, statement, source, kind, …")
    if wrong := CHECKS["name"](entry.get("name")):
        raise InputError(f"claims[{index}].name", typed(entry.get("name")), wrong)

    def mistake(key, message):
        return InputError(f"claims.{entry['name']}.{key}", typed(entry.get(key)), message)

    if wrong := CHECKS["kind"](entry.get("kind")):
        raise mistake("kind", wrong)
    of_kind = KINDS[entry["kind"]]
    own = of_kind.checks()
    if entry.get("scale") == "log":
        own |= of_kind.checks_of_logs()
    optional = OPTIONAL | {option: OPTIONS[option] for option in of_kind.options}
    known = CHECKS | own | optional
    for key in entry:
        if key not in known:
            raise mistake(key, f"no key of kind {entry['kind']}; {choices_text(key, known)}")
    for key, check in known.items():
        wrong = check(entry.get(key)) if key in entry or key not in optional else None
        if wrong:
            raise mistake(key, wrong)
    kind, metric = of_kind(**{key: entry[key] for key in own}), entry.get("metric", of_kind.metric)
    if wrong := kind.mistake(metric):
        raise mistake(*wrong)
    return Claim(
        entry["name"],
        *(" ".join(entry[key].split()) for key in ("statement", "source")),
        kind,
        metric,
        scale=entry.get("scale", of_kind.scale),
        paired=entry.get("pairing", "seed") == "seed",
        primary=entry.get("primary", False),
    )


# --- From values to verdicts. -----------------------------------------------------------------------------------------


def decide(
    claims: list[Claim],
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    looks: list[int] | None = None,
    others: Sequence[float] = (),
) -> list[Verdict]:
    """A verdict for each claim, in their order.

    runs: a row a replicate, with at least the columns run_id, seed, status, val_acc and those that the claims name.
    curves: what a speedup is read from. looks: as the study's file has them. others: p values of the primary claims of
    all other studies, 1 for one that has no runs yet. Raises UserError for a column that is not there, and for a cell
    with several runs of one seed.
    """
    plan = parse_looks(looks)
    verdicts = [_judge(claim, runs, curves, plan) for claim in claims]
    for tier in ("primary", "secondary"):
        family = [i for i, verdict in enumerate(verdicts) if verdict.tier == tier and not math.isnan(verdict.p)]
        beside = list(others) if tier == "primary" else []
        corrected = holm([*(verdicts[i].p for i in family), *beside])
        for i, p_holm in zip(family, corrected, strict=False):
            verdicts[i] = _corrected(verdicts[i], float(p_holm), len(corrected))
    return verdicts


def _judge(claim: Claim, runs: pd.DataFrame, curves: pd.DataFrame | None, plan: tuple[int, ...]) -> Verdict:
    """The verdict before it is corrected: p is NaN where there is nothing to correct."""
    cells, levels = claim.kind.cells(claim.place, claim.metric, runs)
    seeds = sorted(runs["seed"].unique())
    made = _looks_made(cells, seeds, plan)
    of_looks = [_sample(claim, cells, levels, seeds[:n], curves) for n in plan[:made]]
    sample = of_looks[-1] if made else _sample(claim, cells, levels, seeds, curves)
    notes = remarks(claim.kind.selectors.values(), runs, list(cells.values()), sample.values)
    verdict = _untested(claim)

    def told(verdict, *more):
        return replace(verdict, note="; ".join(filter(None, more)))

    single = [column for column, values in levels.items() if len(values) < 2]
    if single:
        return told(verdict, *notes, f"fewer than two values of {' and of '.join(single)}")
    if not sample.n:
        return told(verdict, *notes)
    if count := int((sample.values <= 0).sum().sum()) if claim.logs else 0:
        return told(replace(verdict, verdict="premise not met"), f"no logarithm: {count} values ≤ 0", *notes)
    if sample.censored and not claim.kind.takes_bounds(claim.logs):
        why = "values that are only bounds have no mean: the kind speedup takes them"
        return told(replace(verdict, n=sample.n, verdict="premise not met"), why, *notes)
    if made:
        nominal = obrien_fleming(_times(plan))[made - 1]
        of_looks[-1] = sample = replace(sample, level=1 - nominal)
        notes.append(f"look {made} of {len(plan)}: stops at p ≤ {nominal:.2g}")
    kind = claim.kind.of_logs() if claim.logs else claim.kind
    evidence = [kind.evidence(_logs(one) if claim.logs else one) for one in of_looks or [sample]]
    found = evidence[-1]
    verdict = _estimated(verdict, claim, found, sample.n)
    if sample.n < FEWEST_SEEDS:
        return told(verdict, *notes, f"a verdict takes {FEWEST_SEEDS} seeds that all cells have; there are {sample.n}")
    if plan and not made:
        return told(verdict, *notes, f"the first of {len(plan)} looks takes {plan[0]} seeds")
    if not found.premise:
        return told(replace(verdict, verdict="premise not met"), found.note, *notes)
    p_for, p_against = found.p_for, found.p_against
    if made:
        p_for, p_against = (
            sequential_p([getattr(one, side) for one in evidence], _times(plan)) for side in ("p_for", "p_against")
        )
    word = "holds" if p_for < p_against else "does not hold"
    return told(replace(verdict, p=min(1.0, 2 * min(p_for, p_against)), verdict=word, look=made), found.note, *notes)


def _times(plan: tuple[int, ...]) -> tuple[float, ...]:
    """The information of each look."""
    return tuple(n / plan[-1] for n in plan)


def _looks_made(cells: dict, seeds: list[int], plan: tuple[int, ...]) -> int:
    """How many looks all cells have come to: every replicate of their seeds is over."""
    over = pd.DataFrame({key: cell.over for key, cell in cells.items()}).reindex(seeds).eq(True).all(axis=1)
    return sum(len(seeds) >= n and bool(over[seeds[:n]].all()) for n in plan)


def spread_of(claim: Claim, runs: pd.DataFrame) -> Mean | None:
    """What the t test of a claim is made of; None where it is none, or there are no two seeds for it."""
    cells, levels = claim.kind.cells(claim.place, claim.metric, runs)
    sample = _sample(claim, cells, levels, list(runs["seed"].unique()), None)
    if sample.n < 2 or (claim.logs and not (sample.x > 0).all(axis=None)) or not isinstance(claim.kind, Linear):
        return None
    kind, sample = (claim.kind.of_logs(), _logs(sample)) if claim.logs else (claim.kind, sample)
    return kind.evidence(sample).mean


def _sample(claim: Claim, cells: dict, levels: dict, seeds: list[int], curves: pd.DataFrame | None) -> Sample:
    values = pd.DataFrame({key: cell.values for key, cell in cells.items()})
    values = values[values.index.isin(seeds)]
    return Sample(values, cells, levels, claim.metric, claim.scale, claim.paired, curves=curves)


def _logs(sample: Sample) -> Sample:
    return replace(sample, values=np.log(sample.values))


def _untested(claim: Claim) -> Verdict:
    """What is known of a claim before its values."""
    nothing = dict.fromkeys(("estimate", "low", "high", "bca_low", "bca_high", "p", "p_holm"), math.nan)
    return Verdict(
        name=claim.name,
        statement=claim.statement,
        source=claim.source,
        metric=claim.metric,
        kind=claim.kind.word,
        tier="primary" if claim.primary else "secondary",
        scale=claim.scale,
        n=0,
        margin=claim.kind.threshold,
        verdict="not enough runs",
        note="",
        **nothing,
    )


def _estimated(verdict: Verdict, claim: Claim, found: Evidence, n: int) -> Verdict:
    """The verdict with what its kind estimates."""
    back = math.exp if claim.logs else float
    interval, bca = found.interval, Interval(math.nan, math.nan, math.nan, 0)
    if found.contrast is not None:
        bca = bca_interval(found.contrast, np.random.default_rng([*claim.name.encode()]))
    return replace(
        verdict,
        n=n,
        estimate=back(interval.estimate),
        low=back(interval.low),
        high=back(interval.high),
        bca_low=back(bca.low),
        bca_high=back(bca.high),
        pairing_ratio=found.pairing_ratio,
        detectable=back(claim.kind.power(found.mean)) if found.mean else math.nan,
    )


def _corrected(verdict: Verdict, p_holm: float, tested: int) -> Verdict:
    """The verdict by its corrected p value. tested: claims of its family."""
    verdict = replace(verdict, p_holm=p_holm)
    if p_holm <= ALPHA:
        return verdict
    if verdict.p > ALPHA:
        return replace(verdict, verdict="inconclusive")
    by = KINDS[verdict.kind].by
    alone = f"{verdict.verdict} by its own {by}, not after Holm's correction over {tested} claims"
    return replace(verdict, verdict="inconclusive", note="; ".join(filter(None, (verdict.note, alone))))
