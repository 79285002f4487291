"""How long planning, status and collect take with the number of runs: CPU seconds, and how they grow.

python scripts/scale.py                         → a table for 100, 1,000 and 10,000 runs (a few minutes)
python scripts/scale.py --runs 100 --runs 300   → for other numbers, in hundreds

The folders are written by the code that writes every run's, but nothing is trained for them: each gets the records of
one small run. They are there to be read, and are no results. Every run is over, so that nothing is timed by a trial.

planning: the configurations, checked and named, with the imports. status: what a sweep and --dry-run then read of the
folders; of stacks: where a hundredth as many runs are planned, whose seeds are those of the folders. --dry-run and
collect are whole commands, what they print included. Each is measured in processes of its own.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from normbench.cli import CommandLine, one_line, whole
from normbench.config.overrides import normalize, plan
from normbench.records.environment import environment
from normbench.records.series import series_of
from normbench.runs.estimate import estimates
from normbench.runs.planned import Run, at_work, check_networks, over, runs_of
from normbench.runs.seeds import carried
from normbench.words import markdown

SIZES = (100, 1_000, 10_000)
SMALL = ("data=patterns", "data.val_size=20", "data.train_size=32", "data.test_size=20", "evaluation.precise_images=0")
SMALL += ("model.width=8", "epochs=2", "threads=1", "device=cpu", "logging.progress=none")
GRID = ("norm=batch,group,layer,none", "batch_size=2,4,8,16,32", "optim.lr=0.01,0.02,0.05,0.1,0.2")
A_SEED = 100  # runs of the grid
HEAD = ["runs", "planning", "status", "status of stacks", "--dry-run", "collect", "memory of collect, MiB"]


@one_line
def main() -> None:
    parser = CommandLine(__doc__)
    most = whole(A_SEED, 10**6)
    parser.add_argument("--runs", type=most, action="append", help="how many; repeatable (100, 1,000, 10,000)")
    parser.add_argument("--ask", type=Path, metavar="FOLDER", help="plan runs there, ask for each status, and stop")
    parser.add_argument("--stacks", action="store_true", help="with --ask: all the seeds of a setting as one run")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write the folders of runs there, and stop")
    arguments = parser.parse_args()
    sizes = sorted({count // A_SEED * A_SEED for count in arguments.runs or SIZES})
    if arguments.ask:
        print(*ask(words(arguments.ask, sizes[0], arguments.stacks)))
        return
    if arguments.write:
        write(runs_of(plan(normalize(words(arguments.write, sizes[0])), multirun=True)[0]))
        return
    rows = [measured(count) for count in sizes]
    if len(sizes) > 1:
        rows.append(np.log(np.divide(rows[-1], rows[-2])) / np.log(sizes[-1] / sizes[-2]))
        sizes.append("exponent")
    print("CPU seconds; exponent: of the number of runs, from the last two rows; 1: twice as many take twice as long.")
    cells = [[str(size), *(f"{value:.2f}" for value in row)] for size, row in zip(sizes, rows, strict=True)]
    print(markdown(HEAD, "-" * len(HEAD), cells))


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


def measured(count: int) -> list[float]:
    """A row of the table, without its head: CPU seconds, and MiB."""
    with tempfile.TemporaryDirectory() as folder:
        print(f"{sys.argv[0]}: {count} runs", file=sys.stderr)
        own, there = [sys.executable, __file__, "--runs", str(count)], Path(folder, "all")
        cost([*own, "--write", str(there)])
        asked = [cost([*own, "--ask", str(there), *more])[2].split() for more in ((), ("--stacks",))]
        dry, _, _ = cost([sys.executable, "-m", "normbench", "-m", *words(there, count), "--dry-run"])
        script = Path(__file__).with_name("collect.py")
        collecting, memory, _ = cost([sys.executable, str(script), str(there), "--to", f"{folder}/tables"])
    return [*map(float, asked[0][1:]), float(asked[1][2]), dry, collecting, memory]


def cost(command: list[str]) -> tuple[float, float, str]:
    """CPU seconds of a command, its largest memory in MiB, and what it says."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        process = subprocess.Popen(command, stdout=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        said.seek(0)
        memory = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        return usage.ru_utime + usage.ru_stime, memory, said.read()


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


if __name__ == "__main__":
    main()
