"""Lines and ink: what the figures of a study are drawn with, and how they look.

No pyplot, no global state. From the tables to lines, and from them to whole figures: `figures`.
"""

import textwrap
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from scipy.optimize import isotonic_regression

from normbench.facts import FACTS

AXIS_LABELS = {
    "batch_size": "batch size (images)",
    "stats_batch": "images per batch statistic",
    "norm.ghost_size": "ghost batch size (images)",
    "lr": "learning rate (at batch size 128)",
    "method": "method",
    "epoch": "epoch",
    "epochs": "epochs",
    "train_size": "training set (images)",
    "data.input": "input normalization",
    "data.noise": "noise",
    "data.noise_strength": "noise strength (share of full range)",
    "data.bits": "intensity resolution (bits)",
    "data.channel_scale": "factor on the red channel",
    "data.label_noise": "label noise (share of labels)",
    "data.test_noise": "noise in the test images",
    "augment.name": "technique",
    "augment.mixup": "mixup α",
    "augment.cutmix": "cutmix α",
    "augment.label_smoothing": "label smoothing ε",
    "augment.resize": "progressive resizing",
    "augment.tta": "test-time augmentation",
    "peak_memory_mb": "peak memory (MB)",
    "train_seconds": "training time of a stack (s)",
    "steps_to_target": "steps to the target accuracy",
    "target_reached": "share that reached the target",
    "suggested_lr": "suggested learning rate (at batch size 128)",
    "lr_found": "share with a suggested learning rate",
    "regret": "regret of the suggested learning rate (points)",
    "tta_gained": "images that TTA turned right",
    "tta_lost": "images that TTA turned wrong",
    "tta_p": "McNemar's p of TTA",
    "tta_cost": "evaluation time of TTA (× plain)",
} | {
    f"{split}_{score}{way}": f"{split_words} {score_words}{way_words} ({unit})"
    for split, split_words in (("train", "training"), ("val", "validation"), ("test", "test"))
    for score, score_words, unit in (("acc", "accuracy", "%"), ("loss", "loss", "nats"), ("ece", "ECE", "%"))
    for way, way_words in (("", ""), ("_precise", ", precise statistics"), ("_tta", ", TTA"))
}

RC = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "text.hinting": "none",  # text as wide at 200 dpi and in svg as it was laid out
    "svg.hashsalt": "normbench",
}


@dataclass(frozen=True)
class Style:
    """How one method is drawn."""

    colour: str
    marker: str
    pattern: str | tuple = "-"

    @property
    def ink(self) -> tuple:
        """The colour darkened, for text."""
        return tuple(0.7 * part for part in to_rgb(self.colour))


STYLES = {
    method: Style(facts.look.colour, facts.look.marker, facts.look.pattern)
    for method, facts in FACTS.items()
    if facts.look is not None
}
# For what is no method, those that differ most in marker and luminance first.
SPARE = ("batch", "group", "none", "skipinit", "layer", "instance", "weight_standardization", "layer2d")
SPARE += ("ghost_batch", "sync_batch", "weight_norm")
SECOND = (0, (2.5, 1.5))


@contextmanager
def style():
    """The looks of this module alone: neither a matplotlibrc gets in nor do ours get out."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


@dataclass(frozen=True)
class Line:
    """A mean along x.

    points: a row a point, by x: x, estimate, low, high, n, lost (how many diverged), chance (where those stand).
    values: (replicates, 2), x and y of the finished ones. second: the word of an `also`.
    """

    label: str
    style: Style
    points: pd.DataFrame
    values: np.ndarray
    second: str = ""

    def moved(self, by: float) -> "Line":
        """The same line, further right by so much of the x axis."""
        return replace(self, points=self.points.assign(x=self.points.x + by), values=self.values + np.array([by, 0]))


def looks_of(values: Iterable) -> dict[str, Style]:
    """A style for each value: a method's own, for anything else those left over, in turn."""
    names = list(dict.fromkeys(map(typed, values)))
    looks = {name: STYLES[name] for name in STYLES if name in names}
    spare = [STYLES[name] for name in SPARE if name not in looks] or list(STYLES.values())
    return looks | dict(zip((name for name in names if name not in STYLES), cycle(spare), strict=False))


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


# Lines


def side_by_side(lines: list[Line]) -> list[Line]:
    """The lines of an axis of categories, each at a place of its own within them."""
    step = min(0.25, 0.8 / max(1, len(lines)))
    return [line.moved(step * (i - (len(lines) - 1) / 2)) for i, line in enumerate(lines)]


def draw_all(axes, lines: list[Line], step: float = 3, **how) -> None:
    """The lines with their names. step: in points, from one to the next: bars at one place would hide each other."""
    step = min(step, 12 / max(1, len(lines)))
    for i, line in enumerate(lines):
        dodge = step * (i - (len(lines) - 1) / 2)
        draw(axes, line, dodge, **how)
        name_line(axes, line, dodge)


