"""The networks: sizes as published, initialization, options and what is said of wrong ones."""

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from normbench.errors import InputError
from normbench.models import MODELS, build_model
from normbench.models.inception import InceptionBlock
from normbench.models.resnet import BasicBlock, CifarResNet
from normbench.norms import ACTIVATIONS, NORMS, Layers
from normbench.norms.batch import BatchNorm
from normbench.norms.plain import Conv2d, Linear, ResidualScalar

RESIDUAL = [name for name in MODELS if name.startswith("resnet")]


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


def convolutions(model):
    return [layer for layer in model.modules() if isinstance(layer, Conv2d)]


@pytest.mark.parametrize(
    ("name", "exact", "published"),
    [
        # He et al. 2015, table 6, in millions; ResNet-18 with a CIFAR stem is the well-known 11.17M.
        ("resnet20", 269_722, 0.27),
        ("resnet32", 464_154, 0.46),
        ("resnet44", 658_586, 0.66),
        ("resnet56", 853_018, 0.85),
        ("resnet110", 1_727_962, 1.7),
        ("resnet18", 11_173_962, 11.17),
    ],
)
def test_parameter_counts_are_the_published_ones(name, exact, published):
    parameters = size(build_model(name, Layers("batch")))
    assert parameters == exact
    assert round(parameters / 1e6, len(str(published).partition(".")[2])) == published


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_vgg_has_as_many_weight_layers_as_its_name_says(depth):
    model = build_model("vgg", Layers("batch"), depth=depth, width=4)
    assert len(convolutions(model)) == depth - 3
    assert [conv.out_channels for conv in convolutions(model)][-1] == 32


@pytest.mark.parametrize("name", [name for name in RESIDUAL if name != "resnet18"])
def test_depth_of_the_cifar_family_counts_convolutions_and_the_classifier(name):
    model = build_model(name, Layers("batch"), width=2)
    assert len(convolutions(model)) + 1 == int(name.removeprefix("resnet"))


def test_conv4_is_the_published_network():
    """Its layers put together by hand, on the same weights, in float64."""
    model = build_model("conv4", Layers("group", {"num_groups": 4}), (5,), width=16).double()
    x = torch.randn(3, 3, 9, 7, dtype=torch.float64)
    stem, *others = convolutions(model)
    assert stem.bias is None  # a norm with a shift follows
    y = F.conv2d(x, stem.weight, padding=1)
    for conv in others:
        y = F.relu(F.group_norm(F.conv2d(y, conv.weight, padding=1), 4))
    expected = F.linear(y.mean((2, 3)), model.classifier.weight.view(10, 16))
    torch.testing.assert_close(model(x)[0], expected, rtol=1e-10, atol=1e-10)
    # Less the biases of the stem and of four convolutions, 150,666 parameters.
    assert size(build_model("conv4", Layers("batch"))) == 150_666 - 5 * 64


@pytest.mark.parametrize(
    ("name", "width", "widths"),
    [
        ("resnet8", 8, {8, 16, 32}),
        ("resnet18", 8, {8, 16, 32, 64}),
        ("vgg", 8, {8, 16, 32, 64}),
        ("inception", 8, {16, 8, 32}),
        ("conv4", 8, {8}),
    ],
)
def test_width_is_that_of_the_first_stage(name, width, widths):
    model = build_model(name, Layers("batch"), width=width)
    assert {conv.out_channels for conv in convolutions(model)} == widths
    assert convolutions(model)[0].out_channels == (16 if name == "inception" else width)
    if name == "inception":  # a branch has the width, a block four
        blocks = [block for block in model.modules() if isinstance(block, InceptionBlock)]
        x = torch.randn(2, 16, 8, 8)
        assert blocks[0](x).shape == (2, 32, 8, 8)
        assert model.classifier.in_features == 16 * width


@pytest.mark.parametrize("replicates", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_replicates_by_samples_by_classes(name, replicates):
    layers = Layers("batch", replicates=replicates)
    x = torch.randn(2, 3 * replicates, 32, 32)
    if not name.endswith(("32", "44", "56", "110")):  # the deep ones of the family differ in nothing but their depth
        assert build_model(name, layers, range(replicates), width=4)(x).shape == (replicates, 2, 10)
    model = build_model(name, layers, range(replicates), width=4, num_classes=7)
    assert model(x).shape == (replicates, 2, 7)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("lstm", "vit")])  # these have no maps
