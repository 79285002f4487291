"""The name of a run: readable, and unique to what determines its result."""

import json
import re
from functools import cache
from hashlib import sha256

from omegaconf import DictConfig

from normbench.config import GROUPS, NOT_IDENTITY, choices, default_choices, default_config, flatten

LONGEST = 120  # characters of the readable part


def identity(config: DictConfig, processes: int = 1) -> dict[str, object]:
    """What determines the result of a resolved configuration: dotted keys and values."""
    leaves = {
        key: _number(value)
        for key, value in flatten(config).items()
        if not any(key == other or key.startswith(f"{other}.") for other in NOT_IDENTITY)
    }
    return leaves | ({"processes": processes} if processes > 1 else {})


def _number(value):
    """1 for 1.0: `optim.lr=1` and `optim.lr=1.0` are the same run."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def run_id(config: DictConfig, processes: int = 1) -> str:
    """`resnet8-group-b2-s0-3fa81c`: model, method, keys changed from the defaults, and a hash of the identity."""
    leaves = identity(config, processes)
    digest = sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()[:6]
    words = [config.model.name, config.norm.name]
    words += [config[group].name for group in ("data", "augment", "optim") if _differs(config, group)]
    words += _changed(config, leaves, "norm.")
    words += [f"b{config.batch_size}", f"s{config.seed}"]
    if config.replicates > 1:
        words.append(f"r{config.replicates}")
    words += _changed(config, leaves, "")
    if processes > 1:
        words.append(f"p{processes}")
    readable = re.sub(r"[^A-Za-z0-9_.+-]+", "_", "-".join(words))[:LONGEST].rstrip("-_.")
    return f"{readable}-{digest}"


def _differs(config, group) -> bool:
    return config[group].name != default_choices()[group]


def _changed(config, leaves, prefix) -> list[str]:
    """Words for the keys that differ from the defaults of the chosen files; those of `norm.` come first, apart."""
    defaults = _defaults(tuple((g, config[g].name) for g in GROUPS if g in config))
    # Those that have words of their own, and those that the configuration settles when the user does not.
    named = {"batch_size", "seed", "replicates", "processes", "stack", "precision", "optim.warmup_samples"}
    words = []
    # Sizes and how to evaluate last: of what makes the name too long they are the least to miss.
    for key, value in sorted(leaves.items(), key=lambda leaf: leaf[0].startswith("evaluation.") or "_size" in leaf[0]):
        if key in named or key.endswith(".name") or key.startswith("norm.") != (prefix == "norm."):
            continue
        if key.startswith("data.test_") and value == leaves.get(key.replace("test_", "")):  # as in training
            continue
        if key.endswith("noise_strength") and leaves[key.removesuffix("_strength")] == "none":
            continue
        if value != defaults.get(key):
            words.append(f"{key.rpartition('.')[2]}{_word(value)}")
    return words


@cache
def _defaults(chosen: tuple[tuple[str, str], ...]) -> dict[str, object]:
    return flatten(default_config({group: name for group, name in chosen if name in choices(group)}))


def _word(value) -> str:
    if isinstance(value, list):
        return "_".join(map(_word, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
