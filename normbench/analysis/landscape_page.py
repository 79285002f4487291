"""What the loss and its gradient do along the gradient, over the steps of a training.

After figure 4 of Santurkar et al. 2018, arXiv 1805.11604: the spread of the loss, that of its gradient, effective β.
"""

from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from normbench.analysis import layout
from normbench.analysis.columns import MEASUREMENT, of_configuration
from normbench.analysis.evidence import concerning, measured
from normbench.analysis.looks import SECOND, Look, looks_of, style
from normbench.analysis.means import mean_of
from normbench.records.metrics import OVER
from normbench.words import typed

PANELS = {
    "A  Range of the loss": "loss_range",
    "B  Largest change of the gradient": "grad_change",
    "C  Effective β": "beta",
    "D  Effective β in units of the weights": "beta_relative",
}
FURTHER = (SECOND, (0, (1, 2)), (0, (1, 4)))  # patterns of a method's second, third … setting


@style()
def figures(runs: pd.DataFrame, series: pd.DataFrame, footer: str = "") -> dict[str, Figure]:
    """runs: a row a replicate. series: the rows of metrics.csv, with run_id. Of measure=landscape and landscape_linear,
    each by itself where a study has both; none of other runs."""
    counted = concerning(runs[runs["status"].isin(OVER)], "loss_range")
    if not measured(counted, ["loss_range"]):
        return {}
    drawn: dict[str, Figure] = {}
    for name, some in counted.groupby(MEASUREMENT, sort=False) if MEASUREMENT in counted else [("landscape", counted)]:
        rows = series.merge(_arms(some), on=["run_id", "seed"])
        rows, end = rows[rows["loss_max"].notna()], "" if name == "landscape" else "_linear"
        drawn |= {f"smoothness{end}": _smoothness(rows, footer), f"losses{end}": _losses(rows, footer)}
    return drawn


def _arms(runs: pd.DataFrame) -> pd.DataFrame:
    """run_id, seed, method, and the arm: the method, with what else its runs differ by where there are several."""
    told = runs[["run_id", "seed", "method"]].copy()
    told["arm"] = told["method"]
    for _, some in runs.groupby("method", sort=False):
        differing = [column for column in of_configuration(some) if some[column].nunique(dropna=False) > 1]
        for column in differing:
            told.loc[some.index, "arm"] += f" {column.rpartition('.')[2]}=" + some[column].map(typed)
    return told


def _looks(rows: pd.DataFrame) -> dict[str, Look]:
    """Arm → look: its method's, with another pattern for a further setting."""
    of_method, looks = looks_of({"method": rows["method"].unique()})["method"], {}
    for method, look in of_method.items():
        for number, arm in enumerate(rows.loc[rows["method"].eq(method), "arm"].unique()):
            looks[arm] = look if number == 0 else replace(look, pattern=FURTHER[(number - 1) % len(FURTHER)])
    return looks


def _smoothness(rows: pd.DataFrame, footer: str) -> Figure:
    """Each quantity over the steps, a line an arm."""
    drawn, grid = layout.grid_of(len(PANELS))
    looks = _looks(rows)
    for axes, (title, column) in zip(grid, PANELS.items(), strict=True):
        for arm, look in looks.items():
            points = _over_steps(rows[rows["arm"].eq(arm)], column)
            axes.fill_between(points["step"], points["low"], points["high"], color=look.colour, alpha=0.1, lw=0)
            how = {"color": look.colour, "ls": look.pattern, "marker": look.marker, "ms": 4, "lw": 1}
            if look.pattern in FURTHER:
                how["mfc"] = "white"
            axes.plot(points["step"], points["mean"], markevery=max(1, len(points) // 6), label=arm, **how)
        layout.log_y(axes)
        axes.set_xlabel("step")
        axes.set_ylabel("geometric mean (log scale)")
        axes.set_title(title)
    drawn.legend(*grid[0].get_legend_handles_labels(), loc="outside right upper", fontsize=6.5, frameon=False)
    layout.finish(drawn, [_note(rows), "Before each step, over w − ηg on its batch."], footer)
    return drawn


def _losses(rows: pd.DataFrame, footer: str) -> Figure:
    """An arm a panel: the least and the largest loss that the steps along the gradient come to."""
    looks = _looks(rows)
    drawn, grid = layout.grid_of(len(looks), sharey=True)
    for axes, (arm, look) in zip(grid, looks.items(), strict=True):
        some = rows[rows["arm"].eq(arm)]
        low, high, at = (_over_steps(some, column) for column in ("loss_min", "loss_max", "loss"))
        axes.fill_between(low["step"], low["mean"], high["mean"], color=look.colour, alpha=0.35, lw=0)
        axes.plot(at["step"], at["mean"], color=look.colour, lw=1)
        layout.log_y(axes)
        axes.set_xlabel("step")
        axes.set_ylabel("loss (log scale)")
        axes.set_title(arm)
    notes = [
        _note(rows),
        "Line: loss before the step. Band: from the least to the largest loss over w − ηg.",
    ]
    layout.finish(drawn, notes, footer)
    return drawn


def _over_steps(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """The geometric mean over seeds at each step, and the ends of its interval."""
    found = [(step, mean_of(values, "log")) for step, values in rows[rows[column].gt(0)].groupby("step")[column]]
    points = [(step, mean.estimate, mean.low, mean.high) for step, mean in found]
    return pd.DataFrame(points, columns=["step", "mean", "low", "high"], dtype=float)


def _note(rows: pd.DataFrame) -> str:
    counts = rows.groupby("arm")["seed"].nunique()
    low, high = counts.min(), counts.max()
    n = f"{low}" if low == high else f"{low} to {high}"
    return f"Geometric mean over n = {n} seeds and 95 % t interval of the logarithm, where there are three."
