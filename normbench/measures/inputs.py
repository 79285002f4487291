"""What input normalization does before the first step: conditioning, curvature, and what float16 cannot hold."""

import time
from dataclasses import asdict
from functools import lru_cache

import torch
from omegaconf import OmegaConf

from normbench.config.values import to_yaml
from normbench.data.cache import dataset
from normbench.data.inputs import Inputs
from normbench.measures.alike import with_cost
from normbench.measures.curvature import condition_number, hessian_extremes
from normbench.measures.float16 import float16_shares
from normbench.measures.start import at_start, looked_at
from normbench.records.metrics import MATRICES
from normbench.tasks.classify import batch_loss


def measure(config, task, session) -> tuple[list[dict], list[dict]]:
    """A network of each seed at initialization, on the first `batch_size` training images, neither augmented nor
    shuffled; and the condition of the inputs, which no seed changes: a row a matrix.

    Every network is measured in training mode, with the batch's own statistics.
    """
    started = time.perf_counter()
    session.begin(task.seeds, 1 + len(task.seeds), 0)
    conditions = _conditions(to_yaml(config.data), config.measure.images)
    session.step(0, lambda: None)
    columns = {f"condition_{name.split()[-1]}": row["condition_nonzero"] for name, row in conditions.items()}
    entries = []
    for seed in task.seeds:
        entries.append({"seed": seed, "status": "finished"} | _network(config, task, seed) | columns)
        session.step(0, lambda: None)
    rows = [{"matrix": name} | row for name, row in conditions.items()]
    return with_cost(entries, started), rows if config.seed in task.seeds else []


@lru_cache(maxsize=1)
def _conditions(data_options: str, images: int) -> dict[str, dict]:
    """Matrix → its condition. data_options: a resolved configuration's `data`, as YAML. images: of X, at most."""
    data, kind = dataset("cpu", data_options), OmegaConf.create(data_options).input
    inputs = Inputs(kind, data.mean, data.std, "cpu", torch.float64, data.channel_scale)
    x = inputs(data.train_images[:images])
    pixels, channels = x.flatten(1), x.movedim(1, 3).flatten(0, 2)
    found = map(condition_number, (pixels, pixels - pixels.mean(0), channels))
    return {name: asdict(condition) for name, condition in zip(MATRICES, found, strict=True)}


def _network(config, task, seed: int) -> dict:
    (model, x, labels), smoothing = at_start(config, task, seed), config.augment.label_smoothing
    with looked_at(model):
        with torch.no_grad():
            loss = batch_loss(model, x, labels, smoothing).item()
        smallest, largest = hessian_extremes(model, x, labels, label_smoothing=smoothing)
        shares = float16_shares(model, x, labels, label_smoothing=smoothing)
    return {"loss": loss, "hessian_largest": largest, "hessian_smallest": smallest} | asdict(shares)
