"""How long a step takes: a few of them, on images of noise, which take no time to draw."""

import torch

from normbench.config.sizes import LABELS
from normbench.data import Dataset
from normbench.tasks import make_task
from normbench.training.clock import Clock
from normbench.training.machine import cpu_threads
from normbench.training.network import INIT_IMAGES, Network
from normbench.training.steps import Plan, steps

WARM_UP, TIMED = 2, 20  # steps
IMAGES = 5000  # at most so many are trained on


def trial(config, seconds: float) -> float:
    """Seconds that training takes per image and replicate, from a few steps of a stack on generated images.

    config: resolved. seconds: of steps, after which no further one is begun, but for the first two.
    """
    torch.set_num_threads(cpu_threads(config))
    task = make_task(config, range(config.stack), config.device, data=_noise(config))
    count = max(1, min(TIMED, IMAGES // config.batch_size))
    plan = Plan(WARM_UP + count, rate=lambda step: 0.0, share=lambda step: 1.0)
    clock = Clock(config.device)
    network = Network(config, task)
    moments, end = [], clock.now() + seconds
    for _ in steps(network, task, plan):
        moments.append(clock.now())
        if len(moments) > 1 and moments[-1] > end:
            break
    warm = min(WARM_UP, len(moments) - 1) - 1  # the last step that is not timed
    return (moments[-1] - moments[warm]) / (len(moments) - 1 - warm) / config.batch_size / config.stack


def _noise(config) -> Dataset:
    """As many images as a batch has or a method prepares itself with, none to evaluate on."""
    generator, classes = torch.Generator().manual_seed(0), LABELS[config.data.labels]
    count = max(config.batch_size, INIT_IMAGES)
    images = torch.randint(256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator).to(config.device)
    labels = torch.randint(classes, (count,), generator=generator).to(config.device)
    none = images[:0], labels[:0]
    return Dataset("noise", images, labels, *none, *none, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), classes)
