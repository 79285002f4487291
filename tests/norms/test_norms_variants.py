"""Batch normalization with noise and by other scales, against the formulas written out in float64."""

import math

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy import stats

from normbench.config.resolve import resolve
from normbench.errors import InputError
from normbench.kernels import fastest
from normbench.norms import Layers
from normbench.norms.batch import BatchNorm, precise_statistics
from normbench.norms.variants import LpBatchNorm, Noise, NoisyBatchNorm
from normbench.random import derive
from normbench.tasks import make_task
from normbench.training.network import Network

C, EPS = 6, 1e-3


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomized(layer):
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed))
    return layer.double()


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


# --- Scales. ----------------------------------------------------------------------------------------------------------


def by_hand(x, p, centre_first):
    """x N×C×H×W → (x−μ)/√(s²+ε) and s² by channel, in numpy."""
    x = x.numpy()
    mean = x.mean((0, 2, 3), keepdims=True)
    size = np.abs(x - mean if centre_first else x).swapaxes(0, 1).reshape(C, -1)
    scale = {"l1": math.sqrt(math.pi / 2) * size.mean(1), "l2": np.sqrt((size**2).mean(1)), "linf": size.max(1)}[p]
    return (x - mean) / np.sqrt(scale**2 + EPS).reshape(1, C, 1, 1), scale**2


@pytest.mark.parametrize("replicates", [1, 2])
@pytest.mark.parametrize("centre_first", [True, False])
@pytest.mark.parametrize("p", ["l1", "l2", "linf"])
def test_lp_batch_is_its_formula(p, centre_first, replicates):
    layer = randomized(LpBatchNorm(C, replicates, p=p, centre_first=centre_first, eps=EPS, momentum=0.25))
    x = 2 * normal(4, replicates * C, 3, 5) + 1
    found = layer(x).chunk(replicates, 1)
    parts = zip(
        x.chunk(replicates, 1), found, *(layer.weight.chunk(replicates), layer.bias.chunk(replicates)), strict=True
    )
    for index, (part, y, weight, bias) in enumerate(parts):
        expected, squared = by_hand(part, p, centre_first)
        expected = weight.view(-1, 1, 1) * torch.from_numpy(expected) + bias.view(-1, 1, 1)
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        mine = slice(index * C, index * C + C)
        kept = 0.75 + 0.25 * squared * 60 / 59
        np.testing.assert_allclose(layer.running_var[mine].numpy(), kept, rtol=1e-12)
        np.testing.assert_allclose(layer.running_mean[mine].numpy(), 0.25 * part.mean((0, 2, 3)).numpy(), rtol=1e-12)


