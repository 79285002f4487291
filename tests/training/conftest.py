from pathlib import Path

import pytest
import torch
from training_runs import SMALL, metrics

from normbench.cli import normalize, plan
from normbench.training.run import execute


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(tmp_path):
    """run("norm=group", …) → (result, rows of metrics.csv as text without the times, folder of the run)."""

    def run(*overrides, output=tmp_path / "outputs"):
        jobs, _, _ = plan(normalize([*SMALL, f"output={output}", *overrides]), False)
        result = execute(jobs[0].config)
        folder = Path(output) / result["run_id"]
        return result, metrics(folder), folder

    return run
