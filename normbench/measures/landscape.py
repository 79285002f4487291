"""How smooth the loss is along the gradient, in the course of a training.

After Santurkar et al. 2018, arXiv 1805.11604, figure 4: before a step on a batch with gradient g at w, how far the loss
of that very batch and its gradient vary at w − ηg, for η about the rate of the training. One training is looked at, in
training mode; that of several networks at several rates, as is often drawn, is another quantity.
"""

import math
import time

import torch

from normbench.errors import InputError
from normbench.measures.alike import entries_of, require_least, significant, training
from normbench.measures.line import Line, next_batch_losses, squares
from normbench.measures.start import looked_at
from normbench.norms.factory import ACTIVATIONS
from normbench.norms.plain import Conv2d, Linear
from normbench.records.metrics import LANDSCAPE
from normbench.tasks.build import check_network
from normbench.training.network import Network
from normbench.training.schedule import configured_plan
from normbench.training.steps import Plan

DIGITS = 6  # significant ones, of a row
SMOOTHNESS = ("loss_range", "grad_change", "beta", "beta_relative")


def check(config, processes: int) -> None:
    """Raises InputError as a training would, and for numbers that cannot be."""
    check_network(config, processes)
    check_looks(config)


def check_looks(config) -> None:
    """Raises InputError for options of the looks that cannot be."""
    how = config.measure
    require_least(config, every=1, until=1, rates=2)
    if not how.low > 0:
        raise InputError("measure.low", how.low, "must be a number > 0")
    if not how.high > how.low:
        raise InputError("measure.high", how.high, f"must be a number above measure.low={how.low}")


def measure(config, task, session) -> tuple[list[dict], list[dict]]:
    """Train, and look every so many steps. An entry a seed; and a row a look and seed."""
    started, plan = time.perf_counter(), configured_plan(config, task)
    session.begin(task.seeds, plan.steps, 0, images=config.batch_size * len(task.seeds), epochs=config.epochs)
    network = Network(config, task)
    landscape = Landscape(network, task, plan, config.measure, ACTIVATIONS[config.model.activation])
    scores = [done.scores for done in landscape.train(session)][-task.steps_per_epoch :]
    train_acc = (task.score_unit * torch.stack(scores).mean(0)).tolist()
    found = task.scores(network, "val", lambda: session.poll(lambda: None))
    told = [
        landscape.told(index) | {"train_acc_end": train_acc[index], "val_acc_end": found[index]["acc"]}
        for index in range(len(task.seeds))
    ]
    chance = dict.fromkeys(("train_acc_end", "val_acc_end"), task.lost_scores()["acc"])
    lost = dict.fromkeys(outcome.name for outcome in LANDSCAPE) | chance
    return entries_of(network, told, started, lost), landscape.rows


class Landscape:
    """What is seen of networks under training. rows: of metrics.csv, of every look so far."""

    def __init__(self, network: Network, task, plan: Plan, how, activation: type | None = None):
        """how: the options of the measurement. activation: of the network, whose inputs are watched, or None."""
        self.network, self.task, self.plan, self.how = network, task, plan, how
        self.factors = geometric(how.low, how.high, how.rates)
        self.watched = [one for one in network.model.modules() if activation and isinstance(one, activation)]
        self.layers = layers_of(network)
        self.rows: list[dict] = []
        self.seen: list[dict[str, torch.Tensor]] = []  # of the looks that outcomes are means of
        self.means: list[torch.Tensor] = []

    def train(self, session):
        """The steps of the plan, with a look before the first and before each `every`-th after it."""
        self.look()
        for done in training(self.network, self.task, self.plan, session):
            if self.network.step % self.how.every == 0 and self.network.step < self.plan.steps:
                self.look()
            yield done

    def look(self) -> None:
        """Before the next step, on its batch. Nothing of the network is changed."""
        network, step = self.network, self.network.step
        rate, counts = self.plan.rate(step), step < self.how.until
        losses = next_batch_losses(network, self.task, self.plan.share(step))
        with looked_at(network.model):
            if counts and self.watched:
                self.means.append(self._means(losses))
            with Line(network.parameters, losses) as line:
                found = observe(line, [factor * rate for factor in self.factors], self.layers)
        if counts:
            self.seen.append(found)
        self.rows += [
            {"seed": seed, "step": step, "lr": rate}
            | {name: _rounded(values[index].item()) for name, values in found.items()}
            for index, seed in enumerate(network.seeds)
            if found["loss"][index].isfinite()
        ]

    @torch.no_grad()
    def _means(self, losses) -> torch.Tensor:
        """The mean of each channel that goes into an activation, over the batch: R × channels of all layers."""
        found = []

        def watch(_, inputs):
            x = inputs[0]
            means = x.double().mean((0, *range(2, x.dim())))
            found.append(means.view(self.network.replicates, -1).cpu())

        hooks = [one.register_forward_pre_hook(watch) for one in self.watched]
        try:
            losses()
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(found, 1)

    def told(self, index: int) -> dict[str, float | None]:
        """The outcomes of a replicate: geometric means over the looks, None where one of them has no logarithm."""
        told = {name: _geometric([found[name][index].item() for found in self.seen]) for name in SMOOTHNESS}
        if len(self.means) > 1:
            told["mean_variance"] = torch.stack(self.means)[:, index].var(0).mean().item()
        return told


