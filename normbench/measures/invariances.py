"""Which changes leave a layer's output as it is: the invariances of Ba et al. 2016, arXiv 1607.06450, table 1.

A layer is a 1×1 convolution and the method's norm, in float64 and in training mode. Each change of the weights or of
the data is made, and the outputs before and after are compared. The paper's cases are here the images, its inputs and
neurons the channels, and `size` is the height and width of the images. With size=1 a layer is the paper's. With feature
maps two things differ:

- Layer normalization (`layer`) takes its statistic over the positions as well. Where all weight vectors are re-centred
  by γ, every neuron gets γᵀx more, which differs from one position to the next: no longer invariant. `layer2d`, with a
  statistic a position, is the paper's in this.
- The data are re-centred by a value a channel, the same at each position. A larger convolution would not pass it on
  alike: at the border stand zeros, which do not move.

Weights are what the method learns: with weight normalization v, whose gain stays. That it is not invariant to
re-scaling of the data is what table 1 says; the text of §5.1 says the opposite of every method. Weights and data are
large, so that no ε in a root counts beside a variance: an invariance holds to the rounding. A tanh or a gate is a step
at that scale: it is its limit whose invariances are told (`dyt` is there the sign of its input). Running averages are
those of the start, zeros and ones, far from such data: a correction towards them (`batch_renorm`) is at its limits.
"""

import time

import torch
from torch import nn

from normbench.measures.alike import require_least, with_cost
from normbench.models import draw_weights
from normbench.norms import Layers
from normbench.random import derive
from normbench.records.metrics import INVARIANCES
from normbench.tasks.build import norm_options, of_the_method

TOLERANCE = 1e-6  # of the largest difference, relative to the largest output
LARGE = 1e3  # the scale of weights and data
# Table 1 of the paper, in the order of the outcomes.
PAPER = {
    "batch": (1, 0, 1, 1, 1, 0),
    "weight_norm": (1, 0, 1, 0, 0, 0),
    "layer": (1, 1, 0, 1, 0, 1),
}


def check(config, processes: int) -> None:
    """Raises InputError for a number below 1, and where the layer cannot be: as its training would say it."""
    require_least(config, images=1, channels=1, size=1)
    with of_the_method(config):
        differences(config, config.seed)


def measure(config, task, session) -> tuple[list[dict], list[dict]]:
    """An entry a seed: 1 for each change that leaves the output as it is, else 0; and a row a change, with the paper's
    word on it where it has one. A seed draws the weights, the data and the changes."""
    started = time.perf_counter()
    session.begin(task.seeds, len(task.seeds), 0)
    names = [outcome.name for outcome in INVARIANCES]
    paper = dict(zip(names, PAPER.get(config.norm.name, ()), strict=False))
    entries, rows = [], []
    for seed in task.seeds:
        found = differences(config, seed)
        invariant = {name: int(difference < TOLERANCE) for name, difference in found.items()}
        entries.append({"seed": seed, "status": "finished"} | invariant)
        rows += [
            {
                "seed": seed,
                "change": name,
                "paper": paper.get(name),
                "invariant": invariant[name],
                "difference": found[name],
            }
            for name in names
        ]
        session.step(0, lambda: None)
    return with_cost(entries, started), rows


@torch.no_grad()
def differences(config, seed: int) -> dict[str, float]:
    """Outcome → the largest difference that its change makes, relative to the largest output."""
    how, generator = config.measure, torch.Generator().manual_seed(derive(seed, "invariances"))
    block, channels = _block(config, generator), how.channels
    weight = LARGE * block[0].weight
    x = LARGE * _normal(generator, how.images, channels, how.size, how.size)
    factors = 0.5 + 3 * torch.rand(channels, 1, 1, 1, generator=generator, dtype=torch.float64)
    centre = LARGE * _normal(generator, 1, channels, 1, 1)
    changed = (  # in the order of the outcomes
        (3 * weight, x),
        (weight + centre, x),
        (factors * weight, x),
        (weight, 3 * x),
        (weight, x + centre),
        (weight, torch.cat([3 * x[:1], x[1:]])),
    )
    before = _with(block, weight, x)
    found = [_with(block, weights, data) - before for weights, data in changed]
    largest = before.abs().max()
    return {
        outcome.name: (difference.abs().max() / largest).item()
        for outcome, difference in zip(INVARIANCES, found, strict=True)
    }


def _block(config, generator) -> nn.Sequential:
    """Convolution and norm, or norm and activation, the weights drawn as a network's are."""
    channels = config.measure.channels
    with torch.random.fork_rng(devices=[]):  # the layers' own first draws are overwritten
        block, *_ = Layers(config.norm.name, norm_options(config)).conv_norm_act(channels, channels, 1)
    draw_weights(block, [generator])
    return block.double().train()


def _with(block, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The output with other weights; neither they nor averages are kept. One that draws draws the same each time."""
    averages = {name: buffer.clone() for name, buffer in block.named_buffers()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.func.functional_call(block, {"0.weight": weight} | averages, (x,))


def _normal(generator, *shape) -> torch.Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)
