"""What changes in the course of a training: the learning rate, and the size of the images."""

import math

from normbench.config.rates import scaled_lr
from normbench.training.steps import Plan


def configured_plan(config, task) -> Plan:
    """The training that a resolved configuration asks for."""
    steps = config.epochs * task.steps_per_epoch
    peak = scaled_lr(config.optim.lr * config.optim.lr_factor, config.batch_size, config.lr_scaling)

    def rate(step):
        samples, total = step * config.batch_size, steps * config.batch_size
        return peak * lr_factor(samples, config.batch_size, total, config.optim)

    clips = {"clip_norm": config.optim.clip_norm, "agc": config.optim.agc}
    return Plan(steps, rate, lambda step: step / steps, norm_steps=config.logging.grad_norm_steps, **clips)


def lr_factor(samples: int, batch_size: int, total: int, optim) -> float:
    """The share of the peak rate for the step that starts after `samples` of `total` samples.

    Warm-up: linear, over optim.warmup_samples. Then cosine to 0 at `total`; or ×gamma after each milestone's share of
    training; or ×gamma, smoothly, over each gamma_every of it, counted from the end of the warm-up (as Ioffe &
    Szegedy 2015, arXiv 1502.03167, §4.2.1); or constant.
    """
    warmup = optim.warmup_samples
    if samples < warmup:
        return min(1.0, (samples + batch_size) / warmup)
    if optim.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (samples - warmup) / (total - warmup)))
    if optim.schedule == "step":
        return optim.gamma ** sum(samples >= share * total for share in optim.milestones)
    if optim.schedule == "exponential":
        return optim.gamma ** ((samples - warmup) / (optim.gamma_every * total))
    return 1.0
