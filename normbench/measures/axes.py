"""Which inputs of a normalization layer move one of its outputs: what a method takes its statistics over, by itself.

The picture of Wu & He 2018 (arXiv 1803.08494, figure 2), from the derivatives of the layer instead of its definition.
The layer alone: what a method does to the weights of a convolution moves no output, and the norm that it sets beside
one (weight standardization's is a group norm) is what shows here.
"""

import time

import torch

from normbench.measures.alike import require_least, with_cost
from normbench.norms import Layers
from normbench.random import derive
from normbench.tasks.build import norm_options, of_the_method

OUTPUT = (0, 0, 0, 0)  # the output that is looked at: image, channel, row, column
OWN = (3.0, -3.0)  # what its own input is


def check(config, processes: int) -> None:
    """Raises InputError for a size below 1, and where the layer cannot be: as its training would say it."""
    require_least(config, images=1, channels=1, size=1)
    with of_the_method(config):
        moved(_layer(config), _inputs(config, config.seed))


def measure(config, task, session) -> tuple[list[dict], list[dict]]:
    """An entry a seed: the shares, in percent, of the other images, channels and positions that move the output; and a
    row an input. A seed draws the inputs."""
    started = time.perf_counter()
    session.begin(task.seeds, len(task.seeds), 0)
    entries, rows = [], []
    for seed in task.seeds:
        moves = moved(_layer(config), _inputs(config, seed))
        entries.append({"seed": seed, "status": "finished"} | shares(moves))
        places = torch.cartesian_prod(*map(torch.arange, moves.shape)).tolist()
        rows += [
            {"seed": seed, "image": image, "channel": channel, "row": row, "column": column, "moves": int(told)}
            for (image, channel, row, column), told in zip(places, moves.flatten().tolist(), strict=True)
        ]
        session.step(0, lambda: None)
    return with_cost(entries, started), rows


def _layer(config) -> torch.nn.Module:
    """The method's norm as it follows a convolution, or its norm and activation, in float64, in training mode."""
    channels = config.measure.channels
    with torch.random.fork_rng(devices=[]):  # the convolution before it is not wanted
        block, *_ = Layers(config.norm.name, norm_options(config)).conv_norm_act(channels, channels, 1)
    return block[1].double().train()


def _inputs(config, seed: int) -> torch.Tensor:
    shape, generator = config.measure, torch.Generator().manual_seed(derive(seed, "axes"))
    size = (shape.images, shape.channels, shape.size, shape.size)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def moved(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Where the derivative of the output at OUTPUT by the inputs, N×C×H×W, is not 0.

    With the input there at one of OWN or the other: an activation lets one pass, a maximum is of either side in turn.
    """
    moves = torch.zeros(x.shape, dtype=torch.bool)
    for own in OWN:
        at = x.clone()
        at[OUTPUT] = own
        at.requires_grad_()
        with torch.random.fork_rng(devices=[]):  # noise is no matter of this measurement's
            (row,) = torch.autograd.grad(layer(at)[OUTPUT], at)
        moves |= row != 0
    return moves


def shares(moves: torch.Tensor) -> dict[str, float]:
    """In percent, 0 where there are none: of the other images, channels and positions, those with an input that moves
    the output. moves: N×C×H×W, as `moved` gives it."""
    of_images, of_channels = moves.flatten(1).any(1), moves.transpose(0, 1).flatten(1).any(1)
    of_places = moves.flatten(0, 1).any(0).flatten()
    return {
        "moves_batch": _share(of_images),
        "moves_channels": _share(of_channels),
        "moves_space": _share(of_places),
    }


def _share(told: torch.Tensor) -> float:
    """Of all but the first, which is the output's own."""
    return 100 * told[1:].double().mean().item() if len(told) > 1 else 0.0
