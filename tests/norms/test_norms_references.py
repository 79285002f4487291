"""The methods of activation.py, local.py, mixed.py and running.py, each against its formula written out in float64."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import timm.layers
import torch
from torch import nn
from torch.nn import functional as F

from normbench.errors import InputError
from normbench.norms import Layers
from normbench.norms.activation import (
    EvoNormB0,
    EvoNormS0,
    FilterResponse,
    FilterResponseThreshold,
    ProxyNorm,
    scale_shift,
)
from normbench.norms.batch import BatchNorm, precise_statistics
from normbench.norms.evaluation import normalized_by, of_batches
from normbench.norms.local import DivisiveNorm, DynamicTanh, RMSNorm
from normbench.norms.mixed import ExtendedBatchNorm, SwitchableNorm
from normbench.norms.running import BatchRenorm, OnlineNorm, grow_limits
from normbench.norms.sample import LayerNorm2d

C, R, EPS, NEW = 6, 3, 1e-2, 0.3  # an ε large enough to be seen; NEW: the weight of a new batch


def features(seed, n=4, replicates=1, size=5):
    generator = torch.Generator().manual_seed(seed)
    shape = (n, replicates * C, size, size - 1)
    spread = 0.5 + torch.rand(1, shape[1], 1, 1, generator=generator, dtype=torch.float64)
    shift = torch.randn(1, shape[1], 1, 1, generator=generator, dtype=torch.float64)
    return spread * torch.randn(shape, generator=generator, dtype=torch.float64) + shift


def randomized(layer, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.3 + torch.rand(parameter.shape, generator=generator, dtype=torch.float64))
    return layer.double()


def close(ours, reference, tolerance=1e-10):
    torch.testing.assert_close(ours, reference, rtol=tolerance, atol=tolerance)


# --- The formulas: of x N×C×H×W, the parameters p and the running averages s of one replicate. ------------------------


def affine(y, p):
    return p["weight"][:, None, None] * y + p["bias"][:, None, None]


def biased(x, *dims):
    return ((x - x.mean(dims, keepdim=True)) ** 2).mean(dims, keepdim=True)


def averages(s, mean, var):
    """The running averages take a batch's mean and variance, C each."""
    s["mean"] = (1 - NEW) * s["mean"] + NEW * mean.detach().flatten()
    s["var"] = (1 - NEW) * s["var"] + NEW * var.detach().flatten()


def unbiased(x):
    n = x.numel() // C
    return biased(x, 0, 2, 3) * n / (n - 1)


def frn(x, p, s, training):
    eps = EPS + p["learned_eps"].abs() if "learned_eps" in p else EPS
    y = affine(x / torch.sqrt((x * x).mean((2, 3), keepdim=True) + eps), p)
    return torch.where(y > p["tau"][:, None, None], y, p["tau"][:, None, None]) if "tau" in p else y


