"""A study as its scripts see it: the tables in its folder, and what its experiment file says."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf
from yaml import YAMLError

from normbench.analysis.claims import Claim, Verdict, decide, parse_claims, parse_looks
from normbench.analysis.columns import CONFIGURATION, ENVIRONMENT, OTHER
from normbench.analysis.evidence import select
from normbench.analysis.published import Published, parse_published
from normbench.analysis.rungs import HALVING
from normbench.analysis.tables_io import complete, read
from normbench.config.files import study_file, study_names, study_title
from normbench.errors import UserError, choices_text
from normbench.records.files import plainly
from normbench.records.metrics import CURVES, HEADLINE, MEASUREMENTS, OBJECTIVE, TRAIN, outcome_of
from normbench.words import literal

# What summary.md and the figures cannot do without: of the outcomes the few that every version of runs.csv has had.
OF_ANY = (*OTHER, *CONFIGURATION, *ENVIRONMENT, "seconds", "stack", "ms_per_step")
EPOCH = "diverged_epoch"  # what trainings alone have
NEEDED = (EPOCH, OBJECTIVE, HEADLINE, *OF_ANY)  # where there is any training


# Of a claim whose text git was asked about.
BEFORE, AFTER = "before the runs", "changed after the runs"


def has_training(table: pd.DataFrame) -> bool:
    """Whether any row of a runs.csv is of a training, and so has epochs; a probe may tell accuracies without."""
    return EPOCH in table


@dataclass(frozen=True)
class About:
    """What a reader has to know of a study beside its rows.

    fixed: claim → whether it was fixed before the runs, in words, where that was checked. looks: after how many seeds
    they were planned. exploratory: why its claims are, empty where they are not. common: key → value of the
    configuration that all runs share. published: figures of other people's runs. curves: for their ratios.
    """

    fixed: dict[str, str] = field(default_factory=dict)
    looks: tuple[int, ...] = ()
    exploratory: str = ""
    common: dict = field(default_factory=dict)
    published: tuple[Published, ...] = ()
    curves: pd.DataFrame | None = None


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
        """runs.csv; of a study that shows validation alone without what was measured on the test images."""
        path = self.folder / "runs.csv"
        table = read(path)
        probed = any(o.name in table for name, some in MEASUREMENTS.items() if name != TRAIN for o in some)
        table = complete(table, path, OF_ANY if probed and not has_training(table) else NEEDED)
        if table.empty:
            raise UserError(f"{path}: a table without rows")
        table = table[[c for c in table if not outcome_of(c).tested]] if self.validation_only else table
        return chosen(table, self.where)

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
            return f"The runs in the folder {literal(self.name)}."
        return study_title(self.name)

    @property
    def claims(self) -> list[Claim]:
        return parse_claims(self.says("claims"))

    @property
    def validation_only(self) -> bool:
        """Whether it tunes something, and thus has nothing to say of the test images."""
        return bool(self.says("validation_only") or self.says("tunes"))

    @property
    def tunes_lr(self) -> bool:
        """Whether a table of rates is made of it."""
        return self.says("tunes") in ("lr", HALVING)

    @property
    def about(self) -> About:
        return About(
            fixed=self._fixed(),
            looks=parse_looks(self.says("looks")),
            exploratory=self.says("exploratory") or "",
            common=self._kept("configurations").get("common", {}),
            published=parse_published(self.says("published")),
            curves=self._curves_or_none(),
        )

    def verdicts(self) -> list[Verdict]:
        """What its rows say of its claims, its primary ones corrected together with those of all other studies."""
        claims = self.claims
        return (
            decide(claims, self.runs, self._curves_or_none(), self.says("looks"), other_primaries(self))
            if claims
            else []
        )

    def says(self, key: str):
        """What the experiment file says under a key, or None."""
        return (self.file or {}).get(key)

    def _curves_or_none(self) -> pd.DataFrame | None:
        return self.curves if (self.folder / "curves.csv").is_file() else None

    def _fixed(self) -> dict[str, str]:
        """Claim → before or after the runs, as claims.json has it of the text that stands in the file now."""
        checked, words = self._kept("claims"), {}
        for entry in json.loads(json.dumps(self.says("claims") or [])):
            found = checked.get(entry.get("name"), {})
            if found.get("fixed") is not None:
                words[entry["name"]] = BEFORE if found["fixed"] and found.get("text") == entry else AFTER
        return words

    def _kept(self, name: str) -> dict:
        """What scripts/collect.py kept beside the tables; nothing where it did not."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            return {}
        try:
            with plainly(path):
                return json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: not what scripts/collect.py wrote ({error})") from None


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


def other_primaries(study: Study) -> list[float]:
    """The p values of the primary claims of all other studies, 1 for one whose rows are not in results/.

    What a study calls exploratory confirms nothing, and is not among them.
    """
    found = []
    for name in study_names():
        other = study_of(name, None)
        if name == study.name or other.says("exploratory"):
            continue
        if not any(isinstance(entry, dict) and entry.get("primary") for entry in other.says("claims") or []):
            continue
        primary = [claim for claim in other.claims if claim.primary]
        if (other.folder / "runs.csv").is_file():
            verdicts = decide(primary, other.runs, other._curves_or_none(), other.says("looks"))
            found += [1.0 if math.isnan(verdict.p) else verdict.p for verdict in verdicts]
        else:
            found += [1.0] * len(primary)
    return found


def chosen(table: pd.DataFrame, where: Mapping[str, list]) -> pd.DataFrame:
    """The rows that have one of the values of each column, as --where asks. Raises UserError for an unknown column."""

    def lacks(column, values):
        told = f"--where {column}={','.join(map(str, values))}: the table has no such column"
        return UserError(f"{told}; {choices_text(column, table.columns)}")

    return select(table, where, lacks)
