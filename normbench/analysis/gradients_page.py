"""The known figures of gradients at initialization: a layer's histogram, and what grows with depth.

After Bjorck et al. 2018, arXiv 1806.02375. Seeds are never pooled: a mixture of several scales would have tails that
none of them has. Each is scaled by its own standard deviation first, or counts with its logarithm.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import norm

from normbench.analysis import layout
from normbench.analysis.columns import differing, settings
from normbench.analysis.looks import Look, looks_of, style
from normbench.analysis.statistics import t_interval
from normbench.records.metrics import BINS, OVER
from normbench.words import typed

WEIGHT, OUTPUT = "by the weight", "by the output"
COUNTS = {f"Gradient {WEIGHT}": ("counts", "grad_std"), f"Gradient {OUTPUT}": ("output_counts", "output_grad_std")}
MOMENTS = {"Mean |mean of a channel|": "channel_mean", "Mean standard deviation of a channel": "channel_std"}
GRADIENTS = {
    f"Standard deviation of the gradient {WEIGHT}": "grad_std",
    f"Standard deviation of the gradient {OUTPUT}": "output_grad_std",
}
EVERY = 2  # of a network whose blocks have two convolutions, first and second ones are lines of their own


@style()
def figures(runs: pd.DataFrame, series: pd.DataFrame, footer: str = "") -> dict[str, Figure]:
    """runs: a row a replicate. series: the rows of metrics.csv of measure=gradients, with run_id."""
    counted = runs[runs["status"].isin(OVER)]
    parts = differing(counted)
    rows = series.merge(counted[["run_id", "seed", "method", *parts]], on=["run_id", "seed"])
    return {
        "histograms": _histograms(rows, parts, footer),
        "moments": _by_depth(rows, parts, MOMENTS, footer),
        "depth": _by_depth(rows, parts, GRADIENTS, footer),
    }


def _panel(rows: pd.DataFrame, parts: list[str], figure: dict) -> Iterator[tuple[str, object, pd.DataFrame]]:
    """For each entry of a figure, and within it each setting: its title, what the entry says, its rows."""
    for title, what in figure.items():
        for of, group in settings(rows, parts):
            yield f"{title}\n{of}" if of else title, what, group


def _histograms(rows: pd.DataFrame, parts: list[str], footer: str) -> Figure:
    """The shares of values in bins that are each seed's own standard deviations wide; the deviations in words."""
    rows = rows[rows["counts"].notna() | (rows["grad_std"].eq(0) & rows["layer"].isin(_close(rows)))]
    looks = looks_of({"method": rows["method"].unique()})["method"]
    panels = list(_panel(rows, parts, COUNTS))
    drawn, grid = layout.grid_of(len(panels))
    edges = np.array([2 * BINS[0] - BINS[1], *BINS, 2 * BINS[-1] - BINS[-2]])
    for axes, (title, (column, std), group) in zip(grid, panels, strict=True):
        normal = 100 * np.diff(norm.cdf([-np.inf, *BINS, np.inf]))
        axes.stairs(normal, edges, color="0.6", lw=0.8, label="normal")
        for method, look in looks.items():
            some = group[group["method"].eq(method) & group[column].notna()]
            if len(some):
                label = f"{method}: 1 = {_geometric(some[std])[0]:.2g}"
                _outline(axes, edges, _shares(some[column]), look, label)
        layout.log_y(axes)
        axes.set_ylim(1e-4, 100)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_xlabel("gradient / its standard deviation")
        axes.set_ylabel("values in a bin (%, log scale)")
        axes.set_title(title)
        axes.legend(loc="upper left", fontsize=6, frameon=False, handlelength=2.5)
    notes = [
        f"Layer {typed(_close(rows)[0])}. Mean over {_n(rows)} of the shares of the values in bins of "
        f"{BINS[1] - BINS[0]:g} standard deviations, each seed's own; beyond ±{BINS[-1]:g} all in the outermost bin. "
        "1 = …: geometric mean of those standard deviations.",
        _zeros(rows, ["grad_std"]),
    ]
    layout.finish(drawn, notes, footer)
    return drawn


