"""Methods that normalize weights, against torch's own, timm's, and the formula; in float64. Data-dependent init."""

import re

import pytest
import timm.layers
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from normbench.errors import InputError
from normbench.models import build_model
from normbench.norms import NORMS, Layers
from normbench.norms.batch import BatchNorm
from normbench.norms.plain import ResidualScalar
from normbench.norms.sample import GroupNorm
from normbench.norms.weight import (
    WeightNormConv2d,
    WeightNormLinear,
    WeightStandardizationConv2d,
    data_dependent_init,
    standardization_norm,
)


def close(ours, reference):
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def gradients(y, towards, *inputs):
    return torch.autograd.grad(y, inputs, towards, retain_graph=True)


def weight_norm_conv():
    torch.manual_seed(0)
    layer = WeightNormConv2d(3, 4, 3, padding=1, stride=2).double()
    with torch.no_grad():
        layer.weight.copy_(normal(*layer.weight.shape))
        layer.gain.copy_(torch.rand(4) + 0.5)
        layer.bias.copy_(normal(4))
    return layer


def test_weight_norm_convolution_equals_torchs_and_the_formula():
    layer, x = weight_norm_conv(), normal(2, 3, 7, 7).requires_grad_()
    reference = nn.Conv2d(3, 4, 3, padding=1, stride=2).double()
    reference.load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias.detach()})
    parametrizations.weight_norm(reference)
    with torch.no_grad():
        reference.parametrizations.weight.original0.copy_(layer.gain.view(-1, 1, 1, 1))
    g, v = reference.parametrizations.weight.original0, reference.parametrizations.weight.original1

    y, expected = layer(x), reference(x)
    close(y, expected)
    towards = torch.randn_like(y)
    ours = gradients(y, towards, x, layer.weight, layer.bias, layer.gain)
    theirs = gradients(expected, towards, x, v, reference.bias, g)
    for our, their in zip(ours, theirs, strict=True):
        close(our, their.view_as(our))

    v = layer.weight.detach()
    w = torch.stack([gain * filter / (filter**2).sum() ** 0.5 for gain, filter in zip(layer.gain, v, strict=True)])
    close(y, F.conv2d(x, w, layer.bias, stride=2, padding=1))


def test_weight_norm_linear_equals_torchs():
    torch.manual_seed(0)
    layer = WeightNormLinear(5, 3).double()
    with torch.no_grad():
        layer.weight.copy_(normal(1, 3, 5))
        layer.gain.copy_(torch.rand(1, 3) + 0.5)
        layer.bias.copy_(normal(1, 3))
    reference = nn.Linear(5, 3).double()
    reference.load_state_dict({"weight": layer.weight.detach()[0], "bias": layer.bias.detach()[0]})
    parametrizations.weight_norm(reference)
    with torch.no_grad():
        reference.parametrizations.weight.original0.copy_(layer.gain.view(-1, 1))
    g, v = reference.parametrizations.weight.original0, reference.parametrizations.weight.original1
    x = normal(4, 5).requires_grad_()
    y, expected = layer(x), reference(x)
    close(y, expected.unsqueeze(0))
    towards = torch.randn_like(expected)
    ours = gradients(y, towards.unsqueeze(0), x, layer.weight, layer.bias, layer.gain)
    theirs = gradients(expected, towards, x, v, reference.bias, g)
    for our, their in zip(ours, theirs, strict=True):
        close(our, their.view_as(our))