def layers_of(network: Network) -> list[int]:
    """The places, among the parameters of a network, of the weights of its convolutions and linear layers."""
    weights = {id(one.weight) for one in network.model.modules() if isinstance(one, Conv2d | Linear)}
    return [place for place, one in enumerate(network.parameters) if id(one) in weights]


def geometric(low: float, high: float, count: int) -> list[float]:
    """So many numbers from low to high, each the same multiple of the one before."""
    return [low * (high / low) ** (place / (count - 1)) for place in range(count)]


def observe(line: Line, rates: list[float], layers: list[int]) -> dict[str, torch.Tensor]:
    """What is seen of each replicate at w − ηg over all η: name → R, in float64.

    loss, grad_norm: at w. loss_min, loss_max, loss_range: of the losses. grad_change_min, grad_change: the smallest and
    the largest ‖∇L(w−ηg) − g‖. beta: the largest of ‖∇L(w−ηg) − g‖/(η‖g‖). beta_relative: the same in units that no
    scale of the weights changes: of each layer the change of its gradient times ‖w‖, and its distance over ‖w‖.
    finite: how many η have a finite loss and gradient; the others are left out. layers: places of weights.
    """
    weights = squares([line.weights[place] for place in layers], line.replicates)
    at_start = squares(line.gradients, line.replicates)
    norm, distance = at_start.sum(0).sqrt(), (at_start[layers] / weights).sum(0).sqrt()
    losses, changes, relative = [], [], []
    for rate in rates:
        line.go(rate)
        loss, gradients = line.look()
        change = squares([b - a for a, b in zip(line.gradients, gradients, strict=True)], line.replicates)
        losses.append(loss)
        changes.append(change.sum(0).sqrt())
        relative.append((change[layers] * weights).sum(0).sqrt())
    losses, changes, relative = torch.stack(losses), torch.stack(changes), torch.stack(relative)
    finite = losses.isfinite() & changes.isfinite()
    eta = torch.tensor(rates, dtype=losses.dtype, device=losses.device).unsqueeze(1)
    lowest, highest = _least(losses, finite), -_least(-losses, finite)
    return {
        "loss": line.losses,
        "grad_norm": norm,
        "loss_min": lowest,
        "loss_max": highest,
        "loss_range": highest - lowest,
        "grad_change_min": _least(changes, finite),
        "grad_change": -_least(-changes, finite),
        "beta": -_least(-changes / (eta * norm), finite),
        "beta_relative": -_least(-relative / (eta * distance), finite),
        "finite": finite.double().sum(0),
    }


def _least(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """The smallest of those that count, over the first axis; NaN where none does."""
    found = values.masked_fill(~counted, math.inf).amin(0)
    return found.masked_fill(~counted.any(0), math.nan)


def _geometric(values: list[float]) -> float | None:
    if not values or not all(0 < value < math.inf for value in values):
        return None
    return math.exp(sum(map(math.log, values)) / len(values))


def _rounded(value: float) -> float | None:
    return significant(value, DIGITS) if math.isfinite(value) else None
