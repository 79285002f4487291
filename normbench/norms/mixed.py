"""Statistics of the batch with those over other axes: switchable, extended_batch.

Both keep running averages for evaluation, as in batch.py.
"""

import torch
from torch import nn

from normbench.errors import require_choice
from normbench.norms.batch import BatchNorm
from normbench.norms.plain import at_least_float32, require_values


class SwitchableNorm(BatchNorm):
    """Switchable normalization: means and variances of IN, LN and BN, mixed with learned weights; γ and β.

    Luo et al. 2018, arXiv 1806.10779, equations 3 to 5. The weights are a softmax of three numbers each, of the means
    and, others, of the variances (`mean_weight`, `var_weight`: R×3, in the order IN, LN, BN; alike at the start).
    Variances are the authors' code's: that of IN is unbiased, those of LN and BN follow from it and the means, and
    `running_var`, which starts at 0, takes BN's as it is. Raises InputError on a feature map of one position.
    """

    maps_only = True

    def __init__(
        self, num_features: int, replicates: int = 1, *, momentum: float = 0.1, eps: float = 1e-5, affine: bool = True
    ):
        super().__init__(num_features, replicates, eps=eps, momentum=momentum, affine=affine)
        self.running_var.zero_()
        self.mean_weight = nn.Parameter(torch.ones(replicates, 3))
        self.var_weight = nn.Parameter(torch.ones(replicates, 3))

    @torch.jit.unused
    def added(self) -> dict[str, float]:
        return {"mean_weight": 1.0, "var_weight": 1.0}

    def forward(self, x):
        return self.normalize(x) if self.training else self._by(x, self.running_mean[None], self.running_var[None])

    def normalize(self, x):
        if x.numel() == 0:  # nothing to take a statistic of
            return self.scaled(x)
        mean, var = self._of_batch(x)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(var.to(self.running_var.dtype), self.momentum)
        return self._by(x, mean[None], var[None])

    def by_own_moments(self, x):
        mean, var = self._of_batch(x)
        count = x.numel() // x.shape[1]
        moments = torch.stack([torch.full_like(mean, count), count * mean, count * (var + mean.square())])
        return self._by(x, mean[None], var[None]), moments.double()

    @torch.jit.unused
    def by_moments(self, x, mean, var):
        return self._by(x, mean.flatten(1), var.flatten(1))

    def _of_batch(self, x):
        """BN's mean and variance, R·C each: of the samples' variances the mean, and the variance of their means."""
        mean, var = self._of_samples(x)
        return mean.mean(0), var.mean(0) + mean.var(0, correction=0)

    def _of_samples(self, x):
        """IN's mean and variance, N×(R·C) each."""
        if not torch.jit.is_scripting():
            require_values(x.shape[2] * x.shape[3], "norm", "switchable", "the statistic of a channel")
        var, mean = torch.var_mean(at_least_float32(x), [2, 3], correction=1)
        return mean, var

    def _by(self, x, mean, var):
        """x by its own statistics and those of a batch, 1×(R·C) or N×(R·C)."""
        shape = [self.replicates, self.num_channels]
        mean_in, var_in = self._of_samples(x)
        mean_in, var_in = mean_in.unflatten(1, shape), var_in.unflatten(1, shape)
        mean_ln = mean_in.mean(2, keepdim=True)
        var_ln = var_in.mean(2, keepdim=True) + mean_in.var(2, correction=0, keepdim=True)
        of_mean = torch.softmax(self.mean_weight, 1).unsqueeze(2)  # R×3×1
        of_var = torch.softmax(self.var_weight, 1).unsqueeze(2)
        mean = of_mean[:, 0] * mean_in + of_mean[:, 1] * mean_ln + of_mean[:, 2] * mean.unflatten(1, shape)
        var = of_var[:, 0] * var_in + of_var[:, 1] * var_ln + of_var[:, 2] * var.unflatten(1, shape)
        scale = torch.rsqrt(var.flatten(1) + self.eps)[:, :, None, None]
        return self.scaled((at_least_float32(x) - mean.flatten(1)[:, :, None, None]) * scale).to(x.dtype)


class ExtendedBatchNorm(BatchNorm):
    """Extended batch normalization: the mean over N, H, W, the deviation over N, C, H, W: γ(x−μ_c)/√(s²+ε) + β.

    Luo et al. 2020, arXiv 2003.05569. about: the deviation s is taken `all`, about the mean of all channels, as
    "standard deviation along N, C, H, W" says; or about each `channel`'s own. The running averages are those of
    BatchNorm, of which s² in evaluation is made. Raises InputError for another `about`, and as BatchNorm does.
    """

    maps_only = True
    ABOUT = ("all", "channel")

    def __init__(
        self,
        num_features: int,
        replicates: int = 1,
        *,
        about: str = "all",
        momentum: float = 0.1,
        eps: float = 1e-5,
        affine: bool = True,
    ):
        super().__init__(num_features, replicates, eps=eps, momentum=momentum, affine=affine)
        require_choice("about", about, self.ABOUT)
        self.about = about

    def forward(self, x):
        return self.normalize(x) if self.training else self._by(x, self.running_mean[None], self.running_var[None])

    def normalize(self, x):
        if x.numel() == 0:  # nothing to take a statistic of
            return self.scaled(x)
        count = x.numel() // x.shape[1]
        if not torch.jit.is_scripting():
            require_values(count, "batch_size", x.shape[0], "the batch statistic of a channel")
        var, mean = torch.var_mean(at_least_float32(x), [0, 2, 3], correction=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((var * (count / (count - 1))).to(self.running_var.dtype), self.momentum)
        return self._by(x, mean[None], var[None])

    def by_own_moments(self, x):
        _, moments = super().by_own_moments(x)
        var, mean = torch.var_mean(at_least_float32(x), [0, 2, 3], correction=0)
        return self._by(x, mean[None], var[None]), moments

    @torch.jit.unused
    def by_moments(self, x, mean, var):
        return self._by(x, mean.flatten(1), var.flatten(1))

    def _by(self, x, mean, var):
        """x by the moments of its channels, 1×(R·C) or N×(R·C)."""
        shape = [self.replicates, self.num_channels]
        square = var.unflatten(1, shape).mean(2)
        if self.about == "all":
            square = square + mean.unflatten(1, shape).var(2, correction=0)
        scale = torch.rsqrt(square + self.eps).repeat_interleave(self.num_channels, 1)
        return self.scaled((at_least_float32(x) - mean[:, :, None, None]) * scale[:, :, None, None]).to(x.dtype)
