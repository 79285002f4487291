"""The networks that a measurement looks at, once they are trained or as they start."""

from collections import deque

from normbench.measures.alike import training
from normbench.records.directory import RunDirectory
from normbench.records.metrics import OVER, TRAIN
from normbench.training.kept import Networks, kept
from normbench.training.network import Network
from normbench.training.schedule import configured_plan


def begun(config, task, session) -> Network:
    """The networks of the task's seeds at initialization, or, where `measure.trained` asks for it, trained here."""
    plan = configured_plan(config, task)
    session.begin(task.seeds, plan.steps if config.measure.trained else 1, 0)
    network = Network(config, task)
    if config.measure.trained:
        deque(training(network, task, plan, session), maxlen=0)
    return network


def trained(config, task, session) -> Network | Networks:
    """The networks of the task's seeds as the training of the same settings leaves them; `lost` says which diverged.

    Those of that training where it is over and in the same output folder: the same to the last bit, or to rounding
    where other replicates were stacked. Otherwise they are trained here, and stopped on the way begin anew.
    """
    alone = config.with_value("measure", {"name": TRAIN})
    directory = RunDirectory.of(alone)
    if task.processes.count == 1 and directory.status() in OVER and (directory.path / "checkpoint.pt").exists():
        session.begin(task.seeds, 1, 0)
        return kept(alone, directory, task.seeds)
    plan = configured_plan(config, task)
    session.begin(task.seeds, plan.steps, 0, images=config.batch_size * len(task.seeds), epochs=config.epochs)
    network = Network(config, task)
    deque(training(network, task, plan, session), maxlen=0)
    network.model.eval()
    return network
