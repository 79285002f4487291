"""Which runs have the seeds of a configuration, and which runs do what is left of them.

Sweeps, single runs, --dry-run and collect ask here, and so agree. Of a planned configuration the seeds are wanted that
it names. Where its own folder is there, it has them all. Otherwise a seed counts as done where any run of the folder is
over whose configuration is the same but for its seeds and for what its machine settled, or where a reused table has a
row of it; runs of others that are begun go on; what then remains is done in runs of consecutive seeds.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

from normbench.config.checks import is_integer
from normbench.config.files import GROUPS, default_choices, default_leaves
from normbench.config.identity import identity, unnamed
from normbench.config.keys import BY_MACHINE, KEYS, identity_of
from normbench.config.sizes import MOST_INTEGER
from normbench.config.values import Values, value_at
from normbench.facts import facts_of
from normbench.processes import launched
from normbench.records.configuration import NONE_OF_A_RUN, configuration_of
from normbench.records.damage import Damaged, tell
from normbench.records.directory import RunDirectory, seeds_of
from normbench.records.files import plainly
from normbench.records.metrics import MEASUREMENTS, OVER
from normbench.runs.planned import Run, block

OF_SEEDS = ("seed", "replicates")
FOLLOWING = [key for key in KEYS.values() if key.follows and not key.by_machine]
# The words that the seeds have in a run's name, and the processes.
WORDS = re.compile(r"(-b\d+)-s\d+(?:-r\d+)?(?=-|$)|-p\d+$")
# What a run writes beside its configuration: a folder with one of these is a run's.
WRITTEN = ("env.json", "metrics.csv", "checkpoint.pt", "result.json")
# The keys whose values stand in columns, or count rows.
TABLED = ("seed", "replicates", "batch_size", "epochs", "optim.lr", "evaluation.every_steps")
TABLED += ("data.name", "data.train_size", "data.val_size")
CERTAIN = 100  # characters of a name without those that the longest cut leaves alone


def leaves_of(config, processes: int = 1) -> dict[str, object]:
    """What determines the results of a run, keys at their defaults included, without what follows from the rest."""
    leaves = unnamed(config) | identity(config, processes)
    return leaves | {
        key.name: key.alone for key in FOLLOWING if key.name in leaves and key.followed(leaves[key.name], config)
    }


def placed(config, processes: int = 1) -> dict[str, object]:
    """The same with all that the machine settled, which `settings` asks for."""
    return leaves_of(config, processes) | {key: value_at(config, key) for key in sorted(BY_MACHINE)}


def settings(leaves: dict[str, object]) -> str:
    """What is the same for all the seeds of a configuration, on whatever machine: equal texts, equal settings.

    leaves: as `placed` has them, perhaps by an earlier version. What a machine settles counts where the user said it.
    """
    top = Values({key: value for key, value in leaves.items() if "." not in key})
    chosen = tuple((group, leaves.get(f"{group}.name", default_choices().get(group))) for group in GROUPS)
    defaults = default_leaves(chosen) | {f"{group}.name": choice for group, choice in default_choices().items()}

    def counts(key, value) -> bool:
        if key in (*OF_SEEDS, "processes") or identity_of(key) == "never":
            return False
        if key in BY_MACHINE and KEYS[key].followed(value, top):
            return False
        return identity_of(key) == "always" or value != defaults.get(key)

    return json.dumps({key: value for key, value in leaves.items() if counts(key, value)}, sort_keys=True)


def stem(name: str) -> str:
    """A run's name without its seeds and its hash: that of two runs differs where more than their seeds does."""
    return WORDS.sub(r"\1", name.rpartition("-")[0])[:CERTAIN]


@dataclass(frozen=True)
class Found:
    """A run that is there. leaves: of its configuration, as `placed` has them. study: it says that it is of."""

    directory: RunDirectory
    leaves: dict[str, object]
    study: str | None

    @property
    def seeds(self) -> range:
        return seeds_of(self.directory.config)

    @property
    def processes(self) -> int:
        return self.leaves.get("processes", 1)

    @cached_property
    def settings(self) -> str:
        return settings(self.leaves)


class Shelf:
    """The runs of a folder, each read once, and only where its name does not tell that it is another.

    unreadable: the folders that hold what a run wrote, but are not read as one, with the reason.
    """

    def __init__(self, folder: str | Path):
        self.paths: dict[str, list[Path]] = {}
        self.read: dict[Path, Found | None] = {}
        self.unreadable: dict[Path, str] = {}
        self.indexes: dict[str, dict[tuple[str, int], list[Found]]] = {}
        for path in _folders(folder):
            self.paths.setdefault(stem(path.name), []).append(path)

    def at(self, path: Path) -> Found | None:
        """The run of a folder; None where it is somebody else's, or cannot be read."""
        if path not in self.read:
            try:
                self.read[path] = _read(path)
            except Damaged as error:
                self.read[path] = None
                if any((path / name).exists() for name in WRITTEN):
                    self.unreadable[path] = str(error)
                    tell(str(error))
        return self.read[path]

    def all(self) -> list[Found]:
        """Every run, by name."""
        paths = sorted(path for paths in self.paths.values() for path in paths)
        return [found for path in paths if (found := self.at(path))]

    def like(self, run: Run, seeds: Iterable[int]) -> list[Found]:
        """The runs of the same settings that have some of the seeds, by name."""
        if not self.paths.get(stem(run.name)):
            return []
        index, mine = self._index(stem(run.name)), settings(placed(run.config))
        alike = {one.directory.path: one for seed in seeds for one in index.get((mine, seed), ())}
        return [alike[path] for path in sorted(alike)]

    def _index(self, of: str) -> dict[tuple[str, int], list[Found]]:
        """Settings and seed → the runs that have them, of those of a stem: each is asked for once."""
        if of not in self.indexes:
            index = self.indexes.setdefault(of, {})
            for found in filter(None, map(self.at, self.paths[of])):
                for seed in found.seeds:
                    index.setdefault((found.settings, seed), []).append(found)
        return self.indexes[of]


