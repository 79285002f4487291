"""Networks without normalization, each against its formulas by a loop in float64, and what they give at the start."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normbench.errors import InputError
from normbench.models import build_model
from normbench.norms import NORMS, Layers
from normbench.norms.free import activation_gain, convolutions
from normbench.norms.plain import Conv2d, Linear
from normbench.training.optimizer import adaptive_units, clip_adaptively

DEPTHS = (8, 20, 56, 110)


def made(norm, model="resnet8", seeds=(3,), options=None, width=4, **more):
    return build_model(model, Layers(norm, options, replicates=len(seeds)), seeds, width=width, **more).double()


def shaken(model):
    """Every parameter another one than at the start: none is 0."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def agree(model, reference, x):
    """The same output, and the same gradients by inputs and parameters."""
    x.requires_grad_()
    asked = [x, *model.parameters()]
    ours, theirs = model(x)[0], reference(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    direction = normal(*theirs.shape, seed=9)
    gradients = [torch.autograd.grad((y * direction).sum(), asked, retain_graph=True) for y in (ours, theirs)]
    for mine, their in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-9, atol=1e-9)


# --- RescaleNet. ---


def rescale_reference(model, means=None):
    """The network by its formula. means: layer → what is taken off, gathered here from the inputs; None: the stored."""

    def shifted(layer, x, observing):
        axes = [0, *range(2, x.dim())]
        if observing is not None:
            means.setdefault(layer, []).append(x.mean(axes).detach())
            shift = layer.shift / 100 - torch.stack(means[layer]).mean(0)
        else:
            shift = layer.shift - (layer.mean if means is None else torch.stack(means[layer]).mean(0))
        return x + shift.view(1, -1, *[1] * (x.dim() - 2))

    def network(x, observing=None):
        stem = convolutions(model.stem)[0]
        x = shifted(stem, F.conv2d(x, stem.weight, padding=1), observing).relu()
        for number, block in enumerate(model.blocks):
            beta2 = 1 / (number + len(model.blocks))
            first, second = convolutions(block.branch)
            stride = x.shape[1] != first.weight.shape[0]
            y = F.conv2d(shifted(first, x, observing), first.weight, padding=1, stride=1 + stride).relu()
            y = F.conv2d(shifted(second, y, observing), second.weight, padding=1)
            for projection in convolutions(block.shortcut):
                x = F.conv2d(shifted(projection, F.avg_pool2d(x, 2), observing), projection.weight)
            x = (math.sqrt(1 - beta2) * x + y * block.sum.scale / math.sqrt(len(model.blocks))).relu()
        head = model.classifier
        return F.linear(shifted(head, x.mean((2, 3)), observing), head.weight[0], head.bias[0])

    return network


def test_rescale_is_its_formula_in_training_and_evaluation():
    model = shaken(made("rescale", shortcut="projection", options={"mean_batches": 2}))
    method, means = NORMS["rescale"], {}
    network = rescale_reference(model, means)
    for step in range(4):
        method.before_step(model, step, step / 4)
        observing = step if step < 2 else None
        # the means are gathered in both: once a training pass each
        if observing is not None:
            torch.testing.assert_close(
                model(normal(4, 3, 8, 8, seed=step))[0], network(normal(4, 3, 8, 8, seed=step), 0)
            )
        else:
            agree(model, network, normal(4, 3, 8, 8, seed=step))
    kept = {key: value.clone() for key, value in model.state_dict().items() if key.endswith("mean")}
    assert len(kept) == 10
    assert all(value.any() for value in kept.values())
    agree(model.eval(), network, normal(4, 3, 8, 8, seed=7))
    model.train()(normal(4, 3, 8, 8))
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in kept.items())


def test_rescale_gathers_in_training_passes_alone_and_not_without_batches():
    model, without = made("rescale"), made("rescale", options={"mean_batches": 0})
    for net in (model, without):
        NORMS["rescale"].before_step(net, 0, 0.0)
        net.eval()(normal(2, 3, 8, 8))
        assert not any(value.any() for key, value in net.state_dict().items() if key.endswith("mean"))
        net.train()(normal(2, 3, 8, 8))
    assert all(value.any() for key, value in model.state_dict().items() if key.endswith("mean"))
    assert not any(value.any() for key, value in without.state_dict().items() if key.endswith("mean"))
    forms = [NORMS["rescale"].form(model, step) for step in (0, 7, 8, 9)]
    assert forms == [0, 7, 8, 8]  # each that gathers is a step of its own
    assert NORMS["rescale"].form(without, 0) == NORMS["rescale"].form(without, 9)


