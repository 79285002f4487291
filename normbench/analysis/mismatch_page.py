"""The pictures of the statistics of evaluation: accuracies by them, and the errors of those of a batch."""

import pandas as pd
from matplotlib.figure import Figure

from normbench.analysis import layout
from normbench.analysis.looks import looks_of, style
from normbench.analysis.statistics import t_interval
from normbench.records.metrics import OVER

PATTERNS = {"running": "-", "precise": (0, (6, 2)), "evalnorm": (0, (1, 1.5))}  # of the lines that have no size


def figures(runs: pd.DataFrame, series: pd.DataFrame, footer: str = "") -> dict[str, Figure]:
    """Of the runs of measure=mismatch. runs: a row a replicate. series: the rows of metrics.csv, with run_id."""
    rows = _labelled(runs, series, "acc")
    return {} if rows.empty else {"mismatch": figure(rows, footer)}


def _labelled(runs: pd.DataFrame, series: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows that have a value in a column, of replicates that are over, with their `network`: `batch at 2`."""
    if column not in series:  # an outcome of other measurements as well: there are none of this one
        return pd.DataFrame()
    counted = runs.loc[runs["status"].isin(OVER), ["run_id", "seed", "method", "batch_size"]]
    rows = series[series[column].notna()].merge(counted, on=["run_id", "seed"])
    return rows.assign(network=rows["method"] + " at " + rows["batch_size"].astype(str))


@style()
def figure(rows: pd.DataFrame, footer: str = "") -> Figure:
    """rows: `network`, `seed`, `statistics`, `size`, `shuffle`, `acc` in percent: a row a statistic, shuffle and seed.

    Over the size of the batches that statistics are taken of, a line a network; without a size, level ones.
    """
    drawn, [axes] = layout.grid_of(1)
    looks = looks_of({"network": rows["network"].unique()})["network"]
    seeds = (
        rows.groupby(["network", "statistics", "size", "seed"], dropna=False, sort=False)["acc"].mean().reset_index()
    )
    for network, look in looks.items():
        mine = seeds[seeds["network"] == network]
        points = [(size, t_interval(some)) for size, some in mine[mine["size"].notna()].groupby("size")["acc"]]
        if points:
            sizes, found = zip(*points, strict=True)
            bars = [[p.high - p.estimate if p.n >= 3 else 0 for p in found]] * 2
            how = {"color": look.colour, "marker": look.marker, "ls": look.pattern, "ms": 4, "lw": 1, "capsize": 2}
            axes.errorbar(sizes, [p.estimate for p in found], bars, label=f"{network}: batches", **how)
        for name, pattern in PATTERNS.items():
            level = mine.loc[mine["statistics"] == name, "acc"]
            if level.notna().any():
                axes.axhline(level.mean(), color=look.colour, ls=pattern, lw=0.9, label=f"{network}: {name}")
    if rows["size"].notna().any():
        layout.dress_x(axes, "batch_size", rows["size"].dropna(), "log")
    axes.set_xlabel("images that a statistic is taken over in evaluation (log scale)")
    axes.set_ylabel("accuracy (%)")
    axes.legend(loc="best", fontsize=6.5, frameon=False, handlelength=3.5)
    low, high = seeds.groupby(["network", "statistics", "size"], dropna=False)["seed"].nunique().agg(["min", "max"])
    count = f"n = {low}" if low == high else f"n = {low} to {high}"
    notes = [f"Mean over seeds ({count}) and 95 % t interval, of batches the mean over shuffles of each seed first."]
    layout.finish(drawn, notes, footer)
    return drawn


@style()
def errors(runs: pd.DataFrame, series: pd.DataFrame, footer: str = "") -> dict[str, Figure]:
    """Of the runs of measure=statistics: the errors over the size of a batch, in the first, middle and last layer."""
    rows = _labelled(runs, series, "mean_error")
    if rows.empty:
        return {}
    last = int(rows["layer"].max())
    layers = dict.fromkeys((1, (last + 1) // 2, last))
    panels = {"mean_error": "Mean (standard deviations)", "var_error": "Variance (relative)"}
    drawn, grid = layout.grid_of(len(panels))
    names = [f"{network}, layer {layer}" for network in rows["network"].unique() for layer in layers]
    looks = looks_of({"layer": names})["layer"]
    for axes, (column, title) in zip(grid, panels.items(), strict=True):
        for (network, layer), mine in rows[rows["layer"].isin(layers)].groupby(["network", "layer"], sort=False):
            name = f"{network}, layer {layer:.0f}"
            look, points = looks[name], mine.groupby("size")[column].mean()
            how = {"color": look.colour, "marker": look.marker, "ls": look.pattern, "ms": 3.5, "lw": 1}
            axes.plot(points.index, points, label=name, **how)
        sizes = rows["size"].drop_duplicates().sort_values()
        axes.plot(sizes, sizes**-0.5, color="0.6", lw=0.8, label="1/√B")
        layout.log_y(axes)
        layout.dress_x(axes, "batch_size", sizes, "log")
        axes.set_xlabel("images of a batch (log scale)")
        axes.set_ylabel("root mean square error (log scale)")
        axes.set_title(title)
    grid[0].legend(loc="best", fontsize=6, frameon=False, handlelength=3)
    n = rows.groupby("run_id")["seed"].nunique().max()
    layout.finish(drawn, [f"Mean over n = {n} seeds, over batches of independent images and over channels."], footer)
    return {"errors": drawn}
