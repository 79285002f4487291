"""What the machine does at its best: a matrix product, and copying."""

import time
from collections.abc import Callable

import torch

SIDE = 768  # of the matrices
AGAIN = 10  # products and copies, of which the best counts


def matrix_product(device: str = "cpu") -> float:
    """Operations a second of the best of some matrix products; on a GPU of larger ones, in bfloat16."""
    side, dtype = (SIDE, torch.float32) if device == "cpu" else (10 * SIDE, torch.bfloat16)
    a, b = torch.randn(2, side, side, dtype=dtype, device=device)
    return 2 * side**3 / least(lambda: a @ b, device)


def copying(count: int) -> float:
    """Bytes a second, read and written, of the best of some copies of as many floats."""
    a, b = torch.zeros(2, count)
    return 8 * count / least(lambda: b.copy_(a))


def least(call: Callable, device: str = "cpu") -> float:
    """Seconds of the shortest of some calls."""
    times = []
    for _ in range(AGAIN):
        start = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)
