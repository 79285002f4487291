"""How near a layer comes to what the machine can do: a convolution to a matrix product, a norm to copying its maps."""

import statistics
import time

import torch
from benchmarks.layers import PASSES, SHAPES
from benchmarks.machine import copying, matrix_product
from benchmarks.side_by_side import WARM_UP, in_turns
from torch import nn

from normbench.kernels.native import Native
from normbench.norms import Layers

MORE = 4  # layers in the one network than in the other: the time between them is theirs
METHODS = ("batch", "group")
# A norm with its activation reads its map for the statistic and again, and writes another; backwards it reads two maps
# and the mask's, twice, and writes one.
MOVED = 3 + 7
TIMES = 3 * 2 * 9  # multiplications and additions a pair of channels: forward and two gradients of 3×3 filters


class Chain(nn.Module):
    """Some layers one after the other, and averages."""

    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x).mean((2, 3))


def rows(kernels: tuple[str, ...], rounds: int) -> list[dict]:
    """A row a shape N×C×H×W, layer and kernels."""
    found = []
    for shape in SHAPES:
        n, channels, height, width = shape
        values = n * channels * height * width
        product, copied = matrix_product(), copying(values)
        for which in kernels:
            name = f"{'×'.join(map(str, shape))}, {which}"
            seconds = between_chains(name, shape, which, rounds)
            least = {"convolution": TIMES * channels * values / product}
            least |= dict.fromkeys(METHODS, MOVED * 4 * values / copied)
            found += [
                {
                    "shape": "×".join(map(str, shape)),
                    "layer": layer,
                    "kernels": which,
                    "ms": 1000 * seconds[layer],
                    "least_ms": 1000 * least[layer],
                    "share_of_limit": least[layer] / seconds[layer],
                }
                for layer in seconds
            ]
    return found


def between_chains(name: str, shape, which: str, rounds: int) -> dict[str, float]:
    """Seconds of a layer forward and backward: the median over rounds of a difference of two networks."""
    channels = shape[1]
    chains = {"": chain(channels, None, 1), "convolution": chain(channels, None, 1 + MORE)}
    chains |= {method: chain(channels, method, 1 + MORE) for method in METHODS}
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    times = in_turns(name, {key: (lambda made=made: passes(made, which, x), 1) for key, made in chains.items()}, rounds)
    found = {"convolution": differences(times["convolution"], times[""], MORE)}
    return found | {method: differences(times[method], times["convolution"], 1 + MORE) for method in METHODS}


def chain(channels: int, method: str | None, count: int) -> Chain:
    """Convolutions alone, or each with a norm and an activation."""
    layers = Layers(method or "batch")
    one = layers.conv if method is None else lambda *shape: nn.Sequential(*layers.conv_norm_act(*shape))
    units = [one(channels, channels, 3) for _ in range(count)]
    for unit in units:
        nn.init.kaiming_normal_(next(unit.parameters()))
    return Chain(units).to(memory_format=torch.channels_last).train()


def passes(model: Chain, which: str, x) -> list[float]:
    """The moments after some passes forward and backward."""
    forward, moments = Native(model, 1) if which == "native" else model, []
    for _ in range(WARM_UP + PASSES):
        model.zero_grad()
        forward(x).sum().backward()
        moments.append(time.perf_counter())
    return moments


def differences(more: list[float], fewer: list[float], layers: int) -> float:
    return statistics.median((a - b) / layers for a, b in zip(more, fewer, strict=True))
