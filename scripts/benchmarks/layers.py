"""What a 3×3 convolution with each method costs by torch: forward, backward, and what waits between them."""

import statistics
import time

import torch
from benchmarks.side_by_side import WARM_UP, in_turns, ratio
from torch import nn

from normbench.norms import NORMS, Layers

PASSES = 20
SHAPES = ((2, 16, 32, 32), (2, 64, 8, 8), (32, 16, 32, 32), (32, 64, 8, 8))  # of a CIFAR-ResNet's first and last stage


def rows(rounds: int) -> list[dict]:
    return [row for shape in SHAPES for row in measured_layers(shape, rounds)]


def layer_loop(layer, x) -> list[float]:
    """The moments after some passes forward and backward."""
    moments = []
    for _ in range(WARM_UP + PASSES):
        layer.zero_grad()
        x.grad = None
        layer(x).sum().backward()
        moments.append(time.perf_counter())
    return moments


def kept(layer, x) -> int:
    """Bytes that the backward pass of a layer needs, each memory counted once."""
    found = {}

    def pack(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return sum(found.values())


def measured_layers(shape: tuple[int, ...], rounds: int) -> list[dict]:
    """A row a method, for inputs N×C×H×W of this shape and as many channels out; with what it has of the activation."""
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_()
    layers = {name: Layers(name).conv_norm_act(shape[1], shape[1], 3)[0].train() for name in NORMS}
    for layer in layers.values():
        layer.to(memory_format=torch.channels_last)
        nn.init.kaiming_normal_(layer[0].weight)
    name = "×".join(map(str, shape))
    times = in_turns(
        name, {one: (lambda layer=layer: layer_loop(layer, x), 1) for one, layer in layers.items()}, rounds
    )
    memory = {one: kept(layer, x) for one, layer in layers.items()}
    return [
        {
            "shape": name,
            "method": one,
            "ms": 1000 * statistics.median(seconds),
            "over_batch": ratio(seconds, times["batch"]),
            "kept_mib": memory[one] / 2**20,
            "kept_over_batch": memory[one] / memory["batch"],
        }
        for one, seconds in times.items()
    ]