def evonorm_s0(x, p, s, training):
    parts = [F.silu(p["v"][k] * x[:, k]) / p["v"][k] for k in range(C)]  # x·σ(vx)
    deviations = [torch.sqrt(biased(x[:, 2 * g : 2 * g + 2], 1, 2, 3) + EPS)[:, 0] for g in range(3)]
    return affine(torch.stack([part / deviations[k // 2] for k, part in enumerate(parts)], 1), p)


def evonorm_b0(x, p, s, training):
    var = biased(x, 0, 2, 3).flatten() if training else s["var"]
    if training:
        averages(s, 0 * var, unbiased(x))
    batch = torch.sqrt(var + EPS)[:, None, None].expand_as(x)
    image = p["v"][:, None, None] * x + torch.sqrt(biased(x, 2, 3) + EPS)
    return affine(x / torch.where(batch > image, batch, image), p)


def proxy(x, p, s, training):
    grouped = x.reshape(len(x), 2, -1)
    y = ((grouped - grouped.mean(2, keepdim=True)) / torch.sqrt(biased(grouped, 2) + EPS)).view_as(x)
    quantiles = torch.tensor([NormalDist().inv_cdf((k + 0.5) / 256) for k in range(256)], dtype=x.dtype)
    z, of_proxy = torch.tanh(affine(y, p)), torch.tanh(p["weight"][:, None] * quantiles + p["bias"][:, None])
    scale = torch.sqrt(biased(of_proxy, 1) + 0.03)
    return (z - of_proxy.mean(1)[:, None, None]) / scale[:, :, None]


def batch_renorm(x, p, s, training):
    if not training:
        return affine((x - s["mean"][:, None, None]) / torch.sqrt(s["var"] + EPS)[:, None, None], p)
    mean, deviation = x.mean((0, 2, 3)), torch.sqrt(biased(x, 0, 2, 3).flatten() + EPS)
    old = torch.sqrt(s["var"] + EPS)
    r = (deviation / old).detach().clamp(1 / 1.5, 1.5)
    d = ((mean - s["mean"]) / old).detach().clamp(-0.5, 0.5)
    averages(s, mean, unbiased(x))
    y = (x - mean[:, None, None]) / deviation[:, None, None] * r[:, None, None] + d[:, None, None]
    return affine(y, p)


def switchable(x, p, s, training):
    mean_in, var_in = x.mean((2, 3)), x.var((2, 3))  # the authors': unbiased
    power = var_in + mean_in**2
    mean_ln = mean_in.mean(1, keepdim=True)
    var_ln = power.mean(1, keepdim=True) - mean_ln**2
    mean_bn, var_bn = s["mean"], s["var"]
    if training:
        mean_bn = mean_in.mean(0)
        var_bn = power.mean(0) - mean_bn**2
        averages(s, mean_bn, var_bn)
    a, b = (p[name].exp().flatten() / p[name].exp().sum() for name in ("mean_weight", "var_weight"))
    mean = a[0] * mean_in + a[1] * mean_ln + a[2] * mean_bn
    var = b[0] * var_in + b[1] * var_ln + b[2] * var_bn
    return affine((x - mean[:, :, None, None]) / torch.sqrt(var + EPS)[:, :, None, None], p)


def extended_batch(x, p, s, training, about="all"):
    mean = x.mean((0, 2, 3)) if training else s["mean"]
    if training:
        centre = x.mean() if about == "all" else mean[:, None, None]
        square = ((x - centre) ** 2).mean()
        averages(s, mean, unbiased(x))
    else:
        square = s["var"].mean() + (mean.var(correction=0) if about == "all" else 0)
    return affine((x - mean[:, None, None]) / torch.sqrt(square + EPS), p)


def about_channels(x, p, s, training):
    return extended_batch(x, p, s, training, "channel")


def rms(x, p, s, training, dims=(1,)):
    return p["weight"][:, None, None] * x / torch.sqrt((x * x).mean(dims, keepdim=True) + EPS)


def rms_of_sample(x, p, s, training):
    return rms(x, p, s, training, (1, 2, 3))


def dyt(x, p, s, training):
    a = p["alpha"] * x
    return affine((a.exp() - (-a).exp()) / (a.exp() + (-a).exp()), p)


def divisive(x, p, s, training):
    """Position by position."""

    def local(maps):
        padded, rows, columns = F.pad(maps, (1, 1, 1, 1)), *maps.shape[2:]
        windows = [padded[:, :, i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
        return sum(windows).mean(1, keepdim=True) / 9

    v = x - local(x)
    return affine(v / torch.sqrt(0.7**2 + local(v * v)), p)


CASES = {
    "frn": (lambda r: FilterResponse(C, r, eps=EPS), frn),
    "frn, threshold": (lambda r: FilterResponseThreshold(C, r, eps=EPS), frn),
    "frn, learned eps": (lambda r: FilterResponseThreshold(C, r, eps=EPS, learn_eps=True), frn),
    "evonorm_s0": (lambda r: EvoNormS0(C, r, num_groups=3, eps=EPS), evonorm_s0),
    "evonorm_b0": (lambda r: EvoNormB0(C, r, eps=EPS, momentum=NEW), evonorm_b0),
    "proxy": (lambda r: ProxyNorm(C, r, num_groups=2, eps=EPS, act=nn.Tanh), proxy),
    "batch_renorm": (lambda r: BatchRenorm(C, r, r_max=1.5, d_max=0.5, eps=EPS, momentum=NEW), batch_renorm),
    "switchable": (lambda r: SwitchableNorm(C, r, eps=EPS, momentum=NEW), switchable),
    "extended_batch": (lambda r: ExtendedBatchNorm(C, r, eps=EPS, momentum=NEW), extended_batch),
    "about channels": (lambda r: ExtendedBatchNorm(C, r, about="channel", eps=EPS, momentum=NEW), about_channels),
    "rms": (lambda r: RMSNorm(C, r, eps=EPS), rms),
    "rms of a sample": (lambda r: RMSNorm(C, r, over="sample", eps=EPS), rms_of_sample),
    "dyt": (lambda r: DynamicTanh(C, r), dyt),
    "divisive": (lambda r: DivisiveNorm(C, r, window=3, sigma=0.7), divisive),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_its_formula_for_each_replicate_in_training_and_evaluation(name):
    """Outputs, gradients of inputs and parameters, running averages; R replicates as each alone."""
    make, formula = CASES[name]
    layer = randomized(make(R))
    zeros, start = torch.zeros(C, dtype=torch.float64), float(name != "switchable")
    states = [{"mean": zeros, "var": zeros + start} for _ in range(R)]
    for step in range(3):
        training = step < 2
        layer.train(training).zero_grad()
        x = features(step, replicates=R).requires_grad_()
        towards = features(10 + step, replicates=R)
        y = layer(x)
        y.backward(towards)
        for index, (part, state) in enumerate(zip(x.detach().chunk(R, 1), states, strict=True)):
            own = {
                key: value.detach().chunk(R)[index].clone().requires_grad_() for key, value in layer.named_parameters()
            }
            part.requires_grad_()
            expected = formula(part, own, state, training)
            expected.backward(towards.chunk(R, 1)[index])
            close(y.chunk(R, 1)[index], expected)
            close(x.grad.chunk(R, 1)[index], part.grad)
            for key, value in own.items():
                close(layer.get_parameter(key).grad.chunk(R)[index], value.grad)
    for key in ("mean", "var"):
        if isinstance(layer, BatchNorm):
            close(layer.get_buffer(f"running_{key}"), torch.cat([state[key] for state in states]))


EVERY = {name: make for name, (make, _) in CASES.items()} | {"online": lambda r: OnlineNorm(C, r)}


@pytest.mark.parametrize("name", EVERY)
def test_bfloat16_features_under_autocast_are_measured_in_float32(name):
    layer, exact = (randomized(EVERY[name](2)).float() for _ in range(2))
    x = (features(0, 8, 2, 8) + 8).bfloat16()  # a mean that a statistic in bfloat16 would miss
    expected = exact(x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype in (torch.bfloat16, torch.float32)
    assert ((y.float() - expected).abs() <= 2**-6 * (1 + expected.abs())).all()
    for key, buffer in layer.named_buffers():
        assert buffer.dtype == torch.float32
        close(buffer, exact.get_buffer(key), 1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_the_layout_in_memory_and_an_empty_batch_change_nothing(name):
    found = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        layer = randomized(EVERY[name](2))
        x = features(0, replicates=2).contiguous(memory_format=memory_format).requires_grad_()
        y = layer(x)
        y.backward(features(1, replicates=2))
        found.append([y, x.grad, *(parameter.grad for parameter in layer.parameters())])
    for one, other in zip(*found, strict=True):
        close(one, other)
    if name not in ("evonorm_b0", "evonorm_s0"):  # which convert_norms puts nowhere
        before = {key: buffer.clone() for key, buffer in layer.named_buffers()}
        assert layer(x[:0]).shape == x[:0].shape
        assert all(torch.equal(buffer, before[key]) for key, buffer in layer.named_buffers())


# --- Against timm, whose statistics are in float32. -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: FilterResponseThreshold(C, eps=EPS), lambda: timm.layers.FilterResponseNormTlu2d(C, eps=EPS)),
        (lambda: EvoNormS0(C, num_groups=3, eps=EPS), lambda: timm.layers.EvoNorm2dS0(C, groups=3, eps=EPS)),
        (lambda: EvoNormB0(C, eps=EPS), lambda: timm.layers.EvoNorm2dB0(C, eps=EPS)),
        (lambda: RMSNorm(C, eps=EPS), lambda: timm.layers.RmsNorm2d(C, eps=EPS)),
        (lambda: scale_shift(C), lambda: timm.layers.EvoNorm2dS0(C, groups=3, apply_act=False)),
    ],
)
def test_they_are_timms(ours, theirs):
    ours, theirs = randomized(ours()), theirs().double()
    theirs.load_state_dict({key: value for key, value in ours.state_dict().items() if key != "running_mean"})
    for training in (True, False):
        x = features(5).requires_grad_()
        other = x.detach().clone().requires_grad_()
        for module, images in ((ours, x), (theirs, other)):
            module.train(training)(images).backward(features(6))
        close(ours(x), theirs(other), 1e-5)
        close(x.grad, other.grad, 1e-5)


# --- What each is where it borders on another. ------------------------------------------------------------------------


def test_batch_renorm_is_batch_at_first_and_what_evaluation_is_without_limits():
    x = 3 * features(0) + 2
    layer, plain = randomized(BatchRenorm(C)), randomized(BatchNorm(C))
    grow_limits(nn.Sequential(layer), 0, 0.04)
    close(layer(x), plain(x))
    close(layer.running_var, plain.running_var)
    free = randomized(BatchRenorm(C, r_max=math.inf, d_max=math.inf))
    free.running_mean.uniform_(-1, 1)
    free.running_var.uniform_(0.5, 2)
    expected = free.eval()(x)
    close(free.train()(x), expected)


def test_its_limits_are_a_function_of_the_share_of_training_and_in_no_state():
    layer, found = BatchRenorm(C), {}
    assert (layer.r_limit, layer.d_limit) == (3, 5)
    for share in (0.9, 0.05, 0.15, 0.25, 0.225, 0.4):  # in any order
        grow_limits(nn.Sequential(layer), 7, share)
        found[share] = [layer.r_limit, layer.d_limit]
    r, d = lambda share: 1 + 2 * (share - 0.05) / 0.35, lambda share: 5 * (share - 0.05) / 0.2
    expected = {0.9: [3, 5], 0.05: [1, 0], 0.15: [r(0.15), d(0.15)], 0.25: [r(0.25), 5], 0.225: [2, d(0.225)]}
    for share, limits in (expected | {0.4: [3, 5]}).items():
        assert found[share] == pytest.approx(limits, rel=1e-6)
    assert set(layer.state_dict()) == {"weight", "bias", "running_mean", "running_var"}
    free = BatchRenorm(C, r_max=math.inf, d_max=math.inf)
    grow_limits(nn.Sequential(free), 0, 0.01)
    assert (free.r_limit, free.d_limit) == (1, 0)


def test_divisive_of_one_position_is_layer2d():
    ours, theirs = randomized(DivisiveNorm(C, window=1, sigma=0.1)), randomized(LayerNorm2d(C, eps=0.1**2))
    close(ours(features(0)), theirs(features(0)))


def test_evonorm_normalizes_nothing_where_no_activation_follows():
    for name in ("evonorm_s0", "evonorm_b0"):
        _, end = Layers(name).conv_norm(C, 8, 3)
        x = torch.randn(2, 8, 4, 4)
        assert torch.equal(end(x), x)


def test_proxy_of_a_normal_feature_has_mean_0_and_variance_1():
    layer = ProxyNorm(C, act=nn.ReLU, proxy_eps=1e-12).double()
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2)
        layer.bias.uniform_(-0.3, 0.3)
    y = layer(torch.randn(50, C, 40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    assert y.mean((0, 2, 3)).abs().max() < 0.02
    assert (y.var((0, 2, 3)) - 1).abs().max() < 0.05  # quantiles in the middle of 256 shares have less
    assert type(Layers("proxy", activation="elu").norm_act(C)[0].act) is nn.ELU


@pytest.mark.parametrize("kind", [EvoNormB0, SwitchableNorm, ExtendedBatchNorm, BatchRenorm])
def test_precise_statistics_of_one_batch_are_those_of_that_batch(kind):
    x = features(3, n=10, size=20)
    layer = randomized(kind(C, momentum=0.0))
    expected = layer.by_own_moments(x)[0]
    with precise_statistics(layer, lambda: layer(x)):
        close(layer.eval()(x), expected, 5e-3)  # unbiased beside biased, within a map: 1 in 380
    with normalized_by(layer, of_batches(10)):
        close(layer(x), expected, 5e-3)


@pytest.mark.parametrize(("share", "dims"), [(0, (2, 3)), (1, (1, 2, 3)), (2, (0, 2, 3))])
def test_switchable_with_all_weight_on_one_is_that_norm(share, dims):
    layer = SwitchableNorm(C).double()
    with torch.no_grad():
        for weight in (layer.mean_weight, layer.var_weight):
            weight[:, share] = 100
    x = features(0, n=8, size=20)
    expected = (x - x.mean(dims, keepdim=True)) / torch.sqrt(biased(x, *dims) + 1e-5)
    close(layer(x), expected, 5e-3)  # by variances unbiased within a map: 1 in 380


# --- Online normalization, sample after sample as the paper has it. ---------------------------------------------------


def online_by_hand(x, towards, state, a, b):
    """One batch N×C×H×W: y and x′ in numpy, the averages and controls in `state` moving on."""
    x, towards, y, scales, back = x.numpy(), towards.numpy(), [], [], []
    for one in x:
        scale = np.sqrt(state["var"] + EPS)
        y.append((one - state["mean"][:, None, None]) / scale[:, None, None])
        scales.append(scale)
        away = one.mean((1, 2)) - state["mean"]
        state["var"] = a * state["var"] + (1 - a) * one.var((1, 2)) + a * (1 - a) * away**2
        state["mean"] = state["mean"] + (1 - a) * away
    for one, of_one, scale in zip(towards, y, scales, strict=True):
        gradient = one - (1 - b) * state["v"][:, None, None] * of_one
        state["v"] = state["v"] + (gradient * of_one).mean((1, 2))
        gradient = gradient / scale[:, None, None] - (1 - b) * state["u"][:, None, None]
        state["u"] = state["u"] + gradient.mean((1, 2))
        back.append(gradient)
    return torch.from_numpy(np.stack(y)), torch.from_numpy(np.stack(back))


def test_online_is_the_papers_recursion_for_each_replicate_over_batches():
    how = {"forward_decay": 0.9, "backward_decay": 0.8, "layer_scaling": False, "affine": False, "eps": EPS}
    layer = OnlineNorm(C, R, **how).double()
    states = [{"mean": np.zeros(C), "var": np.ones(C), "u": np.zeros(C), "v": np.zeros(C)} for _ in range(R)]
    for step in range(3):
        x, towards = features(step, 5, R).requires_grad_(), features(10 + step, 5, R)
        y = layer(x)
        y.backward(towards)
        for index, state in enumerate(states):
            parts = (one.detach().chunk(R, 1)[index] for one in (x, towards))
            expected, back = online_by_hand(*parts, state, 0.9, 0.8)
            close(y.chunk(R, 1)[index], expected)
            close(x.grad.chunk(R, 1)[index], back)
    names = {"running_mean": "mean", "running_var": "var", "control_mean": "u", "control_scale": "v"}
    for buffer, name in names.items():
        close(layer.get_buffer(buffer), torch.from_numpy(np.concatenate([state[name] for state in states])))
    x = features(7, 2, R)
    mean, var = (layer.get_buffer(f"running_{name}")[:, None, None] for name in ("mean", "var"))
    close(layer.eval()(x), (x - mean) / torch.sqrt(var + EPS))


def test_online_scales_each_sample_of_each_replicate_after_gamma_and_beta():
    layer = randomized(OnlineNorm(C, R, eps=EPS))
    for training in (True, False):
        bare = OnlineNorm(C, R, eps=EPS, layer_scaling=False).double()
        bare.load_state_dict(layer.state_dict())
        x = features(0, replicates=R)
        parts = [
            part / torch.sqrt((part**2).mean((1, 2, 3), keepdim=True) + EPS)
            for part in bare.train(training)(x).chunk(R, 1)
        ]
        close(layer.train(training)(x), torch.cat(parts, 1))


def test_an_output_of_online_depends_on_the_samples_before_alone():
    x = features(0, 6)
    other = x.clone()
    other[3] += 1
    one, two = (OnlineNorm(C).double()(images) for images in (x, other))
    assert torch.equal(one[:3], two[:3])
    assert (one[4:] != two[4:]).all()


@pytest.mark.parametrize(
    ("make", "x", "blamed"),
    [
        (lambda: SwitchableNorm(C), torch.ones(4, C, 1, 1), "norm=switchable"),
        (lambda: ExtendedBatchNorm(C), torch.ones(1, C, 1, 1), "batch_size=1"),
        (lambda: BatchRenorm(C), torch.ones(1, C, 1, 1), "batch_size=1"),
        (lambda: EvoNormB0(C), torch.ones(1, C, 1, 1), "batch_size=1"),
        (lambda: EvoNormS0(C, num_groups=C), torch.ones(4, C, 1, 1), "num_groups=6"),
        (lambda: DivisiveNorm(1, window=1), torch.ones(4, 1, 3, 3), "num_channels=1"),
    ],
)
def test_a_statistic_over_a_single_value_is_refused(make, x, blamed):
    with pytest.raises(InputError, match=f"^{blamed}: .* single value"):
        make()(x)