def test_l2_is_batch_normalization():
    ours, theirs = (randomized(kind(C, eps=EPS)) for kind in (lambda *a, **k: LpBatchNorm(*a, p="l2", **k), BatchNorm))
    x = (3 * normal(5, C, 4, 4) - 2).requires_grad_()
    other = x.detach().clone().requires_grad_()
    weights = normal(5, C, 4, 4, seed=3)
    for layer, images in ((ours, x), (theirs, other)):
        (layer(images) * weights).sum().backward()
    pairs = [(ours(x), theirs(other)), (x.grad, other.grad), (ours.weight.grad, theirs.weight.grad)]
    for layer in (ours, theirs):
        layer.eval()
    pairs += [(ours(x), theirs(other)), (ours.running_var, theirs.running_var)]
    with (
        precise_statistics(ours, lambda: [ours(x[:2]), ours(x[2:])]),
        precise_statistics(theirs, lambda: [theirs(other[:2]), theirs(other[2:])]),
    ):
        pairs += [(ours.running_mean, theirs.running_mean), (ours.running_var, theirs.running_var)]
        for one, reference in pairs:
            torch.testing.assert_close(one, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("p", ["l1", "linf"])
def test_its_gradient_is_that_of_differences(p):
    layer = randomized(LpBatchNorm(2, p=p, eps=EPS))
    assert torch.autograd.gradcheck(layer.normalize, normal(3, 2, 2, 2).requires_grad_(), nondet_tol=0)


def test_l1_is_the_standard_deviation_of_a_normal_distribution():
    x = 3 * normal(100, C, 20, 20)
    _, squared = LpBatchNorm(C, p="l1").double()._statistics(x)
    assert squared.sqrt().tolist() == pytest.approx(C * [3], rel=5 / math.sqrt(2 * 40_000))


# --- Noise. -----------------------------------------------------------------------------------------------------------


def test_noise_is_distributed_as_the_algorithm_says():
    """Of zeros what is added, of ones and the same draws what is multiplied with."""
    layer = Noise(C, 1, n_mean=0.5, n_std=1.25, r_mean=0.2, r_std=0.1).double()
    shape = (200, C, 10, 10)
    made = []
    for x in (torch.zeros(shape), torch.ones(shape)):
        layer.generators = generators(5)
        made.append(layer(x.double()))
    shift, factor = made[0], made[1] - made[0]
    mean, std = shift.mean((0, 2, 3)), factor.mean((0, 2, 3))
    assert (mean.abs() <= 0.51).all()
    assert ((std >= 0.99) & (std <= 1.26)).all()
    within = ((shift - mean.view(1, -1, 1, 1)) / 0.4 + 0.5).flatten()
    assert stats.kstest(within[:: len(within) // 5000].numpy(), "uniform").pvalue > 1e-3
    scaled = ((factor - std.view(1, -1, 1, 1)) / 0.1).flatten()
    assert stats.kstest(scaled[:: len(scaled) // 5000].numpy(), "norm").pvalue > 1e-3


def test_channels_draw_over_their_whole_range():
    layer = Noise(2000, 1, n_mean=0.5, n_std=1.25, r_mean=0.0, r_std=0.0).double()
    made = []
    for x in (torch.zeros(2, 2000, 1, 1), torch.ones(2, 2000, 1, 1)):
        layer.generators = generators(5)
        made.append(layer(x.double()))
    shift, factor = made[0], made[1] - made[0]
    assert torch.equal(shift[0], shift[1])  # of the step, not of an image
    assert stats.kstest(shift[0].flatten().numpy() + 0.5, "uniform").pvalue > 1e-3
    assert stats.kstest((factor[0].flatten().numpy() - 1) / 0.25, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_noise_of_a_replicate_is_what_it_has_alone(memory_format):
    x = normal(4, 3 * C, 5, 5).contiguous(memory_format=memory_format)
    together = NoisyBatchNorm(C, 3).double()
    together.generators = generators(5, 6, 7)
    parts = together(x).chunk(3, 1)
    before = torch.get_rng_state()
    for part, of_one, seed in zip(parts, x.chunk(3, 1), (5, 6, 7), strict=True):
        alone = NoisyBatchNorm(C).double()
        alone.generators = generators(seed)
        torch.testing.assert_close(alone(of_one), part, rtol=1e-12, atol=1e-12)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.allclose(parts[0], parts[1])


def test_without_noise_and_in_evaluation_it_is_batch_normalization():
    x, still = normal(4, C, 5, 5), {"n_mean": 0.0, "n_std": 1.0, "r_mean": 0.0, "r_std": 0.0}
    layers = [randomized(layer) for layer in (NoisyBatchNorm(C, **still), NoisyBatchNorm(C), BatchNorm(C))]
    quiet, noisy, plain = (layer(x) for layer in layers)
    torch.testing.assert_close(quiet, plain, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(noisy, plain)
    quiet, noisy, plain = (layer.eval()(x) for layer in layers)
    assert torch.equal(quiet, plain)
    assert torch.equal(noisy, plain)


def test_the_noise_alone_has_nothing_of_the_batch():
    conv, norm = Layers("noisy_batch", {"normalize": False}).conv_norm(3, 8, 3)
    assert (type(norm), list(norm.parameters()), conv.bias is None) == (Noise, [], False)
    x = normal(4, 8, 5, 5)
    assert torch.equal(norm.eval()(x), x)


def test_draws_are_functions_of_seed_purpose_epoch_and_step(compose):
    how = ("data=patterns", "device=cpu", "norm=noisy_batch", "model.width=2", "model.dropout=0.2")
    config = resolve(compose(*how, "precision=float64"))
    network = Network(config, make_task(config, [3, 4], "cpu"))
    network.draw_as_at(2, 5)
    for purpose in ("noise", "dropout"):
        found = [generator.initial_seed() for generator in network.generators[purpose]]
        assert found == [derive(seed, purpose, 2, 5, 0) for seed in (3, 4)]
    x, made = normal(2, 6, 16, 16), []
    for place in ((2, 5), (2, 6), (2, 5)):
        network.draw_as_at(*place)
        made.append(network.model(x))
    assert torch.equal(made[0], made[2])
    assert not torch.allclose(made[0], made[1])


def test_a_step_that_draws_noise_is_no_cuda_graph():
    model = torch.nn.Sequential(NoisyBatchNorm(C))
    config = OmegaConf.create(
        {"device": "cuda", "kernels": "graph", "model": {"dropout": 0.0}, "norm": {"name": "noisy_batch"}}
    )
    with pytest.raises(InputError, match="kernels=graph: norm=noisy_batch draws at each step; leave it at auto"):
        fastest(config, model, 1)
