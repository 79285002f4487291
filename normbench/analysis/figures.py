"""Figures of a study: tables in, matplotlib Figures out.

No pyplot, no global state: each function builds a `matplotlib.figure.Figure`; `save` writes the same bytes each time.
The tables are those of `collect`: `runs` has a row a replicate, `curves` a row an epoch of a replicate.

What every figure keeps to: a mean never without its n and its 95 % t interval; a diverged replicate stands in the mean
at chance and is marked ×; a replicate that is not over is left out and named in the note below; lines differ by marker,
colour and luminance, line pattern and direct label, so that the figure reads in grey (`drawing`).

A panel of `sweep_figure` is a mapping, as a study's file gives it under `figure.panels`:

    title: "B  decoupled: SGD batch 128"
    where: {method: [batch, ghost_batch], batch_size: 128}   # column: value or list of values; null is an empty cell
    x: stats_batch                                           # numbers, or text: categories, the lines side by side
    y: test_acc                                              # the default
    also: {test_acc_precise: precise statistics}             # a second, dashed line where that column has values
    lines: method                                            # the default; any column that tells lines apart
    as: batch (ghost groups)                                 # one label for all, or {value: label}; equal ones join
    horizontal: {method: [group, none], batch_size: 128}     # another selection, drawn as levels across the panel
    marks: suggested_lr                                      # places along x, in its unit: markers on top, a row a line
"""

from collections.abc import Callable, Mapping
from dataclasses import astuple
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.api.types import is_bool_dtype, is_list_like, is_numeric_dtype

from normbench.analysis import drawing
from normbench.analysis.columns import COUNTED, of_configuration
from normbench.analysis.drawing import AXIS_LABELS, Line, Style, plain, typed
from normbench.analysis.statistics import Interval, t_interval
from normbench.errors import UserError, choices_text

PANEL_KEYS = ("title", "where", "x", "y", "also", "lines", "as", "horizontal", "marks")


@drawing.style()
def sweep_figure(runs: pd.DataFrame, panels: list[Mapping], *, footer: str = "") -> Figure:
    """A panel for each mapping (see above), all on one y axis.

    runs: a row a replicate. footer: a line of small print, such as device and commit.
    Raises UserError for an unknown key or column, a selection in which nothing finished, and a point that would average
    over runs of different configurations.
    """
    if not panels:
        raise UserError("figure.panels: there are none")
    runs = runs.reset_index(drop=True)
    panels = [_checked(panel, number) for number, panel in enumerate(panels, 1)]
    looks = drawing.looks_of(
        value for panel in panels for value in _column(runs, panel["lines"], panel["name"]).unique()
    )
    figure, grid = drawing.grid_of(len(panels), sharey=True)
    lines, statuses = [], []
    for axes, panel in zip(grid, panels, strict=True):
        drawn, of_rows = _sweep_panel(axes, runs, panel, looks)
        lines, statuses = lines + drawn, statuses + of_rows
    if not lines:
        raise _nothing("figure", pd.concat(statuses).to_frame("status"), panels[0].get("where"))
    y = panels[0]["y"]
    drawing.limit_y(grid, lines, y)
    marked = [(axes, panel) for axes, panel in zip(grid, panels, strict=True) if panel.get("marks")]
    drawing.draw_marks({axes: _marks(runs, panel, looks) for axes, panel in marked})
    key = [_key_text(lines), _lost_text(lines, y), _censored_text(runs, statuses, y)]
    key.append(_marks_text([panel["marks"] for _, panel in marked]))
    drawing.finish(figure, [" ".join(filter(None, key)), _left_out_text(statuses)], footer)
    return figure


