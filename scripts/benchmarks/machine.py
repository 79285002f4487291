"""What the machine does at its best: a matrix product, and copying."""

import time
from collections.abc import Callable

import torch

SIDE = 768  # of the matrices
AGAIN = 10  # products and copies, of which the best counts


def matrix_product() -> float:
    """Operations a second of the best of some matrix products."""
    a, b = torch.randn(2, SIDE, SIDE)
    return 2 * SIDE**3 / least(lambda: a @ b)


def copying(count: int) -> float:
    """Bytes a second, read and written, of the best of some copies of as many floats."""
    a, b = torch.zeros(2, count)
    return 8 * count / least(lambda: b.copy_(a))


def least(call: Callable) -> float:
    """Seconds of the shortest of some calls."""
    times = []
    for _ in range(AGAIN):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
