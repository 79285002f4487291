"""By which statistics a network may be evaluated beside its running averages: those of batches, and EvalNorm's.

Inside a block of these the norms with batch statistics normalize by others; running averages are neither used nor
changed, and everything else is as the mode of the model has it.
"""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from normbench.norms.batch import BatchNorm
from normbench.norms.plain import require_values

Statistic = Callable[[BatchNorm, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@contextmanager
def normalized_by(model: nn.Module, statistic: Statistic):
    """Inside the block every norm with batch statistics normalizes its input x by `statistic(layer, x)`.

    statistic: gives a mean and a biased variance that broadcast over x, N×(R·C)×H×W: such as N×(R·C)×1×1.
    """
    layers = [module for module in model.modules() if isinstance(module, BatchNorm)]

    def instead(layer, inputs, _):
        return layer.by_moments(*inputs, *statistic(layer, *inputs))

    hooks = [layer.register_forward_hook(instead) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def of_batches(size: int) -> Statistic:
    """The moments of each `size` consecutive images, a last batch that is smaller included: as training takes them.

    Of one image they are over its positions. Raises InputError where a statistic would be of a single value.
    """

    def statistic(layer, x):
        require_values(min(size, len(x)) * x[0, 0].numel(), "batch", size, "the statistic of a channel")
        whole = len(x) // size * size
        rest = [(x[whole:], len(x) - whole)] if whole < len(x) else []
        parts = [_of_groups(*part) for part in ([(x[:whole], size)] if whole else []) + rest]
        return tuple(torch.cat(some) for some in zip(*parts, strict=True))

    return statistic


def _of_groups(x: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of each group of `size` images, which divides theirs, for each image: N×(R·C)×1×1."""
    return tuple(one.repeat_interleave(size, 0)[:, :, None, None] for one in moments(x, size))


def moments(x: torch.Tensor, size: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of each group of `size` images, which divides theirs: groups × (R·C) each."""
    values = x.permute(0, 2, 3, 1).reshape(len(x) // size, -1, x.shape[1])  # channels_last: no copy; else for speed
    mean = values.mean(1)
    return mean, (values - mean.unsqueeze(1)).square_().mean(1)  # torch.var_mean takes nine times as long


@dataclass
class Population:
    """What a layer's inputs are over a population of images, a channel each, R·C: the mean of their means, the mean of
    their variances (within an image, biased), and the variance of their means (between images)."""

    mean: torch.Tensor
    within: torch.Tensor
    between: torch.Tensor


def populations(model: nn.Module, forward: Callable[[], None], size: int) -> dict[BatchNorm, Population]:
    """Of each layer's inputs over the images of `forward()`, while earlier layers normalize by batches of `size`.

    forward: passes every batch of the population through the model once. In training later layers see just such
    features.
    """
    sums: dict[BatchNorm, list] = {}
    take = of_batches(size)

    def gathering(layer, x):
        mean, var = moments(x.double())
        new = [torch.full_like(mean[0], len(x)), mean.sum(0), mean.square().sum(0), var.sum(0)]
        sums[layer] = new if layer not in sums else [a + b for a, b in zip(sums[layer], new, strict=True)]
        return take(layer, x)

    with torch.no_grad(), normalized_by(model, gathering):
        forward()
    found = {}
    for layer, (count, means, squares, variances) in sums.items():
        between = (squares / count - (means / count).square()).clamp(min=0)
        found[layer] = Population(
            *(one.to(layer.running_mean.dtype) for one in (means / count, variances / count, between))
        )
    return found


def evalnorm(of_layers: dict[BatchNorm, Population], size: int) -> Statistic:
    """The moments that training at `size` images a statistic expects for an image, given what it is itself.

    For an image of mean μᵢ and variance σᵢ² in a channel, among size−1 others of a population with mean μ, variance σ²
    within and τ² between images: mean μᵢ/m + (1−1/m)μ, and variance σᵢ²/m + (1−1/m)σ² + (m−1)/m²·(μᵢ−μ)² + (1−1/m)²τ².
    That is the expectation, over the others, of the batch's mean and of its biased variance. At size 1 it is the
    image's own, at infinity the population's. The question, and a mixture of the two, are those of Singh & Shrivastava
    2019, arXiv 1904.06031; the weights are derived here.
    """
    own = 1 / size

    def statistic(layer, x):
        population = of_layers[layer]
        mean, within, between = (
            one.view(1, -1, 1, 1) for one in (population.mean, population.within, population.between)
        )
        mean_i, var_i = (one[:, :, None, None] for one in moments(x))
        away = (mean_i - mean).square()
        var = own * var_i + (1 - own) * (within + own * away + (1 - own) * between)
        return own * mean_i + (1 - own) * mean, var

    return statistic
