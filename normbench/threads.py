"""CPU threads of a run."""

import torch

TORCHS_CHOICE = torch.get_num_threads()  # read before any run sets its own


def cpu_threads(config) -> int:
    """CPU threads of a run. torch's choice already follows OMP_NUM_THREADS."""
    return config.threads or TORCHS_CHOICE
