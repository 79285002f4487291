"""From what the user typed to a configuration that is known to be right: composed by Hydra, checked here, key by key.

Every check ends in an InputError that names the key, the value and the choices, before any work starts.
"""

import csv
import math
import re
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from normbench.data import LABELS, patterns
from normbench.data.corruption import NOISES
from normbench.data.inputs import KINDS
from normbench.data.views import VIEWS
from normbench.errors import InputError, UserError, choices_text
from normbench.models import MODELS, build_model
from normbench.models.resnet import SHORTCUTS
from normbench.norms.factory import ACTIVATIONS, NORM_POSITIONS, Layers
from normbench.norms.methods import NORMS

GROUPS = ("model", "norm", "data", "augment", "optim", "experiment")
# What cannot change a result beyond rounding is no part of a run's identity.
NOT_IDENTITY = (
    "device",
    "deterministic",
    "threads",
    "output",
    "force",
    "study",
    "checkpoint_seconds",
    "evaluation.batch_size",
    "logging",
    "data.root",
    "optim.rates",
)
# What an experiment file says beside the configuration of its runs.
OF_A_STUDY = ("grids", "claims", "figure", "tunes")
# Training and test images of each dataset, known without loading it.
IMAGES = {"cifar10": (50_000, 10_000), "patterns": (patterns.TRAIN, patterns.TEST)}
# What `data` says of the training images and, after `test_`, of the others.
CORRUPTIONS = ("noise", "noise_strength", "bits", "channel_scale")


def conf_dir() -> Path:
    """The folder of the configuration files: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def choices(group: str) -> list[str]:
    """The choices of a config group: the names of its files."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


@cache
def _load(relative: str) -> DictConfig:
    return OmegaConf.load(conf_dir() / relative)


def default_config(chosen: dict[str, str]) -> DictConfig:
    """config.yaml with these choices of its groups and no other change, interpolations unresolved."""
    base = _load("config.yaml")
    config = OmegaConf.create({key: value for key, value in base.items() if key not in ("defaults", "hydra")})
    for group, choice in chosen.items():
        config = OmegaConf.merge(config, {group: _choice(group, choice)})
    return config


def _choice(group: str, choice: str) -> DictConfig:
    """The file of a choice, after the one that it builds on, if it does (`defaults`, as Hydra has it)."""
    own = _load(f"{group}/{choice}.yaml")
    bases = [_choice(group, base) for base in own.get("defaults", []) if base != "_self_"]
    return OmegaConf.merge(*bases, {key: value for key, value in own.items() if key != "defaults"})


def default_choices() -> dict[str, str]:
    """Group → choice, of config.yaml's defaults list."""
    entries = [dict(entry) for entry in _load("config.yaml").defaults if isinstance(entry, DictConfig)]
    return {group: choice for entry in entries for group, choice in entry.items() if group in GROUPS and choice}


def flatten(config, prefix="") -> dict[str, object]:
    """Dotted key → value of the leaves; lists count as leaves."""
    leaves = {}
    for key, value in config.items():
        if isinstance(value, DictConfig | dict):
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = OmegaConf.to_container(value) if isinstance(value, ListConfig) else value
    return leaves


# --- What each key takes: a function that says what is wrong with a value, or None. -----------------------------------

Check = Callable[[object], str | None]


