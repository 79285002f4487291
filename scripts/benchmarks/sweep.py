"""How long planning, status and collect take with the number of runs: CPU seconds, and how they grow.

The folders are written by the code that writes every run's, but nothing is trained for them: each gets the records of
one small run. They are there to be read, and are no results. Every run is over, so that nothing is timed by a trial.

planning: the configurations, checked and named, with the imports. status: what a sweep and --dry-run then read of the
folders; of stacks: where a hundredth as many runs are planned, whose seeds are those of the folders. --dry-run and
collect are whole commands, what they print included. Each is measured in processes of its own.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from benchmarks import many_runs
from benchmarks.many_runs import A_SEED, words
from benchmarks.side_by_side import cost

SIZES = (100, 1_000, 10_000)
OWN = (sys.executable, many_runs.__file__)


def rows(runs: list[int] | None) -> list[dict]:
    """A row a number of runs, in hundreds, and one of the exponent: of that number, from the last two rows."""
    sizes = sorted({count // A_SEED * A_SEED for count in runs or SIZES})
    found = [{"runs": f"{count:,}"} | measured(count) for count in sizes]
    if len(sizes) < 2:
        return found
    last, before = found[-1], found[-2]
    grown = np.log(sizes[-1] / sizes[-2])
    return [*found, {key: np.log(last[key] / before[key]) / grown if key != "runs" else "exponent" for key in last}]


def measured(count: int) -> dict[str, float]:
    """CPU seconds, and MiB."""
    with tempfile.TemporaryDirectory() as folder:
        print(f"{sys.argv[0]}: {count} runs", file=sys.stderr)
        there = Path(folder, "all")
        cost([*OWN, "write", str(there), str(count)])
        asked = [cost([*OWN, how, str(there), str(count)])[2].split() for how in ("ask", "ask of stacks")]
        dry, _, _ = cost([sys.executable, "-m", "normbench", "-m", *words(there, count), "--dry-run"])
        script = Path(__file__).parents[1] / "collect.py"
        collecting, memory, _ = cost([sys.executable, str(script), str(there), "--to", f"{folder}/tables"])
    (_, planning, status), (_, _, of_stacks) = asked
    found = {"planning": planning, "status": status, "status_of_stacks": of_stacks, "dry_run": dry}
    found |= {"collect": collecting, "collect_mib": memory}
    return {key: float(value) for key, value in found.items()}
