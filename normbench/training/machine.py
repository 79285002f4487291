"""What a run takes of the machine: its threads, its memory."""

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

TORCHS_CHOICE = torch.get_num_threads()  # read before any run sets its own


def cpu_threads(config) -> int:
    """CPU threads of a run. torch's choice already follows OMP_NUM_THREADS."""
    return config.threads or TORCHS_CHOICE


def make_ready(config, device: str) -> None:
    """Set torch's threads and determinism as a resolved configuration has them, and measure the memory anew."""
    torch.set_num_threads(cpu_threads(config))
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    # As use_deterministic_algorithms, which loads torch's compiler to tell it: a second at every start.
    torch.set_deterministic_debug_mode("error" if config.deterministic else "default")
    forget_peak_memory(device)


def forget_peak_memory(device: str) -> None:
    """Start measuring anew: earlier runs of this process must not count. (Linux and CUDA can, others cannot.)"""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError), open("/proc/self/clear_refs", "wb") as file:
        file.write(b"5")


def peak_memory_mb(device: str) -> float:
    """Of the device's memory on CUDA, else the largest resident size of this process, torch itself included."""
    if device != "cpu":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10, 1)
    except (OSError, StopIteration):
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
