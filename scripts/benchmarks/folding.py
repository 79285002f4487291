"""What evaluation gains where batch normalization is folded into the convolutions before it."""

import statistics
import time

import torch
from benchmarks.side_by_side import WARM_UP, in_turns, ratio

from normbench.kernels.native import Native
from normbench.models import build_model
from normbench.norms import Layers, fold

PASSES = 10
IMAGES = 200  # of a forward pass, as evaluation on the CPU has them
CASES = (("resnet8", {}), ("resnet20", {}), ("vgg", {}), ("resnet18", {"width": 32}))


def rows(kernels: tuple[str, ...], rounds: int) -> list[dict]:
    """A row a network and kernels: milliseconds of a forward pass as it is and folded."""
    return [row for name, options in CASES for row in of_network(name, options, kernels, rounds)]


def of_network(name: str, options: dict, kernels: tuple[str, ...], rounds: int) -> list[dict]:
    model = build_model(name, Layers("batch"), **options).eval()
    x = torch.randn(IMAGES, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    found = []
    for which in kernels:
        forwards = {"as it is": model, "folded": fold(model)}
        if which == "native":
            forwards = {key: Native(one, 1) for key, one in forwards.items()}
        those = {key: (lambda one=one: passes(one, x), 1) for key, one in forwards.items()}
        times = in_turns(f"{name}, {which}", those, rounds)
        plain, folded = (1000 * statistics.median(times[key]) for key in forwards)
        gain = ratio(times["as it is"], times["folded"])
        found.append({"network": name, "kernels": which, "ms_plain": plain, "ms_folded": folded, "gain": gain})
    return found


@torch.no_grad()
def passes(forward, x) -> list[float]:
    """The moments after some forward passes."""
    moments = []
    for _ in range(WARM_UP + PASSES):
        forward(x)
        moments.append(time.perf_counter())
    return moments