def test_weight_norm_starts_from_the_filters_it_is_given():
    layer, filters = weight_norm_conv(), normal(4, 3, 3, 3)
    layer.set_filters(filters)
    assert torch.equal(layer.filters(), filters)
    close(layer.gain, filters.flatten(1).norm(dim=1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_a_filter_of_zeros_gives_zeros_and_finite_gradients_and_leaves_the_others_alone(kind, dtype):
    torch.manual_seed(0)
    layer, x = (
        (WeightNormConv2d(3, 4, 3), torch.randn(2, 3, 5, 5))
        if kind == "conv"
        else (WeightNormLinear(3, 4), torch.randn(2, 3))
    )
    layer, x = layer.to(dtype), x.to(dtype)
    filters = torch.randn(layer.weight.shape).to(dtype)
    axis = 0 if kind == "conv" else 1
    zero = filters.index_fill(axis, torch.tensor([1]), 0)
    layer.set_filters(filters)
    without = layer.filters().detach()
    layer.set_filters(zero)
    assert torch.equal(layer.filters(), without.index_fill(axis, torch.tensor([1]), 0))
    layer(x).float().square().sum().backward()
    for value in (layer.weight, layer.gain):
        assert value.grad.isfinite().all()
        assert not value.grad.select(axis, 1).any()  # no direction, no way out of 0
        assert value.grad.select(axis, 2).any()


@pytest.mark.parametrize("mode", ["full", "std_only"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_epsilon_of_weight_standardization_does_not_underflow_in_half_precision(mode, dtype):
    layer = WeightStandardizationConv2d(3, 4, 3, mode=mode, ws_eps=1e-30).to(dtype)
    layer.set_filters(torch.zeros_like(layer.weight))
    assert torch.equal(layer.filters(), torch.zeros_like(layer.weight))


def standardized(w, mode, eps):
    """Equation 3 of the paper and its two halves, filter by filter."""
    out = []
    for filter in w:
        mean = filter.mean()
        std = (((filter - mean) ** 2).mean() + eps) ** 0.5
        out.append({"full": (filter - mean) / std, "mean_only": filter - mean, "std_only": filter / std}[mode])
    return torch.stack(out)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("mode", WeightStandardizationConv2d.MODES)
def test_weight_standardization_equals_the_formula(mode, groups):
    torch.manual_seed(0)
    layer = WeightStandardizationConv2d(4, 6, 3, padding=1, groups=groups, mode=mode, ws_eps=1e-2).double()
    with torch.no_grad():
        layer.weight.copy_(0.2 * normal(*layer.weight.shape) + 0.1)
        layer.bias.copy_(normal(6))
    x = normal(2, 4, 5, 5).requires_grad_()
    y, expected = layer(x), F.conv2d(x, standardized(layer.weight, mode, 1e-2), layer.bias, padding=1, groups=groups)
    close(y, expected)
    towards = torch.randn_like(y)
    ours, theirs = (gradients(out, towards, x, layer.weight, layer.bias) for out in (y, expected))
    for our, their in zip(ours, theirs, strict=True):
        close(our, their)


def test_weight_standardization_equals_timms():
    torch.manual_seed(0)
    layer = WeightStandardizationConv2d(3, 4, 3, padding=1, bias=False, ws_eps=1e-4).double()
    reference = timm.layers.StdConv2d(3, 4, 3, padding=1, eps=1e-4).double()
    reference.load_state_dict(layer.state_dict())
    x = normal(2, 3, 5, 5)
    y, expected = layer(x), reference(x)
    close(y, expected)
    towards = torch.randn_like(y)
    close(gradients(y, towards, layer.weight)[0], gradients(expected, towards, reference.weight)[0])


def test_weight_standardization_of_replicates_is_that_of_each():
    torch.manual_seed(0)
    layer = WeightStandardizationConv2d(3, 4, 3, replicates=2, bias=False).double()
    x = normal(2, 6, 5, 5)
    parts = [
        F.conv2d(part, standardized(w, "full", 1e-5))
        for part, w in zip(x.chunk(2, 1), layer.weight.chunk(2), strict=True)
    ]
    close(layer(x), torch.cat(parts, 1))


@pytest.mark.parametrize("make", [weight_norm_conv, lambda: WeightStandardizationConv2d(3, 4, 3).double()])
def test_weight_gradients_by_finite_differences(make):
    layer, x = make(), normal(2, 3, 4, 4).requires_grad_()
    names, values = zip(
        *((key, value.detach().requires_grad_()) for key, value in layer.named_parameters()), strict=True
    )

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True)


def test_weight_standardization_refuses_what_it_cannot_do():
    with pytest.raises(InputError, match=r"mode=mean: .*did you mean mean_only\? choices: full, mean_only, std_only"):
        WeightStandardizationConv2d(3, 4, 3, mode="mean")
    with pytest.raises(InputError, match="ws_eps=0: must be a number > 0"):
        WeightStandardizationConv2d(3, 4, 3, ws_eps=0)
    with pytest.raises(InputError, match=r"ws_eps=1e-50: must lie between 1\.2e-38 and 3\.4e"):
        WeightStandardizationConv2d(3, 4, 3, ws_eps=1e-50)
    with pytest.raises(InputError, match="single value"):
        WeightStandardizationConv2d(1, 4, 1)
    with pytest.raises(InputError, match=r"norm=layer: .*choices: batch, group"):
        standardization_norm(16, norm="layer")


def test_the_norm_beside_weight_standardization_is_the_one_asked_for():
    group = standardization_norm(16, 2, norm="group", num_groups=4, eps=1e-3)
    batch = standardization_norm(16, 2, norm="batch", momentum=0.3, eps=1e-3, affine=False)
    assert (type(group), group.num_groups, group.replicates, group.eps) == (GroupNorm, 4, 2, 1e-3)
    assert (type(batch), batch.momentum, batch.replicates, batch.weight) == (BatchNorm, 0.3, 2, None)


def test_residual_scalar_scales_each_replicate_by_its_own():
    layer = ResidualScalar(3, initial=0.5).double()
    assert layer.scale.tolist() == [0.5] * 3
    with torch.no_grad():
        layer.scale.copy_(torch.tensor([2.0, -1.0, 0.0]))
    x, towards = normal(2, 6, 3, 3).requires_grad_(), normal(2, 6, 3, 3)
    y = layer(x)
    close(y, torch.cat([2 * x[:, :2], -x[:, 2:4], 0 * x[:, 4:]], 1))
    dx, ds = gradients(y, towards, x, layer.scale)
    close(dx, torch.cat([2 * towards[:, :2], -towards[:, 2:4], 0 * towards[:, 4:]], 1))
    close(ds, (x * towards).sum((0, 2, 3)).view(3, 2).sum(1))


@pytest.mark.parametrize("initial", [1e39, -1e39, float("inf"), float("nan")])
def test_a_residual_scalar_that_a_float32_does_not_hold_is_refused(initial):
    with pytest.raises(InputError, match=f"initial={re.escape(str(initial))}: must lie within ±3.4e"):
        ResidualScalar(initial=initial)


def outputs_of(model, kinds, x):
    """Name → output of every layer of these kinds."""
    outputs, hooks = {}, []
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            hooks.append(module.register_forward_hook(lambda m, i, y, name=name: outputs.update({name: y})))
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return outputs


def test_data_dependent_init_gives_every_pre_activation_mean_0_and_variance_1():
    model = build_model("vgg", Layers("weight_norm", replicates=2), (0, 1), width=4).double().eval()
    x = normal(16, 6, 32, 32)
    before = outputs_of(model, WeightNormConv2d, x)
    filters = {name: value.clone() for name, value in model.state_dict().items() if name.endswith("weight")}
    data_dependent_init(model, x)
    assert not any(module.training for module in model.modules())
    outputs = outputs_of(model, (WeightNormConv2d, WeightNormLinear), x)
    assert len(outputs) == 9
    for name, y in outputs.items():
        dims = (1,) if y.dim() == 3 else (0, 2, 3)
        torch.testing.assert_close(y.mean(dims), torch.zeros_like(y.mean(dims)), rtol=0, atol=1e-9)
        alive = y.var(dims, correction=0) > 0
        assert alive.float().mean() > 0.9  # a filter without any input stays constant
        torch.testing.assert_close(
            y.var(dims, correction=0)[alive], torch.ones_like(y.mean(dims))[alive], rtol=0, atol=1e-9
        )
        if name in before:
            assert (before[name].var(dims, correction=0) - 1).abs().max() > 0.01
    for name, value in filters.items():  # the directions are the same
        assert torch.equal(model.state_dict()[name], value)


def test_data_dependent_init_keeps_the_mode_and_the_running_means():
    model = build_model("resnet8", Layers("weight_norm", {"mean_only_bn": True}), width=4).double()
    model.train()
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    x = normal(8, 3, 8, 8)
    data_dependent_init(model, x)
    assert all(module.training for module in model.modules())
    assert kept
    assert all(torch.equal(buffer, kept[name]) for name, buffer in model.named_buffers())
    for y in outputs_of(model, WeightNormConv2d, x).values():  # the mean is mean-only batch norm's business
        close(y.var((0, 2, 3), correction=0), torch.ones(y.shape[1], dtype=torch.float64))


def test_data_dependent_init_of_replicates_is_that_of_each():
    x = normal(8, 6, 8, 8)
    both = build_model("resnet8", Layers("weight_norm", replicates=2), (3, 4), width=4).double()
    data_dependent_init(both, x)
    for index, (seed, part) in enumerate(zip((3, 4), x.chunk(2, 1), strict=True)):
        alone = build_model("resnet8", Layers("weight_norm"), (seed,), width=4).double()
        data_dependent_init(alone, part)
        for key, value in alone.state_dict().items():
            close(both.state_dict()[key].chunk(2)[index], value)


def test_data_dependent_init_leaves_a_dead_filter_finite():
    model = nn.Sequential(WeightNormConv2d(3, 4, 3), WeightNormLinear(4, 2))
    layer = model[0]
    data_dependent_init(layer, torch.zeros(4, 3, 5, 5))
    assert torch.isfinite(layer.gain).all()
    assert torch.isfinite(layer.bias).all()
    assert torch.equal(layer.gain, torch.ones(4))


def test_data_dependent_init_that_fails_leaves_the_model_as_it_was():
    model = build_model("resnet8", Layers("weight_norm", {"mean_only_bn": True}), width=4).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(RuntimeError):
        data_dependent_init(model, torch.zeros(2, 5, 8, 8))
    model(torch.randn(2, 3, 8, 8))
    assert not model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", [name for name in NORMS if name != "weight_norm" and NORMS[name].model is None])
def test_data_dependent_init_leaves_other_methods_untouched(name):
    model = build_model("resnet8", Layers(name), width=8).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    data_dependent_init(model, torch.randn(4, 3, 8, 8))
    assert not model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
