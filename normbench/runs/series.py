"""The series of probes in one table: what each layer, rate or input had to say, run by run."""

import csv
from contextlib import suppress

import pandas as pd

from normbench.analysis.columns import MEASUREMENT
from normbench.records.metrics import COLUMNS, TRAIN


def series(found) -> pd.DataFrame:
    """The rows of metrics.csv of all runs that measure something else than a training, with their run_id, as text.

    found: configuration, folder and study of each run, as `collect.find` gives it. The columns are those of the
    measurements that there are; without a row of any the table is empty.
    """
    probes = {d.path: (leaves[MEASUREMENT], d) for leaves, d, _ in found if leaves[MEASUREMENT] != TRAIN}
    columns = dict.fromkeys(column for name, _ in probes.values() for column in COLUMNS.get(name, ()))
    rows = []
    for _, directory in probes.values():
        with suppress(OSError), open(directory.path / "metrics.csv", newline="") as lines:  # there may be none yet
            rows += [row | {"run_id": directory.path.name} for row in csv.DictReader(lines)]
    return pd.DataFrame(rows, columns=["run_id", *columns])
