"""Figures of a study: tables in, matplotlib Figures out.

No pyplot, no global state: each function builds a `matplotlib.figure.Figure`; `save` writes the same bytes each time.
The tables are those of `collect`: `runs` has a row a replicate, `curves` a row an epoch of a replicate.

What every figure keeps to: a mean never without its n and its 95 % t interval; a diverged replicate stands in the mean
at chance and is marked ×; a replicate that is not over is left out and named in the note below; methods differ by
marker, colour and luminance, line pattern and direct label, so that the figure reads in grey.

A panel of `sweep_figure` is a mapping, as a study's file gives it under `figure.panels`:

    title: "B  decoupled: SGD batch 128"
    where: {method: [batch, ghost_batch], batch_size: 128}   # column: value or list of values; null is an empty cell
    x: stats_batch                                           # numbers, or text: categories
    y: test_acc                                              # the default
    also: {test_acc_precise: precise statistics}             # a second, dashed line where that column has values
    lines: method                                            # the default: the column that tells lines apart
    as: batch (ghost groups)                                 # one label for all, or {value: label}; equal ones join
    horizontal: {method: [group, none], batch_size: 128}     # another selection, drawn as levels across the panel
"""

import textwrap
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from itertools import cycle
from pathlib import Path
from types import MappingProxyType

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation
from pandas.api.types import is_bool_dtype, is_list_like, is_numeric_dtype
from scipy.optimize import isotonic_regression

from normbench.analysis.columns import COUNTED, of_configuration
from normbench.analysis.statistics import Interval, t_interval
from normbench.errors import UserError, choices_text

PANEL_KEYS = ("title", "where", "x", "y", "also", "lines", "as", "horizontal")

