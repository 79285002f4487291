"""LSTM and transformer against torch's, against loops by the papers' formulas, and replicate by replicate."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normbench.errors import InputError
from normbench.models import build_model, stack_states, take_replicate
from normbench.models.lstm import Gates, _pixels, _rows
from normbench.norms import Layers

WIDTH, STEPS = 6, 32


def images(replicates=1, count=4, seed=0):
    return torch.randn(count, 3 * replicates, 32, 32, generator=torch.Generator().manual_seed(seed)).double()


def build(model, norm="none", options=None, seeds=(1,), **more):
    made = build_model(model, Layers(norm, options, replicates=len(seeds), activation="gelu"), seeds, **more)
    return made.double()


def shaken(model):
    """A network whose γ, β and biases are not what they start at, so that a mistake in one of them shows."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator).double()
    return model


def gradients(model, x):
    loss = model(x).square().sum()
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True))


def test_without_a_norm_it_is_torchs_lstm_forward_and_backward():
    model = shaken(build("lstm", width=WIDTH))
    theirs = nn.LSTM(96, WIDTH, batch_first=True).double()
    ours = {"weight_ih_l0": model.from_input.weight, "weight_hh_l0": model.gates.from_hidden.weight}
    with torch.no_grad():
        for name, weight in ours.items():
            getattr(theirs, name).copy_(weight[0])
        theirs.bias_ih_l0.copy_(model.gates.bias[0])
        theirs.bias_hh_l0.zero_()
    x = images()
    rows = x.permute(0, 2, 1, 3).flatten(2)  # the paper's order: a row a step, its colours one after the other
    last = theirs(rows)[0][:, -1]
    expected = last @ model.classifier.weight[0].T + model.classifier.bias[0]
    torch.testing.assert_close(model(x)[0], expected, rtol=0, atol=1e-12)
    found = gradients(model, x)
    expected.square().sum().backward()
    for name, own in ours.items():
        key = next(key for key, parameter in model.named_parameters() if parameter is own)
        torch.testing.assert_close(found[key][0], getattr(theirs, name).grad, rtol=1e-9, atol=1e-10)


