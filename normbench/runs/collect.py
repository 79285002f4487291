"""From folders of runs to one table: a row a replicate, whatever became of it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from normbench.analysis.columns import CONFIGURATION, ENVIRONMENT, MEASUREMENT, RUNG, of_configuration
from normbench.analysis.evidence import best, counted
from normbench.analysis.rungs import Rung
from normbench.analysis.statistics import mcnemar
from normbench.config.checks import is_integer
from normbench.config.files import GROUPS, choices, default_leaves, study_file, study_names
from normbench.config.overrides import normalize, plan
from normbench.config.sizes import MOST_INTEGER
from normbench.errors import UserError
from normbench.facts import facts_of
from normbench.records.directory import RunDirectory
from normbench.records.metrics import (
    HEADLINE,
    OBJECTIVE,
    OVER,
    PEAK_MEMORY,
    of_measurements,
    whole,
)
from normbench.runs.halving import Halving, rungs_of
from normbench.runs.planned import Run, block, looks_of, runs_of
from normbench.runs.reuse import Reuse, reuse_of
from normbench.runs.seeds import Shelf, carried, placed
from normbench.runs.series import curves, series
from normbench.words import typed

# What a command says of its machine alone.
FOLDERS = r" (output|data\.root)=\S+"
WHOLE = (
    "seed",
    "batch_size",
    "train_size",
    "epochs",
    "threads",
)
# What tells runs of the same settings and seeds apart: which of them a row is of, where there are several.
REPEAT = "repeat"
# Not a column of its own: another one says it, or it is no setting.
UNNAMED = ("device", "evaluation.batch_size")  # of what a machine settles, what is part of no run's name
OWN = (*CONFIGURATION.values(), "stack", "seed", "replicates", "evaluation.suggest_lr")


@dataclass(frozen=True)
class Source:
    """Where rows come from: a run, or rows of an earlier table. leaves: of the configuration, as
    `seeds.leaves_of` has them.

    placed: the same with what its machine settled. seeds: those of the run that are meant, None for all. rows: those of
    the table. rung: of a halving, which it is on.
    """

    leaves: dict
    placed: dict
    directory: RunDirectory
    study: str | None = None
    seeds: frozenset[int] | None = None
    rows: tuple[dict, ...] = ()
    rung: int | None = None


@dataclass(frozen=True)
class Collection:
    """What there is of a study, or in a folder. reuse: the earlier tables, or None.

    unreadable: the folders of runs that are not in it, because they cannot be read, with the reason.
    """

    sources: list[Source]
    reuse: Reuse | None = None
    unreadable: Mapping[Path, str] = field(default_factory=dict)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row a replicate, in an order that the content fixes."""
        outcomes = [outcome.name for outcome in of_measurements(one.leaves[MEASUREMENT] for one in self.sources)]
        rows = [row for source in self.sources for row in _rows(source, outcomes)]
        differing = _differing([source.leaves for source in self.sources])
        known = ["study", "run_id", "seed", *CONFIGURATION, *differing, RUNG, REPEAT, "status", *outcomes]
        known += [PEAK_MEMORY.name, *ENVIRONMENT, "error"]
        table = pd.DataFrame(
            [{key: _scalar(row["leaves"].get(key)) for key in differing} | row for row in rows],
            columns=[*known[:-1], *_others(self.sources, known), "error"],
        )
        for column in (*WHOLE, RUNG, *whole(outcomes)):
            table[column] = table[column].astype("Int64")
        if table[RUNG].isna().all():
            del table[RUNG]
        table[REPEAT] = _repeats(table, [row["order"] for row in rows])
        if not table[REPEAT].gt(1).any():
            del table[REPEAT]
        if "regret" in outcomes:
            table["regret"] = _regret(table)
        return table

    @cached_property
    def curves(self) -> pd.DataFrame:
        """The learning curves of all trainings: a row an epoch and replicate."""
        return curves(self.sources, self.reuse)

    def numbers(self) -> pd.DataFrame:
        """The curves, whose cells are text, as reading their file gives them."""
        return self.curves.apply(lambda column: column if column.name == "run_id" else pd.to_numeric(column))

    @cached_property
    def series(self) -> pd.DataFrame:
        """The series of all probes: run_id and the columns of their metrics.csv."""
        return series(self.sources, self.reuse)

    @property
    def configurations(self) -> dict[str, dict]:
        """run_id → what its configuration is, as `placed` has it, of the runs that are there."""
        return {one.directory.path.name: one.placed for one in self.sources if one.rows or one.directory.path.is_dir()}


