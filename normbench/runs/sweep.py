"""A sweep: which of its runs are left, given to Hydra's launcher, watched until every one is over.

What a sweep knows lies in the folders of its runs alone: it may be stopped, repeated, and run twice at a time.
"""

import os
import sys
import threading
import time
import traceback
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING

from normbench.config.files import conf_dir
from normbench.config.overrides import Job
from normbench.config.resolve import resolve
from normbench.console import Console
from normbench.errors import UserError
from normbench.processes import first, launched
from normbench.records.directory import CHECKPOINT, Busy, RunDirectory, made
from normbench.records.metrics import OVER
from normbench.runs import launchers
from normbench.runs.planned import Run, left, over, runs_of, whole
from normbench.runs.report import print_line
from normbench.runs.seeds import carried
from normbench.signals import Stopped
from normbench.words import duration

if TYPE_CHECKING:
    from normbench.runs.reuse import Reuse

POLL_SECONDS = 2.0  # between looks at the folders while other processes work


def prepared(jobs: list[Job]) -> tuple[list[Run], "Reuse | None"]:
    """The runs of a command, with the parts that have their seeds; and the tables that it reuses."""
    reuse, values = None, [job.config.reuse for job in jobs]
    if any(values):
        from normbench.runs.reuse import reuse_of  # with pandas, which takes its time to load

        reuse = reuse_of(values)
    return carried(runs_of(jobs), reuse), reuse


def run_alone(run: Run, since: int | None = None) -> dict:
    """What is left of one run, in this process; returns the content of result.json. Raises what `execute` does.

    Where other runs have some of its seeds it is what result.json would say of them all. since: as `execute` takes it.
    """
    if run.parts is not None:
        results = [run_alone(part, since) for part in run.parts]
        return whole(run, results) | ({"repeated": True} if all(result.get("repeated") for result in results) else {})
    # torchrun's processes must all do the same: there, the run itself looks.
    if launched() == 1 and over(run, since):
        return run.directory.result() | {"repeated": True}
    from normbench.runs.run import execute

    return execute(run.config, since)


