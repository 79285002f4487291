"""What is learned, and how it is judged: one file a task, behind one protocol."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch

from normbench.processes import ALONE, Processes
from normbench.tasks.classify import Classify

Batch = object  # a task's own: what its `losses` take


class Task(Protocol):
    """A task for the replicates of some seeds, side by side on one device.

    outcomes of a replicate, by their names in `scores`, carry the split before them in a result: val_acc, test_acc.
    """

    seeds: Sequence[int]
    device: str
    processes: Processes
    steps_per_epoch: int
    score_unit: float  # what the score of `losses` is multiplied with to be in the unit of its outcome

    def load(self) -> None:
        """Load the data, which is done at the first need otherwise. Raises UserError where that cannot be."""

    def network(self, seeds: Sequence[int]) -> torch.nn.Module:
        """The network of a replicate a seed (seeds of its first draw), on the CPU in float32."""

    def first_inputs(self, count: int) -> torch.Tensor:
        """The first training inputs for every replicate, at most `count`: what weights may be initialized from."""

    def batch(self, epoch: int, at: int) -> Batch:
        """That of a step of an epoch, both counted from 0: the same at each call."""

    def losses(self, network, batch: Batch, share: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and score of each replicate on its batch, R each; `share` of the training lies behind this step."""

    def form(self, share: float) -> object:
        """What of `losses` follows from the share: with equal forms it is the same operations, on other values."""

    def series(self, loss: float, score: float, share: float) -> dict:
        """What a row of metrics.csv says of training batches, from their mean loss and score, and the last share."""

    def scores(self, network, split: str, poll: Callable[[], None], views: Callable | None = None) -> list[dict]:
        """How good each replicate is on `train`, `val` or `test`: its scores, and `right`, whether each image was
        told rightly.

        poll: called before each batch; it may raise to break off. views: of data.views, to average over, or None.
        """

    def lost_scores(self) -> dict:
        """The scores of a replicate that has diverged."""

    def population(self, count: int, augmented: bool) -> Iterator[torch.Tensor]:
        """Batches of inputs that precise statistics are taken over: of the first `count` training images."""


TASKS: dict[str, Callable[..., Task]] = {"classify": Classify}


def make_task(config, seeds, device: str, processes: Processes = ALONE, data=None) -> Task:
    """The task of a resolved configuration. data: in place of what the configuration would load, or None."""
    return TASKS[config.task.name](config, seeds, device, processes, data)
