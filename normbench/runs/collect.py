"""From folders of runs to one table: a row a replicate, whatever became of it."""

import csv
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from yaml import YAMLError

from normbench.analysis.columns import CONFIGURATION, ENVIRONMENT, MEASUREMENT, of_configuration
from normbench.analysis.evidence import best, counted
from normbench.analysis.statistics import mcnemar
from normbench.config.files import GROUPS, choices, default_leaves, study_file, study_names
from normbench.config.identity import identity, unnamed
from normbench.config.keys import BY_MACHINE, KEYS
from normbench.config.overrides import normalize, plan
from normbench.errors import UserError
from normbench.facts import facts_of
from normbench.records.directory import RunDirectory
from normbench.records.metrics import (
    CURVES,
    HEADLINE,
    OBJECTIVE,
    OVER,
    PEAK_MEMORY,
    TRAIN,
    of_measurements,
    whole,
)
from normbench.runs.planned import runs_of

# What a command says of its machine alone.
FOLDERS = r" (output|data\.root)=\S+"
WHOLE = (
    "seed",
    "batch_size",
    "train_size",
    "epochs",
    "threads",
)
Found = list[tuple[dict, RunDirectory, str | None]]  # configuration, folder and study of each run


def collect(target: str, output: str = "outputs", overrides: Sequence[str] = ()) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs and the learning curves of a study, or of every run in a folder; parameters and errors of `find`."""
    return tables(find(target, output, overrides))


def find(target: str, output: str = "outputs", overrides: Sequence[str] = ()) -> Found:
    """The runs of a study, or of every run in a folder.

    target: the name of a study (its runs are sought in the folder `output`; those never begun have status missing), or
    a folder of runs. overrides: those that the study was swept with. Raises UserError where there is none.
    """
    if target not in study_names() and Path(target).is_dir():
        found = [(_leaves(config, directory), directory, None) for directory, config in _folders(target)]
        if not found:
            raise UserError(f"{target}: no folder in it is a run")
        return found
    study_file(target)
    found = _planned(target, output, overrides)
    if all(directory.status() == "missing" for _, directory, _ in found):
        raise UserError(f"{output}: none of the {len(found)} runs of {target} is there; sweep first, or give --output")
    return found


def tables(found: Found) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(runs, a row a replicate; curves, a row an epoch and replicate), both in an order that the content fixes."""
    outcomes = [outcome.name for outcome in of_measurements(leaves[MEASUREMENT] for leaves, _, _ in found)]
    rows = [row for leaves, directory, study in found for row in _rows(leaves, directory, study, outcomes)]
    own = (*CONFIGURATION.values(), "stack", "seed", "replicates", "evaluation.suggest_lr")
    values: dict[str, set] = {}
    for leaves, _, _ in found:
        for key, value in leaves.items():
            values.setdefault(key, set()).add(str(value))
    differing = sorted(key for key, different in values.items() if len(different) > 1 and key not in own)
    every = [leaves for leaves, _, _ in found]
    differing = [key for key in differing if not _named(key, every)]
    columns = ["study", "run_id", "seed", *CONFIGURATION, *differing, "status", *outcomes, PEAK_MEMORY.name]
    table = pd.DataFrame(
        [{**row, **{key: _scalar(row["leaves"].get(key)) for key in differing}} for row in rows],
        columns=[*columns, *ENVIRONMENT, "error"],
    )
    for column in (*WHOLE, *whole(outcomes)):
        table[column] = table[column].astype("Int64")
    if "regret" in outcomes:
        table["regret"] = _regret(table)
    return table, _curves(found)


def _leaves(config, directory: RunDirectory | None = None) -> dict[str, object]:
    """The identity of a run, without what follows from the rest of it, as it does where the user leaves it alone."""
    leaves = unnamed(config) | identity(config, _environment(directory).get("processes", 1) if directory else 1)
    return leaves | {
        key.name: key.alone
        for key in KEYS.values()
        if key.name in leaves and not key.by_machine and key.followed(leaves[key.name], config)
    }


def _folders(folder) -> list[tuple[RunDirectory, object]]:
    """The runs of a folder, by name, each with its configuration."""
    found = []
    for path in sorted(path.parent for path in Path(folder).glob("[!.]*/config.yaml")):
        try:
            config = OmegaConf.load(path / "config.yaml")
            if {"model", "norm", "optim", "seed", "replicates"} <= set(config):
                found.append((RunDirectory(path.parent, path.name), config))
        except (YAMLError, TypeError):  # somebody else's
            continue
    return found


