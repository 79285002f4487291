"""convert_norms on models built elsewhere."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models

from normbench.errors import InputError
from normbench.norms import NORMS, convert_norms
from normbench.norms.batch import BatchNorm, GhostBatchNorm, MeanOnlyBatchNorm, SyncBatchNorm
from normbench.norms.plain import Norm
from normbench.norms.sample import GroupNorm, InstanceNorm
from normbench.norms.weight import WeightNormConv2d, WeightStandardizationConv2d

CONVERTIBLE = [
    name for name, method in NORMS.items() if not (method.of_branches or method.model) and method.norm_act is None
]


def resnet():
    return models.resnet.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)


def mobilenet():
    stages = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2]]  # expansion, channels, blocks, stride
    return models.MobileNetV2(10, width_mult=0.5, inverted_residual_setting=stages)


def googlenet():
    return models.googlenet(aux_logits=False, init_weights=False, num_classes=10)


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64)


def randomized(model):
    """γ, β and running averages unlike their start."""
    torch.manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            for value in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                value.uniform_(0.5, 1.5)
    return model


def batch_norms(model):
    return {path: layer for path, layer in model.named_modules() if isinstance(layer, _BatchNorm)}


def convolutions(model):
    return {path: layer for path, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}


@pytest.mark.parametrize("make", [resnet, mobilenet])
@pytest.mark.parametrize("name", CONVERTIBLE)
def test_every_method_takes_the_place_of_every_batch_norm(name, make, images):
    model = randomized(make())
    old, old_convolutions = copy.deepcopy(batch_norms(model)), copy.deepcopy(convolutions(model))
    assert convert_norms(model, name) is model
    assert not batch_norms(model)
    modules = dict(model.named_modules())
    plain = set()
    for path, layer in old.items():
        new = modules[path]
        plain.add(isinstance(new, nn.Identity))
        for key in ("weight", "bias", "running_mean", "running_var"):
            if getattr(new, key, None) is not None:
                assert torch.equal(getattr(new, key), getattr(layer, key))
        if isinstance(new, Norm):
            assert new.eps == layer.eps
            assert getattr(new, "momentum", layer.momentum) == layer.momentum
    assert plain == {name in ("none", "weight_norm")}
    for path, conv in old_convolutions.items():
        new = modules[path]
        assert (new.stride, new.padding, new.groups) == (conv.stride, conv.padding, conv.groups)
        assert torch.equal(new.weight, conv.weight)
        assert (new.bias is not None) == (conv.bias is not None or name in ("none", "weight_norm", "rms"))
        if isinstance(NORMS[name].conv, type):
            assert type(new) in (nn.Conv2d, NORMS[name].conv)
    model(images).square().mean().backward()
    unreached = [
        key for key, value in model.named_parameters() if value.grad is None or not value.grad.isfinite().all()
    ]
    assert not unreached


@pytest.mark.parametrize("name", ["batch", "group", "weight_norm"])
def test_a_network_that_normalizes_before_its_convolutions(name, images):
    model = models.DenseNet(8, (2, 2, 2), 16, num_classes=10)
    convert_norms(model, name)
    assert not batch_norms(model)
    assert torch.isfinite(model(images)).all()


@pytest.mark.parametrize("name", ["batch", "sync_batch", "ghost_batch"])
def test_evaluation_is_the_same_bit_for_bit(name, images):
    model = randomized(mobilenet()).eval()
    before = model(images)
    assert torch.equal(convert_norms(model, name)(images), before)
    assert not any(layer.training for layer in model.modules())


def test_training_with_batch_is_the_same(images):
    model = randomized(resnet())
    reference = copy.deepcopy(model)
    convert_norms(model, "batch")
    assert torch.equal(model(images), reference(images))
    for path, layer in batch_norms(reference).items():
        assert torch.equal(model.get_submodule(path).running_var, layer.running_var)


@pytest.mark.parametrize("make", [googlenet, lambda: models.mobilenet_v3_small(num_classes=10)])
def test_eps_is_inherited_unless_given(make):
    kept = [layer for layer in convert_norms(make(), "group").modules() if isinstance(layer, Norm)]
    assert {layer.eps for layer in kept} == {0.001}
    given = [layer for layer in convert_norms(make(), "layer", eps=1e-4).modules() if isinstance(layer, Norm)]
    assert {layer.eps for layer in given} == {1e-4}
    assert len(given) == len(kept) > 30


def test_momentum_is_inherited_unless_given():
    layers = [nn.BatchNorm2d(4, momentum=0.01), nn.BatchNorm2d(4, momentum=None), nn.BatchNorm2d(4)]
    model = convert_norms(nn.Sequential(*copy.deepcopy(layers)), "ghost_batch", ghost_size=3)
    assert [layer.momentum for layer in model] == [0.01, 0.1, 0.1]
    assert {layer.ghost_size for layer in model} == {3}
    model = convert_norms(nn.Sequential(*layers), "batch", momentum=0.5)
    assert [layer.momentum for layer in model] == [0.5] * 3


def test_weight_norm_starts_from_the_same_filters(images):
    model = mobilenet().eval()
    reference = copy.deepcopy(convolutions(model))
    convert_norms(model, "weight_norm")
    for path, conv in reference.items():
        new = model.get_submodule(path)
        assert type(new) is WeightNormConv2d
        x = torch.randn(2, conv.in_channels, 5, 5)
        assert torch.equal(
            new(x), nn.functional.conv2d(x, conv.weight, None, conv.stride, conv.padding, 1, conv.groups)
        )


def test_weight_norm_with_mean_only_batch_norm(images):
    model = convert_norms(randomized(resnet()), "weight_norm", mean_only_bn=True)
    kinds = [type(layer) for layer in model.modules() if isinstance(layer, BatchNorm)]
    assert kinds == [MeanOnlyBatchNorm] * 12
    assert all(conv.bias is None for conv in convolutions(model).values())
    for layer in model.modules():
        if isinstance(layer, MeanOnlyBatchNorm):
            assert torch.equal(layer.running_var, torch.ones(layer.num_channels))


def test_weight_standardization_converts_convolutions_and_norms():
    model = convert_norms(resnet(), "weight_standardization", mode="mean_only", num_groups=4)
    found = convolutions(model).values()
    assert {(type(conv), conv.mode) for conv in found} == {(WeightStandardizationConv2d, "mean_only")}
    assert len(found) == 12
    assert {layer.num_groups for layer in model.modules() if isinstance(layer, GroupNorm)} == {4}
    model = convert_norms(resnet(), "weight_standardization", norm="batch")
    assert not any(isinstance(layer, GroupNorm) for layer in model.modules())


def test_biases_and_settings_of_convolutions_survive():
    conv = nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding="valid", dilation=(1, 2), groups=2, padding_mode="reflect")
    conv.bias.data.normal_()
    x = torch.randn(2, 4, 9, 9)
    expected = conv(x)
    model = convert_norms(nn.Sequential(conv, nn.BatchNorm2d(6)), "weight_norm")
    assert torch.equal(model(x), expected)


def test_a_layer_used_twice_is_converted_in_both_places():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.BatchNorm2d(4)
            self.second = self.first

    model = convert_norms(Twice(), "instance")
    assert type(model.first) is InstanceNorm
    assert model.first is model.second


def test_a_lone_batch_norm_gives_the_new_layer():
    assert type(convert_norms(nn.BatchNorm2d(4), "instance")) is InstanceNorm


def test_affine_dtype_and_torchs_sync_batch_norm():
    model = convert_norms(nn.Sequential(nn.SyncBatchNorm(4, affine=False).double()), "sync_batch")
    assert (type(model[0]), model[0].weight, model[0].running_mean.dtype) == (SyncBatchNorm, None, torch.float64)
    model = convert_norms(nn.Sequential(nn.BatchNorm2d(4).double()), "group", num_groups=2)
    assert model[0].weight.dtype == torch.float64


def test_one_dimensional_batch_norm_becomes_the_batch_methods_only():
    x = torch.randn(6, 4)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    expected = copy.deepcopy(model)(x)
    assert torch.equal(convert_norms(model, "batch")(x), expected)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    assert type(convert_norms(model, "ghost_batch", ghost_size=6)[1]) is GhostBatchNorm
    torch.testing.assert_close(copy.deepcopy(model)(x).mean(0), torch.zeros(4), rtol=0, atol=1e-5)


def two_widths():
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Sequential(nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12)))


@pytest.mark.parametrize(
    ("model", "name", "options", "message"),
    [
        (
            two_widths(),
            "group",
            {},
            r"num_groups=8: at 2\.1: does not divide the 12 channels .*choices: 1, 2, 3, 4, 6, 12",
        ),
        (two_widths(), "weight_standardization", {}, r"num_groups=8: at 2\.1: does not divide"),
        (
            nn.Sequential(nn.Conv2d(1, 8, 1), nn.BatchNorm2d(8)),
            "weight_standardization",
            {"mode": "std_only"},
            "mode=std_only: at 0: .*single value",
        ),
        (two_widths(), "skipinit", {}, "norm=skipinit: acts on residual branches"),
        (two_widths(), "gruop", {}, r"norm=gruop: unknown method; did you mean group\?"),
        (two_widths(), "group", {"groups": 4}, "groups=4: norm=group has no such option; did you mean num_groups"),
        (two_widths(), "none", {"eps": 1}, "eps=1: norm=none has no such option; it has none"),
        (two_widths(), "batch", {"momentum": 2}, r"momentum=2: at 1: must lie between 0 and 1"),
        (nn.Sequential(nn.Conv2d(3, 8, 1)), "group", {}, "norm=group: the model has no BatchNorm layer"),
        (
            nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm1d(8)),
            "group",
            {},
            "norm=group: at 1: a BatchNorm1d is no feature",
        ),
        (nn.Sequential(nn.BatchNorm3d(8)), "instance", {}, "norm=instance: at 0: a BatchNorm3d is no feature map"),
    ],
)
def test_what_cannot_be_converted_is_refused_and_left_alone(model, name, options, message):
    modules = list(model.named_modules())
    with pytest.raises(InputError, match=message):
        convert_norms(model, name, **options)
    assert all(a[0] == b[0] and a[1] is b[1] for a, b in zip(model.named_modules(), modules, strict=True))
