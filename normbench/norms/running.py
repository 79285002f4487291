"""Running averages that normalize in training too: batch_renorm, online."""

import torch
from torch.nn import functional as F

from normbench.errors import InputError
from normbench.norms.batch import BatchNorm
from normbench.norms.plain import Norm, at_least_float32, require_values

# Shares of training at which the limits begin to grow, and at which r's and d's have grown: steps 5k, 40k and 25k of
# the paper's 100k.
GROWS_FROM, R_FULL_AT, D_FULL_AT = 0.05, 0.4, 0.25


class BatchRenorm(BatchNorm):
    """Batch renormalization: γ((x−μ_B)/σ_B · r + d) + β, r = σ_B/σ and d = (μ_B−μ)/σ within limits, and constants.

    Ioffe 2017, arXiv 1702.03275, algorithm 1. μ, σ² are the running averages before this batch, σ² + ε under each root;
    r within 1/r_max and r_max, d within ±d_max, neither passing a gradient. In training the limits grow from r = 1 and
    d = 0, which is BatchNorm, to r_max and d_max (`grow_limits`); a layer outside of it has these from the start.
    Raises InputError for limits that exclude r = 1 or d = 0, and as BatchNorm does.
    """

    def __init__(
        self,
        num_features: int,
        replicates: int = 1,
        *,
        r_max: float = 3.0,
        d_max: float = 5.0,
        momentum: float = 0.1,
        eps: float = 1e-5,
        affine: bool = True,
    ):
        super().__init__(num_features, replicates, eps=eps, momentum=momentum, affine=affine)
        if not r_max >= 1:
            raise InputError("r_max", r_max, "must be a number ≥ 1: r lies within 1/r_max and r_max")
        if not d_max >= 0:
            raise InputError("d_max", d_max, "must be a number ≥ 0: d lies within ±d_max")
        self.r_max, self.d_max = r_max, d_max
        self.r_limit, self.d_limit = r_max, d_max  # of this step: a function of the share of training, no state

    def normalize(self, x):
        if x.numel() == 0:  # nothing to take a statistic of
            return self.scaled(x)
        count = x.numel() // x.shape[1]
        if not torch.jit.is_scripting():
            require_values(count, "batch_size", x.shape[0], "the batch statistic of a channel")
        dims = [0] + list(range(2, x.dim()))  # noqa: RUF005 (torch.jit.script has no unpacking)
        var, mean = torch.var_mean(x.detach().to(self.running_mean.dtype), dims, correction=0)
        scale = torch.rsqrt(self.running_var + self.eps)
        r = torch.clamp(torch.sqrt(var + self.eps) * scale, 1 / self.r_limit, self.r_limit)
        d = torch.clamp((mean - self.running_mean) * scale, -self.d_limit, self.d_limit)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        # γ(x̂·r + d) + β is x̂ with another scale and shift.
        weight = r if self.weight is None else r * self.weight
        shift = d if self.weight is None else d * self.weight
        bias = shift if self.bias is None else shift + self.bias
        return F.batch_norm(x, None, None, weight, bias, True, 0.0, self.eps)


def grow_limits(model, step: int, share: float) -> None:
    """Before a step: the limits of r and d at that share of training (Ioffe 2017, §4)."""
    for module in model.modules():
        if isinstance(module, BatchRenorm):
            module.r_limit = _grown(1.0, module.r_max, share, R_FULL_AT)
            module.d_limit = _grown(0.0, module.d_max, share, D_FULL_AT)


def _grown(start: float, end: float, share: float, full_at: float) -> float:
    """From start to end, which may be infinity."""
    if share >= full_at:
        return end
    return start if share <= GROWS_FROM else start + (end - start) * (share - GROWS_FROM) / (full_at - GROWS_FROM)


