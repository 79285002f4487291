"""Internal covariate shift against passes made by hand and scipy; descent that ignores the normalization."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch.nn import functional as F

from normbench.config.resolve import resolve
from normbench.errors import InputError
from normbench.kernels import fastest
from normbench.measures import MEASURES
from normbench.measures.biases import biases_of, norm_of
from normbench.measures.shift import (
    Gradients,
    Values,
    compared,
    distance,
    drift,
    layers_of,
    spread_over,
    with_norms,
)
from normbench.models import build_model
from normbench.norms import Layers
from normbench.norms.batch import BatchNorm, ConstantBatchNorm
from normbench.norms.plain import Norm
from normbench.tasks import make_task
from normbench.training.network import Network
from normbench.training.schedule import configured_plan
from normbench.training.steps import steps

HOW = ("data=patterns", "device=cpu", "model.width=2", "batch_size=8", "data.train_size=32", "epochs=1")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def training(compose):
    """training("norm=…") → (network of two seeds in float64, task, plan), before its first step."""

    def make(*typed):
        config = resolve(compose(*HOW, "precision=float64", "replicates=2", "stack=2", "model=vgg", *typed))
        task = make_task(config, [0, 1], "cpu")
        return Network(config, task), task, configured_plan(config, task)

    return make


# --- As gradients see it. ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_gradient_after_the_layers_before_have_stepped(norm, training):
    """Each replicate's, by plain passes over models put together by hand; the first layer's change is 0, exactly."""
    network, task, plan = training(f"norm={norm}", "optim.warmup_samples=0")
    gradients = Gradients(network, task, 4)
    before, earlier = {name: value.clone() for name, value in network.model.state_dict().items()}, gradients.weights()
    next(steps(network, task, plan))
    after = {name: value.clone() for name, value in network.model.state_dict().items()}
    gradients.note(earlier, 0.0)
    assert all(torch.equal(value, after[name]) for name, value in network.model.state_dict().items())

    names = {id(parameter): name for name, parameter in network.model.named_parameters()}
    weights = [names[id(weight)] for weight, _ in gradients.layers]
    batch = task.batch(0, 0)
    found = {place: numbers for _, place, numbers in gradients.found}
    assert list(found) == spread_over(len(weights), 4) == [0, 3, 5, 8]
    for place, numbers in found.items():
        behind = {names[id(one)] for _, parameters in gradients.layers[:place] for one in parameters}
        both = []
        for mixed in (before, before | {name: after[name] for name in behind}):
            network.model.load_state_dict(mixed)
            network.model.zero_grad()
            logits = network.model.train()(batch.inputs)
            F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="sum").div(8).backward()
            weight = dict(network.model.named_parameters())[weights[place]]
            both.append(weight.grad.reshape(2, -1))
        g, h = both
        torch.testing.assert_close(numbers[0], g.norm(dim=1), rtol=1e-9, atol=0)
        torch.testing.assert_close(numbers[1], (g - h).norm(dim=1), rtol=1e-6, atol=1e-15)
        torch.testing.assert_close(numbers[2], F.cosine_similarity(g, h), rtol=1e-9, atol=0)
        assert bool((numbers[1] > 0).all()) is (place > 0)
    assert (found[0][1].tolist(), found[0][2].tolist()) == ([0, 0], [1, 1])
    assert gradients.told(0)["ics_relative"] > 1e-4


def test_every_parameter_belongs_to_one_layer():
    for name in ("resnet8", "preact_resnet8", "vgg", "inception"):
        model = build_model(name, Layers("batch"), width=8)
        layers = layers_of(model)
        owned = [id(parameter) for _, parameters in layers for parameter in parameters]
        assert sorted(owned) == sorted(map(id, model.parameters()))
        assert all(any(weight is one for one in parameters) for weight, parameters in layers)


def test_two_gradients_are_compared_replicate_by_replicate():
    one, other = normal(4, 3), normal(4, 3, seed=1)
    found = compared(one, other, 2)
    for index in range(2):
        g, h = (gradient[2 * index : 2 * index + 2].flatten().numpy() for gradient in (one, other))
        cosine = g @ h / np.linalg.norm(g) / np.linalg.norm(h)
        assert found[:, index].tolist() == pytest.approx([np.linalg.norm(g), np.linalg.norm(g - h), cosine])


def test_places_are_spread_from_the_first_to_the_last():
    assert (spread_over(9, 5), spread_over(3, 5), spread_over(10, 2)) == ([0, 2, 4, 6, 8], [0, 1, 2], [0, 9])


# --- As distributions. ------------------------------------------------------------------------------------------------


def test_distances_are_those_of_scipy():
    one, other = normal(2, 50, 3), 2 * normal(2, 50, 3, seed=1) + 1
    one[1, :, 2] = 4  # of a unit that does not vary nothing is told
    for index, units in ((0, range(3)), (1, range(2))):
        expected = [
            wasserstein_distance(one[index, :, c], other[index, :, c]) / one[index, :, c].numpy().std() for c in units
        ]
        assert distance(one, other)[index].item() == pytest.approx(np.mean(expected))


def test_drift_is_the_way_of_the_median_in_widths():
    values = normal(30, 100, 2).cumsum(0).numpy()
    percentiles = torch.from_numpy(np.percentile(values, [15, 50, 85], axis=1)).transpose(0, 1)
    way, ratio = drift(percentiles)
    low, median, high = np.percentile(values, [15, 50, 85], axis=1)
    assert way.tolist() == pytest.approx(np.abs(np.diff(median, axis=0)).sum(0) / (high - low).mean(0))
    assert ratio.tolist() == pytest.approx((high - low).max(0) / (high - low).min(0))
    percentiles[3, :, 1] = 1
    assert drift(percentiles)[0].isnan().tolist() == [False, True]


def test_the_percentiles_are_numpys_and_the_first_unit_wanders_as_the_median_one_does(training):
    network, task, plan = training("norm=batch", "optim.lr=1", "optim.warmup_samples=0")
    values, seen = Values(network, task, 20), []
    values.note(0)
    for _ in steps(network, task, plan):
        values.note(network.step)
    [before, after] = values.pairs[-1]
    hooks = [layer.register_forward_hook(lambda *of: seen.append(of[2].detach())) for layer in (before, after)]
    network.model.train()(task.first_inputs(20))
    for hook in hooks:
        hook.remove()
    drifts = drift(torch.stack(values.percentiles["after"])[:, :, 1])[0].numpy()
    rows = values.unit_rows(1, 3)
    units = [row["unit"] for row in rows[:3]]
    assert units == np.abs(drifts - np.sort(drifts)[(len(drifts) - 1) // 2]).argsort(kind="stable")[:3].tolist()
    for row in rows[-3:]:
        assert (row["step"], row["layer"]) == (plan.steps, values.places[-1] + 1)
        for maps, end in zip(seen, ("_before", ""), strict=True):
            middle = maps[:, maps.shape[1] // 2 + row["unit"], maps.shape[2] // 2, maps.shape[3] // 2]
            found = [row[f"p{share}{end}"] for share in (15, 50, 85)]
            assert found == pytest.approx(np.percentile(middle.numpy(), [15, 50, 85]), rel=1e-5)


def test_a_norm_is_paired_with_the_convolution_before_it():
    for norm, count in (("batch", 8), ("none", 8)):
        pairs = with_norms(build_model("vgg", Layers(norm), width=2))
        assert len(pairs) == count
        assert all(isinstance(after, Norm) is (norm == "batch") for _, after in pairs)


def test_a_run_tells_both_and_a_probe_of_values_alone_the_one(run):
    how = ("measure=shift", "measure.every=4", "measure.images=20", "model=vgg", "model.width=2", "epochs=1")
    result, rows, _ = run(*how, "replicates=2", "stack=2")
    alone, _, _ = run(*how, "seed=1", "measure.layers=0")
    for entry in result["replicates"]:
        assert all(entry[name] > 0 for name in ("ics", "ics_relative", "drift", "distance", "drift_before"))
        assert -1 <= entry["ics_cosine"] <= 1
    assert {row["layer"] for row in rows if row["cosine"]} == {"1", "3", "5", "7", "9"}
    assert {(row["change"], row["cosine"]) for row in rows if row["cosine"] and row["layer"] == "1"} == {("0.0", "1.0")}
    assert [row["step"] for row in rows if row["p50"] and row["seed"] == "0"] == ["0", "4", "8", "12"]
    assert len({row["unit"] for row in rows if row["p50_before"] and row["seed"] == "0"}) == 1
    [one] = alone["replicates"]
    assert one["test_acc"] == pytest.approx(result["replicates"][1]["test_acc"])
    assert (one["ics"], one["ics_cosine"]) == (None, None)
    assert one["drift"] == pytest.approx(result["replicates"][1]["drift"], rel=1e-3)


# --- Descent that ignores the normalization. --------------------------------------------------------------------------


def layer_of(**options):
    return Layers("batch", options).conv_norm(3, 4, 1).double().train()


def test_a_bias_before_a_norm_has_a_gradient_only_where_statistics_are_constants():
    """Of x̂ = (u + b − μ)/σ: 0 through μ and σ; Σ∂ℓ/∂x̂/σ with both as constants, and steps along it change nothing."""
    x, weights = normal(6, 3, 4, 4), normal(6, 4, 4, 4, seed=1)
    through, ignoring = layer_of(affine=False), layer_of(affine=False, detach_statistics=True)
    ignoring[0].load_state_dict(through[0].state_dict())
    losses = []
    for layer in (through, ignoring):
        loss = (layer(x) * weights).sum()
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert through[0].bias.grad.abs().max() < 1e-12
    std = (through[0](x).var((0, 2, 3), correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(ignoring[0].bias.grad, weights.sum((0, 2, 3)) / std, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        ignoring[0].bias -= 10 * ignoring[0].bias.grad
    assert (ignoring(x) * weights).sum().item() == pytest.approx(losses[0], rel=1e-9)
    assert norm_of(biases_of(ignoring), 1).item() > 1


def test_detached_statistics_are_those_of_the_batch_in_every_other_respect():
    x, layers = normal(6, 4, 3, 3) + 2, [BatchNorm(4).double(), ConstantBatchNorm(4, 1, True, 2.0).double()]
    outputs = [layer.train()(x) for layer in layers]
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*[layer.running_mean for layer in layers], rtol=1e-12, atol=0)
    torch.testing.assert_close(*[layer.running_var for layer in layers], rtol=1e-12, atol=0)
    with pytest.raises(InputError, match="batch_size=1: the batch statistic of a channel"):
        layers[1](normal(1, 4, 1, 1))


def test_running_statistics_stand_in_from_their_share_of_training_on(training):
    network, task, plan = training("norm.statistics=running", "norm.running_from=0.5")
    layers = [module for module in network.model.modules() if isinstance(module, BatchNorm)]
    frozen, means, x = [], [], task.first_inputs(8)
    for _ in steps(network, task, plan):
        frozen.append(layers[0].frozen)
        means.append(torch.cat([layer.running_mean for layer in layers]))
    assert frozen == [False, False, True, True]
    assert [torch.equal(*two) for two in pairwise(means)] == [False, True, True]
    with torch.no_grad():
        assert torch.equal(network.model.train()(x), network.model.eval()(x))


@pytest.mark.parametrize("option", ["norm.detach_statistics=true", "norm.statistics=running"])
def test_the_kernels_leave_them_to_torch(option, compose):
    config = resolve(compose(*HOW, option))
    model = build_model("resnet8", Layers("batch", {"detach_statistics": True}), width=2)
    assert fastest(config, model, 1) is model
    with pytest.raises(InputError, match="kernels=native"):
        MEASURES["train"].check(resolve(compose(*HOW, option, "kernels=native")), 1)
    if "running" in option:  # a recorded step would not change on the way
        graph = config.with_value("kernels", "graph").with_value("device", "cuda")
        with pytest.raises(InputError, match=r"kernels=graph: norm\.statistics=running"):
            fastest(graph, model, 1)


def test_a_run_of_biases(run):
    how = ("measure=biases", "model.width=2", "norm.affine=false", "measure.every=4", "epochs=1")
    through, _, _ = run(*how)
    ignoring, rows, _ = run(*how, "norm.detach_statistics=true")
    [one], [other] = through["replicates"], ignoring["replicates"]
    assert other["bias_norm"] > 1e4 * one["bias_norm"]
    assert other["bias_growth"] > 0
    assert ([row["step"] for row in rows], float(rows[-1]["bias_norm"])) == (["4", "8", "12"], other["bias_norm"])


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("measure=shift", "measure.layers=1"), r"measure\.layers=1: must be an integer ≥ 2, or 0"),
        (("measure=shift", "measure.every=0"), r"measure\.every=0: must be an integer ≥ 1"),
        (("measure=shift", "measure.images=1"), r"measure\.images=1: must be an integer ≥ 2"),
        (("measure=shift", "measure.units=0"), r"measure\.units=0: must be an integer ≥ 1"),
        (("measure=biases",), r"norm=batch: no convolution has a bias beside it; norm\.affine=false leaves one"),
    ],
)
def test_a_mistake_is_told_before_any_run(typed, told, compose):
    config = resolve(compose("data=patterns", "device=cpu", *typed))
    with pytest.raises(InputError, match=told):
        MEASURES[config.measure.name].check(config, 1)


# --- A theorem. -------------------------------------------------------------------------------------------------------


def test_the_gradient_bound_of_santurkar_holds_with_equality_for_one_layer():
    """Their theorem 4.1, at the same gradient by the output: ‖∇_y L̂‖² = γ²/σ²·(‖g‖² − ⟨1, g⟩²/m − ⟨g, ŷ⟩²/m).

    For 1/√m and ŷ/√m are orthonormal, and the layer's backward pass takes out of g what lies along them. ε → 0.
    """
    y, upstream = (3 * normal(8, 5, 2, 2) + normal(1, 5, 1, 1, seed=1)).requires_grad_(), normal(8, 5, 2, 2, seed=2)
    layer = BatchNorm(5, eps=1e-37).double().train()
    with torch.no_grad():
        layer.weight.copy_(normal(5, seed=3))
    (found,) = torch.autograd.grad(layer(y), y, upstream)

    def by_channel(maps):
        return maps.detach().transpose(0, 1).flatten(1)

    g, values, m = by_channel(upstream), by_channel(y), 8 * 2 * 2
    std, mean = torch.std_mean(values, 1, correction=0, keepdim=True)
    normalized = (values - mean) / std
    along = g.sum(1).square() / m + (g * normalized).sum(1).square() / m
    expected = layer.weight.detach().square() / std.squeeze(1).square() * (g.square().sum(1) - along)
    torch.testing.assert_close(by_channel(found).square().sum(1), expected, rtol=1e-10, atol=0)
    assert (along > 0.001 * g.square().sum(1)).all()  # what the bound is about
