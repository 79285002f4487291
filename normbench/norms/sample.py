"""Statistics of each sample alone, whatever the batch: layer, layer2d, instance, group."""

from math import prod

import torch
from torch.nn import functional as F

from normbench.errors import InputError
from normbench.norms.plain import Norm, require_values


class GroupNorm(Norm):
    """Group normalization: mean and variance over H, W and the C/G channels of a group, per sample.

    Wu & He 2018, arXiv 1803.08494, equation 7. Input and output N×(R·C)×H×W; R replicates take R·G groups, so that no
    group crosses a replicate. channels_per_group: C/G in place of G, where it is not 0. Raises InputError where
    one of the two does not divide num_channels.
    """

    def __init__(
        self,
        num_channels: int,
        replicates: int = 1,
        *,
        num_groups: int = 8,
        channels_per_group: int = 0,
        eps: float = 1e-5,
        affine: bool = True,
        scale: bool = True,
        shift: bool = True,
    ):
        super().__init__(num_channels, replicates, eps, affine, scale, shift)
        if not channels_per_group and (num_groups < 1 or num_channels % num_groups):
            divisors = ", ".join(str(g) for g in range(1, num_channels + 1) if num_channels % g == 0)
            raise InputError(
                "num_groups", num_groups, f"does not divide the {num_channels} channels of a layer; choices: {divisors}"
            )
        if channels_per_group < 0 or (channels_per_group and num_channels % channels_per_group):
            wrong = f"does not divide the {num_channels} channels of a layer; 0: num_groups says how many groups"
            raise InputError("channels_per_group", channels_per_group, wrong)
        self.num_groups = num_channels // channels_per_group if channels_per_group else num_groups

    def forward(self, x):
        if not torch.jit.is_scripting():
            values = prod(x.shape[1:]) // (self.replicates * self.num_groups)
            require_values(values, "num_groups", self.num_groups, "the statistic of a group of channels")
        return F.group_norm(x, self.replicates * self.num_groups, self.weight, self.bias, self.eps)


class LayerNorm(GroupNorm):
    """Layer normalization of a feature map: mean and variance over C, H, W, per sample; γ and β per channel.

    Ba et al. 2016, arXiv 1607.06450, in the form of Wu & He 2018 (group normalization with one group).
    """

    def __init__(
        self,
        num_channels: int,
        replicates: int = 1,
        *,
        eps: float = 1e-5,
        affine: bool = True,
        scale: bool = True,
        shift: bool = True,
    ):
        learned = {"affine": affine, "scale": scale, "shift": shift}
        super().__init__(num_channels, replicates, num_groups=1, eps=eps, **learned)


class LayerNorm2d(Norm):
    """Layer normalization at each position: mean and variance over C, per sample and (h, w).

    ConvNeXt's: Liu et al. 2022, arXiv 2201.03545, §2.5. Input and output N×(R·C)×H×W.
    """

    def __init__(
        self,
        num_channels: int,
        replicates: int = 1,
        *,
        eps: float = 1e-5,
        affine: bool = True,
        scale: bool = True,
        shift: bool = True,
    ):
        super().__init__(num_channels, replicates, eps, affine, scale, shift)

    def forward(self, x):
        if not torch.jit.is_scripting():
            require_values(self.num_channels, "num_channels", self.num_channels, "the statistic of a position")
        x = x.permute(0, 2, 3, 1)  # a view of a contiguous tensor where x is channels_last
        if self.replicates == 1:
            y = F.layer_norm(x, [self.num_channels], self.weight, self.bias, self.eps)
        else:
            y = F.layer_norm(x.unflatten(-1, [self.replicates, self.num_channels]), [self.num_channels], eps=self.eps)
            y = y.flatten(-2)
            if self.weight is not None:
                y = y * self.weight
            if self.bias is not None:
                y = y + self.bias
            y = y.to(x.dtype)
        return y.permute(0, 3, 1, 2)


class InstanceNorm(Norm):
    """Instance normalization: mean and variance over H, W, per sample and channel, in training and evaluation alike.

    Ulyanov et al. 2016, arXiv 1607.08022, equation 4. affine is on for parity with the other methods (torch: off).
    Raises InputError on a feature map of one position.
    """

    def __init__(
        self,
        num_features: int,
        replicates: int = 1,
        *,
        eps: float = 1e-5,
        affine: bool = True,
        scale: bool = True,
        shift: bool = True,
    ):
        super().__init__(num_features, replicates, eps, affine, scale, shift)

    def forward(self, x):
        if not torch.jit.is_scripting():
            require_values(prod(x.shape[2:]), "norm", "instance", "the statistic of a channel of one sample")
        # Groups of one channel: F.instance_norm takes no empty batch, and has wrong gradients of a single sample whose
        # gradient comes as channels_last (torch 2.15.0).
        return F.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)
