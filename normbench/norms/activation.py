"""Norm and activation in one layer: frn, evonorm_s0, evonorm_b0, proxy.

Each has a layer for where an activation follows, and one for where none does: the end of a residual branch, whose
activation is the one after the sum.
"""

import torch
from torch import nn

from normbench.norms.batch import BatchNorm
from normbench.norms.plain import Norm, ScaleShift, at_least_float32, require_epsilon, require_values
from normbench.norms.sample import GroupNorm

LEARNED_EPS = 1e-4  # where |ε| starts that is learned


class FilterResponse(Norm):
    """Filter response normalization without its activation: γx/√(ν²+ε) + β, ν² the mean of x² over H, W.

    Singh & Krishnan 2019, arXiv 1911.09737, equations 1 and 2: per sample and channel, no mean subtracted. learn_eps:
    one |ε| a replicate is learned beside the fixed one, for maps of one position, where the sign alone would be left.
    Input and output N×(R·C)×H×W.
    """

    def __init__(self, num_channels: int, replicates: int = 1, *, eps: float = 1e-6, learn_eps: bool = False):
        super().__init__(num_channels, replicates, eps, affine=True)
        self.learned_eps = nn.Parameter(torch.full((replicates,), LEARNED_EPS)) if learn_eps else None

    def forward(self, x):
        values = at_least_float32(x)
        squares = values.square().mean((2, 3), keepdim=True) + self.eps
        if self.learned_eps is not None:
            squares = squares + self.learned_eps.abs().repeat_interleave(self.num_channels).view(1, -1, 1, 1)
        return self.activated(self.scaled(values * torch.rsqrt(squares))).to(x.dtype)

    def activated(self, y):
        return y


class FilterResponseThreshold(FilterResponse):
    """With its activation, the thresholded linear unit: max(y, τ), τ learned per channel from 0 (equation 3)."""

    def __init__(self, num_channels: int, replicates: int = 1, *, eps: float = 1e-6, learn_eps: bool = False):
        super().__init__(num_channels, replicates, eps=eps, learn_eps=learn_eps)
        self.tau = nn.Parameter(torch.zeros(replicates * num_channels))

    def activated(self, y):
        return torch.maximum(y, self.tau.view(1, -1, 1, 1))


class EvoNormS0(GroupNorm):
    """EvoNorm-S0: γ·x·σ(vx)/√(s²+ε) + β, σ the sigmoid, s² the variance of a group of channels, per sample.

    Liu et al. 2020, arXiv 2004.02967, table 2. v: learned per channel, 1 at the start. The mean is not subtracted.
    The authors' layer without an activation is γx+β, which normalizes nothing, and so it is here (`ScaleShift`).
    Raises InputError if num_groups does not divide num_channels.
    """

    def __init__(
        self, num_channels: int, replicates: int = 1, *, num_groups: int = 8, eps: float = 1e-5, affine: bool = True
    ):
        super().__init__(num_channels, replicates, num_groups=num_groups, eps=eps, affine=affine)
        self.v = nn.Parameter(torch.ones(replicates * num_channels))

    def forward(self, x):
        values = at_least_float32(x)
        grouped = values.unflatten(1, (self.replicates * self.num_groups, -1))
        require_values(grouped[0, 0].numel(), "num_groups", self.num_groups, "the statistic of a group of channels")
        var = grouped.var((2, 3, 4), correction=0, keepdim=True)
        gated = values * torch.sigmoid(values * self.v.view(1, -1, 1, 1))
        y = (gated.view_as(grouped) * torch.rsqrt(var + self.eps)).flatten(1, 2)
        return self.scaled(y).to(x.dtype)