def by_hand(model, x, placement, carry, normalize):
    """A step at a time, by the formulas of the three published cells; normalize(values, module, step)."""
    inputs, recurrent, b = model.from_input.weight[0], model.gates.from_hidden.weight[0], model.gates.bias[0]
    h = c = torch.zeros(len(x), WIDTH).double()
    for step, row in enumerate(x.permute(2, 0, 1, 3).flatten(2)):
        of_x, of_h = row @ inputs.T, h @ recurrent.T
        norms = model.gates.norms
        if placement == "gates":
            total = normalize(of_h, norms[0], step) + normalize(of_x, norms[1], step)
        elif placement == "per_gate":
            parts = (of_h + of_x).split(WIDTH, 1)
            total = torch.cat([normalize(part, norm, step) for part, norm in zip(parts, norms, strict=True)], 1)
        else:
            total = of_h + of_x
        i, f, g, o = (total + b).split(WIDTH, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        normalized = normalize(c, model.norm, step)
        h = torch.sigmoid(o) * torch.tanh(normalized)
        c = normalized if carry == "normalized" else c
    return h @ model.classifier.weight[0].T + model.classifier.bias[0]


def by_layer(values, norm, step):
    [only] = norm.norms
    return F.layer_norm(values, values.shape[1:], only.weight, only.bias, only.eps)


def by_batch(values, norm, step):
    """Each step by its own batch; γ and β are the first step's."""
    return F.batch_norm(values, None, None, norm.norms[0].weight, norm.norms[0].bias, True, 0.0, norm.norms[0].eps)


@pytest.mark.parametrize("carry", ["raw", "normalized"])
@pytest.mark.parametrize("placement", ["gates", "per_gate", "cell_only"])
@pytest.mark.parametrize(("norm", "normalize"), [("layer", by_layer), ("batch", by_batch)])
def test_every_cell_is_a_loop_by_its_formula(norm, normalize, placement, carry):
    model = shaken(build("lstm", norm, width=WIDTH, placement=placement, carry=carry))
    x = images()
    expected = by_hand(model, x, placement, carry, normalize)
    torch.testing.assert_close(model(x)[0], expected, rtol=0, atol=1e-10)
    wanted = torch.autograd.grad(expected.square().sum(), list(model.parameters()))
    for (name, found), want in zip(gradients(model, x).items(), wanted, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-8, atol=1e-9, msg=name)


def test_batch_statistics_are_of_each_step_with_scale_and_shift_in_common():
    model = build("lstm", "batch", {"momentum": 1.0}, width=WIDTH)
    norms = model.gates.norms[1].norms  # of W_x x
    assert len(norms) == STEPS
    assert len({id(norm.weight) for norm in norms}) == len({id(norm.bias) for norm in norms}) == 1
    x = images()
    model.train()(x)
    for step in (0, 17):
        of_x = x.permute(2, 0, 1, 3).flatten(2)[step] @ model.from_input.weight[0].T
        torch.testing.assert_close(norms[step].running_mean, of_x.mean(0))
        torch.testing.assert_close(norms[step].running_var, of_x.var(0))
    model.eval()
    alone = torch.cat([model(one) for one in x.split(1)], 1)
    torch.testing.assert_close(model(x), alone)  # nothing of its mates


def test_how_it_starts():
    model = build("lstm", "batch", width=WIDTH, init_gamma=0.1, seeds=(1, 2))
    scales = {parameter.unique().item() for name, parameter in model.named_parameters() if "norms.0.weight" in name}
    assert [round(scale, 6) for scale in scales] == [0.1]
    b = model.gates.bias.unflatten(1, (4, WIDTH))
    assert torch.equal(b[:, 1], torch.ones(2, WIDTH).double())
    assert not b[:, [0, 2, 3]].any()
    blocks = model.gates.from_hidden.weight.unflatten(1, (4, WIDTH))
    torch.testing.assert_close(blocks @ blocks.mT, torch.eye(WIDTH).double().expand(2, 4, -1, -1), atol=1e-6, rtol=0)
    assert not torch.equal(blocks[0], blocks[1])


def test_pixels_are_the_grey_values_of_coarse_images():
    x = images(2)
    found = _pixels(x, 2)
    assert found.shape == (2, 64, 4, 1)
    expected = x[3, 3:, 8:12, 20:24].mean()  # of the second replicate
    torch.testing.assert_close(found[1, 2 * 8 + 5, 3, 0], expected)
    assert torch.equal(_rows(x, 2)[1, 7, 3], x[3, 3:, 7].flatten())


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_blocks_are_torchs_encoder_layers(placement):
    model = shaken(build("vit", "layer", width=8, heads=2, depth=1, patch=16, placement=placement))
    how = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": placement == "pre"}
    theirs = nn.TransformerEncoderLayer(8, 2, 32, **how).double()
    attention, perceptron = model.layers
    same = {
        theirs.self_attn.in_proj_weight: attention.part.queries_keys_values.weight,
        theirs.self_attn.in_proj_bias: attention.part.queries_keys_values.bias,
        theirs.self_attn.out_proj.weight: attention.part.output.weight,
        theirs.self_attn.out_proj.bias: attention.part.output.bias,
        theirs.linear1.weight: perceptron.part.inner.weight,
        theirs.linear1.bias: perceptron.part.inner.bias,
        theirs.linear2.weight: perceptron.part.outer.weight,
        theirs.linear2.bias: perceptron.part.outer.bias,
        theirs.norm1.weight: attention.norm.weight,
        theirs.norm1.bias: attention.norm.bias,
        theirs.norm2.weight: perceptron.norm.weight,
        theirs.norm2.bias: perceptron.norm.bias,
    }
    with torch.no_grad():
        for own, ours in same.items():
            own.copy_(ours.view(own.shape))
    tokens = images()[:, 0, :4, :8]  # N×T×C
    expected = theirs(tokens)
    found = model.layers(tokens.unsqueeze(0))[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    wanted = torch.autograd.grad(expected.square().sum(), list(same))
    for gradient, want in zip(torch.autograd.grad(found.square().sum(), list(same.values())), wanted, strict=True):
        torch.testing.assert_close(gradient.view(want.shape), want, rtol=1e-9, atol=1e-10)


def test_a_token_is_a_patch_and_its_place():
    model = build("vit", width=8, depth=1, heads=2, patch=4, placement="pre")
    x = images()
    model.layers = nn.Identity()
    patch = x[:, :, 8:12, 20:24].flatten(1)
    token = patch @ model.embedding.weight[0].T + model.embedding.bias[0] + model.positions.weight[2 * 8 + 5]
    unfolded = F.unfold(x, 4, stride=4).mT @ model.embedding.weight[0].T + model.embedding.bias[0]
    tokens = unfolded + model.positions.weight
    torch.testing.assert_close(tokens[:, 2 * 8 + 5], token)
    expected = tokens.mean(1) @ model.classifier.weight[0].T + model.classifier.bias[0]
    torch.testing.assert_close(model(x)[0], expected)


@pytest.mark.parametrize(
    ("model", "norm"),
    [(model, norm) for model in ("lstm", "vit") for norm in ("none", "batch", "group", "weight_norm")],
)
def test_replicates_side_by_side_are_each_of_them_alone(model, norm):
    seeds, options = (1, 2, 3), {"num_groups": 2} if norm == "group" else None
    more = {"width": 8} | ({"depth": 1, "patch": 8, "heads": 2} if model == "vit" else {})
    stacked = build(model, norm, options, seeds, **more)
    alone = [build(model, norm, options, (seed,), **more) for seed in seeds]
    expected = stack_states([one.state_dict() for one in alone])
    for key, value in stacked.state_dict().items():
        assert torch.equal(value, expected[key]), key
    x = images(3)
    logits = stacked(x)
    logits.square().sum().backward()
    for index, (one, mine) in enumerate(zip(alone, x.chunk(3, 1), strict=True)):
        found = one(mine)
        torch.testing.assert_close(found[0], logits[index], rtol=0, atol=1e-12)
        found.square().sum().backward()
        for own, side in zip(one.parameters(), stacked.parameters(), strict=True):
            torch.testing.assert_close(own.grad, side.grad.chunk(3)[index], rtol=1e-9, atol=1e-11)
    kept = take_replicate(stacked.state_dict(), 1, 3)
    assert kept.keys() == alone[1].state_dict().keys()


@pytest.mark.parametrize(
    ("model", "norm", "options", "words"),
    [
        ("lstm", "layer", {"placement": "pre"}, "model.placement=pre"),
        ("lstm", "layer", {"carry": "both"}, "model.carry=both"),
        ("lstm", "layer", {"sequence": "columns"}, "model.sequence=columns"),
        ("lstm", "none", {"init_gamma": 0.1}, "model.init_gamma=0.1: norm=none has no γ"),
        ("vit", "layer", {"placement": "gates"}, "model.placement=gates"),
        ("vit", "layer", {"heads": 3}, "model.heads=3: must divide the width 64"),
        ("vit", "layer", {"patch": 5}, "model.patch=5: must divide 32"),
        ("vit", "weight_standardization", {}, "acts on convolutions"),
        ("lstm", "skipinit", {}, "acts on residual blocks of convolutions"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(model, norm, options, words):
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        build(model, norm, **options)


def test_a_norm_of_one_channel_only_has_nothing_to_say():
    with pytest.raises(InputError, match="single value"):
        build("lstm", "instance", width=WIDTH)(images())


def test_the_gates_can_be_watched_at_each_step():
    model, seen = build("lstm", "layer", width=WIDTH), []
    assert isinstance(model.gates, Gates)
    model.gates.register_forward_hook(lambda *_: seen.append(_[2]))
    model(images())
    assert len(seen) == STEPS
    assert seen[0].shape == (1, 4, 4 * WIDTH)
