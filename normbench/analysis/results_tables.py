"""What the replicates of every arm came to, in the tables of summary.md: results, further outcomes, differences."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from normbench.analysis.cells import (
    FEW,
    told,
    told_interval,
    told_mean,
    told_mean_of,
    told_p,
    told_p_range,
)
from normbench.analysis.columns import of_configuration
from normbench.analysis.evidence import counted, measured
from normbench.analysis.means import FEWEST
from normbench.analysis.statistics import (
    FEWEST_RESAMPLED,
    Interval,
    bca_interval,
    paired,
    probability_of_improvement,
    t_interval,
    t_test,
)
from normbench.records.metrics import (
    HEADLINE,
    MEASUREMENTS,
    OBJECTIVE,
    PEAK_MEMORY,
    SPLITS,
    Outcome,
    of_measurements,
    outcome_of,
)
from normbench.words import literal, markdown, typed

BASELINE = "batch"  # the method that the paired differences are taken from
# Above the results of a training, and of anything else.
TRAINED = (
    "Accuracy in percent after the last epoch: mean ± half-width of the 95 % t interval over the replicates. A "
    "diverged replicate counts at chance. Memory: the process's peak on a CPU, the device's on a GPU."
)
MEASURED = "Mean ± half-width of the 95 % t interval over the replicates."
GEOMETRIC = "Of what is compared by its ratios: the geometric mean with its interval."
Head = str
Cell = Callable[[pd.DataFrame], str]  # of the rows of an arm that count
# From the rows of a method and of the baseline to an interval that has the sampling of test images in it, too.
ImagesInterval = Callable[[pd.DataFrame, pd.DataFrame], Interval | None]


def settings(runs: pd.DataFrame) -> list[str]:
    """The columns by which the runs of a table differ: what a row of its summary is about."""
    columns = of_configuration(runs)
    differing = [column for column in columns if column == "method" or runs[column].nunique(dropna=False) > 1]
    plain = runs["stats_batch"].isna() | (runs["stats_batch"] == runs["batch_size"])
    told = "stats_batch" if plain.all() else "norm.ghost_size"  # one says what the other does
    return [column for column in differing if column != told]


def arms(runs: pd.DataFrame) -> list[str]:
    """The columns by whose values the rows of a table are grouped."""
    keys = settings(runs)
    twice = runs.duplicated([*keys, "seed"], keep=False).any()
    return [*keys, "run_id"] if twice else keys  # runs that differ in their seeds alone: each is a row of its own


def judged(runs: pd.DataFrame) -> str:
    """The accuracy that trainings are compared by: of the test images, or of validation in a table without those."""
    return next((name for name in (HEADLINE, OBJECTIVE) if name in runs), "")


def few(over: pd.DataFrame, keys: list[str]) -> str:
    """The sentence on arms that have no means; empty where there are none such."""
    return FEW if over.groupby(keys, dropna=False).size().lt(FEWEST).any() else ""


def results(runs: pd.DataFrame) -> str:
    """The accuracies; of runs that have none, the outcomes that they have."""
    keys = arms(runs)
    if judged(runs):
        columns, text = _accuracies(runs), TRAINED
        if "BCa, test" in columns:
            text += f" BCa: bootstrap interval of the test accuracy, of {FEWEST_RESAMPLED} replicates or more."
    else:
        shown = _outcomes(runs, "further")
        columns, text = _cells(shown), _notes(shown)
    text, rows = text + few(counted(runs), keys), []
    for values, group in runs.groupby(keys, sort=False, dropna=False):
        over = counted(group)
        rows.append([*_values(values), str(len(over)), _status(group), *(cell(over) for cell in columns.values())])
    return f"{text}\n\n{markdown([*keys, 'n', 'status', *columns], 'l' * len(keys) + 'rl' + 'r' * len(columns), rows)}"


def further(runs: pd.DataFrame) -> str:
    """Calibration and what a study asked for besides; empty where there is none of it."""
    over = counted(runs)
    shown = _outcomes(over, "further")
    return _table(over, arms(runs), _cells(shown), _notes(shown)) if judged(runs) and shown else ""


def views(runs: pd.DataFrame) -> str:
    """What averaging over views did to the accuracy; empty where no run did."""
    accuracy, over = judged(runs), counted(runs)
    if not measured(over, [f"{accuracy}_tta"]):
        return ""
    ece = accuracy.replace("acc", "ece")
    split = SPLITS[accuracy.split("_")[0]]
    columns: dict[Head, Cell] = {
        split: lambda group: told_mean(group[accuracy]),
        f"{split}, TTA": lambda group: told_mean(group[f"{accuracy}_tta"]),
        "difference": lambda group: told_mean(group[f"{accuracy}_tta"] - group[accuracy], sign="+"),
        "ECE": lambda group: told_mean_of(group[ece]),
        "ECE, TTA": lambda group: told_mean_of(group[f"{ece}_tta"]),
    }
    text = (
        f"TTA: outputs averaged over several views of each {split} image, beside the plain evaluation. Means ± "
        "half-width of the 95 % t interval."
    )
    if accuracy == HEADLINE:
        columns |= {
            "turned right": lambda group: f"{group['tta_gained'].sum():.0f}",
            "turned wrong": lambda group: f"{group['tta_lost'].sum():.0f}",
            "McNemar": lambda group: told_p_range(group["tta_p"].dropna()),
        }
        text += (
            " Turned right, turned wrong: test images, summed over the replicates. McNemar: exact p of each "
            "replicate, the least and the greatest, not corrected; they share their images and are not pooled."
        )
    return _table(over[over[f"{accuracy}_tta"].notna()], arms(runs), columns, text)


def differences(runs: pd.DataFrame, images: ImagesInterval | None = None) -> str:
    """Each method against the baseline of the same other settings, seed by seed; empty where there is none.

    images: see `ImagesInterval`; asked where there are seeds enough to be drawn anew, and None for rows that it does
    not know.
    """
    accuracy, over = judged(runs), counted(runs)
    if not accuracy or BASELINE not in set(over["method"]) or over["method"].nunique() < 2:
        return ""
    keys, rows, several = _beside_the_method(runs, over), [], []
    for values, group in over.groupby(keys, sort=False, dropna=False) if keys else [((), over)]:
        base = group[group["method"] == BASELINE]
        for method, arm in group[group["method"] != BASELINE].groupby("method", sort=False):
            if cells := _difference(arm, base, accuracy, images):
                rows.append([*_values(values), f"{literal(method)} − {BASELINE}", *cells])
            several += [name for name, some in ((method, arm), (BASELINE, base)) if some["seed"].duplicated().any()]
    left_out = f"No difference where a seed has several rows: {', '.join(dict.fromkeys(several))}." if several else ""
    if not rows:
        return left_out
    unit = f"{outcome_of(accuracy).words}, points [95 % t]"
    head = [*keys, "difference", "n", unit, "seeds × images [95 %]", "p", f"P(method > {BASELINE}) [95 %]"]
    if all(row[-3] == "–" for row in rows):
        head, rows = _without(head, -3), [_without(row, -3) for row in rows]
    text = "Seed by seed, at the same other settings; p is two-sided and not corrected." + few(over, arms(over))
    text = f"{text} {left_out}".rstrip()
    return f"{text}\n\n{markdown(head, 'l' * len(keys) + 'l' + 'r' * (len(head) - len(keys) - 1), rows)}"


# --- Columns. ---------------------------------------------------------------------------------------------------------


def _outcomes(runs: pd.DataFrame, table: str) -> list[Outcome]:
    """The outcomes of one table of summary.md that the runs have: what a study asked for besides comes last."""
    found = [outcome for outcome in of_measurements(MEASUREMENTS) if outcome.table == table]
    found = [o for o in found if o.name in runs and measured(runs, [o.sought or o.name])]
    return sorted(found, key=lambda outcome: bool(outcome.reached or outcome.sought))


def _accuracies(runs: pd.DataFrame) -> dict[Head, Cell]:
    columns = {o.title: lambda over, o=o: told_mean(over[o.name].dropna()) for o in _outcomes(runs, "results")}
    if HEADLINE in runs and counted(runs).groupby(arms(runs), dropna=False).size().ge(FEWEST_RESAMPLED).any():
        columns["BCa, test"] = lambda over: _bca(over[HEADLINE].dropna())
    return columns | {"memory, MB": lambda over: told(PEAK_MEMORY, over)}


def _cells(outcomes: list[Outcome]) -> dict[Head, Cell]:
    return {outcome.title: lambda over, outcome=outcome: told(outcome, over) for outcome in outcomes}


def _notes(outcomes: list[Outcome]) -> str:
    """What there is to say of them, each once."""
    notes = [outcome.note or MEASURED for outcome in outcomes]
    if any(outcome.scale == "log" and outcome.median is None for outcome in outcomes):
        notes.append(GEOMETRIC)
    return " ".join(dict.fromkeys(notes))


def _bca(values: pd.Series) -> str:
    if len(values) < FEWEST_RESAMPLED:
        return "–"
    found = bca_interval(values, np.random.default_rng(0))
    return f"[{found.low:.2f}, {found.high:.2f}]"


def _status(group: pd.DataFrame) -> str:
    """What became of the replicates of an arm."""
    counts = group["status"].value_counts()
    status = counts.index[0] if len(counts) == 1 else ", ".join(f"{n} {word}" for word, n in counts.items())
    return status + (", **of several commits**" if counted(group)["commit"].nunique(dropna=False) > 1 else "")


def _table(over: pd.DataFrame, keys: list[str], columns: dict[Head, Cell], text: str) -> str:
    """A row an arm: its values, n, and the cells."""
    rows = [
        [*_values(values), str(len(group)), *(cell(group) for cell in columns.values())]
        for values, group in over.groupby(keys, sort=False, dropna=False)
    ]
    text += few(over, keys)
    return f"{text}\n\n{markdown([*keys, 'n', *columns], 'l' * len(keys) + 'r' * (len(columns) + 1), rows)}"


def _values(values: tuple) -> list[str]:
    return [literal(typed(value, empty="–")) for value in values]


# --- Differences. -----------------------------------------------------------------------------------------------------


def _beside_the_method(runs: pd.DataFrame, over: pd.DataFrame) -> list[str]:
    """The settings that two methods have to share to be compared."""
    keys = [key for key in settings(runs) if key not in ("method", "stats_batch", "lr") and not key.startswith("norm.")]
    # A method's rate is its own affair, unless it was tried at several.
    several = over.groupby([*keys, "method"], dropna=False)["lr"].nunique().gt(1).any()
    return [*keys, "lr"] if several else keys


def _difference(arm: pd.DataFrame, base: pd.DataFrame, accuracy: str, images: ImagesInterval | None) -> list[str]:
    """n, the difference with its interval, that over images, p, and how probably the method is the better one."""
    a, b = _by_seed(arm, accuracy), _by_seed(base, accuracy)
    if a is None or b is None:  # several rows a seed: the method's own options differ
        return []
    found, _ = paired(a, b)
    n = len(found)
    if n < FEWEST:
        return [str(n), ", ".join(f"{value:+.2f}" for value in found), "–", "–", "–"] if n else []
    drawn = images(arm, base) if images and n >= FEWEST_RESAMPLED else None
    return [
        str(n),
        told_interval(t_interval(found), "+.2f"),
        f"[{drawn.low:+.2f}, {drawn.high:+.2f}]" if drawn else "–",
        told_p(min(1.0, 2 * min(t_test(found)))),
        told_interval(probability_of_improvement(a, b), ".2f"),
    ]


def _by_seed(rows: pd.DataFrame, accuracy: str) -> pd.Series | None:
    values = rows.set_index("seed")[accuracy]
    return None if values.empty or values.index.duplicated().any() else values


def _without(row: list[str], place: int) -> list[str]:
    place %= len(row)
    return [*row[:place], *row[place + 1 :]]
