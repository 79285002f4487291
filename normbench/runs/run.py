"""One run, from its configuration to its folder: lock, resume, measure stack by stack, write the result."""

from contextlib import nullcontext

from normbench.errors import UserError
from normbench.measures import MEASURES
from normbench.processes import Processes, join, launched, leave
from normbench.records.directory import RunDirectory, seeds_of
from normbench.records.environment import environment
from normbench.signals import stop_requests
from normbench.tasks import make_task
from normbench.training.machine import cpu_threads, make_ready, peak_memory_mb
from normbench.training.session import Session


def execute(config) -> dict:
    """Do the run that a resolved configuration describes, or what is left of it; returns the content of result.json.

    A finished run is not repeated (`force=true` redoes it): its result comes back with `repeated` set. A stopped one
    goes on from its checkpoint. Raises UserError for what the user has to mend, Stopped after a signal. Any other error
    is recorded as status `failed`, then raised.
    """
    MEASURES[config.measure.name].check(config, launched())
    processes, device = join(config.device)
    directory = RunDirectory.of(config, processes.count)
    try:
        if line := directory.another():
            raise UserError(line)
        with directory.locked() if processes.first else nullcontext():
            return _work(config, directory, device, processes)
    finally:
        leave()


def _work(config, directory: RunDirectory, device: str, processes: Processes) -> dict:
    earlier = processes.share(directory.result() if processes.first else None)
    if earlier and earlier["status"] != "failed" and not config.force:
        return earlier | {"repeated": True}

    make_ready(config, device)
    measurement = MEASURES[config.measure.name]
    seeds = seeds_of(config)
    stacks = [seeds[start : start + config.stack] for start in range(0, config.replicates, config.stack)]
    if measurement.images:  # what is wrong with the data shows before anything is written
        make_task(config, stacks[0], device, processes).load()
    kept = None
    if processes.first:
        directory.forget(everything=config.force)
        kept = directory.load_checkpoint()
        directory.start(config, environment(device, cpu_threads(config), processes.count))
    kept = processes.share(kept) or {"finished": [], "current": None}

    with stop_requests() as request, Session(config, directory, processes, request, kept) as session:
        try:
            for stack in stacks[len(session.finished) :]:
                task = make_task(config, stack, device, processes)
                session.finish(stack, *measurement.measure(config, task, session))
            return _conclude(config, directory, session, peak_memory_mb(device))
        except UserError:
            raise
        except Exception as error:
            if processes.first:
                directory.write_result(
                    _header(config, directory, "failed") | {"error": f"{type(error).__name__}: {error}"}
                )
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
        if session.board is not None:
            session.board.hparams(config, result)
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