@drawing.style()
def curves_figure(
    curves: pd.DataFrame,
    runs: pd.DataFrame,
    *,
    columns: str = "batch_size",
    lines: str = "method",
    y: str = "val_acc",
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
    rows = _select(runs.reset_index(drop=True), where, "learning curves")
    values = list(_column(rows, columns, "learning curves").dropna().unique())
    values = sorted(values) if is_numeric_dtype(rows[columns]) else values
    shown = [values[i] for i in np.unique(np.linspace(0, len(values) - 1, 4).round().astype(int))] if values else []
    rows = rows[rows[columns].isin(shown)]
    looks = drawing.looks_of(_column(rows, lines, "learning curves").unique())
    table = _per_epoch(curves, rows, y)
    status = rows["status"].where(
        ~rows["status"].isin(COUNTED) | _pairs(rows).isin(_pairs(table)), rows["status"] + " without a curve"
    )
    if table.empty:
        raise _nothing("learning curves", rows, where)
    figure, grid = drawing.grid_of(len(shown), sharey=True)
    drawn = []
    for axes, value in zip(grid, shown, strict=True):
        part = table[table[columns] == value]
        found = _lines(part, "epoch", y, lines, looks, f"learning curves, {columns}={typed(value)}")
        drawing.draw_all(axes, found, markers=8, dots=False)
        drawing.set_title(axes, f"{plain(columns)} {typed(value)}", found)
        drawing.dress_x(axes, "epoch", table["epoch"], "linear")
        drawing.mark_lost(axes, found)
        axes.set_ylabel(AXIS_LABELS.get(y, y))
        axes.label_outer()
        drawn += found
    drawing.limit_y(grid, drawn, y)
    subset = f"Shown: {len(shown)} of {len(values)} values of {plain(columns)}." if len(shown) < len(values) else ""
    key = f"{_key_text(drawn, dots=False)} {_lost_text(drawn, y)} {subset}"
    drawing.finish(figure, [key, _left_out_text([status])], footer)
    return figure


@drawing.style()
def cost_figure(
    runs: pd.DataFrame,
    *,
    x: str = "batch_size",
    lines: str = "method",
    y: str = "test_acc",
    where: Mapping | None = None,
    footer: str = "",
) -> Figure:
    """What a method costs: milliseconds per step and replicate, peak memory in MB, and accuracy against training time.

    Times of a stack are divided by its replicates. Costs are medians with their range, accuracies means with their 95 %
    t interval. A cost that was not measured leaves its panel empty. Raises UserError as `sweep_figure` does.
    """
    name, runs = "cost figure", runs.reset_index(drop=True)
    rows = _select(runs, where, name)
    _column(rows, y, name)
    looks = drawing.looks_of(_column(rows, lines, name).unique())
    status, rows = _statuses(rows, y), _counted(rows, y)
    if rows.empty:
        raise _nothing(name, status.to_frame("status"), where)
    scale, place = drawing.scale_of(_column(rows, x, name))
    apart = scale == "text" and x != lines
    took, words = "train_seconds", "training time"
    if took not in rows or rows[took].isna().any():  # an older table
        took, words = "seconds", "training and evaluation time"
    costs = {column: pd.to_numeric(rows[column]) for column in ("ms_per_step", took, "peak_memory_mb")}
    rows = rows.assign(_x=place(rows[x]), **costs)
    rows["_ms"], rows["_seconds"] = rows["ms_per_step"] / rows["stack"], rows[took] / rows["stack"]
    rows["_median_seconds"] = rows.groupby([lines, "_x"])["_seconds"].transform("median")
    figure, grid = drawing.grid_of(3)
    costs = rows.assign(status="finished")  # a × belongs to an accuracy, not to a cost
    for axes, column, title, unit in (
        (grid[0], "_ms", "Time", "ms per step and replicate (log scale)"),
        (grid[1], "peak_memory_mb", "Memory", AXIS_LABELS["peak_memory_mb"]),
    ):
        drawn = _lines(costs.dropna(subset=column), "_x", column, lines, looks, name, _median_and_range)
        if apart:
            drawn = drawing.side_by_side(drawn)
        drawing.draw_all(axes, drawn, 0 if apart else 1.2, joined=scale != "text")
        drawing.set_title(axes, title, drawn)
        drawing.dress_x(axes, x, rows[x], scale)
        axes.set_ylabel(unit)
        if drawn:
            drawing.limit_y([axes], drawn, column, log=column == "_ms")
        else:
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color="0.4")
            axes.set_yticks([])
    timed = rows.dropna(subset="_seconds")
    drawn = _lines(timed, "_median_seconds", y, lines, looks, name, point="_x")
    drawing.set_title(grid[2], "Accuracy against time", drawn)
    seconds = timed["_median_seconds"]
    wide = len(seconds) and seconds.max() > 8 * seconds.min()
    drawing.dress_x(grid[2], f"{words} per replicate (s)", seconds, "log" if wide else "linear", ticks=False)
    sizes = timed.groupby("_median_seconds")["_x"].first().rank(method="dense") if scale != "text" else None
    drawing.draw_all(grid[2], drawn, 1.2, joined=scale != "text", dots=False, band=False, sizes=sizes)
    drawing.mark_lost(grid[2], drawn)
    grid[2].set_ylabel(AXIS_LABELS.get(y, y))
    drawing.limit_y(grid[2:], drawn, y)
    small = f"The larger the marker, the larger the {plain(x)}." if scale != "text" else ""
    key = "Time and memory: median and range. Accuracy: mean and 95 % t interval against the median time."
    key = f"{key} {small} {_lost_text(drawn, y)} {_censored_text(runs, [status], y)}"
    drawing.finish(figure, [key, _left_out_text([status])], footer)
    return figure


