"""The layers every method starts from, each able to hold R replicates side by side.

The replicate axis. R replicates (seeds) train as ONE network: a feature map of C channels is a tensor N×(R·C)×H×W whose
channels r·C … (r+1)·C−1 belong to replicate r. Every parameter and buffer carries the replicates outermost in its first
axis, so that stacking R networks is `torch.cat` over their state dicts, and taking one out is `chunk`.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from normbench.errors import InputError

FLOAT32 = torch.finfo(torch.float32)


class Filters:
    """What a layer multiplies with is `filters()`, made from its parameters: the hook of every weight normalization.

    They start by chance, as `draw` has it; a `bias`, where there is one, at 0.
    """

    @torch.jit.unused
    def draw(self, weight: torch.Tensor, generator: torch.Generator, gain: float) -> torch.Tensor:
        """Fill the weight of one replicate, and return it. gain: √2 or 1, as the activation wants it."""
        raise NotImplementedError

    def filters(self) -> torch.Tensor:
        return self.weight

    @torch.jit.unused
    def parameters_for(self, filters: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parameters with which `filters()` gives these."""
        return {"weight": filters}

    @torch.jit.unused
    @torch.no_grad()
    def set_filters(self, filters: torch.Tensor) -> None:
        """Start from these filters (initialization)."""
        for name, value in self.parameters_for(filters).items():
            getattr(self, name).copy_(value)


class Conv2d(Filters, nn.Conv2d):
    """torch's convolution, grouped by replicate: weight (R·out_channels)×in_channels×k×k, R×C channels in and out."""

    def __init__(self, in_channels, out_channels, kernel_size, *, replicates=1, groups=1, **conv_options):
        super().__init__(
            replicates * in_channels, replicates * out_channels, kernel_size, groups=replicates * groups, **conv_options
        )

    def forward(self, x):
        return self._conv_forward(x, self.filters(), self.bias)

    @torch.jit.unused
    def draw(self, weight, generator, gain):
        """Normal, of standard deviation gain/√fan-in."""
        return weight.normal_(0, gain / math.sqrt(math.prod(weight.shape[1:])), generator=generator)


