"""The training loop: one SGD step after the other, for as long as the reader wants more."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from normbench.training.graph import Recorded
from normbench.training.network import Network
from normbench.training.optimizer import clip_adaptively, clip_gradients, gradient_norms, take_step


@dataclass(frozen=True)
class Plan:
    """What a training is to do.

    steps: SGD steps in all. rate: from the number of a step, counted from 0, to the optimizer's rate. share: from that
    number to the share of the training that lies behind it, which progressive resizing goes by. clip_norm: the largest
    norm of a replicate's gradient, or None. norm_steps: steps of an epoch between two measurements of that norm; None:
    never. agc: the largest gradient of a unit over the norm of its weights (adaptive clipping), or None.
    """

    steps: int
    rate: Callable[[int], float]
    share: Callable[[int], float]
    clip_norm: float | None = None
    norm_steps: int | None = None
    agc: float | None = None


@dataclass(frozen=True)
class Step:
    """A step that was done: each replicate's loss and score (R) of its batch before it, and gradient norms, or None."""

    losses: torch.Tensor
    scores: torch.Tensor
    norms: torch.Tensor | None


def steps(network: Network, task, plan: Plan) -> Iterator[Step]:
    """Train a network, from where it stands to the end of the plan, or until every replicate is lost.

    task: a tasks.Task. Between two steps the network is whole: stop reading whenever you like. The gradients of the
    step are there until the next one, or until `network.forget_gradients()`.
    """
    take = partial(take_one, network, task, plan)
    if network.recorded:
        take = Recorded(take, partial(form, network, task), network.parameters, network.device)
    while network.step < plan.steps and not network.lost.all():
        epoch, at = divmod(network.step, task.steps_per_epoch)
        share = plan.share(network.step)
        network.begin_step(plan.rate(network.step), share, epoch, at)
        measured = plan.norm_steps is not None and at % plan.norm_steps == 0
        done = take(task.batch(epoch, at), share, measured)
        network.step += 1
        yield Step(*done)


def form(network: Network, task, share: float) -> tuple:
    """What decides which operations the next step is, beside the sizes of its batch."""
    return task.form(share), network.method.form(network.model, network.step)


def take_one(network: Network, task, plan: Plan, batch, share: float, measured: bool) -> tuple:
    """A step on a batch; returns what Step has. measured: whether it has gradient norms."""
    losses, scores = task.losses(network, batch, share)
    losses.sum().backward()  # a sum: no replicate's gradient depends on another, whatever becomes of it
    norms = None
    if measured or plan.clip_norm is not None:
        norms = gradient_norms(network.parameters, network.replicates)
        if plan.clip_norm is not None:
            clip_gradients(network.parameters, norms, plan.clip_norm)
    if plan.agc is not None:
        clip_adaptively(network.units, plan.agc)
    take_step(network.optimizer)
    return losses.detach(), scores, norms if measured else None
