"""config.yaml as it is written and read: whose folder it makes of the folder that it is in.

Its first line says the digest of the identity, and a checksum of this and of the text below: where it agrees, whose the
folder is can be told without parsing. A file of an earlier version, or one edited by hand, is parsed.
"""

import re
from functools import lru_cache
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

from normbench.config.files import GROUPS, default_choices, default_config
from normbench.config.identity import digest, identity
from normbench.config.values import Values, plain
from normbench.records.damage import Damaged, content_of, undamaged
from normbench.records.files import checksum
from normbench.records.result import environment_of

FIRST_LINE = "# identity {identity}, checksum {checksum}\n"
SIGNED = re.compile(rb"# identity ([0-9a-f]{64}), checksum ([0-9a-f]{64})\n")
SECTION = re.compile(rb"^\w.*\n(?:(?!\w).*\n)*", re.MULTILINE)  # a key of the text that is signed, with all below it


# What working on a configuration raises that no run has written.
NONE_OF_A_RUN = (AttributeError, KeyError, TypeError, ValueError, ArithmeticError)


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Reads YAML as OmegaConf does (1e-05 is a number, a date is text), in C where that is there: ten times as fast."""

    yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers


def signed(text: str, leaves: dict[str, object]) -> str:
    """The content of config.yaml. leaves: the identity of the run."""
    name = digest(leaves)
    return FIRST_LINE.format(identity=name, checksum=checksum(name.encode(), text.encode())) + text


def configuration_of(path: Path) -> Values | None:
    """What config.yaml says; None where there is none. Raises Damaged for what is no mapping in YAML."""
    content = content_of(path)
    return None if content is None else _parsed(path, content)


def completed(config: Values) -> Values:
    """A configuration of any version with the keys that have come since, at their defaults, which never change."""
    chosen = default_choices() | {group: config[group].name for group in GROUPS if group in config}
    whole = OmegaConf.merge(default_config(chosen), plain(config))
    return Values(OmegaConf.to_container(whole, resolve=True))


def digest_of(path: Path) -> str | None:
    """The digest of the identity of the run that config.yaml is of; None where there is none. Raises Damaged."""
    if (content := content_of(path)) is None:
        return None
    written = _written(content)
    return written[0] if written else _digest(path, content)


def _written(content: bytes) -> tuple[str, bytes] | None:
    """The digest of the identity and the text below it, as `signed` wrote them; None for any other file."""
    line = SIGNED.match(content)
    text = content[line.end() :] if line else b""
    return (line[1].decode(), text) if line and checksum(line[1], text).encode() == line[2] else None


@lru_cache(maxsize=20_000)
def _digest(path: Path, content: bytes) -> str:
    return digest(_identity(path, _parsed(path, content)))


def identity_of(path: Path) -> dict[str, object]:
    """The identity of the run that config.yaml is of. Raises Damaged."""
    return _identity(path, configuration_of(path))


def _identity(path: Path, config) -> dict[str, object]:
    processes = undamaged(environment_of, path.parent / "env.json", otherwise={}).get("processes", 1)
    try:
        if {"model", "norm", "optim", "seed", "replicates"} <= set(config):
            return identity(config, processes)
    except NONE_OF_A_RUN as error:
        raise Damaged(path, f"no configuration of a run: {error}") from None
    raise Damaged(path, "no configuration of a run")


def _parsed(path: Path, content: bytes) -> Values:
    written = _written(content)
    try:
        if written is None:
            return _mapping(content)
        return Values({key: value for text in SECTION.findall(written[1]) for key, value in _section(text).items()})
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise Damaged(path, error) from None


def _mapping(content: bytes) -> Values:
    """Raises YAMLError, ValueError, TypeError or RecursionError for what is no mapping in YAML."""
    if b"*" in content and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(content, Loader)):
        raise ValueError("an alias")  # a few of them stand for more than any memory holds
    said = yaml.load(content, Loader)
    if not isinstance(said, dict):
        raise ValueError("no mapping")
    return Values(said)


# The runs of a sweep differ in few keys: of thousands of them most sections are the same, and parsed once.
_section = lru_cache(maxsize=20_000)(_mapping)