def collect(
    target: str, output: str = "outputs", overrides: Sequence[str] = (), reuse: Iterable[str] = ()
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables that `gather` finds: (runs, a row a replicate; curves, a row an epoch and replicate)."""
    found = gather(target, output, overrides, reuse)
    return found.runs, found.curves


def gather(
    target: str, output: str = "outputs", overrides: Sequence[str] = (), reuse: Iterable[str] = ()
) -> Collection:
    """The runs of a study, or every run in a folder.

    target: the name of a study (its runs are sought in the folder `output`; those never begun have status missing), or
    a folder of runs. overrides: those that the study was swept with. reuse: folders of results whose rows count as they
    are. Raises UserError where there is nothing to collect.
    """
    earlier = reuse_of(reuse)
    if target not in study_names() and Path(target).is_dir():
        if earlier:
            raise UserError(f"--reuse: {target} is a folder; the rows of a study alone are known to be of its runs")
        shelf = Shelf(target)
        found = [Source(_named_leaves(one.leaves), one.leaves, one.directory, one.study) for one in shelf.all()]
        if not found:
            raise UserError(f"{target}: no folder in it is a run{' that can be read' * bool(shelf.unreadable)}")
        return Collection(found, unreadable=shelf.unreadable)
    study_file(target)
    jobs, _, _ = plan(normalize([f"experiment={target}", f"output={output}", *overrides]), multirun=True)
    runs = runs_of(jobs)
    collection = of_runs(runs, looks_of(jobs), earlier, target, rungs_of(jobs))
    if all(row == "missing" for row in collection.runs["status"]):
        raise UserError(f"{output}: none of the {len(runs)} runs of {target} is there; sweep first, or give --output")
    return collection


def of_runs(
    runs: list[Run],
    looks: Sequence[int] = (),
    reuse: Reuse | None = None,
    study: str | None = None,
    rungs: Sequence[Rung] = (),
) -> Collection:
    """The Collection of planned runs, whatever runs have their seeds; of further looks the seeds that are there.

    rungs: those after the first of a halving, whose runs follow from what is there.
    """
    shelf, sources, taken = cache(Shelf), [], set()
    runs = carried(runs, reuse, shelf, reading=True)
    if rungs:
        for number, tried in enumerate(_climbed(runs, rungs, reuse, shelf), 1):
            found = [one for run in tried for one in _of_run(run, reuse, study, shelf, taken)]
            sources += [replace(one, rung=number) for one in found]
        return Collection(sources, reuse)
    for run in runs:
        sources += _of_run(run, reuse, study, shelf, taken)
        if looks[1:]:
            [further] = carried([block(run, run.config.seed, looks[-1])], reuse, shelf, reading=True)
            beyond = set(further.seeds).difference(run.seeds)
            sources += _reused(further, beyond, reuse, study, taken)
            sources += [one for one in _sources(further, beyond, shelf, study, taken) if one.directory.path.is_dir()]
    return Collection(sources, reuse)


def _climbed(runs: list[Run], rungs: Sequence[Rung], reuse: Reuse | None, shelf) -> list[list[Run]]:
    """The runs of each rung of a halving, those included that it has to do next."""
    halving = Halving(runs, rungs, reuse, shelf, reading=True)
    halving.climb()
    return halving.by_rung()


def _of_run(run: Run, reuse: Reuse | None, study: str | None, shelf, taken: set) -> list[Source]:
    """Where the rows of a planned run come from. taken: the run and seed of each row so far."""
    seeds = set(run.seeds)
    return _reused(run, seeds, reuse, study, taken) + _sources(run, seeds, shelf, study, taken)


def _reused(run: Run, seeds: set[int], reuse: Reuse | None, study: str | None, taken: set) -> list[Source]:
    """Those of the rows of earlier tables. taken: likewise."""
    by_run: dict[str, list] = {}
    for seed, row in (run.reused or {}).items():
        if seed in seeds and (row["run_id"], seed) not in taken:
            by_run.setdefault(row["run_id"], []).append(row)
            taken.add((row["run_id"], seed))
    found = []
    for run_id, rows in by_run.items():
        leaves = reuse.leaves(rows[0])
        found.append(Source(_named_leaves(leaves), leaves, RunDirectory("", run_id), study, None, tuple(rows)))
    return found


def _sources(run: Run, seeds: set[int], shelf, study: str | None, taken: set) -> list[Source]:
    """Those of the runs that have some of the seeds. taken: likewise."""
    found = []
    for part in run.work():
        mine = frozenset(seed for seed in seeds.intersection(part.seeds) if (part.name, seed) not in taken)
        if not mine:
            continue
        taken.update((part.name, seed) for seed in mine)
        there = shelf(run.config.output).at(part.directory.path) if part.directory.path.is_dir() else None
        leaves = placed(part.config) if there is None or part.name == run.name else there.leaves
        found.append(Source(_named_leaves(leaves), leaves, part.directory, study, mine))
    return found


def _named_leaves(there: dict) -> dict:
    """What determines a run's results, without what names no run."""
    return {key: value for key, value in there.items() if key not in UNNAMED}


def _differing(every: list[dict]) -> list[str]:
    """The keys by whose values runs differ and that have columns of their own."""
    values: dict[str, set] = {}
    for leaves in every:
        for key, value in leaves.items():
            values.setdefault(key, set()).add(str(value))
    differing = sorted(key for key, different in values.items() if len(different) > 1 and key not in OWN)
    return [key for key in differing if not _named(key, every)]


def _others(sources: list[Source], known: list[str]) -> list[str]:
    """The columns of earlier tables that are neither known now nor a key: outcomes of another version."""
    keys = {key for source in sources for key in source.leaves}
    columns = dict.fromkeys(column for source in sources for row in source.rows for column in row)
    return [column for column in columns if column not in known and column not in keys and column != REPEAT]


def _repeats(table: pd.DataFrame, order: list[tuple]) -> pd.Series:
    """Of the rows of the same settings and seed which one each is, counted from 1 in the given order."""
    keys = [column for column in of_configuration(table) if column != REPEAT]
    ordered = table.loc[sorted(table.index, key=lambda index: order[index])]
    counts = ordered.astype(dict.fromkeys(keys, str)).groupby([*keys, "options", "seed"], dropna=False).cumcount()
    return counts.reindex(table.index) + 1


def doubles(runs: pd.DataFrame) -> list[str]:
    """A line for each of the settings that have a seed twice: the settings, the seeds and the runs."""
    if REPEAT not in runs:
        return []
    keys = [column for column in of_configuration(runs) if column != REPEAT]
    shown = [key for key in keys if key == "method" or runs[key].nunique(dropna=False) > 1]
    lines: dict[tuple, list] = {}
    for _, group in runs.groupby([*keys, "options", "seed"], dropna=False, sort=False):
        if len(group) > 1:
            first = group.iloc[0]
            words = " ".join(f"{key}={typed(first[key])}" for key in shown)
            lines.setdefault((words, *group.sort_values(REPEAT)["run_id"]), []).append(int(first["seed"]))
    return [
        f"{words}: seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))} of several runs, which the column "
        f"{REPEAT} tells apart: {', '.join(names)}"
        for (words, *names), seeds in lines.items()
    ]


def _rows(source: Source, outcomes: list[str]) -> list[dict]:
    leaves, directory = source.leaves, source.directory
    if source.rows:
        more = {"leaves": leaves, RUNG: source.rung}
        return [row | more | {"order": _order(source, row["status"], row["run_id"])} for row in source.rows]
    result = directory.result()
    status = result["status"] if result else directory.status()
    if result is None and status in OVER:  # it ended this moment
        result = directory.result()
    result = result or {}
    environment = _environment(directory)
    common = {
        "study": source.study,
        RUNG: source.rung,
        "run_id": directory.path.name,
        "leaves": leaves,
        "order": _order(source, status, directory.path.name),
        "options": _options(leaves),
        "stats_batch": _stats_batch(leaves),
        PEAK_MEMORY.name: result.get(PEAK_MEMORY.name),
        "error": result.get("error"),
        **{column: _scalar(leaves.get(key)) for column, key in CONFIGURATION.items() if key},
        **{key: environment.get(key) for key in ENVIRONMENT},
    }
    entries = [_derived(entry) for entry in result["replicates"]] if status in OVER else []
    by_seed = {entry["seed"]: entry for entry in entries}
    seeds = range(leaves["seed"], leaves["seed"] + leaves["replicates"])
    return [
        {**common, "seed": seed, "status": status, **{key: by_seed.get(seed, {}).get(key) for key in outcomes}}
        | ({"status": by_seed[seed]["status"]} if seed in by_seed else {})
        for seed in seeds
        if source.seeds is None or seed in source.seeds
    ]


def _order(source: Source, status: str, run_id: str) -> tuple:
    """Of several rows of a seed the first is one that is over, was reused, is of many seeds, and of the first."""
    return status not in OVER, not source.rows, -source.leaves["replicates"], source.leaves["seed"], run_id


def _derived(entry: dict) -> dict:
    """The entry of a replicate with what follows from it.

    That is McNemar's p value where it had a test-time augmentation; where a rate was sought, whether there is one.
    """
    counts, more = (entry.get("tta_gained"), entry.get("tta_lost")), {}
    if None not in counts:
        more["tta_p"] = mcnemar(*counts)
    if "suggested_lr" in entry:
        more["lr_found"] = entry["suggested_lr"] is not None
    return entry | more


def _regret(table: pd.DataFrame) -> pd.Series:
    """What each replicate's suggested rate costs: points of test accuracy below the best rate of the grid.

    The suggestion stands for the rate of the grid nearest to it on a log scale; both accuracies are of the replicate's
    seed. The best rate, of those that are over, is that of the highest mean validation accuracy. NaN without a
    suggestion, for one beyond the grid by more than half its widest step, and where a grid does not tell: of fewer than
    three rates, with the best at its edge, or with several runs of a seed at one rate.
    """
    regret = pd.Series(np.nan, table.index)
    over = counted(table)
    over = over[over[OBJECTIVE].notna()]
    keys = [column for column in of_configuration(over) if column != "lr"]
    for _, group in over.groupby(keys, dropna=False, sort=False):
        rates = np.sort(group["lr"].unique())
        suggested = group["suggested_lr"].dropna().astype(float)
        if len(rates) < 3 or suggested.empty or group.duplicated(["lr", "seed"]).any():
            continue
        chosen = best(group, "lr")
        if chosen.edge:
            continue
        accuracy = group.set_index(["lr", "seed"])[HEADLINE].astype(float)
        away = np.abs(np.subtract.outer(np.log(suggested.to_numpy()), np.log(rates)))
        covered = away.min(axis=1) <= np.diff(np.log(rates)).max() / 2
        for index, rate in zip(suggested.index[covered], rates[away.argmin(axis=1)[covered]], strict=True):
            seed = group["seed"][index]
            regret[index] = accuracy.get((chosen.value, seed), np.nan) - accuracy.get((rate, seed), np.nan)
    return regret


def _options(leaves: dict) -> str:
    """The options of the method: `eps=1e-05 num_groups=8`."""
    options = {key.removeprefix("norm."): value for key, value in leaves.items() if key.startswith("norm.")}
    return " ".join(f"{key}={value}" for key, value in sorted(options.items()) if key != "name")


def _stats_batch(leaves: dict) -> float | None:
    """Images that a batch statistic is taken over, or None where the method has none."""
    facts = facts_of(leaves["norm.name"])
    if not facts.batch_statistics:
        return None
    options = {key.removeprefix("norm."): value for key, value in leaves.items() if key.startswith("norm.")}
    return facts.statistic_images(options, leaves["batch_size"], leaves.get("processes", 1))


def _environment(directory: RunDirectory) -> dict:
    """What env.json says, and torch's version; the command without the folders of the machine it was given on."""
    env = directory.environment()
    if not env:
        return {}
    torch, command = (env.get("packages") or {}).get("torch"), re.sub(FOLDERS, "", env.get("command") or "")
    return {**env, "torch": torch, "command": command or None}


def _scalar(value):
    """A list of a configuration as one word of a table: `0.5 0.75`, `0:16 0.5:32`; an integer beyond any as a float."""
    if is_integer(value) and abs(value) > MOST_INTEGER:
        return float(value)
    if not isinstance(value, list):
        return value
    return " ".join(":".join(map(str, item)) if isinstance(item, list) else str(item) for item in value)


def _named(key: str, runs: list[dict]) -> bool:
    """Whether the choice of its group, such as augment=mixup, says what a key is in each run; `options` has norm's."""
    group, _, option = key.partition(".")
    if group not in GROUPS or group == "norm" or option == "name":
        return False
    there = {(leaves.get(f"{group}.name"), str(leaves.get(key))): leaves.get(key) for leaves in runs}
    files = {name: default_leaves(((group, name),)) for name in {name for name, _ in there} if name in choices(group)}
    return all(name in files and files[name].get(key) == value for (name, _), value in there.items())
