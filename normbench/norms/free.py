"""Residual networks without normalization, by how they start and what scales their branches: rescale, fixup, scaled_ws.

What a layer does depends on where in the network it stands, which the factory tells it (`place`, in norms/method.py);
what depends on the number of a block is set at initialization, which walks through `model.blocks`.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from normbench.errors import InputError
from normbench.norms.plain import FLOAT32, Conv2d, Drawing, Linear, PadShortcut, per_channel


def convolutions(module: nn.Module) -> list[Conv2d]:
    """The convolutions in a part of a network, in order."""
    return [layer for layer in module.modules() if isinstance(layer, Conv2d)]


# --- RescaleNet. ------------------------------------------------------------------------------------------------------


class _Shifted:
    """What RescaleNet adds to features: b − m. `shift` holds b, learned, and `mean` holds m, R·C each.

    m is the mean over the first `mean_batches` batches of training, each counted once, of what is shifted; it is a
    constant to the gradient. While it is gathered b counts a hundredth; with mean_batches=0 there is none, and b a bias
    as any. Which batch it is follows from the step that the loop tells (`step`); without one nothing is gathered.
    """

    step: int | None = None

    def _add_shift(self, channels: int, mean_batches: int) -> None:
        if mean_batches < 0:
            raise InputError("mean_batches", mean_batches, "must be an integer ≥ 0")
        self.mean_batches = mean_batches
        self.shift = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))

    def shifted(self, x):
        """x: N×(R·C), with or without positions behind."""
        shift = self.shift - self.mean
        if self.training and self.step is not None and self.step < self.mean_batches:
            with torch.no_grad():
                found = x.to(self.mean.dtype).mean([0, *range(2, x.dim())])
                self.mean.lerp_(found, 1 / (self.step + 1))
            shift = self.shift / 100 - self.mean
        return x + per_channel(shift, x)


class RescaleConv2d(_Shifted, Drawing, Conv2d):
    """A convolution of RescaleNet: what goes into it is shifted (see _Shifted), what comes out of the stem instead.

    A shortcut averages before it strides. dropout: the share of its output's channels set to 0 in training, in the
    branches of the last two stages. Shao et al. 2020, Is normalization indispensable for training deep neural network?,
    NeurIPS 33, and its code, github.com/hukkai/rescaling.
    """

    purpose = "dropout"

    def __init__(
        self, *args, place, replicates=1, stride=1, bias=True, mean_batches: int = 8, dropout: float = 0.0, **how
    ):
        pool = stride if place == "shortcut" else 1
        super().__init__(*args, replicates=replicates, stride=stride // pool, bias=False, **how)
        if not 0 <= dropout < 1:
            raise InputError("dropout", dropout, "must be at least 0 and below 1: the share of channels set to 0")
        self.place, self.pool, self.replicates = place, pool, replicates
        self.dropout, self.share = dropout, 0.0  # as configured, and as its place has it: `rescale_weights`
        self._add_shift(self.out_channels if place == "stem" else self.in_channels, mean_batches)

    @property
    def draws(self) -> bool:
        return self.share > 0

    def forward(self, x):
        if self.place == "stem":
            return self.shifted(super().forward(x))
        x = F.avg_pool2d(x, self.pool) if self.pool > 1 else x
        return self._dropped(super().forward(self.shifted(x)))

    def _dropped(self, y):
        if not self.training or not self.share:
            return y
        kept = y.new_empty(self.replicates, len(y), y.shape[1] // self.replicates)
        for part, generator in zip(kept, self.generators or [None] * self.replicates, strict=True):
            part.bernoulli_(1 - self.share, generator=generator)
        return y * kept.div_(1 - self.share).transpose(0, 1).flatten(1)[:, :, None, None]


class RescaleLinear(_Shifted, Linear):
    """The classifier of RescaleNet, whose inputs are shifted (see _Shifted), behind any dropout."""

    def __init__(self, in_features, out_features, *, replicates=1, mean_batches: int = 8):
        super().__init__(in_features, out_features, replicates=replicates)
        self._add_shift(replicates * in_features, mean_batches)

    def forward(self, x):
        return super().forward(self.shifted(x))


class RescaleSum(nn.Module):
    """α·shortcut + s·branch/√L in block l, counted from 0, of L: α² = 1 − β², β² = 1/(l+L), s learned, 1 at the start.

    The rest of β is in the branch's weights (`rescale_weights`). Shao et al. 2020, as their code has it.
    """

    def __init__(self, block: int, blocks: int, replicates: int = 1):
        super().__init__()
        self.alpha, self.beta = math.sqrt(1 - 1 / (block + blocks)), 1 / math.sqrt(blocks)
        self.scale = nn.Parameter(torch.ones(replicates))

    def forward(self, shortcut, branch):
        return self.alpha * shortcut + per_channel(self.beta * self.scale, branch) * branch


@torch.no_grad()
def rescale_weights(model, generators) -> None:
    """Initialization: in block l of L each of the branch's m convolutions times (L/(l+L))^(1/2m): β·√L in all.

    Shortcuts and the classifier have variance 1/fan-in: no activation is between. Dropout of a share p, in the last two
    stages, makes up for itself by √(1−p).
    """
    strides = [max(max(conv.stride) for conv in convolutions(block.branch)) for block in model.blocks]
    last_two = max(sum(stride > 1 for stride in strides) - 1, 0)
    for index, block in enumerate(model.blocks):
        branch, blocks = convolutions(block.branch), len(model.blocks)
        for conv in branch:
            conv.share = conv.dropout if sum(stride > 1 for stride in strides[: index + 1]) >= last_two else 0.0
            conv.weight.mul_((blocks / (index + blocks)) ** (1 / (2 * len(branch))) * math.sqrt(1 - conv.share))
        for conv in convolutions(block.shortcut):
            conv.weight.div_(math.sqrt(2))
    model.classifier.weight.mul_(math.sqrt(3))


def tell_step(model, step: int, share: float) -> None:
    """Before a step: the layers of RescaleNet gather their means from the first ones."""
    for module in model.modules():
        if isinstance(module, _Shifted):
            module.step = step


def gathering(model, step: int) -> int:
    """Which of the steps that gather means this is: each does so with a weight of its own, the others alike."""
    batches = max((module.mean_batches for module in model.modules() if isinstance(module, _Shifted)), default=0)
    return min(step, batches)


# --- Fixup. -----------------------------------------------------------------------------------------------------------


class FixupConv2d(Conv2d):
    """A convolution of Fixup between two scalars: `before` is added to what goes in, `after` to what comes out.

    The stem has the second alone, the end of a branch and a shortcut the first. All are 0 at the start, R values each.
    Zhang et al. 2019, arXiv 1901.09321, §3 and its code, github.com/hongyi-zhang/Fixup.
    """

    def __init__(self, *args, place, replicates=1, bias=True, **how):
        super().__init__(*args, replicates=replicates, bias=False, **how)
        self.before = None if place == "stem" else nn.Parameter(torch.zeros(replicates))
        self.after = None if place in ("end", "shortcut") else nn.Parameter(torch.zeros(replicates))

    def forward(self, x):
        y = super().forward(x if self.before is None else x + per_channel(self.before, x))
        return y if self.after is None else y + per_channel(self.after, y)


class FixupLinear(Linear):
    """The classifier of Fixup: a scalar is added to what goes in."""

    def __init__(self, in_features, out_features, *, replicates=1):
        super().__init__(in_features, out_features, replicates=replicates)
        self.before = nn.Parameter(torch.zeros(replicates))

    def forward(self, x):
        return super().forward(x + per_channel(self.before, x))


class FixupShortcut(PadShortcut):
    """The shortcut without weights: a scalar is added before zeros make the new channels.

    The authors' is that of the branch's first convolution; this is one of its own.
    """

    def __init__(self, new_channels: int, stride: int, replicates: int = 1):
        super().__init__(new_channels, stride, replicates)
        self.before = nn.Parameter(torch.zeros(replicates))

    def forward(self, x):
        return super().forward(x + per_channel(self.before, x))


class FixupEnd(nn.Module):
    """What ends a branch of Fixup: a factor, 1 at the start, then a scalar added, 0 at the start; R values each."""

    def __init__(self, replicates=1):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(replicates))
        self.shift = nn.Parameter(torch.zeros(replicates))

    def forward(self, x):
        return x * per_channel(self.scale, x) + per_channel(self.shift, x)


@torch.no_grad()
def fixup_weights(model, generators) -> None:
    """Initialization: branches and logits are 0, each of the L branches by its last convolution.

    The others, m−1 a branch, have variance 2/fan-out times L^(−1/(m−1)), a projection 2/fan-out, the stem torch's own,
    1/(3·fan-in), as in the authors' code.
    """
    for block in model.blocks:
        *inner, end = convolutions(block.branch)
        for conv in [*inner, *convolutions(block.shortcut)]:
            conv.weight.mul_(math.sqrt(conv.groups * conv.weight.shape[1] / conv.out_channels))
        for conv in inner:
            conv.weight.mul_(len(model.blocks) ** (-1 / (2 * len(inner))))
        nn.init.zeros_(end.weight)
    for conv in convolutions(model.stem):
        conv.weight.div_(math.sqrt(6))
    nn.init.zeros_(model.classifier.weight)


def fixup_factors(model) -> dict:
    """Scalars and the classifier's bias learn at a tenth of the rate: all but weights."""
    weights = {id(module.weight) for module in model.modules() if isinstance(module, Conv2d | Linear)}
    return {parameter: 0.1 for parameter in model.parameters() if id(parameter) not in weights}


