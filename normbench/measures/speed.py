"""Whether numbers that are normalized make matrix products faster: the time of a product over the scale of its inputs.

A multiplication of floating-point numbers takes as long whatever they are, but for subnormal ones: those below 2⁻¹²⁶ in
float32, which many processors hand to a slow path, unless they are told to take them for 0. Inputs of the scale and
inputs of scale 1, otherwise the same numbers, are multiplied in turn, so that what else the machine does falls on both.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch.nn import functional as F

from normbench.errors import InputError, require_choice
from normbench.measures.alike import require_least, with_cost
from normbench.random import derive

OPERATIONS = ("matmul", "conv")
WARM_UP = 3  # passes that are not timed
CHANNELS, IMAGES = 64, 8  # of the convolution
SMALLEST_NORMAL = torch.finfo(torch.float32).tiny


def check(config, processes: int) -> None:
    """Raises InputError for an operation that there is not, and for sizes, scales and counts that cannot be."""
    how = config.measure
    require_choice("measure.operation", how.operation, OPERATIONS)
    if how.size < 16 or how.size % 16:
        raise InputError("measure.size", how.size, "must be a multiple of 16, at least 16")
    if not how.scale > 0:
        raise InputError("measure.scale", how.scale, "must be a number > 0")
    require_least(config, passes=1)


def measure(config, task, session) -> tuple[list[dict], list[dict]]:
    """An entry a seed: median time at the scale, its ratio to that at scale 1, and the share of subnormal inputs; and a
    row a pass. A seed draws the numbers."""
    started, how = time.perf_counter(), config.measure
    session.begin(task.seeds, len(task.seeds), 0)
    entries, rows = [], []
    for seed in task.seeds:
        product, x = operands(how.operation, how.size, seed, task.device)
        scaled = x * how.scale
        with flushing(how.flush_denormal):
            times = timed(product, scaled, x, how.passes, task.device)
        entries.append({"seed": seed, "status": "finished"} | told(times) | {"subnormal": subnormal(scaled)})
        rows += [
            {"seed": seed, "pass": number, "ms": round(ms, 5), "reference_ms": round(reference, 5)}
            for number, (ms, reference) in enumerate(times, 1)
        ]
        session.step(0, lambda: None)
    return with_cost(entries, started), rows


def operands(operation: str, size: int, seed: int, device: str) -> tuple[Callable, torch.Tensor]:
    """The product as a function of its inputs, and those at scale 1, in float32. Weights have He's variance by half:
    what comes out is of the inputs' scale."""
    generator = torch.Generator().manual_seed(derive(seed, "speed"))
    if operation == "matmul":
        x, weights = (torch.randn(size, size, generator=generator) for _ in range(2))
        weights = (weights / size**0.5).to(device)
        return lambda given: given @ weights, x.to(device)
    side = size // 16
    x = torch.randn(IMAGES, CHANNELS, side, side, generator=generator)
    weights = (torch.randn(CHANNELS, CHANNELS, 3, 3, generator=generator) / (9 * CHANNELS) ** 0.5).to(device)
    return lambda given: F.conv2d(given, weights, padding=1), x.to(device)


@torch.no_grad()
def timed(product: Callable, x: torch.Tensor, reference: torch.Tensor, passes: int, device: str) -> list[tuple]:
    """(milliseconds of x, of the reference) of each pass, in an order that changes from pass to pass."""
    for _ in range(WARM_UP):
        product(x), product(reference)
    found = []
    for number in range(passes):
        pair = ((x, 0), (reference, 1))
        took = [0.0, 0.0]
        for given, place in pair if number % 2 else pair[::-1]:
            took[place] = _milliseconds(lambda given=given: product(given), device)
        found.append(tuple(took))
    return found


def _milliseconds(work: Callable, device: str) -> float:
    def now():
        if device != "cpu":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    started = now()
    work()
    return 1000 * (now() - started)


def told(times: list[tuple]) -> dict[str, float]:
    """The outcomes of the passes: medians, which no interruption moves, and their ratio."""
    ms, reference = (statistics.median(one) for one in zip(*times, strict=True))
    return {"slowdown": ms / reference, "product_ms": ms}


def subnormal(x: torch.Tensor) -> float:
    """The share, in percent, of the numbers that are subnormal in float32: not 0, and smaller than any normal one."""
    magnitudes = x.abs().double()
    return 100 * ((magnitudes > 0) & (magnitudes < SMALLEST_NORMAL)).double().mean().item()


def flushes() -> bool:
    """Whether this thread takes subnormal numbers for 0."""
    return (torch.full((16,), SMALLEST_NORMAL) / 2).eq(0).all().item()


@contextmanager
def flushing(wanted: bool):
    """The state that is wanted, and afterwards the one that was. Raises InputError where the processor has none."""
    before = flushes()
    if wanted != before and not torch.set_flush_denormal(wanted):
        raise InputError("measure.flush_denormal", wanted, "this processor cannot take subnormal numbers for 0")
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
