"""How normal features are, before and after the norms of a network: at initialization, or trained.

Of each channel one value an image, at a position that is drawn anew for every image and layer: neighbours are alike,
and a test that took them for independent would reject whatever it is given. On those values D'Agostino and Pearson's
K² (scipy.stats.normaltest); all channels of a network are corrected together (Holm). With enough values any test
rejects, so their number is fixed, and the effect is told beside it: skewness and excess kurtosis, 0 of a normal
distribution. Of 500 normal values their magnitudes are about 0.09 and 0.17 by chance.

A norm with batch statistics is an affine map of a channel, whose shape it leaves as it is: skewness (but for the sign
of γ), kurtosis and K² before and after it are the same numbers. Only statistics of fewer values than those of the
channel, an image's own, can change them.
"""

import time

import numpy as np
import torch
from scipy import stats
from torch import nn

from normbench.analysis.statistics import holm
from normbench.config.sizes import train_images
from normbench.errors import InputError
from normbench.measures.alike import significant, with_cost
from normbench.measures.gradients import convolutions
from normbench.measures.start import looked_at
from normbench.measures.trained import begun
from normbench.norms.plain import Norm
from normbench.random import derive
from normbench.records.metrics import GAUSSIAN
from normbench.tasks.build import check_network

FEWEST = 20  # values, below which the test's approximation of the kurtosis is none
LEVEL = 0.01  # at which a channel is told from a normal one
DIGITS = 6  # significant ones, of a row


def check(config, processes: int) -> None:
    """Raises InputError as a training would, and for a number of images that cannot be."""
    check_network(config, processes)
    images, there = config.measure.images, train_images(config)
    if not FEWEST <= images <= there:
        wrong = f"must be an integer from {FEWEST} to {there}, the images of the training split"
        raise InputError("measure.images", images, wrong)


def measure(config, task, session) -> tuple[list[dict], list[dict]]:
    """An entry a seed: the share of channels that are not normal, skewness and excess kurtosis, after the norms and
    before them; and a row a layer, place and seed."""
    started = time.perf_counter()
    network = begun(config, task, session)
    with network.precision():
        seen = observe(network.model, task.first_inputs(config.measure.images), task.seeds)
    entries, rows = [], []
    for index, seed in enumerate(task.seeds):
        places = {place: [_of_replicate(one, index) for one in layers] for place, layers in seen.items()}
        lost = network.lost[index].item() or not all(np.isfinite(one["variance"]).all() for one in places["after"])
        told = dict.fromkeys(outcome.name for outcome in GAUSSIAN) if lost else _told(places)
        entries.append({"seed": seed, "status": "diverged" if lost else "finished"} | told)
        rows += [] if lost else _rows(seed, places)
    return with_cost(entries, started), rows


@torch.no_grad()
def observe(model: nn.Module, x: torch.Tensor, seeds) -> dict[str, list[dict[str, np.ndarray]]]:
    """`before` and `after` → of each norm, in the order of the network, by replicate: `values`, R×N×C, one an image,
    and `mean` and `variance` (biased), R×C, over images and positions.

    One pass in training mode, by the statistics of x, N×(R·3)×H×W; the running averages are as before. Where nothing is
    normalized both are of what the convolutions give. seeds: R, which draw the positions. Shortcuts are left out.
    """
    norms = [one for name, one in model.named_modules() if isinstance(one, Norm) and "shortcut" not in name.split(".")]
    seen: dict[str, list] = {"before": [], "after": []}

    def watch(_, given, output):
        number = len(seen["after"])
        seen["before"].append(_seen(given[0] if norms else output, seeds, number))
        seen["after"].append(_seen(output, seeds, number) if norms else seen["before"][-1])

    hooks = [module.register_forward_hook(watch) for module in norms or convolutions(model)]
    try:
        with looked_at(model):
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _seen(maps: torch.Tensor, seeds, layer: int) -> dict[str, np.ndarray]:
    """What of a layer's maps, N×(R·C)×H×W, is looked at."""
    maps = maps.flatten(2).unflatten(1, (len(seeds), -1)).transpose(0, 1).double().cpu()  # R×N×C×HW
    variance, mean = torch.var_mean(maps, (1, 3), correction=0)
    values = []
    for seed, mine in zip(seeds, maps, strict=True):
        generator = torch.Generator().manual_seed(derive(seed, "positions", layer))
        at = torch.randint(maps.shape[3], (maps.shape[1], 1, 1), generator=generator)
        values.append(mine.gather(2, at.expand(-1, maps.shape[2], 1)).squeeze(2))
    return {"values": torch.stack(values).numpy(), "mean": mean.numpy(), "variance": variance.numpy()}


def _of_replicate(layer: dict[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
    """A layer of one replicate: its moments, and the shape of its values."""
    return {"mean": layer["mean"][index], "variance": layer["variance"][index]} | shape(layer["values"][index])


def shape(values: np.ndarray) -> dict[str, np.ndarray]:
    """Of each channel of values n×C: `skewness` and `excess` kurtosis (biased moments) and the `p` of K²; NaN where all
    its values are the same. n ≥ 20."""
    vary = np.ptp(values, axis=0) > 0
    found = {name: np.full(values.shape[1], np.nan) for name in ("skewness", "excess", "p")}
    if vary.any():
        some = values[:, vary]
        found["skewness"][vary], found["excess"][vary] = stats.skew(some), stats.kurtosis(some)
        found["p"][vary] = stats.normaltest(some).pvalue
    return found


def _told(places: dict[str, list[dict]]) -> dict[str, float | None]:
    """The outcomes: over all channels of the network, of those that vary."""
    told = {}
    for place, end in (("after", ""), ("before", "_before")):
        skewness, excess, p = (
            np.concatenate([one[key] for one in places[place]]) for key in ("skewness", "excess", "p")
        )
        vary = np.isfinite(p)
        told[f"rejected{end}"] = 100 * float(np.mean(holm(p[vary]) <= LEVEL)) if vary.any() else None
        told[f"skewness{end}"] = float(np.abs(skewness[vary]).mean()) if vary.any() else None
        told[f"excess_kurtosis{end}"] = float(np.abs(excess[vary]).mean()) if vary.any() else None
    return told


def _rows(seed: int, places: dict[str, list[dict]]) -> list[dict]:
    """mean: the largest magnitude of a channel's; the others: means over the channels, skewness and excess of their
    magnitudes. channels: that vary."""
    rows = []
    for place, layers in places.items():
        for number, one in enumerate(layers, 1):
            vary = np.isfinite(one["p"])
            numbers = {"mean": np.abs(one["mean"]).max(), "variance": one["variance"].mean()}
            if vary.any():
                numbers |= {key: np.abs(one[key][vary]).mean() for key in ("skewness", "excess")}
            numbers = {name: significant(value, DIGITS) for name, value in numbers.items()}
            rows.append({"seed": seed, "layer": number, "place": place, "channels": int(vary.sum())} | numbers)
    return rows
