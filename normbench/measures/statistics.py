"""How accurate the statistics of a batch are: their error against those of a population, over its size, layer by layer.

Of the inputs of each norm with batch statistics, as the network makes them in evaluation. Batches of independent images
have a mean whose error falls with the root of their number, n_eff = B·HW/(1 + (HW−1)ρ) values' worth: ρ is the
correlation of two positions of an image, so that a large map does not stand for many images.
"""

import math
import time

import torch

from normbench.facts import facts_of
from normbench.measures.alike import entries_of, require_least, significant
from normbench.measures.mates import slope
from normbench.measures.mismatch import require_batches, require_statistics
from normbench.measures.trained import trained
from normbench.norms.batch import BatchNorm
from normbench.norms.evaluation import moments
from normbench.random import derive
from normbench.tasks.build import check_network

DIGITS = 6  # significant ones, of a row


def check(config, processes: int) -> None:
    """Raises InputError as a training would, for numbers that cannot be, and for a method without batch statistics."""
    check_network(config, processes)
    require_batches(config)
    require_least(config, images=2, draws=2)
    require_statistics(config)


def measure(config, task, session) -> tuple[list[dict], list[dict]]:
    """An entry a seed: how the errors fall with the size of a batch, how large they are at that of training, and the
    correlation within an image, means over the layers; and a row a layer, size and seed."""
    started, how = time.perf_counter(), config.measure
    network = trained(config, task, session)
    layers = moments_of_images(network, task, how.images, lambda: session.poll(lambda: None))
    options = {key: value for key, value in config.norm.items() if key != "name"}
    own = facts_of(config.norm.name).statistic_images(options, config.batch_size)
    told, rows = [], []
    for index, seed in enumerate(task.seeds):
        mine = [tuple(one.chunk(len(task.seeds), 1)[index] for one in both) for _, both in layers]
        sizes = sorted({*how.batches, own})
        found = {size: _errors(mine, seed, size, how.draws) for size in sizes}
        of_mean, of_var = ({size: _mean(row[key] for row in found[size]) for size in how.batches} for key in (0, 1))
        correlations = [correlation(*both, positions) for (positions, _), both in zip(layers, mine, strict=True)]
        told.append(
            {
                "mean_error": _mean(row[0] for row in found[own]),
                "var_error": _mean(row[1] for row in found[own]),
                "mean_error_slope": slope(of_mean),
                "var_error_slope": slope(of_var),
                "image_correlation": _mean(correlations),
            }
        )
        if not network.lost[index]:
            rows += _rows(seed, found, mine, correlations)
    return entries_of(network, told, started), rows


@torch.no_grad()
def moments_of_images(network, task, count: int, poll=lambda: None) -> list[tuple[int, tuple[torch.Tensor, ...]]]:
    """Of each layer: positions of its map, and mean and mean square of each of the first training images in each
    channel, images × (R·C) each, in float64. Images are as they are, neither cropped nor flipped."""
    seen: dict[BatchNorm, list] = {}

    def watch(layer, inputs, _):
        mean, var = moments(inputs[0].double())
        seen.setdefault(layer, [inputs[0][0, 0].numel(), []])[1].append((mean, var + mean.square()))

    model = network.model.eval()
    hooks = [one.register_forward_hook(watch) for one in model.modules() if isinstance(one, BatchNorm)]
    try:
        for x in task.population(count, False):
            poll()
            with network.precision():
                model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        (positions, tuple(torch.cat(parts) for parts in zip(*found, strict=True))) for positions, found in seen.values()
    ]


def _errors(layers: list[tuple], seed: int, size: int, draws: int) -> list[tuple[float, float]]:
    """Of each layer, at batches of so many images: see `errors`. A seed draws its own."""
    generator = torch.Generator().manual_seed(derive(seed, "statistics", size))
    images = len(layers[0][0])
    drawn = torch.randint(images, (draws, size), generator=generator)
    shares = torch.zeros(draws, images, dtype=torch.float64)
    shares.scatter_add_(1, drawn, torch.full(drawn.shape, 1 / size, dtype=torch.float64))
    return [errors(means, squares, shares.to(means.device)) for means, squares in layers]


def errors(means: torch.Tensor, squares: torch.Tensor, shares: torch.Tensor) -> tuple[float, float]:
    """The root mean square of (μ_B − μ)/σ and of σ_B²/σ² − 1 over batches and channels, the variances biased.

    means, squares: of each image in each channel, images × C. shares: of each image in each batch, batches × images,
    whose rows sum to 1. Channels that do not vary over the population are left out; NaN where none does.
    """
    mean = means.mean(0)
    var = squares.mean(0) - mean.square()
    vary = var > 1e-12 * squares.mean(0)
    of_batch = shares @ means[:, vary]
    var_of_batch = shares @ squares[:, vary] - of_batch.square()
    away = (of_batch - mean[vary]).square() / var[vary], (var_of_batch / var[vary] - 1).square()
    return tuple(one.mean().sqrt().item() for one in away)


def correlation(means: torch.Tensor, squares: torch.Tensor, positions: int) -> float:
    """ρ of two positions of an image, the mean over the channels that vary; NaN on maps of one position.

    From the variance of the images' means, σ²(1 + (HW−1)ρ)/HW.
    """
    var = squares.mean(0) - means.mean(0).square()
    vary = var > 1e-12 * squares.mean(0)
    if positions == 1 or not vary.any():
        return math.nan
    share = means.var(0, correction=0)[vary] / var[vary]
    return ((positions * share - 1) / (positions - 1)).mean().item()


def _rows(seed: int, found: dict[int, list], layers: list, correlations: list[float]) -> list[dict]:
    rows = []
    for size, of_layers in found.items():
        for number, (mean_error, var_error) in enumerate(of_layers, 1):
            means, squares = layers[number - 1]
            var = squares.mean(0) - means.mean(0).square()
            share = (means.var(0, correction=0) / var)[var > 1e-12 * squares.mean(0)]
            numbers = {
                "mean_error": mean_error,
                "expected": (share.mean() / size).sqrt().item(),
                "var_error": var_error,
                "correlation": correlations[number - 1],
            }
            numbers = {name: significant(value, DIGITS) for name, value in numbers.items() if math.isfinite(value)}
            rows.append({"seed": seed, "layer": number, "size": size} | numbers)
    return rows


def _mean(values) -> float | None:
    """Over the layers that have one."""
    there = [value for value in values if math.isfinite(value)]
    return sum(there) / len(there) if there else None
