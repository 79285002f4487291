"""Gradients at initialization: how large, how heavy in the tails, and what grows with depth.

After Bjorck et al. 2018, arXiv 1806.02375: of one forward and one backward pass of each seed's network on its first
batch. No number is pooled over seeds: the mixture of several scales would have tails that none of them has.

A layer is a convolution, counted from 1 in the order of the network, the 1×1 ones of shortcuts left out (He et al. 2015
count likewise). Its output is what the convolution gives, before any normalization: mean and standard deviation of a
normalized output are what γ and β say, whatever the network, and could not grow.
"""

import time

import torch
from torch import nn

from normbench.errors import InputError
from normbench.measures.alike import significant, with_cost
from normbench.measures.start import each_at_start, looked_at
from normbench.norms.plain import Conv2d
from normbench.records.metrics import BEYOND, BINS, TAILS
from normbench.tasks.build import check_network, make_model
from normbench.tasks.classify import batch_loss

DIGITS = 5  # significant ones, of a row


def check(config, processes: int) -> None:
    """Raises InputError as a training would, and for a layer that the network does not have."""
    check_network(config, processes)
    with torch.random.fork_rng(devices=[]):
        of = len(convolutions(make_model(config, [0])))
    if not 0 <= config.measure.layer <= of:
        wrong = f"must be an integer from 1 to {of}, the convolutions of model={config.model.name}, or 0"
        raise InputError("measure.layer", config.measure.layer, wrong)


def measure(config, task, session) -> tuple[list[dict], list[dict]]:
    """An entry a seed: of the chosen layer, of the growth with depth, of the logits; and a row a layer and seed."""
    started = time.perf_counter()
    entries, rows = [], []
    for seed, start in each_at_start(config, task, session):
        layers, logits = observe(*start, config.augment.label_smoothing, config.measure.layer)
        chosen = layers[middle(len(layers)) if config.measure.layer == 0 else config.measure.layer - 1]
        told = {name: chosen[name] for name in (*TAILS, *(f"output_{name}" for name in TAILS))}
        growth = {f"channel_{of}_slope": slope([layer[f"channel_{of}"] for layer in layers]) for of in ("mean", "std")}
        entries.append({"seed": seed, "status": "finished"} | told | growth | {"class_share": class_share(*logits)})
        rows += [{"seed": seed} | {name: _rounded(value) for name, value in layer.items()} for layer in layers]
    return with_cost(entries, started), rows


def convolutions(model: nn.Module) -> list[Conv2d]:
    """The layers of a network, in its order."""
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, Conv2d) and "shortcut" not in name.split(".")
    ]


def middle(count: int) -> int:
    """The place of the middle one of so many, counted from 0."""
    return (count - 1) // 2


def observe(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0, layer: int = 0):
    """One pass over a batch: (a row a layer, (gradient by the logits N×K, labels)).

    model: of one replicate, looked at in training mode. x: inputs N×3×H×W, labels: N. layer: counted from 1, the one
    whose rows have the counts of a histogram; 0: the middle one.
    What a gradient by an output comes to is taken as it passes: all of them would be as large as the network's outputs.
    """
    layers = convolutions(model)
    close = layers[middle(len(layers)) if layer == 0 else layer - 1]
    rows: dict[Conv2d, dict] = {one: {"layer": number} for number, one in enumerate(layers, 1)}
    logits = []

    def watch(one, _, output):
        rows[one] |= channel_moments(output.detach())
        output.register_hook(lambda gradient: rows[one].update(_named("output_", gradient, one is close)))

    def watch_logits(_, __, output):
        output.register_hook(lambda gradient: logits.append(gradient[0]))

    hooks = [*(one.register_forward_hook(watch) for one in layers), model.register_forward_hook(watch_logits)]
    try:
        with looked_at(model):
            batch_loss(model, x, labels, label_smoothing).backward()
    finally:
        for hook in hooks:
            hook.remove()
    for one, row in rows.items():
        row |= _named("", one.weight.grad, one is close)
    model.zero_grad()
    return list(rows.values()), (logits[0], labels)


def _named(before: str, gradient: torch.Tensor, counted: bool) -> dict:
    """What a gradient comes to, by the columns of a row. counted: with the counts of its histogram."""
    found = tails(gradient) | ({"counts": counts(gradient)} if counted else {})
    return {f"{before}{name}": value for name, value in found.items()}


def tails(values: torch.Tensor) -> dict[str, float | None]:
    """How far values spread and how heavy their tails are, in float64 and by the biased moments.

    grad_std: standard deviation. grad_tails: kurtosis, the fourth moment over the square of the second: 3 of a normal
    distribution. grad_max: the largest magnitude over the standard deviation. grad_beyond_5: share of the magnitudes
    beyond 5 standard deviations, in percent. All but the first are None where all values are the same.
    """
    values = values.detach().double().flatten()
    squares = (values - values.mean()).square()
    variance = squares.mean()
    std = variance.sqrt()
    if variance == 0:
        return {"grad_std": 0.0} | dict.fromkeys(TAILS[1:])
    found = (
        std,
        (squares / variance).square().mean(),
        values.abs().max() / std,
        100 * (values.abs() > BEYOND * std).double().mean(),
    )
    return dict(zip(TAILS, map(torch.Tensor.item, found), strict=True))


def counts(values: torch.Tensor) -> str | None:
    """How many values lie below, in and above the bins, whose edges are in units of the standard deviation."""
    values = values.detach().double().flatten()
    std = values.std(correction=0)
    if std == 0:
        return None
    places = torch.bucketize(values / std, torch.tensor(BINS, dtype=values.dtype, device=values.device))
    return " ".join(map(str, places.bincount(minlength=len(BINS) + 1).tolist()))


def channel_moments(output: torch.Tensor) -> dict[str, float]:
    """Of N×C×H×W: the mean magnitude of the channels' means, and the mean of their standard deviations (biased)."""
    std, mean = torch.std_mean(output.double(), (0, 2, 3), correction=0)
    return {"channel_mean": mean.abs().mean().item(), "channel_std": std.mean().item()}


def slope(values: list[float]) -> float | None:
    """The slope of log10 of positive values per 10 layers, by least squares over all layers; None without one."""
    y = torch.tensor(values, dtype=torch.float64).log10()
    x = torch.arange(len(values), dtype=torch.float64) / 10
    if len(values) < 2 or not y.isfinite().all():
        return None
    x = x - x.mean()
    return ((x * y).sum() / x.square().sum()).item()


def class_share(by_logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The share, in percent, of the batch's squared gradient that lies on one class, the one with the largest.

    by_logits: N×K, (softmax − one-hot)/N without label smoothing. Of the classes alone that an image does not show:
    with its own, whose entry is minus the sum of the others, no class could have more than half of an image's square.
    """
    others = by_logits.detach().double().square()
    of_classes = others.scatter(1, labels.unsqueeze(1), 0).sum(0)
    return (100 * of_classes.max() / of_classes.sum()).item()


def _rounded(value):
    return significant(value, DIGITS) if isinstance(value, float) else value
