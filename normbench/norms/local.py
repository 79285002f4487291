"""Less than mean and variance, or of less than a map: rms, dyt, divisive. Each image alone, whatever the batch."""

import torch
from torch import nn
from torch.nn import functional as F

from normbench.errors import InputError, require_choice
from normbench.norms.plain import Norm, ScaleShift, at_least_float32, require_epsilon, require_values


class RMSNorm(Norm):
    """Division by the root mean square: γx/√(mean x² + ε). No mean is subtracted, and there is no shift.

    Zhang & Sennrich 2019, arXiv 1910.07467, equation 4. over: `position`, the mean is over C, per sample and (h, w);
    `sample`, over C, H, W. Input and output N×(R·C)×H×W. Raises InputError for another `over`.
    """

    OVER = ("position", "sample")

    def __init__(
        self,
        num_channels: int,
        replicates: int = 1,
        *,
        over: str = "position",
        eps: float = 1e-6,
        affine: bool = True,
    ):
        super().__init__(num_channels, replicates, eps, affine)
        require_choice("over", over, self.OVER)
        self.over, self.bias = over, None

    def forward(self, x):
        values = at_least_float32(x).unflatten(1, [self.replicates, self.num_channels])
        dims = [2] if self.over == "position" else [2, 3, 4]
        y = values * torch.rsqrt(values.square().mean(dims, keepdim=True) + self.eps)
        return self.scaled(y.flatten(1, 2)).to(x.dtype)


class DynamicTanh(ScaleShift):
    """Dynamic tanh: γ·tanh(αx) + β, without a statistic. α: one scalar a layer (and replicate), learned from `alpha`.

    Zhu et al. 2025, arXiv 2503.10622, equation 3; theirs are transformers, and ConvNeXt. Raises InputError for a start
    of α that a float32 does not hold, or 0, at which nothing would pass.
    """

    def __init__(self, num_channels: int, replicates: int = 1, *, alpha: float = 0.5, affine: bool = True):
        super().__init__(num_channels, replicates, affine=affine)
        require_epsilon("alpha", alpha)
        self.start = float(alpha)
        self.alpha = nn.Parameter(torch.full((replicates,), self.start))

    @torch.jit.unused
    def added(self) -> dict[str, float]:
        return {"alpha": self.start}

    def forward(self, x):
        alpha = self.alpha.repeat_interleave(self.num_channels).view(1, -1, 1, 1)
        return self.scaled(torch.tanh(alpha * x)).to(x.dtype)


class DivisiveNorm(ScaleShift):
    """Divisive normalization: γ·v/√(σ² + local mean of v²) + β, v = x less its local mean.

    Ren et al. 2017, arXiv 1611.04520, equation 4; after Lyu & Simoncelli 2008. A local mean is over all channels and a
    window×window of positions, of which those beyond the border count as zeros, as in the authors' code. With window=1
    and σ² for ε it is layer2d. Raises InputError for an even window, and for a σ that is not positive.
    """

    def __init__(
        self, num_channels: int, replicates: int = 1, *, window: int = 5, sigma: float = 0.5, affine: bool = True
    ):
        if window < 1 or window % 2 == 0:
            raise InputError("window", window, "must be an odd integer ≥ 1: positions, with one in the middle")
        require_epsilon("sigma", sigma)
        super().__init__(num_channels, replicates, affine=affine)
        self.window, self.sigma = window, sigma

    def forward(self, x):
        if not torch.jit.is_scripting():
            values = self.num_channels * self.window**2
            require_values(values, "num_channels", self.num_channels, "the statistic of a position")
        values = at_least_float32(x).unflatten(1, [self.replicates, self.num_channels])
        centred = values - self.local(values.mean(2)).unsqueeze(2)
        squares = self.local(centred.square().mean(2)).unsqueeze(2)
        return self.scaled((centred * torch.rsqrt(squares + self.sigma**2)).flatten(1, 2)).to(x.dtype)

    def local(self, maps):
        """The mean of each window, N×R×H×W."""
        return F.avg_pool2d(maps, self.window, stride=1, padding=self.window // 2)
