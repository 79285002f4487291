"""Overrides as users type them, both spellings of each, to composed configurations: Hydra's side of the matter."""

import itertools
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from normbench.config import hydras
from normbench.config.files import (
    GROUPS,
    OF_ALL,
    check_experiment,
    choices,
    conf_dir,
    default_choices,
    flatten,
    unknown_key,
)
from normbench.config.keys import FOLDERS
from normbench.config.values import STANDS_IN, Values, plain, value_at
from normbench.errors import InputError, UserError, choices_text
from normbench.words import typed

# Launcher of Hydra's → the extra of pyproject.toml that installs it.
LAUNCHERS = {"joblib": "joblib", "ray": "ray", "submitit_local": "submitit", "submitit_slurm": "submitit"}
# A sweeper of Hydra's that chooses the runs → likewise.
SWEEPERS = {"optuna": "optuna"}
MOST_RUNS = 100_000  # of a command: their configurations have to fit into memory

WHOLE = re.compile(r"-?(0|[1-9]\d*)")  # an integer, as Hydra's grammar has it


@dataclass(frozen=True)
class Job:
    """One run of the command: its overrides and its composed configuration."""

    overrides: tuple[str, ...]
    config: Values


def is_search(overrides: Iterable[str]) -> bool:
    """Whether a sweeper of Hydra's is to choose the runs. Raises InputError for one that is not installed."""
    chosen = {"hydra/sweeper=" + name: name for name in SWEEPERS}
    found = [chosen[word.lstrip("+")] for word in overrides if word.lstrip("+") in chosen]
    for name in found:
        _check_plugin("hydra/sweeper", name, SWEEPERS)
    return bool(found)


def normalize_search(overrides: list[str]) -> tuple[list[str], list[str]]:
    """The overrides of a search as Hydra takes them; and those of one run that is within it.

    Raises UserError for what is no override or has no place in a search, InputError for an unknown choice of a group.
    """
    hydra, one = [], []
    for override in overrides:
        parsed = _parse(override, intervals=True)
        if parsed.key_or_group == "experiment":
            raise UserError(f"{override}: a study has a grid of its own, and a search types its keys: leave it out")
        if parsed.is_sweep_override() and isinstance(given := parsed.value(), IntervalSweep):
            hydra.append(parsed.input_line.lstrip("+"))
            one.append(f"{parsed.key_or_group}={given.start}")
            continue
        hydra.append(_spelling(parsed, search=True))
        if not _is_hydras(parsed.key_or_group):
            one.append(f"{parsed.key_or_group}={values(parsed)[0]}")
    return hydra, one


def normalize(overrides: list[str]) -> list[str]:
    """The overrides as Hydra takes them: `+norm=group`, `++norm=group` and `norm=group` are one thing to a user.

    Raises UserError for what is no override, InputError for an unknown choice of a group.
    """
    parsed = [_parse(override) for override in overrides]
    count = math.prod(_count(override) for override in parsed)
    if count > MOST_RUNS:
        raise UserError(f"{' '.join(overrides)}: {count} runs; at most {MOST_RUNS} a command")
    # experiment=null and recipe=null are the defaults, for which Hydra has no word.
    return [_spelling(o) for o in parsed if not (o.key_or_group in OF_ALL and values(o) == ["null"])]


def check_once(overrides: Iterable[str]) -> None:
    """Raise UserError for a key that is typed twice, in whichever spelling."""
    seen = {}
    for override in overrides:
        key = _parse(override, intervals=True).key_or_group
        if key in seen:
            raise UserError(f"{override}: {key} is given twice, {seen[key]} before; leave one of them out")
        seen[key] = override


def check_hydras(overrides: Iterable[str], multirun: bool) -> None:
    """Raise UserError for an override that only a sweep would heed, where there is none."""
    if not multirun:
        hydras.require_sweep({_parse(override).key_or_group: override for override in overrides})


def _parse(override: str, intervals: bool = False) -> Override:
    override = _home(override)
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        parsed = None
    if parsed is None or not parsed.key_or_group or parsed.package is not None:
        raise UserError(f"{override}: not understood; {_advice(override)} (see --help)")
    if not intervals and parsed.is_sweep_override() and isinstance(parsed.value(), IntervalSweep):
        raise UserError(f"{override}: an interval is no list of values; write them as range(0,10,2) or 0.1,0.2")
    return parsed


def _home(override: str) -> str:
    """`output=~/runs`, which Hydra's grammar does not take, with the home of the user: most shells leave the ~ here."""
    key, _, value = override.partition("=")
    if key.lstrip("+") not in FOLDERS or not value.startswith("~") or set(value) & set("\\\"',"):
        return override
    return f'{key}="{os.path.expanduser(value)}"'