def _planned(study: str, output: str, overrides: Sequence[str]) -> list[tuple[dict, RunDirectory, str]]:
    """The runs that a study plans, in its order; those that another machine has settled otherwise are found as well."""
    jobs, _, _ = plan(normalize([f"experiment={study}", f"output={output}", *overrides]), multirun=True)
    runs = runs_of(jobs)
    planned = {run.directory.path for run in runs}
    elsewhere: dict[str, tuple] = {}
    if any(not run.directory.path.is_dir() for run in runs):
        for directory, config in _folders(output):
            if directory.path not in planned:
                key, over = _essence(_leaves(config)), directory.status() in OVER
                if over or key not in elsewhere:
                    elsewhere[key] = (_leaves(config, directory), directory)
    found = []
    for run in runs:
        leaves, directory = _leaves(run.config), run.directory
        if not directory.path.is_dir():
            leaves, directory = elsewhere.pop(_essence(leaves), (leaves, directory))
        found.append((leaves, directory, study))
    return found


def _essence(leaves: dict) -> str:
    """A run's identity less what its machine settled, which one that has not run it cannot tell."""
    return str(sorted((key, str(value)) for key, value in leaves.items() if key not in BY_MACHINE))


def _rows(leaves: dict, directory: RunDirectory, study: str | None, outcomes: list[str]) -> list[dict]:
    result = directory.result()
    status = result["status"] if result else directory.status()
    if result is None and status in OVER:  # it ended this moment
        result = directory.result()
    result = result or {}
    environment = _environment(directory)
    common = {
        "study": study or _study(directory),
        "run_id": directory.path.name,
        "leaves": leaves,
        "options": _options(leaves),
        "stats_batch": _stats_batch(leaves),
        PEAK_MEMORY.name: result.get(PEAK_MEMORY.name),
        "error": result.get("error"),
        **{column: leaves.get(key) for column, key in CONFIGURATION.items() if key},
        **{key: environment.get(key) for key in ENVIRONMENT},
    }
    entries = [_derived(entry) for entry in result["replicates"]] if status in OVER else []
    by_seed = {entry["seed"]: entry for entry in entries}
    seeds = range(leaves["seed"], leaves["seed"] + leaves["replicates"])
    return [
        {**common, "seed": seed, "status": status, **{key: by_seed.get(seed, {}).get(key) for key in outcomes}}
        | ({"status": by_seed[seed]["status"]} if seed in by_seed else {})
        for seed in seeds
    ]


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


def _study(directory) -> str | None:
    return OmegaConf.load(directory.path / "config.yaml").get("study")


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
    try:
        env = json.loads((directory.path / "env.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return {**env, "torch": env["packages"]["torch"], "command": re.sub(FOLDERS, "", env["command"])}


def _curves(found) -> pd.DataFrame:
    """The learning curves of all trainings, run by run; with steps where one was validated between epochs.

    The series of a probe stays in the folder of its run.
    """
    columns = list(CURVES)
    if any(leaves["evaluation.every_steps"] is not None for leaves, _, _ in found):
        columns.insert(columns.index("epoch") + 1, "step")
    rows = []
    for directory in {d.path: d for leaves, d, _ in found if leaves[MEASUREMENT] == TRAIN}.values():
        with suppress(OSError), open(directory.path / "metrics.csv", newline="") as lines:  # there may be none yet
            rows += [row | {"run_id": directory.path.name} for row in csv.DictReader(lines)]
    return pd.DataFrame(rows, columns=columns)


def _scalar(value):
    """A list of a configuration as one word of a table: `0.5 0.75`, `0:16 0.5:32`."""
    if not isinstance(value, list):
        return value
    return " ".join(":".join(map(str, item)) if isinstance(item, list) else str(item) for item in value)


def _named(key: str, runs: list[dict]) -> bool:
    """Whether the choice of its group, such as augment=mixup, says what a key is in each run; `options` has norm's."""
    group, _, option = key.partition(".")
    if group not in GROUPS or group == "norm" or option == "name":
        return False
    files = [(leaves.get(f"{group}.name"), leaves.get(key)) for leaves in runs]
    return all(name in choices(group) and default_leaves(((group, name),)).get(key) == value for name, value in files)