def default_panels(runs: pd.DataFrame) -> list[dict]:
    """Panels for runs that no study describes.

    Methods that vary most in the same numeric column share a panel along it; those that vary in nothing are drawn
    across the first. Where further settings differ, each combination of them gets a panel. Without a numeric column
    that varies, the methods are the categories of the x axis. Raises UserError where nothing finished.
    """
    runs = _counted(runs, "status")
    if runs.empty:
        raise UserError("figure: no replicate finished, nothing to draw")
    y = "test_acc" if runs["test_acc"].notna().any() else "val_acc"
    runs = _counted(runs, y)
    along: dict[str | None, list] = {}
    for method, rows in runs.groupby("method", sort=False):
        along.setdefault(_most_varied(rows), []).append(method)
    still = along.pop(None, [])
    if not along:
        return [_panel(rows, "method", y, where) for where, rows in _combinations(runs, ["method"])]
    panels = []
    for x, methods in along.items():
        rows = runs[runs["method"].isin(methods)]
        for where, part in _combinations(rows, ["method", x]):
            panels.append(_panel(part, x, y, {"method": list(part["method"].unique())} | where))
    rows = runs[runs["method"].isin(still)]
    combinations = _combinations(rows, ["method"]) if still else []
    if len(combinations) == 1:
        panels[0]["horizontal"] = {"method": still}
    else:
        panels += [_panel(part, "method", y, {"method": still} | where) for where, part in combinations]
    return panels