def run_sweep(runs: list[Run], for_hydra: list[str], since: int | None = None) -> None:
    """Do what is left of the runs, through the launcher that for_hydra names; what fails stops nothing.

    Runs that another process is working on are waited for, and taken over if it stops. since: as `execute` takes it.
    Raises Stopped after a signal.
    """
    if not runs:  # reused, all of them
        return
    todo = left(runs, since)
    watch, losses, most = Watch(runs, todo), 0, None
    while todo:
        before, kept = _stamps(todo, "result.json"), _stamps(todo, CHECKPOINT)
        outcomes, broken = _launch(todo, for_hydra, watch, since, most)
        busy = []
        for run, outcome in zip(todo, outcomes, strict=True):
            if outcome.get("status") == "busy":
                busy.append(run)
            # The machine that ran it may settle its configuration differently: device, precision.
            run.name, run.error = outcome.get("run_id", run.name), outcome.get("error")
        if broken:  # some job took its whole process down, and others with it
            now, losses = _stamps(todo, "result.json"), losses + 1
            busy = [run for run, new, old in zip(todo, now, before, strict=True) if new in (None, old)]
            advanced = len(busy) < len(todo) or _stamps(todo, CHECKPOINT) != kept
            advanced = advanced or any(run.directory.status() == "running" for run in busy)
            if not advanced and broken.workers < 2:  # nor would fewer help
                for run in busy:
                    run.error = run.error or broken.told
                return
            if broken.workers:
                most = max(1, broken.workers // (1 if advanced and losses < 2 else 2))
                print(f"normbench: {broken.told}; going on, {most} at a time", file=sys.stderr)
        todo = _freed(busy)


def _freed(busy: list[Run]) -> list[Run]:
    """Wait until some of these runs is left unfinished by the process that has it; returns all that are not over then.

    None are returned once every one is over elsewhere.
    """
    told = False
    while busy:
        statuses = [run.directory.status() for run in busy]
        busy = [run for run, status in zip(busy, statuses, strict=True) if status not in (*OVER, "failed")]
        if "stopped" in statuses or "missing" in statuses:
            return busy
        if busy and not told:
            names = ", ".join(run.name for run in busy)
            print(f"normbench: waiting for what another process is working on: {names}", file=sys.stderr)
            told = True
        if busy:
            time.sleep(POLL_SECONDS)
    return []


def attempt(config, settled=None, since: int | None = None) -> dict:
    """One run, in whatever process the launcher gives it. Its failure is told and returned, never raised.

    config: composed. settled: the same resolved, if this is the machine that did it: another one may settle otherwise.
    since: as `execute` takes it.
    """
    from normbench.runs.run import execute

    outcome = {}
    try:
        settled = resolve(config, launched()) if settled is None else settled
        outcome = {"run_id": RunDirectory.of(settled, launched()).path.name}
        print_line(execute(settled, since))
        return outcome
    except UserError as error:
        if isinstance(error, Busy) and launched() == 1:  # torchrun's processes would have to wait in step
            return outcome | {"status": "busy"}
        if first():
            print(f"normbench: {error}", file=sys.stderr)
        return outcome | {"error": str(error)}
    except Exception as error:
        traceback.print_exc()
        return outcome | {"error": f"{type(error).__name__}: {error}"}
    except Stopped as stopped:
        if os.getpid() == int(os.environ.get("NORMBENCH_SWEEP", 0)):
            raise
        return outcome | {"error": f"stopped by {stopped}; the same command goes on"}  # in a worker: it alone was meant


def _launch(
    runs: list[Run], for_hydra: list[str], watch: "Watch", since: int | None, most: int | None
) -> tuple[list[dict], launchers.Broken | None]:
    """Give the runs to Hydra's launcher. Returns what became of each, and what broke the launcher, if anything did.

    most: workers of joblib, at most. Raises UserError if it broke before any run of the sweep began, unless a worker
    was killed.
    """
    from hydra import initialize_config_dir
    from hydra._internal.callbacks import Callbacks
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext, RunMode

    os.environ["NORMBENCH_SWEEP"] = str(os.getpid())
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("config", for_hydra, run_mode=RunMode.MULTIRUN)
        callbacks = Callbacks(config)
        context = HydraContext(config_loader=loader, callbacks=callbacks)
        name = config.hydra.runtime.choices["hydra/launcher"]
        inside = name == "basic"  # one run after the other, in this process
        if launched() > 1 and not inside:
            raise UserError(f"hydra/launcher={name}: torchrun's processes share one machine; leave the launcher out")
        kind = config.hydra.launcher._target_.rpartition(".")[2]
        task = watch.between(_in_turn(runs, since)) if inside else partial(attempt, since=since)
        made(config.hydra.sweep.dir)
        callbacks.on_multirun_start(config=config, config_name="config")
        try:
            task, overrides = launchers.prepare(kind, config.hydra.launcher, task, runs, len(watch.runs), most)
            launcher = Plugins.instance().instantiate_launcher(context, task, config)
            with nullcontext() if inside else watch.beside(), nullcontext() if inside else launchers.stoppable(runs):
                returns = launcher.launch(overrides, initial_job_idx=0)
        except (UserError, KeyboardInterrupt, Stopped):
            raise
        except Exception as error:
            if inside:
                raise
            broken = launchers.broken(name, error, config.hydra.launcher)
            if not broken.workers:
                if _begun(watch.runs) == watch.begun:
                    raise UserError(broken.told) from None
                traceback.print_exc()
            return [{} for _ in runs], broken
        callbacks.on_multirun_end(config=config, config_name="config")
    outcomes = [job.return_value for job in returns]
    return outcomes, None


def _in_turn(runs: list[Run], since: int | None):
    """The task of a launcher that takes the runs one after the other, here: each is resolved already."""
    settled = iter([run.config for run in runs])
    return lambda config: attempt(config, next(settled), since)


def _begun(runs: list[Run]) -> list[int | None]:
    """When each run last began: it writes its configuration first."""
    return _stamps(runs, "config.yaml")


def _stamps(runs: list[Run], name: str) -> list[int | None]:
    """When a file of each run was last written, None where there is none."""
    stamps = []
    for run in runs:
        try:
            stamps.append((run.directory.path / name).stat().st_mtime_ns)
        except OSError:
            stamps.append(None)
    return stamps


class Watch:
    """How far a sweep is, told on stderr whenever another run is over. todo: those of its runs that are to be done."""

    def __init__(self, runs: list[Run], todo: list[Run]):
        self.runs, self.todo, self.ended, self.started = runs, todo, 0, time.monotonic()
        self.begun, self.before = _begun(runs), _stamps(todo, "result.json")
        self.quiet = runs[0].config.logging.progress == "none" or not first()
        if len(todo) < len(runs):
            self._say(f"sweep: {len(runs) - len(todo)} of {len(runs)} runs were over already")

    def between(self, task):
        """The task, telling after each run how far the sweep is."""

        def told(config):
            outcome = task(config)
            self.tell()
            return outcome

        return told

    @contextmanager
    def beside(self):
        """Tell from a thread while others do the work."""
        over = threading.Event()

        def look():
            while not over.wait(POLL_SECONDS):
                self.tell()

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.tell()

    def tell(self) -> None:
        now = _stamps(self.todo, "result.json")
        ended = [run for run, new, old in zip(self.todo, now, self.before, strict=True) if new not in (None, old)]
        if len(ended) <= self.ended:
            return
        self.ended = len(ended)
        over = len(self.runs) - len(self.todo) + len(ended)
        words = [(run.directory.result() or {}).get("status") for run in ended]
        some = ", ".join(f"{words.count(word)} {word}" for word in ("diverged", "failed") if word in words)
        done, total = (sum(run.images for run in group) for group in (ended, self.todo))
        left = duration((total - done) * (time.monotonic() - self.started) / done)
        self._say(
            f"sweep: {over} of {len(self.runs)} runs are over"
            + (f" ({some})" if some else "")
            + (f", about {left} left" if total > done else "")
        )

    def _say(self, line: str) -> None:
        if not self.quiet:
            with suppress(OSError):  # nobody listens any more
                Console(file=sys.stderr).print(line, highlight=False, soft_wrap=True)
