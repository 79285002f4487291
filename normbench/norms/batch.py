"""Statistics shared by the samples of a batch: batch, with statistics that may be constants; sync_batch, ghost_batch.

All keep running averages for evaluation: `running_mean` and `running_var`, R·C each, updated with weight `momentum` for
the NEW batch (torch's convention). The normalization uses the biased variance, `running_var` takes the unbiased one.
"""

import math
from contextlib import contextmanager

import torch
from torch import distributed
from torch.nn import functional as F

from normbench.config.keys import STATISTICS
from normbench.errors import InputError, require_choice
from normbench.norms.plain import Norm, require_values


class BatchNorm(Norm):
    """Batch normalization: mean and variance over N, H, W per channel; running averages in evaluation.

    Ioffe & Szegedy 2015, arXiv 1502.03167, algorithms 1 and 2. Input and output N×(R·C)×H×W.
    Raises InputError where a training statistic would be taken over a single value.
    """

    maps_only = False  # else it takes inputs N×(R·C)×… of any number of positions' axes

    def __init__(
        self,
        num_features: int,
        replicates: int = 1,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        scale: bool = True,
        shift: bool = True,
    ):
        super().__init__(num_features, replicates, eps, affine, scale, shift)
        if not 0 <= momentum <= 1:
            raise InputError("momentum", momentum, "must lie between 0 and 1: the weight of the new batch")
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(replicates * num_features))
        self.register_buffer("running_var", torch.ones(replicates * num_features))

    def forward(self, x):
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return self.normalize(x)

    def normalize(self, x):
        """The training pass: normalize by the batch, update the running averages."""
        return self.by_batch(x)

    def by_batch(self, x):
        """Every channel by its statistic over the whole of x."""
        if not torch.jit.is_scripting():
            require_values(x.numel() // x.shape[1], "batch_size", x.shape[0], "the batch statistic of a channel")
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps
        )

    def by_own_moments(self, x):
        """This batch normalized by its own moments, and those: count, sum and sum of squares a channel, 3×(R·C)."""
        dims = [0, *range(2, x.dim())]
        var, mean = torch.var_mean(x.double(), dims, correction=0)
        count = x.numel() // x.shape[1]
        moments = torch.stack([torch.full_like(mean, count), count * mean, count * (var + mean**2)])
        return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps), moments

    @torch.jit.unused
    def by_moments(self, x, mean, var):
        """x normalized by a mean and a variance that broadcast over it."""
        shape = (1, -1) + (1,) * (x.dim() - 2)
        scale = torch.rsqrt(var + self.eps)
        scale = scale if self.weight is None else scale * self.weight.view(shape)
        shift = -mean * scale if self.bias is None else self.bias.view(shape) - mean * scale
        return torch.addcmul(shift, x, scale)  # of the maps one pass


class ConstantBatchNorm(BatchNorm):
    """Batch normalization whose statistics are constants to the gradient, in all of training or in a part of it.

    detached: the batch's own moments count as constants, so that descent ignores what it does to them (what Ioffe &
    Szegedy 2015, arXiv 1502.03167, §2, warn of). running_from: the share of training from which the running averages
    stand in for them, and stay as they are (frozen statistics: Wu & Johnson 2021, arXiv 2105.07576); infinity: never.
    """

    def __init__(self, num_features: int, replicates: int, detached: bool, running_from: float, **options):
        super().__init__(num_features, replicates, **options)
        self.detached, self.running_from, self.frozen = detached, running_from, False

    def normalize(self, x):
        if self.frozen:
            mean, var = self.running_mean, self.running_var
        elif self.detached:
            mean, var = self._of_batch(x)
        else:
            return self.by_batch(x)
        return F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)

    @torch.no_grad()
    def _of_batch(self, x):
        """The moments of a batch, which the running averages take."""
        count = x.numel() // x.shape[1]
        require_values(count, "batch_size", x.shape[0], "the batch statistic of a channel")
        var, mean = torch.var_mean(x.to(self.running_mean.dtype), [0, *range(2, x.dim())], correction=0)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        return mean, var


def batch_norm(
    num_features: int,
    replicates: int = 1,
    *,
    momentum: float = 0.1,
    eps: float = 1e-5,
    affine: bool = True,
    scale: bool = True,
    shift: bool = True,
    detach_statistics: bool = False,
    statistics: str = "batch",
    running_from: float = 0.8,
):
    """The layer of norm=batch: BatchNorm, or one whose statistics are constants. Raises InputError."""
    options = {"momentum": momentum, "eps": eps, "affine": affine, "scale": scale, "shift": shift}
    require_choice("statistics", statistics, STATISTICS)
    if not 0 <= running_from <= 1:
        raise InputError("running_from", running_from, "must lie between 0 and 1: a share of training")
    if statistics == "batch" and not detach_statistics:
        return BatchNorm(num_features, replicates, **options)
    running_from = running_from if statistics == "running" else math.inf
    return ConstantBatchNorm(num_features, replicates, detach_statistics, running_from, **options)


def freeze_statistics(model, step: int, share: float) -> None:
    """Before a step: from its share of training on a layer's running averages stand in for the batch's moments."""
    for module in model.modules():
        if isinstance(module, ConstantBatchNorm):
            module.frozen = share >= module.running_from


