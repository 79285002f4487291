"""Small sweeps as real processes, for the tests of the launchers."""

import csv
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from forked import Forked
from small_runs import TINY, last_of_each, without_times

from normbench.config.overrides import normalize, plan
from normbench.runs.planned import runs_of

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    *TINY,
    "data.train_size=64",
    "evaluation.precise_images=0",
    "epochs=12",
    "threads=0",
    "logging.tensorboard=false",
]


class Sweep:
    """`python -m normbench -m …` on two cores at most, in a session of its own with all that it starts."""

    def __init__(self, output: Path, *overrides: str, **environment: str):
        self.output, self.log = output, output.with_name(f"{output.name}.log")
        self.started = time.time()
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "NORMBENCH_"))}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "normbench", "-m", *last_of_each([*SMALL, f"output={output}", *overrides])],
                cwd=ROOT,
                env=inherited | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2]),
            )

    def ends(self, status: int) -> str:
        """Wait for its end with this exit status; returns what it printed."""
        assert self.process.wait(timeout=180) == status, self.log.read_text()
        return self.log.read_text()

    def keeps_a_checkpoint(self) -> None:
        """Wait until it has kept one of a run that is not over."""
        end = time.monotonic() + 120
        while not any(path.stat().st_mtime > self.started for path in checkpoints(self.output)):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def signal_all(self, number: int) -> None:
        """To it and what it started, as Ctrl-C does."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def left(self) -> list[int]:
        """Its processes that still live."""
        return [pid for pid, (state, _, session) in processes().items() if session == self.process.pid and state != "Z"]


def serially(output: Path) -> None:
    """The seeds 0 and 1 without a launcher, whatever there is of them already."""
    process = Forked(ROOT, "-m", *SMALL, f"output={output}", "seed=0,1", "threads=1")
    printed = process.communicate(timeout=180)
    assert process.returncode == 0, printed


def refused(output: Path, *overrides: str, **environment: str) -> str:
    """What is said of a sweep with a mistake in it, which ends with status 2."""
    process = Forked(ROOT, "-m", *SMALL, f"output={output}", *overrides, **environment)
    printed = process.communicate(timeout=180)
    assert process.returncode == 2, printed
    return "".join(printed)


def processes() -> dict[int, tuple[str, int, int]]:
    """Of each process of this machine: its state, its parent and its session."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            found[int(folder.name)] = state, int(parent), int(session)
    return found


def checkpoints(output: Path) -> list[Path]:
    """Those of the runs that are not over."""
    return [path for path in output.glob("*/checkpoint.pt") if not (path.parent / "result.json").exists()]


def occupy(output: Path, *overrides: str) -> Path:
    """Put a file where the folder of a run belongs, so that the run fails whenever it starts."""
    (job,), _, _ = plan(normalize([*SMALL, f"output={output}", *overrides]), False)
    (run,) = runs_of([job])
    output.mkdir(parents=True, exist_ok=True)
    run.directory.path.touch()
    return run.directory.path


def results(output: Path) -> dict[str, tuple[dict, list[dict]]]:
    """Of each run that is over: the content of result.json and the rows of metrics.csv, the times left out."""
    found = {}
    for path in output.glob("*/result.json"):
        result = json.loads(path.read_text(), object_hook=without_times)
        with open(path.parent / "metrics.csv") as file:
            found[path.parent.name] = result, [without_times(row) for row in csv.DictReader(file)]
    return found


def threads(output: Path) -> set[int]:
    return {json.loads(path.read_text())["threads"] for path in output.glob("*/env.json")}
