"""How much the statistics matter that a trained network is evaluated with: other ones than it was trained with.

Of one network, on the test images: its running averages, precise statistics, the moments of batches of test images,
and what EvalNorm expects of its training (see norms.evaluation).
"""

import time

import torch

from normbench.errors import InputError
from normbench.facts import facts_of
from normbench.measures.alike import entries_of, require_least
from normbench.measures.trained import trained
from normbench.norms.batch import has_running_statistics, precise_statistics
from normbench.norms.evaluation import evalnorm, normalized_by, of_batches, populations
from normbench.random import derive
from normbench.records.metrics import BATCHES
from normbench.tasks.build import check_network, make_model
from normbench.tasks.scores import evaluate

STATISTICS = ("running", "precise", "evalnorm")  # beside those of batches


def check(config, processes: int) -> None:
    """Raises InputError as a training would, for sizes of batches that have no outcome, and for a method that takes no
    statistics over a batch."""
    check_network(config, processes)
    require_batches(config)
    require_least(config, shuffles=1, images=1)
    require_statistics(config)


def require_batches(config, least: int = 1) -> None:
    """Raises InputError for sizes that no outcome stands for, or below the least."""
    sizes, known = config.measure.batches, [size for size in BATCHES if size >= least]
    if not sizes or not set(sizes) <= set(known) or len(set(sizes)) < len(sizes):
        choices = ", ".join(map(str, known))
        raise InputError("measure.batches", sizes, f"must be a list of different ones of {choices}")


def require_statistics(config) -> None:
    """Raises InputError for a method that takes no statistics over a batch."""
    with torch.random.fork_rng(devices=[]):
        if not has_running_statistics(make_model(config, [0])):
            wrong = f"takes no statistics over a batch, which is what measure={config.measure.name} is about"
            raise InputError("norm", config.norm.name, wrong)


def measure(config, task, session) -> tuple[list[dict], list[dict]]:
    """An entry a seed: the test accuracies by every statistic; and a row a statistic, shuffle and seed."""
    started, how = time.perf_counter(), config.measure
    network = trained(config, task, session)

    def poll():
        session.poll(lambda: None)

    evaluation = Evaluation(config, task, network, how.images, poll)
    told, rows = [{} for _ in task.seeds], []
    for name in STATISTICS:
        for entry, accuracy in zip(told, evaluation.accuracies(name) or [None] * len(told), strict=True):
            entry[f"test_acc_{name}"] = accuracy
        rows += _rows(task.seeds, told, name)
    for size in BATCHES:
        found = evaluation.of_batches(size, how.shuffles) if size in how.batches else []
        rows += [
            {"seed": seed, "statistics": "batch", "size": size, "shuffle": shuffle, "acc": accuracy}
            for shuffle, accuracies in enumerate(found)
            for seed, accuracy in zip(task.seeds, accuracies, strict=True)
        ]
        for place, entry in enumerate(told):
            entry[f"test_acc_batch_{size}"] = sum(one[place] for one in found) / len(found) if found else None
    kept = [row for row in rows if not network.lost[list(task.seeds).index(row["seed"])]]
    return entries_of(network, told, started), kept


def _rows(seeds, told: list[dict], name: str) -> list[dict]:
    return [
        {"seed": seed, "statistics": name, "acc": entry[f"test_acc_{name}"]}
        for seed, entry in zip(seeds, told, strict=True)
    ]


class Evaluation:
    """The accuracies of the networks of a task, by one kind of statistics after the other.

    network: with its model, `forward` and `precision`. images: training images that EvalNorm takes its population over.
    poll: called before each batch; it may raise to break off. split: test or val.
    """

    def __init__(self, config, task, network, images: int, poll=lambda: None, split: str = "test"):
        self.config, self.task, self.network, self.poll, self.split = config, task, network, poll, split
        self.images = images

    def accuracies(self, statistics: str) -> list[float] | None:
        """In percent, R: by running averages, precise or EvalNorm's statistics. Precise ones are those of
        evaluation.precise_images; None where these are 0."""
        if statistics == "running":
            return self._plain()
        if statistics == "evalnorm":
            return self._evalnorm()
        count, augmented = self.config.evaluation.precise_images, self.config.evaluation.precise_augment
        if not count:
            return None
        with precise_statistics(self.network.model, lambda: self._pass(self.task.population(count, augmented))):
            return self._plain()

    def of_batches(self, size: int, shuffles: int) -> list[list[float]]:
        """In percent, shuffles × R: by the moments of batches of so many images, which are drawn anew in each shuffle.

        The orders are the same for all networks. What is left over at the end is filled up with the first images again,
        which count once. Raises InputError for a statistic of a single value.
        """
        return [self._of_batches(size, shuffle) for shuffle in range(shuffles)]

    def _of_batches(self, size: int, shuffle: int) -> list[float]:
        count = len(self._labels)
        generator = torch.Generator().manual_seed(derive(self.config.data.split_seed, "batches", size, shuffle))
        order = torch.randperm(count, generator=generator)
        order = order.repeat(1 + size // count)[: -(-count // size) * size]
        with normalized_by(self.network.model, of_batches(size)):
            right = self._evaluated(order.to(self._labels.device), size)
        return (100 * right[:, :count].double().mean(1)).tolist()

    def _evalnorm(self) -> list[float]:
        config = self.config
        options = {key: value for key, value in config.norm.items() if key != "name"}
        size = facts_of(config.norm.name).statistic_images(options, config.batch_size)
        images = torch.cat(list(self.task.population(self.images, config.evaluation.precise_augment)))
        whole = images[: len(images) // size * size] if size <= len(images) else images
        parts = whole.split(max(1, self._room // size) * size)
        found = populations(self.network.model, lambda: self._pass(parts), size)
        with normalized_by(self.network.model, evalnorm(found, size)):
            right = self._evaluated(torch.arange(len(self._labels), device=self._labels.device), 1)
        return (100 * right.double().mean(1)).tolist()

    @property
    def _labels(self) -> torch.Tensor:
        return getattr(self.task.data, f"{self.split}_labels")

    @property
    def _room(self) -> int:
        """Images of a forward pass."""
        return max(1, self.config.evaluation.batch_size // len(self.task.seeds))

    def _plain(self) -> list[float]:
        return [found["acc"] for found in self.task.scores(self.network, self.split, self.poll)]

    def _evaluated(self, order: torch.Tensor, unit: int) -> torch.Tensor:
        """Which images, in an order, each network tells rightly: R×n. unit: images that are to stay together."""
        images, size = getattr(self.task.data, f"{self.split}_images"), max(1, self._room // unit) * unit
        how = (self.task.test_inputs, len(self.task.seeds), size, self.poll)
        with self.network.precision():
            return evaluate(self.network.model.eval(), images[order], self._labels[order], *how).right

    @torch.no_grad()
    def _pass(self, batches) -> None:
        self.network.model.eval()
        for x in batches:
            self.poll()
            with self.network.precision():
                self.network.model(x)
