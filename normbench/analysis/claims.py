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

Each kind takes, beside name, statement, source and metric:

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
from itertools import combinations, product

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from normbench.analysis.statistics import (
    Interval,
    bca_interval,
    best_of,
    holm,
    interaction,
    slope_weights,
    t_interval,
    t_test,
    tost,
)
from normbench.config.checks import NOT_NEGATIVE, POSITIVE, Check, number, one_of, text
from normbench.errors import InputError, choices_text
from normbench.records.directory import OVER

ALPHA = 0.05
FEWEST_SEEDS = 3

KINDS = {
    "level": ("a", "direction", "level"),
    "difference": ("a", "b", "direction", "margin"),
    "equivalence": ("a", "b", "margin"),
    "spread": ("where", "over", "margin"),
    "trend": ("where", "over", "direction", "margin"),
    "recovery": ("a", "b", "reference", "share"),
    "interaction": ("where", "over"),
    "difference_of_differences": ("a", "b", "c", "d", "direction", "margin"),
}
# What a cell may say beside columns and their values.
BESIDE = ("metric", "best")
# The metrics of a range test, in words.
RANGE_TEST = {"suggested_lr": "suggested rate", "regret": "regret"}
SELECTORS = ("a", "b", "c", "d", "reference", "where")


@dataclass(frozen=True)
class Claim:
    """A claim as it stands in the file, checked; what its kind does not take is None, its margin 0."""

    name: str
    statement: str
    source: str
    kind: str
    metric: str = "test_acc"
    a: dict | None = None
    b: dict | None = None
    c: dict | None = None
    d: dict | None = None
    reference: dict | None = None
    where: dict | None = None
    over: str | list[str] | None = None
    direction: str | None = None
    margin: float = 0.0
    share: float | None = None
    level: float | None = None


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


def _selector(value) -> str | None:
    def scalar(v):
        return v is None or isinstance(v, str | int | float)

    if (
        isinstance(value, dict)
        and set(value) - {*BESIDE}
        and all(isinstance(column, str) for column in value)
        and all(scalar(v) or (isinstance(v, list) and v and all(map(scalar, v))) for v in value.values())
        and all(isinstance(value.get(key, ""), str) for key in BESIDE)
    ):
        return None
    return "must be a cell like {method: group, batch_size: [2, 4]}: columns of the table, each with a value or a list"


def _two_columns(value) -> str | None:
    good = isinstance(value, list) and len(value) == 2 and not any(map(text, value)) and value[0] != value[1]
    return None if good else "must be a list of two different columns, like [data.noise, data.input]"


CHECKS: dict[str, Check] = {
    "name": text,
    "statement": _sentence,
    "source": _sentence,
    "kind": one_of(KINDS),
    "metric": text,
    **dict.fromkeys(SELECTORS, _selector),
    "over": text,
    "direction": one_of(("greater", "less")),
    "margin": NOT_NEGATIVE,
    "level": number(lambda v: True, "in the metric's unit"),
    "share": number(lambda v: 0 < v <= 1, "above 0, at most 1"),
}
CHECKS_OF_KIND: dict[tuple[str, str], Check] = {
    ("equivalence", "margin"): POSITIVE,
    ("spread", "margin"): POSITIVE,
    ("interaction", "over"): _two_columns,
}


def parse_claims(entries: list[dict] | None) -> list[Claim]:
    """Claims from the list that the file has under `claims`, None where it has none.

    Raises an InputError that names the claim, key, value and choices.
    """
    entries = [] if entries is None else entries
    if not isinstance(entries, list):
        raise InputError("claims", _line(entries), "must be a list of claims")
    claims = []
    for index, entry in enumerate(entries):
        claims.append(_parse(entry, index))
        if claims[-1].name in [claim.name for claim in claims[:-1]]:
            raise InputError(f"claims[{index}].name", claims[-1].name, "an earlier claim has this name")
    return claims