class OnlineNorm(Norm):
    """Online normalization: each sample by the running averages of those before it, its gradient controlled likewise.

    Chiley et al. 2019, arXiv 1905.05894, equations 8 to 11; the paper's code. In the order of the batch, sample t is
    y_t = (x_t−μ)/√(σ²+ε), after which σ² ← aσ² + (1−a)(var x_t + a(mean x_t−μ)²) and μ ← aμ + (1−a)·mean x_t, over H
    and W; a is `forward_decay`. Backward, b being `backward_decay`: g = y′_t − (1−b)·v·y_t, v ← v + mean g·y_t, then
    x′_t = g/σ − (1−b)·u, u ← u + mean x′_t; it is no derivative of a batch's output, and drives E x′ and E y·x′ to 0.
    γ and β follow, and with layer_scaling a division by the root mean square of all features of the sample, √(·+ε).
    The averages and controls (`control_mean` u, `control_scale` v; R·C each) are part of the state.
    Raises InputError for a decay outside of 0 to 1.
    """

    def __init__(
        self,
        num_channels: int,
        replicates: int = 1,
        *,
        forward_decay: float = 1023 / 1024,
        backward_decay: float = 127 / 128,
        layer_scaling: bool = True,
        eps: float = 1e-5,
        affine: bool = True,
    ):
        super().__init__(num_channels, replicates, eps, affine)
        for key, value in {"forward_decay": forward_decay, "backward_decay": backward_decay}.items():
            if not 0 <= value < 1:
                raise InputError(key, value, "must be at least 0 and below 1: the weight of what was before")
        self.forward_decay, self.backward_decay, self.layer_scaling = forward_decay, backward_decay, layer_scaling
        channels = replicates * num_channels
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("control_mean", torch.zeros(channels))
        self.register_buffer("control_scale", torch.zeros(channels))

    @torch.jit.unused
    def added(self) -> dict[str, float]:
        return {"control_mean": 0.0, "control_scale": 0.0}

    def forward(self, x):
        if self.training and x.numel() > 0:
            y = self.scaled(self._in_turn(x))
        else:
            mean, var = self.running_mean, self.running_var
            y = F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)
        if not self.layer_scaling:
            return y.to(x.dtype)
        values = at_least_float32(y).unflatten(1, [self.replicates, self.num_channels])
        scale = torch.rsqrt(values.square().mean([2, 3, 4], keepdim=True) + self.eps)
        return (values * scale).flatten(1, 2).to(x.dtype)

    @torch.jit.unused
    def _in_turn(self, x):
        return _InTurn.apply(x, self)


class _InTurn(torch.autograd.Function):
    """The samples of a batch one after the other, by the averages and controls of an OnlineNorm, which move on."""

    @staticmethod
    def forward(ctx, x, layer):
        values = x.to(layer.running_mean.dtype)
        var, mean = torch.var_mean(values, (2, 3), correction=0)  # N×(R·C)
        decay = layer.forward_decay
        means, last_mean = _before_each(layer.running_mean, decay, (1 - decay) * mean)
        news = (1 - decay) * (var + decay * (mean - means).square())
        variances, last_var = _before_each(layer.running_var, decay, news)
        scale = torch.rsqrt(variances + layer.eps)
        y = (values - means[:, :, None, None]) * scale[:, :, None, None]
        layer.running_mean.copy_(last_mean)
        layer.running_var.copy_(last_var)
        ctx.layer = layer
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx, gradient):
        y, scale = ctx.saved_tensors
        layer, rest = ctx.layer, 1 - ctx.layer.backward_decay
        control, controls = layer.control_scale.clone(), []
        along, squares = (gradient * y).mean((2, 3)), y.square().mean((2, 3))
        for keeps, more in zip(1 - rest * squares, along, strict=True):  # v is kept the less the larger the sample is
            controls.append(control)
            control = control * keeps + more
        gradient = gradient - rest * torch.stack(controls)[:, :, None, None] * y
        gradient = gradient * scale[:, :, None, None]
        means, last_mean = _before_each(layer.control_mean, layer.backward_decay, gradient.mean((2, 3)))
        with torch.no_grad():
            layer.control_mean.copy_(last_mean)
            layer.control_scale.copy_(control)
        return gradient - rest * means[:, :, None, None], None


def _before_each(start, decay: float, news):
    """Of s ← decay·s + news, sample by sample: s before each, N×(R·C), and after the last. news: N×(R·C)."""
    steps = torch.arange(len(news) + 1, device=news.device, dtype=torch.float64)  # which autocast leaves alone
    age = steps[:, None] - 1 - steps[:-1]
    weights = torch.where(age >= 0, decay ** age.clamp(min=0), 0)
    states = (weights @ news.double() + (decay**steps)[:, None] * start).to(news.dtype)
    return states[:-1], states[-1]
