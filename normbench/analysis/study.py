"""A study as its scripts see it: the tables in its folder, and what its experiment file says."""

from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from normbench.analysis.claims import Claim, load_claims
from normbench.analysis.collect import read, study_file, study_names
from normbench.analysis.columns import CURVES, OUTCOME
from normbench.config import conf_dir


@dataclass(frozen=True)
class Study:
    """name: of the study, or of a folder. folder: holds runs.csv and curves.csv, and takes what is made of them.

    known: whether it is a study, with an experiment file, rather than any folder.
    """

    name: str
    folder: Path
    known: bool

    @cached_property
    def runs(self) -> pd.DataFrame:
        return read(self.folder / "runs.csv", ("run_id", "seed", "model", "method", "batch_size", "status", *OUTCOME))

    @cached_property
    def curves(self) -> pd.DataFrame:
        return read(self.folder / "curves.csv", CURVES)

    @property
    def title(self) -> str:
        """The sentences at the head of the experiment file, below the command and its time."""
        if not self.known:
            return f"The runs in the folder {self.name}."
        lines = (conf_dir() / "experiment" / f"{self.name}.yaml").read_text().splitlines()
        head = [line[1:].removeprefix(" ") for line in takewhile(lambda line: line.startswith("#"), lines)]
        return "\n".join(line for line in head if not line.startswith(("@package", "python ", "make ", "(")))

    @property
    def claims(self) -> list[Claim]:
        return load_claims(conf_dir() / "experiment" / f"{self.name}.yaml") if self.known else []

    def says(self, key: str):
        """What the experiment file says under a key, or None."""
        return OmegaConf.to_container(study_file(self.name)).get(key) if self.known else None


def study_of(target: str, folder: Path | None) -> Study:
    """A study by its name, else a folder. folder: where its tables lie (by default results/NAME, or the folder)."""
    if target not in study_names() and Path(target).is_dir():
        return Study(Path(target).resolve().name, folder or Path(target), known=False)
    study_file(target)  # or one line on what there is
    return Study(target, folder or Path("results", target), known=True)
