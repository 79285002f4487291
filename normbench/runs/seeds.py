"""Which runs have the seeds of a configuration, and which runs do what is left of them.

Sweeps, single runs, --dry-run and collect ask here, and so agree. Of a planned configuration the seeds are wanted that
it names. Where its own folder is there, it has them all. Otherwise a seed counts as done where any run of the folder is
over whose configuration is the same but for its seeds and for what its machine settled, or where a reused table has a
row of it; runs of others that are begun go on; what then remains is done in runs of consecutive seeds.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

from omegaconf import OmegaConf
from yaml import YAMLError

from normbench.config.files import GROUPS, default_choices, default_leaves
from normbench.config.identity import identity, unnamed
from normbench.config.keys import BY_MACHINE, KEYS, identity_of
from normbench.config.values import Values, value_at
from normbench.processes import launched
from normbench.records.directory import RunDirectory
from normbench.records.metrics import OVER
from normbench.runs.planned import Run, block

OF_SEEDS = ("seed", "replicates")
# The words that the seeds have in a run's name, and the processes.
WORDS = re.compile(r"(-b\d+)-s\d+(?:-r\d+)?(?=-|$)|-p\d+$")
CERTAIN = 100  # characters of a name without those that the longest cut leaves alone


def leaves_of(config, processes: int = 1) -> dict[str, object]:
    """What determines the results of a run, keys at their defaults included, without what follows from the rest."""
    leaves = unnamed(config) | identity(config, processes)
    return leaves | {
        key.name: key.alone
        for key in KEYS.values()
        if key.name in leaves and not key.by_machine and key.followed(leaves[key.name], config)
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
        return range(self.leaves["seed"], self.leaves["seed"] + self.leaves["replicates"])

    @property
    def processes(self) -> int:
        return self.leaves.get("processes", 1)

    @cached_property
    def settings(self) -> str:
        return settings(self.leaves)


class Shelf:
    """The runs of a folder, each read once, and only where its name does not tell that it is another."""

    def __init__(self, folder: str | Path):
        self.paths: dict[str, list[Path]] = {}
        self.read: dict[Path, Found | None] = {}
        for path in sorted(Path(folder).glob("[!.]*/config.yaml")):
            self.paths.setdefault(stem(path.parent.name), []).append(path.parent)

    def at(self, path: Path) -> Found | None:
        """The run of a folder; None where it is somebody else's."""
        if path not in self.read:
            self.read[path] = _read(path)
        return self.read[path]

    def all(self) -> list[Found]:
        """Every run, by name."""
        paths = sorted(path for paths in self.paths.values() for path in paths)
        return [found for path in paths if (found := self.at(path))]

    def like(self, run: Run) -> list[Found]:
        """The runs of the same settings."""
        paths = self.paths.get(stem(run.name))
        if not paths:
            return []
        mine = settings(placed(run.config))
        return [found for path in paths if (found := self.at(path)) and found.settings == mine]


def _read(path: Path) -> Found | None:
    directory = RunDirectory(path.parent, path.name)
    try:
        config = OmegaConf.load(path / "config.yaml")
        if not {"model", "norm", "optim", *OF_SEEDS} <= set(config):
            return None
    except (YAMLError, TypeError):  # somebody else's
        return None
    return Found(directory, placed(config, directory.environment().get("processes", 1)), config.get("study"))


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
        there = [found for found in shelf(run.config.output).like(run) if found.directory.path.name not in planned]
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
