"""Batch normalization with one thing changed, to tell what it works by: noisy_batch, lp_batch.

Both are experiments of Santurkar et al. 2018, arXiv 1805.11604: features whose distribution jumps at every step, and
features divided by something else than their standard deviation.
"""

import math

import torch
from torch import nn

from normbench.errors import InputError, require_choice
from normbench.norms.batch import BatchNorm
from normbench.norms.plain import Drawing, require_values

# p → the constant that makes the scale of a normal distribution its standard deviation; of the largest there is none.
SCALES = {"l1": math.sqrt(math.pi / 2), "l2": 1.0, "linf": 1.0}


class _Noisy(Drawing):
    """What draws noise and puts it on features.

    Santurkar et al. 2018, arXiv 1805.11604, algorithm 1: at each step a channel draws μ from U(−n_mean, n_mean) and σ
    from U(1, n_std), and each of its values m from U(μ−r_mean, μ+r_mean) and s from N(σ, r_std), by which x becomes
    s·x + m. Input and output N×(R·C)×…, replicate r by draws of its own. Raises InputError for a range that is none.
    """

    purpose = "noise"

    def set_noise(self, replicates: int, n_mean: float, n_std: float, r_mean: float, r_std: float) -> None:
        for key, value in {"n_mean": n_mean, "r_mean": r_mean, "r_std": r_std}.items():
            if not value >= 0:
                raise InputError(key, value, "must be a number ≥ 0")
        if not n_std >= 1:
            raise InputError("n_std", n_std, "must be a number ≥ 1: the upper end of a range that begins at 1")
        self.replicates, self.generators = replicates, None
        self.n_mean, self.n_std, self.r_mean, self.r_std = n_mean, n_std, r_mean, r_std

    def perturbed(self, x):
        """x with noise; drawn channels last, as the maps lie in memory, so that a stack draws what one alone does."""
        sizes = [x.shape[0]] + list(x.shape[2:])  # noqa: RUF005 (torch.jit.script has no unpacking)
        if torch.jit.is_scripting() or self.generators is None:
            of_channel, uniform, normal = self._drawn(x, sizes)
        else:
            of_channel, uniform, normal = self._drawn_by_replicate(x, sizes)
        mean = self.n_mean * (2 * of_channel[0] - 1) + self.r_mean * (2 * uniform - 1)
        std = 1 + (self.n_std - 1) * of_channel[1] + self.r_std * normal
        return x * std.movedim(-1, 1) + mean.movedim(-1, 1)

    def _drawn(self, x, sizes: list[int]):
        """Two numbers of U(0, 1) a channel, one a value, and one of N(0, 1) a value: 2×C, N×…×C, N×…×C."""
        channels = x.shape[1]
        of_channel = torch.rand([2, channels], dtype=x.dtype, device=x.device)
        uniform = torch.rand(sizes + [channels], dtype=x.dtype, device=x.device)  # noqa: RUF005
        return of_channel, uniform, torch.randn(uniform.shape, dtype=x.dtype, device=x.device)

    @torch.jit.unused
    def _drawn_by_replicate(self, x, sizes: list[int]):
        channels = x.shape[1] // self.replicates
        how = {"dtype": x.dtype, "device": x.device}
        parts = [
            (
                torch.rand(2, channels, generator=one, **how),
                torch.rand(*sizes, channels, generator=one, **how),
                torch.randn(*sizes, channels, generator=one, **how),
            )
            for one in self.generators
        ]
        return [torch.cat(of_all, -1) for of_all in zip(*parts, strict=True)]


class Noise(_Noisy, nn.Module):
    """Noise that moves and stretches features, differently at every step; nothing in evaluation."""

    def __init__(
        self,
        num_channels: int,
        replicates: int = 1,
        *,
        n_mean: float = 0.5,
        n_std: float = 1.25,
        r_mean: float = 0.1,
        r_std: float = 0.1,
    ):
        super().__init__()
        self.set_noise(replicates, n_mean, n_std, r_mean, r_std)

    def forward(self, x):
        return self.perturbed(x) if self.training else x


