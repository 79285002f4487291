"""How long planning, status and collect take with the number of runs: CPU seconds, and how they grow.

python scripts/scale.py                         → a table for 100, 1,000 and 10,000 runs (a few minutes)
python scripts/scale.py --runs 100 --runs 300   → for other numbers, in hundreds

The folders are written by the code that writes every run's, but nothing is trained for them: each gets the records of
one small run. They are there to be read, and are no results. Each figure is that of a process of its own, its imports
included: planning in an empty folder, the same where every run has its folder and is over, and scripts/collect.py.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from normbench.cli import CommandLine, one_line, whole
from normbench.config.overrides import Job, normalize, plan
from normbench.records.environment import environment
from normbench.records.series import series_of
from normbench.runs.planned import over
from normbench.runs.sweep import prepared
from normbench.words import markdown

SIZES = (100, 1_000, 10_000)
SMALL = ("data=patterns", "data.val_size=20", "data.train_size=32", "data.test_size=20", "evaluation.precise_images=0")
SMALL += ("model.width=8", "epochs=2", "threads=1", "device=cpu", "logging.progress=none")
GRID = ("norm=batch,group,layer,none", "batch_size=2,4,8,16,32", "optim.lr=0.01,0.02,0.05,0.1,0.2")
A_SEED = 100  # runs of the grid


@one_line
def main() -> None:
    parser = CommandLine(__doc__)
    most = whole(A_SEED, 10**6)
    parser.add_argument("--runs", type=most, action="append", help="how many; repeatable (100, 1,000, 10,000)")
    parser.add_argument("--ask", type=Path, metavar="FOLDER", help="plan runs there, ask for each status, and stop")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write the folders of runs there, and stop")
    arguments = parser.parse_args()
    sizes = [count // A_SEED * A_SEED for count in arguments.runs or SIZES]
    if arguments.ask:
        print(sum(over(run) for run in prepared(jobs(arguments.ask, sizes[0]))[0]))
        return
    if arguments.write:
        write(arguments.write, sizes[0])
        return
    rows = [measured(count) for count in sizes]
    head = ["runs", "planning", "planning and status", "collect", "memory of collect, MiB"]
    if len(sizes) > 1:
        rows.append(np.log(np.divide(rows[-1], rows[-2])) / np.log(sizes[-1] / sizes[-2]))
        sizes.append("exponent")
    print("CPU seconds; exponent: of the number of runs, from the last two rows; 1: twice as many take twice as long.")
    cells = [[str(size), *(f"{value:.2f}" for value in row)] for size, row in zip(sizes, rows, strict=True)]
    print(markdown(head, "-" * len(head), cells))


def jobs(output: Path, count: int) -> list[Job]:
    """The first runs of the grid, seed by seed."""
    words = ["-m", *SMALL, *GRID, f"seed=range({count // A_SEED})", f"output={output}"]
    return plan(normalize(words[1:]), multirun=True)[0]


def measured(count: int) -> list[float]:
    """CPU seconds of planning, of planning and status, of collect; and the memory of that in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        print(f"{sys.argv[0]}: {count} runs", file=sys.stderr)
        own = [sys.executable, __file__, "--runs", str(count)]
        planning, _ = cost([*own, "--ask", f"{folder}/none"])
        cost([*own, "--write", f"{folder}/all"])
        status, _ = cost([*own, "--ask", f"{folder}/all"])
        script = Path(__file__).with_name("collect.py")
        collecting, memory = cost([sys.executable, str(script), f"{folder}/all", "--to", f"{folder}/tables"])
    return [planning, status, collecting, memory]


def cost(command: list[str]) -> tuple[float, float]:
    """CPU seconds of a command, and its largest memory in MiB."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def write(output: Path, count: int) -> None:
    """A folder of each run, with the records of one that is trained for it."""
    from normbench.runs.run import execute  # with torch, which nothing else here needs

    runs, _ = prepared(jobs(output, count))
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
