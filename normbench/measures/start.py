"""A network of one seed as its training starts, the batch that a probe looks at it with, and how it stays as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from normbench.tasks import make_task
from normbench.training.network import Network


def at_start(config, task, seed: int) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """The model of a seed alone, in training mode, and the first `batch_size` training images, neither augmented nor
    shuffled: model, inputs N×3×H×W, labels N.

    task: of any seeds; its data are taken. What layers draw is what they do in a first step.
    """
    alone = make_task(config, [seed], task.device, data=task.data)
    network = Network(config, alone)
    network.draw_as_at(0, 0)
    return network.model, alone.first_inputs(config.batch_size), alone.data.train_labels[: config.batch_size]


def each_at_start(config, task, session) -> Iterator[tuple[int, tuple[torch.nn.Module, torch.Tensor, torch.Tensor]]]:
    """Each seed of a task, and what `at_start` has of it; the session sees a step a seed."""
    session.begin(task.seeds, len(task.seeds), 0)
    for seed in task.seeds:
        yield seed, at_start(config, task, seed)
        session.step(0, lambda: None)


@contextmanager
def looked_at(model: torch.nn.Module):
    """The model in training mode, to be looked at: its buffers, running averages among them, and its mode come back."""
    kept, training = {name: buffer.clone() for name, buffer in model.named_buffers()}, model.training
    try:
        yield model.train()
    finally:
        model.train(training)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(kept[name])
