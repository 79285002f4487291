"""The panels of a figure: what a study's file says of one, and those of runs that no study describes."""

from collections.abc import Mapping

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from normbench.analysis.columns import of_configuration
from normbench.analysis.evidence import measured
from normbench.analysis.lines import where_text, with_values
from normbench.analysis.results_tables import judged
from normbench.errors import UserError, choices_text
from normbench.records.metrics import HEADLINE, MEASUREMENTS, OBJECTIVE, of_measurements
from normbench.words import typed

FIGURES = ("panels", "curves")  # what a study's file may say under `figure`
PANEL_KEYS = ("title", "where", "x", "y", "also", "beside", "lines", "as", "band", "horizontal", "marks", "published")
BANDS = ("pointwise", "simultaneous")


def figures_of(said: Mapping | None) -> dict:
    """What a study's file says under `figure`. Raises UserError for a figure that there is not."""
    for key in said or {}:
        if key not in FIGURES:
            raise UserError(f"figure.{key}: unknown key; {choices_text(key, FIGURES)}")
    return dict(said or {})


def checked(panel: Mapping, number: int, runs: pd.DataFrame) -> dict:
    """The panel with its defaults and a name for error messages. runs: of what is to be drawn."""
    name = f"figure panel {panel.get('title') or number!r}"
    for key in panel:
        if key not in PANEL_KEYS:
            raise UserError(f"{name}: {key}: unknown key; {choices_text(key, PANEL_KEYS)}")
    if "x" not in panel:
        raise UserError(f"{name}: x is missing: the column along the x axis")
    if (band := panel.get("band", "pointwise")) not in BANDS:
        raise UserError(f"{name}: band={typed(band)}: {choices_text(band, BANDS)}")
    return {"name": name, "y": judged(runs) or HEADLINE, "lines": "method", "band": band} | dict(panel)


def default_panels(runs: pd.DataFrame) -> list[dict]:
    """Panels for runs that no study describes.

    Methods that vary most in the same numeric column share a panel along it; those that vary in nothing are drawn
    across the first. Where further settings differ, each combination of them gets a panel. Without a numeric column
    that varies, the methods are the categories of the x axis. Raises UserError where nothing finished.
    """
    runs = with_values(runs, "status")
    if runs.empty:
        raise UserError("figure: no replicate finished, nothing to draw")
    shown = [outcome.name for outcome in of_measurements(MEASUREMENTS) if outcome.table]
    y = next(iter(measured(runs, (HEADLINE, OBJECTIVE, *shown))), OBJECTIVE)
    if y not in runs:
        raise UserError("figure: no replicate has an outcome with a value, nothing to draw")
    runs = with_values(runs, y)
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
    title = where_text({key: value for key, value in where.items() if key != "method"})
    panel = {"title": title, "where": where, "x": x, "y": y}
    if y == HEADLINE and measured(rows, ["test_acc_precise"]):
        panel["also"] = {"test_acc_precise": "precise statistics"}
    return panel
