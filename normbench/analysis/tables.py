"""Summaries of a study in words: pure functions of its runs.csv and of what its experiment file says."""

import math
import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

from normbench.analysis.claims import Verdict
from normbench.analysis.columns import of_configuration
from normbench.analysis.statistics import (
    bca_interval,
    best_of,
    paired,
    probability_of_improvement,
    t_interval,
    t_test,
)
from normbench.errors import UserError
from normbench.records.directory import OVER
from normbench.training.progress import duration

BASELINE = "batch"  # the method that the paired differences are taken from
SHOWN = {"val_acc": "validation", "test_acc": "test", "test_acc_precise": "test, precise statistics"}


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
    over = runs[runs["status"].isin(OVER)]
    return _several(over.assign(commit=over["commit"].map(_short) + over["dirty"].map(_dirt)), "commit", "{}")


def rates(runs: pd.DataFrame) -> pd.DataFrame:
    """The best rate of each method in a sweep over lr: highest mean validation accuracy, the lower rate where equal.

    runs: of a study that `tunes: lr`. Columns: model, optimizer, method, lr, val_acc (percent, mean), n (replicates),
    rates (how many were tried), edge ("lowest" or "highest" where the best is at the grid's edge, else empty).
    Raises UserError where no run is over.
    """
    rows = []
    over = runs[runs["status"].isin(OVER)]
    for (model, optimizer, method), group in over.groupby(["model", "optimizer", "method"], sort=True):
        best = best_of(group["val_acc"], group["lr"])
        rows.append((model, optimizer, method, best.value, round(best.mean, 4), best.n, best.tried, best.edge))
    if not rows:
        raise UserError("no run of this study is over: no rate can be chosen")
    return pd.DataFrame(rows, columns=["model", "optimizer", "method", "lr", "val_acc", "n", "rates", "edge"])


def rates_summary(table: pd.DataFrame) -> str:
    """The table of `rates` in words; what is at the edge of its grid is flagged."""
    rows = [
        [
            row.method,
            f"{row.lr:g}",
            f"{row.val_acc:.2f}",
            f"{row.n} × {row.rates}",
            f"**the {row.edge} of the grid: widen it**" if row.edge else "inside the grid",
        ]
        for row in table.fillna("").itertuples()
    ]
    head = ["method", "rate at batch 128", "validation, %", "replicates × rates tried", "where"]
    return "## Rates\n\n" + markdown(head, "lrrrl", rows) + "\n"


# --- The parts. -------------------------------------------------------------------------------------------------------


