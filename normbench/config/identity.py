"""The name of a run: readable, and unique to what determines its result."""

import json
import re
from functools import cache
from hashlib import sha256

from normbench.config.files import GROUPS, default_choices, default_leaves, flatten
from normbench.config.keys import KEYS, identity_of
from normbench.config.values import Values

LONGEST = 120  # characters of the readable part
DIGITS = 16  # hexadecimal ones of the hash: no two configurations of any sweep share them
EARLIER_DIGITS = 6  # of the same hash, in the names that runs were given before
# Groups whose choice has a word where it is not the default, in the order of the words.
TOLD = ("measure", "task", "data", "augment", "optim")


def identity(config: Values, processes: int = 1) -> dict[str, object]:
    """What determines the result of a resolved configuration: dotted keys and values.

    That of a run of an earlier version, which lacks the keys that are in no identity while at their defaults, is the
    same as it was.
    """
    defaults = _defaults(config)
    leaves = {key: _number(value) for key, value in flatten(config).items()}
    of_the_run = {key: value for key, value in leaves.items() if _counts(key, value, defaults, config)}
    of_the_run |= {key.name: key.in_names(config) for key in KEYS.values() if key.in_names and key.name in leaves}
    return of_the_run | ({"processes": processes} if processes > 1 else {})


def unnamed(config: Values) -> dict[str, object]:
    """The values at which keys are in no identity, also of those that a run of an earlier version lacks."""
    return _unnamed_of(_chosen(config))


def _counts(key: str, value, defaults: dict[str, object], config) -> bool:
    kind = identity_of(key)
    if kind == "unless_default":
        return value != defaults.get(key) and not (key in KEYS and KEYS[key].followed(value, config))
    return kind == "always"


def _number(value):
    """1 for 1.0: `optim.lr=1` and `optim.lr=1.0` are the same run."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _defaults(config) -> dict[str, object]:
    """The values that keys have by the chosen files alone; the groups' default choices themselves."""
    return _defaults_of(_chosen(config))


def _chosen(config) -> tuple[tuple[str, str], ...]:
    return tuple((group, config[group].name) for group in GROUPS if group in config)


@cache
def _unnamed_of(chosen: tuple[tuple[str, str], ...]) -> dict[str, object]:
    return {key: value for key, value in _defaults_of(chosen).items() if identity_of(key) == "unless_default"}


@cache
def _defaults_of(chosen: tuple[tuple[str, str], ...]) -> dict[str, object]:
    return default_leaves(chosen) | {f"{group}.name": choice for group, choice in default_choices().items()}


def digest(leaves: dict[str, object]) -> str:
    """The SHA-256 of an identity, in hexadecimal digits."""
    return sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()


def earlier(name: str) -> str:
    """The name that the run of that name was given before."""
    return name[: EARLIER_DIGITS - DIGITS]


def tail(name: str) -> str:
    """The hash that the name of a run ends in, now or before; nothing where it has none, such as one given by hand."""
    found = re.search(rf"-([0-9a-f]{{{DIGITS}}}|[0-9a-f]{{{EARLIER_DIGITS}}})$", name)
    return found[1] if found else ""


def same_run(one: str, other: str) -> bool:
    """Whether two names may be of one run: their hashes agree as far as both go."""
    one, other = tail(one), tail(other)
    return one.startswith(other) or other.startswith(one)


def run_id(config: Values, processes: int = 1) -> str:
    """`resnet8-group-b2-s0-3fa81c…`: model, method, keys changed from the defaults, and a hash of the identity."""
    leaves, defaults = identity(config, processes), _defaults(config)
    words = [config.model.name, config.norm.name]
    words += [leaves[f"{group}.name"] for group in TOLD if _differs(leaves, defaults, f"{group}.name")]
    changed = _changed(config, leaves, defaults)
    words += [word for key, word in changed.items() if key.startswith("norm.")]
    words += [f"b{config.batch_size}", f"s{config.seed}"]
    if config.replicates > 1:
        words.append(f"r{config.replicates}")
    words += [word for key, word in changed.items() if not key.startswith("norm.")]
    if processes > 1:
        words.append(f"p{processes}")
    readable = re.sub(r"[^A-Za-z0-9_.+-]+", "_", "-".join(words))[:LONGEST].rstrip("-_.")
    return f"{readable}-{digest(leaves)[:DIGITS]}"


def _differs(leaves, defaults, key) -> bool:
    return key in leaves and leaves[key] != defaults[key]


def _changed(config, leaves, defaults) -> dict[str, str]:
    """Key → word, of the keys that differ from the defaults of the chosen files and say so in a name."""
    words = {}
    # Sizes and how to evaluate last: of what makes the name too long they are the least to miss.
    for key, value in sorted(leaves.items(), key=lambda leaf: leaf[0].startswith("evaluation.") or "_size" in leaf[0]):
        if key == "processes" or key.endswith(".name") or value == defaults.get(key):
            continue
        if key in KEYS and not (KEYS[key].named and KEYS[key].tells(value, config)):
            continue
        words[key] = f"{key.rpartition('.')[2]}{_word(value)}"
    return words


def _word(value) -> str:
    if isinstance(value, list):
        return "_".join(map(_word, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
