import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import TINY, last_of_each

ROOT = Path(__file__).parents[2]


@pytest.fixture
def process(tmp_path):
    """`python -m normbench …` in a process of its own, in an empty folder."""

    def run(*arguments, **options):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment.pop("NORMBENCH_COMMAND", None)
        return subprocess.run(
            [sys.executable, "-m", "normbench", *last_of_each(arguments)],
            **{"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 120} | options,
        )

    return run


@pytest.fixture
def tiny():
    """Overrides of a run that takes a fraction of a second."""
    return last_of_each([*TINY, "epochs=1", "logging.tensorboard=false"])
