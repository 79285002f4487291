"""Folders of runs that are over, and what a sweep asks of them: what sweep.py has done in processes of its own.

python many_runs.py write|ask|'ask of stacks' FOLDER COUNT
"""

import sys
import time
from pathlib import Path

import numpy as np

from normbench.config.overrides import normalize, plan
from normbench.records.environment import environment
from normbench.records.series import series_of
from normbench.runs.estimate import estimates
from normbench.runs.planned import Run, at_work, check_networks, over, runs_of
from normbench.runs.seeds import carried

SMALL = ("data=patterns", "data.val_size=20", "data.train_size=32", "data.test_size=20", "evaluation.precise_images=0")
SMALL += ("model.width=8", "epochs=2", "threads=1", "device=cpu", "logging.progress=none")
GRID = ("norm=batch,group,layer,none", "batch_size=2,4,8,16,32", "optim.lr=0.01,0.02,0.05,0.1,0.2")
A_SEED = 100  # runs of the grid


def words(output: Path, count: int, stacks: bool = False) -> list[str]:
    """What is typed for that many runs: the grid, seed by seed; or each setting once with all those seeds."""
    seeds = count // A_SEED
    return [*SMALL, *GRID, *([f"replicates={seeds}"] if stacks else [f"seed=range({seeds})"]), f"output={output}"]


def ask(typed: list[str]) -> tuple[int, float, float]:
    """How many runs are over, and the CPU seconds of planning, and of all that a sweep asks of the folders."""
    runs = runs_of(plan(normalize(typed), multirun=True)[0])
    planning = time.process_time()
    runs = at_work(carried(runs))
    check_networks(runs)
    estimates(runs)
    return sum(map(over, runs)), planning, time.process_time() - planning


def write(runs: list[Run]) -> None:
    """A folder of each run, with the records of one that is trained for it."""
    from normbench.runs.run import execute  # with torch, which nothing else here needs

    result = execute(runs[0].config)
    series, env = series_of(runs[0].directory.path / "metrics.csv"), environment("cpu", 1, 1)
    right = np.arange(runs[0].config.data.test_size) % 3 == 0
    for run in runs[1:]:
        [seed], directory = run.seeds, run.directory
        own = {"run_id": run.name, "method": run.config.norm.name, "batch_size": run.config.batch_size}
        directory.start(run.config, env)
        directory.write_metrics([row | {"seed": seed} for row in series])
        directory.write_correct({str(seed): right})
        directory.write_result(result | own | {"replicates": [result["replicates"][0] | {"seed": seed}]})


def child(what: str, folder: str, count: int) -> None:
    """What a process of its own does."""
    typed = words(Path(folder), count, what == "ask of stacks")
    if what == "write":
        write(runs_of(plan(normalize(typed), multirun=True)[0]))
    else:
        print(*ask(typed))


if __name__ == "__main__":
    child(sys.argv[1], sys.argv[2], int(sys.argv[3]))
