"""Lines and ink: what the figures of a study are drawn with.

No pyplot, no global state. From the tables to lines: `lines`; axes and layout: `layout`; whole figures: `figures`.
"""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from normbench.analysis.layout import shifted
from normbench.analysis.looks import FURTHER, Look, ink

# Of a line: x, the mean with its interval (NaN where the replicates stand for themselves), how many replicates and how
# many of them diverged, where those stand, and the ends of the band.
POINTS = ["x", "estimate", "low", "high", "n", "lost", "chance", "band_low", "band_high"]


@dataclass(frozen=True)
class Line:
    """A mean along x.

    points: a row a point, by x, with the columns POINTS. values: (replicates, 2), x and y of the finished ones. second:
    the word of an `also` or `beside`. turn: which of those it is.
    """

    label: str
    look: Look
    points: pd.DataFrame
    values: np.ndarray
    second: str = ""
    turn: int = 0

    @property
    def single(self) -> pd.Series:
        """Which points are drawn replicate by replicate."""
        return self.points.low.isna()

    def moved(self, by: float) -> "Line":
        """The same line, further right by so much of the x axis."""
        return replace(self, points=self.points.assign(x=self.points.x + by), values=self.values + np.array([by, 0]))


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
) -> None:
    """A line with its band, bars and replicates. markers: about how many of them, rather than one a point."""
    points, colour = line.points, line.look.colour
    look = {"color": colour, "transform": shifted(axes, dodge)}
    if joined and band:
        axes.fill_between(
            points.x, points.band_low, points.band_high, alpha=0.12, lw=0, label=f"_band {line.label}", **look
        )
    every = max(1, len(points) // markers) if markers else 1
    some = points[::every]
    axes.vlines(some.x, some.low, some.high, lw=0.8, label=f"_bars {line.label}", **look)
    alone = np.isin(line.values[:, 0], some.x[some.low.isna()])
    if dots:
        rest = line.values[~np.isin(line.values[:, 0], points.x[line.single])]
        axes.plot(*rest.T, ".", ms=3.2, mew=0, alpha=0.5, label=f"_dots {line.label}", **look)
    pattern = "none" if not joined else FURTHER[line.turn % len(FURTHER)] if line.second else line.look.pattern
    mark = {"marker": line.look.marker, "ms": 4.5, "mew": 0.9, "mfc": "white" if line.second else colour, "zorder": 3}
    means = [int(i) for i in np.flatnonzero(~line.single) if i % every == 0]
    axes.plot(points.x, points.estimate, lw=1.2, ls=pattern, label=line.label, markevery=means, **mark, **look)
    if alone.any():
        axes.plot(*line.values[alone].T, ls="none", label=f"_single {line.label}", **mark, **look)


def draw_level(axes, line: Line) -> None:
    """One value across the panel, its marker and bar on the right edge, where no x is."""
    point, look = line.points.iloc[0], {"color": line.look.colour}
    places = [(point.x, point.estimate)]
    axes.axhline(point.estimate, lw=1.2, ls=line.look.pattern, label=line.label, zorder=2.5, **look)
    if line.single.iloc[0]:
        places = line.values
    else:
        axes.axhspan(point.low, point.high, alpha=0.1, lw=0, label=f"_band {line.label}", **look)
        axes.vlines(point.x, point.low, point.high, lw=0.8, clip_on=False, label=f"_bars {line.label}", **look)
    end = {"marker": line.look.marker, "ms": 4.5, "ls": "none", "clip_on": False, "label": f"_end {line.label}"}
    axes.plot(*np.transpose(places), **end, **look)


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
        look = {"color": line.look.colour, "ms": 4.5, "mew": 1.3, "zorder": 4, "clip_on": False, "label": label}
        axes.plot([point.x], [point.chance], "x", transform=shifted(axes, up=up), **look)
        look = {"color": ink(line.look), "fontsize": 6, "va": "center", "label": label}
        axes.text(point.x, point.chance, f"{point.lost}", transform=shifted(axes, 5, up), **look)


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
            text = {"fontsize": 6, "color": ink(look), "ha": "right", "va": "center", "label": f"_marks {name}"}
            axes.text(1, y, f"{len(places)}", transform=axes.transAxes, **text)


def draw_thin(axes, line: Line) -> None:
    """A line of somebody else's, with its name in small: there is but one value a point, and nothing known of it."""
    look = {"color": line.look.colour, "ls": line.look.pattern, "marker": line.look.marker, "mfc": "none"}
    axes.plot(line.points.x, line.points.estimate, lw=0.6, ms=2.2, mew=0.5, label=f"_thin {line.label}", **look)
    name_line(axes, line, size=6)


def name_line(axes, line: Line, dodge: float = 0, size: float = 7.5) -> None:
    """The line's name right of the axes, at the height of its last point; `finish` moves those apart that overlap."""
    last = line.points.iloc[-1]
    leader = {"arrowstyle": "-", "lw": 0.5, "color": line.look.colour, "shrinkA": 1, "shrinkB": 4, "relpos": (0, 0.5)}
    axes.annotate(
        textwrap.fill(line.label, 20, break_long_words=False),
        (last.x, last.estimate),
        (1.05, last.estimate),
        xycoords=shifted(axes, dodge),
        textcoords=axes.get_yaxis_transform(),
        va="center",
        fontsize=size,
        linespacing=1.0,
        color=ink(line.look),
        annotation_clip=False,
        label="name",
        arrowprops=leader,
    )
