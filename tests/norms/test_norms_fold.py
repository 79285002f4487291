"""Batch normalization folded into the layers before it."""

import copy
import re

import pytest
import torch
from torch import nn

from normbench.errors import InputError
from normbench.models import build_model
from normbench.norms import Layers, fold
from normbench.norms.batch import BatchNorm

FOLDED = [
    ("batch", {}, "resnet8", {}),
    ("batch", {"shift": False}, "resnet8", {"shortcut": "projection"}),
    ("ghost_batch", {"ghost_size": 2, "scale": False}, "vgg", {}),
    ("lp_batch", {"affine": False}, "inception", {}),
    ("noisy_batch", {}, "mlp", {}),
    ("weight_norm", {"mean_only_bn": True}, "resnet8", {}),
    ("weight_standardization", {"norm": "batch"}, "resnet8", {}),
]


def network(norm="batch", options=None, model="resnet8", replicates=1, **more):
    """One whose parameters and running averages are none of those that it starts with."""
    torch.manual_seed(0)
    made = build_model(model, Layers(norm, options, replicates=replicates), range(replicates), **{"width": 4, **more})
    return shaken(made)


def shaken(model):
    model = model.double()
    with torch.no_grad():
        for name, one in model.state_dict().items():
            if one.is_floating_point() and one.dim() == 1 and not (name.endswith("var") and (one == 1).all()):
                one.add_(0.3 * torch.randn_like(one))
        for one in model.modules():
            if isinstance(one, BatchNorm | nn.modules.batchnorm._BatchNorm) and getattr(one, "eps", 0):
                one.running_var.uniform_(0.2, 3)
    return model


@pytest.mark.parametrize(("norm", "options", "model", "more"), FOLDED)
def test_a_folded_network_gives_the_same_logits(norm, options, model, more):
    made = network(norm, options, model, replicates=2, **more)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    x = torch.randn(2, 6, 32, 32, dtype=torch.float64)
    folded = fold(made)
    assert not any(isinstance(one, BatchNorm) for one in folded.modules())
    assert made.training
    assert not any(one.training for one in folded.modules())
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(folded(x), made.eval()(x), rtol=1e-10, atol=1e-10)


class Plain(nn.Sequential):
    """torch's layers alone: 1d, 2d and 3d, strides, groups, paddings of every kind, linear layers."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, (3, 5), stride=2, padding=(1, 2), padding_mode="reflect"),
            nn.BatchNorm2d(8, eps=1e-3),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, groups=4, dilation=2, bias=False),
            nn.BatchNorm2d(8, affine=False),
            nn.Flatten(2),
            nn.Conv1d(8, 6, 3, padding="same"),
            nn.BatchNorm1d(6),
            nn.Unflatten(2, (2, 1, -1)),
            nn.Conv3d(6, 4, (2, 1, 1)),
            nn.BatchNorm3d(4),
            nn.Flatten(),
            nn.Linear(8, 5),
            nn.BatchNorm1d(5),
        )


def test_torchs_layers():
    model = shaken(Plain()).train()
    x = torch.randn(3, 3, 11, 11, dtype=torch.float64)
    folded = fold(model)
    assert [one for one in folded if isinstance(one, nn.modules.batchnorm._BatchNorm)] == []
    torch.testing.assert_close(folded(x), model.eval()(x), rtol=1e-10, atol=1e-10)
    single = fold(model.float())(x.float())
    torch.testing.assert_close(single.double(), folded(x), rtol=1e-4, atol=1e-4)


class Twice(nn.Module):
    """A convolution that two norms read; or a norm that reads two."""

    def __init__(self, convolutions, norms):
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(convolutions))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(norms))

    def forward(self, x):
        return self.norms[0](self.convolutions[0](x)) + self.norms[-1](self.convolutions[-1](x))


class Deciding(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, x):
        return self.layers(x) if x.sum() > 0 else x


class Own(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model[0].register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: network("group", {"num_groups": 2}), "CifarResNet: at stem.0.1: a GroupNorm takes its statistics of"),
        (lambda: network("layer"), "CifarResNet: at stem.0.1: a LayerNorm takes its statistics of"),
        (lambda: network("instance"), "CifarResNet: at stem.0.1: a InstanceNorm takes its statistics of"),
        (lambda: network("none"), "CifarResNet: has no batch normalization to fold"),
        (
            lambda: network(model="preact_resnet8"),
            "PreactResNet: at [a-z0-9.]+: a BatchNorm does not stand right behind",
        ),
        (lambda: network(norm_position="after"), "CifarResNet: at stem.2: a BatchNorm does not stand right behind"),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.GroupNorm(1, 3)), "Sequential: at 1: a GroupNorm takes its"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)),
            "Sequential: at 1: a BatchNorm2d takes its statistics of what it evaluates",
        ),
        (
            lambda: nn.Sequential(nn.ConvTranspose2d(3, 3, 1), nn.BatchNorm2d(3)),
            "Sequential: at 1: a BatchNorm2d does not stand right behind",
        ),
        (lambda: Twice(1, 2), "Twice: at norms.0: a BatchNorm2d or the layer before it, has another use"),
        (lambda: Twice(2, 1), "Twice: at norms.0: a BatchNorm2d or the layer before it, has another use"),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 1), Own(3)), "Sequential: at 1: a Own has a forward of its own"),
        (hooked, "Sequential: at 1: a BatchNorm2d or the layer before it, has hooks"),
        (Deciding, "Deciding: torch.fx cannot trace it, which folding takes: TraceError"),
    ],
)
def test_what_cannot_be_folded_is_told_in_a_line(model, message):
    model = model()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=f"model={message}") as caught:
        fold(model)
    assert not re.search("\n", str(caught.value))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_folded_linear_layer_takes_no_maps():
    """BatchNorm1d goes over the second axis of N×L×F, a linear layer over the last, and L may be F."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    with pytest.raises(InputError, match="input=2×4×4: must be N×features, as the layer was folded for"):
        fold(model)(torch.zeros(2, 4, 4))
