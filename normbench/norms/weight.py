"""Normalization of the weights instead of the features: weight_norm, weight_standardization."""

import torch
from torch import nn
from torch.nn import functional as F

from normbench.errors import InputError, choices_text, require_choice
from normbench.norms.batch import BatchNorm, MeanOnlyBatchNorm
from normbench.norms.plain import Conv2d, Linear, require_epsilon
from normbench.norms.sample import GroupNorm


class _WeightNorm:
    """w = g·v/‖v‖ per output filter: `weight` holds v, `gain` holds g.

    Salimans & Kingma 2016, arXiv 1602.07868, equation 2; data-dependent initialization, equation 6: with
    t = v·x/‖v‖ on a first batch, g = 1/σ(t) and bias = −μ(t)/σ(t), so that every pre-activation starts with mean 0 and
    variance 1. A filter that is constant over that batch keeps its norm.
    A filter of zeros has no direction: it gives 0, and its gradients are 0, so that it stays (torch's layer: NaN).
    """

    def norms(self, filters: torch.Tensor) -> torch.Tensor:
        """‖v‖ of each filter, shaped like the gain with trailing ones."""
        raise NotImplementedError

    def filters(self) -> torch.Tensor:
        norms = self.norms(self.weight)
        norms = torch.where(norms > 0, norms, torch.ones_like(norms))
        return self.weight * (self.gain.view(norms.shape) / norms)

    @torch.jit.unused
    def parameters_for(self, filters: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"weight": filters, "gain": self.norms(filters).view(self.gain.shape)}

    @torch.jit.unused
    def initialize_from(self, y):
        """Rescale gain and bias by what the layer gives on the first batch; returns the rescaled output."""
        dims, shape = self.statistic_axes(y)
        with torch.no_grad():
            std, mean = torch.std_mean(y, dims, correction=0)
            scale = torch.where(std > 0, 1 / std, torch.ones_like(std)).to(self.gain.dtype)
            self.gain.mul_(scale.view(self.gain.shape))
            if self.bias is not None:
                self.bias.sub_(mean.to(self.bias.dtype)).mul_(scale)
                y = y - mean.view(shape)
            return y * scale.view(shape)


class WeightNormConv2d(_WeightNorm, Conv2d):
    """A convolution with weight normalization. `gain`: R·out_channels."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.gain = nn.Parameter(torch.ones(self.out_channels))

    def norms(self, filters: torch.Tensor) -> torch.Tensor:
        return torch.linalg.vector_norm(filters, dim=(1, 2, 3), keepdim=True)

    @torch.jit.unused
    def statistic_axes(self, y):
        return (0, 2, 3), (1, -1, 1, 1)


class WeightNormLinear(_WeightNorm, Linear):
    """A linear layer with weight normalization. `gain`: R×out_features."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.gain = nn.Parameter(torch.ones(self.replicates, self.out_features))

    def norms(self, filters: torch.Tensor) -> torch.Tensor:
        return torch.linalg.vector_norm(filters, dim=2, keepdim=True)

    def statistic_axes(self, y):
        return (1,), (self.replicates, 1, self.out_features)


def mean_only_or_none(
    num_features: int, replicates: int = 1, *, mean_only_bn: bool = False, momentum: float = 0.1, affine: bool = True
):
    """Weight norm's feature side: nothing, or mean-only batch normalization (the paper's §4)."""
    if mean_only_bn:
        return MeanOnlyBatchNorm(num_features, replicates, momentum=momentum, affine=affine)
    return nn.Identity()


@torch.no_grad()
def data_dependent_init(model: nn.Module, images: torch.Tensor) -> None:
    """Initialize the weight-normalized layers of a model, and nothing else, from one batch of inputs, N×(R·3)×H×W."""
    layers = [module for module in model.modules() if isinstance(module, _WeightNorm)]
    if not layers:
        return
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    training = model.training
    hooks = [layer.register_forward_hook(lambda layer, _, y: layer.initialize_from(y)) for layer in layers]
    try:
        model.train()(images)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
        for name, buffer in model.named_buffers():  # running averages start at the first training step, not here
            buffer.copy_(kept[name])


class WeightStandardizationConv2d(Conv2d):
    """Weight standardization: each output filter to mean 0 and standard deviation 1 before the convolution.

    Qiao et al. 2019, arXiv 1903.10520, equation 3: ŵ = (w−μ)/√(σ²+ε) over a filter's in_channels×k×k values, σ² biased.
    mode: `full`, or one of its parts: `mean_only` (w−μ), `std_only` (w/√(σ²+ε)). Raises InputError for another mode.
    """

    MODES = ("full", "mean_only", "std_only")

    def __init__(self, *args, mode: str = "full", ws_eps: float = 1e-5, **options):
        super().__init__(*args, **options)
        require_choice("mode", mode, self.MODES)
        require_epsilon("ws_eps", ws_eps)
        if self.weight[0].numel() < 2:
            raise InputError("mode", mode, "a filter of a single value has no spread to standardize")
        self.mode, self.ws_eps = mode, ws_eps

    def filters(self):
        weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))  # ε may underflow in half
        if self.mode == "full":  # one fused call: a filter is a "channel" of F.batch_norm
            flat = weight.flatten(1).unsqueeze(0)
            weight = F.batch_norm(flat, None, None, training=True, eps=self.ws_eps).view_as(weight)
        else:
            var, mean = torch.var_mean(weight, (1, 2, 3), correction=0, keepdim=True)
            weight = weight - mean if self.mode == "mean_only" else weight * torch.rsqrt(var + self.ws_eps)
        return weight.to(self.weight.dtype)


def standardization_norm(
    num_channels: int,
    replicates: int = 1,
    *,
    norm: str = "group",
    num_groups: int = 8,
    momentum: float = 0.1,
    eps: float = 1e-5,
    affine: bool = True,
    scale: bool = True,
    shift: bool = True,
):
    """The feature norm beside weight standardization: `group` (the paper's) or `batch`, whose options alone count."""
    options = {"eps": eps, "affine": affine, "scale": scale, "shift": shift}
    if norm == "group":
        return GroupNorm(num_channels, replicates, num_groups=num_groups, **options)
    if norm == "batch":
        return BatchNorm(num_channels, replicates, momentum=momentum, **options)
    raise InputError("norm", norm, choices_text(norm, ("batch", "group")))
