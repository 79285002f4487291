"""The columns of runs.csv: what a row says of the run's configuration, of its outcome, and of what it ran on."""

import pandas as pd

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
SCORES = ("val_acc", "val_loss", "val_ece", "test_acc", "test_loss", "test_ece")
OUTCOME = (
    "diverged_epoch",
    *(f"{what}{how}" for how in ("", "_precise", "_tta") for what in SCORES),
    "tta_gained",
    "tta_lost",
    "tta_p",
    "tta_cost",
    "steps_to_target",
    "target_reached",
    "suggested_lr",
    "lr_found",
    "regret",
    "seconds",
    "train_seconds",
    "stack",
    "ms_per_step",
    "images_per_second",
)
ENVIRONMENT = ("device", "threads", "torch", "commit", "dirty", "command")
OTHER = ("study", "run_id", "seed", "status", "peak_memory_mb", "error")
CURVES = ("run_id", "seed", "epoch", "train_loss", "train_acc", "val_loss", "val_acc")
# Known without loading torch; a test holds them against normbench.records.directory.OVER.
COUNTED = ("finished", "diverged")


def of_configuration(table: pd.DataFrame) -> list[str]:
    """The columns that tell configurations apart; those of the options stand for `options`."""
    others = {*OUTCOME, *ENVIRONMENT, *OTHER, *CURVES, "options"}
    return [column for column in table if column not in others and not column.startswith("_")]