@pytest.mark.parametrize("depth", DEPTHS)
def test_rescale_starts_with_the_coefficients_of_the_paper(depth):
    """Branch and shortcut together have a variance of 1: the product of a block's factors is 1/√(l+L)."""
    name, projection = f"resnet{depth}", {"shortcut": "projection"}
    model, plain = (made(norm, name, options=None, **projection) for norm in ("rescale", "none"))
    blocks = len(model.blocks)
    for number, (block, other) in enumerate(zip(model.blocks, plain.blocks, strict=True)):
        pairs = zip(convolutions(block.branch), convolutions(other.branch), strict=True)
        factors = [(a.weight / b.weight).mean().item() for a, b in pairs]
        coefficient = math.prod(factors) * block.sum.beta * block.sum.scale.item()
        assert coefficient == pytest.approx(1 / math.sqrt(number + blocks), rel=1e-6)
        assert block.sum.alpha**2 + coefficient**2 == pytest.approx(1, rel=1e-6)
        for a, b in zip(convolutions(block.shortcut), convolutions(other.shortcut), strict=True):
            torch.testing.assert_close(a.weight, b.weight / math.sqrt(2))


@pytest.mark.parametrize("depth", [6, 18, 54, 108])
def test_rescale_keeps_the_variance_where_its_derivation_holds(depth):
    """He's assumption, that an activation takes half of the second moment, made exact; and no borders."""
    model = made("rescale", "uniform", depth=depth, residual=True, width=32)
    for conv in convolutions(model.blocks):
        conv.padding_mode = "circular"
    x, variances = normal(8, 32, 6, 6), []
    with torch.no_grad():
        for block in model.blocks:
            first, second = convolutions(block.branch)
            x = block.sum(x, second(first(x) / math.sqrt(2)) / math.sqrt(2))
            variances.append(x.var().item())
    assert len(variances) == depth // 2
    assert all(abs(variance - 1) < 0.1 for variance in variances)


def test_channels_dropped_by_rescale_are_those_of_the_last_two_stages():
    model = made("rescale", "resnet8", seeds=(1, 2), options={"dropout": 0.5})
    shares = [[conv.share for conv in convolutions(block.branch)] for block in model.blocks]
    assert shares == [[0, 0], [0.5, 0.5], [0.5, 0.5]]
    layer = convolutions(model.blocks[1].branch)[0]
    layer.generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    x = normal(50, 8, 4, 4)
    kept = layer.eval()(x)
    dropped = layer.train()(x)
    whole = dropped.eq(0).all((2, 3))
    torch.testing.assert_close(dropped[~whole], 2 * kept[~whole])
    assert abs(whole.double().mean() - 0.5) < 5 * 0.5 / math.sqrt(whole.numel())
    with pytest.raises(InputError, match=r"norm\.dropout=1: must be at least 0"):
        made("rescale", options={"dropout": 1})


# --- Fixup. ---


def fixup_reference(model):
    def network(x):
        stem = convolutions(model.stem)[0]
        x = (F.conv2d(x, stem.weight, padding=1) + stem.after).relu()
        for block in model.blocks:
            first, second = convolutions(block.branch)
            end = block.branch[-1][-1]
            wider = x.shape[1] != first.weight.shape[0]
            y = (F.conv2d(x + first.before, first.weight, padding=1, stride=1 + wider) + first.after).relu()
            y = F.conv2d(y + second.before, second.weight, padding=1) * end.scale + end.shift
            if wider:
                x = F.avg_pool2d(x + block.shortcut.before, 1, stride=2)
                x = torch.cat([x, torch.zeros_like(x)], 1)
            x = (x + y).relu()
        head = model.classifier
        return F.linear(x.mean((2, 3)) + head.before, head.weight[0], head.bias[0])

    return network


def test_fixup_is_its_formula():
    model = shaken(made("fixup"))
    agree(model, fixup_reference(model), normal(4, 3, 8, 8))
    agree(model.eval(), fixup_reference(model), normal(4, 3, 8, 8, seed=1))


