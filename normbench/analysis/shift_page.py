"""The pictures of internal covariate shift: of gradients in a step, and of values in the course of training.

After Santurkar et al. 2018, arXiv 1805.11604, figure 3, and Ioffe & Szegedy 2015, arXiv 1502.03167, figure 1.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from normbench.analysis import layout
from normbench.analysis.looks import looks_of, style
from normbench.records.metrics import OVER, PERCENTILES


@style()
def figures(runs: pd.DataFrame, series: pd.DataFrame, footer: str = "") -> dict[str, Figure]:
    """runs: a row a replicate. series: the rows of metrics.csv of measure=shift, with run_id."""
    counted = runs.loc[runs["status"].isin(OVER), ["run_id", "seed", "method", "model"]]
    rows = series.merge(counted, on=["run_id", "seed"])
    drawn = {}
    if rows["change"].notna().any():
        drawn["gradients_shift"] = _gradients(rows[rows["change"].notna() & (rows["layer"] > 1)], footer)
    if rows["p50"].notna().any():
        drawn["percentiles"] = _percentiles(rows[rows["p50"].notna()], footer)
    return drawn


def _gradients(rows: pd.DataFrame, footer: str) -> Figure:
    """Over the steps, means over seeds and layers: of the change over the gradient a geometric one, and the cosine."""
    rows = rows.assign(relative=np.log((rows["change"] / rows["gradient"]).where(rows["change"] > 0)))
    drawn, grid = layout.grid_of(2)
    for method, look in looks_of({"method": rows["method"].unique()})["method"].items():
        means = rows[rows["method"] == method].groupby("step")[["relative", "cosine"]].mean()
        how = {"color": look.colour, "ls": look.pattern, "marker": look.marker, "ms": 3.5, "lw": 1, "label": method}
        how["markevery"] = max(1, len(means) // 8)
        grid[0].plot(means.index, np.exp(means["relative"]), **how)
        grid[1].plot(means.index, means["cosine"], **how)
    layout.log_y(grid[0])
    for axes, title in zip(grid, ("‖G − G′‖ / ‖G‖ (log scale)", "Cosine of G and G′"), strict=True):
        axes.set_title(title)
        axes.set_xlabel("step")
    grid[0].legend(loc="best", fontsize=6.5, frameon=False, handlelength=3)
    seeds, layers = rows["seed"].nunique(), rows["layer"].nunique()
    notes = [
        f"G: the gradient by a layer's weight, G′: the same after the step of the layers before. Mean over n = {seeds} "
        f"seeds and {layers} layers, the first left out, whose gradient no layer before changes.",
    ]
    layout.finish(drawn, notes, footer)
    return drawn


def _percentiles(rows: pd.DataFrame, footer: str) -> Figure:
    """Panels of the most typical unit of the first seed, in the last layer: what goes into the activation, and what a
    norm is given, by model and method."""
    panels = []
    for (model, method), mine in rows.groupby(["model", "method"], sort=False):
        mine = mine[mine["seed"] == mine["seed"].min()]
        mine = mine[mine["unit"].eq(mine["unit"].iloc[0]) | mine["unit"].isna()].sort_values(
            "step"
        )  # of one, or untold
        panels.append((f"{model}, {method}", "input of the activation", "", method, mine))
        if method != "none" and mine["p50_before"].notna().any():
            panels.append((f"{model}, {method}", "input of the norm", "_before", method, mine))
    drawn, grid = layout.grid_of(len(panels))
    for axes, (title, what, end, method, mine) in zip(grid, panels, strict=True):
        look = looks_of({"method": [method]})["method"][method]
        for share in PERCENTILES:
            axes.plot(mine["step"], mine[f"p{share}{end}"], color=look.colour, lw=1.2 if share == 50 else 0.6)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.set_ylabel(what)
    which = (
        ": the unit whose median wanders most nearly as far as that of the median unit."
        if rows["unit"].notna().any()
        else "."
    )
    shares = ", ".join(map(str, PERCENTILES))
    notes = [f"Percentiles {shares} over training images of one unit of the last layer, one seed{which}"]
    layout.finish(drawn, notes, footer)
    return drawn
