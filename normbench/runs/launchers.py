"""Hydra's launchers: what each has to be told, how the work of one is stopped."""

import multiprocessing
import os
import re
import signal
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from omegaconf import OmegaConf

from normbench.errors import InputError
from normbench.signals import Stopped, leave_alone, stopping

CONNECT_SECONDS = 5.0  # for a Ray cluster to answer; Ray itself tries for two minutes
CHECKPOINT_SECONDS = 20.0  # for the workers of a stopped sweep to reach the end of a step and keep it


def prepare(
    kind: str, launcher, task, runs: list, count: int, most: int | None = None
) -> tuple[object, list[list[str]]]:
    """Settle a launcher's configuration for some runs. Returns the task for it, and the overrides of each run.

    kind: the launcher's class. count: how many runs the sweep has, those that are over included. most: workers of
    joblib. Raises InputError for a Ray cluster that does not answer.
    """
    threads = _threads(kind, launcher, count)
    if kind == "JoblibLauncher":
        # A worker that never had a run would not leave signals alone.
        launcher.n_jobs = min(_jobs(launcher), len(runs), most or len(runs))
        task = partial(_in_joblib, task)
    if kind == "RayLauncher":
        _start_ray(launcher.ray)
    overrides = []
    for run in runs:
        added = [f"threads={threads}"] if threads and run.config.threads == 0 else []
        if kind == "RayLauncher":  # its workers start in a folder of their own
            folders = {"output": run.config.output, "data.root": run.config.data.root}
            added += [f"{key}={_quoted(Path(path).absolute())}" for key, path in folders.items() if path is not None]
        if isinstance(run.job.config.optim.lr, str):  # tuned: settled once, whatever table the worker would find
            added.append(f"optim.lr={run.config.optim.lr}")
        overrides.append([*run.job.overrides, *added])
    return task, overrides


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _jobs(launcher) -> int:
    """How many processes joblib would have: -1 stands for the number of cores, -2 for one less."""
    return launcher.n_jobs if launcher.n_jobs >= 0 else max(1, _cores() + 1 + launcher.n_jobs)


def _threads(kind: str, launcher, count: int) -> int:
    """Threads of each run, so that those of one machine do not fight for its cores; 0 leaves them to torch.

    It is the same however many of the runs are left: the number of threads changes the rounding.
    """
    if kind == "JoblibLauncher":
        return max(1, _cores() // max(1, min(_jobs(launcher), count)))
    if kind == "RayLauncher":
        return max(1, int(launcher.ray.remote.get("num_cpus", 1)))
    if kind == "LocalLauncher":  # submitit's: all runs start at once
        return launcher.cpus_per_task or max(1, _cores() // count)
    return launcher.get("cpus_per_task") or 0


def _start_ray(config) -> None:
    """Start Ray, or join the cluster at `init.address`, before the launcher does and before our signal handlers."""
    import ray

    if ray.is_initialized():
        return
    settings = OmegaConf.to_container(config.init, resolve=True)
    address = settings.get("address") or os.environ.get("RAY_ADDRESS", "")
    if host_and_port := re.fullmatch(r"(?:ray://)?(.+):(\d+)", address):
        try:
            socket.create_connection(host_and_port.groups(), CONNECT_SECONDS).close()
        except OSError as error:
            key = "hydra.launcher.ray.init.address"
            raise InputError(key, address, f"no Ray cluster answers there: {error.strerror or error}") from None
    variables = {"NORMBENCH_COMMAND": os.environ.get("NORMBENCH_COMMAND", "as a library")}  # workers have others
    settings.setdefault("runtime_env", {}).setdefault("env_vars", {}).update(variables)
    alone = (
        {} if address else {"include_dashboard": False, "object_store_memory": 75 * 2**20}
    )  # hardly used: Ray's least
    ray.init(**alone | settings)


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", r"\'") + "'"


def _in_joblib(task, config):
    """A task in a worker of joblib, which leaves signals to its runs: if it died between them, joblib would kill the
    other workers before they have kept their checkpoints."""
    if os.getpid() != int(os.environ.get("NORMBENCH_SWEEP", 0)):  # with one process it works in the command's own
        leave_alone()
    return task(config)


@contextmanager
def stoppable(runs: list):
    """While a launcher works, the signals that stop raise Stopped, once joblib's workers have kept their checkpoints.

    A second signal does not wait for them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = []

    def stop(number, frame):
        received.append(number)
        restore()
        workers = multiprocessing.active_children()  # joblib's; those of Ray and submitit are no children
        busy = [run.directory for run in runs if workers and run.directory.status() == "running"]
        for worker in workers:
            worker.terminate()
        deadline = time.monotonic() + CHECKPOINT_SECONDS
        while time.monotonic() < deadline and any(directory.status() == "running" for directory in busy):
            time.sleep(0.1)
        raise KeyboardInterrupt  # Ray, while it waits, lets no other exception through

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, stop) for number in stopping()}
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(received[0] if received else signal.SIGINT) from None
    finally:
        restore()


@dataclass(frozen=True)
class Broken:
    """What broke a launcher, in one line. workers: how many joblib had when one of them was killed, else 0."""

    told: str
    workers: int = 0


def broken(name: str, error: Exception, launcher) -> Broken:
    """What went wrong with a launcher: the last line of what may be a message from another process.

    launcher: its configuration, as `prepare` left it.
    """
    if type(error).__name__ == "TerminatedWorkerError":  # joblib's, which names those of its workers that ended
        ended = re.search(r"\{(.+?)\}", str(error))
        how = f"was killed by {ended[1]}" if ended else "was killed"
        told = f"hydra/launcher={name}: a worker {how}, as the kernel does where memory is short (lower n_jobs)"
        return Broken(told, launcher.n_jobs)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return Broken(f"hydra/launcher={name}: {type(error).__name__}: {lines[-1] if lines else ''}")