def draw(
    axes,
    line: Line,
    dodge: float = 0,
    *,
    joined: bool = True,
    band: bool = True,
    dots: bool = True,
    markers: int | None = None,
    sizes: pd.Series | None = None,
) -> None:
    """A line with its band, bars and replicates.

    markers: about how many of them, rather than one a point. sizes: x → rank; larger markers for higher ranks, joined
    from high to low.
    """
    points, colour = line.points, line.style.colour
    if sizes is not None:
        points = points.sort_values("x", key=lambda x: -x.map(sizes))
    look = {"color": colour, "transform": _shifted(axes, dodge)}
    if joined and band:
        axes.fill_between(points.x, points.low, points.high, alpha=0.12, lw=0, label=f"_band {line.label}", **look)
    every = max(1, len(points) // markers) if markers else 1
    some = points[::every]
    axes.vlines(some.x, some.low, some.high, lw=0.8, label=f"_bars {line.label}", **look)
    if dots:
        axes.plot(*line.values.T, ".", ms=3.2, mew=0, alpha=0.5, label=f"_dots {line.label}", **look)
    pattern = "none" if not joined else SECOND if line.second else line.style.pattern
    axes.plot(points.x, points.estimate, lw=1.2, ls=pattern, zorder=3, label=line.label, **look)
    if sizes is None:
        axes.lines[-1].set(
            marker=line.style.marker, markevery=every, ms=4.5, mew=0.9, mfc="white" if line.second else colour
        )
    else:
        area = (2 + 0.8 * points.x.map(sizes)) ** 2
        axes.scatter(points.x, points.estimate, area, marker=line.style.marker, lw=0, zorder=3, **look)


def draw_level(axes, line: Line) -> None:
    """One value across the panel, its marker and bar on the right edge, where no x is."""
    point, look = line.points.iloc[0], {"color": line.style.colour}
    axes.axhspan(point.low, point.high, alpha=0.1, lw=0, label=f"_band {line.label}", **look)
    axes.axhline(point.estimate, lw=1.2, ls=line.style.pattern, label=line.label, zorder=2.5, **look)
    axes.vlines(point.x, point.low, point.high, lw=0.8, clip_on=False, label=f"_bars {line.label}", **look)
    axes.plot(point.x, point.estimate, line.style.marker, ms=4.5, clip_on=False, label=f"_end {line.label}", **look)


def mark_lost(axes, lines: list[Line]) -> None:
    """A × at chance, with how many replicates diverged; above a mean that stands there, or the × of another line."""

    def across(point) -> float:
        return (axes.transData - axes.transAxes).transform((point.x, point.chance))[0]

    lost = [(line, p) for line in lines if not line.second for p in line.points[line.points.lost > 0].itertuples()]
    means = [across(point) for _, point in lost if point.estimate - point.chance < 3]
    marks = []
    for line, point in lost:
        at, label = across(point), f"_diverged {line.label}"
        up = 8 * (any(abs(at - other) < 0.05 for other in means) + sum(abs(at - other) < 0.05 for other in marks))
        marks.append(at)
        look = {"color": line.style.colour, "ms": 4.5, "mew": 1.3, "zorder": 4, "clip_on": False, "label": label}
        axes.plot([point.x], [point.chance], "x", transform=_shifted(axes, up=up), **look)
        look = {"color": line.style.ink, "fontsize": 6, "va": "center", "label": label}
        axes.text(point.x, point.chance, f"{point.lost}", transform=_shifted(axes, 5, up), **look)


def draw_marks(marks: Mapping) -> None:
    """Small markers along x, a row a line, each with their number, in room made for them at the top of the figure.

    marks: for axes that share their y, {line: (its style, (k,) places along x)}.
    """
    if not marks:
        return
    low, high = next(iter(marks)).get_ylim()
    row = 0.04  # of the height of the axes
    share = row * max(map(len, marks.values()))
    for axes, rows in marks.items():
        axes.set_ylim(low, low + (high - low) / (1 - share))
        for i, (name, (look, places)) in enumerate(rows.items()):
            y, how = 1 - row * (i + 0.5), {"transform": axes.get_xaxis_transform(), "clip_on": False}
            if len(places):
                left, right = axes.get_xlim()
                axes.set_xlim(min(left, places.min()), max(right, places.max()))
                axes.plot(
                    places, [y] * len(places), look.marker, color=look.colour, ms=3.2, label=f"_marks {name}", **how
                )
            text = {"fontsize": 6, "color": look.ink, "ha": "right", "va": "center", "label": f"_marks {name}"}
            axes.text(1, y, f"{len(places)}", transform=axes.transAxes, **text)


def name_line(axes, line: Line, dodge: float = 0) -> None:
    """The line's name right of the axes, at the height of its last point; `finish` moves those apart that overlap."""
    last = line.points.iloc[-1]
    leader = {"arrowstyle": "-", "lw": 0.5, "color": line.style.colour, "shrinkA": 1, "shrinkB": 4, "relpos": (0, 0.5)}
    axes.annotate(
        textwrap.fill(line.label, 20, break_long_words=False),
        (last.x, last.estimate),
        (1.05, last.estimate),
        xycoords=_shifted(axes, dodge),
        textcoords=axes.get_yaxis_transform(),
        va="center",
        fontsize=7.5,
        linespacing=1.0,
        color=line.style.ink,
        annotation_clip=False,
        label="name",
        arrowprops=leader,
    )


def _shifted(axes, right: float = 0, up: float = 0, start=None):
    """Data coordinates (or those of `start`), shifted by so many points."""
    return (start or axes.transData) + ScaledTranslation(right / 72, up / 72, axes.figure.dpi_scale_trans)


# Axes


def set_title(axes, title: str, lines: list[Line]) -> None:
    """The title, and below it the number of replicates: of every point, or the least and the most."""
    axes.set_title(textwrap.fill(title, 60), pad=14)
    counts = [n for line in lines for n in line.points.n]
    if counts:
        low, high = min(counts), max(counts)
        text = f"n = {low} per point" if low == high else f"n = {low}–{high} per point"
        place = _shifted(axes, up=4, start=axes.transAxes)
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


def dress_x(axes, name: str, values: pd.Series, scale: str, ticks: bool = True) -> None:
    """Label, ticks and limits. ticks: at the values themselves, on a log axis."""
    label = AXIS_LABELS.get(name, name)
    if scale == "text":
        places = list(dict.fromkeys(values.map(typed)))
        _typed_ticks(axes, range(len(places)), places)
        axes.set_xlim(-0.5, len(places) - 0.5)
    elif scale == "log":
        label = f"{label[:-1]}, log scale)" if label.endswith(")") else f"{label} (log scale)"
        axes.set_xscale("log", base=2 if ticks else 10)
        low, high = values.min(), values.max()
        margin = (high / low) ** 0.06 if high > low else 1.5
        axes.set_xlim(low / margin, high * margin)
        if ticks:
            places = sorted(values.unique())
            _typed_ticks(axes, places, [typed(place) for place in places])
            axes.minorticks_off()
        else:
            _plain_ticks(axes.xaxis)
    elif len(values):
        margin = 0.06 * (values.max() - values.min()) or 0.5
        axes.set_xlim(values.min() - margin, values.max() + margin)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=bool((values % 1 == 0).all()), steps=[1, 2, 5, 10]))
    axes.set_xlabel(label)


