"""The network of a configuration: built, and tried before any work starts."""

from contextlib import contextmanager
from functools import cache

import torch
from omegaconf import OmegaConf

from normbench.config.machine import memory
from normbench.config.sizes import LABELS
from normbench.config.values import to_yaml, value_at
from normbench.errors import InputError
from normbench.kernels import fastest
from normbench.models import bare_model, build_model
from normbench.norms import Layers
from normbench.norms.plain import Conv2d
from normbench.records.metrics import TRAIN

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2}  # of a value, by precision
SIZE = 32  # pixels, of images that no schedule resizes


def norm_options(config) -> dict:
    """The options of a configuration's method."""
    return {key: value for key, value in config.norm.items() if key != "name"}


def make_model(config, seeds):
    """The network of a resolved configuration, a replicate a seed, on the CPU in float32. Raises InputError."""
    options = _model_options(config)
    return build_model(config.model.name, _layers(config, len(seeds)), seeds, **options)


def _model_options(config) -> dict:
    own = {key: value for key, value in config.model.items() if key not in ("name", "activation", "zero_init_residual")}
    return own | {"num_classes": LABELS[config.data.labels]}


def _layers(config, replicates: int) -> Layers:
    return Layers(
        config.norm.name,
        norm_options(config),
        replicates=replicates,
        activation=config.model.activation,
        zero_init_residual=config.model.zero_init_residual,
    )


def memory_of(config) -> int:
    """Bytes that the weights of a replicate take in training: with their gradients and the optimizer's state.

    Nothing is allocated for it. Raises InputError as make_model does.
    """
    copies = 2 + (2 if config.optim.name == "adamw" else int(config.optim.momentum > 0))
    # Weights are of float32 at the least.
    size = max(4, BYTES[config.precision])
    return _weights(to_yaml(config.model), to_yaml(config.norm), config.data.labels) * size * copies


def _weights(model_yaml: str, norm_yaml: str, labels: str) -> int:
    """How many weights a replicate has."""
    return sum(parameter.numel() for parameter in _outline(model_yaml, norm_yaml, labels).parameters())


@cache
def _outline(model_yaml: str, norm_yaml: str, labels: str):
    """The network of one replicate, without memory for its weights."""
    config = _network(model_yaml, norm_yaml, labels)
    options = _model_options(config)
    options.pop("init_scale")
    with torch.device("meta"), of_the_method(config):
        return bare_model(config.model.name, _layers(config, 1), **options)


def _network(model_yaml: str, norm_yaml: str, labels: str):
    """What of a configuration makes its network."""
    return OmegaConf.create(
        {"model": OmegaConf.create(model_yaml), "norm": OmegaConf.create(norm_yaml), "data": {"labels": labels}}
    )


def check_memory(config) -> None:
    """Raise InputError for networks whose weights alone the machine cannot hold. config: resolved."""
    _require_room(config, memory_of(config), "model.width", "weights, gradients and optimizer")


def _require_room(config, each: int, key: str, words: str) -> None:
    """Raise InputError where the machine has not these bytes for each replicate of a stack.

    key: to blame where not even one fits. words: what the memory is for.
    """
    there, count = memory(config.device), 1
    if there is None or each * config.stack <= there:
        return
    if each <= there:
        key, count = "stack", config.stack
    networks = "1 network needs" if count == 1 else f"{count} networks need"
    needed = f"{networks} at least {_gib(each * count)} for {words}"
    raise InputError(key, value_at(config, key), f"{needed}, {config.device} has {_gib(there)}; lower {key}")


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def kernels_of(config, processes: int = 1) -> str:
    """What computes the network of a configuration: `native`, `torch`, `native and torch`, where some of its layers are
    the one's and some the other's, or `graph`, torch's kernels in a CUDA graph.

    Raises InputError as kernels.fastest does.
    """
    model = _outline(to_yaml(config.model), to_yaml(config.norm), config.data.labels)
    forward = fastest(config, model, 1, processes)
    if forward is not model:
        return "native and torch" if forward.mixed else "native"
    return "graph" if config.kernels == "graph" else "torch"


def check_network(config, processes: int = 1) -> None:
    """Build the network of a resolved configuration and train it on nothing once: what no key alone shows.

    processes: how many share each batch. Options out of range and statistics of a single value end in an InputError,
    and so does the smallest size of progressive resizing if the network cannot take it.
    """
    check_memory(config)
    if config.kernels == "native":
        kernels_of(config, processes)
    sizes = {size for _, size in config.augment.resize or []} | {SIZE}
    for size in (SIZE, min(sizes)):  # what is wrong with the model alone, then what a small size adds
        batch = min(config.batch_size // processes, 2)
        try:
            values = _try(to_yaml(config.model), to_yaml(config.norm), batch, size)
        except (InputError, RuntimeError) as error:
            if size == SIZE:
                raise
            raise InputError(
                "augment.resize", size, f"too small for model={config.model.name}, norm={config.norm.name} ({error})"
            ) from None
        if config.measure.name == TRAIN:
            kept = values * BYTES[config.precision] * (config.batch_size // processes)
            _require_room(config, kept, "batch_size", "the feature maps of a batch")


@cache
def _try(model_yaml: str, norm_yaml: str, batch: int, size: int) -> int:
    """How many values the convolutions of a replicate make of an image, which its gradients are computed from."""
    config = _network(model_yaml, norm_yaml, "class")
    with of_the_method(config):
        return sum(values for _, values in feature_maps(make_model(config, [0]), batch, size))


def feature_maps(model, batch: int = 2, size: int = SIZE) -> list[tuple[Conv2d, int]]:
    """The convolutions of a network, as they come in a training pass, and how many values each makes of an image.

    It is left with statistics of batches of zeros; torch's generator as it was, whatever dropout draws.
    """
    found = []
    for module in model.modules():
        if isinstance(module, Conv2d):
            module.register_forward_hook(lambda conv, _, maps: found.append((conv, maps[0].numel())))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        model.train()(torch.zeros(batch, 3, size, size))
    return found


@contextmanager
def of_the_method(config):
    """Layers that are tried within name their own option: as a key of the configuration, `norm.num_groups`."""
    try:
        yield
    except InputError as error:
        own = error.key in config.norm and error.key != "norm"  # that is the method's name, whatever its options
        raise error.within("norm") if own else error from None
