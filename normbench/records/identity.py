"""The name of a run: readable, and unique to what determines its result."""

import json
import re
from hashlib import sha256

from omegaconf import DictConfig

from normbench.config import GROUPS, NOT_IDENTITY, choices, default_choices, default_config, flatten

LONGEST = 120  # characters of the readable part


def identity(config: DictConfig, processes: int = 1) -> dict[str, object]:
    """What determines the result of a resolved configuration: dotted keys and values."""
    leaves = {
        key: value
        for key, value in flatten(config).items()
        if not any(key == other or key.startswith(f"{other}.") for other in NOT_IDENTITY)
    }
    return leaves | ({"processes": processes} if processes > 1 else {})


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
    chosen = {g: config[g].name for g in GROUPS if g in config and config[g].name in choices(g)}
    defaults = flatten(default_config(chosen))
    named = {"batch_size", "seed", "replicates", "stack", "precision", "processes"}
    words = []
    for key, value in leaves.items():
        skipped = key in named or key.endswith(".name") or (key.startswith("norm.") != (prefix == "norm."))
        default = defaults.get(key)
        # null and auto stand for a value that the configuration settled: not the user's change
        if not skipped and default != value and default not in (None, "auto"):
            words.append(f"{key.rpartition('.')[2]}{_word(value)}")
        elif not skipped and default is None and value is not None and key != "optim.warmup_samples":
            words.append(f"{key.rpartition('.')[2]}{_word(value)}")
    return words


def _word(value) -> str:
    if isinstance(value, list):
        return "_".join(map(_word, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