class EvoNormB0(BatchNorm):
    """EvoNorm-B0: γ·x/max(√(s²_batch+ε), vx + √(s²_image+ε)) + β.

    Liu et al. 2020, arXiv 2004.02967, table 2. s²_batch: the variance over N, H, W, in evaluation the running average;
    s²_image: over H, W. v: learned per channel, 1 at the start. The mean is not subtracted, and `running_mean` stays 0.
    Where no activation follows: as EvoNormS0. Raises InputError as BatchNorm does.
    """

    maps_only = True

    def __init__(
        self, num_features: int, replicates: int = 1, *, momentum: float = 0.1, eps: float = 1e-3, affine: bool = True
    ):
        super().__init__(num_features, replicates, eps=eps, momentum=momentum, affine=affine)
        self.v = nn.Parameter(torch.ones(replicates * num_features))

    def forward(self, x):
        return self.normalize(x) if self.training else self._by(x, self.running_var.view(1, -1, 1, 1))

    def normalize(self, x):
        count = x.numel() // x.shape[1]
        require_values(count, "batch_size", x.shape[0], "the batch statistic of a channel")
        var = self._of_batch(x)
        with torch.no_grad():
            unbiased = var.flatten() * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return self._by(x, var)

    def by_own_moments(self, x):
        _, moments = super().by_own_moments(x)
        return self._by(x, self._of_batch(x)), moments

    def by_moments(self, x, mean, var):
        return self._by(x, var)

    def _of_batch(self, x):
        return at_least_float32(x).var((0, 2, 3), correction=0, keepdim=True)

    def _by(self, x, var):
        values = at_least_float32(x)
        of_image = values.var((2, 3), correction=0, keepdim=True)
        other = values * self.v.view(1, -1, 1, 1) + torch.sqrt(of_image + self.eps)
        return self.scaled(values / torch.maximum(torch.sqrt(var + self.eps), other)).to(x.dtype)


def scale_shift(num_channels: int, replicates: int = 1, *, affine: bool = True):
    """EvoNorm where no activation follows."""
    return ScaleShift(num_channels, replicates, affine=affine)


class ProxyNorm(GroupNorm):
    """Layer or group normalization y whose activation is normalized by that of a proxy: (φ(γy+β) − m)/√(s²+proxy_eps).

    Labatie et al. 2021, arXiv 2106.03743, §5. m and s² are the mean and the variance of φ(γỹ+β) for ỹ of N(0, 1), per
    channel: what φ(γy+β) has if y is normal. They are taken over QUANTILES of its quantiles, and depend on γ and β
    alone, so on no image. φ: the network's activation; act makes it. Here the proxy is N(0, 1) for good.
    Raises InputError if num_groups does not divide num_channels.
    """

    QUANTILES = 256

    def __init__(
        self,
        num_channels: int,
        replicates: int = 1,
        *,
        num_groups: int = 1,
        eps: float = 1e-5,
        proxy_eps: float = 0.03,
        act=nn.ReLU,
    ):
        super().__init__(num_channels, replicates, num_groups=num_groups, eps=eps)
        require_epsilon("proxy_eps", proxy_eps)
        self.proxy_eps, self.act = proxy_eps, act()

    def forward(self, x):
        z = self.act(super().forward(x))
        ranks = torch.arange(self.QUANTILES, device=x.device, dtype=torch.float64)
        proxy = torch.special.ndtri((ranks + 0.5) / self.QUANTILES).to(self.weight.dtype)
        of_proxy = self.act(self.weight[:, None] * proxy + self.bias[:, None])
        var, mean = torch.var_mean(of_proxy, 1, correction=0)
        scale = torch.rsqrt(var + self.proxy_eps).view(1, -1, 1, 1)
        return ((at_least_float32(z) - mean.view(1, -1, 1, 1)) * scale).to(x.dtype)


def without_proxy(num_channels: int, replicates: int = 1, *, num_groups: int = 1, eps: float = 1e-5):
    """Proxy normalization where no activation follows: there is nothing whose proxy could be taken."""
    return GroupNorm(num_channels, replicates, num_groups=num_groups, eps=eps)
