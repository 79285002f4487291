"""The runs of a command, as they are planned: each resolved once, with its name and its folder."""

from dataclasses import dataclass

from normbench.config.identity import run_id
from normbench.config.overrides import Job
from normbench.config.resolve import resolve
from normbench.config.sizes import samples_per_epoch
from normbench.processes import launched
from normbench.records.directory import RunDirectory
from normbench.records.metrics import OVER


@dataclass
class Run:
    """One run of a sweep. name: its run_id; error: why it failed, where that is not in its folder."""

    job: Job
    config: object
    name: str
    error: str | None = None

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.config.output, self.name)

    @property
    def images(self) -> int:
        """Training images it processes, replicates counted: the measure of its work."""
        return self.config.epochs * samples_per_epoch(self.config) * self.config.replicates


def runs_of(jobs: list[Job]) -> list[Run]:
    """The runs of a sweep, each once. Raises InputError for the first mistake in any of their configurations."""
    runs = {}
    for job in jobs:
        config = resolve(job.config, launched())
        run = Run(job, config, run_id(config, launched()))
        runs.setdefault(str(run.directory.path), run)
    return list(runs.values())


def check_networks(runs: list[Run]) -> None:
    """Raise InputError for the first network or measurement that cannot be, of the runs that are not over."""
    if some := left(runs):
        from normbench.measures import MEASURES  # with torch, which takes its time to load

        for run in some:
            MEASURES[run.config.measure.name].check(run.config, launched())


def left(runs: list[Run]) -> list[Run]:
    """Those that something has to be done for; all, where torchrun's processes must take the same."""
    return [run for run in runs if launched() > 1 or run.config.force or run.directory.status() not in OVER]
