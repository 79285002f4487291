"""What one step does to the loss of its batch, by its length; and the channels' moments on the way.

After Bjorck et al. 2018, arXiv 1806.02375: their figures of relative loss over the step, and their heat maps.
"""

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm, SymLogNorm
from matplotlib.figure import Figure

from normbench.analysis import layout
from normbench.analysis.columns import differing, settings
from normbench.analysis.looks import looks_of, style
from normbench.records.metrics import OVER

HIGHEST = 1e4  # relative loss; a curve that goes beyond leaves the panel
MOMENTS = {"Means": "means", "Variances": "variances"}


@style()
def figures(runs: pd.DataFrame, series: pd.DataFrame, footer: str = "") -> dict[str, Figure]:
    """runs: a row a replicate. series: the rows of metrics.csv of measure=step, with run_id."""
    counted = runs[runs["status"].isin(OVER)]
    parts = differing(counted)
    rows = series.merge(counted[["run_id", "seed", "method", *parts]], on=["run_id", "seed"])
    curves, channels = rows[rows["layer"].isna()], rows[rows["layer"].notna()]
    drawn = {"relative_loss": _curves(curves, parts, footer)}
    for method, of_method in channels.groupby("method", sort=False):
        words, some = next(settings(of_method, parts))
        drawn[f"channels_{method}"] = _channels(f"{method}, {words}" if words else method, some, footer)
    return drawn


def _curves(rows: pd.DataFrame, parts: list[str], footer: str) -> Figure:
    """A row a setting, a panel a batch: median and range over seeds of the relative loss."""
    looks = looks_of({"method": rows["method"].unique()})["method"]
    panels = [(words, *one) for words, group in settings(rows, parts) for one in group.groupby("batch")]
    drawn, grid = layout.grid_of(len(panels), sharey=True)
    for axes, (words, batch, group) in zip(grid, panels, strict=True):
        for method, look in looks.items():
            some = group[group["method"].eq(method)]
            by_rate = some.assign(relative_loss=some["relative_loss"].fillna(np.inf)).groupby("rate")["relative_loss"]
            least, median, largest = (by_rate.agg(what).clip(upper=10 * HIGHEST) for what in ("min", "median", "max"))
            axes.fill_between(least.index, least, largest, color=look.colour, alpha=0.2, lw=0)
            how = {"color": look.colour, "ls": look.pattern, "marker": look.marker, "ms": 3.5, "lw": 1}
            axes.plot(median.index, median, markevery=5, label=method, **how)
        axes.set_xscale("log")
        layout.log_y(axes)
        axes.set_ylim(None, HIGHEST)
        axes.set_xlabel("length η of the step (log scale)")
        axes.set_ylabel("loss / loss before the step (log scale)")
        axes.set_title(f"Mini-batch {batch:g}" + (f"\n{words}" if words else ""))
    grid[0].legend(loc="upper left", fontsize=6.5, frameon=False, handlelength=3)
    counts = rows.groupby("run_id")["seed"].nunique()
    note = f"Median over seeds (n = {counts.min()}) and their range; w − ηg on the batch of g, in training mode."
    layout.finish(drawn, [note], footer)
    return drawn


def _channels(method: str, rows: pd.DataFrame, footer: str) -> Figure:
    """Moments of the channels by layer, of one run's first seed: a row a share of the way, a column a channel."""
    rows = rows[rows["seed"].eq(rows["seed"].min())]
    layers = sorted(rows["layer"].unique())
    drawn = Figure(figsize=(9.0, 5.6))
    drawn.set_layout_engine("constrained", w_pad=0.06, h_pad=0.05)
    grid = drawn.subplots(len(MOMENTS), len(layers), squeeze=False)
    for line, (title, column) in zip(grid, MOMENTS.items(), strict=True):
        for axes, layer in zip(line, layers, strict=True):
            some = rows[rows["layer"].eq(layer)].sort_values("share")
            table = np.array([[float(value) for value in text.split()] for text in some[column]])
            shown = _finite(table)
            extent = (0.5, table.shape[1] + 0.5, 0, 100)
            image = axes.imshow(
                shown,
                origin="lower",
                aspect="auto",
                extent=extent,
                norm=_norm(shown),
                cmap="viridis",
                interpolation="nearest",
            )
            axes.grid(visible=False)
            axes.set_title(f"{title}, layer {layer:g}")
            axes.set_xlabel("channel")
            axes.set_ylabel("part of the step (%)")
            drawn.colorbar(image, ax=axes, **_ticks(image.norm)).minorticks_off()
    end = rows["rate"].max()
    note = f"{method}, seed {rows['seed'].iloc[0]}: outputs of convolutions on the way of a step of length {end:.2g}."
    layout.finish(drawn, [note], footer)
    return drawn


def _finite(table: np.ndarray) -> np.ndarray:
    return np.ma.masked_invalid(table)


def _ticks(norm) -> dict:
    """Ticks of a colour bar, none in another: powers of ten, or where there is less than two of them three values."""
    if isinstance(norm, SymLogNorm):
        decades = np.arange(np.ceil(np.log10(3 * norm.linthresh)), np.floor(np.log10(norm.vmax)) + 1)
        ends = 10.0 ** decades[:: -max(1, len(decades) // 2)]
        return {"ticks": [*-ends, 0, *ends]} if len(ends) else {"ticks": [norm.vmin, 0, norm.vmax], "format": "%.2g"}
    if isinstance(norm, LogNorm) and norm.vmax < 100 * norm.vmin:
        return {"ticks": np.geomspace(norm.vmin, norm.vmax, 3), "format": "%.2g"}
    return {}


def _norm(table: np.ndarray):
    """Logarithmic, on both sides of 0 where there are negative values."""
    if table.min() >= 0:
        positive = table[table > 0]
        return LogNorm(positive.min(), positive.max()) if positive.size and positive.min() < positive.max() else None
    size = np.abs(table)
    return SymLogNorm(np.ma.median(size) or 1.0, vmin=-size.max(), vmax=size.max())