class GhostBatchNorm(BatchNorm):
    """Batch normalization over ghost batches of `ghost_size` consecutive samples of one SGD batch.

    Hoffer et al. 2017, arXiv 1705.08741, algorithm 1: the running averages take the ghost batches in turn. A last ghost
    batch smaller than the others is normalized by itself. With ghost_size ≥ N this is BatchNorm.
    """

    def __init__(
        self,
        num_features: int,
        replicates: int = 1,
        *,
        ghost_size: int = 16,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        scale: bool = True,
        shift: bool = True,
    ):
        learned = {"affine": affine, "scale": scale, "shift": shift}
        super().__init__(num_features, replicates, eps=eps, momentum=momentum, **learned)
        if ghost_size < 1:
            raise InputError("ghost_size", ghost_size, "must be an integer ≥ 1")
        self.ghost_size = ghost_size

    def normalize(self, x):
        # On the CPU this loop beats one folded call: the fold costs two copies of the feature map.
        return torch.cat([self.by_batch(ghost) for ghost in x.split(self.ghost_size)])


class _SumOverProcesses(torch.autograd.Function):
    """all_reduce(sum) whose gradient is all_reduce(sum): every process's loss depends on every process's values."""

    @staticmethod
    def forward(ctx, x):
        x = x.clone()
        distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous().clone()
        distributed.all_reduce(gradient)
        return gradient


class SyncBatchNorm(BatchNorm):
    """Batch normalization over the batches of all processes: K processes × B/K equal BatchNorm at B.

    Zhang et al. 2018, arXiv 1803.08904. Works with every backend of torch.distributed, gloo on the CPU included
    (torch's own layer: GPUs only). In one process it is BatchNorm. Mean first, then the mean squared deviation from it:
    two reductions, no cancellation. Raises InputError as BatchNorm does, counting the values of all processes.
    """

    def normalize(self, x):
        if torch.jit.is_scripting():  # one process
            return self.by_batch(x)
        return self._over_processes(x)

    @torch.jit.unused
    def _over_processes(self, x):
        if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
            return self.by_batch(x)
        dims = [0, *range(2, x.dim())]
        shape = (1, -1) + (1,) * (x.dim() - 2)
        values = x.to(self.running_mean.dtype)  # float32 statistics under bfloat16
        local = torch.cat([values.sum(dims), values.new_tensor([values.numel() // values.shape[1]])])
        total = _SumOverProcesses.apply(local)
        count = total[-1].detach()
        require_values(int(count), "batch_size", x.shape[0], "the batch statistic of a channel")
        mean = total[:-1] / count
        centred = values - mean.view(shape)
        var = _SumOverProcesses.apply(centred.square().sum(dims)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        y = centred * scale.view(shape)
        if self.bias is not None:
            y = y + self.bias.view(shape)
        return y.to(x.dtype)


class MeanOnlyBatchNorm(BatchNorm):
    """Subtracts the batch mean and adds β; no division, no γ. Weight norm's companion.

    Salimans & Kingma 2016, arXiv 1602.07868, §4. `running_var` stays 1, so that evaluation is one formula for all.
    """

    def __init__(self, num_features: int, replicates: int = 1, *, momentum: float = 0.1, affine: bool = True):
        super().__init__(num_features, replicates, momentum=momentum, affine=affine)
        self.weight, self.eps = None, 0.0

    def normalize(self, x):
        if x.numel() == 0:  # no mean to subtract or to keep
            return self._shift(x, self.running_mean)
        mean = self._batch_mean(x)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
        return self._shift(x, mean)

    def by_own_moments(self, x):
        mean = self._batch_mean(x)
        count = x.numel() // x.shape[1]
        moments = torch.stack([torch.full_like(mean, count), count * mean, torch.zeros_like(mean)]).double()
        return self._shift(x, mean), moments

    @torch.jit.unused
    def by_moments(self, x, mean, var):
        y = x - mean
        return y if self.bias is None else y + self.bias.view((1, -1) + (1,) * (x.dim() - 2))

    def _batch_mean(self, x):
        dims = [0] + list(range(2, x.dim()))  # noqa: RUF005 (torch.jit.script has no unpacking)
        return x.mean(dims, dtype=self.running_mean.dtype)  # float32 under bfloat16

    def _shift(self, x, mean):
        shift = -mean if self.bias is None else self.bias - mean
        return (x + shift.view([1, -1] + [1] * (x.dim() - 2))).to(x.dtype)


def has_running_statistics(model) -> bool:
    return any(isinstance(module, BatchNorm) for module in model.modules())


@contextmanager
def precise_statistics(model, forward):
    """Inside the block, the running averages are the exact moments of the features over `forward()`'s batches.

    Wu & Johnson 2021, arXiv 2105.07576, §3 (PreciseBN). forward: a function that passes every batch of the population
    through the model once, in either mode. Moments are pooled in float64 over all values, not averaged over batches.
    The running averages come back on leaving.
    """
    layers = [module for module in model.modules() if isinstance(module, BatchNorm)]
    kept = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]
    try:
        for layer, (count, total, squares) in zip(layers, _pooled_moments(layers, forward), strict=True):
            mean = total / count
            layer.running_mean.copy_(mean)
            if not isinstance(layer, MeanOnlyBatchNorm):
                layer.running_var.copy_((squares - count * mean**2) / (count - 1))
        yield
    finally:
        for layer, (mean, var) in zip(layers, kept, strict=True):
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(var)


@torch.no_grad()
def _pooled_moments(layers, forward) -> list[torch.Tensor]:
    """Count, sum and sum of squares of each layer's inputs over `forward()`, 3×(R·C) in float64.

    Meanwhile each layer gives its batch normalized by that batch, so that later layers see the features of training.
    """
    pooled = [
        torch.zeros((3, *layer.running_mean.shape)).to(layer.running_mean.device, torch.float64) for layer in layers
    ]

    def pooling(moments):
        def hook(layer, inputs, _):
            y, own = layer.by_own_moments(*inputs)
            moments.add_(own)
            return y

        return hook

    hooks = [layer.register_forward_hook(pooling(moments)) for layer, moments in zip(layers, pooled, strict=True)]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return pooled
