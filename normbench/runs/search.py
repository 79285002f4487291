"""A search: a sweeper of Hydra's asks for one run after the other, by the validation accuracy of those before.

Nothing of it is kept but the runs: a search repeated with the same seed of its sampler asks for the same ones, of which
those that are over are not done again.
"""

import os
from pathlib import Path
from statistics import fmean

from omegaconf import OmegaConf

from normbench.config.resolve import resolve
from normbench.console import Console
from normbench.errors import InputError, UserError
from normbench.processes import launched
from normbench.records.directory import RunDirectory
from normbench.records.metrics import OBJECTIVE, TRAIN
from normbench.runs.planned import Run, check_networks
from normbench.runs.sweep import attempt

MAXIMIZE = "hydra.sweeper.direction=maximize"
FOUND = "optimization_results.yaml"  # where Optuna's sweeper leaves what it found
NOTHING = "No trials are completed"  # what it says where every run failed


def begin(run: Run) -> None:
    """Check a run that is within the search, which shows most mistakes. Raises InputError."""
    if launched() > 1:
        raise UserError("hydra/sweeper: is for a single process; leave torchrun out")
    if run.config.measure.name != TRAIN:
        raise InputError("measure", run.config.measure.name, "has no accuracy; a search is of measure=train")
    check_networks([run])
    os.environ["NORMBENCH_SWEEP"] = str(os.getpid())
    (Path(run.config.output) / FOUND).unlink(missing_ok=True)


def objective(config) -> float | None:
    """One run of a search: its mean validation accuracy in percent. None for one that failed, which was told.

    config: as Hydra composes it.
    """
    outcome = attempt(config)
    if outcome.keys() != {"run_id"}:
        return None
    result = RunDirectory.of(resolve(config, launched()), launched()).result()
    return fmean(entry[OBJECTIVE] for entry in result["replicates"])


def print_best(output: str) -> None:
    """What was found."""
    found = OmegaConf.load(Path(output) / FOUND)
    words = " ".join(f"{key}={value}" for key, value in found.best_params.items())
    Console().print(f"best: {words}; validation accuracy {found.best_value:.2f} %", highlight=False, soft_wrap=True)
