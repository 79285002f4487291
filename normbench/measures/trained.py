"""The networks that a measurement looks at once they are trained."""

import torch

from normbench.records.directory import RunDirectory
from normbench.records.metrics import OVER, TRAIN
from normbench.training.kept import Networks, kept
from normbench.training.network import Network
from normbench.training.schedule import configured_plan
from normbench.training.steps import steps


def trained(config, task, session) -> Network | Networks:
    """The networks of the task's seeds as the training of the same settings leaves them; `lost` says which diverged.

    Those of that training where it is over and in the same output folder: the same to the last bit, or to rounding
    where other replicates were stacked. Otherwise they are trained here, and stopped on the way begin anew.
    """
    training = config.with_value("measure", {"name": TRAIN})
    directory = RunDirectory.of(training)
    if task.processes.count == 1 and directory.status() in OVER and (directory.path / "checkpoint.pt").exists():
        session.begin(task.seeds, 1, 0)
        return kept(training, directory, task.seeds)
    plan = configured_plan(config, task)
    session.begin(task.seeds, plan.steps, 0, images=config.batch_size * len(task.seeds), epochs=config.epochs)
    network = Network(config, task)
    for done in steps(network, task, plan):
        network.lost |= ~done.losses.isfinite().cpu()
        session.step((network.step - 1) // task.steps_per_epoch, lambda: None)
    network.forget_gradients()
    network.model.eval()
    return network


def entries_of(seeds, lost, told: list[dict], seconds: float) -> list[dict]:
    """An entry of result.json a seed. lost: R, which diverged: their outcomes are none. told: the others' outcomes."""
    stack = len(told)
    return [
        {"seed": seed, "status": "diverged" if gone else "finished"}
        | (dict.fromkeys(one) if gone else one)
        | {"seconds": round(seconds, 3), "stack": stack}
        for seed, gone, one in zip(seeds, torch.as_tensor(lost).tolist(), told, strict=True)
    ]
