"""How long a command takes before, or without, training: CPU seconds of whole processes, and those that pass."""

import statistics
import sys
import tempfile

from benchmarks.side_by_side import costs

RUN = ("data.train_size=64", "data.test_size=20", "data.val_size=20", "epochs=1", "batch_size=32", "threads=1")
RUN += ("evaluation.precise_images=0", "device=cpu", "logging.progress=none", "logging.tensorboard=false")


def rows(rounds: int) -> list[dict]:
    """A row a command. CIFAR-10 is fetched first where it is not there."""
    with tempfile.TemporaryDirectory() as folder:
        run = [*RUN, f"output={folder}"]
        costs(command(*run))
        commands = {
            "--help": (["--help"], ()),
            "a mistake": (["norm=grop"], (2,)),
            "a run that is over": (run, ()),
            "a run of two steps on CIFAR-10": ([*run, "force=true"], ()),
        }
        return [row(what, words, statuses, rounds) for what, (words, statuses) in commands.items()]


def row(what: str, words: list[str], statuses: tuple[int, ...], rounds: int) -> dict:
    found = [costs(command(*words), *statuses) for _ in range(rounds)]
    return {
        "command": what,
        "cpu_seconds": statistics.median(one[0] for one in found),
        "seconds": statistics.median(one[3] for one in found),
    }


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "normbench", *words]
