"""Singular values of a product of Gaussian matrices, with and without a norm between the factors.

A deep linear network at initialization: M layers with N×N weights of variance 1/N. Without normalization its Jacobian
is the product of its weights. As N grows, the moments of the squared singular values become the Fuss–Catalan numbers
E s²ᵏ = C((M+1)k, k)/(Mk+1), on an interval that ends at (M+1)^(M+1)/M^M (Penson & Życzkowski 2011, arXiv 1103.3453):
the deeper, the wider apart. With a norm after every layer but the last it is the Jacobian of one image's output by that
image's input, through the statistics, if they are of the batch, as well. Ioffe & Szegedy 2015 (arXiv 1502.03167, §3.3)
conjecture singular values near 1 of a layer with batch normalization. The measurement is in float64.
"""

import time
from math import comb

import torch
from torch import nn

from normbench.facts import facts_of
from normbench.measures.alike import require_least, with_cost
from normbench.models import draw_weights
from normbench.norms import Layers
from normbench.random import derive
from normbench.records.metrics import MOMENTS
from normbench.tasks.build import norm_options, of_the_method


def check(config, processes: int) -> None:
    """Raises InputError for a number below its least, and where the layers cannot be, as a training would say it."""
    require_least(config, factors=1, size=2, images=2)
    with of_the_method(config):
        chain(config, config.seed)(torch.zeros(2, config.measure.size, 1, 1, dtype=torch.float64))


def measure(config, task, session) -> tuple[list[dict], list[dict]]:
    """An entry a seed: condition, largest singular value and moments; and a row a moment, beside that of wide ones
    without a norm. A seed draws the matrices and the inputs."""
    started = time.perf_counter()
    session.begin(task.seeds, len(task.seeds), 0)
    entries, rows = [], []
    for seed in task.seeds:
        values = torch.linalg.svdvals(jacobian(chain(config, seed), inputs(config, seed)))
        moments = {name: values.pow(2 * k).mean().item() for k, name in enumerate(MOMENTS, 1)}
        told = {"condition": (values[0] / values[-1]).item(), "singular_largest": values[0].item()}
        entries.append({"seed": seed, "status": "finished"} | told | moments)
        rows += [
            {"seed": seed, "k": k, "moment": moments[name], "fuss_catalan": fuss_catalan(config.measure.factors, k)}
            for k, name in enumerate(MOMENTS, 1)
        ]
        session.step(0, lambda: None)
    return with_cost(entries, started), rows


def fuss_catalan(factors: int, k: int) -> int:
    """E s²ᵏ of the singular values s of a product of so many wide matrices: 1, 4, 22 of three."""
    return comb((factors + 1) * k, k) // (factors * k + 1)


def chain(config, seed: int) -> nn.Sequential:
    """The layers, in training mode: 1×1 convolutions, and the method's norm after each but the last."""
    factors, size = config.measure.factors, config.measure.size
    with torch.random.fork_rng(devices=[]):  # the layers' own first draws are overwritten
        layers = Layers(config.norm.name, norm_options(config))
        block = nn.Sequential(
            *(layers.conv_norm(size, size, 1) for _ in range(factors - 1)), layers.conv(size, size, 1)
        )
    draw_weights(block, [torch.Generator().manual_seed(derive(seed, "matrices"))], gain=1.0)
    return block.double().train()


def inputs(config, seed: int) -> torch.Tensor:
    """Standard normal inputs, B×N×1×1: one image where no statistic is of the batch, for the others move nothing."""
    images = config.measure.images if facts_of(config.norm.name).batch_statistics else 1
    generator = torch.Generator().manual_seed(derive(seed, "matrices", 1))
    return torch.randn(images, config.measure.size, 1, 1, generator=generator, dtype=torch.float64)


def jacobian(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """∂ output of the first image / ∂ its input, N×N: row by row, all rows side by side."""
    x = x.clone().requires_grad_()
    output = block(x)[0].flatten()
    directions = torch.eye(len(output), dtype=x.dtype)
    (rows,) = torch.autograd.grad(output, x, directions, is_grads_batched=True)
    return rows[:, 0].flatten(1)
