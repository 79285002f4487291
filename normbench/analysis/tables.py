"""Summaries of a study in words: pure functions of its runs.csv and of what its experiment file says."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from normbench.analysis.claims import Verdict
from normbench.analysis.columns import of_configuration
from normbench.analysis.evidence import best, censored, counted, measured
from normbench.analysis.statistics import bca_interval, paired, probability_of_improvement, t_interval, t_test
from normbench.errors import UserError
from normbench.records.metrics import (
    HEADLINE,
    MEASUREMENTS,
    OBJECTIVE,
    OVER,
    PEAK_MEMORY,
    Outcome,
    of_measurements,
    outcome_of,
)
from normbench.words import duration, markdown, typed

BASELINE = "batch"  # the method that the paired differences are taken from
# Above the results of a training, and of anything else.
TRAINED = (
    "Accuracy in percent after the last epoch: mean ± half-width of the 95 % t interval over the replicates, and "
    "the BCa bootstrap interval of the test accuracy. A diverged replicate counts at chance. ms a step: per "
    "replicate, median; memory: the process's peak on a CPU, the device's on a GPU."
)
MEASURED = "Mean ± half-width of the 95 % t interval over the replicates."

_value = partial(typed, empty="–")


def settings(runs: pd.DataFrame) -> list[str]:
    """The columns by which the runs of a table differ: what a row of its summary is about."""
    columns = of_configuration(runs)
    differing = [column for column in columns if column == "method" or runs[column].nunique(dropna=False) > 1]
    plain = runs["stats_batch"].isna() | (runs["stats_batch"] == runs["batch_size"])
    told = "stats_batch" if plain.all() else "norm.ghost_size"  # one says what the other does
    return [column for column in differing if column != told]


def summary(name: str, title: str, runs: pd.DataFrame, verdicts: list[Verdict]) -> str:
    """summary.md of a study: its scale and where it ran, verdicts, results, paired differences, what is not counted.

    title: a sentence on the study. Accuracies are means over replicates in percent with 95 % intervals. Further
    outcomes and test-time augmentation have a section each where there are any.
    """
    parts = [f"# {name}", title, _header(runs)]
    if verdicts:
        parts += ["## Claims", _claims(verdicts)]
    parts += ["## Results", _results(runs)]
    if further := _further(runs):
        parts += ["## Further outcomes", further]
    if views := _test_time_augmentation(runs):
        parts += ["## Test-time augmentation", views]
    if differences := _differences(runs):
        parts += [f"## Paired differences from {BASELINE}", differences]
    parts += ["## Not counted", _not_counted(runs)]
    return "\n\n".join(parts) + "\n"


def scale(runs: pd.DataFrame) -> str:
    """What was trained, in a line: `resnet8, cifar10, 10000 training images, 4 epochs, sgd`."""

    def each(column, words=""):
        return ", ".join(str(value) for value in runs[column].dropna().unique()) + words

    images = "all training images" if runs["train_size"].isna().all() else each("train_size", " training images")
    return ", ".join([each("model"), each("data"), images, each("epochs", " epochs"), each("optimizer")])


def commits(runs: pd.DataFrame) -> str:
    """The commit of the rows that count; where there are several, each with its number of replicates."""
    over = counted(runs)
    return _several(over.assign(commit=over["commit"].map(_short) + over["dirty"].map(_dirt)), "commit", "{}")


def rates(runs: pd.DataFrame) -> pd.DataFrame:
    """The best rate of each method in a sweep over lr: highest mean validation accuracy, the lower rate where equal.

    runs: of a study that `tunes: lr`. Columns: model, optimizer, method, lr, val_acc (percent, mean), n (replicates),
    rates (how many were tried), edge ("lowest" or "highest" where the best is at the grid's edge, else empty).
    Raises UserError where no run is over.
    """
    rows = []
    for arm, group in counted(runs).groupby(["model", "optimizer", "method"], sort=True):
        if found := best(group, "lr"):
            rows.append((*arm, found.value, round(found.mean, 4), found.n, found.tried, found.edge))
    if not rows:
        raise UserError("no run of this study is over: no rate can be chosen")
    return pd.DataFrame(rows, columns=["model", "optimizer", "method", "lr", OBJECTIVE, "n", "rates", "edge"])


def rates_summary(table: pd.DataFrame) -> str:
    """The table of `rates` in words; what is at the edge of its grid is flagged."""
    rows = [
        [
            row.method,
            f"{row.lr:g}",
            f"{getattr(row, OBJECTIVE):.2f}",
            f"{row.n} × {row.rates}",
            f"**the {row.edge} of the grid: widen it**" if row.edge else "inside the grid",
        ]
        for row in table.fillna("").itertuples()
    ]
    head = ["method", "rate at batch 128", "validation, %", "replicates × rates tried", "where"]
    return "## Rates\n\n" + markdown(head, "lrrrl", rows) + "\n"


# --- The parts. -------------------------------------------------------------------------------------------------------


def _header(runs: pd.DataFrame) -> str:
    over = counted(runs)
    lines = [
        f"- Scale: {scale(runs)}",
        f"- Command: {_several(over, 'command', '`{}`')}",
        f"- Commit: {commits(over)}",
        f"- Device: {_several(over, 'device', '{}')}; threads a run: {_several(over, 'threads', '{:.0f}')}; "
        f"torch {_several(over, 'torch', '{}')}",
        f"- n: {_n(runs)}; seeds {_ranges(runs['seed'])}, the same for every arm",
        f"- Training and evaluation took {duration(_seconds(over))} in all, the runs added up",
    ]
    if over["commit"].nunique(dropna=False) > 1:
        lines.append("- **Rows of several commits are in this table**; the column commit of runs.csv tells them apart.")
    return "\n".join(lines)


def _short(commit) -> str:
    return commit[:7] if isinstance(commit, str) else "unknown"


def _dirt(dirty) -> str:
    return " with uncommitted changes" if dirty is True or str(dirty) == "True" else ""


def _seconds(over: pd.DataFrame) -> float:
    """Of all runs: the replicates of a stack share their seconds."""
    return (over["seconds"] / over["stack"]).sum()


def _several(table: pd.DataFrame, column: str, form: str) -> str:
    """The one value of a column, or each with its number of replicates."""
    counts = table[column].value_counts(sort=False, dropna=True)
    if len(counts) == 1:
        return form.format(counts.index[0])
    return "; ".join(f"{form.format(value)} ({n} replicates)" for value, n in counts.items()) or "none"


def _n(runs: pd.DataFrame) -> str:
    counts = runs.assign(counted=runs["status"].isin(OVER)).groupby("run_id")["counted"].sum()
    low, high = counts.min(), counts.max()
    return f"{low} replicates a run" if low == high else f"{low} to {high} replicates a run"


def _ranges(seeds: pd.Series) -> str:
    found = sorted(int(seed) for seed in seeds.unique())
    return f"{found[0]}–{found[-1]}" if found == list(range(found[0], found[-1] + 1)) else ", ".join(map(str, found))


def _claims(verdicts: list[Verdict]) -> str:
    rows = []
    for v in verdicts:
        digits = f"+{outcome_of(v.metric).digits}"
        interval = f"{v.estimate:{digits}} [{v.low:{digits}}, {v.high:{digits}}]"
        rows.append(
            [
                f"{v.statement} ({v.source})",
                f"{v.kind}, {v.metric}",
                f"{v.margin:g}",
                str(v.n),
                "–" if math.isnan(v.estimate) else interval,
                "–" if math.isnan(v.p_holm) else _p(v.p_holm),
                f"**{v.verdict}**",
                v.note or "–",
            ]
        )
    head = ["claim", "kind, metric", "margin", "n", "estimate [95 % t interval]", "p, Holm", "verdict", "note"]
    tested = sum(not math.isnan(v.p) for v in verdicts)
    text = (
        "Each was fixed in the experiment file before the runs. n paired seeds; a claim holds, or does not, where its "
        f"p value, corrected by Holm over the {tested} that could be tested, is at most 0.05; else it is inconclusive."
    )
    return f"{text}\n\n{markdown(head, 'llrrrrll', rows)}"


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _arms(runs: pd.DataFrame) -> list[str]:
    """The columns by whose values the rows of a table are grouped."""
    keys = settings(runs)
    twice = runs.duplicated([*keys, "seed"], keep=False).any()
    return [*keys, "run_id"] if twice else keys  # runs that differ in their seeds alone: each is a row of its own


def _outcomes(runs: pd.DataFrame, table: str) -> list[Outcome]:
    """The outcomes of one table of summary.md that the runs have: what a study asked for besides comes last."""
    found = [outcome for outcome in of_measurements(MEASUREMENTS) if outcome.table == table]
    found = [o for o in found if o.name in runs and measured(runs, [o.sought or o.name])]
    return sorted(found, key=lambda outcome: bool(outcome.reached or outcome.sought))


def _results(runs: pd.DataFrame) -> str:
    """The accuracies and what they cost; of runs that have none, the outcomes that they have."""
    keys, columns, text = _arms(runs), _accuracies(runs), TRAINED
    if HEADLINE not in runs:
        columns, text = _cells(shown := _outcomes(runs, "further")), _notes(shown, MEASURED)
    rows = []
    for values, group in runs.groupby(keys, sort=False, dropna=False):
        over = counted(group)
        cells = [cell(over, values) for cell in columns.values()]
        rows.append([*map(_value, values), str(len(over)), _status(group), *cells])
    return f"{text}\n\n{markdown([*keys, 'n', 'status', *columns], 'l' * len(keys) + 'rl' + 'r' * len(columns), rows)}"


def _status(group: pd.DataFrame) -> str:
    """What became of the replicates of an arm."""
    counts = group["status"].value_counts()
    status = counts.index[0] if len(counts) == 1 else ", ".join(f"{n} {word}" for word, n in counts.items())
    return status + (", **of several commits**" if counted(group)["commit"].nunique(dropna=False) > 1 else "")


def _accuracies(runs: pd.DataFrame) -> dict[str, Callable]:
    """Head → cell, of the rows that count and their arm."""
    shown = _outcomes(runs, "results")
    return {
        **{outcome.title: lambda over, _, name=outcome.name: _mean(over[name].dropna()) for outcome in shown},
        "BCa, test": lambda over, arm: _bca(over[HEADLINE].dropna(), arm),
        "ms a step": lambda over, _: _median(outcome_of("ms_per_step"), over),
        "memory, MB": lambda over, _: _median(PEAK_MEMORY, over),
    }


def _cells(outcomes: list[Outcome]) -> dict[str, Callable]:
    """Head → cell, as `_accuracies` has it."""
    return {outcome.title: lambda over, _, outcome=outcome: _cell(outcome, over) for outcome in outcomes}


def _notes(outcomes: list[Outcome], first: str = "") -> str:
    """What there is to say of them, each once. first: where one of them has nothing to say for itself."""
    notes = [outcome.note or first for outcome in outcomes]
    return " ".join(filter(None, dict.fromkeys(notes)))


def _further(runs: pd.DataFrame) -> str:
    """Calibration, time and what a study asked for besides; empty where there is none of it."""
    over, keys = counted(runs), _arms(runs)
    shown = _outcomes(over, "further")
    if HEADLINE not in runs or not shown:
        return ""
    columns = _cells(shown)
    rows = [
        [*map(_value, values), str(len(group)), *(cell(group, values) for cell in columns.values())]
        for values, group in over.groupby(keys, sort=False, dropna=False)
    ]
    table = markdown([*keys, "n", *columns], "l" * len(keys) + "r" * (len(columns) + 1), rows)
    return f"{_notes(shown, MEASURED)}\n\n{table}"


def _test_time_augmentation(runs: pd.DataFrame) -> str:
    """What averaging over views did to the test accuracy; empty where no run did."""
    over, keys, rows = counted(runs), _arms(runs), []
    if not measured(over, ["test_acc_tta"]):
        return ""
    for values, group in over[over["test_acc_tta"].notna()].groupby(keys, sort=False, dropna=False):
        rows.append(
            [
                *(_value(value) for value in values),
                str(len(group)),
                _mean(group[HEADLINE]),
                _mean(group["test_acc_tta"]),
                _mean(group["test_acc_tta"] - group[HEADLINE], sign="+"),
                _mean_of(group["test_ece"]),
                _mean_of(group["test_ece_tta"]),
                f"{group['tta_gained'].sum():.0f}",
                f"{group['tta_lost'].sum():.0f}",
                _p_range(group["tta_p"].dropna()),
                f"× {_median(outcome_of('tta_cost'), group)}",
            ]
        )
    text = (
        "TTA: outputs averaged over several views of each test image, beside the plain evaluation. Means ± half-width "
        "of the 95 % t interval. Turned right, turned wrong: test images, summed over the replicates. McNemar: exact p "
        "of each replicate, the least and the greatest, not corrected; they share their images and are not pooled. "
        "Time: of the evaluation, as a multiple of the plain one's, median."
    )
    outcomes = ["test", "test, TTA", "difference", "ECE", "ECE, TTA", "turned right", "turned wrong", "McNemar", "time"]
    head = [*keys, "n", *outcomes]
    return f"{text}\n\n{markdown(head, 'l' * len(keys) + 'r' * (len(outcomes) + 1), rows)}"


def _differences(runs: pd.DataFrame) -> str:
    """Each method against the baseline of the same other settings, seed by seed."""
    keys = [key for key in settings(runs) if key not in ("method", "stats_batch", "lr") and not key.startswith("norm.")]
    over = counted(runs)
    # A method's rate is its own affair, unless it was tried at several.
    if over.groupby([*keys, "method"], dropna=False)["lr"].nunique().gt(1).any():
        keys.append("lr")
    if HEADLINE not in over or BASELINE not in set(over["method"]) or over["method"].nunique() < 2:
        return ""
    rows = []
    groups = over.groupby(keys, sort=False, dropna=False) if keys else [((), over)]
    for values, group in groups:
        base = _by_seed(group[group["method"] == BASELINE])
        for method, arm in group[group["method"] != BASELINE].groupby("method", sort=False):
            other = _by_seed(arm)
            if base is None or other is None:  # several rows a seed: the method's own options differ
                continue
            differences, seeds = paired(other, base)
            if len(seeds) < 2:
                continue
            interval, p = t_interval(differences), min(1.0, 2 * min(t_test(differences)))
            better = probability_of_improvement(other, base)
            rows.append(
                [
                    *(_value(value) for value in values),
                    f"{method} − {BASELINE}",
                    str(interval.n),
                    f"{interval.estimate:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]",
                    _p(p),
                    f"{better.estimate:.2f} [{better.low:.2f}, {better.high:.2f}]",
                ]
            )
    if not rows:
        return ""
    head = [*keys, "difference", "n", "test accuracy, points [95 % t]", "p", f"P(method > {BASELINE}) [95 % bootstrap]"]
    text = "Seed by seed, at the same other settings; p is two-sided and not corrected."
    return f"{text}\n\n{markdown(head, 'l' * len(keys) + 'lrrrr', rows)}"


def _by_seed(rows: pd.DataFrame) -> pd.Series | None:
    values = rows.set_index("seed")[HEADLINE]
    return None if values.empty or values.index.duplicated().any() else values


def _not_counted(runs: pd.DataFrame) -> str:
    lost = runs[~runs["status"].isin(OVER)]
    if lost.empty:
        return f"Nothing: all {len(runs)} replicates are over."
    rows = [
        [name, status, ", ".join(str(seed) for seed in group["seed"]), group["error"].dropna().astype(str).max() or "–"]
        for (name, status), group in lost.fillna({"error": ""}).groupby(["run_id", "status"], sort=False)
    ]
    return markdown(["run", "status", "seeds", "error"], "llll", rows)


# --- Their cells. -----------------------------------------------------------------------------------------------------


def _cell(outcome: Outcome, group: pd.DataFrame) -> str:
    """What the rows of an arm that count say of an outcome."""
    if outcome.name not in group:
        return "–"
    if outcome.reached:
        return _bounded(outcome, group)
    if outcome.median is None:
        return _mean_of(group[outcome.name], outcome.digits)
    if outcome.sought:
        sought, found = group[outcome.sought].notna().sum(), group[outcome.name].notna().sum()
        return f"{_median(outcome, group)} ({found} of {sought})" if sought else "–"
    return _median(outcome, group)


def _mean(values: pd.Series, digits: str = ".2f", sign: str = "") -> str:
    if values.empty:
        return "–"
    interval = t_interval(values)
    half = "" if interval.n == 1 else f" ± {interval.high - interval.estimate:{digits}}"
    return f"{interval.estimate:{sign}{digits}}{half}"


def _mean_of(values: pd.Series, digits: str = ".2f") -> str:
    """The mean of those that have a value, with their number where that is not all of them."""
    found = values.dropna()
    return _mean(found, digits) + (f" (n = {len(found)})" if 0 < len(found) < len(values) else "")


def _median(outcome: Outcome, group: pd.DataFrame) -> str:
    """Of each replicate: what those of a stack share is divided among them."""
    values = group[outcome.name]
    if values.isna().all():
        return "–"
    return f"{(values / group['stack'] if outcome.shared else values).median():{outcome.median}}"


def _bounded(outcome: Outcome, group: pd.DataFrame) -> str:
    """The median of what has a value, of which the censored ones are bounds, and how many are none."""
    found = group[group[outcome.name].notna()]
    if found.empty:
        return "–"
    reached = len(found) - censored(found, outcome.name).sum()
    bound = "≥ " if 2 * reached <= len(found) else ""  # the replicates in the middle are among those not reached
    return f"{bound}{_median(outcome, found)} ({reached} of {len(found)})"


def _p_range(values: pd.Series) -> str:
    return " to ".join(dict.fromkeys(map(_p, (values.min(), values.max())))) if len(values) else "–"


def _bca(values: pd.Series, seed_words) -> str:
    if len(values) < 2:
        return "–"
    interval = bca_interval(values, np.random.default_rng([*str(seed_words).encode()]))
    return f"[{interval.low:.2f}, {interval.high:.2f}]"