@drawing.style()
def save(figure: Figure, folder: str | Path, name: str) -> tuple[Path, Path]:
    """Writes NAME.png (200 dpi) and NAME.svg into the folder, made if need be; returns both paths.

    The same figure gives the same bytes: no dates, no versions, no random ids.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    figure.savefig(png, dpi=200, metadata={"Software": None})
    figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return png, svg


# From rows to lines


def _checked(panel: Mapping, number: int) -> dict:
    """The panel with its defaults and a name for error messages."""
    name = f"figure panel {panel.get('title') or number!r}"
    for key in panel:
        if key not in PANEL_KEYS:
            raise UserError(f"{name}: {key}: unknown key; {choices_text(key, PANEL_KEYS)}")
    if "x" not in panel:
        raise UserError(f"{name}: x is missing: the column along the x axis")
    return {"name": name, "y": "test_acc", "lines": "method"} | dict(panel)


def _column(table: pd.DataFrame, column: str, name: str) -> pd.Series:
    if column not in table:
        raise UserError(f"{name}: {column}: no such column; {choices_text(column, table.columns)}")
    return table[column]


def _select(runs: pd.DataFrame, where: Mapping | None, name: str) -> pd.DataFrame:
    """The rows whose columns have a value that is wanted; None is an empty cell."""
    rows = runs
    for column, wanted in (where or {}).items():
        wanted = list(wanted) if is_list_like(wanted) else [wanted]
        cells = _column(rows, column, name)
        rows = rows[cells.isin(wanted) | (cells.isna() & (None in wanted))]
    return rows


def _where_text(where: Mapping | None) -> str:
    def one(wanted):
        return ",".join(map(typed, wanted)) if is_list_like(wanted) else typed(wanted)

    return " ".join(f"{column}={one(wanted)}" for column, wanted in (where or {}).items())


def _statuses(rows: pd.DataFrame, y: str) -> pd.Series:
    """The status of each row; `finished without test_loss` where it counts but has no y."""
    lacking = rows["status"].isin(COUNTED) & rows[y].isna()
    return rows["status"].where(~lacking, rows["status"] + f" without {y}")


def _counted(rows: pd.DataFrame, y: str) -> pd.DataFrame:
    return rows[rows["status"].isin(COUNTED) & rows[y].notna()]


def _nothing(name: str, rows: pd.DataFrame, where: Mapping | None) -> UserError:
    if rows.empty:
        return UserError(f"{name}: no run has {_where_text(where)}" if where else f"{name}: there are no runs")
    counts = ", ".join(f"{n} {status}" for status, n in rows["status"].value_counts().items())
    return UserError(f"{name}: nothing finished {f'with {_where_text(where)} ' if where else ''}({counts})")


def _lines(
    rows: pd.DataFrame,
    x: str,
    y: str,
    by: str,
    looks: dict[str, Style],
    name: str,
    summarize: Callable[..., Interval] = t_interval,
    names: str | Mapping = MappingProxyType({}),
    second: str = "",
    point: str | None = None,
) -> list[Line]:
    """A line for each label, in the order of `looks`. rows: counted ones, all with x and y.

    point: the column whose values are a point each, where two of them may lie at the same x; else x is.
    """
    keys = rows[by].map(typed)
    spoken = {key: f"{plain(by)} {key}" if is_numeric_dtype(rows[by]) else key for key in keys.unique()}
    if not isinstance(names, str):
        spoken |= {typed(value): name for value, name in names.items()}
    labels = keys.map(spoken) if not isinstance(names, str) else pd.Series(names, rows.index)
    order = {key: i for i, key in enumerate(looks)}
    lines = []
    for label in sorted(labels.unique(), key=lambda label: min(order[key] for key in keys[labels == label])):
        mine = rows[labels == label]
        points = []
        for _, group in mine.groupby(point or x):
            _check_one_configuration(group, f"{name}: a point of {label}")
            lost = group.loc[group["status"] == "diverged", y]
            mean = astuple(summarize(group[y].to_numpy(float)))
            points.append((group[x].iloc[0], *mean, len(lost), lost.mean()))
        points.sort(key=lambda values: values[0])
        lines.append(
            Line(
                f"{label}, {second}" if second else label,
                looks[min(keys[labels == label], key=order.get)],
                pd.DataFrame(points, columns=["x", "estimate", "low", "high", "n", "lost", "chance"]),
                mine.loc[mine["status"] == "finished", [x, y]].to_numpy(float),
                second,
            )
        )
    return lines


def _check_one_configuration(rows: pd.DataFrame, name: str) -> None:
    """A mean over replicates is one over seeds alone."""
    differing = [column for column in of_configuration(rows) if rows[column].nunique(dropna=False) > 1]
    if differing:
        raise UserError(f"{name} would average over runs that differ in {', '.join(differing)}; choose with where")
    if rows["seed"].duplicated().any():
        raise UserError(f"{name} has the same seed twice; choose with where")


def _median_and_range(values: np.ndarray) -> Interval:
    return Interval(np.median(values), values.min(), values.max(), len(values))


def _pairs(table: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(table[["run_id", "seed"]])


def _per_epoch(curves: pd.DataFrame, runs: pd.DataFrame, y: str) -> pd.DataFrame:
    """`curves` with the settings of each run; diverged replicates at chance from their epoch on, marked once."""
    runs = runs[runs["status"].isin(COUNTED)]
    settings = runs[["run_id", "seed", "status", "diverged_epoch", *of_configuration(runs)]]
    _column(curves, y, "learning curves")
    table = curves[["run_id", "seed", "epoch", y]].merge(settings, on=["run_id", "seed"])
    alive = (table["status"] == "finished") | (table["epoch"] < table["diverged_epoch"])
    table = table[alive].assign(status="finished")
    if not y.endswith("_acc"):
        return table.dropna(subset=y)
    flat = []
    for row in runs[runs["status"] == "diverged"].to_dict("records"):
        epochs = np.arange(int(row["diverged_epoch"]), int(row["epochs"]) + 1)
        status = np.where(epochs == epochs[0], "diverged", "at chance")
        row = {column: row[column] for column in settings} | {y: row["val_acc"]}
        flat.append(pd.DataFrame(row | {"epoch": epochs, "status": status}))
    return pd.concat([table, *flat], ignore_index=True).dropna(subset=y)


def _most_varied(rows: pd.DataFrame) -> str | None:
    """The numeric setting with most values: batch sizes first, then the method's options, rates, anything else."""
    dotted = [column for column in rows if "." in column]
    options = [column for column in dotted if column.startswith("norm.")]
    candidates = ["batch_size", "stats_batch", *options, "lr", *dotted, "epochs", "train_size"]
    counts = {
        column: rows[column].nunique()
        for column in candidates
        if column in rows and is_numeric_dtype(rows[column]) and not is_bool_dtype(rows[column])
    }
    best = max(counts, key=counts.get, default=None)  # the first among equals
    return best if best and counts[best] > 1 and rows[best].notna().all() else None


