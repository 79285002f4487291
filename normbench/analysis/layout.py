"""Axes and the layout of a figure: titles, scales, ticks, limits, the note below, names moved apart."""

import textwrap
from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogFormatterMathtext, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from scipy.optimize import isotonic_regression

from normbench.analysis.columns import label
from normbench.records.metrics import outcome_of
from normbench.words import typed


def grid_of(panels: int, sharey: bool = False) -> tuple[Figure, list]:
    """A figure about 9 inches wide, and its axes: one, two or three in a row, more in rows of two or three."""
    columns = panels if panels <= 3 else 2 if panels == 4 else 3
    rows = -(-panels // columns)
    height = 4.0 if columns < 3 else 3.5
    figure = Figure(figsize=(5.5 if panels == 1 else 9.0, height if rows == 1 else 0.8 * height * rows))
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.05)
    grid = list(figure.subplots(rows, columns, sharey=sharey, squeeze=False).flat)
    for axes in grid[panels:]:
        axes.remove()
    return figure, grid[:panels]


def shifted(axes, right: float = 0, up: float = 0, start=None):
    """Data coordinates (or those of `start`), shifted by so many points."""
    return (start or axes.transData) + ScaledTranslation(right / 72, up / 72, axes.figure.dpi_scale_trans)


def set_title(axes, title: str, lines: list) -> None:
    """The title, and below it the number of replicates: of every point, or the least and the most."""
    axes.set_title(textwrap.fill(title, 60), pad=14)
    counts = [n for line in lines for n in line.points.n]
    if counts:
        low, high = min(counts), max(counts)
        text = f"n = {low} per point" if low == high else f"n = {low}–{high} per point"
        place = shifted(axes, up=4, start=axes.transAxes)
        axes.text(0, 1, text, transform=place, fontsize=7, color="0.35", label="n")


def scale_of(values: pd.Series) -> tuple[str, Callable[[pd.Series], pd.Series]]:
    """The axis that suits the values, and a function to their places on it.

    `text`; `log` for batch sizes, where each is the smallest times a power of 2, and over two decades; else `linear`.
    """
    if is_bool_dtype(values) or not is_numeric_dtype(values):
        names = {name: i for i, name in enumerate(dict.fromkeys(values.map(typed)))}
        return "text", lambda cells: cells.map(typed).map(names)
    if values.name in ("batch_size", "stats_batch"):
        return "log", lambda cells: cells
    doublings = np.log2(values / values.min()) if values.min() > 0 else np.array([0.5])
    log = np.allclose(doublings, np.round(doublings)) or doublings.max() >= np.log2(100)
    return "log" if log else "linear", lambda cells: cells


def dress_x(axes, name: str, values: pd.Series, scale: str) -> None:
    """Label, ticks (on a log axis at the values themselves) and limits."""
    words = label(name)
    if scale == "text":
        places = list(dict.fromkeys(values.map(typed)))
        _typed_ticks(axes, range(len(places)), places)
        axes.set_xlim(-0.5, len(places) - 0.5)
    elif scale == "log":
        words = on_log_scale(words)
        axes.set_xscale("log", base=2)
        low, high = values.min(), values.max()
        margin = (high / low) ** 0.06 if high > low else 1.5
        axes.set_xlim(low / margin, high * margin)
        places = sorted(values.unique())
        _typed_ticks(axes, places, [typed(place) for place in places])
        axes.minorticks_off()
    elif len(values):
        margin = 0.06 * (values.max() - values.min()) or 0.5
        axes.set_xlim(values.min() - margin, values.max() + margin)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=bool((values % 1 == 0).all()), steps=[1, 2, 5, 10]))
    axes.set_xlabel(words)


def on_log_scale(words: str) -> str:
    """`learning rate (at batch size 128, log scale)`."""
    return f"{words[:-1]}, log scale)" if words.endswith(")") else f"{words} (log scale)"


