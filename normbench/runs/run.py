"""One run, from its configuration to its folder: lock, resume, train stack by stack, write the result."""

import os
import resource
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from omegaconf import OmegaConf

from normbench.analysis.lr_curve import LrTest
from normbench.config.identity import run_id
from normbench.config.sizes import samples_per_epoch
from normbench.data import load_dataset, prepare
from normbench.errors import InputError, UserError
from normbench.processes import Processes, join, launched, leave
from normbench.records.directory import RunDirectory
from normbench.records.environment import environment
from normbench.signals import Stopped, stop_requests
from normbench.tasks.build import check_network
from normbench.threads import cpu_threads
from normbench.training.find_lr import find_lr
from normbench.training.loop import TIMED_STEPS, Unwatched, train
from normbench.training.progress import Display


def execute(config) -> dict:
    """Do the run that a resolved configuration describes, or what is left of it; returns the content of result.json.

    A finished run is not repeated (`force=true` redoes it): its result comes back with `repeated` set. A stopped one
    goes on from its checkpoint. Raises UserError for what the user has to mend, Stopped after a signal. Any other error
    is recorded as status `failed`, then raised.
    """
    check_network(config, launched())
    processes, device = join(config.device)
    directory = RunDirectory(config.output, run_id(config, processes.count))
    try:
        with directory.locked() if processes.first else nullcontext():
            return _work(config, directory, device, processes)
    finally:
        leave()