@pytest.mark.parametrize("depth", DEPTHS)
def test_fixup_starts_silent(depth):
    model = made("fixup", f"resnet{depth}")
    with torch.no_grad():
        assert not model(normal(2, 3, 8, 8)).any()
        x = model.stem(normal(2, 3, 8, 8))
        for block in model.blocks:
            assert not block.branch(x).any()
            x = block(x)


def test_fixup_draws_by_fan_out_and_the_number_of_branches():
    model = build_model("resnet20", Layers("fixup"), (0,), width=32, shortcut="projection")
    for block in model.blocks:
        first, second = convolutions(block.branch)
        expected = math.sqrt(2 / (9 * first.out_channels)) * len(model.blocks) ** -0.5
        assert first.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert not second.weight.any()
        for projection in convolutions(block.shortcut):
            assert projection.weight.std().item() == pytest.approx(math.sqrt(2 / projection.out_channels), rel=0.1)
    assert convolutions(model.stem)[0].weight.std().item() == pytest.approx(math.sqrt(1 / 3 / 27), rel=0.1)
    factors = NORMS["fixup"].lr_factor(model)
    weights = {module.weight for module in model.modules() if isinstance(module, Conv2d | Linear)}
    assert set(factors.values()) == {0.1}
    assert factors.keys() | weights == set(model.parameters())
    assert not factors.keys() & weights


def test_logits_of_fixup_move_as_far_at_every_depth():
    """Five steps of SGD at the rates of the method: no power of the depth."""
    moved = []
    for depth in DEPTHS[:3]:
        model, x = made("fixup", f"resnet{depth}", width=8), normal(16, 3, 16, 16)
        factors, labels = NORMS["fixup"].lr_factor(model), torch.arange(16) % 10
        for _ in range(5):
            loss = F.cross_entropy(model(x)[0], labels)
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= 0.1 * factors.get(parameter, 1.0) * gradient
        moved.append(model(x)[0].norm().item())
    slope = math.log(moved[-1] / moved[0]) / math.log(DEPTHS[2] / DEPTHS[0])
    assert abs(slope) < 0.1


# --- Normalizer-free networks. ---


def test_the_gains_of_activations_are_the_published_ones():
    published = {nn.ReLU: 1.7139588594, nn.GELU: 1.7015043497, nn.SiLU: 1.7881293297, nn.Tanh: 1.5939117670}
    for kind, gain in published.items():  # theirs are of samples
        assert activation_gain(kind()) == pytest.approx(gain, rel=2e-3)
    assert activation_gain(nn.ReLU()) == pytest.approx(math.sqrt(2 / (1 - 1 / math.pi)), rel=1e-6)


def standardized(conv, row):
    """A filter by the paper's equation, a number at a time."""
    values = conv.weight[row].flatten().tolist()
    mean = sum(values) / len(values)
    var = sum((value - mean) ** 2 for value in values) / len(values)
    return [(value - mean) / math.sqrt(max(len(values) * var, 1e-4)) * conv.gain[row].item() for value in values]


@pytest.mark.parametrize("shortcut", ["pad", "projection"])
def test_scaled_ws_is_its_formula(shortcut):
    """f(β·γ·act(x)) with the filters as they are, in place of factors on them."""
    model, gain = shaken(made("scaled_ws", "preact_resnet8", shortcut=shortcut)), math.sqrt(2 / (1 - 1 / math.pi))

    def filters(conv):
        weight = conv.weight
        var, mean = weight.var((1, 2, 3), correction=0, keepdim=True), weight.mean((1, 2, 3), keepdim=True)
        return (weight - mean) / (weight[0].numel() * var).clamp(min=1e-4).sqrt() * conv.gain.view(-1, 1, 1, 1)

    def network(x):
        stem = convolutions(model.stem)[0]
        x, variance = F.conv2d(x, filters(stem), stem.bias, padding=1).relu(), 1 / gain**2
        for number, block in enumerate(model.blocks):
            first, second = convolutions(block.branch)
            stride = 1 + (number > 0)
            rectified = shortcut == "pad" or number < 2  # values above 0, from the stem on to a projection
            y = (x if number == 0 else x.relu()) * (1 if rectified else gain) / math.sqrt(variance)
            if number == 0:
                shortcut_of_x = x
            elif shortcut == "projection":
                (conv,) = convolutions(block.shortcut)
                shortcut_of_x, variance = F.conv2d(y, filters(conv), conv.bias, stride=2), 1.0
            else:
                half = x[:, :, ::2, ::2]
                shortcut_of_x, variance = torch.cat([half, torch.zeros_like(half)], 1), variance / 2
            y = gain * F.conv2d(y, filters(first), first.bias, stride=stride, padding=1).relu()
            y = F.conv2d(y, filters(second), second.bias, padding=1)
            x, variance = shortcut_of_x + 0.2 * block.branch[-1][-1].scale * y, variance + 0.2**2
        head = model.classifier
        return F.linear(x.relu().mean((2, 3)), head.weight[0], head.bias[0])

    conv = convolutions(model.blocks)[0]
    by_loop = torch.tensor(standardized(conv, 1), dtype=torch.float64) * conv.factor
    torch.testing.assert_close(conv.filters()[1].flatten(), by_loop)
    agree(model, network, normal(4, 3, 8, 8))


