"""Summaries of a study in words and tables: pure functions of runs.csv and of what the experiment file says."""

import pandas as pd

from normbench.errors import UserError

OVER = ("finished", "diverged")


def rates(runs: pd.DataFrame) -> pd.DataFrame:
    """The best rate of each method in a sweep over lr: highest mean validation accuracy, the lower rate where equal.

    runs: of a study that `tunes: lr`. Columns: model, optimizer, method, lr, val_acc (percent, mean), n (replicates),
    rates (how many were tried), edge ("lowest" or "highest" where the best is at the grid's edge, else empty).
    """
    over = runs[runs["status"].isin(OVER)]
    rows = []
    for (model, optimizer, method), group in over.groupby(["model", "optimizer", "method"], sort=True):
        means = group.groupby("lr")["val_acc"].agg(["mean", "size"])
        best = means["mean"].idxmax()
        edge = "lowest" if best == means.index[0] else "highest" if best == means.index[-1] else ""
        rows.append(
            (model, optimizer, method, best, round(means["mean"][best], 4), means["size"][best], len(means), edge)
        )
    if not rows:
        raise UserError("no run of this study is over: no rate can be chosen")
    return pd.DataFrame(rows, columns=["model", "optimizer", "method", "lr", "val_acc", "n", "rates", "edge"])
