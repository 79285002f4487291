"""The folder of one run: what it holds, how it is locked, and how its files are written: whole or not at all."""

import csv
import io
import itertools
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from normbench.config.identity import earlier, identity, run_id
from normbench.errors import InputError, UserError
from normbench.records.checkpoint import Unfit
from normbench.records.checkpoint import packed as packed_state
from normbench.records.checkpoint import unpacked as unpacked_state
from normbench.records.correct import FILE, packed
from normbench.records.files import plainly, write_whole
from normbench.records.metrics import METRICS

CHECKPOINT = "checkpoint.pt"
PROBE_SECONDS = 1.0  # longer than another process takes to look whether the lock is held


class Busy(UserError):
    """Another process is working on this run."""


class RunDirectory:
    """`OUTPUT/RUN_ID/`: config.yaml, env.json, metrics.csv, checkpoint.pt, tensorboard/, correct.npz, result.json."""

    def __init__(self, output: str | Path, run_id: str):
        self.path = Path(output) / run_id

    @classmethod
    def of(cls, config, processes: int = 1) -> "RunDirectory":
        """The folder of a resolved configuration: that of its name, or of its earlier name where that one is there."""
        name = run_id(config, processes)
        now, before = cls(config.output, name), cls(config.output, earlier(name))
        return before if not now.path.is_dir() and before.holds(config, processes) else now

    def holds(self, config, processes: int = 1) -> bool:
        """Whether the folder is there, and is that of a resolved configuration."""
        try:
            there = OmegaConf.load(self.path / "config.yaml")
            return identity(there, self.environment().get("processes", 1)) == identity(config, processes)
        except (OSError, YAMLError, OmegaConfBaseException, AttributeError):
            return False

    @contextmanager
    def locked(self):
        """Hold the run for this process alone. Raises Busy if another one holds it, UserError if it cannot be made."""
        made(self.path.parent)
        made(self.path, self.path.parent)
        with plainly(self.path):
            lock = FileLock(self.path / ".lock")
            try:
                lock.acquire(timeout=PROBE_SECONDS)
            except Timeout:
                raise Busy(f"{self.path}: another process is working on this run; nothing was done") from None
        try:
            yield self
        finally:
            lock.release()

    def result(self) -> dict | None:
        """What result.json says, or None while the run is not over."""
        try:
            return json.loads((self.path / "result.json").read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            return None

    def environment(self) -> dict:
        """What env.json says; nothing where there is none."""
        try:
            return json.loads((self.path / "env.json").read_text("utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def status(self) -> str:
        """finished, diverged, failed, running (some process holds it), stopped, or missing (never begun)."""
        if result := self.result():
            return result["status"]
        if not self.path.is_dir():
            return "missing"
        try:
            with FileLock(self.path / ".lock").acquire(timeout=0):
                pass
        except Timeout:
            return "running"
        except OSError:  # a folder that may be read but not written: nobody works there as this user
            pass
        if result := self.result():  # it ended since the first look
            return result["status"]
        return "stopped" if (self.path / "config.yaml").exists() else "missing"

    def forget(self, everything: bool) -> None:
        """Forget an earlier failure, to try again from its checkpoint; or everything, to run again from the start."""
        with plainly(self.path):
            for name in ("result.json", CHECKPOINT, "metrics.csv", FILE) if everything else ("result.json",):
                (self.path / name).unlink(missing_ok=True)
            if everything:
                for events in (self.path / "tensorboard").glob("events.*"):
                    events.unlink()

    def begun(self) -> int:
        """When a session last began here, in nanoseconds: it writes the configuration first. 0: none ever did."""
        try:
            return (self.path / "config.yaml").stat().st_mtime_ns
        except OSError:
            return 0

    def start(self, config: DictConfig, environment: dict) -> None:
        self._write("config.yaml", OmegaConf.to_yaml(config))
        self._write("env.json", _json(environment))

    def write_metrics(self, rows: list[dict], columns: Sequence[str] = METRICS) -> None:
        """metrics.csv: the series of a run, such as a row per epoch and replicate, by seed and then step.

        columns: of the series; where a measurement has none there is no file.
        """
        if not columns:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: [row.get(place, 0) for place in ("seed", "epoch", "step")]))
        self._write("metrics.csv", text.getvalue())

    def write_correct(self, right: Mapping[str, np.ndarray]) -> None:
        """correct.npz, where there is anything in it: which test images each replicate told rightly, by name."""
        if right:
            self._write(FILE, packed(right))

    def write_result(self, result: dict) -> None:
        self._write("result.json", _json(result))

    def save_checkpoint(self, state: dict) -> None:
        # Through memory: torch's own file writer hides the reason of a failed write.
        self._write(CHECKPOINT, packed_state(state, self.path.name))

    def load_checkpoint(self) -> dict | None:
        """The last checkpoint, or None. Raises Unfit for one to set aside, UserError for one that may not be read."""
        path = self.path / CHECKPOINT
        try:
            return unpacked_state(path.read_bytes(), self.path.name)
        except FileNotFoundError:
            return None
        except IsADirectoryError:
            raise Unfit("a folder") from None
        except OSError as error:
            cure = "make it readable, or move it away to begin anew"
            raise UserError(f"{path}: {error.strerror or error}; {cure}") from None

    def set_aside(self, reason: Unfit) -> None:
        """Begin anew, and say so: the checkpoint is renamed, whatever else was written of its run is forgotten."""
        path = self.path / CHECKPOINT
        names = (f"{CHECKPOINT}.damaged{number or ''}" for number in itertools.count())
        aside = next(name for name in names if not os.path.lexists(self.path / name))
        with plainly(path):
            os.replace(path, self.path / aside)
        self.forget(everything=True)
        print(f"normbench: {path}: {reason}; set aside as {aside}, the run begins anew", file=sys.stderr)

    def _write(self, name: str, content: str | bytes) -> None:
        write_whole(self.path / name, content)


def made(folder: str | Path, output: str | Path | None = None) -> None:
    """Make an output folder, or one within it. Raises InputError."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError("output", output or folder, f"{folder}: {error.strerror or error}") from None


def _json(value) -> str:
    return json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"


def _finite(value):
    """JSON has no NaN: a number that is none becomes null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