def _combinations(rows: pd.DataFrame, by: list[str]) -> list[tuple[dict, pd.DataFrame]]:
    """(where, rows) for each combination of the settings that still differ where `by` is the same."""
    groups = rows.groupby(by, dropna=False)
    rest = [c for c in of_configuration(rows) if c not in by and groups[c].nunique(dropna=False).max() > 1]
    # The images of a statistic follow from the batch size and the options, and are none for half of the methods.
    rest = [c for c in rest if c != "stats_batch"] or rest
    if not rest:
        return [({}, rows)]
    return [
        ({c: None if pd.isna(v) else v for c, v in zip(rest, values, strict=True)}, part)
        for values, part in rows.groupby(rest, dropna=False, sort=False)
    ]


def _panel(rows: pd.DataFrame, x: str, y: str, where: dict) -> dict:
    title = _where_text({key: value for key, value in where.items() if key != "method"})
    panel = {"title": title, "where": where, "x": x, "y": y}
    if y == "test_acc" and "test_acc_precise" in rows and rows["test_acc_precise"].notna().any():
        panel["also"] = {"test_acc_precise": "precise statistics"}
    return panel


def _sweep_panel(axes, runs: pd.DataFrame, panel: dict, looks: dict[str, Style]) -> tuple[list[Line], list[pd.Series]]:
    """Draws one panel; returns its lines and the statuses of the rows that it was to draw."""
    name, x, y, by, where = panel["name"], panel["x"], panel["y"], panel["lines"], panel.get("where")
    names = panel.get("as") or {}
    selected = _select(runs, where, name)
    _column(selected, y, name)
    statuses, rows = [_statuses(selected, y)], _counted(selected, y)
    if rows.empty:  # of a study in part: the note below the figure says what is missing
        drawing.set_title(axes, panel.get("title", ""), [])
        words = "no runs" if selected.empty else "nothing finished yet"
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", color="0.4")
        return [], statuses
    if _column(rows, x, name).isna().any():
        without = ", ".join(sorted(rows.loc[rows[x].isna(), by].map(typed).unique()))
        raise UserError(f"{name}: {without} without a value of {x}; draw that under horizontal")
    scale, place = drawing.scale_of(rows[x])
    rows = rows.assign(_x=place(rows[x]))
    lines = _lines(rows, "_x", y, by, looks, name, names=names)
    for column, word in (panel.get("also") or {}).items():
        _column(rows, column, name)
        lines += _lines(_counted(rows, column), "_x", column, by, looks, name, names=names, second=word)
    drawing.dress_x(axes, x, rows[x], scale)
    if x == by:  # each at a place of its own, which names it
        for line in lines:
            drawing.draw(axes, line, 6 if line.second else 0, joined=scale != "text")
    elif scale == "text":
        lines = drawing.side_by_side(lines)
        drawing.draw_all(axes, lines, 0, joined=False)
    else:
        drawing.draw_all(axes, lines)
    drawing.mark_lost(axes, lines)
    levels = []
    if panel.get("horizontal"):
        selected = _select(runs, panel["horizontal"], name)
        statuses.append(_statuses(selected, y))
        counted = _counted(selected, y)
        named = {} if isinstance(names, str) else names
        levels = _lines(counted.assign(_x=axes.get_xlim()[1]), "_x", y, by, looks, name, names=named)
    for line in levels:
        drawing.draw_level(axes, line)
        drawing.name_line(axes, line)
    drawing.set_title(axes, panel.get("title", ""), lines + levels)
    if axes.get_subplotspec().is_first_col():
        axes.set_ylabel(AXIS_LABELS.get(y, y))
    return lines + levels, statuses


