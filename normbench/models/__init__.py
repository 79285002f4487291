"""The networks by name, the first draw of their weights, and the way between one replicate and many.

A model asks the layer factory for everything and sees one replicate of C channels. Its options are the keyword-only
parameters of its constructor. Input N×(R·3)×H×W, output (logits) R×N×classes.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from normbench.errors import InputError, choices_text
from normbench.models.conv4 import Conv4
from normbench.models.inception import Inception
from normbench.models.lstm import LSTM
from normbench.models.mlp import MLP
from normbench.models.resnet import CifarResNet, PreactResNet, ResNet18
from normbench.models.uniform import Uniform
from normbench.models.vgg import VGG
from normbench.models.vit import ViT
from normbench.norms.factory import Layers
from normbench.norms.plain import Filters

__all__ = ["MODELS", "bare_model", "build_model", "draw_weights", "stack_states", "take_replicate"]

MODELS: dict[str, Callable] = {
    **{f"resnet{depth}": partial(CifarResNet, depth=depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    "resnet18": ResNet18,
    **{f"preact_resnet{depth}": partial(PreactResNet, depth=depth) for depth in (8, 20)},
    "conv4": Conv4,
    "inception": Inception,
    "vgg": VGG,
    "vit": ViT,
    "lstm": LSTM,
    "mlp": MLP,
    "uniform": Uniform,
}


def build_model(
    name: str,
    layers: Layers,
    seeds=(0,),
    *,
    init_scale: float = 1.0,
    num_classes: int = 10,
    dropout: float = 0.0,
    **options,
) -> nn.Module:
    """A network of one replicate per seed, each initialized as it would be alone, bit for bit, as the method has it.

    name: in MODELS; options: the model's own (`width`, `depth`, …). layers: the factory, for len(seeds) replicates.
    seeds: integers or torch generators' seeds, one a replicate. init_scale: factor on He's standard deviation.
    Raises InputError, its key within `model` or `norm`.
    """
    model = bare_model(name, layers, num_classes=num_classes, dropout=dropout, **options)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    draw_weights(model, generators, gain=_gain(layers.activation) * init_scale)
    layers.method.initialize(model, generators)
    return model.to(memory_format=torch.channels_last)


def bare_model(name: str, layers: Layers, **options) -> nn.Module:
    """The network before its weights are drawn, for all replicates of the factory. See build_model."""
    if name not in MODELS:
        raise InputError("model", name, f"unknown model; {choices_text(name, MODELS)}")
    if options.get("width", 1) < 1:
        raise InputError("model.width", options["width"], "must be an integer ≥ 1")
    layers.require_model(name)
    try:
        with torch.random.fork_rng(devices=[]):  # the layers' own first draws are overwritten: leave no trace of them
            return MODELS[name](layers, **options)
    except InputError as error:
        raise error if "." in error.key or error.key == "norm" else error.within("model") from None


def _gain(activation: str) -> float:
    """√2 for the half-rectifiers (He et al. 2015, arXiv 1502.01852), 1 for the saturating (Glorot & Bengio 2010)."""
    return 1.0 if activation in ("sigmoid", "tanh") else math.sqrt(2)


def draw_weights(model: nn.Module, generators, gain: float = math.sqrt(2)) -> None:
    """Draw every weight of every replicate from its own generator, as its layer says: see `draw` of Conv2d and Linear.

    Biases 0, norms at their start. Only these weights are drawn, in the order of the modules: the same seed starts
    every method from the same filters.
    """
    layers = [module for module in model.modules() if isinstance(module, Filters)]
    parts = {id(layer): [] for layer in layers}
    for generator in generators:
        for layer in layers:
            shape = (layer.weight.shape[0] // len(generators), *layer.weight.shape[1:])
            parts[id(layer)].append(layer.draw(torch.empty(shape), generator, gain))
    for layer in layers:
        layer.set_filters(torch.cat(parts[id(layer)]))
        if getattr(layer, "bias", None) is not None:
            nn.init.zeros_(layer.bias)


def stack_states(states: list[dict]) -> dict:
    """The state dict of R replicates side by side from R state dicts of one replicate each."""
    return {key: torch.cat([state[key] for state in states]) for key in states[0]}


def take_replicate(state: dict, index: int, replicates: int) -> dict:
    """The state dict of replicate `index` alone out of that of R side by side."""
    return {key: value.chunk(replicates)[index].clone() for key, value in state.items()}