def _parse(entry, index: int) -> Claim:
    if not isinstance(entry, dict):
        raise InputError(f"claims[{index}]", _line(entry), "must be a claim: name, statement, source, kind, …")
    if wrong := CHECKS["name"](entry.get("name")):
        raise InputError(f"claims[{index}].name", _line(entry.get("name")), wrong)

    def mistake(key, message):
        return InputError(f"claims.{entry['name']}.{key}", _line(entry.get(key)), message)

    if wrong := CHECKS["kind"](entry.get("kind")):
        raise mistake("kind", wrong)
    kind = entry["kind"]
    needed = ("name", "statement", "source", "kind", *KINDS[kind])
    for key in entry:
        if key not in (*needed, "metric"):
            raise mistake(key, f"no key of kind {kind}; {choices_text(key, (*needed, 'metric'))}")
    for key in (*needed, *(["metric"] if "metric" in entry else [])):
        check = CHECKS_OF_KIND.get((kind, key), CHECKS[key])
        if wrong := check(entry.get(key)):
            raise mistake(key, wrong)
    for column in _listed(entry.get("over", [])):
        if column in entry["where"]:
            listed = entry["where"][column]
            if not isinstance(listed, list) or len(set(listed)) < 2 or None in listed:
                raise mistake("where", f"must list two values of {column} or more, none of them null, or not name it")
    return Claim(**entry | {key: " ".join(entry[key].split()) for key in ("statement", "source")})


def _line(value) -> str:
    """A value on one line, as YAML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_line(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_line, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else " ".join(str(value).split())


# --- From the table to the values of a claim. -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cell:
    """The replicates of one cell by seed: their value (NaN where there is none), and what became of them.

    remark: which value `best` chose, and how many lack a suggested rate.
    """

    label: str
    metric: str
    values: pd.Series
    diverged: pd.Series
    censored: pd.Series
    remark: str = ""


def _matches(column: pd.Series, value) -> pd.Series:
    if value is None:
        return column.isna()
    if not is_numeric_dtype(column):
        return column.astype(str) == str(value)
    if isinstance(value, str):
        return pd.Series(False, column.index)
    # A rate that was written to a file and read again may differ in its last bit.
    return pd.Series(np.isclose(column.to_numpy(float, na_value=np.nan), value, rtol=1e-9, atol=0), column.index)


def _listed(value) -> list:
    return value if isinstance(value, list) else [value]


def _require(claim: Claim, place: str, value, column: str, columns, what: str = "column") -> None:
    if column not in columns:
        wrong = f"the table has no such {what}; {choices_text(column, columns)}"
        raise InputError(f"claims.{claim.name}.{place}", _line(value), wrong)


def _select(claim: Claim, key: str, selector: dict, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of a cell. Raises InputError for a column that the table lacks."""
    chosen = pd.Series(True, runs.index)
    for column, value in selector.items():
        if column in BESIDE:
            continue
        _require(claim, f"{key}.{column}", value, column, runs.columns)
        chosen &= np.any([_matches(runs[column], item) for item in _listed(value)], axis=0)
    return runs[chosen]