def _header(runs: pd.DataFrame) -> str:
    over = runs[runs["status"].isin(OVER)]
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
        interval = "–" if math.isnan(v.estimate) else f"{v.estimate:+.2f} [{v.low:+.2f}, {v.high:+.2f}]"
        rows.append(
            [
                f"{v.statement} ({v.source})",
                f"{v.kind}, {v.metric}",
                f"{v.margin:g}",
                str(v.n),
                interval,
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


def _measured(runs: pd.DataFrame, columns: Iterable[str]) -> list[str]:
    """Those of the columns that the table has, and has values in."""
    return [column for column in columns if column in runs and runs[column].notna().any()]


def _results(runs: pd.DataFrame) -> str:
    keys, metrics = _arms(runs), _measured(runs, SHOWN)
    rows = []
    for values, group in runs.groupby(keys, sort=False, dropna=False):
        over = group[group["status"].isin(OVER)]
        counts = group["status"].value_counts()
        status = counts.index[0] if len(counts) == 1 else ", ".join(f"{n} {word}" for word, n in counts.items())
        if over["commit"].nunique(dropna=False) > 1:
            status += ", **of several commits**"
        rows.append(
            [
                *(_value(value) for value in values),
                str(len(over)),
                status,
                *(_mean(over[column].dropna()) for column in metrics),
                _bca(over["test_acc"].dropna(), values),
                _median(over["ms_per_step"] / over["stack"], "{:.2f}"),
                _median(over["peak_memory_mb"], "{:.0f}"),
            ]
        )
    text = (
        "Accuracy in percent after the last epoch: mean ± half-width of the 95 % t interval over the replicates, and "
        "the BCa bootstrap interval of the test accuracy. A diverged replicate counts at chance. ms a step: per "
        "replicate, median; memory: the process's peak on a CPU, the device's on a GPU."
    )
    head = [*keys, "n", "status", *(SHOWN[column] for column in metrics), "BCa, test", "ms a step", "memory, MB"]
    return f"{text}\n\n{markdown(head, 'l' * len(keys) + 'rl' + 'r' * (len(metrics) + 3), rows)}"


def _further(runs: pd.DataFrame) -> str:
    """Calibration, time and what a study asked for besides; empty where there is none of it."""
    ece = "ECE: expected calibration error over 15 bins, in percent, mean ± half-width of the 95 % t interval."
    outcomes = {
        "val_ece": ("ECE, validation", ece, lambda group: _mean_of(group, "val_ece")),
        "test_ece": ("ECE, test", ece, lambda group: _mean_of(group, "test_ece")),
        "train_seconds": (
            "training, s",
            "Training: seconds per replicate, evaluation left out, median.",
            lambda group: _median(group["train_seconds"] / group["stack"], "{:.1f}"),
        ),
        "steps_to_target": (
            "steps to target",
            "Steps to target: SGD steps until the validation accuracy reached it, median, and how many replicates did "
            "reach it; one that did not counts with all its steps, and ≥ marks a median that is thus a bound.",
            _steps,
        ),
        "lr_found": (
            "suggested rate",
            "Suggested rate: of a learning rate range test, median, and of how many replicates it suggested one.",
            _suggested,
        ),
        "regret": (
            "regret",
            "Regret: points of test accuracy between the best rate of the grid, chosen by validation, and the rate of "
            "the grid nearest to the suggested one, mean ± half-width of the 95 % t interval; none where that best "
            "rate is at the edge of the grid.",
            lambda group: _mean_of(group, "regret"),
        ),
    }
    over, keys = runs[runs["status"].isin(OVER)], _arms(runs)
    shown = [outcomes[column] for column in _measured(over, outcomes)]
    if not shown:
        return ""
    heads, texts, cells = zip(*shown, strict=True)
    rows = [
        [*(_value(value) for value in values), str(len(group)), *(cell(group) for cell in cells)]
        for values, group in over.groupby(keys, sort=False, dropna=False)
    ]
    table = markdown([*keys, "n", *heads], "l" * len(keys) + "r" * (len(heads) + 1), rows)
    return f"{' '.join(dict.fromkeys(texts))}\n\n{table}"


def _test_time_augmentation(runs: pd.DataFrame) -> str:
    """What averaging over views did to the test accuracy; empty where no run did."""
    over, keys, rows = runs[runs["status"].isin(OVER)], _arms(runs), []
    if not _measured(over, ["test_acc_tta"]):
        return ""
    for values, group in over[over["test_acc_tta"].notna()].groupby(keys, sort=False, dropna=False):
        rows.append(
            [
                *(_value(value) for value in values),
                str(len(group)),
                _mean(group["test_acc"]),
                _mean(group["test_acc_tta"]),
                _mean(group["test_acc_tta"] - group["test_acc"], "+"),
                _mean_of(group, "test_ece"),
                _mean_of(group, "test_ece_tta"),
                f"{group['tta_gained'].sum():.0f}",
                f"{group['tta_lost'].sum():.0f}",
                _p_range(group["tta_p"].dropna()),
                _median(group["tta_cost"], "× {:.1f}"),
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
    over = runs[runs["status"].isin(OVER)]
    # A method's rate is its own affair, unless it was tried at several.
    if over.groupby([*keys, "method"], dropna=False)["lr"].nunique().gt(1).any():
        keys.append("lr")
    if BASELINE not in set(over["method"]) or over["method"].nunique() < 2:
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
            better = probability_of_improvement(other, base, np.random.default_rng(0))
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
    values = rows.set_index("seed")["test_acc"]
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


def _value(value) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:g}"
    return "–" if value is pd.NA or value is None else str(value)


def _mean(values: pd.Series, sign: str = "") -> str:
    if values.empty:
        return "–"
    interval = t_interval(values)
    half = "" if interval.n == 1 else f" ± {interval.high - interval.estimate:.2f}"
    return f"{interval.estimate:{sign}.2f}{half}"


def _mean_of(group: pd.DataFrame, column: str) -> str:
    """The mean of those that have a value, with their number where that is not the whole group."""
    values = group[column].dropna()
    return _mean(values) + (f" (n = {len(values)})" if 0 < len(values) < len(group) else "")


def _steps(group: pd.DataFrame) -> str:
    """The median of `steps_to_target`, of which those not reached are bounds, and how many were."""
    steps = group["steps_to_target"].dropna()
    if steps.empty:
        return "–"
    reached = group["target_reached"].eq(True).sum()
    bound = "≥ " if 2 * reached <= len(steps) else ""  # the replicates in the middle are among those not reached
    return f"{bound}{steps.median():.0f} ({reached} of {len(steps)})"


def _suggested(group: pd.DataFrame) -> str:
    rates, sought = group["suggested_lr"].dropna(), group["lr_found"].notna().sum()
    return f"{_median(rates, '{:.3g}')} ({len(rates)} of {sought})" if sought else "–"


def _p_range(values: pd.Series) -> str:
    return " to ".join(dict.fromkeys(map(_p, (values.min(), values.max())))) if len(values) else "–"


def _bca(values: pd.Series, seed_words) -> str:
    if len(values) < 2:
        return "–"
    interval = bca_interval(values, np.random.default_rng([*str(seed_words).encode()]))
    return f"[{interval.low:.2f}, {interval.high:.2f}]"


def _median(values: pd.Series, form: str) -> str:
    return form.format(values.median()) if values.notna().any() else "–"


def markdown(head: list[str], alignment: str, rows: list[list[str]]) -> str:
    rule = ["---:" if side == "r" else "---" for side in alignment]
    lines = [head, rule, *[[re.sub(r"([|\n])", " ", cell) for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
