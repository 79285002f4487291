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

Each kind (`normbench.analysis.kinds`) takes, beside name, statement, source and metric:

    level        a, direction, level               a > level (greater) or a < level (less)
    difference   a, b, direction, margin           a − b > margin (greater) or a − b < −margin (less)
    equivalence  a, b, margin                      |a − b| < margin
    spread       where, over, margin               any two values of the column `over` differ by less than margin
    trend        where, over, direction, margin    the slope per doubling of `over` is > margin or < −margin
    recovery     a, b, reference, share            a − b > share · (reference − b), where b falls short of reference
    interaction  where, over                       the effect of one column depends on the other; `over` lists the two
    difference_of_differences
                 a, b, c, d, direction, margin     (a − b) − (c − d) > margin or < −margin

A cell with `best: lr` is of the value of that column, among those the rest of the cell leaves, with the highest mean
validation accuracy: what is tuned is compared at its best, chosen without the test set.

`where` is a cell as well, cut up by the values of `over`: those it lists for that column, else those in the table.

Replicates are paired by seed: a claim is one number a seed, for the seeds that all its cells have, and a t test of the
mean. A diverged replicate counts at the chance accuracy that the table has for it; what failed or is not over does not
count. `p` is twice the smaller of two one-sided p values, for the claim and against it: at most 0.05 where the 95 % t
interval lies wholly on one side. The verdict follows p_holm: p, corrected over all claims of the study that it tests.

An interaction is tested by an F test with the seeds as blocks (`statistics.interaction`). It can find that an effect
depends on something, not that it does not: such a claim holds or is inconclusive. Its estimate is the largest
difference of differences that two levels of each column give, with the plain t interval of that one, uncorrected for
the choice. Censored replicates of the metric steps_to_target count with all the steps of their training.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from normbench.analysis.evidence import remarks
from normbench.analysis.kinds import KINDS, Kind
from normbench.analysis.statistics import Interval, bca_interval, holm, t_interval
from normbench.config.checks import one_of, text
from normbench.errors import InputError, choices_text
from normbench.records.metrics import HEADLINE
from normbench.words import typed

ALPHA = 0.05
FEWEST_SEEDS = 3


@dataclass(frozen=True)
class Claim:
    """A claim as it stands in the file, checked. kind: of its class, with what that takes."""

    name: str
    statement: str
    source: str
    kind: Kind
    metric: str = HEADLINE

    @property
    def place(self) -> str:
        """How errors name it."""
        return f"claims.{self.name}"


@dataclass(frozen=True)
class Verdict:
    """What the table says of a claim.

    estimate, low, high: mean over the n paired seeds and 95 % t interval of a (level), of a − b (difference,
    equivalence), of the two cells furthest apart (spread), of the slope per doubling (trend), of what a − b exceeds the
    share by (recovery), of the largest difference of differences (interaction), of (a − b) − (c − d)
    (difference_of_differences), in the metric's unit. bca_low, bca_high: its bootstrap interval. margin: of a level,
    that level. p, p_holm: NaN where nothing was tested.
    verdict: holds, does not hold, inconclusive, not enough runs, or premise not met (recovery without a deficit).
    """

    name: str
    statement: str
    source: str
    metric: str
    kind: str
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


# --- From the file to claims that are known to be well formed. --------------------------------------------------------


def _sentence(value) -> str | None:
    return None if isinstance(value, str) and value.strip() else "must be a text"


# What every claim says, and what it may say.
CHECKS = {"name": text, "statement": _sentence, "source": _sentence, "kind": one_of(KINDS)}
OPTIONAL = {"metric": text}


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
    return claims


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
    known = CHECKS | own | OPTIONAL
    for key in entry:
        if key not in known:
            raise mistake(key, f"no key of kind {entry['kind']}; {choices_text(key, known)}")
    for key, check in known.items():
        wrong = check(entry.get(key)) if key in entry or key not in OPTIONAL else None
        if wrong:
            raise mistake(key, wrong)
    kind = of_kind(**{key: entry[key] for key in own})
    if wrong := kind.mistake():
        raise mistake(*wrong)
    words = {key: " ".join(entry[key].split()) for key in ("statement", "source")}
    return Claim(entry["name"], kind=kind, metric=entry.get("metric", HEADLINE), **words)


# --- From values to verdicts. -----------------------------------------------------------------------------------------


def decide(claims: list[Claim], runs: pd.DataFrame) -> list[Verdict]:
    """A verdict for each claim, in their order.

    runs: a row a replicate, with at least the columns run_id, seed, status, val_acc and those that the claims name.
    Raises UserError for a column that is not there, and for a cell with several runs of one seed.
    """
    verdicts = [_judge(claim, runs) for claim in claims]
    tested = [index for index, verdict in enumerate(verdicts) if not math.isnan(verdict.p)]
    for index, p_holm in zip(tested, holm([verdicts[index].p for index in tested]), strict=True):
        verdict = verdicts[index]
        verdicts[index] = replace(verdict, p_holm=float(p_holm), **_corrected(verdict, p_holm, len(tested)))
    return verdicts


def _judge(claim: Claim, runs: pd.DataFrame) -> Verdict:
    """The verdict before Holm's correction: p is NaN where there is nothing to correct."""
    kind = claim.kind
    cells, levels = kind.cells(claim.place, claim.metric, runs)
    table = pd.DataFrame({key: cell.values for key, cell in cells.items()})
    x = table.dropna()
    notes = remarks(kind.selectors.values(), runs, list(cells.values()), table)
    interval = bca = Interval(math.nan, math.nan, math.nan, 0)
    p, verdict = math.nan, "not enough runs"
    single = [column for column, values in levels.items() if len(values) < 2]
    if single:
        notes.append(f"fewer than two values of {' and of '.join(single)}")
    elif len(x):
        found = kind.evidence(x, cells, levels)
        interval = t_interval(found.contrast)
        bca = bca_interval(found.contrast, np.random.default_rng([*claim.name.encode()]))
        if len(x) < FEWEST_SEEDS:
            notes.append(f"a verdict takes {FEWEST_SEEDS} seeds that all cells have; there are {len(x)}")
        else:
            notes = [found.note, *notes]
            verdict = "premise not met"
            if found.premise:
                p = min(1.0, 2 * min(found.p_for, found.p_against))
                verdict = "holds" if found.p_for < found.p_against else "does not hold"
    return Verdict(
        name=claim.name,
        statement=claim.statement,
        source=claim.source,
        metric=claim.metric,
        kind=kind.word,
        n=0 if single else len(x),
        estimate=interval.estimate,
        low=interval.low,
        high=interval.high,
        bca_low=bca.low,
        bca_high=bca.high,
        margin=kind.threshold,
        p=p,
        p_holm=math.nan,
        verdict=verdict,
        note="; ".join(filter(None, notes)),
    )


def _corrected(verdict: Verdict, p_holm: float, tested: int) -> dict[str, str]:
    if p_holm <= ALPHA:
        return {}
    if verdict.p > ALPHA:
        return {"verdict": "inconclusive"}
    by = KINDS[verdict.kind].by
    alone = f"{verdict.verdict} by its own {by}, not after Holm's correction over {tested} claims"
    return {"verdict": "inconclusive", "note": "; ".join(filter(None, (verdict.note, alone)))}
