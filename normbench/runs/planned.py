"""The runs of a command, as they are planned: each resolved once, with its name and its folder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from normbench.config.files import flatten
from normbench.config.overrides import Job
from normbench.config.resolve import resolve
from normbench.config.sizes import images_in_all
from normbench.config.values import plain
from normbench.errors import InputError
from normbench.processes import launched
from normbench.records.directory import RunDirectory, seeds_of
from normbench.records.metrics import OVER
from normbench.words import typed


@dataclass
class Run:
    """One run of a sweep. name: its run_id; error: why it failed, where that is not in its folder.

    parts: the runs that its seeds are of, where other runs have some of them; None: it has them all itself.
    reused: seed → the row of an earlier table that counts for it. `normbench.runs.seeds` settles both.
    """

    job: Job
    config: object
    name: str
    error: str | None = None
    parts: list["Run"] | None = None
    reused: dict[int, dict] | None = None

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.config.output, self.name, self.config)

    @property
    def seeds(self) -> range:
        return seeds_of(self.config)

    @property
    def images(self) -> int:
        return images_in_all(self.config)

    def work(self) -> list["Run"]:
        """The runs that do it: those of its parts, or it alone."""
        return [self] if self.parts is None else self.parts

    def result(self) -> dict | None:
        """What result.json says, as if the seeds were of one run. None while a part is not over; one that failed."""
        if self.parts is None:
            return self.directory.result()
        results = [part.directory.result() for part in self.parts]
        for result in results:
            if result is None or result["status"] not in OVER:
                return result
        return whole(self, results)


def whole(run: Run, results: list[dict]) -> dict:
    """The results of the parts of a run, and the rows that it reuses, as one: its own seeds, each once."""
    entries = dict(run.reused or {})
    for entry in (entry for result in results for entry in result["replicates"] if entry["seed"] in run.seeds):
        entries.setdefault(entry["seed"], entry)
    lost = all(entry["status"] == "diverged" for entry in entries.values())
    earlier = sum((row.get("seconds") or 0) / (row.get("stack") or 1) for row in (run.reused or {}).values())
    return {
        **{key: value for result in results[:1] for key, value in result.items() if key != "repeated"},
        "run_id": run.name,
        "status": "diverged" if lost else "finished",
        "seconds": earlier + sum(result["seconds"] for result in results),
        "replicates": [entries[seed] for seed in sorted(entries)],
    }


def runs_of(jobs: list[Job]) -> list[Run]:
    """The runs of a sweep, each once. Raises InputError for the first mistake in any of their configurations."""
    runs = {}
    for job in jobs:
        run = _run(job)
        runs.setdefault(str(run.directory.path), run)
    return list(runs.values())


def _run(job: Job) -> Run:
    config = resolve(job.config, launched())
    return Run(job, config, RunDirectory.of(config, launched()).path.name)


def block(run: Run, first: int, count: int, **more) -> Run:
    """The run of the same configuration with `count` seeds from `first` on. more: keys and values beside those."""
    if not more and run.seeds == range(first, first + count):
        return replace(run, parts=None, reused=None)
    keys = {"seed": first, "replicates": count, **more}
    config = run.job.config
    for key, value in keys.items():
        config = config.with_value(key, value)
    others = [word for word in run.job.overrides if word.partition("=")[0] not in keys]
    return _run(Job((*others, *(f"{key}={value}" for key, value in keys.items())), config))


def looks_of(jobs: Sequence[Job]) -> tuple[int, ...]:
    """The looks of the study that these are the runs of: numbers of seeds; none where it has none.

    Raises InputError for what is no plan, and for other replicates than those of the first look.
    """
    given = plain(jobs[0].config.get("looks"))
    if given is None:
        return ()
    from normbench.analysis.claims import parse_looks  # with scipy, which takes its time to load

    looks = parse_looks(given)
    for job in jobs:
        if job.config.replicates != looks[0]:
            wrong = f"the study is judged at {typed(given)} seeds: leave replicates out, or add looks=null"
            raise InputError("replicates", job.config.replicates, wrong)
    return looks


def at_work(runs: list[Run]) -> list[Run]:
    """The runs that do these, each once."""
    return list({str(part.directory.path): part for run in runs for part in run.work()}.values())


# What no network, layer or measurement can fail for: runs that differ in nothing else are checked once.
UNBUILT = {"seed", "epochs", "lr_scaling", "study", "output", "force", "reuse", "checkpoint_seconds", "threads"}
UNBUILT_GROUPS = ("optim.", "logging.")
BUILT = {"optim.name", "optim.momentum"}  # what the optimizer keeps of each weight needs memory


def _built(config) -> str:
    """All of a configuration that its network, layers and measurement may depend on."""

    def counts(key: str) -> bool:
        return key in BUILT or not (key in UNBUILT or key.startswith(UNBUILT_GROUPS))

    return str([(key, value) for key, value in flatten(config).items() if counts(key)])


def check_networks(runs: list[Run], since: int | None = None) -> None:
    """Raise InputError for the first network or measurement that cannot be, of the runs that are not over."""
    if some := left(runs, since):
        from normbench.measures import MEASURES  # with torch, which takes its time to load

        kinds: dict[str, Run] = {}
        for run in some:
            kinds.setdefault(_built(run.config), run)
        for run in kinds.values():
            MEASURES[run.config.measure.name].check(run.config, launched())


def over(run: Run, since: int | None = None) -> bool:
    """Whether nothing is left to do for a run. since: as `execute` takes it."""
    forced = run.config.force and (since is None or run.directory.begun() < since)
    return not forced and run.directory.status() in OVER


def left(runs: list[Run], since: int | None = None) -> list[Run]:
    """Those that something has to be done for; all, where torchrun's processes must take the same."""
    return [run for run in runs if launched() > 1 or not over(run, since)]
