"""The command line's side of Hydra: both spellings of an override, sweeps expanded, mistakes told in one line."""

import itertools
import os
from dataclasses import dataclass

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from normbench.config import GROUPS, choices, conf_dir, default_choices, flatten
from normbench.errors import InputError, UserError, choices_text


@dataclass(frozen=True)
class Job:
    """One run of the command: its overrides and its composed configuration."""

    overrides: tuple[str, ...]
    config: DictConfig


def normalize(overrides: list[str]) -> list[str]:
    """The overrides as Hydra takes them: `+norm=group`, `++norm=group` and `norm=group` are one thing to a user.

    Raises UserError for what is no override, InputError for an unknown choice of a group.
    """
    return [_spelling(_parse(override)) for override in overrides]


def _parse(override: str) -> Override:
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        raise UserError(f"{override}: not understood; write key=value, like batch_size=2 (see --help)") from None


def _spelling(override: Override) -> str:
    key, line = override.key_or_group, override.input_line
    if key.partition(".")[0] == "hydra" or key.startswith("hydra/"):
        return line
    if override.is_delete():
        raise UserError(f"{line}: keys cannot be deleted")
    if key in GROUPS:
        for value in values(override):
            if value not in choices(key) and not (key == "experiment" and value == "null"):
                raise InputError(key, value, f"unknown {_noun(key)}; {choices_text(value, choices(key))}")
    group, _, leaf = key.partition(".")
    if group in GROUPS and leaf == "name":
        raise InputError(key, values(override)[0], f"write {group}={values(override)[0]}")
    return line.lstrip("+")


def _noun(group: str) -> str:
    return {"norm": "method", "optim": "optimizer", "augment": "augmentation"}.get(group, group)


def values(override: Override) -> list[str]:
    """The value of an override, or those of a sweep, as text."""
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()]
    return [override.get_value_element_as_str()]


def plan(overrides: list[str], multirun: bool) -> tuple[list[Job], bool, list[str]]:
    """All the runs of a command, composed; whether it is a sweep; and the overrides for Hydra.

    overrides: normalized. An experiment file may hold a grid (hydra.sweeper.params) and say that it is a sweep
    (hydra.mode); what is typed replaces its values. Raises InputError for the first thing wrong.
    """
    parsed = [_parse(override) for override in overrides]
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        experiment = [o.input_line for o in parsed if o.key_or_group == "experiment"]
        if experiment:
            hydra = _compose(experiment, whole=True).hydra
            multirun = multirun or str(hydra.mode) == "RunMode.MULTIRUN"
            grid = hydra.sweeper.get("params") or {}
            typed = {o.key_or_group for o in parsed}
            if multirun:
                added = [f"{key}={value}" for key, value in grid.items() if key not in typed]
                parsed = [_parse(override) for override in added] + parsed
                # Hydra's sweeper would multiply the typed values with the file's.
                overrides = [*overrides, *(f"~hydra.sweeper.params.{key}" for key in grid if key in typed)]
        for override in parsed:
            if override.is_sweep_override() and not multirun:
                raise InputError(override.key_or_group, ",".join(values(override)), "several values: add -m to sweep")
        own = [o for o in parsed if not o.key_or_group.startswith("hydra")]
        columns = [[f"{o.key_or_group}={v}" for v in values(o)] for o in own]
        jobs = [Job(row, _compose(list(row))) for row in itertools.product(*columns)]
    return jobs, multirun, overrides


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
        if key in GROUPS or key in keys:
            continue
        group = key.partition(".")[0]
        if group in default_choices():
            near = [k for k in keys if k.startswith(f"{group}.") and not k.endswith(".name")]
            choice = next(
                (o.get_value_element_as_str() for o in parsed if o.key_or_group == group), default_choices()[group]
            )
            raise InputError(key, values(override)[0], f"{group}={choice} has no such key; {choices_text(key, near)}")
        raise InputError(key, values(override)[0], f"unknown key; {choices_text(key, [*keys, *GROUPS])}")


def help_text() -> str:
    """What `--help` prints: the groups with their choices, every top-level key with its comment."""
    lines = [
        "normbench trains small networks on CIFAR-10 with any normalization method.",
        "",
        "  python -m normbench norm=group batch_size=2                  one run",
        "  python -m normbench -m norm=batch,group,none batch_size=2,8  a sweep: every combination",
        "",
        "Both norm=group and +norm=group are understood. A finished run is not repeated, a stopped one goes on.",
        "",
        "Groups (choose with group=choice; the default is marked *):",
    ]
    for group in GROUPS:
        names = [f"{name}*" if default_choices().get(group) == name else name for name in choices(group)]
        lines += _wrapped(f"  {group:<11}", names)
    lines += ["", "Keys (set with key=value; group keys with group.key=value):", ""]
    text = (conf_dir() / "config.yaml").read_text()
    body = text.partition("\nbatch_size:")
    lines += [f"  {line}" if line else "" for line in (body[1] + body[2]).partition("\nhydra:")[0].strip().splitlines()]
    for group in ("norm", "data", "augment", "optim"):
        choice = default_choices()[group]
        lines += ["", f"  {group}:                 # with {group}={choice}"]
        source = (conf_dir() / group / f"{choice}.yaml").read_text().splitlines()
        lines += [f"    {line}" for line in source if not line.startswith(("#", "name:"))]
    lines += [
        "",
        "Flags: -m, --multirun: a sweep. --cfg job: print the configuration and stop. --hydra-help: Hydra's own.",
        f"Files of the groups: {os.path.relpath(conf_dir())}",
    ]
    return "\n".join(lines)


def _wrapped(head: str, names: list[str], width: int = 110) -> list[str]:
    lines = [head]
    for name in names:
        if len(lines[-1]) + len(name) > width:
            lines.append(" " * len(head))
        lines[-1] += f"{name} "
    return [line.rstrip() for line in lines]


def shown(config: DictConfig) -> str:
    return OmegaConf.to_yaml(config)
