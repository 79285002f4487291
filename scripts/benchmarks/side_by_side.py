"""Contestants in turns, in one process: what a figure of the benchmark is, and when there is none."""

import os
import statistics
import subprocess
import sys
import tempfile
import time

from normbench.errors import UserError

WARM_UP = 5
QUIET = 0.9  # of the time that passes has to be this process's, on one thread


def in_turns(name: str, those: dict[str, tuple], rounds: int, alone: bool = True) -> dict[str, list[float]]:
    """Of each contestant, its seconds a step and replicate in every round. Raises UserError on a busy machine.

    those: name → (a loop that returns the moments after its steps, WARM_UP of them uncounted; replicates of a step).
    """
    times = {contestant: [] for contestant in those}
    began, used = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        for contestant, (loop, replicates) in those.items():
            moments = loop()
            steps_done = len(moments) - WARM_UP
            times[contestant].append((moments[-1] - moments[WARM_UP - 1]) / steps_done / replicates)
    free = (time.process_time() - used) / (time.perf_counter() - began)
    if alone and free < QUIET:
        raise UserError(f"{name}: the processor was free for {free:.0%} of the time alone; wait for quiet")
    return times


def ratio(over: list[float], under: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def cost(command: list[str]) -> tuple[float, float, str]:
    """CPU seconds of a command, its largest memory in MiB, and what it says. Raises CalledProcessError."""
    return costs(command)[:3]


def costs(command: list[str], *statuses: int) -> tuple[float, float, str, float]:
    """The same, and the seconds that pass; of a command that may end with one of these statuses."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=None if not statuses else subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        passed = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, *statuses):
            raise subprocess.CalledProcessError(process.returncode, command)
        said.seek(0)
        memory = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        return usage.ru_utime + usage.ru_stime, memory, said.read(), passed
