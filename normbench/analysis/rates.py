"""The best rate of every arm of a sweep over rates, by validation; and whether the grid was wide enough."""

import pandas as pd

from normbench.analysis.evidence import best, counted
from normbench.analysis.results_tables import settings
from normbench.analysis.statistics import Best
from normbench.errors import UserError
from normbench.records.metrics import OBJECTIVE
from normbench.words import literal, markdown, typed

RATE = "lr"
ARM = ["model", "optimizer", "method"]  # what a tuned rate belongs to


def rates(runs: pd.DataFrame) -> pd.DataFrame:
    """The best rate of each method in a sweep over lr: highest mean validation accuracy, the lower rate where equal.

    runs: of a study that `tunes: lr`. Columns: model, optimizer, method, lr, val_acc (percent, mean), n (replicates),
    rates (how many were tried), edge ("lowest" or "highest" where the best is at the grid's edge, else empty).
    Raises UserError where no run is over.
    """
    groups = counted(runs).groupby(ARM, sort=True)
    found = {arm: best(group, RATE) for arm, group in groups}
    rows = [(*arm, b.value, round(b.mean, 4), b.n, b.tried, b.edge) for arm, b in found.items() if b]
    if not rows:
        raise UserError("no run of this study is over: no rate can be chosen")
    return pd.DataFrame(rows, columns=[*ARM, RATE, OBJECTIVE, "n", "rates", "edge"])


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
