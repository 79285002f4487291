"""Norms for networks whose features are no maps: of a step of a sequence, of a token."""

from collections.abc import Callable

import torch
from torch import nn

from normbench.norms.batch import BatchNorm


def of_samples(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A norm, made for maps, of features x R×M×C: each of the M counts as a sample of one position.

    So a layer or group norm is over the features of one of them, as in recurrent networks and transformers, and a batch
    norm over all M.
    """
    if isinstance(norm, nn.Identity):
        return x
    replicates, count, features = x.shape
    y = norm(x.transpose(0, 1).reshape(count, replicates * features, 1, 1))
    return y.reshape(count, replicates, features).transpose(0, 1)


class StepNorm(nn.Module):
    """The norm of what every step of a sequence gives; one with batch statistics has those of each step apart.

    γ and β are the same at all steps (Cooijmans et al. 2017, arXiv 1603.09025, §3: early steps have moments of their
    own). make: makes the norm of C features. forward: x R×M×C, and the step, counted from 0; those beyond the last take
    the last one's statistics.
    """

    def __init__(self, make: Callable[[], nn.Module], steps: int):
        super().__init__()
        norms = [make()]
        if isinstance(norms[0], BatchNorm):
            norms += [make() for _ in range(steps - 1)]
        for norm in norms[1:]:
            norm.weight, norm.bias = norms[0].weight, norms[0].bias
        self.norms = nn.ModuleList(norms)

    def forward(self, x, step: int):
        return of_samples(self.norms[min(step, len(self.norms) - 1)], x)