@pytest.mark.parametrize("shortcut", ["pad", "projection"])
def test_the_variance_of_normalizer_free_blocks_is_the_expected_one(shortcut):
    options = {"initial": 1.0}
    model = made("scaled_ws", "preact_resnet20", options=options, width=32, shortcut=shortcut)
    for conv in convolutions(model):
        conv.padding_mode = "circular" if conv.kernel_size == (3, 3) else "zeros"  # borders would lose some
    expected, found = 1 - 1 / math.pi, []
    expected /= 2  # of an activated normal variable
    with torch.no_grad():
        x = model.stem(normal(16, 3, 32, 32))
        for block in model.blocks:
            x = block(x)
            if convolutions(block.shortcut):
                expected = 1.0
            elif not isinstance(block.shortcut, nn.Identity):
                expected /= 2
            expected += 0.2**2
            found.append(x.var((0, 2, 3), correction=0).mean().item() / expected)
    assert len(found) == 9
    # A projection cuts what branches take below 0 of the stem's activated output: its block gives a third less.
    assert all(abs(ratio - 1) < (0.25 if shortcut == "pad" else 0.35) for ratio in found)


def test_adaptive_clipping_is_by_unit_and_spares_the_classifier():
    model = made("scaled_ws", "preact_resnet8", seeds=(1, 2))
    for parameter in model.parameters():
        parameter.grad = 3 * normal(*parameter.shape, seed=parameter.numel())
    before = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    clip_adaptively(adaptive_units(model, 2), 0.5)
    clipped = 0
    for name, parameter in model.named_parameters():
        if name.startswith("classifier"):
            assert torch.equal(parameter.grad, before[name])
            continue
        units = parameter.unbind(0) if parameter.dim() == 4 else parameter.chunk(2)
        gradients = before[name].unbind(0) if parameter.dim() == 4 else before[name].chunk(2)
        now = parameter.grad.unbind(0) if parameter.dim() == 4 else parameter.grad.chunk(2)
        for unit, gradient, mine in zip(units, gradients, now, strict=True):
            most = 0.5 * max(unit.detach().norm().item(), 1e-3)
            clipped += gradient.norm().item() > most
            factor = min(1.0, most / gradient.norm().item())
            torch.testing.assert_close(mine, gradient * factor, rtol=1e-9, atol=1e-12)
    assert clipped


def test_a_linear_layer_is_clipped_by_feature():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = Linear(4, 3, replicates=2).double()

    net = Net()
    net.layer.weight.grad, net.layer.bias.grad = normal(2, 3, 4), normal(2, 3)
    before = net.layer.weight.grad.clone()
    clip_adaptively(adaptive_units(net, 2), 0.1)
    for r in range(2):
        for row in range(3):
            most = 0.1 * net.layer.weight[r, row].detach().norm()
            torch.testing.assert_close(
                net.layer.weight.grad[r, row], before[r, row] * min(1.0, float(most / before[r, row].norm()))
            )


# --- Mean-field scaling. ---


