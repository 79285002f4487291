"""One run, from its configuration to its folder: lock, resume, measure stack by stack, write the result."""

from contextlib import ExitStack

import torch

from normbench.errors import UserError
from normbench.measures import MEASURES
from normbench.processes import Processes, join, launched, leave
from normbench.records.checkpoint import Unfit
from normbench.records.damage import tell
from normbench.records.directory import RunDirectory, seeds_of
from normbench.records.environment import environment
from normbench.signals import stop_requests
from normbench.tasks import make_task
from normbench.tasks.build import kernels_of
from normbench.training.machine import cpu_threads, make_ready, peak_memory_mb
from normbench.training.session import Session

NOTHING = {"finished": [], "current": None}  # a checkpoint of a run that has yet to begin
OF_ANOTHER = "of another version"
MISFITS = (LookupError, TypeError, ValueError, AttributeError, RuntimeError)  # what restoring another's state raises


def execute(config, since: int | None = None) -> dict:
    """Do the run that a resolved configuration describes, or what is left of it; returns the content of result.json.

    A finished run is not repeated: its result comes back with `repeated` set. A stopped one goes on from its
    checkpoint; one whose checkpoint is damaged begins anew, and says so. With `force=true` what was begun before
    `since` is forgotten (nanoseconds, of `runs.forced`), whatever there is where that is None. Raises UserError for
    what the user has to mend, Stopped after a signal. Any other error is recorded as status `failed`, then raised.
    """
    MEASURES[config.measure.name].check(config, launched())
    processes, device = join(config.device)
    directory = RunDirectory.of(config, processes.count)
    try:
        with ExitStack() as held:
            processes.in_first(lambda: _hold(directory, held))
            return _work(config, directory, device, processes, since)
    finally:
        leave()


def _work(config, directory: RunDirectory, device: str, processes: Processes, since: int | None) -> dict:
    anew, earlier = processes.in_first(lambda: _earlier(config, directory, since))
    if earlier and earlier["status"] != "failed":
        return earlier | {"repeated": True}

    make_ready(config, device)
    if MEASURES[config.measure.name].images:  # what is wrong with the data shows before anything is written
        make_task(config, seeds_of(config)[: config.stack], device, processes).load()
    env = environment(device, cpu_threads(config), processes.count, kernels_of(config, processes.count))
    kept = processes.in_first(lambda: _begin(config, directory, env, anew))
    try:
        return _measure(config, directory, device, processes, kept)
    except Unfit as unfit:  # it is whole, and yet nothing that this version goes on from
        reason = unfit
    processes.in_first(lambda: directory.set_aside(reason))
    return _measure(config, directory, device, processes, NOTHING)


def _hold(directory: RunDirectory, held: ExitStack) -> None:
    """Lock the folder. Raises UserError, before anything is written, where it is another run's."""
    if line := directory.another():
        raise UserError(line)
    held.enter_context(directory.locked())


def _earlier(config, directory: RunDirectory, since: int | None) -> tuple[bool, dict | None]:
    """Whether to begin anew, because of force; and else the result that there is."""
    anew = config.force and (since is None or directory.begun() < since)
    return anew, None if anew else directory.result()


def _begin(config, directory: RunDirectory, env: dict, anew: bool) -> dict:
    """Make the folder that of this session; returns the content of the checkpoint that it goes on from."""
    directory.forget(everything=anew)
    try:
        kept = _kept(directory, list(seeds_of(config)))
    except Unfit as unfit:
        directory.set_aside(unfit)
        kept = NOTHING
    directory.start(config, env)
    return kept


def _kept(directory: RunDirectory, seeds: list) -> dict:
    """The content of the checkpoint, if there is one. Raises Unfit for one that is not of these seeds."""
    kept = directory.load_checkpoint() or NOTHING
    try:
        begun = [seed for stack in kept["finished"] for seed in stack["seeds"]] + _under_way(kept)
        if "current" in kept and begun == seeds[: len(begun)]:
            return _with_room(kept, directory)
    except (TypeError, LookupError):  # what another version kept
        pass
    raise Unfit(OF_ANOTHER)


def _with_room(kept: dict, directory: RunDirectory) -> dict:
    """Without the state under way where it has more replicates side by side than are wanted now: memory was short."""
    seeds, stack = _under_way(kept), directory.config.stack
    if len(seeds) <= stack:
        return kept
    tell(f"{directory.path}: seeds {seeds[0]} to {seeds[-1]} begin anew, stack={stack} in place of {len(seeds)}")
    return kept | {"current": None, "seeds": None}


def _stacks(config, kept: dict) -> list[list[int]]:
    """The seeds that are left, as many side by side as the configuration has it; those under way as they were begun."""
    left = list(seeds_of(config))[sum(len(stack["seeds"]) for stack in kept["finished"]) :]
    under_way = _under_way(kept)
    left = left[len(under_way) :]
    rest = [left[start : start + config.stack] for start in range(0, len(left), config.stack)]
    return [under_way, *rest] if under_way else rest


def _under_way(kept: dict) -> list[int]:
    """The seeds of the state that is kept; none where an earlier version kept it, which did not say them."""
    return [] if kept["current"] is None else kept.get("seeds") or []


def _measure(config, directory: RunDirectory, device: str, processes: Processes, kept: dict) -> dict:
    """Measure the stacks that are left, and conclude. Raises Unfit where the checkpoint does not fit."""
    with stop_requests() as request, Session(config, directory, processes, request, kept) as session:
        try:
            for stack in _stacks(config, kept):
                task = make_task(config, stack, device, processes)
                session.finish(stack, *MEASURES[config.measure.name].measure(config, task, session))
            return _conclude(config, directory, session, peak_memory_mb(device))
        except (UserError, Unfit):
            raise
        except Exception as error:
            if session.going_on and isinstance(error, MISFITS) and not isinstance(error, torch.OutOfMemoryError):
                raise Unfit(OF_ANOTHER) from error
            if processes.first:
                failure = {"error": f"{type(error).__name__}: {error}"}
                directory.write_result(_header(config, directory, "failed") | failure)
            raise


def _conclude(config, directory: RunDirectory, session: Session, memory: float) -> dict:
    entries = [entry for stack in session.finished for entry in stack["entries"]]
    lost = all(entry["status"] == "diverged" for entry in entries)
    result = _header(config, directory, "diverged" if lost else "finished") | {
        "seconds": round(sum(stack["entries"][0]["seconds"] for stack in session.finished), 3),
        "peak_memory_mb": memory,
        "replicates": entries,
    }
    if session.processes.first:
        session.write_rows()
        session.log_result(result)
        directory.write_correct(session.right())
        directory.write_result(result)
    return result


def _header(config, directory: RunDirectory, status: str) -> dict:
    return {
        "run_id": directory.path.name,
        "status": status,
        "model": config.model.name,
        "method": config.norm.name,
        "data": config.data.name,
        "batch_size": config.batch_size,
        "epochs": config.epochs,
    }
