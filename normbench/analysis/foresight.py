"""What a study's seeds will show, before its runs: by the spread of a similar study, or its own where it has runs."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from normbench.analysis.cells import ratio_digits
from normbench.analysis.claims import Claim, parse_looks, spread_of
from normbench.analysis.evidence import concerning, counted
from normbench.analysis.kinds import Linear, Trend
from normbench.analysis.power import like
from normbench.analysis.samples import Sample
from normbench.analysis.statistics import Mean
from normbench.analysis.study import Study
from normbench.errors import UserError
from normbench.records.metrics import outcome_of
from normbench.words import markdown


def foresight(study: Study, similar: Study, seeds: Sequence[int] = ()) -> str:
    """A row a claim, of the primary ones where there are some: what so many seeds show with 80 % power.

    similar: whose runs tell the spread; the study itself, where it has some. seeds: numbers of them; by default those
    of the study's looks, or its replicates and two and four times as many. Raises UserError for a study without claims.
    """
    claims = [claim for claim in study.claims if claim.primary] or study.claims
    if not claims:
        raise UserError(f"{study.name}: a study without claims")
    planned = parse_looks(study.says("looks")) or tuple(times * (study.says("replicates") or 5) for times in (1, 2, 4))
    counts = sorted(set(seeds or planned))
    rows = []
    for claim in claims:
        mean = spread_of(claim, similar.runs) if similar.name == study.name else _borrowed(claim, similar.runs)
        rows.append([claim.name, _margin(claim), *(_shown(claim, mean, n) for n in counts)])
    head = ["claim", "margin", *(f"n = {n}" for n in counts)]
    return f"{_words(study, similar)}\n\n{markdown(head, 'lr' + 'r' * len(counts), rows)}"


def _words(study: Study, similar: Study) -> str:
    own = "its own runs" if similar.name == study.name else f"the runs of {similar.name}"
    return (
        f"{study.name}: the distance from the margin (×: the factor) that n seeds find with 80 % power, two-sided at "
        f"5 % and before correction, by the spread of {own}; of an equivalence, the least margin that equal arms are "
        "put within. –: no t test, or no such values."
    )


def _margin(claim: Claim) -> str:
    return f"{'× ' if claim.scale == 'log' else ''}{claim.kind.threshold:g}"


def _shown(claim: Claim, mean: Mean | None, n: int) -> str:
    if mean is None or n < 2:
        return "–"
    found = claim.kind.power(like(mean, n))
    if math.isnan(found):
        return "–"
    if claim.logs:
        return f"× {math.exp(found):{ratio_digits(math.exp(found))}}"
    return f"{found:{outcome_of(claim.metric).digits}}"


def _borrowed(claim: Claim, runs: pd.DataFrame) -> Mean | None:
    """The spread of a claim's weighted sum, were its cells as those of another study and without anything in common."""
    if not isinstance(claim.kind, Linear) or isinstance(claim.kind, Trend):  # whose cells the runs alone tell
        return None
    weights = claim.kind.weights(Sample(pd.DataFrame(), {}, {}, claim.metric))
    found = _within_runs(concerning(counted(runs), claim.metric), claim.metric, claim.logs)
    if found is None:
        return None
    sd, df = found
    n = df + 1
    return Mean(0.0, sd * math.sqrt(sum(w**2 for w in weights.values()) / n), df, n)


def _within_runs(runs: pd.DataFrame, metric: str, logs: bool) -> tuple[float, int] | None:
    """The standard deviation between the seeds of a run, pooled over runs, and its degrees of freedom."""
    if metric not in runs:
        return None
    values = runs[metric].astype(float)
    values = np.log(values.where(values > 0)) if logs else values
    groups = values.groupby(runs["run_id"])
    df = (groups.count() - 1).clip(lower=0)
    total = int(df.sum())
    return (math.sqrt((groups.var() * df).sum() / total), total) if total else None
