"""How a gradient changes with depth at initialization, and the variance on the way there: does BN keep them in bounds?

Of one forward and one backward pass of each seed's network on its first batch, in training mode. The places are those
between two layers: in a residual network what enters each block and leaves the last, in any other what enters each
convolution but the first. There a scale is what the layers before it made, whatever the next one makes of it.

What to expect of wide plain networks with weights of variance g²/fan-in and an activation φ, z standard normal:

- with batch normalization the gradient grows by √(E φ′(z)² / Var φ(z)) a layer, whatever g is: each layer is divided by
  the deviation g√Var φ of what the layer before gives over the batch. By Poincaré's inequality that is never below 1,
  and 1 of a linear network alone: 1.211 = √(π/(π−1)) of ReLU (Yang et al. 2019, arXiv 1902.08129).
- without normalization it changes by g√(E φ′²), at the variance where φ's argument stands: 1 of ReLU with He's g = √2.
"""

import time

import torch
from torch import nn

from normbench.measures.alike import significant, with_cost
from normbench.measures.gradients import convolutions
from normbench.measures.start import each_at_start, looked_at
from normbench.tasks.classify import batch_loss

DIGITS = 6  # significant ones, of a row


def measure(config, task, session) -> tuple[list[dict], list[dict]]:
    """An entry a seed: growth of the gradient and of the variance by a layer; and a row a place and seed."""
    started = time.perf_counter()
    entries, rows = [], []
    for seed, start in each_at_start(config, task, session):
        gradients, variances = observe(*start, config.augment.label_smoothing)
        entries.append({"seed": seed, "status": "finished"} | growth(gradients, variances))
        rows += [
            {"seed": seed, "layer": layer, "gradient_norm": significant(norm, DIGITS)}
            | {"variance": significant(variance, DIGITS)}
            for layer, (norm, variance) in enumerate(zip(gradients, variances, strict=True), 1)
        ]
    return with_cost(entries, started), rows


def observe(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0):
    """Along the places of a network, from the images on: (norms of the loss's gradient by what passes there, over the
    whole batch; variances of that, the mean over channels of the biased one over N, H, W).

    model: of one replicate; it is as before afterwards, its parameters without gradients. x: inputs N×3×H×W, labels: N.
    """
    passed: list[torch.Tensor] = []
    blocks = list(getattr(model, "blocks", ()))
    watched = [*blocks] or convolutions(model)[1:]
    hooks = [module.register_forward_pre_hook(lambda _, given: passed.append(given[0])) for module in watched]
    hooks += [block.register_forward_hook(lambda _, __, output: passed.append(output)) for block in blocks[-1:]]
    try:
        with looked_at(model):
            loss = batch_loss(model, x, labels, label_smoothing)
            gradients = torch.autograd.grad(loss, passed)
    finally:
        for hook in hooks:
            hook.remove()
    variances = [maps.detach().double().var((0, 2, 3), correction=0).mean().item() for maps in passed]
    return [torch.linalg.vector_norm(gradient.double()).item() for gradient in gradients], variances


def growth(gradients: list[float], variances: list[float]) -> dict[str, float | None]:
    """What both come to a layer; None where one of them is 0 or not finite, or there is but one place.

    gradient_growth: the factor by which the gradient grows a layer backward, from the last place to the first, as a
    geometric mean. gradient_drift: the magnitude of its natural logarithm: 0 where it neither grows nor shrinks.
    variance_growth: the same factor of the variance forward. variance_power: the slope of its logarithm over that of
    the place, counted from 1, by least squares: 1 of what grows linearly.
    """
    by_layer = _logs(gradients)
    found = dict.fromkeys(("gradient_growth", "gradient_drift", "variance_growth", "variance_power"))
    if by_layer is not None:
        backward = (by_layer[0] - by_layer[-1]) / (len(by_layer) - 1)
        found |= {"gradient_growth": backward.exp().item(), "gradient_drift": backward.abs().item()}
    if (forward := _logs(variances)) is not None:
        places = torch.arange(1, len(forward) + 1, dtype=torch.float64).log()
        places -= places.mean()
        found["variance_growth"] = ((forward[-1] - forward[0]) / (len(forward) - 1)).exp().item()
        found["variance_power"] = ((places * forward).sum() / places.square().sum()).item()
    return found


def _logs(values: list[float]) -> torch.Tensor | None:
    logs = torch.tensor(values, dtype=torch.float64).log()
    return logs if len(logs) > 1 and logs.isfinite().all() else None
