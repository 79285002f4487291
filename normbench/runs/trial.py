"""How long a step takes: a few of them, on generated images."""

from dataclasses import replace

import torch

from normbench.config.values import plain, to_yaml
from normbench.data.cache import dataset
from normbench.tasks import make_task
from normbench.training.clock import Clock
from normbench.training.machine import cpu_threads
from normbench.training.network import Network
from normbench.training.steps import Plan, steps

WARM_UP, TIMED = 2, 20  # steps
IMAGES = 5000  # at most so many are trained on


def trial(config, seconds: float) -> float:
    """Seconds that training takes per image and replicate, from a few steps of a stack on generated images.

    config: resolved. seconds: after which no further step is begun, but for the first two. Data of another size in
    memory is left out.
    """
    torch.set_num_threads(cpu_threads(config))
    generated = {"name": "patterns", "root": None, "train_size": None, "val_size": 50, "test_size": 50}
    data = dataset(config.device, to_yaml(plain(config.data) | generated))
    times = -(-config.batch_size // len(data.train_labels))  # a batch may be larger than all there is
    data = replace(
        data, train_images=data.train_images.repeat(times, 1, 1, 1), train_labels=data.train_labels.repeat(times)
    )
    task = make_task(config, range(config.stack), config.device, data=data)
    count = max(1, min(TIMED, IMAGES // config.batch_size))
    plan = Plan(WARM_UP + count, rate=lambda step: 0.0, share=lambda step: 1.0)
    clock = Clock(config.device)
    moments, end = [], clock.now() + seconds
    for _ in steps(Network(config, task), task, plan):
        moments.append(clock.now())
        if len(moments) > 1 and moments[-1] > end:
            break
    warm = min(WARM_UP, len(moments) - 1) - 1  # the last step that is not timed
    return (moments[-1] - moments[warm]) / (len(moments) - 1 - warm) / config.batch_size / config.stack