def _typed_ticks(axes, places, names: list[str]) -> None:
    """Names at their places along x, slanted where there is no room for them side by side."""
    # In inches: the axes are about 0.6 of their share of the figure, a letter 0.06.
    room = 0.6 * axes.figure.get_figwidth() / axes.get_subplotspec().get_gridspec().ncols
    tight = 0.06 * len(names) * max(map(len, names)) > room
    slant = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if tight else {}
    axes.set_xticks(places, names, **slant)


def limit_y(grid: list, lines: list[Line], y: str, log: bool = False) -> None:
    """Everything drawn fits, and no axis of percentages leaves 0 to 100, however wide an interval."""
    points = [line.points[["estimate", "low", "high", "chance"]].to_numpy().ravel() for line in lines]
    values = np.concatenate(points + [line.values[:, 1] for line in lines])
    low, high = np.nanmin(values), np.nanmax(values)
    if log:
        margin = (high / low) ** 0.08 * 1.05
        low, high = low / margin, high * margin
    else:
        margin = 0.06 * (high - low) or 1.0
        low, high = low - margin, high + margin
    if "_acc" in y or "_ece" in y:
        low, high = max(low, 0), min(high, 100)
    for axes in grid:
        if log:
            axes.set_yscale("log")
        axes.set_ylim(low, high)
        if log:
            _plain_ticks(axes.yaxis)


def _plain_ticks(axis) -> None:
    """Digits on a log axis: 1, 2, 5, 10, …, or round steps where it spans too little for those."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 8 * low else MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: typed(value)))
    axis.set_minor_locator(NullLocator())


# Words and layout


def plain(column: str) -> str:
    """The column in words, without its unit."""
    return AXIS_LABELS.get(column, column).split(" (")[0]


def typed(value) -> str:
    """A cell as it is typed: 128 rather than 128.0, null for an empty one."""
    if pd.isna(value):
        return "null"
    return str(value) if isinstance(value, (str, bool, np.bool_)) else f"{value:g}"


def finish(figure: Figure, notes: list[str], footer: str) -> None:
    """The note and the footer below, everything laid out, and the names of lines moved apart."""
    width = int(figure.get_figwidth() * 21)
    text = "\n".join(part for text in [*notes, footer] for part in textwrap.wrap(text, width))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=6.5, color="0.25", linespacing=1.3)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # keeps what has been laid out
    for axes in figure.axes:
        names = [text for text in axes.texts if text.get_label() == "name"]
        _move_apart(axes, sorted(names, key=lambda text: text.xy[1]))


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
