"""The learning-rate range test: which rate should a configuration be trained with?

A fresh network is trained for a few hundred steps while the rate grows exponentially; the curve of loss over rate says
where learning sets in and where it breaks down (Smith 2017, arXiv 1506.01186). `find_lr` measures the curves,
`normbench.analysis.lr_curve` reads a rate off one.
"""

import itertools
import math
import time
from collections.abc import Callable, Sequence

import torch

from normbench.analysis.lr_curve import RULES, LrTest, Suggestion, divergence
from normbench.config.rates import scaled_lr
from normbench.errors import InputError, require_choice
from normbench.tasks import make_task
from normbench.tasks.build import check_network
from normbench.training.machine import cpu_threads
from normbench.training.network import Network
from normbench.training.steps import Plan
from normbench.training.steps import steps as training_steps

# From below what raw inputs 0…255 bear without normalization to where BatchNorm fails; 25 steps a decade.
LOW, HIGH, STEPS = 1e-7, 10.0, 200
FEWEST = 50  # steps


def find_lr(
    config,
    data,
    seeds: Sequence[int],
    device: str,
    *,
    low: float = LOW,
    high: float = HIGH,
    steps: int = STEPS,
    poll: Callable[[], None] = lambda: None,
) -> LrTest:
    """Train a replicate a seed, in stacks of config.stack, while the rate grows exponentially from low to high.

    Each has the weights, batches and augmentation that its run begins with; progressive resizing stands at its last
    size. There are `steps` of a training's very steps, fewer once all replicates of a stack have diverged. Neither
    config nor data is changed.

    config: resolved. data: a Dataset whose tensors lie on `device`. low, high: in the unit of optim.lr. poll: called
    at each step; it may raise to break off. Raises InputError for a range or a number of steps that cannot be.
    """
    check_range(low, high, steps)
    rates = [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]
    optimizer_rates = [scaled_lr(rate, config.batch_size, config.lr_scaling) for rate in rates]
    clips = {"clip_norm": config.optim.clip_norm, "agc": config.optim.agc}
    plan = Plan(steps, optimizer_rates.__getitem__, share=lambda step: 1.0, **clips)
    losses = {}
    for start in range(0, len(seeds), config.stack):
        task = make_task(config, seeds[start : start + config.stack], device, data=data)
        network, curves = Network(config, task), [[] for _ in task.seeds]
        for done in training_steps(network, task, plan):
            for curve, loss in zip(curves, done.losses.tolist(), strict=True):
                curve.append(loss)
            network.lost = torch.tensor([divergence(curve, steps) is not None for curve in curves])
            poll()
        network.forget_gradients()
        losses |= dict(zip(task.seeds, curves, strict=True))
    return LrTest(rates, optimizer_rates, losses, chance=math.log(data.num_classes))


def check_range(low: float, high: float, steps: int) -> None:
    """Raises InputError for a range or a number of steps that cannot be."""
    if not low > 0:
        raise InputError("low", low, "must be a number > 0")
    if not low < high < math.inf:
        raise InputError("high", high, f"must be a number above low={low}")
    if steps < FEWEST:
        raise InputError("steps", steps, f"must be an integer ≥ {FEWEST}")


def range_test(config, **how) -> LrTest:
    """That of all replicates of a resolved configuration, without a run. how: low, high, steps of find_lr."""
    torch.set_num_threads(cpu_threads(config))
    seeds = range(config.seed, config.seed + config.replicates)
    return find_lr(config, make_task(config, seeds, config.device).data, seeds, config.device, **how)


def check(config, processes: int) -> None:
    """Raises InputError, its key within `measure`, for a range that cannot be, and as the network's check does."""
    how = config.measure
    try:
        check_range(how.low, how.high, how.steps)
        require_choice("rule", how.rule, RULES)
    except InputError as error:
        raise error.within("measure") from None
    check_network(config, processes)


def measure(config, task, session) -> tuple[list[dict], list[dict]]:
    """The range test as a measurement of its own: the suggested rate of each seed, and its curve, a row a step."""
    how, started = config.measure, time.perf_counter()
    session.begin(task.seeds, how.steps, 0, images=config.batch_size * len(task.seeds))
    counted = itertools.count()

    def counting():
        session.step(next(counted), lambda: None)

    test = find_lr(
        config, task.data, task.seeds, task.device, low=how.low, high=how.high, steps=how.steps, poll=counting
    )
    suggestions = test.suggestions(how.rule)
    took = round(time.perf_counter() - started, 3)
    entries = [
        {
            "seed": seed,
            "status": "finished",
            "suggested_lr": said.lr,
            "lr_found": said.lr is not None,
            "verdict": said.verdict,
            "seconds": took,
            "stack": len(task.seeds),
        }
        for seed, said in suggestions.items()
    ]
    return entries, curve_rows(test, suggestions)


def curve_rows(test: LrTest, suggestions: dict[int, Suggestion]) -> list[dict]:
    """A row a step and seed, up to where it diverged. smoothed_lr: the rate that the moving average stands for."""
    rows = []
    for seed, said in suggestions.items():
        losses = test.losses[seed][: None if said.diverged is None else said.diverged + 1]
        for step, loss in enumerate(losses):
            inside = step < len(said.smoothed)
            rows.append(
                {
                    "seed": seed,
                    "step": step + 1,
                    "lr": test.rates[step],
                    "optimizer_lr": test.optimizer_rates[step],
                    "loss": loss,
                    "smoothed": float(said.smoothed[step]) if inside else None,
                    "smoothed_lr": float(said.smoothed_rates[step]) if inside else None,
                    "diverged": step == said.diverged,
                }
            )
    return rows