class NoisyBatchNorm(_Noisy, BatchNorm):
    """Batch normalization with noise on what it gives in training. See BatchNorm and Noise.

    Its running averages are those of the features before the noise; evaluation has none.
    """

    def __init__(
        self,
        num_features: int,
        replicates: int = 1,
        *,
        n_mean: float = 0.5,
        n_std: float = 1.25,
        r_mean: float = 0.1,
        r_std: float = 0.1,
        momentum: float = 0.1,
        eps: float = 1e-5,
        affine: bool = True,
        scale: bool = True,
        shift: bool = True,
    ):
        learned = {"affine": affine, "scale": scale, "shift": shift}
        super().__init__(num_features, replicates, eps=eps, momentum=momentum, **learned)
        self.set_noise(replicates, n_mean, n_std, r_mean, r_std)

    def normalize(self, x):
        return self.perturbed(self.by_batch(x))


def noisy_batch_norm(
    num_features: int,
    replicates: int = 1,
    *,
    normalize: bool = True,
    n_mean: float = 0.5,
    n_std: float = 1.25,
    r_mean: float = 0.1,
    r_std: float = 0.1,
    momentum: float = 0.1,
    eps: float = 1e-5,
    affine: bool = True,
    scale: bool = True,
    shift: bool = True,
):
    """The layer of norm=noisy_batch; without `normalize` the noise alone, on features as they are."""
    noise = {"n_mean": n_mean, "n_std": n_std, "r_mean": r_mean, "r_std": r_std}
    if normalize:
        learned = {"affine": affine, "scale": scale, "shift": shift}
        return NoisyBatchNorm(num_features, replicates, **noise, momentum=momentum, eps=eps, **learned)
    return Noise(num_features, replicates, **noise)


class LpBatchNorm(BatchNorm):
    """Batch normalization by an ℓp scale in place of the standard deviation: y = γ(x−μ)/√(s²+ε) + β.

    Santurkar et al. 2018, arXiv 1805.11604, §3.3. p: `l1`, s = √(π/2)·mean|x−μ|, which is the standard deviation of a
    normal distribution; `l2`, s = √mean|x−μ|², BatchNorm itself; `linf`, s = max|x−μ|; over N, H, W per channel.
    centre_first: or else the scale is taken of x, before the mean is subtracted, as the paper has it.
    `running_var` averages s²·n/(n−1) of n values. Precise statistics have for s² the mean of the batches' own and the
    variance of their means, exact for `l2` centred first. Raises InputError for another p, and as BatchNorm does.
    """

    def __init__(
        self,
        num_features: int,
        replicates: int = 1,
        *,
        p: str = "l1",
        centre_first: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
        affine: bool = True,
        scale: bool = True,
        shift: bool = True,
    ):
        learned = {"affine": affine, "scale": scale, "shift": shift}
        super().__init__(num_features, replicates, eps=eps, momentum=momentum, **learned)
        require_choice("p", p, SCALES)
        self.p, self.constant, self.centre_first = p, SCALES[p], centre_first

    def normalize(self, x):
        if not torch.jit.is_scripting():
            require_values(x.numel() // x.shape[1], "batch_size", x.shape[0], "the batch statistic of a channel")
        mean, squared = self._statistics(x)
        count = x.numel() // x.shape[1]
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(squared * (count / (count - 1)), self.momentum)
        return self._by(x, mean, squared)

    def by_own_moments(self, x):
        mean, squared = self._statistics(x)
        count = x.numel() // x.shape[1]
        moments = torch.stack([torch.full_like(mean, count), count * mean, count * (squared + mean.square())])
        return self._by(x, mean, squared), moments.double()

    def _statistics(self, x):
        """The mean and s² of each channel."""
        values = x.to(self.running_mean.dtype)  # float32 under bfloat16
        dims = [0] + list(range(2, x.dim()))  # noqa: RUF005 (torch.jit.script has no unpacking)
        mean = values.mean(dims)
        if self.centre_first:
            values = values - mean.view([1, -1] + [1] * (x.dim() - 2))
        if self.p == "l2":
            return mean, values.square().mean(dims)
        size = values.abs()
        return mean, (self.constant * (size.mean(dims) if self.p == "l1" else size.amax(dims))).square()

    def _by(self, x, mean, squared):
        shape = [1, -1] + [1] * (x.dim() - 2)
        scale = torch.rsqrt(squared + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        return torch.addcmul(shift.view(shape), x.to(scale.dtype), scale.view(shape)).to(x.dtype)
