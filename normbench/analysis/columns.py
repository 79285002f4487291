"""The columns of runs.csv: what a row says of the run's configuration and of what it ran on; and all columns in words.

What it says of the outcome is declared in `normbench.records.metrics`.
"""

from collections.abc import Iterator

import pandas as pd

from normbench.records.metrics import CURVES, PEAK_MEMORY, outcome_of, outcomes
from normbench.words import typed

# Column → key of the configuration. The further keys by which runs differ follow, each under its own name.
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
ENVIRONMENT = ("device", "threads", "torch", "commit", "dirty", "command")
OTHER = ("study", "run_id", "seed", "status", PEAK_MEMORY.name, "error")
# Whose values are texts, whatever they look like.
TEXTS = ("study", "run_id", "model", "method", "options", "data", "optimizer", "status")
TEXTS += ("device", "torch", "commit", "command", "error")
# Of the columns that are no outcomes, those of numbers; and those in which every row has something.
NUMBERS = ("seed", "batch_size", "stats_batch", "train_size", "epochs", "lr", "threads", "epoch", "step")
NEVER_EMPTY = ("run_id", "seed", "epoch", "model", "method", "data")
RUNG = "rung"  # of a halving, counted from 1
MEASUREMENT = "measure.name"  # in a table of runs of several measurements

# Columns of the configuration in words, with their units.
LABELS = {
    "batch_size": "batch size (images)",
    "stats_batch": "images per batch statistic",
    "norm.ghost_size": "ghost batch size (images)",
    "lr": "learning rate (at batch size 128)",
    "method": "method",
    "epoch": "epoch",
    "epochs": "epochs",
    "train_size": "training set (images)",
    "model.init_scale": "scale of the initial weights (He's: 1)",
    "model.activation": "activation",
    "model.depth": "depth (layers)",
    "model.width": "width (channels)",
    "measure.factors": "factors",
    "measure.scale": "scale of the inputs",
    "measure.trained": "trained",
    "data.input": "input normalization",
    "data.noise": "noise",
    "data.noise_strength": "noise strength (share of full range)",
    "data.bits": "intensity resolution (bits)",
    "data.channel_scale": "factor on the red channel",
    "data.label_noise": "label noise (share of labels)",
    "data.test_noise": "noise in the test images",
    "augment.name": "technique",
    "augment.mixup": "mixup α",
    "augment.cutmix": "cutmix α",
    "augment.label_smoothing": "label smoothing ε",
    "augment.resize": "progressive resizing",
    "augment.tta": "test-time augmentation",
}


def label(column: str) -> str:
    """The column in words, with its unit, for an axis."""
    return LABELS.get(column) or outcome_of(column).label


def plain(column: str) -> str:
    """The column in words, without its unit."""
    return label(column).split(" (")[0]


def differing(runs: pd.DataFrame) -> list[str]:
    """The columns by which the runs of a method differ: the settings that no figure may pool."""
    within = runs.groupby("method")
    return [column for column in of_configuration(runs) if within[column].nunique(dropna=False).gt(1).any()]


def settings(rows: pd.DataFrame, parts: list[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each setting of some columns, in words, and its rows; without columns one, without words."""
    for values, group in rows.groupby(parts, sort=False, dropna=False) if parts else [((), rows)]:
        yield ", ".join(f"{plain(part)} {typed(value)}" for part, value in zip(parts, values, strict=True)), group


def of_configuration(table: pd.DataFrame) -> list[str]:
    """The columns that tell configurations apart; those of the options stand for `options`."""
    others = {*outcomes(), *ENVIRONMENT, *OTHER, *CURVES, "options"}
    return [column for column in table if column not in others and not column.startswith("_")]