# --- Normalizer-free networks. ----------------------------------------------------------------------------------------


class ScaledWSConv2d(Conv2d):
    """Scaled weight standardization: ŵ = factor·gain·(w−μ)/√max(n·σ², 1e-4) over the n values of a filter, σ² biased.

    Brock et al. 2021, arXiv 2101.08692, equation 1, and 2102.06171. `gain`: R·out_channels, 1 at the start. factor:
    what makes the variance of the activation before it 1, and at the start of a block over the standard deviation
    expected of what enters (`expect_variances`): to scale the filter or its input is the same.
    """

    LEAST = 1e-4

    def __init__(self, *args, place, act, **how):
        super().__init__(*args, **how)
        self.gain = nn.Parameter(torch.ones(self.out_channels))
        self.factor = 1.0 if place == "stem" else activation_gain(act())

    def filters(self):
        weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))  # the least is none in half
        var, mean = torch.var_mean(weight, (1, 2, 3), correction=0, keepdim=True)
        scale = torch.rsqrt((var * weight[0].numel()).clamp(min=self.LEAST)) * self.gain.view(-1, 1, 1, 1)
        return ((weight - mean) * (self.factor * scale)).to(self.weight.dtype)


class NormFreeEnd(nn.Module):
    """What ends a branch: α·g, with g learned, R values, `initial` at the start. Brock et al., arXiv 2101.08692, §3."""

    def __init__(self, replicates=1, *, alpha: float = 0.2, initial: float = 0.0):
        super().__init__()
        if not 0 < alpha <= FLOAT32.max:
            raise InputError("alpha", alpha, "must be a number > 0")
        if not abs(initial) <= FLOAT32.max:
            raise InputError("initial", initial, f"must lie within ±{FLOAT32.max:.1e}, what a float32 holds")
        self.alpha = alpha
        self.scale = nn.Parameter(torch.full((replicates,), float(initial)))

    def forward(self, x):
        return x * per_channel(self.alpha * self.scale, x)


