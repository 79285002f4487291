"""From folders of runs to one table: a row a replicate, whatever became of it."""

import csv
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from normbench.cli import normalize, plan
from normbench.config import choices, conf_dir
from normbench.errors import InputError, UserError, choices_text
from normbench.records.directory import OVER, RunDirectory
from normbench.records.identity import identity
from normbench.sweep import runs_of

# What a row says of the run's configuration, what became of the replicate, and what it ran on; between the first two
# come the dotted keys by which the runs differ beyond these.
CONFIGURATION = {
    "model": "model.name",
    "method": "norm.name",
    "options": None,
    "batch_size": "batch_size",
    "stats_batch": None,
    "data": "data.name",
    "train_size": "data.train_size",
    "epochs": "epochs",
    "optimizer": "optim.name",
    "lr": "optim.lr",
}
OUTCOME = (
    "diverged_epoch",
    "val_acc",
    "val_loss",
    "test_acc",
    "test_loss",
    "val_acc_precise",
    "val_loss_precise",
    "test_acc_precise",
    "test_loss_precise",
    "seconds",
    "stack",
    "ms_per_step",
    "images_per_second",
)
ENVIRONMENT = ("device", "threads", "torch", "commit", "dirty", "command")
CURVES = ("run_id", "seed", "epoch", "train_loss", "train_acc", "val_loss", "val_acc")
# Settled by the machine, so that one that has not run them cannot tell: not looked at when a planned run is sought.
MACHINE = ("stack", "precision")
BATCH_STATISTICS = ("batch", "sync_batch", "ghost_batch")
WHOLE = ("seed", "batch_size", "train_size", "epochs", "diverged_epoch", "stack", "threads")


def study_names() -> list[str]:
    return choices("experiment")


def study_file(name: str):
    """The experiment file of a study. Raises InputError for a name that there is not."""
    if name not in study_names():
        raise InputError("study", name, f"neither a folder of runs nor a study; {choices_text(name, study_names())}")
    return OmegaConf.load(conf_dir() / "experiment" / f"{name}.yaml")


