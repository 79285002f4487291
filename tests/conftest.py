import logging
import os
import runpy
import subprocess
import sys
import threading
from copy import deepcopy
from functools import cache
from io import StringIO
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from small_runs import TINY, last_of_each
from training_runs import SMALL, metrics

from normbench import data
from normbench.__main__ import main
from normbench.config.overrides import normalize, plan
from normbench.config.resolve import resolve
from normbench.runs.run import execute

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_command(monkeypatch):
    """What one test's command left in the environment is not taken for the next one's."""
    monkeypatch.setenv("NORMBENCH_COMMAND", "")  # so that it is undone
    monkeypatch.delenv("NORMBENCH_COMMAND")


@pytest.fixture(scope="session")
def tiny():
    """Overrides of a run of a second."""
    return TINY


@pytest.fixture(scope="session")
def compose():
    """Overrides → the composed configuration."""
    return lambda *typed: plan(normalize(list(typed)), False)[0][0].config


@pytest.fixture(scope="session")
def run_in():
    """run_in(output, "norm=group", …) → (result, rows of metrics.csv as text without the times, folder of the run)."""

    def run(output, *overrides):
        jobs, _, _ = plan(normalize([*SMALL, f"output={output}", *overrides]), False)
        result = execute(resolve(jobs[0].config))
        folder = Path(output) / result["run_id"]
        return result, metrics(folder), folder

    return run


@pytest.fixture
def run(run_in, tmp_path):
    """run_in with a folder of its own, unless it is told one."""
    return lambda *overrides, output=tmp_path / "outputs": run_in(output, *overrides)


@pytest.fixture(scope="session")
def popen():
    """Start `python -m normbench …` in a process of its own."""

    def start(cwd, *arguments, **options):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment.pop("NORMBENCH_COMMAND", None)
        return subprocess.Popen(
            [sys.executable, "-m", "normbench", *last_of_each(arguments)],
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    return start


@pytest.fixture
def command(monkeypatch, capfd, tmp_path):
    """Run the command line in this process, in an empty folder: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    # pytest keeps to itself what a thread dies of: put it back where a user would see it.
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)

    def run(*arguments):
        for name in ("NORMBENCH_COMMAND", "HYDRA_FULL_ERROR"):  # main sets them: undone after the test
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        monkeypatch.setattr(sys, "argv", ["normbench", *last_of_each(arguments)])
        capfd.readouterr()
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        try:
            status = main()
        finally:  # --info turns on Hydra's debug log
            root.handlers[:] = handlers
            root.setLevel(level)
        out, err = capfd.readouterr()
        return status, out, err

    return run


@pytest.fixture
def run_script(monkeypatch):
    """Run a script within this process, which saves its imports."""

    def run(name, *arguments, cwd):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")

    return run


@pytest.fixture(scope="session", autouse=True)
def _patterns_drawn_once():
    """For the runs within this process: they take longer to draw than to train on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data.LOADERS, "patterns", cache(data.LOADERS["patterns"]))
        yield


@pytest.fixture(scope="session", autouse=True)
def _configuration_files_parsed_once():
    """For what is composed within this process: Hydra reads every file anew for each run of a sweep."""
    load = OmegaConf.load
    parsed = cache(lambda text: load(StringIO(text)))
    with pytest.MonkeyPatch.context() as patch:
        once = lambda file: deepcopy(parsed(file.read())) if hasattr(file, "read") else load(file)  # noqa: E731
        patch.setattr(OmegaConf, "load", staticmethod(once))
        yield


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """The layers here are tiny: threads would only wait for each other, for minutes on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
