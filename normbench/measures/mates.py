"""How much of what a network says of an image is its batch mates' doing.

An image stands in many batches, each with other mates; its logits spread by what the statistics of those batches
change. With statistics of its own image alone (group, layer, instance normalization) the logits are the same numbers
each time.
"""

import math
import time

import torch

from normbench.measures.alike import entries_of, require_least
from normbench.measures.mismatch import require_batches
from normbench.measures.trained import trained
from normbench.norms.evaluation import normalized_by, of_batches
from normbench.random import derive
from normbench.records.metrics import BATCHES
from normbench.tasks.build import check_network

AT_ONCE = 128  # images of a forward pass, as far as batches of one size fit into it


def check(config, processes: int) -> None:
    """Raises InputError as a training would, and for numbers that cannot be."""
    check_network(config, processes)
    require_batches(config, 2)
    require_least(config, images=1, draws=2)


def measure(config, task, session) -> tuple[list[dict], list[dict]]:
    """An entry a seed: the spread of an image's logits at each size of batches, and its slope; and a row a size."""
    started, how = time.perf_counter(), config.measure
    network = trained(config, task, session)
    told: list[dict] = [{} for _ in task.seeds]
    for size in BATCHES:
        found = [None] * len(told)
        if size in how.batches:
            spreads = spread(config, task, network, size, lambda: session.poll(lambda: None))
            found = [value if math.isfinite(value) else None for value in spreads.tolist()]
        for entry, value in zip(told, found, strict=True):
            entry[f"mates_{size}"] = value
    for entry in told:
        entry["mates_slope"] = slope({size: entry[f"mates_{size}"] for size in BATCHES})
    rows = [
        {"seed": seed, "size": size, "spread": entry[f"mates_{size}"]}
        for seed, entry, lost in zip(task.seeds, told, network.lost.tolist(), strict=True)
        for size in sorted(how.batches)
        if not lost
    ]
    return entries_of(network, told, started), rows


@torch.no_grad()
def spread(config, task, network, size: int, poll=lambda: None) -> torch.Tensor:
    """R: the standard deviation of a logit over batches of `size` images of which one stays, the mean over logits and
    over the first `measure.images` validation images; the mates are training images, drawn anew in each batch.

    By the statistics of the batch, everything else as in evaluation. A network's draws are those of its seed alone.
    """
    network.model.eval()
    data, how = task.data, config.measure
    staying = task.test_inputs.repeated(data.val_images[: how.images], len(task.seeds))
    pools = [torch.Generator().manual_seed(derive(seed, "mates", size)) for seed in task.seeds]
    logits = []
    for _ in range(how.draws):
        drawn = [torch.randint(len(data.train_labels), (len(staying), size - 1), generator=pool) for pool in pools]
        said = []
        for part, *mates in zip(*(one.split(max(1, AT_ONCE // size)) for one in (staying, *drawn)), strict=True):
            poll()
            x = torch.cat([part.unsqueeze(1), _mates(task, mates)], 1).flatten(0, 1)
            with network.precision(), normalized_by(network.model, of_batches(size)):
                said.append(network.forward(x.contiguous(memory_format=torch.channels_last))[:, ::size])
        logits.append(torch.cat(said, 1).double())
    return torch.stack(logits).std(0).mean((1, 2))


def _mates(task, drawn: list[torch.Tensor]) -> torch.Tensor:
    """The inputs of mates, batches × mates × (R·3)×32×32. drawn: a seed each, batches × mates, of training images."""
    places = torch.stack(drawn, 2)
    images = task.data.train_images[places.flatten(0, 1).to(task.device)].movedim(1, 3)  # N×32×32×R×3
    return task.inputs(images).unflatten(0, places.shape[:2])


def slope(by_size: dict[int, float | None]) -> float | None:
    """Of ln(value) over ln(size), by least squares over the sizes that have one; None without two, or one that is 0."""
    there = {size: value for size, value in by_size.items() if value is not None}
    if len(there) < 2 or min(there.values()) <= 0:
        return None
    x, y = (torch.tensor(list(some), dtype=torch.float64).log() for some in (there, there.values()))
    x = x - x.mean()
    return ((x * y).sum() / x.square().sum()).item()