def _marks(runs: pd.DataFrame, panel: dict, looks: dict[str, Style]) -> dict[str, tuple[Style, np.ndarray]]:
    """By line of a panel, its look and the places that its replicates have in the column `marks`, a seed once."""
    name, column, by = panel["name"], panel["marks"], panel["lines"]
    rows = _counted(_select(runs, panel.get("where"), name), panel["y"])
    for needed in (column, panel["x"]):
        if drawing.scale_of(_column(rows, needed, name))[0] == "text":
            raise UserError(f"{name}: marks: {needed} is no column of numbers")
    keys = rows[by].map(typed)
    found = rows.dropna(subset=column).drop_duplicates([by, "seed"])
    return {key: (looks[key], found.loc[keys == key, column].to_numpy(float)) for key in looks if key in set(keys)}


# The note below a figure


def _key_text(lines: list[Line], dots: bool = True) -> str:
    if all(n == 1 for line in lines for n in line.points.n):
        return "One replicate a point: no interval."
    what = "mean over n replicates (small dots)" if dots else "mean over n replicates"
    seconds = ", ".join(sorted({line.second for line in lines if line.second}))
    opened = f" Open markers: {seconds}." if seconds else ""
    return f"Markers: {what}; bands and bars: 95 % t interval of the mean.{opened}"


def _lost_text(lines: list[Line], y: str) -> str:
    lost = any((line.points.lost > 0).any() for line in lines)
    at_chance = ", at chance" if "_acc" in y else ""
    return f"× k: k replicates diverged; they count in the mean{at_chance}." if lost else ""


def _censored_text(runs: pd.DataFrame, statuses: list[pd.Series], y: str) -> str:
    """How many of the steps drawn are those of a whole training that did not reach its target."""
    if y != "steps_to_target" or "target_reached" not in runs:
        return ""
    status = pd.concat(statuses)
    drawn = runs.loc[status[status.isin(COUNTED)].index.unique(), "target_reached"]
    never = drawn.eq(False).sum()
    return (
        f"{never} of {len(drawn)} replicates did not reach the target and count with all their steps." if never else ""
    )


def _marks_text(columns: list[str]) -> str:
    what = " and ".join(dict.fromkeys(map(plain, columns)))
    return f"On top: {what} of each replicate that has one, and how many have." if columns else ""


def _left_out_text(statuses: list[pd.Series]) -> str:
    """`3 of 140 replicates not counted: 2 missing, 1 failed.`, each row of `runs` once; empty if all were counted."""
    status = pd.concat(statuses)
    status = status[~status.index.duplicated()]
    counts = status[~status.isin(COUNTED)].value_counts()
    words = ", ".join(f"{n} {word}" for word, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return f"{counts.sum()} of {len(status)} replicates not counted: {words}." if len(counts) else ""