def _advice(override: str) -> str:
    """How to write an override that Hydra's grammar does not take: most often its value has to be quoted."""
    key, equals, value = override.partition("=")
    quoted = f'{key}="{value}"'
    if "${" in value and value.count("{") != value.count("}"):
        return "an interpolation begins with ${ and ends with }"
    if not (equals and value) or set(value) & set("\"'"):
        return "write key=value, like batch_size=2"
    try:
        OverridesParser.create().parse_override(quoted)
    except HydraException:
        return "write key=value, like batch_size=2"
    return f"write key=value, and quote the value: '{quoted}'"


def _count(override: Override) -> int:
    """How many values an override has: those of a range are counted without making them."""
    given = override.value()
    if isinstance(given, RangeSweep):
        try:
            return max(0, math.ceil((given.stop - given.start) / given.step)) or len(values(override))
        except ZeroDivisionError:
            return len(values(override))
    return 1 if override.is_delete() else len(values(override))


def _spelling(override: Override, search: bool = False) -> str:
    key, line = override.key_or_group, override.input_line
    if key == "hydra/launcher":
        for value in values(override):
            _check_plugin(key, value, LAUNCHERS)
    for value in () if override.is_delete() else values(override):
        if value == "???":
            raise InputError(key, value, "stands for a value that is missing; give it one")
    if _is_hydras(key):
        hydras.refuse(key, line, "" if override.is_delete() else values(override)[0], search)
        return line
    if override.is_delete():
        raise UserError(f"{line}: keys cannot be deleted")
    if key in GROUPS:
        for value in values(override):
            if value not in choices(key):
                raise InputError(key, value, f"unknown {_noun(key)}; {choices_text(value, choices(key))}")
        if key == "experiment" and len(values(override)) > 1:
            raise InputError(key, ",".join(values(override)), "one experiment a command; each has a grid of its own")
        if key == "experiment":
            check_experiment(values(override)[0])
    group, _, leaf = key.partition(".")
    if group in GROUPS and leaf == "name":
        raise InputError(key, values(override)[0], f"write {group}={values(override)[0]}")
    return line.lstrip("+")


def _check_plugin(group: str, name: str, extras: dict[str, str]) -> None:
    """Raise InputError for a plugin of Hydra's that is unknown or not installed. extras: those that install some."""
    Plugins.instance()  # registers what is installed
    installed = {file.removesuffix(".yaml") for file in ConfigStore.instance().list(group)}
    if name in installed:
        return
    if name in extras:
        raise InputError(group, name, f"not installed; pip install 'normbench[{extras[name]}]'")
    raise InputError(group, name, f"unknown {group.partition('/')[2]}; {choices_text(name, {*extras, *installed})}")


def _is_hydras(key: str) -> bool:
    return key.replace("/", ".").partition(".")[0] == "hydra"


def _noun(group: str) -> str:
    return {"norm": "method", "optim": "optimizer", "augment": "augmentation", "measure": "measurement"}.get(
        group, group
    )


def values(override: Override) -> list[str]:
    """The value of an override, or those of a sweep, as text."""
    key, given = override.key_or_group, override.value()
    if isinstance(given, Glob):
        found = given.filter(choices(key)) if key in GROUPS else []
    elif override.is_sweep_override():
        try:
            found = [str(value) for value in override.sweep_string_iterator()]
        except ValueError:  # a range with step 0
            found = []
    else:
        found = [override.get_value_element_as_str()]
    if not found:
        raise UserError(f"{override.input_line}: stands for no value at all")
    return found


def plan(overrides: list[str], multirun: bool) -> tuple[list[Job], bool, list[str]]:
    """All the runs of a command, composed; whether it is a sweep; and the overrides that concern Hydra.

    overrides: normalized. An experiment file may hold a grid (`hydra.sweeper.params`), further grids (`grids`) and say
    that it is a sweep (`hydra.mode`). What is typed replaces the values of the grid; of the further grids it keeps the
    runs that agree with it. Raises InputError for the first thing wrong.
    """
    parsed = [_parse(override) for override in overrides]
    own = [o for o in parsed if not _is_hydras(o.key_or_group)]
    said = {o.key_or_group for o in own}
    for_hydra = [o.input_line for o in parsed if _is_hydras(o.key_or_group)]
    for_hydra += [o.input_line for o in own if o.key_or_group in ("experiment", "output") and len(values(o)) == 1]
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        rows: list[tuple[str, ...]] = []
        if for_hydra:
            config = _compose(for_hydra, whole=True)
            multirun = multirun or str(config.hydra.mode) == "RunMode.MULTIRUN"
            if multirun:
                grid = config.hydra.sweeper.get("params") or {}
                added = [column for column in _columns(grid) if column.key_or_group not in said]
                rows += _product([*added, *own])
                for further in config.get("grids") or []:
                    rows += _further(further, own)
        for override in own:
            if override.is_sweep_override() and not multirun:
                raise InputError(override.key_or_group, ",".join(values(override)), "several values: add -m to sweep")
        base = cache(lambda chosen: Values(plain(_compose(list(chosen)))))
        jobs = [Job(row, _composed(row, base)) for row in dict.fromkeys(rows or _product(own))]
    return jobs, multirun, for_hydra


