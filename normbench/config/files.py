"""The folder conf/: the groups and their choices, what each file says, and the comments in it that users read."""

import itertools
import math
from difflib import get_close_matches
from functools import cache
from itertools import dropwhile, takewhile
from pathlib import Path

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from normbench.config.values import Values
from normbench.errors import InputError, UserError, choices_text

GROUPS = ("model", "norm", "data", "augment", "optim", "task", "measure", "recipe", "experiment")
OF_ALL = ("recipe", "experiment")  # a file of these may set any key, and is no section of a configuration
# Where the head of an experiment file has the command and its time, before it says what the study is about.
PRELUDE = ("@package", "python ", "make ", "(about ")
MOST_NODES = 100_000  # values of an experiment file


@cache
def conf_dir() -> Path:
    """The folder of the configuration files: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def choices(group: str) -> list[str]:
    """The choices of a config group: the names of its files."""
    return list(_stems(conf_dir() / group))


@cache
def _stems(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


@cache
def _load(relative: str) -> DictConfig:
    return OmegaConf.load(conf_dir() / relative)


def default_config(chosen: dict[str, str]) -> DictConfig:
    """config.yaml with these choices of its groups and no other change, interpolations unresolved."""
    base = _load("config.yaml")
    config = OmegaConf.create({key: value for key, value in base.items() if key not in ("defaults", "hydra")})
    for group, choice in chosen.items():
        config = OmegaConf.merge(config, {group: choice_config(group, choice)})
    return config


@cache
def choice_config(group: str, choice: str) -> DictConfig:
    """The file of a choice, after the one that it builds on, if it does (`defaults`, as Hydra has it)."""
    own = _load(f"{group}/{choice}.yaml")
    bases = [choice_config(group, base) for base in own.get("defaults", []) if base != "_self_"]
    return OmegaConf.merge(*bases, {key: value for key, value in own.items() if key != "defaults"})


@cache
def default_leaves(chosen: tuple[tuple[str, str], ...]) -> dict[str, object]:
    """Dotted key → value of `default_config`. chosen: pairs of a group and its choice; unknown choices add nothing."""
    return flatten(default_config({group: choice for group, choice in chosen if choice in choices(group)}))


@cache
def default_choices() -> dict[str, str]:
    """Group → choice, of config.yaml's defaults list."""
    entries = [dict(entry) for entry in _load("config.yaml").defaults if isinstance(entry, DictConfig)]
    return {group: choice for entry in entries for group, choice in entry.items() if group in GROUPS and choice}


NESTED = (DictConfig, Values, dict)
PLAIN = (int, float, str, bool, list, type(None))  # looked at first: most are


def flatten(config, prefix="") -> dict[str, object]:
    """Dotted key → value of the leaves; lists count as leaves."""
    leaves = {}
    for key, value in config.items():
        if type(value) in PLAIN:
            leaves[f"{prefix}{key}"] = value
        elif isinstance(value, NESTED):
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = OmegaConf.to_container(value) if isinstance(value, ListConfig) else value
    return leaves


def unknown_key(key: str, value, keys) -> InputError:
    """The mistake that a key is none of `keys`, with those of its group, or else those that are spelled like it."""
    group = key.partition(".")[0]
    if near := [known for known in keys if known.startswith(f"{group}.")]:
        return InputError(key, value, f"unknown key; {choices_text(key, near)}")
    close = get_close_matches(key, [*keys, *GROUPS], n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return InputError(key, value, f"unknown key; {hint}choices: see --help")


def documented(relative: str, without: tuple[str, ...] = ()) -> list[str]:
    """The lines of a file of conf/, comments included, of all its top-level keys but those in `without`.

    What stands before the first key, such as the head of the file, belongs to none.
    """
    text = (conf_dir() / relative).read_text("utf-8")
    lines = text.splitlines()
    keys = [key for key, _ in yaml.compose(text, yaml.SafeLoader).value]
    ends = [key.start_mark.line for key in keys[1:]] + [len(lines)]
    kept = [
        line
        for key, end in zip(keys, ends, strict=True)
        if key.value not in without
        for line in lines[key.start_mark.line : end]
    ]
    while kept and not kept[-1]:  # the space before a key that is left out
        kept.pop()
    return kept


def study_names() -> list[str]:
    """The studies: the experiment files."""
    return choices("experiment")


def study_file(name: str) -> DictConfig:
    """The experiment file of a study. Raises InputError for a name that there is not, YAMLError for what is no YAML."""
    if name not in study_names():
        raise InputError("study", name, f"neither a folder of runs nor a study; {choices_text(name, study_names())}")
    return OmegaConf.load(conf_dir() / "experiment" / f"{name}.yaml")


def check_experiment(name: str) -> None:
    """Raise UserError, which names the file, for an experiment file that is no mapping of keys, or damaged."""
    path = conf_dir() / "experiment" / f"{name}.yaml"
    try:
        root = yaml.compose(path.read_text("utf-8"), yaml.SafeLoader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: must be a mapping of keys to values")
    if _nodes(root, {}) > MOST_NODES:
        raise UserError(f"{path}: more than {MOST_NODES} values, aliases counted each time they stand for something")
    try:
        said = OmegaConf.load(path)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    for where, grids in (
        ("hydra.sweeper.params", [_get(said, "hydra.sweeper.params")]),
        ("grids", _get(said, "grids")),
    ):
        given = [] if grids is None else grids
        if not isinstance(given, list | ListConfig) or any(g is not None and not _is_grid(g) for g in given):
            raise UserError(f"{path}: {where}: must have keys and their values, like batch_size: 2,8")


def _get(said: DictConfig, key: str):
    try:
        return OmegaConf.select(said, key)
    except OmegaConfBaseException:  # something on its way is no mapping, which Hydra says
        return None


def _is_grid(grid) -> bool:
    return isinstance(grid, DictConfig) and not any(isinstance(v, DictConfig | ListConfig) for v in grid.values())


def _nodes(node, known: dict[int, float]) -> float:
    """How many values a node of YAML stands for, aliases followed; infinitely many where it holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        inner = [] if isinstance(node, yaml.ScalarNode) else node.value
        parts = itertools.chain.from_iterable(inner) if isinstance(node, yaml.MappingNode) else inner
        known[id(node)] = 1 + sum(_nodes(part, known) for part in parts)
    return known[id(node)]


def study_title(name: str) -> str:
    """The sentences at the head of a study's experiment file, below the command and its time."""
    lines = (conf_dir() / "experiment" / f"{name}.yaml").read_text("utf-8").splitlines()
    head = [line[1:].removeprefix(" ") for line in takewhile(lambda line: line.startswith("#"), lines)]
    return "\n".join(dropwhile(lambda line: line.startswith(PRELUDE), head))
