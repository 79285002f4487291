"""From the rows of a table to the lines of a figure, and to the note below it."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from types import MappingProxyType

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from normbench.analysis.columns import of_configuration, plain
from normbench.analysis.drawing import POINTS, Line
from normbench.analysis.evidence import censored, concerning, listed, select
from normbench.analysis.looks import Look
from normbench.analysis.means import FEWEST, mean_of
from normbench.analysis.rates import RATE, edges
from normbench.errors import UserError, choices_text
from normbench.records.metrics import OBJECTIVE, OVER, outcome_of
from normbench.words import typed


def column_of(table: pd.DataFrame, column: str, name: str) -> pd.Series:
    """A column of the table. name: of the panel or figure, for the UserError where the table lacks it."""
    if column not in table:
        raise UserError(f"{name}: {column}: no such column; {choices_text(column, table.columns)}")
    return table[column]


Where = Mapping | Sequence[Mapping] | None  # a selection, or several of which a row is to be in one


def rows_of(runs: pd.DataFrame, where: Where, name: str) -> pd.DataFrame:
    """The rows that `evidence.select` selects, in their order. name: of the panel or figure, for its errors."""

    def lacks(column, _):
        return UserError(f"{name}: {column}: no such column; {choices_text(column, runs.columns)}")

    if where is None or isinstance(where, Mapping):
        return select(runs, where, lacks)
    chosen = [select(runs, one, lacks).index for one in where]
    return runs[runs.index.isin(chosen[0].append(chosen[1:]))]


def where_text(where: Where) -> str:
    """`method=batch,none lr=0.1`."""
    if where is not None and not isinstance(where, Mapping):
        return " or ".join(map(where_text, where))
    return " ".join(f"{column}={','.join(map(typed, listed(value)))}" for column, value in (where or {}).items())


def statuses_of(rows: pd.DataFrame, y: str) -> pd.Series:
    """The status of each row; `finished without test_loss` where it counts but has no y."""
    lacking = rows["status"].isin(OVER) & rows[y].isna()
    return rows["status"].where(~lacking, rows["status"] + f" without {y}")


def with_values(rows: pd.DataFrame, y: str) -> pd.DataFrame:
    """The rows that count and have a value of y."""
    return rows[rows["status"].isin(OVER) & rows[y].notna()]


def nothing(name: str, rows: pd.DataFrame, where: Where) -> UserError:
    """The mistake that there is nothing to draw, with what became of the rows that were selected."""
    if rows.empty:
        return UserError(f"{name}: no run has {where_text(where)}" if where else f"{name}: there are no runs")
    counts = ", ".join(f"{n} {status}" for status, n in rows["status"].value_counts().items())
    return UserError(f"{name}: nothing finished {f'with {where_text(where)} ' if where else ''}({counts})")


def lines_of(
    rows: pd.DataFrame,
    x: str,
    y: str,
    by: str,
    looks: dict[str, Look],
    name: str,
    names: str | Mapping = MappingProxyType({}),
    second: str = "",
    together: bool = False,
) -> list[Line]:
    """A line for each label, in the order of `looks`. rows: counted ones, all with x and y.

    together: its band holds for all of its points at once. Šidák 1967, doi 10.1080/01621459.1967.10482935: k
    intervals that each hold with 0.95^(1/k).
    """
    scale = outcome_of(y).scale
    keys = rows[by].map(typed)
    spoken = {key: f"{plain(by)} {key}" if is_numeric_dtype(rows[by]) else key for key in keys.unique()}
    if not isinstance(names, str):
        spoken |= {typed(value): name for value, name in names.items()}
    labels = keys.map(spoken) if not isinstance(names, str) else pd.Series(names, rows.index)
    order = {key: i for i, key in enumerate(looks)}
    lines = []
    for label in sorted(labels.unique(), key=lambda label: min(order[key] for key in keys[labels == label])):
        mine = rows[labels == label]
        points, level = [], 0.95 ** (1 / mine[x].nunique() if together else 1)
        for place, group in mine.groupby(x):
            check_one_configuration(group, f"{name}: a point of {label}")
            lost = group.loc[group["status"] == "diverged", y]
            values = group[y].to_numpy(float)
            band = mean_of(values, scale, level)
            points.append((place, *astuple(mean_of(values, scale)), len(lost), lost.mean(), band.low, band.high))
        lines.append(
            Line(
                f"{label}, {second}" if second else label,
                looks[min(keys[labels == label], key=order.get)],
                pd.DataFrame(points, columns=POINTS),
                mine.loc[mine["status"] == "finished", [x, y]].to_numpy(float),
                second,
            )
        )
    return lines


def told_apart(lines: list[Line]) -> list[Line]:
    """The same, with another pattern for each further word."""
    words = list(dict.fromkeys(line.second for line in lines if line.second))
    return [replace(line, turn=words.index(line.second)) if line.second else line for line in lines]


def check_one_configuration(rows: pd.DataFrame, name: str) -> None:
    """A mean over replicates is one over seeds alone."""
    differing = [column for column in of_configuration(rows) if rows[column].nunique(dropna=False) > 1]
    if differing:
        raise UserError(f"{name} would average over runs that differ in {', '.join(differing)}; choose with where")
    if rows["seed"].duplicated().any():
        raise UserError(f"{name} has the same seed twice; choose with where")


def pairs(table: pd.DataFrame) -> pd.MultiIndex:
    """The replicate of each row."""
    return pd.MultiIndex.from_frame(table[["run_id", "seed"]])


def per_epoch(curves: pd.DataFrame, runs: pd.DataFrame, y: str) -> pd.DataFrame:
    """`curves` with the settings of each run; diverged replicates at chance from their epoch on, marked once.

    Where it has steps, for a run was validated between epochs as well, those places are fractions of an epoch.
    """
    runs, whole = runs[runs["status"].isin(OVER)], curves
    settings = runs[["run_id", "seed", "status", "diverged_epoch", *of_configuration(runs)]]
    column_of(curves, y, "learning curves")
    curves = curves[["run_id", "seed", "epoch", y]].assign(_place=_places(curves))
    table = curves.merge(settings, on=["run_id", "seed"])
    alive = (table["status"] == "finished") | (table["epoch"] < table["diverged_epoch"])
    table["epoch"] = table.pop("_place")
    table = table[alive].assign(status="finished")
    if outcome_of(y).chance is None:
        return table.dropna(subset=y)
    flat = []
    for row in runs[runs["status"] == "diverged"].to_dict("records"):
        epochs = np.arange(int(row["diverged_epoch"]), int(row["epochs"]) + 1)
        if "step" in whole:  # where the others stand too
            others = table.loc[table["run_id"] == row["run_id"], "epoch"]
            epochs = np.union1d(epochs, others[others > row["diverged_epoch"] - 1])
        status = np.where(epochs == epochs[0], "diverged", "at chance")
        row = {column: row[column] for column in settings} | {y: row[OBJECTIVE]}
        flat.append(pd.DataFrame(row | {"epoch": epochs, "status": status}))
    return pd.concat([table, *flat], ignore_index=True).dropna(subset=y)


def _places(curves: pd.DataFrame) -> pd.Series:
    """Where each row stands, in epochs."""
    if "step" not in curves:
        return curves["epoch"]
    # At an epoch's end, and nowhere else, it is as many steps as an epoch has.
    steps_per_epoch = (curves["step"] / curves["epoch"]).groupby(curves["run_id"]).transform("max")
    return curves["step"] / steps_per_epoch


# The note below a figure


def key_text(lines: list[Line], y: str, dots: bool = True, together: bool = False) -> str:
    """What markers, bands and bars are. together: whether bands hold for all points of a line at once."""
    seconds = ", ".join(sorted({line.second for line in lines if line.second}))
    opened = f" Open markers: {seconds}." if seconds else ""
    single = [one for line in lines for one in line.single]
    log, small = outcome_of(y).scale == "log", " (small dots)" if dots else ""
    ends = "bars: its 95 % t interval; bands: 95 % for all of a line (Šidák)" if together else ""
    ends = ends or "bands and bars: its 95 % t interval"
    what = f"Markers: {'geometric mean' if log else 'mean'} over n replicates{small}; {ends}."
    why = f"n < {FEWEST}{' or a value ≤ 0' if log else ''}"
    few = f"Markers: the replicates themselves, without an interval ({why}); lines join their medians."
    if any(single) and not all(single):
        few = few.replace("Markers:", "Where there is no bar:")
    return (few if all(single) else f"{what} {few}" if any(single) else what) + opened


def lost_text(lines: list[Line], y: str) -> str:
    """What a × is; empty where there is none."""
    lost = any((line.points.lost > 0).any() for line in lines)
    where = "at chance" if outcome_of(y).chance else "in the mean"
    return f"× k: k replicates diverged; they count {where}." if lost else ""


def censored_text(runs: pd.DataFrame, statuses: list[pd.Series], y: str) -> str:
    """How many of the steps drawn are those of a whole training that did not reach its target."""
    status = pd.concat(statuses)
    drawn = runs.loc[status[status.isin(OVER)].index.unique()]
    never = censored(drawn, y).sum()
    return (
        f"{never} of {len(drawn)} replicates did not reach the target and count with all their steps." if never else ""
    )


def marks_text(columns: list[str]) -> str:
    """What the marks on top are; empty where there are none."""
    what = " and ".join(dict.fromkeys(map(plain, columns)))
    return f"On top: {what} of each replicate that has one, and how many have." if columns else ""


def edges_text(runs: pd.DataFrame, panels: list[Mapping]) -> str:
    """Which lines over rates have the best one at the edge of their grid; empty where there are none."""
    told = []
    for panel in panels:
        if panel["x"] == RATE:
            rows = concerning(rows_of(runs, panel.get("where"), panel["name"]), OBJECTIVE)
            of_line = edges(rows, panel["lines"])
            for edge in dict.fromkeys(of_line.values()):
                where = f" in {' '.join(panel['title'].split())!r}" if panel.get("title") and len(panels) > 1 else ""
                told.append(f"{', '.join(line for line in of_line if of_line[line] == edge)} ({edge}{where})")
    return f"Best rate, by validation, at the edge of its grid: {'; '.join(told)}." if told else ""


def left_out_text(statuses: list[pd.Series]) -> str:
    """`3 of 140 replicates not counted: 2 missing, 1 failed.`, each row of `runs` once; empty if all were counted."""
    status = pd.concat(statuses)
    status = status[~status.index.duplicated()]
    counts = status[~status.isin(OVER)].value_counts()
    words = ", ".join(f"{n} {word}" for word, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return f"{counts.sum()} of {len(status)} replicates not counted: {words}." if len(counts) else ""