def _folders(folder: str | Path) -> Iterator[Path]:
    """The folders in a folder that a run may have written, by name."""
    if not os.path.isdir(folder):
        return
    with plainly(folder), os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
    for name in names:
        path = Path(folder, name)
        if any(os.path.lexists(path / written) for written in ("config.yaml", *WRITTEN)):
            yield path


def _read(path: Path) -> Found:
    """The run of a folder. Raises Damaged."""
    file = path / "config.yaml"
    if (config := configuration_of(file)) is None:
        raise Damaged(path, "there is no config.yaml")
    directory = RunDirectory(path.parent, path.name, config)
    try:
        leaves = placed(config, directory.environment().get("processes", 1))
        wrong = _wrong(leaves, config.get("study"))
    except NONE_OF_A_RUN as error:
        raise Damaged(file, f"no configuration of a run: {error}") from None
    if wrong:
        raise Damaged(file, wrong)
    if not directory.holds(path.name):
        raise Damaged(file, "another configuration than that of the folder's name")
    return Found(directory, leaves, config.get("study"))


def _wrong(leaves: dict, study) -> str | None:
    """What tables have no place for in a configuration, or None. Raises KeyError where one lacks a key."""
    for name in TABLED:
        if wrong := KEYS[name].check(leaves[name]):
            return f"{name}={leaves[name]}: {wrong}"
    if not all(isinstance(leaves[f"{group}.name"], str) for group in ("model", "norm", "data", "optim")):
        return "a choice without a name"
    if leaves["measure.name"] not in MEASUREMENTS:
        return f"measure.name={leaves['measure.name']}"
    option = facts_of(leaves["norm.name"]).images_option
    if option and not is_integer(leaves[f"norm.{option}"]):
        return f"norm.{option}={leaves[f'norm.{option}']}"
    if leaves["seed"] + leaves["replicates"] > MOST_INTEGER + 1:
        return "seeds beyond any table"
    return KEYS["study"].check(study)


def carried(runs: list[Run], reuse=None, shelf=None, reading: bool = False) -> list[Run]:
    """The runs with the parts that have, or will have, their seeds.

    reuse: normbench.runs.reuse.Reuse, or None. shelf: from an output folder to its Shelf. reading: for tables, which
    take what is there. To work, a forced run is done as it stands, and so is one of torchrun's processes, which counts
    for no other number of them.
    """
    shelf, planned = shelf or cache(Shelf), {run.name for run in runs}
    return [_carried(run, planned, reuse, shelf, reading) for run in runs]


def _carried(run: Run, planned: set[str], reuse, shelf, reading: bool) -> Run:
    if not reading and (run.config.force or launched() > 1):
        return run
    reused = reuse.rows(run) if reuse else {}
    wanted = set(run.seeds).difference(reused)
    if run.directory.status() == "missing":
        there = [
            found for found in shelf(run.config.output).like(run, wanted) if found.directory.path.name not in planned
        ]
        parts = _parts(run, wanted, there, reading)
    else:
        parts = [run] if wanted else []
    alone = not reused and [part.name for part in parts] == [run.name]
    return replace(run, parts=None if alone else parts, reused=reused or None)


def _parts(run: Run, wanted: set[int], there: list[Found], reading: bool) -> list[Run]:
    """The runs that are over and have some of the seeds, those begun that have others, and those to be begun.

    there: the runs of the same settings, those that others of the sweep are for left out.
    """
    taken, begun = [], []
    for found in there:
        status = found.directory.status()
        if wanted.isdisjoint(found.seeds) or not (reading or found.processes == launched()):
            continue
        (taken if status in OVER else begun).append((found, status))
    remaining = wanted.difference(*(found.seeds for found, _ in taken))
    for found, status in sorted(begun, key=lambda one: (one[1] != "running", one[0].seeds.start, -len(one[0].seeds))):
        if remaining.issuperset(found.seeds):
            taken.append((found, status))
            remaining.difference_update(found.seeds)
    parts = [_as_it_is(run, found) for found, _ in taken]
    parts += [block(run, seeds.start, len(seeds)) for seeds in consecutive(remaining)]
    return sorted(parts, key=lambda part: (part.config.seed, -part.config.replicates, part.name))


def _as_it_is(run: Run, found: Found) -> Run:
    """A part that is there; on another machine it may have another name."""
    part = block(run, found.seeds.start, len(found.seeds))
    part.name = found.directory.path.name
    return part


def consecutive(seeds: Iterable[int]) -> list[range]:
    """Seeds as ranges: {0, 1, 2, 5} → 0–2, 5."""
    found: list[range] = []
    for seed in sorted(seeds):
        if found and found[-1].stop == seed:
            found[-1] = range(found[-1].start, seed + 1)
        else:
            found.append(range(seed, seed + 1))
    return found
