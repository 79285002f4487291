"""What the probe of input normalization found, in words and in ink."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from normbench.analysis import layout
from normbench.analysis.looks import Look, looks_of, style
from normbench.analysis.means import mean_of
from normbench.records.metrics import outcome_of
from normbench.words import markdown

CONDITION_COLUMNS = ("input", "matrix", "condition", "condition_nonzero", "rank", "features", "rows")
# Which matrix X is (records.metrics.MATRICES), in words and by its marker in the figure.
MATRICES = {
    "pixels": ("images × pixels' channels", "o"),
    "pixels, centred": ("the same less the mean image", "D"),
    "channels": ("pixels × channels", "s"),
}
NETWORK_COLUMNS = {
    "loss": "loss, nats",
    "hessian_largest": "λ largest, nats",
    "hessian_smallest": "λ smallest, nats",
    "forward_overflow": "forward overflow, %",
    "forward_underflow": "forward underflow, %",
    "backward_overflow": "backward overflow, %",
    "backward_underflow": "backward underflow, %",
}


def text(conditions: pd.DataFrame, networks: pd.DataFrame) -> str:
    """summary.md below its facts."""
    condition_rows = [
        [kind, *(_condition_cell(row) for row in rows.set_index("matrix").loc[list(MATRICES)].itertuples())]
        for kind, rows in conditions.groupby("input", sort=False)
    ]
    columns = _network_columns()
    network_rows = [
        [kind, norm, str(len(rows)), *(cell(rows) for cell in columns.values())]
        for (kind, norm), rows in networks.groupby(["input", "norm"], sort=False)
    ]
    return "\n\n".join(
        [
            "## Condition number of XᵀX",
            "λmax/λmin of the second moments, not centred, of the inputs as the network gets them; beside it that of "
            "the same inputs less the mean image, and that of the channels alone, every pixel a row. After > stands "
            "the most that float64 can tell: the smallest eigenvalues are lost in the rounding of the largest, or are "
            "0 (per_image makes every image sum to 0). Then follow how many eigenvalues can be told, and λmax over the "
            "smallest of those: the condition of the rest where it is far below the limit, else but a lower limit.",
            markdown(["input", *(words for words, _ in MATRICES.values())], "lrrr", condition_rows),
            "## At initialization",
            "Mean over n seeds with 95 % t interval, of the largest eigenvalue the geometric mean, and its median "
            "beside it; every seed sees the same images. λ: the largest and the smallest eigenvalue of the Hessian of "
            "the training loss by the parameters, with the batch's own statistics. float16: median (least to greatest) "
            "of the values in percent that would overflow (become infinite) and underflow (become 0), each cast by "
            "itself from a pass in higher precision; forward: inputs and the layers' outputs, backward: the gradients "
            "by those outputs and by the parameters, without loss scaling.",
            markdown(["input", "norm", "n", *columns], "llr" + "r" * len(columns), network_rows),
        ]
    )


def _condition_cell(row) -> str:
    if row.rank == row.features:
        return f"{row.condition:.3g}"
    limit = 1 / (row.features * np.finfo(np.float64).eps)
    return f"> {limit:.2g} ({row.rank} of {row.features} told: {row.condition_nonzero:.3g})"


def _network_columns() -> dict[str, Callable[[pd.DataFrame], str]]:
    """Head → cell, of the rows of an input and a method."""
    cells = {}
    for column, head in NETWORK_COLUMNS.items():
        outcome = outcome_of(column)
        if outcome.unit == "%":
            cells[head] = lambda rows, column=column: _range_cell(rows[column])
        else:
            cells[head] = lambda rows, o=outcome: _interval_cell(rows[o.name], o.scale)
        if outcome.scale == "log":
            cells[f"{head}, median"] = lambda rows, column=column: f"{rows[column].median():.3g}"
    return cells


def _interval_cell(values: pd.Series, scale: str = "linear") -> str:
    found = values[np.isfinite(values)]
    if found.empty:
        return "not finite"
    interval = mean_of(found, scale)
    lost = f" (n = {interval.n})" if interval.n < len(values) else ""
    if np.isnan(interval.low):
        return ", ".join(f"{value:.3g}" for value in found) + lost
    return f"{interval.estimate:.3g} [{interval.low:.3g}, {interval.high:.3g}]{lost}"


def _range_cell(values: pd.Series) -> str:
    """A share is at 0 for some seeds and far from it for others: no mean, and nothing below 0."""
    low, high = values.min(), values.max()
    return f"{values.median():.3g}" + (f" ({low:.3g} to {high:.3g})" if high > low else "")


# --- In ink. ----------------------------------------------------------------------------------------------------------


@style()
def figure(conditions: pd.DataFrame, networks: pd.DataFrame, *, footer: str = "") -> Figure:
    """Condition numbers, largest eigenvalues and float16 side by side, a row for each input normalization.

    conditions, networks: the tables of `probe`. footer: a line of small print.
    """
    kinds = list(dict.fromkeys(conditions["input"]))
    drawn, (left, middle, right) = layout.grid_of(3, sharey=True)
    left.set_yticks(range(len(kinds)), kinds)
    left.set_ylim(len(kinds) - 0.4, -0.6)

    for number, (matrix, (_, marker)) in enumerate(MATRICES.items()):
        rows = conditions[conditions["matrix"] == matrix]
        at = rows["input"].map(kinds.index) + 0.2 * (number - 1)
        look = {"ls": "none", "marker": marker, "ms": 4.5, "color": str(0.3 * number)}
        singular = rows["rank"] < rows["features"]
        left.plot(rows["condition_nonzero"][~singular], at[~singular], label=matrix, **look)
        left.plot(rows["condition_nonzero"][singular], at[singular], mfc="white", **look)
    left.set_xscale("log")
    _dress(left, "A  Condition number of XᵀX", "λmax/λmin (log scale)")

    looks = looks_of({"method": networks["norm"]})["method"]
    lanes = {norm: min(0.3, 0.8 / len(looks)) * (i - (len(looks) - 1) / 2) for i, norm in enumerate(looks)}
    for norm, rows in networks.groupby("norm", sort=False):
        at = rows["input"].map(kinds.index) + lanes[norm]
        _draw_means(middle, rows["hessian_largest"], at, looks[norm], f"norm={norm}")
        _draw_medians(right, rows["forward_overflow"], at, looks[norm])
        _draw_medians(right, rows["backward_underflow"], at, looks[norm], filled=False)
    positive = networks["hessian_largest"][networks["hessian_largest"] > 0]
    middle.set_xscale("log")
    if len(positive):
        middle.set_xlim(positive.min() / 2, positive.max() * 4)
    _dress(middle, "B  Largest Hessian eigenvalue", "λmax (nats, log scale)")
    right.set_xscale("symlog", linthresh=0.1)
    right.set_xlim(-0.02, 150)
    right.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for label, face in (("overflow, forward", "0.4"), ("underflow, backward", "white")):
        right.plot([], [], "o", ms=4.5, color="0.4", mfc=face, label=label)
    _dress(right, "C  Lost in float16, markers as in B", "share of values (%, log scale from 0.1)")

    counts = networks.groupby(["input", "norm"])["hessian_largest"].count()
    n = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()}–{counts.max()}"
    notes = [
        "A: open where λmin cannot be told from 0 in float64; then λmax over the smallest eigenvalue that can.",
        f"B: geometric mean over n = {n} seeds, bars: its 95 % t interval; C: median; small dots: the seeds.",
        "C: without loss scaling; overflow in the backward pass, not drawn, is at most "
        f"{networks['backward_overflow'].max():.2g} %.",
    ]
    layout.finish(drawn, notes, footer)
    return drawn


def _draw_means(axes, values: pd.Series, at: pd.Series, look: Look, label: str) -> None:
    """At each place the geometric mean of its values and their interval, where they have one, and the values."""
    found = {place: mean_of(group, "log") for place, group in values.dropna().groupby(at)}
    for place, interval in found.items():
        axes.hlines(place, interval.low, interval.high, lw=0.8, color=look.colour)
    axes.plot(values, at, ".", ms=3.5, mew=0, alpha=0.5, color=look.colour)
    means = [interval.estimate for interval in found.values()]
    axes.plot(means, list(found), look.marker, ms=4.5, mew=0.9, color=look.colour, label=label)


def _draw_medians(axes, values: pd.Series, at: pd.Series, look: Look, filled: bool = True) -> None:
    """At each place the median of its values, and the values."""
    medians = values.groupby(at).median()
    axes.plot(values, at, ".", ms=3.5, mew=0, alpha=0.5, color=look.colour)
    face = look.colour if filled else "white"
    axes.plot(medians, medians.index, look.marker, ms=4.5, mew=0.9, color=look.colour, mfc=face)


def _dress(axes, title: str, unit: str) -> None:
    """Title, below it what the markers are, and the axis."""
    axes.grid(True, axis="x")
    entries = len(axes.get_legend_handles_labels()[0])
    axes.set_title(title, pad=16 + 9 * ((entries - 1) // 3))
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.03, 1),
        ncols=3,
        frameon=False,
        fontsize=6.5,
        handletextpad=0.1,
        columnspacing=0.8,
        borderaxespad=0.1,
    )
    axes.set_xlabel(unit)