def _typed_ticks(axes, places, names: list[str]) -> None:
    """Names at their places along x, slanted where there is no room for them side by side."""
    # In inches: the axes are about 0.6 of their share of the figure, a letter 0.06.
    room = 0.6 * axes.figure.get_figwidth() / axes.get_subplotspec().get_gridspec().ncols
    tight = 0.06 * len(names) * max(map(len, names)) > room
    slant = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if tight else {}
    axes.set_xticks(places, names, **slant)


def limit_y(grid: list, lines: list, y: str) -> None:
    """Everything drawn fits, on a log axis what lives on one; no axis of percentages leaves 0 to 100."""
    drawn = ["estimate", "low", "high", "chance", "band_low", "band_high"]
    points = [line.points[drawn].to_numpy().ravel() for line in lines]
    values = np.concatenate(points + [line.values[:, 1] for line in lines])
    low, high = np.nanmin(values), np.nanmax(values)
    log = outcome_of(y).scale == "log" and low > 0
    if log:
        margin = (high / low) ** 0.08 * 1.05
        low, high = low / margin, high * margin
    else:
        margin = 0.06 * (high - low) or 1.0
        low, high = low - margin, high + margin
    least, most = outcome_of(y).limits
    low, high = max(low, least), min(high, most)
    for axes in grid:
        if log:
            axes.set_yscale("log")
        axes.set_ylim(low, high)
        if log:
            _plain_ticks(axes.yaxis)
            axes.set_ylabel(axes.get_ylabel() and on_log_scale(axes.get_ylabel()))


def log_y(axes) -> None:
    """What is drawn on a log axis. One of less than a decade has plain digits."""
    axes.set_yscale("log")
    low, high = axes.yaxis.get_view_interval()
    if high <= 10 * low:
        _plain_ticks(axes.yaxis)


def _plain_ticks(axis) -> None:
    """Digits on a log axis: 1, 2, 5, 10, …, round steps where it spans too little for those, powers of ten too much."""
    low, high = axis.get_view_interval()
    axis.set_minor_locator(NullLocator())
    if high > 1e4 * low:
        axis.set_major_locator(LogLocator(numticks=9))
        axis.set_major_formatter(LogFormatterMathtext())
        return
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 8 * low else MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: typed(value)))


def finish(figure: Figure, notes: list[str], footer: str) -> None:
    """The note and the footer below, everything laid out, and the names of lines moved apart."""
    width = int(figure.get_figwidth() * 21)
    text = "\n".join(part for text in [*notes, footer] for part in textwrap.wrap(text, width))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=6.5, color="0.25", linespacing=1.3)
    _read_literally(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # keeps what has been laid out
    for axes in figure.axes:
        names = [text for text in axes.texts if text.get_label() == "name"]
        _move_apart(axes, sorted(names, key=lambda text: text.xy[1]))


def _read_literally(figure: Figure) -> None:
    """No text is mathematics, whatever `$` a name has; but for the powers of ten on a log axis."""
    axes = [axis for one in figure.axes for axis in (one.xaxis, one.yaxis)]
    powers = [axis for axis in axes if isinstance(axis.get_major_formatter(), LogFormatterMathtext)]
    kept = {label for axis in powers for label in axis.get_majorticklabels()}
    for text in figure.findobj(Text):
        if text not in kept:
            text.set_parse_math(False)


def _move_apart(axes, names: list) -> None:
    """Moves names, lowest first, up and down as little as will do (least squares) for none to overlap."""
    if not names:
        return
    heights = np.array([text.get_window_extent().height for text in names]) * 1.12
    stacked = np.concatenate([[0], np.cumsum((heights[1:] + heights[:-1]) / 2)])
    wanted = axes.transData.transform([text.xy for text in names])[:, 1]
    # Less the stack's own heights, "none overlaps" reads "never decreasing".
    placed = isotonic_regression(wanted - stacked).x
    bottom, top = axes.bbox.y0, axes.bbox.y1 - stacked[-1]
    placed = np.clip(placed, bottom, max(bottom, top)) + stacked
    for text, y in zip(names, axes.transData.inverted().transform(np.c_[wanted, placed])[:, 1], strict=True):
        text.set_y(y)
