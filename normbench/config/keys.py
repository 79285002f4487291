"""Every key of a run, each said once: what it takes, what it settles to, and whether it names the run.

To add one: its line in a file of conf/ with a comment, and its line here, `unless_default`, so that the runs there are
keep their names. Its default must then never change.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from omegaconf import ListConfig

from normbench.config.checks import (
    FACTOR,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    STRENGTH,
    Check,
    any_of,
    boolean,
    device_name,
    either,
    folders,
    integer,
    like,
    number,
    one_of,
    optional,
    rising_shares,
    size_schedule,
    text,
    tuned,
    two_betas,
)
from normbench.config.files import choice_config, choices, flatten
from normbench.config.machine import settle_device
from normbench.config.rates import tuned_rate
from normbench.config.sizes import (
    IMAGES,
    LABELS,
    MOST_EPOCHS,
    MOST_IMAGES,
    MOST_INTEGER,
    MOST_REPLICATES,
    MOST_THREADS,
    MOST_WIDTH,
    samples_per_epoch,
)
from normbench.config.values import Values, value_at
from normbench.facts import facts_of, scaled_momentum

# The next two are read by the modules that do the work; the others these have too, and a test holds them together.
SHORTCUTS = ("pad", "projection")  # of a block that changes the shape: zeros for new channels, or a 1×1 convolution
NORM_POSITIONS = ("before", "after")  # of a convolution's norm: before its activation, or after it
SEQUENCES = ("rows", "pixels")  # how model=lstm reads an image
CELL_PLACEMENTS = ("gates", "per_gate", "cell_only")  # of the norms of model=lstm, beside that of the cell
CARRIES = ("raw", "normalized")  # the cell that its next step takes
BLOCK_PLACEMENTS = ("pre", "post")  # of the norms of model=vit: before a part of a block, or after its sum
STATISTICS = ("batch", "running")  # that norm=batch normalizes by in training
RATES_FROM = ("theory", "tuned")  # factors of a method's parameters on the rate, or none
ACTIVATIONS = ("relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh")
KERNELS = ("auto", "native", "torch", "graph")
INPUTS = ("raw", "unit", "symmetric", "zscore", "per_image", "min_max", "percentile", "three_sigma")
NOISES = ("none", "gaussian", "rician", "non_uniformity")
VIEWS = ("none", "flip", "flip_shift", "zoom_rotate_crop")

Identity = Literal["always", "unless_default", "never"]


@dataclass(frozen=True)
class Key:
    """A key of the configuration.

    check: what is wrong with a value, or None. identity: whether the value is part of what names a run: always, never
    (it cannot change a result beyond rounding), or unless it is the default of the chosen files. in_names: what all
    names have in the place of one that is no part of them any more, from when it was.

    A value settles in three steps, each seeing the keys before it settled. follows(config): the value where the user
    leaves the key alone, which is auto or null. settle(value, config, processes): what a value becomes. moot(config):
    the one value where the key has no effect, so that this is one run, not several; else None.

    by_machine: what it follows is the machine, so that another one cannot tell. alone: what tables say of it where it
    is as it would follow. named: whether the readable name of a run shows it where it is not the default; otherwise it
    has a place of its own there, or shows in the hash alone.
    """

    name: str
    check: Check
    identity: Identity = "always"
    follows: Callable[[Values], object] | None = None
    settle: Callable[[object, Values, int], object] | None = None
    moot: Callable[[Values], object] | None = None
    by_machine: bool = False
    alone: str | None = None
    named: bool = True
    in_names: Callable[[Values], object] | None = None

    @property
    def settles(self) -> bool:
        """Whether any value becomes another one."""
        return any((self.follows, self.settle, self.moot))

    def settled(self, config: Values, processes: int):
        """The value that the key has in a configuration that its checks have passed."""
        value = value_at(config, self.name)
        if self.follows is not None and value in (None, "auto"):
            value = self.follows(config)
        if self.settle is not None:
            value = self.settle(value, config, processes)
        fixed = None if self.moot is None else self.moot(config)
        return value if fixed is None else fixed

    def followed(self, value, config: Values) -> bool:
        """Whether a value of a settled configuration is the one that follows where the user leaves the key alone."""
        return self.follows is not None and value == self.follows(config)

    def tells(self, value, config: Values) -> bool:
        """Whether a value of a settled configuration says more than the other keys do."""
        return not self.followed(value, config) and (self.moot is None or value != self.moot(config))


# --- What keys settle to. ---------------------------------------------------------------------------------------------


def _on_cpu(config) -> bool:
    return config.device == "cpu"


def _stack(config) -> int:
    return _stack_on_cpu(config) if _on_cpu(config) else config.replicates


def _stack_on_cpu(config) -> int:
    """A batch of 32 images keeps the cores busy, and torch's grouped convolutions cost more than they save."""
    most = max(1, 32 // config.batch_size)
    return math.ceil(config.replicates / math.ceil(config.replicates / most))  # 3 and 2 rather than 4 and 1


def _as(name: str) -> Callable[[Values], object]:
    return partial(value_at, key=name)


def _without(name: str, value) -> Callable[[Values], object]:
    """The value of a key that has no effect while another one is `none`."""
    return lambda config: value if value_at(config, name) == "none" else None


def _rate(value, config, processes):
    if not isinstance(value, str):
        return value
    return tuned_rate(config) * float(value.partition("*")[2] or 1)


def _momentum(value, config, processes):
    if value != "scaled":
        return value
    return scaled_momentum(facts_of(config.norm.name).statistic_images(config.norm, config.batch_size, processes))


def _folders(value, config, processes):
    """`~` is the home of the user, whoever reads the folder's name."""
    if isinstance(value, ListConfig | list):
        return [_folders(folder, config, processes) for folder in value]
    return os.path.expanduser(value) if value else value


# --- The keys, in the order in which they settle. ---------------------------------------------------------------------


def _choice_of(group: str) -> Check:
    return lambda v: one_of(choices(group))(v)


_never = partial(Key, identity="never")

KEYS: dict[str, Key] = {
    key.name: key
    for key in (
        Key("batch_size", integer(1, MOST_IMAGES), named=False),
        Key("epochs", integer(1, MOST_EPOCHS)),
        Key("seed", integer(0, MOST_INTEGER), named=False),
        Key("replicates", integer(1, MOST_REPLICATES), named=False),
        Key("arm", optional(text), "unless_default"),
        Key("lr_scaling", one_of(("linear", "sqrt", "none"))),
        _never("study", optional(text)),
        _never("device", device_name, settle=lambda v, *_: settle_device(v), by_machine=True),
        _never(
            "stack",
            either("auto", integer(1, MOST_REPLICATES)),
            follows=_stack,
            settle=lambda v, config, _: min(v, config.replicates),
            by_machine=True,
            in_names=_stack_on_cpu,
        ),
        Key(
            "precision",
            one_of(("auto", "float32", "bfloat16", "float64")),
            follows=lambda config: "float32" if _on_cpu(config) else "bfloat16",
            by_machine=True,
            named=False,
        ),
        _never("deterministic", boolean),
        _never("threads", integer(0, MOST_THREADS)),
        _never("kernels", one_of(KERNELS)),
        _never("output", text, settle=_folders),
        _never("force", boolean),
        _never("reuse", optional(folders), settle=_folders),
        _never("checkpoint_seconds", NOT_NEGATIVE),
        Key("model.name", _choice_of("model")),
        Key("model.width", integer(1, MOST_WIDTH)),
        Key("model.depth", integer(1, MOST_WIDTH)),
        Key("model.residual", boolean, "unless_default"),
        Key("model.shortcut", one_of(SHORTCUTS), "unless_default"),
        Key("model.lrn", boolean, "unless_default"),
        Key("model.norm_position", one_of(NORM_POSITIONS), "unless_default"),
        Key("model.sequence", one_of(SEQUENCES), "unless_default"),
        Key("model.placement", one_of((*CELL_PLACEMENTS, *BLOCK_PLACEMENTS)), "unless_default"),
        Key("model.carry", one_of(CARRIES), "unless_default"),
        Key("model.init_gamma", NOT_NEGATIVE, "unless_default"),
        Key("model.heads", integer(1, MOST_WIDTH), "unless_default"),
        Key("model.patch", integer(1, MOST_WIDTH), "unless_default"),
        Key("model.activation", one_of(ACTIVATIONS)),
        Key("model.dropout", SHARE),
        Key("model.init_scale", POSITIVE),
        Key("model.zero_init_residual", boolean),
        Key("norm.name", _choice_of("norm")),
        Key("norm.scale", boolean, "unless_default", moot=lambda config: None if config.norm.affine else True),
        Key("norm.shift", boolean, "unless_default", moot=lambda config: None if config.norm.affine else True),
        Key("norm.channels_per_group", integer(0), "unless_default"),
        Key("norm.detach_statistics", boolean, "unless_default"),
        Key("norm.statistics", one_of(STATISTICS), "unless_default"),
        Key(
            "norm.running_from",
            number(lambda v: 0 <= v <= 1, "from 0 to 1"),
            "unless_default",
            moot=lambda config: None if config.norm.statistics == "running" else 0.8,
        ),
        Key("data.name", one_of(IMAGES)),
        _never("data.root", optional(text), settle=_folders),
        Key("data.val_size", integer(1)),
        Key("data.train_size", optional(integer(1))),
        Key("data.test_size", optional(integer(1))),
        Key("data.split_seed", integer(0, MOST_INTEGER)),
        Key("data.input", one_of(INPUTS)),
        Key("data.labels", one_of(LABELS)),
        Key("data.label_noise", SHARE),
        # Those of the test images come first: they follow a strength that has no effect on the training images.
        Key("data.test_noise", optional(one_of(NOISES)), follows=_as("data.noise")),
        Key(
            "data.test_noise_strength",
            optional(STRENGTH),
            follows=_as("data.noise_strength"),
            moot=_without("data.test_noise", 0),
        ),
        Key("data.test_bits", optional(integer(4, 8)), follows=_as("data.bits")),
        Key("data.test_channel_scale", optional(FACTOR), follows=_as("data.channel_scale")),
        Key("data.noise", one_of(NOISES)),
        Key("data.noise_strength", STRENGTH, moot=_without("data.noise", 0)),
        Key("data.bits", integer(4, 8)),
        Key("data.channel_scale", FACTOR),
        Key("augment.name", text),
        Key("augment.crop", integer(0, 31)),
        Key("augment.flip", boolean),
        Key("augment.brightness", NOT_NEGATIVE, "unless_default"),
        Key("augment.contrast", NOT_NEGATIVE, "unless_default"),
        Key("augment.saturation", NOT_NEGATIVE, "unless_default"),
        Key("augment.mixup", NOT_NEGATIVE),
        Key("augment.cutmix", NOT_NEGATIVE),
        Key("augment.label_smoothing", SHARE),
        Key("augment.resize", optional(size_schedule)),
        Key("augment.tta", one_of(VIEWS)),
        Key("augment.tta_average", one_of(("logits", "probabilities")), moot=_without("augment.tta", "logits")),
        Key("optim.name", _choice_of("optim")),
        Key("optim.lr", any_of(POSITIVE, tuned), settle=_rate),
        Key("optim.lr_factor", POSITIVE, "unless_default"),
        _never("optim.rates", text, settle=_folders),
        _never("optim.rates_of", optional(_choice_of("norm"))),
        Key("optim.momentum", SHARE),
        Key("optim.nesterov", boolean),
        Key("optim.betas", two_betas),
        Key("optim.eps", POSITIVE),
        Key("optim.weight_decay", NOT_NEGATIVE),
        Key("optim.schedule", one_of(("cosine", "step", "exponential", "constant"))),
        Key(
            "optim.warmup_samples",
            optional(integer(0)),
            follows=lambda config: config.epochs * samples_per_epoch(config) // 20,
            alone="5 %",
            named=False,
        ),
        Key("optim.milestones", rising_shares),
        Key("optim.gamma", number(lambda v: 0 < v <= 1, "above 0, at most 1")),
        Key(
            "optim.gamma_every",
            POSITIVE,
            "unless_default",
            moot=lambda config: None if config.optim.schedule == "exponential" else 0.5,
        ),
        Key("optim.clip_norm", optional(POSITIVE)),
        Key("optim.agc", optional(POSITIVE), "unless_default"),
        Key("optim.rates_from", one_of(RATES_FROM), "unless_default"),
        Key("task.name", _choice_of("task"), "unless_default"),
        Key("measure.name", _choice_of("measure"), "unless_default"),
        _never(
            "evaluation.batch_size",
            either("auto", integer(1, MOST_IMAGES)),
            # On the CPU larger ones fall out of the cache.
            follows=lambda config: 200 if _on_cpu(config) else 5000,
            by_machine=True,
        ),
        Key("evaluation.precise_images", integer(0, MOST_IMAGES)),
        Key("evaluation.precise_augment", boolean),
        Key("evaluation.target_acc", optional(number(lambda v: 0 < v <= 100, "above 0, at most 100"))),
        Key("evaluation.every_steps", optional(integer(1)), "unless_default"),
        Key("evaluation.early_acc", optional(number(lambda v: 0 < v <= 1, "above 0, at most 1")), "unless_default"),
        Key("evaluation.train", boolean, "unless_default"),
        Key("evaluation.suggest_lr", boolean),
        _never("logging.progress", one_of(("auto", "bar", "lines", "none"))),
        _never("logging.tensorboard", boolean),
        _never("logging.histogram_epochs", integer(0, MOST_EPOCHS)),
        _never("logging.grad_norm_steps", integer(1)),
    )
}

FOLDERS = frozenset(key.name for key in KEYS.values() if key.settle is _folders)
BY_MACHINE = frozenset(key.name for key in KEYS.values() if key.by_machine)


def method_keys(method: str) -> dict[str, Key]:
    """The options of a method: those with a line above, the others with the types of its file, whose ranges are the
    layers' own to know."""
    keys = {name: KEYS.get(name) or Key(name, check) for name, check in _option_checks("norm", method).items()}
    if momentum := keys.get("norm.momentum"):
        keys["norm.momentum"] = Key(momentum.name, either("scaled", momentum.check), settle=_momentum)
    return keys


def measure_keys(measure: str) -> dict[str, Key]:
    """The options of a measurement, likewise."""
    return {name: Key(name, check, "unless_default") for name, check in _option_checks("measure", measure).items()}


def model_keys(model: str) -> dict[str, Key]:
    """The options of a model that have no line above, likewise."""
    return {
        name: Key(name, check, "unless_default")
        for name, check in _option_checks("model", model).items()
        if name not in KEYS
    }


def _option_checks(group: str, choice: str) -> dict[str, Check]:
    defaults = flatten(choice_config(group, choice), f"{group}.")
    return {name: like(value) for name, value in defaults.items() if name != f"{group}.name"}


def identity_of(name: str) -> Identity:
    """Whether a key of that name, of any method and measurement, is part of what names a run."""
    if name in KEYS:
        return KEYS[name].identity
    return "unless_default" if name.startswith(("measure.", "model.")) else "always"
