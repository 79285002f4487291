"""What collecting leaves in a folder: the tables, and what it takes to judge them and to go on."""

from pathlib import Path

import pandas as pd

from normbench.analysis.tables_io import write
from normbench.records.correct import FILE, IMAGES, by_run, collected, seed_of
from normbench.records.files import plainly, write_whole
from normbench.runs.collect import Collection
from normbench.runs.provenance import CLAIMS, CONFIGURATIONS, configurations, fixed_claims, write_json

SERIES = "series.csv"


def keep(found: Collection, runs: pd.DataFrame, folder: Path, study: str | None = None) -> None:
    """Write them all. runs: those of the collection's rows that are kept. study: its name, None for a mere folder.

    What there is nothing of is removed: nothing in the folder is of other rows than these. Raises UserError.
    """
    kept = set(zip(runs["run_id"], runs["seed"].astype(int), strict=True))
    ids = {run_id for run_id, _ in kept}
    curves, series, right = _of(found.curves, kept), _of(found.series, kept), _correct(found, kept)
    claims = fixed_claims(study, runs) if study else None
    write(runs, folder / "runs.csv")
    write(curves, folder / "curves.csv")
    of = {run_id: leaves for run_id, leaves in found.configurations.items() if run_id in ids}
    write_json(configurations(of), folder / CONFIGURATIONS)
    if right:
        write_whole(folder / FILE, collected(right))
    if len(series):
        write(series, folder / SERIES)
    if claims:
        write_json(claims, folder / CLAIMS)
    with plainly(folder):
        for name, there in ((FILE, right), (SERIES, len(series)), (CLAIMS, claims)):
            if not there:
                (folder / name).unlink(missing_ok=True)


def _of(table: pd.DataFrame, kept: set[tuple[str, int]]) -> pd.DataFrame:
    """The lines of the kept runs, and of their kept seeds where they have some."""
    runs = {run_id for run_id, _ in kept}
    if "seed" not in table:
        return table[table["run_id"].isin(runs)]
    seeds = table["seed"].map(lambda seed: None if pd.isna(seed) else int(seed))
    pairs = zip(table["run_id"], seeds, strict=True)
    found = [pair in kept or (pair[1] is None and pair[0] in runs) for pair in pairs]
    return table[pd.Series(found, table.index, dtype=bool)]  # a mere list would be of columns where it is empty


def _correct(found: Collection, kept: set[tuple[str, int]]) -> dict[str, dict]:
    """run_id → the arrays of its correct.npz, of the runs and of the earlier tables, for the rows that are kept."""
    every: dict[str, dict] = {}
    for folder in found.reuse.folders if found.reuse else []:
        every = by_run(folder / FILE) | every
    for source in found.sources:
        if not source.rows and (arrays := source.directory.correct()):
            every.setdefault(source.directory.path.name, {}).update(arrays)
    right = {
        run_id: {name: one for name, one in arrays.items() if (run_id, seed_of(name)) in kept}
        for run_id, arrays in every.items()
    }
    return {run_id: arrays | {IMAGES: every[run_id][IMAGES]} for run_id, arrays in right.items() if arrays}
