"""The series of runs as tables, with the rows of their metrics.csv: learning curves; what probes had to say."""

import pandas as pd

from normbench.analysis.columns import MEASUREMENT
from normbench.records.metrics import COLUMNS, CURVES, TRAIN


def curves(sources: list, reuse=None) -> pd.DataFrame:
    """The learning curves of all trainings, run by run, as text; with steps where one was validated between epochs.

    sources: as collect.Collection has them. reuse: the earlier tables, or None.
    """
    columns = list(CURVES)
    if any(source.leaves["evaluation.every_steps"] is not None for source in sources):
        columns.insert(columns.index("epoch") + 1, "step")
    trained = [source for source in sources if source.leaves[MEASUREMENT] == TRAIN]
    return pd.DataFrame(_lines(trained, reuse, "curves.csv"), columns=columns)


def series(sources: list, reuse=None) -> pd.DataFrame:
    """The rows of metrics.csv of all runs that measure something else than a training, with their run_id, as text.

    The columns are those of the measurements that there are; without a row of any the table is empty.
    """
    probes = [source for source in sources if source.leaves[MEASUREMENT] != TRAIN]
    names = dict.fromkeys(source.leaves[MEASUREMENT] for source in probes)
    columns = dict.fromkeys(column for name in names for column in COLUMNS.get(name, ()))
    return pd.DataFrame(_lines(probes, reuse, "series.csv"), columns=["run_id", *columns])


def _lines(sources: list, reuse, table: str) -> list[dict]:
    """The rows of the sources' series: of their folders, and of a table beside the rows that are reused."""
    by_run: dict[str, list[dict]] = {source.directory.path.name: [] for source in sources}
    kept = [(row["run_id"], row["seed"]) for source in sources for row in source.rows]
    for line in reuse.series(table, kept) if reuse else []:
        by_run[line["run_id"]].append(line)
    for source in (one for one in sources if not one.rows):
        name, seeds = source.directory.path.name, source.seeds
        for line in source.directory.metrics(COLUMNS.get(source.leaves[MEASUREMENT], ())[:2]):
            if seeds is None or "seed" not in line or int(line["seed"]) in seeds:
                by_run[name].append(line | {"run_id": name})
    return [line for lines in by_run.values() for line in lines]
