"""The folder of one run: what it holds, how it is locked, and how its files are written: whole or not at all."""

import csv
import io
import itertools
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from normbench.config.identity import earlier, identity, run_id, tail
from normbench.config.values import Values, to_yaml
from normbench.errors import InputError, UserError
from normbench.processes import launched
from normbench.records import checkpoint
from normbench.records.checkpoint import Unfit
from normbench.records.configuration import digest_of, identity_of, signed
from normbench.records.correct import FILE, of_run, packed
from normbench.records.damage import tell, undamaged
from normbench.records.files import plainly, write_whole
from normbench.records.metrics import METRICS
from normbench.records.result import environment_of, result_of
from normbench.records.series import series_of
from normbench.words import typed

CHECKPOINT = "checkpoint.pt"
PROBE_SECONDS = 1.0  # longer than another process takes to look whether the lock is held


def seeds_of(config) -> range:
    """The seeds of a configuration."""
    return range(config.seed, config.seed + config.replicates)


class Busy(UserError):
    """Another process is working on this run."""


class RunDirectory:
    """`OUTPUT/RUN_ID/`: config.yaml, env.json, metrics.csv, checkpoint.pt, tensorboard/, correct.npz, result.json."""

    def __init__(self, output: str | Path, run_id: str, config=None):
        """config: of the run, resolved, where it is known."""
        self.path, self.config = Path(output) / run_id, config

    @classmethod
    def of(cls, config, processes: int = 1) -> "RunDirectory":
        """The folder of a resolved configuration: that of its name, or of its earlier name where that one is there."""
        name = run_id(config, processes)
        now, before = cls(config.output, name, config), cls(config.output, earlier(name), config)
        return before if not now.path.is_dir() and before.path.is_dir() and before.holds(name) else now

    def holds(self, name: str) -> bool:
        """Whether its config.yaml is that of the run of this name."""
        there = undamaged(digest_of, self.path / "config.yaml")
        return there is not None and there.startswith(tail(name))

    def another(self) -> str | None:
        """A line that says whose the folder is, where its config.yaml is not that of the run of its name; else None."""
        there = undamaged(digest_of, self.path / "config.yaml")
        if there is None or there.startswith(tail(self.path.name)):
            return None
        how = "than its name says" if self.config is None else f"({self._differing()})"
        return f"{self.path}: its config.yaml is another configuration {how}; move the folder away, or set output"

    def _differing(self) -> str:
        """`optim.lr is 0.2 there and 0.1 here`, of the first key that differs."""
        there = undamaged(identity_of, self.path / "config.yaml", otherwise={})
        here = identity(self.config, launched())
        keys = [key for key in sorted(there.keys() | here.keys()) if there.get(key, "") != here.get(key, "")]
        told = [f"{key} is {_exact(there.get(key))} there and {_exact(here.get(key))} here" for key in keys[:1]]
        return ", ".join(told + [f"and {len(keys) - 1} more differ"] * (len(keys) > 1))

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
        """What result.json says; None while the run is not over, and where the file is damaged or not of this run."""
        seeds = None if self.config is None else seeds_of(self.config)
        there = undamaged(result_of, self.path / "result.json", seeds)
        if there is None or self.holds(self.path.name):
            return there
        tell(self.another() or f"{self.path}: a result without its config.yaml is nobody's; it counts as not there")
        return None

    def environment(self) -> dict:
        """What env.json says; nothing where there is none, or a damaged one."""
        return undamaged(environment_of, self.path / "env.json", otherwise={})

    def metrics(self, columns: Iterable[str]) -> list[dict[str, str]]:
        """The rows of metrics.csv, which must have these columns; none where there are none, or it is damaged."""
        return undamaged(series_of, self.path / "metrics.csv", columns, otherwise=[])

    def correct(self) -> dict[str, np.ndarray]:
        """The arrays of correct.npz; none where there are none, or it is damaged."""
        return undamaged(of_run, self.path / FILE, otherwise={})

    def status(self) -> str:
        """finished, diverged, failed, running (some process holds it), stopped, or missing (never begun).

        A folder that is another's counts as missing.
        """
        if result := self.result():
            return result["status"]
        if not os.path.isdir(self.path):
            return "missing"
        if line := self.another():
            tell(line)
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
        return "stopped" if self.holds(self.path.name) else "missing"

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

    def start(self, config: Values, environment: dict) -> None:
        leaves = identity(config, environment.get("processes", 1))
        self._write("config.yaml", signed(to_yaml(config), leaves))
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
        self._write(CHECKPOINT, checkpoint.packed(state, self.path.name))

    def load_checkpoint(self) -> dict | None:
        """The last checkpoint, or None. Raises Unfit for one to set aside, UserError for one that may not be read."""
        path = self.path / CHECKPOINT
        try:
            return checkpoint.unpacked(path.read_bytes(), self.path.name)
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


def _exact(value) -> str:
    """As a user types it, to the last digit."""
    return str(value) if isinstance(value, float) else typed(value)


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