def collect(target: str, output: str = "outputs", overrides: Sequence[str] = ()) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs and the learning curves of a study, or of every run in a folder.

    target: the name of a study (its runs are sought in the folder `output`; those never begun have status missing), or
    a folder of runs. overrides: those that the study was swept with. Returns (runs, a row a replicate; curves, a row an epoch and replicate), both in an order that the
    content fixes. Raises UserError where there is nothing to collect.
    """
    if Path(target).is_dir():
        found = [(identity(config), directory, None) for directory, config in _folders(target)]
        if not found:
            raise UserError(f"{target}: no folder in it is a run (none has a config.yaml)")
    else:
        study_file(target)
        found = _planned(target, output, overrides)
    rows = [row for leaves, directory, study in found for row in _rows(leaves, directory, study)]
    differing = sorted(
        key
        for key in {key for row in rows for key in row["leaves"]}
        if key not in (*CONFIGURATION.values(), *MACHINE, "seed", "replicates", "optim.warmup_samples")
        and len({str(row["leaves"][key]) for row in rows if key in row["leaves"]}) > 1
    )
    columns = ["study", "run_id", "seed", *CONFIGURATION, *differing, "status", *OUTCOME, "peak_memory_mb"]
    table = pd.DataFrame(
        [{**row, **{key: _scalar(row["leaves"].get(key)) for key in differing}} for row in rows],
        columns=[*columns, *ENVIRONMENT, "error"],
    )
    for column in WHOLE:
        table[column] = table[column].astype("Int64")
    names = table["run_id"].drop_duplicates()
    curves = [row for name in names for row in _curves(next(d for _, d, _ in found if d.path.name == name))]
    return table, pd.DataFrame(curves, columns=CURVES)


def _folders(folder) -> list[tuple[RunDirectory, object]]:
    """The runs of a folder, by name, each with its configuration."""
    paths = sorted(path.parent for path in Path(folder).glob("[!.]*/config.yaml"))
    return [(RunDirectory(path.parent, path.name), OmegaConf.load(path / "config.yaml")) for path in paths]


def _planned(study: str, output: str, overrides: Sequence[str]) -> list[tuple[dict, RunDirectory, str]]:
    """The runs that a study plans, in its order; those that another machine has settled otherwise are found as well."""
    jobs, _, _ = plan(normalize([f"experiment={study}", f"output={output}", *overrides]), multirun=True)
    elsewhere = None
    found = []
    for run in runs_of(jobs):
        leaves, directory = identity(run.config), run.directory
        if directory.status() == "missing":
            if elsewhere is None:
                elsewhere = {_essence(identity(config)): (config, other) for other, config in _folders(output)}
            if hit := elsewhere.get(_essence(leaves)):
                leaves, directory = identity(hit[0]), hit[1]
        found.append((leaves, directory, study))
    return found


def _essence(leaves: dict) -> str:
    return str(sorted((key, str(value)) for key, value in leaves.items() if key not in MACHINE))


def _rows(leaves: dict, directory: RunDirectory, study: str | None) -> list[dict]:
    result = directory.result() or {}
    status = directory.status()
    common = {
        "study": study or _study(directory),
        "run_id": directory.path.name,
        "leaves": leaves,
        "options": _options(leaves),
        "stats_batch": _stats_batch(leaves),
        "peak_memory_mb": result.get("peak_memory_mb"),
        "error": result.get("error"),
        **{column: leaves.get(key) for column, key in CONFIGURATION.items() if key},
        **_environment(directory),
    }
    entries = result["replicates"] if status in OVER else []
    by_seed = {entry["seed"]: entry for entry in entries}
    seeds = range(leaves["seed"], leaves["seed"] + leaves["replicates"])
    return [
        {**common, "seed": seed, "status": status, **{key: by_seed.get(seed, {}).get(key) for key in OUTCOME}}
        | ({"status": by_seed[seed]["status"]} if seed in by_seed else {})
        for seed in seeds
    ]


def _study(directory) -> str | None:
    return OmegaConf.load(directory.path / "config.yaml").get("study")


def _options(leaves: dict) -> str:
    """The options of the method: `eps=1e-05 num_groups=8`."""
    options = {key.removeprefix("norm."): value for key, value in leaves.items() if key.startswith("norm.")}
    return " ".join(f"{key}={value}" for key, value in sorted(options.items()) if key != "name")


def _stats_batch(leaves: dict) -> float | None:
    """Images that a batch statistic is taken over, or None where the method has none."""
    name, batch = leaves["norm.name"], leaves["batch_size"]
    if name not in BATCH_STATISTICS:
        return None
    if name == "ghost_batch":
        return leaves["norm.ghost_size"]
    return batch if name == "sync_batch" else batch // leaves.get("processes", 1)


def _environment(directory) -> dict:
    path = directory.path / "env.json"
    if not path.exists():
        return {}
    env = OmegaConf.to_container(OmegaConf.create(path.read_text()))
    return {**{key: env.get(key) for key in ENVIRONMENT}, "torch": env["packages"]["torch"]}


def _curves(directory) -> list[dict]:
    try:
        with open(directory.path / "metrics.csv", newline="") as lines:
            return [
                {"run_id": directory.path.name, **{key: row[key] for key in CURVES[1:]}}
                for row in csv.DictReader(lines)
            ]
    except FileNotFoundError:
        return []


def _scalar(value):
    """A list of a configuration as one word of a table."""
    return " ".join(map(str, value)) if isinstance(value, list) else value


def write(table: pd.DataFrame, path: Path) -> None:
    """A table as CSV, numbers to full precision, the same bytes for the same table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, lineterminator="\n")


def read(path: Path) -> pd.DataFrame:
    """A table that `write` wrote. Raises UserError where there is none."""
    if not path.is_file():
        raise UserError(f"{path}: no such table; scripts/collect.py writes it")
    return pd.read_csv(path, dtype={"diverged_epoch": "Int64", "seed": "Int64", "error": object})
