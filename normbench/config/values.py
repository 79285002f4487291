"""A configuration as plain values: a read-only mapping, nested, whose keys are attributes as well.

OmegaConf is at the border alone: Hydra composes with it, and config.yaml is written in its words.
"""

import re
from collections.abc import Iterator, Mapping

from omegaconf import DictConfig, ListConfig, OmegaConf

STANDS_IN = re.compile(r"\$\{|^\?\?\?$")  # a text that OmegaConf takes for another value, or for none


class Values(Mapping):
    """`config.optim.lr`, `config["optim"]["lr"]`: numbers, flags, names, lists and None, and mappings of such.

    Nothing in it is ever changed: configurations that are alike share what is the same.
    """

    def __init__(self, values: Mapping[str, object]):
        vars(self).update({key: Values(value) if isinstance(value, dict) else value for key, value in values.items()})

    def __getitem__(self, key: str):
        return vars(self)[key]

    def __iter__(self) -> Iterator[str]:
        return iter(vars(self))

    def items(self):
        return vars(self).items()

    def __len__(self) -> int:
        return len(vars(self))

    def __setattr__(self, key: str, value) -> None:
        raise TypeError(f"{key}: a configuration is read-only")

    def __delattr__(self, key: str) -> None:
        raise TypeError(f"{key}: a configuration is read-only")

    def __repr__(self) -> str:
        return f"Values({plain(self)!r})"

    def with_value(self, key: str, value) -> "Values":
        """The same with another value of one key, dotted. Raises KeyError where a mapping on the way is missing."""
        head, _, rest = key.partition(".")
        return Values(vars(self) | {head: self[head].with_value(rest, value) if rest else value})


def plain(config):
    """A configuration, or a part of one, as dicts and lists; interpolations as they are written."""
    if isinstance(config, DictConfig | ListConfig):
        return OmegaConf.to_container(config)
    if isinstance(config, Values | dict):
        return {key: plain(value) for key, value in config.items()}
    return [plain(value) for value in config] if isinstance(config, list) else config


def value_at(config, key: str):
    """The value of a dotted key, None where there is none."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Values | DictConfig | dict) else None
    return config


def to_yaml(config) -> str:
    """A configuration, or a part of one, as config.yaml has it."""
    return OmegaConf.to_yaml(OmegaConf.create(plain(config)))
