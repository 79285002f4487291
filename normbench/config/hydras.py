"""Which of Hydra's own keys do something here: the others are refused rather than ignored."""

from normbench.errors import UserError

# Read by the launcher of a sweep, and by nothing else.
OF_A_SWEEP = (
    "hydra/launcher",
    "hydra.launcher",
    "hydra.sweep.dir",
    "hydra.job.name",
    "hydra.job.env_set",
    "hydra.job.env_copy",
    "hydra/callbacks",
    "hydra.callbacks",
)
# Read by every command.
ALWAYS = (
    "hydra.mode",
    "hydra.verbose",
    "hydra/job_logging",
    "hydra.job_logging",
    "hydra/hydra_logging",
    "hydra.hydra_logging",
)
# Read by a search, where Hydra's sweeper is another than its basic one.
OF_A_SEARCH = (
    "hydra/sweeper",
    "hydra/sweeper/sampler",
    "hydra.sweeper.sampler",
    "hydra.sweeper.n_trials",
    "hydra.sweeper.n_jobs",
    "hydra.sweeper.max_failure_rate",
)
# What does something in Hydra, and what does it here.
INSTEAD = {
    "hydra.run": "each run has a folder of its own below `output`: set that",
    "hydra.sweep": "each run has a folder of its own below `output`: set that",
    "hydra.output_subdir": "each run has a folder of its own below `output`: set that",
    "hydra.sweeper.direction": "a search maximizes the validation accuracy",
    "hydra.sweeper.storage": "a search is kept by its runs: with the same hydra.sweeper.sampler.seed it goes on",
    "hydra.sweeper": "write the values of a sweep at its key, like -m batch_size=2,8",
    "hydra/sweeper": "write the values of a sweep at its key, like -m batch_size=2,8",
    "hydra.job.chdir": "runs work in the folder that the command was typed in",
    "hydra.searchpath": "normbench reads its own configuration files alone; set keys with key=value",
}


def refuse(key: str, line: str, value: str, search: bool = False) -> None:
    """Raise UserError for a key of Hydra's that would change nothing here. line: the override; value: its value."""
    if _among(key, (*OF_A_SWEEP, *ALWAYS)) or (key == "hydra.job.chdir" and value == "false"):
        return
    if search and _among(key, OF_A_SEARCH):
        return
    reason = next((text for name, text in INSTEAD.items() if _among(key, [name])), None)
    known = f"has no effect here; what has: {', '.join((*OF_A_SWEEP, *ALWAYS))}"
    raise UserError(f"{line}: {reason or known}")


def require_sweep(keys: dict[str, str]) -> None:
    """Raise UserError for what a single run would ignore. keys: those of Hydra's that are typed → their overrides."""
    for key, line in keys.items():
        if _among(key, OF_A_SWEEP):
            raise UserError(f"{line}: is for a sweep, and one run would ignore it: add -m")


def _among(key: str, names) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)
