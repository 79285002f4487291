"""The picture of a network's accuracy by the statistics that it is evaluated with."""

import pandas as pd
from matplotlib.figure import Figure

from normbench.analysis import layout
from normbench.analysis.looks import looks_of, style
from normbench.analysis.statistics import t_interval

PATTERNS = {"running": "-", "precise": (0, (6, 2)), "evalnorm": (0, (1, 1.5))}  # of the lines that have no size


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
