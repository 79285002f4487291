"""The learning-rate range test: which rate should a configuration be trained with?

A fresh network is trained for a few hundred steps while the rate grows exponentially; the curve of loss over rate says
where learning sets in and where it breaks down (Smith 2017, arXiv 1506.01186). `find_lr` measures the curves,
`normbench.analysis.lr_curve` reads a rate off one.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from omegaconf import OmegaConf

from normbench.analysis.lr_curve import LrTest, divergence
from normbench.errors import InputError
from normbench.processes import Processes
from normbench.training.loop import Unwatched, train
from normbench.training.optimizer import scaled_lr

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
    watch: Callable[[], None] = lambda: None,
) -> LrTest:
    """Train a replicate a seed, in stacks of config.stack, while the rate grows exponentially from low to high.

    Each has the weights, batches and augmentation that its run begins with; progressive resizing stands at its last
    size. It is training.loop's very step, `steps` times, fewer once all replicates of a stack have diverged. Neither
    config nor data is changed.

    config: resolved. data: a Dataset whose tensors lie on `device`. low, high: in the unit of optim.lr. watch: called
    at each step; it may raise to break off. Raises InputError for a range or a number of steps that cannot be.
    """
    if not low > 0:
        raise InputError("low", low, "must be a number > 0")
    if not low < high < math.inf:
        raise InputError("high", high, f"must be a number above low={low}")
    if steps < FEWEST:
        raise InputError("steps", steps, f"must be an integer ≥ {FEWEST}")
    rates = [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]
    optimizer_rates = [scaled_lr(rate, config.batch_size, config.lr_scaling) for rate in rates]
    config = OmegaConf.create(OmegaConf.to_container(config))
    config.epochs = math.ceil(steps / (len(data.train_labels) // config.batch_size))
    if config.augment.resize is not None:
        config.augment.resize = [[0, config.augment.resize[-1][1]]]
    # No validation: nothing but the losses says that a replicate is lost.
    seen = replace(data, val_images=data.val_images[:0], val_labels=data.val_labels[:0])
    losses = {}
    for start in range(0, len(seeds), config.stack):
        stack = seeds[start : start + config.stack]
        curves = _Curves(stack, steps, watch)
        with suppress(_Over):
            train(config, seen, stack, device, Processes(), None, curves, rate=optimizer_rates.__getitem__)
        losses |= curves.losses
    return LrTest(rates, optimizer_rates, losses, chance=math.log(data.num_classes))


class _Over(Exception):
    """Enough was seen. Raised within the training loop, which would go on to evaluate the network."""


class _Curves(Unwatched):
    """Stands in for a run's session and collects the losses."""

    def __init__(self, seeds, steps, watch):
        self.losses, self.steps, self.asked = {seed: [] for seed in seeds}, steps, watch

    def step(self, epoch, losses, state, loss) -> None:
        for curve, value in zip(self.losses.values(), losses.tolist(), strict=True):
            curve.append(value)
        if len(curve) == self.steps or all(divergence(c, self.steps) is not None for c in self.losses.values()):
            raise _Over
        self.asked()

    def watch(self, state) -> None:
        self.asked()
