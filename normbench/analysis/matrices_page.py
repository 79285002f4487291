"""What grows with the factors of a product of Gaussian matrices: its condition, largest singular value, and moments."""

import math

import pandas as pd
from matplotlib.figure import Figure

from normbench.analysis import layout
from normbench.analysis.columns import label, of_configuration
from normbench.analysis.evidence import concerning
from normbench.analysis.looks import looks_of, style
from normbench.analysis.means import mean_of
from normbench.records.metrics import OVER

FACTORS = "measure.factors"
PANELS = {"condition": "A  Condition number", "singular_largest": "B  Largest singular value", "moment_4": "C  Mean s⁴"}

# Outcome → its value in the limit of wide products, by the number of factors (Penson & Życzkowski 2011).
WIDE = {
    "singular_largest": lambda factors: math.sqrt((factors + 1) ** (factors + 1) / factors**factors),
    "moment_4": lambda factors: factors + 1,
}


@style()
def figures(runs: pd.DataFrame, series: pd.DataFrame, footer: str = "") -> dict[str, Figure]:
    """runs: a row a replicate. None where these have one number of factors, or a method has several settings at one."""
    rows = concerning(runs[runs["status"].isin(OVER)], "condition")
    if FACTORS not in rows or rows[FACTORS].nunique() < 2:
        return {}
    alike = rows.groupby(["method", FACTORS])
    if any(alike[column].nunique(dropna=False).gt(1).any() for column in of_configuration(rows)):
        return {}
    drawn, grid = layout.grid_of(len(PANELS))
    looks, factors = looks_of({"method": rows["method"].unique()})["method"], sorted(rows[FACTORS].unique())
    for axes, (column, title) in zip(grid, PANELS.items(), strict=True):
        for method, look in looks.items():
            some = rows[rows["method"].eq(method)].groupby(FACTORS)[column]
            means = {count: mean_of(values.dropna(), "log") for count, values in some}
            ends = [(found.low, found.high) for found in means.values()]
            axes.fill_between(list(means), *zip(*ends, strict=True), color=look.colour, alpha=0.2, lw=0)
            how = {"color": look.colour, "ls": look.pattern, "marker": look.marker, "ms": 4, "lw": 1}
            axes.plot(list(means), [found.estimate for found in means.values()], label=method, **how)
        if column in WIDE:
            axes.plot(factors, [WIDE[column](count) for count in factors], color="0.6", lw=0.8, label="wide, none")
        layout.dress_x(axes, FACTORS, rows[FACTORS], "linear")
        spans = rows[column].max() > 100 * rows[column].min()
        axes.set_yscale("log" if spans else "linear")
        axes.set_ylabel(layout.on_log_scale(label(column)) if spans else label(column))
        axes.set_title(title)
    grid[1].legend(loc="best", fontsize=6.5, frameon=False, handlelength=3)
    low, high = (getattr(rows.groupby("run_id")["seed"].nunique(), end)() for end in ("min", "max"))
    n = f"{low}" if low == high else f"{low} to {high}"
    notes = [
        f"Geometric mean over n = {n} seeds and 95 % t interval of the logarithm. Grey: the limit of wide products "
        "without a norm (Fuss–Catalan). A condition beyond 10¹⁶ is the rounding of float64."
    ]
    layout.finish(drawn, notes, footer)
    return {"products": drawn}
