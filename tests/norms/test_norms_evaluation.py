"""Statistics of evaluation in float64: batches against torch's own layer, EvalNorm against simulated batches."""

import pytest
import torch
from torch.nn import functional as F

from normbench.errors import InputError
from normbench.models import build_model, stack_states
from normbench.norms import Layers
from normbench.norms.batch import BatchNorm, MeanOnlyBatchNorm, precise_statistics
from normbench.norms.evaluation import Population, evalnorm, normalized_by, of_batches, populations


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer_of(channels, kind=BatchNorm):
    layer = kind(channels).double().eval()
    with torch.no_grad():
        layer.bias.copy_(normal(channels, seed=1))
        layer.running_mean.copy_(normal(channels, seed=2))
        if layer.weight is not None:
            layer.weight.copy_(normal(channels, seed=3))
    return layer


def network(norm="batch", seeds=(1,), **options):
    return build_model("resnet8", Layers(norm, options, replicates=len(seeds)), seeds, width=4).double().eval()


@pytest.mark.parametrize("size", [1, 3, 4, 20])
def test_batches_are_those_of_a_training_pass(size):
    """A last batch that is smaller, and one that is not full, included."""
    layer, x = layer_of(5), normal(10, 5, 3, 3) * 2 + 1
    with normalized_by(layer, of_batches(size)):
        found = layer(x)
    parts = [F.batch_norm(part, None, None, layer.weight, layer.bias, True, 0, layer.eps) for part in x.split(size)]
    torch.testing.assert_close(found, torch.cat(parts), rtol=1e-12, atol=1e-12)


def test_a_method_without_a_variance_has_its_mean_alone():
    layer, x = layer_of(5, MeanOnlyBatchNorm), normal(6, 5, 3, 3)
    with normalized_by(layer, of_batches(3)):
        found = layer(x)
    expected = [part - part.mean((0, 2, 3), keepdim=True) + layer.bias.view(1, -1, 1, 1) for part in x.split(3)]
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-12, atol=1e-12)


def test_a_statistic_of_a_single_value_is_refused():
    with (
        pytest.raises(InputError, match="batch=1: the statistic of a channel"),
        normalized_by(layer := layer_of(2), of_batches(1)),
    ):
        layer(normal(4, 2, 1, 1))


def test_a_batch_of_all_is_precise():
    """But for the unbiased variance that precise statistics have."""
    model, x = network(), normal(12, 3, 16, 16)
    with normalized_by(model, of_batches(12)):
        expected = model(x)
    counts = {}
    layers = [module for module in model.modules() if isinstance(module, BatchNorm)]
    hooks = [
        one.register_forward_pre_hook(
            lambda layer, given: counts.update({layer: given[0].numel() // given[0].shape[1]})
        )
        for one in layers
    ]
    with torch.no_grad(), precise_statistics(model, lambda: model(x)):
        for hook in hooks:
            hook.remove()
        for layer in layers:
            layer.running_var.mul_((counts[layer] - 1) / counts[layer])
        torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)


def test_the_network_is_as_before():
    model, x = network(), normal(8, 3, 16, 16)
    before, expected = {name: value.clone() for name, value in model.state_dict().items()}, model(x)
    found = populations(model, lambda: model(x), 2)
    with normalized_by(model, evalnorm(found, 2)):
        assert not torch.allclose(model(x), expected)
    assert torch.equal(model(x), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("size", [2, 3, 8])
def test_evalnorm_is_what_batches_come_to_on_average(size):
    """An image among others drawn from a population: the mean over 40,000 batches of their moments."""
    images, mine = normal(50, 1, 2, 2) + 2 * normal(50, 1, 1, 1, seed=4), normal(1, 1, 2, 2, seed=5) + 3
    means = images.mean((2, 3))
    population = Population(means.mean(0), images.var((2, 3), correction=0).mean(0), means.var(0, correction=0))
    layer = layer_of(1)
    mean, var = evalnorm({layer: population}, size)(layer, mine)
    draws = torch.randint(50, (40_000, size - 1), generator=torch.Generator().manual_seed(6))
    batches = torch.cat([mine.flatten().expand(len(draws), -1), images.flatten(1)[draws].flatten(1)], 1)
    for found, drawn in ((mean, batches.mean(1)), (var, batches.var(1, correction=0))):
        assert abs(found.item() - drawn.mean().item()) < 4 * drawn.std().item() / 200
    assert abs(var.item() - population.within.item()) > 0.5  # which a formula without the others' means would give


def test_evalnorm_at_one_image_is_its_own_and_at_infinity_the_populations():
    layer, x = layer_of(3), normal(6, 3, 4, 4)
    of = {layer: Population(normal(3, seed=7), normal(3, seed=8).square(), normal(3, seed=9).square())}
    mean, var = evalnorm(of, 1)(layer, x)
    torch.testing.assert_close(mean[..., 0, 0], x.mean((2, 3)), rtol=1e-12, atol=0)
    torch.testing.assert_close(var[..., 0, 0], x.var((2, 3), correction=0), rtol=1e-12, atol=0)
    mean, var = evalnorm(of, 10**12)(layer, x)
    torch.testing.assert_close(mean[0, :, 0, 0], of[layer].mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(var[0, :, 0, 0], of[layer].within + of[layer].between, rtol=1e-9, atol=1e-9)


def test_a_population_is_that_of_what_layers_are_given_in_training():
    """The first norm's is that of the convolution's output; a later one's of features normalized in batches."""
    model, x = network(), normal(12, 3, 16, 16)
    found = populations(model, lambda: [model(part) for part in x.split(4)], 2)
    given = {}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: given.setdefault(layer, []).append(inputs[0]))
        for layer in found
    ]
    with normalized_by(model, of_batches(2)):
        model(x)
    for hook in hooks:
        hook.remove()
    assert len(found) == 7
    for layer, population in found.items():
        maps = torch.cat(given[layer]).detach()
        means = maps.mean((2, 3))
        torch.testing.assert_close(population.mean, means.mean(0), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(population.within, maps.var((2, 3), correction=0).mean(0), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(population.between, means.var(0, correction=0), rtol=1e-9, atol=1e-9)


def test_replicates_are_what_each_is_alone():
    alone, x = [network(seeds=(seed,)) for seed in (1, 2)], normal(8, 6, 16, 16)
    together = network(seeds=(1, 2))
    together.load_state_dict(stack_states([one.state_dict() for one in alone]))
    for index, one in enumerate(alone):
        mine = x[:, 3 * index : 3 * index + 3]
        found = populations(together, lambda: together(x), 2), populations(one, lambda: one(mine), 2)  # noqa: B023
        for statistic, own in ((of_batches(2), of_batches(2)), (evalnorm(found[0], 2), evalnorm(found[1], 2))):
            with normalized_by(together, statistic), normalized_by(one, own):
                torch.testing.assert_close(together(x)[index], one(mine)[0], rtol=1e-9, atol=1e-9)