def is_integer(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def integer(low: int, high: int | None = None) -> Check:
    text = f"must be an integer ≥ {low}" if high is None else f"must be an integer from {low} to {high}"
    return lambda v: None if is_integer(v) and v >= low and (high is None or v <= high) else text


def number(test: Callable[[float], bool], words: str) -> Check:
    return lambda v: None if is_number(v) and test(v) else f"must be a number {words}"


def one_of(options) -> Check:
    return lambda v: None if isinstance(v, str) and v in options else choices_text(v, options)


def boolean(v) -> str | None:
    return None if isinstance(v, bool) else "must be true or false"


def text(v) -> str | None:
    return None if isinstance(v, str) and v else "must be a name"


def optional(check: Check) -> Check:
    def checked(v):
        wrong = None if v is None else check(v)
        return wrong and f"{wrong}, or null"

    return checked


def either(word: str, check: Check) -> Check:
    def checked(v):
        wrong = None if v == word else check(v)
        return wrong and f"{wrong}, or {word}"

    return checked


def device_name(v) -> str | None:
    if v in ("auto", "cpu", "cuda") or (isinstance(v, str) and v.startswith("cuda:") and v[5:].isdigit()):
        return None
    return "choices: auto, cpu, cuda, cuda:N"


def rising_shares(v) -> str | None:
    good = isinstance(v, list) and all(is_number(x) and 0 < x < 1 for x in v) and v == sorted(v)
    return None if good else "must be a list of rising numbers between 0 and 1, like [0.5,0.75]"


def size_schedule(v) -> str | None:
    good = (
        isinstance(v, list)
        and v
        and all(isinstance(pair, list) and len(pair) == 2 for pair in v)
        and all(is_number(share) and 0 <= share < 1 and is_integer(size) and 4 <= size <= 128 for share, size in v)
        and v[0][0] == 0
        and all(earlier[0] < later[0] for earlier, later in pairwise(v))
    )
    words = "must be pairs of a share of training (from 0, rising) and a size (4 to 128), like [[0,16],[0.5,32]]"
    return None if good else words


def two_betas(v) -> str | None:
    good = isinstance(v, list) and len(v) == 2 and all(is_number(x) and 0 <= x < 1 for x in v)
    return None if good else "must be two numbers, each 0 ≤ β < 1, like [0.9,0.999]"


def tuned(v) -> str | None:
    """`tuned`, or `tuned*2`: the rate of a table, or a multiple of it."""
    match = re.fullmatch(r"tuned(\*(\d+\.?\d*))?", v) if isinstance(v, str) else None
    return None if match and (match[1] is None or float(match[2]) > 0) else "must be tuned or a multiple like tuned*0.5"


def any_of(*checks: Check) -> Check:
    def checked(v):
        wrongs = [check(v) for check in checks]
        return None if None in wrongs else ", or ".join(wrongs)

    return checked


POSITIVE = number(lambda v: v > 0, "> 0")
NOT_NEGATIVE = number(lambda v: v >= 0, "≥ 0")
SHARE = number(lambda v: 0 <= v < 1, "from 0 to below 1")
STRENGTH = number(lambda v: 0 <= v <= 10, "from 0 to 10")
FACTOR = number(lambda v: 1e-9 <= v <= 1e9, "from 1e-9 to 1e9")  # float32 holds its squares

CHECKS: dict[str, Check] = {
    "batch_size": integer(1),
    "epochs": integer(1),
    "seed": integer(0),
    "replicates": integer(1),
    "stack": either("auto", integer(1)),
    "lr_scaling": one_of(("linear", "sqrt", "none")),
    "study": optional(text),
    "device": device_name,
    "precision": one_of(("auto", "float32", "bfloat16", "float64")),
    "deterministic": boolean,
    "threads": integer(0),
    "output": text,
    "force": boolean,
    "checkpoint_seconds": NOT_NEGATIVE,
    "model.name": one_of(MODELS),
    "model.width": integer(1),
    "model.depth": integer(1),
    "model.shortcut": one_of(SHORTCUTS),
    "model.norm_position": one_of(NORM_POSITIONS),
    "model.activation": one_of(ACTIVATIONS),
    "model.dropout": SHARE,
    "model.init_scale": POSITIVE,
    "model.zero_init_residual": boolean,
    "norm.name": one_of(NORMS),
    "data.name": one_of(IMAGES),
    "data.root": optional(text),
    "data.val_size": integer(1),
    "data.train_size": optional(integer(1)),
    "data.test_size": optional(integer(1)),
    "data.split_seed": integer(0),
    "data.input": one_of(KINDS),
    "data.labels": one_of(LABELS),
    "data.label_noise": SHARE,
    "data.noise": one_of(NOISES),
    "data.noise_strength": STRENGTH,
    "data.bits": integer(4, 8),
    "data.channel_scale": FACTOR,
    "data.test_noise": optional(one_of(NOISES)),
    "data.test_noise_strength": optional(STRENGTH),
    "data.test_bits": optional(integer(4, 8)),
    "data.test_channel_scale": optional(FACTOR),
    "augment.name": text,
    "augment.crop": integer(0, 31),
    "augment.flip": boolean,
    "augment.mixup": NOT_NEGATIVE,
    "augment.cutmix": NOT_NEGATIVE,
    "augment.label_smoothing": SHARE,
    "augment.resize": optional(size_schedule),
    "augment.tta": one_of(VIEWS),
    "augment.tta_average": one_of(("logits", "probabilities")),
    "optim.name": one_of(("sgd", "adamw")),
    "optim.lr": any_of(POSITIVE, tuned),
    "optim.rates": text,
    "optim.momentum": SHARE,
    "optim.nesterov": boolean,
    "optim.betas": two_betas,
    "optim.eps": POSITIVE,
    "optim.weight_decay": NOT_NEGATIVE,
    "optim.schedule": one_of(("cosine", "step", "constant")),
    "optim.warmup_samples": optional(integer(0)),
    "optim.milestones": rising_shares,
    "optim.gamma": number(lambda v: 0 < v <= 1, "above 0, at most 1"),
    "optim.clip_norm": optional(POSITIVE),
    "evaluation.batch_size": either("auto", integer(1)),
    "evaluation.precise_images": integer(0),
    "evaluation.precise_augment": boolean,
    "evaluation.target_acc": optional(number(lambda v: 0 < v <= 100, "above 0, at most 100")),
    "evaluation.suggest_lr": boolean,
    "logging.progress": one_of(("auto", "bar", "lines", "none")),
    "logging.tensorboard": boolean,
    "logging.histogram_epochs": integer(0),
    "logging.grad_norm_steps": integer(1),
}

TYPE_CHECKS: dict[type, Check] = {
    int: lambda v: None if is_integer(v) else "must be an integer",
    float: lambda v: None if is_number(v) else "must be a number",
    bool: boolean,
    str: text,
}


def norm_checks(norm: str) -> dict[str, Check]:
    """The types of a method's options; their ranges are the layers' own to know."""
    checks = {f"norm.{key}": TYPE_CHECKS[kind] for key, (kind, _) in NORMS[norm].options().items()}
    if "norm.momentum" in checks:
        checks["norm.momentum"] = either("scaled", checks["norm.momentum"])
    return checks


# --- The whole configuration. -----------------------------------------------------------------------------------------


def resolve(config: DictConfig, processes: int = 1) -> DictConfig:
    """Check a composed configuration, and replace what depends on the machine or on other keys by its value.

    config: as Hydra composes it. processes: how many of torchrun's share each batch. Returns a copy, read-only, in
    which device, precision, stack, norm.momentum, optim.lr, optim.warmup_samples, evaluation.batch_size, data.test_*
    and what has no effect (the strength of no noise, the average over no views) are settled, less what an experiment
    file says about its study. Raises InputError.
    """
    config = OmegaConf.masked_copy(config, [key for key in config if key not in OF_A_STUDY])
    try:
        config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:  # an interpolation that the user wrote
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    checks = CHECKS | norm_checks(_checked_name(config, "norm", NORMS))
    for key, value in flatten(config).items():
        if key not in checks:
            raise InputError(key, value, f"unknown key; {choices_text(key, checks)}")
        if wrong := checks[key](value):
            raise InputError(key, value, wrong)

    _check_data(config)
    if config.batch_size % processes:
        raise InputError("batch_size", config.batch_size, f"must be divided by the {processes} processes that share it")
    if processes > 1 and config.evaluation.suggest_lr:
        raise InputError("evaluation.suggest_lr", True, "is for a single process")
    if config.optim.get("nesterov") and config.optim.momentum == 0:
        raise InputError("optim.nesterov", True, "needs optim.momentum > 0")
    ghost = config.norm.get("ghost_size")
    if ghost is not None and (ghost < 1 or (config.batch_size // processes) % ghost):
        raise InputError("norm.ghost_size", ghost, f"must divide batch_size={config.batch_size // processes}")
    _settle(config, processes)
    sizes = {size for _, size in config.augment.resize or []} | {32}
    for size in (32, min(sizes)):  # what is wrong with the model alone, then what a small size adds
        try:
            _check_model(
                OmegaConf.to_yaml(config.model),
                OmegaConf.to_yaml(config.norm),
                min(config.batch_size // processes, 2),
                size,
            )
        except (InputError, RuntimeError) as error:
            if size == 32:
                raise
            raise InputError(
                "augment.resize", size, f"too small for model={config.model.name}, norm={config.norm.name} ({error})"
            ) from None
    OmegaConf.set_readonly(config, True)
    return config


def _checked_name(config, group, known) -> str:
    name = config.get(group, {}).get("name")
    if name not in known:
        raise InputError(f"{group}.name", name, choices_text(name, known))
    return name


def _check_data(config) -> None:
    data, (train, test) = config.data, IMAGES[config.data.name]
    if data.name == "cifar10" and data.root is None:
        raise InputError("data.root", None, "must be the folder of the data")
    if data.val_size >= train:
        raise InputError(
            "data.val_size", data.val_size, f"{data.name} has {train} training images; at most {train - 1}"
        )
    if (data.train_size or 1) > train - data.val_size:
        raise InputError(
            "data.train_size", data.train_size, f"the training split has {train - data.val_size} images, or null"
        )
    if (data.test_size or 1) > test:
        raise InputError("data.test_size", data.test_size, f"{data.name} has {test} test images, or null")
    if config.batch_size > train_images(config):
        raise InputError("batch_size", config.batch_size, f"the training split has {train_images(config)} images")
    total = config.epochs * samples_per_epoch(config)
    if (config.optim.warmup_samples or 0) >= total:
        raise InputError("optim.warmup_samples", config.optim.warmup_samples, f"training sees {total} samples in all")


def train_images(config) -> int:
    """Images in the training split of a configuration."""
    return config.data.train_size or IMAGES[config.data.name][0] - config.data.val_size


def samples_per_epoch(config) -> int:
    """Images an epoch sees: the last incomplete batch is dropped."""
    return train_images(config) // config.batch_size * config.batch_size


def _settle(config, processes) -> None:
    cuda = torch.cuda.is_available()
    if config.device == "auto":
        config.device = "cuda" if cuda else "cpu"
    elif config.device != "cpu" and not cuda:
        raise InputError("device", config.device, "this machine has no CUDA device; choices: auto, cpu")
    elif config.device.startswith("cuda:") and int(config.device[5:]) >= torch.cuda.device_count():
        raise InputError("device", config.device, f"this machine has {torch.cuda.device_count()} CUDA devices")
    on_cpu = config.device == "cpu"
    if config.precision == "auto":
        config.precision = "float32" if on_cpu else "bfloat16"
    if config.stack == "auto":
        # On the CPU a batch of 32 images keeps the cores busy, and grouped convolutions cost more than they save.
        most = max(1, 32 // config.batch_size) if on_cpu else config.replicates
        config.stack = math.ceil(config.replicates / math.ceil(config.replicates / most))  # 3 and 2 rather than 4 and 1
    config.stack = min(config.stack, config.replicates)
    if config.evaluation.batch_size == "auto":
        config.evaluation.batch_size = 200 if on_cpu else 5000  # on the CPU larger ones fall out of the cache
    for key in CORRUPTIONS:
        if config.data[f"test_{key}"] is None:
            config.data[f"test_{key}"] = config.data[key]
    for prefix in ("", "test_"):  # no noise has no strength: one run, not several
        if config.data[f"{prefix}noise"] == "none":
            config.data[f"{prefix}noise_strength"] = 0
    if config.augment.tta == "none":  # nothing is averaged: the same
        config.augment.tta_average = "logits"
    if config.norm.get("momentum") == "scaled":
        local = config.batch_size if config.norm.name == "sync_batch" else config.batch_size // processes
        config.norm.momentum = 1 - 0.9 ** (config.norm.get("ghost_size", local) / 128)
    if isinstance(config.optim.lr, str):
        rate = tuned_rate(config.optim.rates, config.model.name, config.optim.name, config.norm.name)
        config.optim.lr = rate * float(config.optim.lr.partition("*")[2] or 1)
    if config.optim.warmup_samples is None:
        config.optim.warmup_samples = config.epochs * samples_per_epoch(config) // 20


def tuned_rate(path: str, model: str, optimizer: str, method: str) -> float:
    """The rate of a method in a table of tuned rates, which `scripts/table.py tune_lr` writes.

    path: relative to the working directory or else to the project. A method that is batch normalization over other
    groups of images takes the rate of batch. Raises InputError where the table has none.
    """
    file = next((f for f in (Path(path), conf_dir().parent / path) if f.is_file()), None)
    if file is None:
        raise InputError(
            "optim.rates", path, "no such table; make study STUDY=tune_lr writes it, or give optim.lr a number"
        )
    with open(file, newline="") as lines:
        rows = list(csv.DictReader(lines))
    try:
        rates = {(row["model"], row["optimizer"], row["method"]): float(row["lr"]) for row in rows}
    except (KeyError, TypeError, ValueError):
        rates = {}
    if not rates or len(rates) < len(rows):
        raise InputError("optim.rates", path, "no table of rates: one row a model, optimizer and method, with its lr")
    wanted = (model, optimizer, {"ghost_batch": "batch", "sync_batch": "batch"}.get(method, method))
    if wanted not in rates:
        known = ", ".join("/".join(key) for key in sorted(rates))
        raise InputError("optim.lr", "tuned", f"{file} has no rate for {'/'.join(wanted)}; it has {known}")
    return rates[wanted]


def norm_options(config) -> dict:
    return {key: value for key, value in config.norm.items() if key != "name"}


def make_model(config, seeds):
    """The network of a resolved configuration, a replicate a seed, on the CPU in float32. Raises InputError."""
    options = {
        key: value for key, value in config.model.items() if key not in ("name", "activation", "zero_init_residual")
    }
    layers = Layers(
        config.norm.name,
        norm_options(config),
        replicates=len(seeds),
        activation=config.model.activation,
        zero_init_residual=config.model.zero_init_residual,
    )
    return build_model(config.model.name, layers, seeds, num_classes=LABELS[config.data.labels], **options)


@cache
def _check_model(model_yaml: str, norm_yaml: str, batch: int, size: int) -> None:
    """Build the network and train it on nothing once: options out of range, statistics of a single value show here."""
    config = OmegaConf.create(
        {"model": OmegaConf.create(model_yaml), "norm": OmegaConf.create(norm_yaml), "data": {"labels": "class"}}
    )
    model = make_model(config, [0])
    try:
        with torch.no_grad():
            model.train()(torch.zeros(batch, 3, size, size))
    except InputError as error:  # a layer names its own option
        raise error.within("norm") if error.key in config.norm else error from None


TORCHS_CHOICE = torch.get_num_threads()  # read before any run sets its own


def cpu_threads(config) -> int:
    """CPU threads of a run. torch's choice already follows OMP_NUM_THREADS."""
    return config.threads or TORCHS_CHOICE
