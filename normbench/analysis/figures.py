"""Figures of a study: tables in, matplotlib Figures out.

No pyplot, no global state: each function builds a `matplotlib.figure.Figure`; `save` writes the same bytes each time.
The tables are those of `collect`: `runs` has a row a replicate, `curves` a row an epoch of a replicate.

What every figure keeps to: a mean never without its n and its 95 % t interval, on the scale of its outcome, and none of
fewer than three replicates, which are drawn themselves; a diverged replicate stands in the mean at chance and is marked
×; a replicate that is not over is left out and named in the note below; lines differ by marker, colour and luminance,
line pattern and direct label, so that the figure reads in grey (`drawing`).

A panel of `sweep_figure` is a mapping, as a study's file gives it under `figure.panels`:

    title: "B  decoupled: SGD batch 128"
    where: {method: [batch, ghost_batch], batch_size: 128}   # which rows: see `evidence`
    x: stats_batch                                           # numbers, or text: categories, the lines side by side
    y: test_acc                                              # the default (val_acc where there is no test_acc)
    also: {test_acc_precise: precise statistics}             # a second, dashed line where that column has values
    beside: {scaled: {method: batch, norm.momentum: 0.01}}   # the same of other rows, each selection with its word
    lines: method                                            # the default; any column that tells lines apart
    as: batch (ghost groups)                                 # one label for all, or {value: label}; equal ones join
    band: simultaneous                                       # of all points of a line at once; default: pointwise
    horizontal: {method: [group, none], batch_size: 128}     # another selection, drawn as levels across the panel
    marks: suggested_lr                                      # places along x, in its unit: markers on top, a row a line
    published: true                                          # what the study has of it under `published`, as thin lines

`where` may be a list of selections as well: rows that are in one of them.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.api.types import is_numeric_dtype

from normbench.analysis import drawing, layout
from normbench.analysis.columns import label, plain
from normbench.analysis.drawing import Line
from normbench.analysis.evidence import concerning
from normbench.analysis.lines import (
    censored_text,
    column_of,
    edges_text,
    key_text,
    left_out_text,
    lines_of,
    lost_text,
    marks_text,
    nothing,
    pairs,
    per_epoch,
    rows_of,
    statuses_of,
    told_apart,
    with_values,
)
from normbench.analysis.looks import OTHERS, Look, looks_of, style
from normbench.analysis.panels import checked
from normbench.analysis.published import Published
from normbench.errors import UserError
from normbench.records.files import write_whole
from normbench.records.metrics import OBJECTIVE, OVER, outcome_of
from normbench.words import typed

NO_DATE = {"Date": None, "Creator": None}


@dataclass
class _Outcome:
    """What a figure draws of an outcome: its panels, its lines, and those of published figures."""

    grid: list
    lines: list[Line]
    thin: list[Line]


@style()
def sweep_figure(
    runs: pd.DataFrame, panels: list[Mapping], *, published: Sequence[Published] = (), footer: str = ""
) -> Figure:
    """A panel for each mapping (see above), those of one outcome on one y axis.

    runs: a row a replicate. published: see there. footer: a line of small print, such as device and commit.
    Raises UserError for an unknown key or column, a selection in which nothing finished, and a point that would average
    over runs of different configurations.
    """
    if not panels:
        raise UserError("figure.panels: there are none")
    runs = runs.reset_index(drop=True)
    panels = [checked(panel, number, runs) for number, panel in enumerate(panels, 1)]
    by = {panel["lines"]: column_of(runs, panel["lines"], panel["name"]).unique() for panel in panels}
    looks = looks_of(by)
    outcomes = list(dict.fromkeys(panel["y"] for panel in panels))
    figure, grid = layout.grid_of(len(panels), sharey=len(outcomes) == 1)
    statuses, of_outcome = [], {y: _Outcome([], [], []) for y in outcomes}
    for axes, panel in zip(grid, panels, strict=True):
        drawn, of_rows = _sweep_panel(axes, runs, panel, looks[panel["lines"]])
        one = of_outcome[panel["y"]]
        one.grid.append(axes)
        one.lines.extend(drawn)
        statuses += of_rows
        if axes.get_subplotspec().is_first_col() or len(outcomes) > 1:
            axes.set_ylabel(label(panel["y"]) if drawn else "")
        if panel.get("published") and drawn:
            one.thin.extend(_published(axes, runs, panel, looks[panel["lines"]], published))
    of_outcome = {y: one for y, one in of_outcome.items() if one.lines}
    if not of_outcome:
        raise nothing("figure", pd.concat(statuses).to_frame("status"), panels[0].get("where"))
    for y, one in of_outcome.items():
        layout.limit_y(one.grid, one.lines + one.thin, y)
    marked = [(axes, panel) for axes, panel in zip(grid, panels, strict=True) if panel.get("marks")]
    drawing.draw_marks({axes: _marks(runs, panel, looks[panel["lines"]]) for axes, panel in marked})
    together = any(panel["band"] == "simultaneous" for panel in panels)
    key = []
    for y, one in of_outcome.items():
        told = [key_text(one.lines, y, together=together), lost_text(one.lines, y), censored_text(runs, statuses, y)]
        words = outcome_of(y).words
        words = f"{words[0].upper()}{words[1:]}: " if len(of_outcome) > 1 else ""
        key.append(words + " ".join(filter(None, told)))
    key.append("Thin lines: published figures." if any(one.thin for one in of_outcome.values()) else "")
    key.append(marks_text([panel["marks"] for _, panel in marked]))
    key.append(edges_text(runs, panels))
    layout.finish(figure, [" ".join(filter(None, key)), left_out_text(statuses)], footer)
    return figure


@style()
def curves_figure(
    curves: pd.DataFrame,
    runs: pd.DataFrame,
    *,
    columns: str = "batch_size",
    lines: str = "method",
    y: str = OBJECTIVE,
    where: Mapping | None = None,
    footer: str = "",
) -> Figure:
    """Learning curves: mean and 95 % t interval per epoch, a small panel for each of at most four values of `columns`.

    curves: a row an epoch of a replicate. runs: a row a replicate; joined by run_id and seed. y: a column of `curves`.
    where: selects among `runs`. Of more than four values the smallest, the largest and two between are drawn, of words
    the first, the last and two between. A diverged replicate stays in the mean of an accuracy, at chance from its epoch
    on; it has no loss from there on.
    Raises UserError as `sweep_figure` does.
    """
    rows = concerning(rows_of(runs.reset_index(drop=True), where, "learning curves"), OBJECTIVE)
    values = list(column_of(rows, columns, "learning curves").dropna().unique())
    values = sorted(values) if is_numeric_dtype(rows[columns]) else values
    shown = [values[i] for i in np.unique(np.linspace(0, len(values) - 1, 4).round().astype(int))] if values else []
    rows = rows[rows[columns].isin(shown)]
    looks = looks_of({lines: column_of(rows, lines, "learning curves").unique()})[lines]
    table = per_epoch(curves, rows, y)
    status = rows["status"].where(
        ~rows["status"].isin(OVER) | pairs(rows).isin(pairs(table)), rows["status"] + " without a curve"
    )
    if table.empty:
        raise nothing("learning curves", rows, where)
    figure, grid = layout.grid_of(len(shown), sharey=True)
    drawn = []
    for axes, value in zip(grid, shown, strict=True):
        part = table[table[columns] == value]
        found = lines_of(part, "epoch", y, lines, looks, f"learning curves, {columns}={typed(value)}")
        drawing.draw_all(axes, found, markers=8, dots=False)
        layout.set_title(axes, f"{plain(columns)} {typed(value)}", found)
        layout.dress_x(axes, "epoch", table["epoch"], "linear")
        drawing.mark_lost(axes, found)
        axes.set_ylabel(label(y))
        axes.label_outer()
        drawn += found
    layout.limit_y(grid, drawn, y)
    subset = f"Shown: {len(shown)} of {len(values)} values of {plain(columns)}." if len(shown) < len(values) else ""
    key = f"{key_text(drawn, y, dots=False)} {lost_text(drawn, y)} {subset}"
    layout.finish(figure, [key, left_out_text([status])], footer)
    return figure


@style()
def save(figure: Figure, folder: str | Path, name: str) -> tuple[Path, Path]:
    """Writes NAME.png (200 dpi) and NAME.svg into the folder, made if need be; returns both paths.

    The same figure gives the same bytes: no dates, no versions, no random ids. Raises UserError where it cannot.
    """
    paths = []
    for form, how in (("png", {"dpi": 200, "metadata": {"Software": None}}), ("svg", {"metadata": NO_DATE})):
        drawn = io.BytesIO()
        figure.savefig(drawn, format=form, **how)
        paths.append(Path(folder, f"{name}.{form}"))
        write_whole(paths[-1], drawn.getvalue())
    return tuple(paths)


# A panel


def _sweep_panel(axes, runs: pd.DataFrame, panel: dict, looks: dict[str, Look]) -> tuple[list[Line], list[pd.Series]]:
    """Draws one panel; returns its lines and the statuses of the rows that it was to draw."""
    name, x, y, by = panel["name"], panel["x"], panel["y"], panel["lines"]
    selected = concerning(rows_of(runs, panel.get("where"), name), y)
    column_of(selected, y, name)
    statuses, rows = [statuses_of(selected, y)], with_values(selected, y)
    if rows.empty:  # of a study in part: the note below the figure says what is missing
        layout.set_title(axes, panel.get("title", ""), [])
        words = "no runs" if selected.empty else "nothing finished yet"
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", color="0.4")
        return [], statuses
    if column_of(rows, x, name).isna().any():
        without = ", ".join(sorted(rows.loc[rows[x].isna(), by].map(typed).unique()))
        raise UserError(f"{name}: {without} without a value of {x}; draw that under horizontal")
    others = {word: concerning(rows_of(runs, of, name), y) for word, of in (panel.get("beside") or {}).items()}
    statuses += [statuses_of(some, y) for some in others.values()]
    scale, place = layout.scale_of(rows[x])
    lines = _lines(rows, {word: with_values(some, y) for word, some in others.items()}, place, panel, looks)
    layout.dress_x(axes, x, rows[x], scale)
    if x == by:  # each at a place of its own, which names it
        for line in lines:
            drawing.draw(axes, line, 6 if line.second else 0, joined=scale != "text")
    elif scale == "text":
        lines = drawing.side_by_side(lines)
        drawing.draw_all(axes, lines, 0, joined=False)
    else:
        drawing.draw_all(axes, lines)
    drawing.mark_lost(axes, lines)
    levels, of_levels = _levels(axes, runs, panel, looks)
    layout.set_title(axes, panel.get("title", ""), lines + levels)
    return lines + levels, statuses + of_levels


def _lines(rows: pd.DataFrame, others: Mapping, place, panel: dict, looks: dict[str, Look]) -> list[Line]:
    """The lines along x: of y, of what is drawn of the same rows `also`, and of others, a word each, `beside` them."""
    name, x, y, by = panel["name"], panel["x"], panel["y"], panel["lines"]
    how = {"looks": looks, "name": name, "names": panel.get("as") or {}, "together": panel["band"] == "simultaneous"}
    rows = rows.assign(_x=place(rows[x]))
    lines = lines_of(rows, "_x", y, by, **how)
    for column, word in (panel.get("also") or {}).items():
        column_of(rows, column, name)
        lines += lines_of(with_values(rows, column), "_x", column, by, second=word, **how)
    for word, some in others.items():
        lines += lines_of(some.assign(_x=place(some[x])), "_x", y, by, second=word, **how)
    return told_apart(lines)


def _levels(axes, runs: pd.DataFrame, panel: dict, looks: dict[str, Look]) -> tuple[list[Line], list[pd.Series]]:
    """Draws the levels across a panel; returns them and the statuses of their rows."""
    if not panel.get("horizontal"):
        return [], []
    name, y, names = panel["name"], panel["y"], panel.get("as") or {}
    selected = concerning(rows_of(runs, panel["horizontal"], name), y)
    counted = with_values(selected, y).assign(_x=axes.get_xlim()[1])
    levels = lines_of(counted, "_x", y, panel["lines"], looks, name, names={} if isinstance(names, str) else names)
    for line in levels:
        drawing.draw_level(axes, line)
        drawing.name_line(axes, line)
    return levels, [statuses_of(selected, y)]


def _published(
    axes, runs: pd.DataFrame, panel: dict, looks: dict[str, Look], published: Sequence[Published]
) -> list[Line]:
    """Draws the published figures of what a panel shows, those of a line that it has in the look of that."""
    x, by = panel["x"], panel["lines"]
    _, place = layout.scale_of(column_of(runs, x, panel["name"]))
    lines = []
    for entry in published:
        if (entry.over, entry.metric, entry.ratio) == (x, panel["y"], None):
            places = place(pd.Series([value for value, _ in entry.values], name=x))
            points = pd.DataFrame({"x": list(places), "estimate": [figure for _, figure in entry.values]})
            points = points.dropna().sort_values("x").reindex(columns=drawing.POINTS)
            look = looks.get(typed(entry.where.get(by)), OTHERS)
            lines.append(Line(entry.label, look, points, np.empty((0, 2))))
            drawing.draw_thin(axes, lines[-1])
    return lines


def _marks(runs: pd.DataFrame, panel: dict, looks: dict[str, Look]) -> dict[str, tuple[Look, np.ndarray]]:
    """By line of a panel, its look and the places that its replicates have in the column `marks`, a seed once."""
    name, column, by = panel["name"], panel["marks"], panel["lines"]
    rows = with_values(rows_of(runs, panel.get("where"), name), panel["y"])
    for needed in (column, panel["x"]):
        if layout.scale_of(column_of(rows, needed, name))[0] == "text":
            raise UserError(f"{name}: marks: {needed} is no column of numbers")
    keys = rows[by].map(typed)
    found = rows.dropna(subset=column).drop_duplicates([by, "seed"])
    return {key: (looks[key], found.loc[keys == key, column].to_numpy(float)) for key in looks if key in set(keys)}