def _work(config, directory: RunDirectory, device: str, processes: Processes) -> dict:
    earlier = processes.share(directory.result() if processes.first else None)
    if earlier and earlier["status"] != "failed" and not config.force:
        return earlier | {"repeated": True}

    threads = cpu_threads(config)
    torch.set_num_threads(threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    torch.use_deterministic_algorithms(config.deterministic)
    data = dataset(device, OmegaConf.to_yaml(config.data))
    _forget_peak_memory(device)
    saved = None
    if processes.first:
        directory.forget(everything=config.force)
        saved = directory.load_checkpoint()
        directory.start(config, environment(device, threads, processes.count))
    saved = processes.share(saved) or {"finished": [], "current": None}

    with stop_requests() as request, Session(config, directory, processes, request, saved) as session:
        try:
            return session.run(data, device)
        except UserError:
            raise
        except Exception as error:
            if processes.first:
                directory.write_result(
                    _header(config, directory, "failed") | {"error": f"{type(error).__name__}: {error}"}
                )
            raise


LOADING = ("name", "root", "train_size", "val_size", "test_size", "split_seed")


@lru_cache(maxsize=1)
def dataset(device: str, options: str):
    """The data on the training device, kept for the next run of a sweep. options: a configuration's `data`, as YAML."""
    options = OmegaConf.create(options)
    try:
        data = load_dataset(**{key: options[key] for key in LOADING})
        tensors = {name: value.to(device) for name, value in vars(data).items() if torch.is_tensor(value)}
        return prepare(replace(data, **tensors), options)
    except InputError as error:
        raise error.within("data") if "." not in error.key else error from None


def _header(config, directory, status) -> dict:
    return {
        "run_id": directory.path.name,
        "status": status,
        "model": config.model.name,
        "method": config.norm.name,
        "data": config.data.name,
        "batch_size": config.batch_size,
        "epochs": config.epochs,
    }


def trial(config) -> float:
    """Seconds that training takes per image and replicate, from a few steps of a stack on generated images.

    config: resolved. Data of another size in memory and the evaluations are left out, so that it is a little low.
    """
    config = OmegaConf.create(OmegaConf.to_container(config))
    config.batch_size = min(config.batch_size, 4096)  # there are 6,000 generated images
    size = config.batch_size * max(1, min(TIMED_STEPS, 5000 // config.batch_size))
    config.epochs, config.evaluation.precise_images, config.optim.warmup_samples = 1, 0, 0
    config.data.update(name="patterns", root=None, train_size=min(size, 5900), val_size=50, test_size=50)
    config.augment.tta, config.evaluation.suggest_lr = "none", False
    data = dataset(config.device, OmegaConf.to_yaml(config.data))
    torch.set_num_threads(cpu_threads(config))
    seeds = list(range(config.stack))
    started = time.perf_counter()
    entries, _ = train(config, data, seeds, config.device, Processes(), None, Unwatched())
    ms = entries[0]["ms_per_step"]
    seconds = ms / 1000 if ms else (time.perf_counter() - started) * config.batch_size / size
    return seconds / config.batch_size / config.stack


def range_test(config, **how) -> LrTest:
    """The learning-rate range test of all replicates of a resolved configuration. how: low, high, steps of find_lr."""
    torch.set_num_threads(cpu_threads(config))
    data = dataset(config.device, OmegaConf.to_yaml(config.data))
    seeds = list(range(config.seed, config.seed + config.replicates))
    return find_lr(config, data, seeds, config.device, **how)


class Session:
    """The work of one process on one run: it trains stack after stack, keeps what is done, shows how far it is.

    saved: `finished`, a list of stacks with their entries, rows and model; `current`, the state of the stack under way.
    """

    def __init__(self, config, directory, processes, request, saved):
        self.config, self.directory, self.processes, self.request = config, directory, processes, request
        self.finished, self.current = saved["finished"], saved["current"]
        self.board = self.display = None
        self.kept_at = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.display is not None:
            self.display.close()
        if self.board is not None:
            self.board.close()

    def run(self, data, device) -> dict:
        config = self.config
        seeds = range(config.seed, config.seed + config.replicates)
        for start in range(len(self.finished) * config.stack, config.replicates, config.stack):
            stack = list(seeds[start : start + config.stack])
            entries, state = train(config, data, stack, device, self.processes, self.current, self)
            if config.evaluation.suggest_lr:
                entries = self.with_suggested_lr(entries, data, stack, device, state)
            kept = {"seeds": stack, "entries": entries, "rows": state["rows"], "model": state["model"]}
            self.finished, self.current = [*self.finished, kept], None
            self.keep()
        entries = [entry for stack in self.finished for entry in stack["entries"]]
        lost = all(entry["status"] == "diverged" for entry in entries)
        result = _header(config, self.directory, "diverged" if lost else "finished") | {
            "seconds": round(sum(stack["entries"][0]["seconds"] for stack in self.finished), 3),
            "peak_memory_mb": _peak_memory_mb(device),
            "replicates": entries,
        }
        if self.processes.first:
            self.directory.write_metrics(self.rows())
            if self.board is not None:
                self.board.hparams(config, result)
            self.directory.write_result(result)
        return result

    def with_suggested_lr(self, entries, data, seeds, device, state) -> list[dict]:
        """The entries, each with the rate that a range test suggests for its seed; its time counts in `seconds`.

        state: to go on from if stopped.
        """
        started = time.perf_counter()
        test = find_lr(self.config, data, seeds, device, watch=lambda: self.watch(lambda: state))
        suggested, took = test.suggestions("steepest"), time.perf_counter() - started
        return [
            entry | {"suggested_lr": suggested[entry["seed"]].lr, "seconds": round(entry["seconds"] + took, 3)}
            for entry in entries
        ]

    # --- What the loop calls. ---

    def begin(self, seeds, rows, steps_done: int) -> None:
        """A stack starts, or goes on after `steps_done` steps."""
        self.current_rows = list(rows)
        if not self.processes.first:
            return
        config = self.config
        steps = config.epochs * (samples_per_epoch(config) // config.batch_size)
        if self.display is not None:
            self.display.close()
        name = self.directory.path.name
        if len(seeds) < config.replicates:
            name += f" seed {seeds[0]}" + (f"–{seeds[-1]}" if len(seeds) > 1 else "")
        self.display = Display(
            config.logging.progress, name, config.epochs, steps, steps_done, config.batch_size * len(seeds)
        )
        if steps_done:
            self.display.print(f"{name}: going on from step {steps_done} of {steps}")
        if config.logging.tensorboard and self.board is None:
            from normbench.records.tensorboard import Board

            self.board = Board(self.directory)

    def step(self, epoch: int, losses, state, loss) -> None:
        """A training step is done.

        losses: R, of its batch. state: a function that gives all that a later session needs; loss: one for the mean
        loss of the epoch so far.
        """
        if self.display is not None:
            self.display.step(epoch, loss)
        if time.monotonic() - self.kept_at >= self.config.checkpoint_seconds and self.processes.first:
            self.current = state()
            self.keep()
        self.watch(state)

    def watch(self, state) -> None:
        """Stop here if a signal asked for it."""
        if self.processes.agree(bool(self.request)):
            self.current = state()
            self.keep()
            raise Stopped(self.request.number or 15)

    def epoch(self, rows, state) -> None:
        """An epoch is done and validated. rows: its rows of metrics.csv; state: as for step, but at hand."""
        self.current, self.current_rows = state, state["rows"]
        if not self.processes.first:
            return
        self.directory.write_metrics(self.rows())
        self.keep()
        self.display.epoch(rows)
        if self.board is not None:
            self.board.scalars(rows)

    def histograms(self, epoch: int, model) -> None:
        """The last step of an epoch, gradients at hand."""
        every = self.config.logging.histogram_epochs
        if self.board is not None and every and (epoch + 1) % every == 0:
            steps = samples_per_epoch(self.config) // self.config.batch_size
            self.board.histograms(model, (epoch + 1) * steps)

    # --- What is kept. ---

    def rows(self) -> list[dict]:
        """The rows of metrics.csv: those of the stacks that are done, and of the one under way."""
        done = [row for stack in self.finished for row in stack["rows"]]
        return done + (self.current_rows if self.current is not None else [])

    def keep(self) -> None:
        if self.processes.first:
            self.directory.save_checkpoint({"finished": self.finished, "current": self.current})
            self.kept_at = time.monotonic()


def _forget_peak_memory(device: str) -> None:
    """Start measuring anew: earlier runs of this process must not count. (Linux and CUDA can, others cannot.)"""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak_memory_mb(device: str) -> float:
    """Of the device's memory on CUDA, else the largest resident size of this process, torch itself included."""
    if device != "cpu":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10, 1)
    except (OSError, StopIteration):
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
