"""Rows of earlier tables that count as done: `reuse=results/STUDY` of a sweep, `--reuse` of scripts/collect.py."""

import csv
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from normbench.analysis.tables_io import read
from normbench.errors import UserError
from normbench.records.metrics import OVER, whole
from normbench.runs.planned import Run, block
from normbench.runs.provenance import CONFIGURATIONS
from normbench.runs.seeds import placed, settings, stem


@dataclass
class Earlier:
    """A run of an earlier table. rows: seed → its row, of those that are over.

    leaves: of its configuration, as seeds.placed has them; None where the folder does not say.
    """

    folder: Path
    run_id: str
    rows: dict[int, dict]
    leaves: dict | None

    @cached_property
    def settings(self) -> str:
        return settings(self.leaves)

    def of(self, run: Run, same: str) -> bool:
        """Whether it is of the settings of a planned run, which are `same`."""
        if self.leaves is None:
            self.leaves = self._by_name(run)
        return self.leaves is not None and "processes" not in self.leaves and self.settings == same

    def _by_name(self, run: Run) -> dict | None:
        """The leaves of the planned configuration if its run of these seeds, here or on a CPU, has this one's name."""
        if stem(self.run_id) == stem(run.name):
            for device in ({}, {"device": "cpu"}):
                planned = block(run, min(self.rows), len(self.rows), **device)
                if planned.name == self.run_id:
                    return placed(planned.config)
        return None


class Reuse:
    """The rows of some folders of results. Raises UserError for one that is none."""

    def __init__(self, folders: Iterable[str | Path]):
        self.earlier = [one for folder in folders for one in _earlier(Path(folder))]
        self.alike: dict[str, list[int]] = {}  # by settings, and by stem where those are not known: places in `earlier`
        self.named: dict[str, list[Earlier]] = {}
        for place, one in enumerate(self.earlier):
            self.alike.setdefault(stem(one.run_id) if one.leaves is None else one.settings, []).append(place)
            self.named.setdefault(one.run_id, []).append(one)

    def rows(self, run: Run) -> dict[int, dict]:
        """Seed → row, for those of a planned run's seeds that are there; of two rows that of the first folder."""
        found, same = {}, settings(placed(run.config))
        for place in sorted([*self.alike.get(same, ()), *self.alike.get(stem(run.name), ())]):
            one = self.earlier[place]
            if not set(run.seeds).isdisjoint(one.rows) and one.of(run, same):
                found = {seed: row for seed, row in one.rows.items() if seed in run.seeds} | found
        return dict(sorted(found.items()))

    def leaves(self, row: dict) -> dict:
        """The configuration of a row that `rows` gave."""
        return next(one.leaves for one in self.named[row["run_id"]] if row is one.rows.get(row["seed"]))

    def series(self, name: str, kept: Iterable[tuple[str, int]]) -> list[dict]:
        """The lines of a table that stands beside runs.csv, as text: those of the kept runs and seeds."""
        kept, lines = {(run_id, str(seed)) for run_id, seed in kept}, []
        runs = {run_id for run_id, _ in kept}
        for folder in dict.fromkeys(one.folder for one in self.earlier):
            with suppress(FileNotFoundError), open(folder / name, newline="", encoding="utf-8") as file:
                for line in csv.DictReader(file):  # the rows of some probes are of no seed
                    mine = (line["run_id"], line["seed"]) in kept if "seed" in line else line["run_id"] in runs
                    lines += [line] * mine
        return lines

    @property
    def folders(self) -> list[Path]:
        return list(dict.fromkeys(one.folder for one in self.earlier))


def folders_of(values: Iterable) -> list[str]:
    """The folders that `reuse` names: null, one, several in a list or with commas between them."""
    found = []
    for value in values:
        listed = [value] if isinstance(value, str) else value or []
        found += [folder for one in listed for folder in str(one).split(",")]
    return list(dict.fromkeys(found))


def reuse_of(values: Iterable) -> Reuse | None:
    """What the values of the key `reuse` stand for; None where they are all null."""
    folders = folders_of(values)
    return Reuse(folders) if folders else None


def _earlier(folder: Path) -> list[Earlier]:
    table = read(folder / "runs.csv", ("run_id", "seed", "status"))
    table = table[table["status"].isin(OVER)]
    for column in whole(table):
        table = table.astype({column: "Int64"})
    configurations, rows = _configurations(folder), {}
    for row in table.astype(object).where(table.notna(), None).to_dict("records"):
        rows.setdefault(row["run_id"], {})[row["seed"]] = row
    return [Earlier(folder, run_id, by_seed, configurations.get(run_id)) for run_id, by_seed in rows.items()]


def _configurations(folder: Path) -> dict[str, dict]:
    """run_id → leaves, from configurations.json; nothing where there is none."""
    path = folder / CONFIGURATIONS
    try:
        told = json.loads(path.read_text("utf-8"))
        return {run_id: told["common"] | own for run_id, own in told["runs"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not what scripts/collect.py wrote ({error})") from None
