"""A study as its scripts see it: the tables in its folder, and what its experiment file says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf
from yaml import YAMLError

from normbench.analysis.claims import Claim, parse_claims
from normbench.analysis.columns import CONFIGURATION, ENVIRONMENT, OTHER
from normbench.analysis.evidence import select
from normbench.analysis.tables_io import complete, read
from normbench.config.files import study_file, study_names, study_title
from normbench.errors import UserError, choices_text
from normbench.records.metrics import CURVES, HEADLINE, MEASUREMENTS, OBJECTIVE, TRAIN

# What summary.md and the figures cannot do without: of the outcomes the few that every version of runs.csv has had.
OF_ANY = (*OTHER, *CONFIGURATION, *ENVIRONMENT, "seconds", "stack", "ms_per_step")
NEEDED = ("diverged_epoch", OBJECTIVE, HEADLINE, *OF_ANY)  # where there is any training


@dataclass(frozen=True)
class Study:
    """name: of the study, or of a folder. folder: holds runs.csv, curves.csv and, of probes, series.csv; it takes
    what is made of them.

    file: what the experiment file says; None for any folder, which has none. where: column → values, of the rows that
    are meant.
    """

    name: str
    folder: Path
    file: dict | None
    where: Mapping[str, list] = field(default_factory=dict)

    @cached_property
    def runs(self) -> pd.DataFrame:
        path = self.folder / "runs.csv"
        table = read(path)
        probed = any(o.name in table for name, some in MEASUREMENTS.items() if name != TRAIN for o in some)
        return chosen(complete(table, path, OF_ANY if probed and HEADLINE not in table else NEEDED), self.where)

    @cached_property
    def curves(self) -> pd.DataFrame:
        return read(self.folder / "curves.csv", CURVES)

    @cached_property
    def series(self) -> pd.DataFrame:
        """The series of probes, of a study that has some: run_id and the columns of their metrics.csv."""
        return read(self.folder / "series.csv", ["run_id"])

    @property
    def title(self) -> str:
        """The sentences at the head of the experiment file, below the command and its time."""
        if self.file is None:
            return f"The runs in the folder {self.name}."
        return study_title(self.name)

    @property
    def claims(self) -> list[Claim]:
        return parse_claims(self.says("claims"))

    def says(self, key: str):
        """What the experiment file says under a key, or None."""
        return (self.file or {}).get(key)


def study_of(target: str, folder: Path | None, where: Mapping[str, list] | None = None) -> Study:
    """A study by its name, else a folder. folder: where its tables lie (by default results/NAME, or the folder).
    where: as Study has it.

    Raises UserError for what is neither, and for an experiment file that is no YAML.
    """
    if target not in study_names() and Path(target).is_dir():
        return Study(Path(target).resolve().name, folder or Path(target), None, where or {})
    try:
        file = OmegaConf.to_container(study_file(target))
    except YAMLError as error:
        raise UserError(f"experiment {target}: {' '.join(str(error).split())}") from None
    return Study(target, folder or Path("results", target), file, where or {})


def chosen(table: pd.DataFrame, where: Mapping[str, list]) -> pd.DataFrame:
    """The rows that have one of the values of each column, as --where asks. Raises UserError for an unknown column."""

    def lacks(column, values):
        told = f"--where {column}={','.join(map(str, values))}: the table has no such column"
        return UserError(f"{told}; {choices_text(column, table.columns)}")

    return select(table, where, lacks)