def test_maps_shrink_to_an_eighth_at_most(name):
    """Down to 4×4 on 32×32 images (VGG: 2×2), so that every method has a statistic at the last layer; or not at all."""
    model, sizes = build_model(name, Layers("none"), width=2), []
    for conv in convolutions(model):
        conv.register_forward_hook(lambda module, inputs, y: sizes.append(y.shape[-1]))
    model(torch.randn(1, 3, 32, 32))
    others = {"vgg": (32, 2), "resnet18": (32, 4), "mlp": (1, 1), "uniform": (8, 8), "conv4": (32, 32)}
    assert (max(sizes), min(sizes)) == others.get(name, (32, 8))


@pytest.mark.parametrize(("activation", "gain"), [("relu", 2**0.5), ("silu", 2**0.5), ("sigmoid", 1.0), ("tanh", 1.0)])
def test_filters_start_normal_with_the_gain_of_the_activation(activation, gain):
    model = build_model("resnet20", Layers("batch", activation=activation), (0,))
    z = torch.cat([conv.weight.flatten() * math.sqrt(conv.weight[0].numel()) / gain for conv in convolutions(model)])
    n = z.numel()
    assert abs(z.mean()) < 4 / math.sqrt(n)
    assert abs(z.std() - 1) < 4 / math.sqrt(2 * n)
    assert abs((z**4).mean() - 3) < 4 * math.sqrt(96 / n)  # a normal's fourth moment
    for conv in convolutions(model):
        std = gain / math.sqrt(conv.weight[0].numel())
        assert abs(conv.weight.std() / std - 1) < 5 / math.sqrt(2 * conv.weight.numel())
    linear = model.classifier.weight
    assert linear.abs().max() <= 1 / 8
    assert abs(linear.std() - 1 / 8 / math.sqrt(3)) < 0.01
    assert not model.classifier.bias.any()
    for layer in model.modules():
        if isinstance(layer, BatchNorm):
            assert layer.weight.eq(1).all()
            assert not layer.bias.any()


def test_biases_of_convolutions_start_at_zero():
    model = build_model("resnet8", Layers("none"))
    assert all(not conv.bias.any() for conv in convolutions(model))


def test_init_scale_multiplies_the_filters_and_nothing_else():
    plain, scaled = (build_model("resnet8", Layers("none"), (3,), init_scale=scale) for scale in (1.0, 4.0))
    for (key, a), b in zip(plain.named_parameters(), scaled.parameters(), strict=True):
        assert torch.equal(b, a if "classifier" in key else 4 * a)
    tenth = build_model("resnet8", Layers("none"), (3,), init_scale=0.1)
    for a, b in zip(convolutions(plain), convolutions(tenth), strict=True):
        torch.testing.assert_close(b.weight, 0.1 * a.weight)


@pytest.mark.parametrize("name", [name for name in NORMS if name not in ("rescale", "fixup", "mean_field")])
def test_every_method_starts_from_the_same_filters(name):
    reference = build_model("resnet8", Layers("batch", replicates=2), (7, 8), width=8)
    model = build_model("resnet8", Layers(name, replicates=2), (7, 8), width=8)
    kinds = (Conv2d, Linear)
    ours, theirs = ([m for m in net.modules() if isinstance(m, kinds)] for net in (model, reference))
    assert len(ours) == 8
    for mine, their in zip(ours, theirs, strict=True):
        assert torch.equal(mine.weight, their.weight)
        if name not in ("weight_standardization", "scaled_ws"):
            torch.testing.assert_close(mine.filters(), their.filters(), rtol=1e-6, atol=0)


def test_seeds_differ_and_repeat():
    one, again, other = (build_model("resnet8", Layers("batch"), (seed,)).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[key]) for key, value in one.items())
    assert not torch.equal(one["stem.0.0.weight"], other["stem.0.0.weight"])


