"""The best rate of every arm of a sweep over rates, by validation; and whether the grid was wide enough."""

import pandas as pd

from normbench.analysis.columns import RUNG
from normbench.analysis.evidence import best, counted
from normbench.analysis.results_tables import settings
from normbench.analysis.statistics import Best, within_error
from normbench.config.rates import OPTIONS
from normbench.errors import UserError
from normbench.records.metrics import OBJECTIVE, OVER
from normbench.words import literal, markdown, typed

RATE = "lr"
ARM = ["model", "optimizer", "method"]  # what a tuned rate belongs to


def rates(runs: pd.DataFrame, lr_scaling: str = "linear") -> pd.DataFrame:
    """The best rate of each arm in a sweep over lr: highest mean validation accuracy, the lower rate where equal.

    runs: of a study that tunes lr; lr_scaling: of its runs. Columns: model, optimizer, method, the options and the
    batch size where arms differ in them; lr, val_acc (percent, mean), n (replicates), rates (how many were tried), edge
    ("lowest" or "highest" where the best is at the grid's edge, else empty). Of a halving it is the lowest rate of the
    last rung within one standard error of the best one there: best and error are those. Raises UserError where no run
    is over.
    """
    halved = RUNG in runs
    sizes = ["batch_size"] if halved or runs["batch_size"].nunique() > 1 else []
    keys = [*ARM, *(column for column in runs if column.startswith(OPTIONS)), *sizes]
    rows = [
        dict(zip(keys, arm, strict=True)) | found
        for arm, group in runs.groupby(keys, sort=True, dropna=False)
        if (found := _halved(group) if halved else _best(group))
    ]
    if not rows:
        raise UserError("no run of this study is over: no rate can be chosen")
    table = pd.DataFrame(rows)
    return table.assign(lr_scaling=lr_scaling) if sizes else table


def _best(group: pd.DataFrame) -> dict:
    found = best(group, RATE)
    if found is None:
        return {}
    told = {"n": found.n, "rates": found.tried, "edge": found.edge}
    return {RATE: found.value, OBJECTIVE: round(found.mean, 4)} | told


def _halved(group: pd.DataFrame) -> dict:
    """Of the last rung; nothing where some of its runs is not over."""
    last = group[group[RUNG] == group[RUNG].max()]
    if not last["status"].isin(OVER).all():
        return {}
    found = best(last, RATE)
    chosen, error = within_error(last[OBJECTIVE].astype(float), last[RATE])
    at = last[last[RATE] == chosen]
    told = {"n": len(at), "rates": group[RATE].nunique(), "edge": found.edge if found.tried > 1 else ""}
    return {RATE: chosen, OBJECTIVE: round(at[OBJECTIVE].mean(), 4)} | told | {"best": found.value, "error": error}


def tuned_rates(runs: pd.DataFrame) -> str:
    """Markdown: the rate that a halving chose for each arm; empty where there was none."""
    if RUNG not in runs:
        return ""
    try:
        table = rates(runs)
    except UserError:
        return "No arm is through its rungs."
    keys = [key for key in settings(runs) if key in table and key not in (RATE, "lr_scaling")]
    rows = [
        [
            *(literal(typed(row[key], empty="–")) for key in keys),
            f"{row[RATE]:g}",
            f"{row[OBJECTIVE]:.2f}",
            f"{row['best']:g}",
            f"{row['error']:.2f}",
            str(row["n"]),
            str(row["rates"]),
            f"**best at the {row['edge']} of the rates: widen them**" if row["edge"] else "inside",
        ]
        for row in table.to_dict("records")
    ]
    head = [*keys, "tuned optim.lr", "validation, %", "best optim.lr", "standard error", "n", "rates tried", "where"]
    text = (
        "The lowest rate of the last rung whose mean validation accuracy is within one standard error of the best "
        "one's. Accuracy and n, replicates there, are the tuned rate's; the standard error is the best one's."
    )
    return f"{text}\n\n{markdown(head, 'l' * len(keys) + 'rrrrrrl', rows)}"


def best_rates(runs: pd.DataFrame) -> str:
    """Markdown: the best rate of each arm of all other settings that was tried at several; empty where none was."""
    if OBJECTIVE not in runs:
        return ""
    keys, rows = [key for key in settings(runs) if key != RATE], []
    for values, group in counted(runs).groupby(keys, sort=False, dropna=False):
        found = best(group, RATE)
        if found and found.tried > 1:
            arm = [literal(typed(value, empty="–")) for value in values]
            tried = f"{found.n} × {found.tried}"
            rows.append([*arm, f"{found.value:g}", f"{found.mean:.2f}", tried, _place(found)])
    if not rows:
        return ""
    head = [*keys, "best rate at batch 128", "validation, %", "replicates × rates tried", "where"]
    text = "The rate with the highest mean validation accuracy, for each of the other settings at several rates."
    return f"{text}\n\n{markdown(head, 'l' * len(keys) + 'rrrl', rows)}"


def edges(rows: pd.DataFrame, by: str) -> dict[str, str]:
    """Value of `by` as typed → "lowest" or "highest", where that line's best rate is at the edge of its grid."""
    if OBJECTIVE not in rows:
        return {}
    found = {typed(value): best(group, RATE) for value, group in rows.groupby(by, sort=False)}
    return {value: b.edge for value, b in found.items() if b and b.tried > 1 and b.edge}


def _place(found: Best) -> str:
    return f"**the {found.edge} of the grid: widen it**" if found.edge else "inside the grid"