class Linear(Filters, nn.Module):
    """R linear layers as one batched product: weight R×out×in, input N×(R·in), output R×N×out.

    Weights start uniform within ±1/√in, as torch's, biases at 0.
    """

    def __init__(self, in_features, out_features, *, replicates=1, bias=True):
        super().__init__()
        self.in_features, self.out_features, self.replicates = in_features, out_features, replicates
        bound = in_features**-0.5
        self.weight = nn.Parameter(torch.empty(replicates, out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(replicates, out_features)) if bias else None

    def forward(self, x):
        return self.of(x.unflatten(1, (self.replicates, self.in_features)).transpose(0, 1))

    def of(self, x):
        """The same of inputs with the replicates outermost: R×N×in → R×N×out."""
        y = torch.matmul(x, self.filters().transpose(1, 2))
        return y if self.bias is None else y + self.bias.unsqueeze(1)

    @torch.jit.unused
    def draw(self, weight, generator, gain):
        """Uniform within ±1/√fan-in, whatever the activation."""
        bound = 1 / math.sqrt(self.in_features)
        return weight.uniform_(-bound, bound, generator=generator)


def _per_replicate(x, replicates):
    """N×(R·C)×H×W as N×H×W×R×C: a view where x is channels_last."""
    return x.permute(0, 2, 3, 1).unflatten(-1, (replicates, -1))


def _side_by_side(x):
    """The way back: N×H×W×R×C as N×(R·C)×H×W, channels_last."""
    return x.flatten(-2).permute(0, 3, 1, 2)


def per_channel(values, x):
    """Values of the replicates or channels, R or R·C, as they broadcast over x: N×(R·C), with or without positions."""
    values = values.to(x.dtype).repeat_interleave(x.shape[1] // values.numel())
    return values.view(1, -1, *(1,) * (x.dim() - 2))


class PadShortcut(nn.Module):
    """The parameter-free residual shortcut: every stride-th position, new channels filled with zeros.

    He et al. 2015, arXiv 1512.03385, §4.2 (option A).
    """

    def __init__(self, new_channels: int, stride: int, replicates: int = 1):
        super().__init__()
        self.new_channels, self.stride, self.replicates = new_channels, stride, replicates

    def forward(self, x):
        x = _per_replicate(x[:, :, :: self.stride, :: self.stride], self.replicates)
        return _side_by_side(F.pad(x, (0, self.new_channels)))


class Concatenate(nn.Module):
    """Concatenation of feature maps along the channels of each replicate."""

    def __init__(self, replicates: int = 1):
        super().__init__()
        self.replicates = replicates

    def forward(self, maps):
        if self.replicates == 1:
            return torch.cat(maps, 1)
        return _side_by_side(torch.cat([_per_replicate(x, self.replicates) for x in maps], -1))


class LocalResponse(nn.Module):
    """Local response normalization across the channels of each replicate: x / (k + α Σ x²)^β, over a channel and the
    two on either side of it, as far as there are; k = 2, α = 1e-4, β = 0.75.

    Krizhevsky et al. 2012, ImageNet classification with deep convolutional neural networks, §3.3. It stands after the
    activation. torch's `local_response_norm` divides α by the number of channels: there it is 5e-4.
    """

    REACH, K, ALPHA, BETA = 2, 2.0, 1e-4, 0.75

    def __init__(self, replicates: int = 1):
        super().__init__()
        self.replicates = replicates

    def forward(self, x):
        squares = F.pad(_per_replicate(x.square(), self.replicates), (self.REACH, self.REACH))
        channels = squares.shape[-1] - 2 * self.REACH
        total = sum(squares[..., place : place + channels] for place in range(2 * self.REACH + 1))
        return x * _side_by_side((self.K + self.ALPHA * total).pow(-self.BETA))


class ResidualScalar(nn.Module):
    """SkipInit: one learnable scalar per replicate on a residual branch, 0 at the start.

    De & Smith 2020, arXiv 2002.10444, §4: identity at initialization, whatever the depth.
    """

    def __init__(self, replicates=1, *, initial: float = 0.0):
        super().__init__()
        if not abs(initial) <= FLOAT32.max:
            raise InputError("initial", initial, f"must lie within ±{FLOAT32.max:.1e}, what a float32 holds")
        self.scale = nn.Parameter(torch.full((replicates,), float(initial)))

    def forward(self, x):
        replicates = self.scale.numel()
        return x * self.scale.repeat_interleave(x.shape[1] // replicates).view(1, -1, 1, 1)


class ScaleShift(nn.Module):
    """γx + β: per channel the scale γ (`weight`) and shift β (`bias`), each of R·C, or neither without affine.

    What stands where a method has nothing to normalize. num_channels: C, the channels of one replicate. scale, shift:
    whether γ and β are among them.
    """

    def __init__(
        self, num_channels: int, replicates: int = 1, *, affine: bool = True, scale: bool = True, shift: bool = True
    ):
        super().__init__()
        self.num_channels, self.replicates = num_channels, replicates
        channels = replicates * num_channels
        self.weight = nn.Parameter(torch.ones(channels)) if affine and scale else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine and shift else None

    def forward(self, x):
        return self.scaled(x)

    @torch.jit.unused
    def added(self) -> dict[str, float]:
        """What it learns or keeps beside γ, β and running averages, and where that starts."""
        return {}

    def scaled(self, x):
        """γx + β of feature maps N×(R·C)×H×W."""
        if self.weight is not None:
            x = x * self.weight.view(1, -1, 1, 1)
        return x if self.bias is None else x + self.bias.view(1, -1, 1, 1)

    def extra_repr(self):
        learned = f"scale={self.weight is not None}, shift={self.bias is not None}"
        return f"{self.num_channels}, replicates={self.replicates}, {learned}"


class Norm(ScaleShift):
    """What normalization layers share: ε, and per channel the scale γ (`weight`) and shift β (`bias`), each of R·C.

    num_channels: C, the channels of one replicate. eps: added to the biased variance, inside the root. affine: whether
    it has them; scale, shift: whether γ and β are among them.
    Raises InputError for an ε that is not positive in float32.
    """

    def __init__(
        self,
        num_channels: int,
        replicates: int,
        eps: float,
        affine: bool,
        scale: bool = True,
        shift: bool = True,
    ):
        super().__init__(num_channels, replicates, affine=affine, scale=scale, shift=shift)
        require_epsilon("eps", eps)  # torch's batch norm refuses 0, with a traceback
        self.eps = eps

    def extra_repr(self):
        return f"{super().extra_repr()}, eps={self.eps}"


def at_least_float32(x):
    """x as statistics are taken of it: half precision as float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def require_epsilon(key: str, value: float) -> None:
    """Refuse an ε that is 0, or infinite, in float32, in which statistics are taken at the least."""
    if not value > 0:
        raise InputError(key, value, "must be a number > 0")
    if not FLOAT32.tiny <= value <= FLOAT32.max:
        raise InputError(key, value, f"must lie between {FLOAT32.tiny:.1e} and {FLOAT32.max:.1e}, what a float32 holds")


@torch.jit.unused
def require_values(count: int, key: str, value, what: str) -> None:
    """Refuse a statistic of a single value: its variance is 0 whatever the input, and the output would be β alone.

    key, value: the option to blame. An empty batch passes, as in torch: it has no statistic.
    """
    if count == 1:
        raise InputError(key, value, f"{what} would be taken over a single value; at least 2 are needed")


class Drawing:
    """A layer that draws in training. purpose: what for, as normbench/random.py has it.

    generators: set by the training loop, one a replicate, which seeds them anew at each step; without them torch's
    global generator is used.
    """

    purpose: str
    generators = None

    @property
    def draws(self) -> bool:
        """Whether it does, by its options."""
        return True


class Dropout(Drawing, nn.Module):
    """Dropout whose mask for replicate r comes from that replicate's own generator.

    p: the share of features set to 0, at least 0 and below 1; the others are scaled by 1/(1−p). Input: N×(R·C).
    """

    purpose = "dropout"

    def __init__(self, p: float, replicates: int = 1):
        super().__init__()
        if not 0 <= p < 1:
            raise InputError("dropout", p, "must be at least 0 and below 1: the share of features set to 0")
        self.p, self.replicates = p, replicates

    @property
    def draws(self) -> bool:
        return self.p > 0

    def forward(self, x):
        if not self.training or self.p == 0:
            return x
        if self.generators is None:
            return F.dropout(x, self.p)
        masks = [
            torch.empty_like(part).bernoulli_(1 - self.p, generator=g)
            for part, g in zip(x.chunk(self.replicates, 1), self.generators, strict=True)
        ]
        return x * torch.cat(masks, 1).div_(1 - self.p)