def _close(rows: pd.DataFrame) -> list[int]:
    """The layers that were looked at closely."""
    return rows.loc[rows["counts"].notna(), "layer"].unique().tolist()


def _shares(counts: pd.Series) -> np.ndarray:
    """Counts as text, a row a seed → the mean of their shares, in percent."""
    table = np.array([[int(count) for count in text.split()] for text in counts])
    return (100 * table / table.sum(1, keepdims=True)).mean(0)


def _outline(axes, edges: np.ndarray, shares: np.ndarray, look: Look, label: str) -> None:
    shares = np.where(shares > 0, shares, np.nan)
    middles = (edges[1:] + edges[:-1]) / 2
    how = {"color": look.colour, "ls": look.pattern, "marker": look.marker, "ms": 3, "lw": 1, "markevery": 6}
    axes.plot(middles, shares, label=label, **how)
    axes.plot(middles[[0, -1]], shares[[0, -1]], look.marker, ms=4, color=look.colour, clip_on=False)


def _by_depth(rows: pd.DataFrame, parts: list[str], columns: dict[str, str], footer: str) -> Figure:
    """Geometric mean and 95 % t interval of the logarithm at each layer."""
    looks = looks_of({"method": rows["method"].unique()})["method"]
    panels = list(_panel(rows, parts, columns))
    drawn, grid = layout.grid_of(len(panels))
    for axes, (title, column, group) in zip(grid, panels, strict=True):
        for method, look in looks.items():
            some = group[group["method"].eq(method) & group[column].gt(0)]
            points = pd.DataFrame(
                [(layer, *_geometric(values)) for layer, values in some.groupby("layer")[column]],
                columns=["layer", "mean", "low", "high"],
                dtype=float,
            )
            for first in range(EVERY):
                _line(axes, points[points["layer"] % EVERY == first], look, "" if first else method)
        layout.log_y(axes)
        axes.set_xlabel("layer")
        axes.set_ylabel("geometric mean over seeds (log scale)")
        axes.set_title(title)
    grid[0].legend(loc="best", fontsize=6.5, frameon=False, handlelength=3)
    notes = [
        f"Geometric mean over {_n(rows)} and 95 % t interval of the logarithm. Two lines a method: the layers of even "
        "and of odd number, in residual networks of two convolutions a block its first and its second one.",
        _zeros(rows, [*columns.values()]),
    ]
    layout.finish(drawn, notes, footer)
    return drawn


def _line(axes, points: pd.DataFrame, look: Look, label: str) -> None:
    axes.fill_between(points["layer"], points["low"], points["high"], color=look.colour, alpha=0.2, lw=0)
    how = {"color": look.colour, "ls": look.pattern, "marker": look.marker, "ms": 3.5, "lw": 1}
    axes.plot(points["layer"], points["mean"], markevery=max(1, len(points) // 8), label=label or "_", **how)


def _geometric(values: pd.Series) -> tuple[float, float, float]:
    """The geometric mean of positive values, and the ends of its interval; the mean itself of fewer than three."""
    found = t_interval(np.log10(values))
    ends = (found.low, found.high) if found.n >= 3 else (found.estimate, found.estimate)
    return 10**found.estimate, 10 ** ends[0], 10 ** ends[1]


def _n(rows: pd.DataFrame) -> str:
    counts = rows.groupby("run_id")["seed"].nunique()
    low, high = counts.min(), counts.max()
    return f"n = {low} seeds" if low == high else f"n = {low} to {high} seeds"


def _zeros(rows: pd.DataFrame, columns: list[str]) -> str:
    """What no log axis has: in how many of its layers a method has values that are 0."""
    zero = rows[rows[columns].eq(0).any(axis=1)].groupby("method", sort=False)["layer"].nunique()
    of = rows["layer"].nunique()
    told = [name if of == 1 else f"{name} in {count} of {of} layers" for name, count in zero.items()]
    return f"Not drawn, for it is 0: {', '.join(told)}." if told else ""
