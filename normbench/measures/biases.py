"""What descent does to a bias that a norm takes out again: nothing, unless it ignores the normalization.

A norm that subtracts the mean takes out whatever a convolution's bias has put in, so that the loss does not depend on
it. Its gradient is 0 if it is taken through the mean; where the mean counts as a constant it is not, and steps along it
go on for ever (Ioffe & Szegedy 2015, arXiv 1502.03167, §2).
"""

import time

import torch

from normbench.errors import InputError
from normbench.measures.alike import entries_of, require_least, training
from normbench.measures.mates import slope
from normbench.norms.plain import Conv2d
from normbench.tasks.build import check_network, make_model
from normbench.training.network import Network
from normbench.training.schedule import configured_plan

LAST = 0.1  # share of the training whose loss is compared with that at the start


def check(config, processes: int) -> None:
    """Raises InputError as a training would, and where no convolution has a bias."""
    check_network(config, processes)
    require_least(config, every=1)
    with torch.random.fork_rng(devices=[]):
        if not biases_of(make_model(config, [0])):
            raise InputError(
                "norm", config.norm.name, "no convolution has a bias beside it; norm.affine=false leaves one"
            )


def biases_of(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [one.bias for one in model.modules() if isinstance(one, Conv2d) and one.bias is not None]


def measure(config, task, session) -> tuple[list[dict], list[dict]]:
    """Train, and note the norm of all convolutions' biases. An entry a seed; and a row every so many steps and seed."""
    started = time.perf_counter()
    plan = configured_plan(config, task)
    session.begin(task.seeds, plan.steps, 0, images=config.batch_size * len(task.seeds), epochs=config.epochs)
    network, losses, norms = Network(config, task), [], {}
    biases = biases_of(network.model)
    for done in training(network, task, plan, session):
        losses.append(done.losses.double().cpu())
        if network.step % config.measure.every == 0:
            norms[network.step] = norm_of(biases, len(task.seeds))
    losses, last = torch.stack(losses), max(1, round(LAST * len(losses)))
    norms[network.step] = norm_of(biases, len(task.seeds))
    told = [
        {
            "bias_norm": norms[network.step][index].item(),
            "bias_growth": slope({step: norm[index].item() for step, norm in norms.items()}),
            "loss_ratio": (losses[-last:, index].mean() / losses[0, index]).item(),
        }
        for index in range(len(task.seeds))
    ]
    rows = [
        {"seed": seed, "step": step, "loss": losses[step - 1, index].item(), "bias_norm": norm[index].item()}
        for step, norm in norms.items()
        for index, seed in enumerate(task.seeds)
        if not network.lost[index]
    ]
    return entries_of(network, told, started), rows


def norm_of(biases, replicates: int) -> torch.Tensor:
    """R: the norm of each replicate's biases, all together, in float64."""
    squares = [bias.detach().double().reshape(replicates, -1).square().sum(1).cpu() for bias in biases]
    return torch.stack(squares).sum(0).sqrt()
