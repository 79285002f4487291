from pathlib import Path

import pytest
from training_runs import SMALL, metrics

from normbench.config.overrides import normalize, plan
from normbench.config.resolve import resolve
from normbench.runs.run import execute


@pytest.fixture
def run(tmp_path):
    """run("norm=group", …) → (result, rows of metrics.csv as text without the times, folder of the run)."""

    def run(*overrides, output=tmp_path / "outputs"):
        jobs, _, _ = plan(normalize([*SMALL, f"output={output}", *overrides]), False)
        result = execute(resolve(jobs[0].config))
        folder = Path(output) / result["run_id"]
        return result, metrics(folder), folder

    return run