def activation_gain(act) -> float:
    """1/√Var act(z), z standard normal: with it an activation keeps a variance of 1. By quadrature, from 0 out."""
    nodes, weights = np.polynomial.legendre.leggauss(100)
    z = torch.from_numpy(np.concatenate([6 * (nodes - 1), 6 * (nodes + 1)]))
    density = torch.from_numpy(np.tile(weights, 2)) * torch.exp(-z.square() / 2)
    density = density / density.sum()
    y = act(z)
    return float((density * (y - (density * y).sum()).square()).sum().rsqrt())


def expect_variances(model, generators) -> None:
    """Initialization: convolutions that begin a block divide by the standard deviation expected of what enters it.

    A block adds α² to it, as with g = 1; behind a projection it is 1 again; zeros for new channels lower the mean over
    channels. The stem's output is activated, in all of our networks: up to the first projection of a pre-activation
    network shortcuts carry values above 0, which a further activation is taken to leave as they are.
    """
    gain = convolutions(model.blocks[0].branch)[-1].factor
    variance, activates = 1 / gain**2, False
    for block in model.blocks:
        first = convolutions(block.branch)[0]
        projections = convolutions(block.shortcut)
        for conv in (first, *projections):
            conv.factor = (gain if activates else 1.0) / math.sqrt(variance)
        if projections:
            variance, activates = 1.0, hasattr(block, "before")
        elif isinstance(block.shortcut, PadShortcut):
            variance *= first.in_channels / first.out_channels
        (end,) = (module for module in block.branch.modules() if isinstance(module, NormFreeEnd))
        variance += end.alpha**2