@pytest.mark.parametrize("name", ["batch", "weight_norm", "none"])
def test_building_leaves_the_global_generator_untouched(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build_model("resnet8", Layers(name), dropout=0.5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    first, second = build_model("resnet8", Layers(name)), build_model("resnet8", Layers(name))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_activation_stands_in_every_place(activation):
    for name in ("resnet8", "vgg", "inception"):
        model = build_model(name, Layers("batch", activation=activation), width=2)
        found = [type(layer) for layer in model.modules() if type(layer) in ACTIVATIONS.values()]
        assert set(found) == {ACTIVATIONS[activation]}
        assert len(found) == len(convolutions(model))


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "vgg", "inception", "conv4"])
def test_dropout_acts_in_training_only(name):
    x = torch.randn(4, 3, 32, 32)
    plain, model = (build_model(name, Layers("layer"), width=4, dropout=p) for p in (0.0, 0.5))
    assert torch.equal(model.eval()(x), plain.eval()(x))
    model.train()
    plain.train()
    assert torch.equal(plain(x), plain(x))
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("name", [*RESIDUAL[:3], "resnet18"])
def test_skipinit_branches_are_silent_at_the_start(name):
    model = build_model(name, Layers("skipinit"), width=4).double()
    blocks = [layer for layer in model.modules() if isinstance(layer, BasicBlock)]
    assert sum(isinstance(layer, ResidualScalar) for layer in model.modules()) == len(blocks)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    features = model.stem(x)
    for block in blocks:
        assert not block.branch(features).any()
        shortcut = block.shortcut(features)
        features = block(features)
        assert torch.equal(features, shortcut.relu())
    loud = build_model(name, Layers("skipinit", {"initial": 1.0}), width=4).double()
    plain = build_model(name, Layers("none"), width=4).double()
    assert torch.equal(loud(x), plain(x))
    assert not torch.allclose(loud(x), model(x))


@pytest.mark.parametrize("method", ["batch", "group", "layer", "layer2d", "instance", "weight_standardization"])
def test_zero_init_residual_silences_the_branches(method):
    x = torch.randn(2, 3, 32, 32)
    for name in ("resnet8", "resnet18"):
        model = build_model(name, Layers(method, zero_init_residual=True), width=8)
        features = model.stem(x)
        for block in model.blocks:
            assert not block.branch(features).any()
            assert block.branch[0][1].weight.eq(1).all()
            features = block(features)
        assert features.any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: build_model("resnet21", Layers()),
            r"model=resnet21: unknown model; did you mean resnet\d+\? choices: conv4, ",
        ),
        (lambda: build_model("vgg", Layers(), depth=12), "model.depth=12: choices: 11, 13, 16, 19"),
        (
            lambda: build_model("vgg", Layers("skipinit")),
            "norm=skipinit: acts on residual branches, and model=vgg has none",
        ),
        (lambda: build_model("inception", Layers("skipinit")), "norm=skipinit: acts on residual branches"),
        (
            lambda: build_model("vgg", Layers(zero_init_residual=True)),
            "model.zero_init_residual=true: model=vgg has no residual branches",
        ),
        (
            lambda: build_model("resnet8", Layers("none", zero_init_residual=True)),
            "model.zero_init_residual=true: norm=none has no γ",
        ),
        (
            lambda: build_model("resnet8", Layers("group"), width=12),
            "norm.num_groups=8: does not divide the 12 channels of a layer; choices: 1, 2, 3, 4, 6, 12",
        ),
        (lambda: build_model("resnet8", Layers(), width=0), "model.width=0: must be an integer ≥ 1"),
        (lambda: build_model("vgg", Layers(), width=-4), "model.width=-4: must be an integer ≥ 1"),
        (lambda: build_model("inception", Layers(), width=0), "model.width=0: must be an integer ≥ 1"),
        (lambda: build_model("resnet18", Layers(), width=0), "model.width=0: must be an integer ≥ 1"),
        (lambda: build_model("resnet8", Layers(), dropout=1.0), "model.dropout=1.0: must be at least 0 and below 1"),
    ],
)
def test_what_cannot_be_built_is_told_in_a_line(build, message):
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.parametrize("depth", [2, 7, 9, 21])
def test_depth_of_the_cifar_family_is_6n_plus_2(depth):
    with pytest.raises(InputError, match=f"depth={depth}: must be 6n\\+2"):
        CifarResNet(Layers(), depth=depth)


STATE_KEYS = json.loads((Path(__file__).parent / "state_keys.json").read_text())


@pytest.mark.parametrize("pair", STATE_KEYS["keys"])
def test_the_state_has_the_keys_that_checkpoints_have(pair):
    name, method = pair.split("/")
    assert list(build_model(name, Layers(method), width=8).state_dict()) == STATE_KEYS["keys"][pair]


@pytest.mark.parametrize("name", STATE_KEYS["digests"])
def test_the_state_has_those_keys_in_their_order_for_every_method(name):
    """Digests of all keys, of the first 11 methods: an optimizer's state goes by the order of the parameters."""
    for method, digest in STATE_KEYS["digests"][name].items():
        keys = "\n".join(build_model(name, Layers(method), width=8).state_dict())
        assert hashlib.sha256(keys.encode()).hexdigest()[:12] == digest, method
