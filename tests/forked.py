"""`python -m normbench …` in a process of its own that finds torch imported: forked from a server that imports it once.

A fresh interpreter spends seconds on that alone; each feature has a test with a fresh one too.
"""

import itertools
import multiprocessing
import os
import signal
import sys
import tempfile
from multiprocessing import forkserver, reduction
from pathlib import Path
from subprocess import TimeoutExpired
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
FORKSERVER = multiprocessing.get_context("forkserver")
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


class Forked:
    """A command under way, with the part of subprocess.Popen that the tests use."""

    def __init__(self, cwd: Path, *arguments: str, **environment: str):
        server()
        environment = os.environ | ENVIRONMENT | environment
        self._files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115 - open until it is over
        outputs = [reduction.DupFd(file.fileno()) for file in self._files]
        self._process = FORKSERVER.Process(target=_main, args=(str(cwd), arguments, environment, outputs))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """Its exit status, or minus the number of the signal that ended it; None before its end."""
        return self._process.exitcode

    poll = returncode.fget

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end: what it printed, and what it said on standard error."""
        self._process.join(timeout)
        if self.returncode is None:
            raise TimeoutExpired("normbench", timeout)
        for file in self._files:
            file.seek(0)
        return tuple(file.read() for file in self._files)

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)


def server() -> None:
    """Start the server, unless there is one."""
    FORKSERVER.set_forkserver_preload(["imported"])
    with mock.patch.dict(os.environ, ENVIRONMENT, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests")])):
        forkserver.ensure_running()


def _main(cwd, arguments, environment, outputs) -> None:
    from normbench.__main__ import main

    for number, output in enumerate(outputs, 1):
        os.dup2(output.detach(), number)
    os.environ.clear()
    os.environ |= {key: value for key, value in environment.items() if key != "NORMBENCH_COMMAND"}
    os.chdir(cwd)
    if at := int(environment.get("KILL_AT", 0)):
        _killed_at(at)
    sys.argv = ["normbench", *arguments]
    sys.exit(main())


def _killed_at(count: int) -> None:
    """Have kill -9 come just before or after (by turns) a file is moved to its place for the nth time, here."""
    replace, moves = os.replace, itertools.count(1)

    def moving(source, target):
        now = next(moves) == (count + 1) // 2
        if now and count % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = moving