def _best(claim: Claim, key: str, label: str, column: str, rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows at the value of `column` with the highest mean validation accuracy, and a remark on which that is."""
    _require(claim, f"{key}.best", column, column, rows.columns)
    over = rows[rows.status.isin(OVER) & rows[column].notna() & rows.val_acc.notna()]
    if over.empty:
        return rows[:0], ""
    best = best_of(over.val_acc, over[column])
    tried = "value" if best.tried == 1 else f"of {best.tried} values"
    remark = f"{label}: {column}={_line(best.value)} is the best {tried}"
    if best.tried > 1 and best.edge:
        remark += f", the {best.edge} of the grid: widen it"
    return rows[rows[column] == best.value], remark


def _cell(claim: Claim, key: str, label: str, selector: dict, runs: pd.DataFrame) -> _Cell:
    """Raises InputError where a seed has more than one row, or the metric is no column of numbers."""
    rows, remark = _select(claim, key, selector, runs), ""
    if "best" in selector:
        rows, remark = _best(claim, key, label, selector["best"], rows)
    metric = selector.get("metric", claim.metric)
    numbers = [column for column in runs if is_numeric_dtype(runs[column]) or runs[column].isna().all()]
    _require(claim, f"{key}.metric" if "metric" in selector else "metric", metric, metric, numbers, "column of numbers")
    if rows.seed.duplicated().any():
        seed = rows.seed[rows.seed.duplicated()].iloc[0]
        found = ", ".join(rows.run_id[rows.seed == seed])
        wrong = f"several runs with seed {seed}: {found}; add a column that tells them apart"
        raise InputError(f"claims.{claim.name}.{key}", _line(selector), wrong)
    rows = rows.set_index("seed")
    values = rows[metric].astype(float)
    values = values.where(rows.status.isin(OVER) & np.isfinite(values))
    diverged = rows.status.eq("diverged")
    if metric in RANGE_TEST:  # what became of the training beside which the rate was sought has nothing to do with it
        diverged &= False
        if none := (rows.get("lr_found", values).notna() & values.isna()).sum():
            remark = "; ".join(filter(None, (remark, f"{label}: no {RANGE_TEST[metric]} for {none} of {len(rows)}")))
    return _Cell(label, metric, values, diverged, _censored(rows, metric), remark)


def _censored(rows: pd.DataFrame, metric: str) -> pd.Series:
    """Where the value is the least that it may be: the target was not reached in all the steps of a training."""
    if metric != "steps_to_target" or "target_reached" not in rows:
        return pd.Series(False, rows.index)
    return rows.target_reached.eq(False)


def _levels(claim: Claim, runs: pd.DataFrame) -> dict[str, list]:
    """The values of each column of `over`; empty for a kind without it."""
    levels = {}
    for column in [] if claim.over is None else _listed(claim.over):
        _require(claim, "over", claim.over, column, runs.columns)
        # Values that the claim lists are levels even where the table has none of their runs.
        found = _select(claim, "where", claim.where, runs)[column].dropna().unique().tolist()
        levels[column] = list(dict.fromkeys(claim.where.get(column, sorted(found))))
    if claim.kind == "trend" and not all(POSITIVE(value) is None for value in levels[claim.over]):
        wrong = f"has values that do not double: {_line(levels[claim.over])}"
        raise InputError(f"claims.{claim.name}.over", claim.over, wrong)
    return levels


def _cells(claim: Claim, levels: dict[str, list], runs: pd.DataFrame) -> dict[object, _Cell]:
    """By key, or by the value of `over`, or by the pair of values, those of the first column outermost."""
    if not levels:
        keys = [key for key in SELECTORS if getattr(claim, key) is not None]
        return {key: _cell(claim, key, key, getattr(claim, key), runs) for key in keys}
    cells = {}
    for values in product(*levels.values()):
        chosen = dict(zip(levels, values, strict=True))
        label = " ".join(f"{column}={_line(value)}" for column, value in chosen.items())
        cells[values if len(values) > 1 else values[0]] = _cell(claim, "where", label, claim.where | chosen, runs)
    return cells


def _remarks(claim: Claim, runs: pd.DataFrame, cells: list[_Cell], table: pd.DataFrame) -> list[str]:
    """What a reader has to know about the replicates that stand behind a verdict. table: (seeds, cells), with gaps."""
    remarks = []
    for key in SELECTORS:
        for column, value in (getattr(claim, key) or {}).items():
            strange = [v for v in _listed(value) if column not in BESIDE and not _matches(runs[column], v).any()]
            remarks += [f"no run of the table has {column}={_line(v)}" for v in strange]
    remarks += [cell.remark for cell in cells if cell.remark]
    for cell in cells:
        if cell.values.isna().all():
            remarks.append(f"{cell.label}: no {'values of ' + cell.metric if len(cell.values) else 'runs'}")
    complete = table.dropna().index
    if len(complete) < len(table):
        remarks.append(f"{len(table) - len(complete)} of {len(table)} seeds missing")
    for cell in cells:
        lost, silent = cell.diverged, cell.diverged & cell.values.isna()
        if count := lost.reindex(complete, fill_value=False).sum():
            at_chance = " at chance" if "acc" in cell.metric else ""
            remarks.append(f"{cell.label}: {count} of {len(complete)} diverged, counted{at_chance}")
        if silent.any():
            remarks.append(f"{cell.label}: {silent.sum()} diverged without {cell.metric}, not counted")
        if count := cell.censored.reindex(complete, fill_value=False).sum():
            never = f"{count} of {len(complete)} censored: target not reached, counted with all their steps"
            remarks.append(f"{cell.label}: {never}")
    return list(dict.fromkeys(remarks))


# --- From values to verdicts. -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Evidence:
    """One number a seed, the one-sided p values for the claim and against it, and what there is to say."""

    contrast: np.ndarray
    p_for: float
    p_against: float
    note: str = ""
    premise: bool = True


def _beyond(contrast: np.ndarray, claim: Claim, **more) -> _Evidence:
    if claim.direction == "less":
        p_against, p_for = t_test(contrast, -claim.margin)
    else:
        p_for, p_against = t_test(contrast, claim.margin)
    return _Evidence(contrast, p_for, p_against, **more)


def _within(contrast: np.ndarray, margin: float) -> _Evidence:
    return _Evidence(contrast, tost(contrast, margin), min(t_test(contrast, margin)[0], t_test(contrast, -margin)[1]))


def _trend(claim: Claim, x: pd.DataFrame) -> _Evidence:
    # The weights sum to 0; without the common level the slope of equal values is exactly 0.
    return _beyond((x - x[[x.columns[0]]].to_numpy()).to_numpy() @ slope_weights(np.log2(x.columns.tolist())), claim)


def _spread(claim: Claim, x: pd.DataFrame, cells: dict) -> _Evidence:
    pairs = {pair: _within((x[pair[0]] - x[pair[1]]).to_numpy(), claim.margin) for pair in combinations(x.columns, 2)}
    widest = max(pairs, key=lambda pair: abs(pairs[pair].contrast.mean()))
    contrast = pairs[widest].contrast
    if contrast.mean() < 0:
        widest, contrast = widest[::-1], -contrast
    # The claim is that all pairs lie within (intersection-union: no correction), its contrary that one does not.
    return _Evidence(
        contrast,
        max(pair.p_for for pair in pairs.values()),
        min(1.0, len(pairs) * min(pair.p_against for pair in pairs.values())),
        note=f"furthest apart: {cells[widest[0]].label} above {cells[widest[1]].label}",
    )


def _recovery(claim: Claim, x: pd.DataFrame) -> _Evidence:
    gain, deficit = (x.a - x.b).to_numpy(), (x.reference - x.b).to_numpy()
    known = t_interval(deficit)
    if known.low > 0:
        note = f"recovers {100 * gain.mean() / known.estimate:.0f} % of a deficit of {_interval(known)}"
    else:
        note = f"no deficit to recover: reference − b is {_interval(known)}"
    return _beyond(gain - claim.share * deficit, claim, note=note, premise=known.low > 0)


def _interaction(x: pd.DataFrame, levels: dict[str, list]) -> _Evidence:
    (row, rows), (column, columns) = levels.items()
    values = x.to_numpy().reshape(len(x), len(rows), len(columns))

    def contrast(i, k, j, m):
        return (values[:, i, j] - values[:, k, j]) - (values[:, i, m] - values[:, k, m])

    squares = [(*ik, *jm) for ik in combinations(range(len(rows)), 2) for jm in combinations(range(len(columns)), 2)]
    i, k, j, m = max(squares, key=lambda square: abs(contrast(*square).mean()))
    if contrast(i, k, j, m).mean() < 0:
        j, m = m, j
    found = interaction(values)
    one = "the difference of differences" if len(squares) == 1 else "the largest difference of differences, uncorrected"
    effect = f"{row}={_line(rows[i])} above {_line(rows[k])}"
    note = f"F({found.df[0]}, {found.df[1]}) = {found.f:.2f}; estimate and interval: {one}, of {effect}"
    note += f" at {column}={_line(columns[j])} less that at {_line(columns[m])}"
    # An F test has no two sides: half of its p stands for the claim, as a two-sided test has it, and none against it.
    return _Evidence(contrast(i, k, j, m), found.p / 2, 1 - found.p / 2, note)


def _interval(known: Interval) -> str:
    return f"{known.estimate:.2f} [{known.low:.2f}, {known.high:.2f}]"


def _evidence(claim: Claim, x: pd.DataFrame, cells: dict, levels: dict[str, list]) -> _Evidence:
    """x: (seeds, cells), complete, with at least one seed and two levels of what it is over."""
    if claim.kind == "level":
        above, below = t_test(x.a, claim.level)
        return _Evidence(x.a.to_numpy(), *((above, below) if claim.direction == "greater" else (below, above)))
    if claim.kind == "trend":
        return _trend(claim, x)
    if claim.kind == "spread":
        return _spread(claim, x, cells)
    if claim.kind == "recovery":
        return _recovery(claim, x)
    if claim.kind == "interaction":
        return _interaction(x, levels)
    if claim.kind == "difference_of_differences":
        return _beyond(((x.a - x.b) - (x.c - x.d)).to_numpy(), claim)
    contrast = (x.a - x.b).to_numpy()
    return _within(contrast, claim.margin) if claim.kind == "equivalence" else _beyond(contrast, claim)


def _judge(claim: Claim, runs: pd.DataFrame) -> Verdict:
    """The verdict before Holm's correction: p is NaN where there is nothing to correct."""
    levels = _levels(claim, runs)
    cells = _cells(claim, levels, runs)
    table = pd.DataFrame({key: cell.values for key, cell in cells.items()})
    x = table.dropna()
    remarks = _remarks(claim, runs, list(cells.values()), table)
    interval = bca = Interval(math.nan, math.nan, math.nan, 0)
    p, verdict = math.nan, "not enough runs"
    single = [column for column, values in levels.items() if len(values) < 2]
    if single:
        remarks.append(f"fewer than two values of {' and of '.join(single)}")
    elif len(x):
        found = _evidence(claim, x, cells, levels)
        interval = t_interval(found.contrast)
        bca = bca_interval(found.contrast, np.random.default_rng([*claim.name.encode()]))
        if len(x) < FEWEST_SEEDS:
            remarks.append(f"a verdict takes {FEWEST_SEEDS} seeds that all cells have; there are {len(x)}")
        else:
            remarks = [found.note, *remarks]
            verdict = "premise not met"
            if found.premise:
                p = min(1.0, 2 * min(found.p_for, found.p_against))
                verdict = "holds" if found.p_for < found.p_against else "does not hold"
    return Verdict(
        name=claim.name,
        statement=claim.statement,
        source=claim.source,
        metric=claim.metric,
        kind=claim.kind,
        n=0 if single else len(x),
        estimate=interval.estimate,
        low=interval.low,
        high=interval.high,
        bca_low=bca.low,
        bca_high=bca.high,
        margin=claim.margin if claim.level is None else claim.level,
        p=p,
        p_holm=math.nan,
        verdict=verdict,
        note="; ".join(filter(None, remarks)),
    )


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


def _corrected(verdict: Verdict, p_holm: float, tested: int) -> dict[str, str]:
    if p_holm <= ALPHA:
        return {}
    if verdict.p > ALPHA:
        return {"verdict": "inconclusive"}
    by = "F test" if verdict.kind == "interaction" else "95 % interval"
    alone = f"{verdict.verdict} by its own {by}, not after Holm's correction over {tested} claims"
    return {"verdict": "inconclusive", "note": "; ".join(filter(None, (verdict.note, alone)))}
