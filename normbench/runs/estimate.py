"""How long runs take: from their finished likes, or from a few steps."""

import sys
from dataclasses import replace

import torch
from omegaconf import OmegaConf

from normbench.data.cache import dataset
from normbench.runs.sweep import Run
from normbench.tasks import make_task
from normbench.training.clock import Clock
from normbench.training.machine import cpu_threads
from normbench.training.network import Network
from normbench.training.steps import Plan, steps

WARM_UP, TIMED = 2, 20  # steps
IMAGES = 5000  # at most so many are trained on


def estimates(runs: list[Run]) -> list[float]:
    """Seconds that each run takes from its start, on this machine and alone on it.

    From the finished runs of the same model, method, batch size, augmentation and stack; where there is none, from a
    few steps.
    """

    def kind(config):
        return (
            *(str(config[key]) for key in ("model", "norm", "batch_size", "precision", "augment", "evaluation")),
            min(config.stack, 8),
        )

    pace: dict[tuple, float] = {}
    for run in runs:
        result = run.directory.result()
        if result and result["status"] == "finished":
            pace.setdefault(kind(run.config), result["seconds"] / run.images)
    if missing := {kind(run.config) for run in runs} - pace.keys():
        print(f"normbench: timing {len(missing)} kinds of run that have no finished one", file=sys.stderr)
    for run in runs:
        if kind(run.config) not in pace:
            pace[kind(run.config)] = trial(run.config)
    return [run.images * pace[kind(run.config)] for run in runs]


def trial(config) -> float:
    """Seconds that training takes per image and replicate, from a few steps of a stack on generated images.

    config: resolved. Data of another size in memory and the evaluations are left out, so that it is a little low.
    """
    torch.set_num_threads(cpu_threads(config))
    generated = {"name": "patterns", "root": None, "train_size": None, "val_size": 50, "test_size": 50}
    data = dataset(config.device, OmegaConf.to_yaml(OmegaConf.merge(config.data, generated)))
    times = -(-config.batch_size // len(data.train_labels))  # a batch may be larger than all there is
    data = replace(
        data, train_images=data.train_images.repeat(times, 1, 1, 1), train_labels=data.train_labels.repeat(times)
    )
    task = make_task(config, range(config.stack), config.device, data=data)
    count = max(1, min(TIMED, IMAGES // config.batch_size))
    plan = Plan(WARM_UP + count, rate=lambda step: 0.0, share=lambda step: 1.0)
    clock = Clock(config.device)
    moments = [clock.now() for _ in steps(Network(config, task), task, plan)]
    return (moments[-1] - moments[WARM_UP - 1]) / count / config.batch_size / config.stack