@pytest.mark.parametrize("gammas", [[0.5, 0.7, 1.0], [1.0, 0.5]])
def test_mean_field_is_its_formula(gammas):
    layers = Layers("mean_field", {"gammas": gammas}, activation="sigmoid")
    model = build_model("mlp", layers, (3,), width=9, depth=len(gammas)).double()
    *hidden, output = [module for module in model.modules() if isinstance(module, Conv2d | Linear)]

    def network(x):
        x = x.flatten(1)
        for layer, gamma in zip(hidden, gammas, strict=True):
            x = 9**-gamma * torch.sigmoid(F.linear(x, layer.weight.flatten(1), layer.bias))
        return F.linear(x, output.weight[0], output.bias[0])

    agree(model, network, normal(4, 3, 32, 32))


def test_mean_field_draws_as_the_authors_do():
    layers = Layers("mean_field", {"gammas": [0.5, 0.5, 0.5]}, activation="sigmoid", replicates=2)
    model = build_model("mlp", layers, (3, 4), width=100)
    *hidden, output = [module for module in model.modules() if isinstance(module, Conv2d | Linear)]
    for layer in hidden:
        assert abs(layer.weight.mean()) < 0.05
        assert layer.weight.std().item() == pytest.approx(1, abs=0.05)
    assert output.weight.min() >= 0
    assert output.weight.max() <= 1
    assert output.weight.mean().item() == pytest.approx(0.5, abs=0.05)
    assert 0.05 < output.bias.abs().max() <= 0.1
    assert not torch.equal(*output.weight)


@pytest.mark.parametrize(
    ("gammas", "rates"),
    [
        ([0.5, 0.5, 0.5], [1e-6, 1e-4, 1e-2, 1e-2]),
        ([1.0, 1.0, 1.0], [1, 100, 100, 1]),
        ([0.5, 0.5], [1e-4, 1e-2, 1e-2]),
        ([1.0, 1.0], [1, 100, 1]),
    ],
)
def test_mean_field_rates_are_those_of_the_table(gammas, rates):
    model = build_model("mlp", Layers("mean_field", {"gammas": gammas}), (0,), width=100, depth=len(gammas))
    factors = NORMS["mean_field"].lr_factor(model)
    layers = [module for module in model.modules() if isinstance(module, Conv2d | Linear)]
    assert [factors[layer.weight] for layer in layers] == pytest.approx(rates)
    assert [factors[layer.bias] for layer in layers] == pytest.approx(rates)


def test_the_output_of_a_mean_field_network_spreads_by_its_outer_exponent():
    """Over draws of the output weights its variance is N^(1−2γ) up to a factor: slope in log N."""
    for gamma in (0.5, 1.0):
        spread = []
        for width in (50, 400):
            layers = Layers("mean_field", {"gammas": [1.0, gamma]}, activation="sigmoid", replicates=20)
            model = build_model("mlp", layers, range(20), width=width, depth=2)
            x = normal(1, 3, 32, 32).float().repeat(1, 20, 1, 1)
            spread.append((model(x) - model.classifier.bias.unsqueeze(1)).detach().var(2).mean().item())
        slope = math.log(spread[1] / spread[0]) / math.log(400 / 50)
        assert slope == pytest.approx(1 - 2 * gamma, abs=0.25)


def test_what_mean_field_cannot_be_is_told():
    with pytest.raises(InputError, match="norm=mean_field: is for model=mlp alone, not for model=resnet8"):
        build_model("resnet8", Layers("mean_field"))
    with pytest.raises(InputError, match=r"norm\.gammas=\[1\.0, 1\.0, 1\.0\]: must be 2 numbers"):
        build_model("mlp", Layers("mean_field"), depth=2)
    with pytest.raises(InputError, match=r"model\.depth=4: norm=mean_field has rates for 2 and 3 hidden layers"):
        build_model("mlp", Layers("mean_field"), depth=4)
    with pytest.raises(InputError, match=r"norm\.gammas=\[2\]: must be numbers from 0\.5 to 1"):
        build_model("mlp", Layers("mean_field", {"gammas": [2]}))


def test_groups_of_so_many_channels_are_so_many_groups():
    x = normal(3, 2 * 8, 4, 4)
    for channels, groups in ((1, 8), (4, 2), (8, 1)):
        layer = Layers("group", {"channels_per_group": channels}, replicates=2).norm_act(8)[0].double()
        torch.testing.assert_close(layer(x), F.group_norm(x, 2 * groups))
    with pytest.raises(InputError, match=r"norm\.channels_per_group=3: does not divide the 8 channels"):
        Layers("group", {"channels_per_group": 3}).norm_act(8)