def _columns(grid: Mapping[str, object]) -> list[Override]:
    """A grid of an experiment file as overrides: a text as it stands, any other value as it is typed (null, true)."""
    return [_parse(f"{key}={value if isinstance(value, str) else typed(value)}") for key, value in grid.items()]


def _product(overrides: list[Override]) -> list[tuple[str, ...]]:
    """Every combination of the values of some overrides, the first varying slowest."""
    return list(itertools.product(*[[f"{o.key_or_group}={v}" for v in values(o)] for o in overrides]))


def _further(grid: dict[str, object], own: list[Override]) -> list[tuple[str, ...]]:
    """The combinations of one of an experiment's further grids that agree with what is typed."""
    columns = _columns(grid)
    allowed = {o.key_or_group: values(o) for o in own if o.key_or_group in grid}
    others = [o for o in own if o.key_or_group not in grid]
    return [
        row
        for row in _product([*columns, *others])
        if all(value in allowed.get(key, [value]) for key, _, value in (word.partition("=") for word in row))
    ]


def _composed(row: tuple[str, ...], base: Callable[[tuple[str, ...]], Values]) -> Values:
    """What Hydra composes of these overrides. base: the same of choices of groups, each asked for once.

    Values come after the groups, whatever their place, so that those of keys that are there are put in directly; for
    the rest, an interpolation, a mapping or a key that is not there, Hydra composes the whole.
    """
    given = [word.partition("=") for word in row]
    config = base(tuple(word for word, (key, _, _) in zip(row, given, strict=True) if key in GROUPS))
    for key, _, text in given:
        if key not in GROUPS:
            value = _direct(text)
            if value is _HYDRAS or not _has_leaf(config, key):
                return Values(plain(_compose(list(row))))
            config = config.with_value(key, value)
    return config


def _has_leaf(config: Values, key: str) -> bool:
    """Whether the key is there and takes values: it holds no others."""
    group, _, leaf = key.rpartition(".")
    there = value_at(config, group) if group else config
    return isinstance(there, Values) and leaf in there and not isinstance(there[leaf], Values)


_HYDRAS = object()  # for a value that Hydra alone understands


@lru_cache(maxsize=1024)
def _direct(text: str):
    """The value that an override gives to a key that is there, or _HYDRAS."""
    if WHOLE.fullmatch(text):
        return int(text)
    override = _parse(f"key={text}")
    value = _HYDRAS if override.is_sweep_override() else override.value()
    return value if _is_plain(value) else _HYDRAS


def _is_plain(value) -> bool:
    """Whether it is a value, or a list of such, that stands for itself."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float) or (isinstance(value, str) and not STANDS_IN.search(value))


def _compose(overrides: list[str], whole: bool = False) -> DictConfig:
    try:
        return compose("config", overrides, return_hydra_config=whole)
    except (HydraException, OmegaConfBaseException) as error:
        _explain(overrides)
        raise UserError(" ".join(str(error).split())) from None


def _explain(overrides: list[str]) -> None:
    """Raise InputError for the first override whose key the chosen files do not have."""
    parsed = [_parse(override) for override in overrides]
    chosen = [o.input_line for o in parsed if o.key_or_group in GROUPS]
    try:
        keys = flatten(compose("config", chosen))
    except (HydraException, OmegaConfBaseException):
        return
    for override in parsed:
        key = override.key_or_group
        if key in GROUPS or key in keys or _is_hydras(key):
            continue
        group = key.partition(".")[0]
        if group in default_choices():
            near = [k for k in keys if k.startswith(f"{group}.") and not k.endswith(".name")]
            typed = [o.get_value_element_as_str() for o in parsed if o.key_or_group == group]
            choice = typed[-1] if typed else default_choices()[group]
            raise InputError(key, values(override)[0], f"{group}={choice} has no such key; {choices_text(key, near)}")
        raise unknown_key(key, values(override)[0], keys)