AXIS_LABELS = {
    "batch_size": "batch size (images)",
    "stats_batch": "images per batch statistic",
    "norm.ghost_size": "ghost batch size (images)",
    "lr": "learning rate (at batch size 128)",
    "method": "method",
    "epoch": "epoch",
    "epochs": "epochs",
    "train_size": "training set (images)",
    "test_acc": "test accuracy (%)",
    "test_acc_precise": "test accuracy, precise statistics (%)",
    "val_acc": "validation accuracy (%)",
    "train_acc": "training accuracy (%)",
    "test_loss": "test loss (nats)",
    "val_loss": "validation loss (nats)",
    "train_loss": "training loss (nats)",
    "peak_memory_mb": "peak memory (MB)",
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


# Okabe and Ito's colours, and darker shades of them where those run out. The usual four (batch, group, none, skipinit)
# are spread in luminance. A method keeps its look in every figure.
STYLES = {
    "batch": Style("#0072B2", "o"),
    "group": Style("#E69F00", "s", (0, (7, 1.5))),
    "none": Style("#000000", "^", (0, (1, 1.2))),
    "skipinit": Style("#D55E00", "D", "-."),
    "ghost_batch": Style("#56B4E9", "h", (0, (4, 1, 1, 1, 1, 1))),
    "sync_batch": Style("#003F63", "H", (0, (10, 2))),
    "layer": Style("#009E73", "v", (0, (6, 1, 2, 1))),
    "layer2d": Style("#00563F", "<", (0, (6, 1, 1, 1))),
    "instance": Style("#CC79A7", "P", (0, (5, 1))),
    "weight_norm": Style("#8C8C8C", "p", (0, (3, 1, 1, 1))),
    "weight_standardization": Style("#8F8500", "X", (0, (8, 1, 1, 1))),
}
SECOND = (0, (2.5, 1.5))


@contextmanager
def _style():
    """The looks of this module alone: neither a matplotlibrc gets in nor do ours get out."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


@_style()
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
    looks = _looks(value for panel in panels for value in _column(runs, panel["lines"], panel["name"]).unique())
    figure, grid = _grid(len(panels), sharey=True)
    lines, statuses = [], []
    for axes, panel in zip(grid, panels, strict=True):
        drawn, of_rows = _sweep_panel(axes, runs, panel, looks)
        lines, statuses = lines + drawn, statuses + of_rows
    if not lines:
        raise _nothing("figure", pd.concat(statuses).to_frame("status"), panels[0].get("where"))
    _limit_y(grid, lines, panels[0]["y"])
    _finish(figure, [_key_text(lines), _left_out_text(statuses)], footer)
    return figure


@_style()
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
    where: selects among `runs`. Of more than four values the smallest, the largest and two between are drawn. A
    diverged replicate stays in the mean of an accuracy, at chance from its epoch on; it has no loss from there on.
    Raises UserError as `sweep_figure` does.
    """
    rows = _select(runs.reset_index(drop=True), where, "learning curves")
    values = sorted(_column(rows, columns, "learning curves").dropna().unique())
    shown = [values[i] for i in np.unique(np.linspace(0, len(values) - 1, 4).round().astype(int))] if values else []
    rows = rows[rows[columns].isin(shown)]
    looks = _looks(_column(rows, lines, "learning curves").unique())
    table = _per_epoch(curves, rows, y)
    status = rows["status"].where(
        ~rows["status"].isin(COUNTED) | _pairs(rows).isin(_pairs(table)), rows["status"] + " without a curve"
    )
    if table.empty:
        raise _nothing("learning curves", rows, where)
    figure, grid = _grid(len(shown), sharey=True)
    drawn = []
    for axes, value in zip(grid, shown, strict=True):
        part = table[table[columns] == value]
        found = _lines(part, "epoch", y, lines, looks, f"learning curves, {columns}={_text(value)}")
        for line, dodge in _dodged(found):
            _draw(axes, line, dodge, every=max(1, len(line.points) // 8), dots=False)
            _label(axes, line, dodge)
        _title(axes, f"{_plain(columns)} {_text(value)}", found)
        _dress_x(axes, "epoch", table["epoch"], "linear")
        _mark_lost(axes, found)
        axes.set_ylabel(AXIS_LABELS.get(y, y))
        axes.label_outer()
        drawn += found
    _limit_y(grid, drawn, y)
    subset = f"Shown: {len(shown)} of {len(values)} values of {_plain(columns)}." if len(shown) < len(values) else ""
    _finish(figure, [f"{_key_text(drawn, dots=False)} {subset}", _left_out_text([status])], footer)
    return figure


@_style()
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
    name = "cost figure"
    rows = _select(runs.reset_index(drop=True), where, name)
    _column(rows, y, name)
    looks = _looks(_column(rows, lines, name).unique())
    status, rows = _statuses(rows, y), _counted(rows, y)
    if rows.empty:
        raise _nothing(name, status.to_frame("status"), where)
    scale, place = _scale(_column(rows, x, name))
    costs = {column: pd.to_numeric(rows[column]) for column in ("ms_per_step", "seconds", "peak_memory_mb")}
    rows = rows.assign(_x=place(rows[x]), **costs)
    rows["_ms"], rows["_seconds"] = rows["ms_per_step"] / rows["stack"], rows["seconds"] / rows["stack"]
    rows["_median_seconds"] = rows.groupby([lines, "_x"])["_seconds"].transform("median")
    figure, grid = _grid(3)
    costs = rows.assign(status="finished")  # a × belongs to an accuracy, not to a cost
    for axes, column, title, unit in (
        (grid[0], "_ms", "Time", "ms per step and replicate (log scale)"),
        (grid[1], "peak_memory_mb", "Memory", AXIS_LABELS["peak_memory_mb"]),
    ):
        drawn = _lines(costs.dropna(subset=column), "_x", column, lines, looks, name, _median_and_range)
        for line, dodge in _dodged(drawn, 1.2):
            _draw(axes, line, dodge, joined=scale != "text")
            _label(axes, line, dodge)
        _title(axes, title, drawn)
        _dress_x(axes, x, rows[x], scale)
        axes.set_ylabel(unit)
        if drawn:
            _limit_y([axes], drawn, column, log=column == "_ms")
        else:
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color="0.4")
            axes.set_yticks([])
    timed = rows.dropna(subset="_seconds")
    drawn = _lines(timed, "_median_seconds", y, lines, looks, name)
    _title(grid[2], "Accuracy against time", drawn)
    seconds = timed["_median_seconds"]
    wide = len(seconds) and seconds.max() > 8 * seconds.min()
    _dress_x(grid[2], "training time per replicate (s)", seconds, "log" if wide else "linear", ticks=False)
    sizes = timed.groupby("_median_seconds")["_x"].first().rank(method="dense") if scale != "text" else None
    for line, dodge in _dodged(drawn, 1.2):
        _draw(grid[2], line, dodge, joined=scale != "text", dots=False, band=False, sizes=sizes)
        _label(grid[2], line, dodge)
    _mark_lost(grid[2], drawn)
    grid[2].set_ylabel(AXIS_LABELS.get(y, y))
    _limit_y(grid[2:], drawn, y)
    small = f"The larger the marker, the larger the {_plain(x)}." if scale != "text" else ""
    key = "Time and memory: median and range. Accuracy: mean and 95 % t interval against the median time."
    _finish(figure, [f"{key} {small} {_lost_text(drawn)}", _left_out_text([status])], footer)
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


@_style()
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


@dataclass(frozen=True)
class _Line:
    """A mean along x.

    points: a row a point, by x: x, estimate, low, high, n, lost (how many diverged), chance (where those stand).
    values: (replicates, 2), x and y of the finished ones. second: the word of an `also`.
    """

    label: str
    style: Style
    points: pd.DataFrame
    values: np.ndarray
    second: str = ""


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
        return ",".join(map(_text, wanted)) if is_list_like(wanted) else _text(wanted)

    return " ".join(f"{column}={one(wanted)}" for column, wanted in (where or {}).items())


def _text(value) -> str:
    """A cell as it is typed: 128 rather than 128.0, null for an empty one."""
    if pd.isna(value):
        return "null"
    return str(value) if isinstance(value, (str, bool, np.bool_)) else f"{value:g}"


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
) -> list[_Line]:
    """A line for each label, in the order of `looks`. rows: counted ones, all with x and y."""
    keys = rows[by].map(_text)
    spoken = {key: f"{_plain(by)} {key}" if is_numeric_dtype(rows[by]) else key for key in keys.unique()}
    if not isinstance(names, str):
        spoken |= {_text(value): name for value, name in names.items()}
    labels = keys.map(spoken) if not isinstance(names, str) else pd.Series(names, rows.index)
    order = {key: i for i, key in enumerate(looks)}
    lines = []
    for label in sorted(labels.unique(), key=lambda label: min(order[key] for key in keys[labels == label])):
        mine = rows[labels == label]
        points = []
        for at, group in mine.groupby(x):
            _check_one_configuration(group, f"{name}: a point of {label}")
            lost = group.loc[group["status"] == "diverged", y]
            points.append((at, *astuple(summarize(group[y].to_numpy(float))), len(lost), lost.mean()))
        lines.append(
            _Line(
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


# Drawing


def _looks(values: Iterable) -> dict[str, Style]:
    """A style for each value: a method's own, for anything else those left over, in turn."""
    names = list(dict.fromkeys(map(_text, values)))
    looks = {name: STYLES[name] for name in STYLES if name in names}
    spare = [style for name, style in STYLES.items() if name not in looks] or list(STYLES.values())
    return looks | dict(zip((name for name in names if name not in STYLES), cycle(spare), strict=False))


def _grid(panels: int, sharey: bool = False) -> tuple[Figure, list]:
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


def _sweep_panel(axes, runs: pd.DataFrame, panel: dict, looks: dict[str, Style]) -> tuple[list[_Line], list[pd.Series]]:
    """Draws one panel; returns its lines and the statuses of the rows that it was to draw."""
    name, x, y, by, where = panel["name"], panel["x"], panel["y"], panel["lines"], panel.get("where")
    names = panel.get("as") or {}
    selected = _select(runs, where, name)
    _column(selected, y, name)
    statuses, rows = [_statuses(selected, y)], _counted(selected, y)
    if rows.empty:  # of a study in part: the note below the figure says what is missing
        _title(axes, panel.get("title", ""), [])
        words = "no runs" if selected.empty else "nothing finished yet"
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", color="0.4")
        return [], statuses
    if _column(rows, x, name).isna().any():
        without = ", ".join(sorted(rows.loc[rows[x].isna(), by].map(_text).unique()))
        raise UserError(f"{name}: {without} without a value of {x}; draw that under horizontal")
    scale, place = _scale(rows[x])
    rows = rows.assign(_x=place(rows[x]))
    lines = _lines(rows, "_x", y, by, looks, name, names=names)
    for column, word in (panel.get("also") or {}).items():
        _column(rows, column, name)
        lines += _lines(_counted(rows, column), "_x", column, by, looks, name, names=names, second=word)
    _dress_x(axes, x, rows[x], scale)
    for line, dodge in _dodged(lines) if x != by else [(line, 6 if line.second else 0) for line in lines]:
        _draw(axes, line, dodge, joined=scale != "text")
        if x != by:  # else the category below is its name
            _label(axes, line, dodge)
    _mark_lost(axes, lines)
    levels = []
    if panel.get("horizontal"):
        selected = _select(runs, panel["horizontal"], name)
        statuses.append(_statuses(selected, y))
        counted = _counted(selected, y)
        named = {} if isinstance(names, str) else names
        levels = _lines(counted.assign(_x=axes.get_xlim()[1]), "_x", y, by, looks, name, names=named)
    for line in levels:
        _draw_level(axes, line)
        _label(axes, line)
    _title(axes, panel.get("title", ""), lines + levels)
    if axes.get_subplotspec().is_first_col():
        axes.set_ylabel(AXIS_LABELS.get(y, y))
    return lines + levels, statuses


def _dodged(lines: list[_Line], step: float = 3) -> list[tuple[_Line, float]]:
    """Each line and how far to draw it to the right, in points: bars at one place would hide each other."""
    step = min(step, 12 / max(1, len(lines)))
    return [(line, step * (i - (len(lines) - 1) / 2)) for i, line in enumerate(lines)]


def _shifted(axes, right: float = 0, up: float = 0, start=None):
    """Data coordinates (or those of `start`), shifted by so many points."""
    return (start or axes.transData) + ScaledTranslation(right / 72, up / 72, axes.figure.dpi_scale_trans)


def _draw(
    axes,
    line: _Line,
    dodge: float = 0,
    *,
    joined: bool = True,
    band: bool = True,
    dots: bool = True,
    every: int = 1,
    sizes: pd.Series | None = None,
) -> None:
    """A line with its band, bars and replicates.

    every: markers at every n-th point. sizes: x → rank; larger markers for higher ranks, and joined from high to low.
    """
    points, colour = line.points, line.style.colour
    if sizes is not None:
        points = points.sort_values("x", key=lambda x: -x.map(sizes))
    look = {"color": colour, "transform": _shifted(axes, dodge)}
    if joined and band:
        axes.fill_between(points.x, points.low, points.high, alpha=0.12, lw=0, label=f"_band {line.label}", **look)
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


def _draw_level(axes, line: _Line) -> None:
    """One value across the panel, its marker and bar on the right edge, where no x is."""
    point, look = line.points.iloc[0], {"color": line.style.colour}
    axes.axhspan(point.low, point.high, alpha=0.1, lw=0, label=f"_band {line.label}", **look)
    axes.axhline(point.estimate, lw=1.2, ls=line.style.pattern, label=line.label, zorder=2.5, **look)
    axes.vlines(point.x, point.low, point.high, lw=0.8, clip_on=False, label=f"_bars {line.label}", **look)
    axes.plot(point.x, point.estimate, line.style.marker, ms=4.5, clip_on=False, label=f"_end {line.label}", **look)


def _mark_lost(axes, lines: list[_Line]) -> None:
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


def _label(axes, line: _Line, dodge: float = 0) -> None:
    """The line's name right of the axes, at the height of its last point; `_finish` moves those apart that overlap."""
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


def _title(axes, title: str, lines: list[_Line]) -> None:
    """The title, and below it the number of replicates: of every point, or the least and the most."""
    axes.set_title(textwrap.fill(title, 60), pad=14)
    counts = [n for line in lines for n in line.points.n]
    if counts:
        low, high = min(counts), max(counts)
        text = f"n = {low} per point" if low == high else f"n = {low}–{high} per point"
        place = _shifted(axes, up=4, start=axes.transAxes)
        axes.text(0, 1, text, transform=place, fontsize=7, color="0.35", label="n")


def _scale(values: pd.Series) -> tuple[str, Callable[[pd.Series], pd.Series]]:
    """The axis that suits the values, and a function to their places on it.

    `text`; `log` for batch sizes and where each is the smallest times a power of 2; else `linear`.
    """
    if is_bool_dtype(values) or not is_numeric_dtype(values):
        names = {name: i for i, name in enumerate(dict.fromkeys(values.map(_text)))}
        return "text", lambda cells: cells.map(_text).map(names)
    if values.name in ("batch_size", "stats_batch"):
        return "log", lambda cells: cells
    doublings = np.log2(values / values.min()) if values.min() > 0 else np.array([0.5])
    return ("log" if np.allclose(doublings, np.round(doublings)) else "linear"), lambda cells: cells


def _dress_x(axes, name: str, values: pd.Series, scale: str, ticks: bool = True) -> None:
    """Label, ticks and limits. ticks: at the values themselves, on a log axis."""
    label = AXIS_LABELS.get(name, name)
    if scale == "text":
        places = list(dict.fromkeys(values.map(_text)))
        slant = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(places) > 4 else {}
        axes.set_xticks(range(len(places)), places, **slant)
        axes.set_xlim(-0.5, len(places) - 0.5)
    elif scale == "log":
        label = f"{label[:-1]}, log scale)" if label.endswith(")") else f"{label} (log scale)"
        axes.set_xscale("log", base=2 if ticks else 10)
        low, high = values.min(), values.max()
        margin = (high / low) ** 0.06 if high > low else 1.5
        axes.set_xlim(low / margin, high * margin)
        if ticks:
            places = sorted(values.unique())
            axes.set_xticks(places, [_text(place) for place in places])
            axes.minorticks_off()
        else:
            _plain_ticks(axes.xaxis)
    elif len(values):
        margin = 0.06 * (values.max() - values.min()) or 0.5
        axes.set_xlim(values.min() - margin, values.max() + margin)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=bool((values % 1 == 0).all()), steps=[1, 2, 5, 10]))
    axes.set_xlabel(label)


def _plain_ticks(axis) -> None:
    """Digits on a log axis: 1, 2, 5, 10, …, or round steps where it spans too little for those."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 8 * low else MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _text(value)))
    axis.set_minor_locator(NullLocator())


def _limit_y(grid: list, lines: list[_Line], y: str, log: bool = False) -> None:
    """Everything drawn fits, and no accuracy axis leaves 0 to 100, however wide an interval."""
    points = [line.points[["estimate", "low", "high", "chance"]].to_numpy().ravel() for line in lines]
    values = np.concatenate(points + [line.values[:, 1] for line in lines])
    low, high = np.nanmin(values), np.nanmax(values)
    if log:
        margin = (high / low) ** 0.08 * 1.05
        low, high = low / margin, high * margin
    else:
        margin = 0.06 * (high - low) or 1.0
        low, high = low - margin, high + margin
    if "_acc" in y:
        low, high = max(low, 0), min(high, 100)
    for axes in grid:
        if log:
            axes.set_yscale("log")
        axes.set_ylim(low, high)
        if log:
            _plain_ticks(axes.yaxis)


# Words and layout


def _plain(column: str) -> str:
    """The column in words, without its unit."""
    return AXIS_LABELS.get(column, column).split(" (")[0]


def _key_text(lines: list[_Line], dots: bool = True) -> str:
    if all(n == 1 for line in lines for n in line.points.n):
        return f"One replicate a point: no interval. {_lost_text(lines)}"
    what = "mean over n replicates (small dots)" if dots else "mean over n replicates"
    seconds = ", ".join(sorted({line.second for line in lines if line.second}))
    opened = f"Open markers: {seconds}. " if seconds else ""
    return f"Markers: {what}; bands and bars: 95 % t interval of the mean. {opened}{_lost_text(lines)}"


def _lost_text(lines: list[_Line]) -> str:
    lost = any((line.points.lost > 0).any() for line in lines)
    return "× k: k replicates diverged; they count in the mean, at chance." if lost else ""


def _left_out_text(statuses: list[pd.Series]) -> str:
    """`3 of 140 replicates not counted: 2 missing, 1 failed.`, each row of `runs` once; empty if all were counted."""
    status = pd.concat(statuses)
    status = status[~status.index.duplicated()]
    counts = status[~status.isin(COUNTED)].value_counts()
    words = ", ".join(f"{n} {word}" for word, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return f"{counts.sum()} of {len(status)} replicates not counted: {words}." if len(counts) else ""


def _finish(figure: Figure, notes: list[str], footer: str) -> None:
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
