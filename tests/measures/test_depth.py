"""How gradients change with depth: against the theory of wide networks, by quadrature, and against autograd."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normbench.measures.depth import growth, observe
from normbench.models import build_model
from normbench.norms import Layers
from normbench.records.metrics import of_measurement

HOW = ("measure=depth", "model=uniform", "model.depth=4", "model.width=4", "batch_size=8", "data.train_size=16")
# z, its weights, φ and φ′ of each activation.
Z, WEIGHTS = np.polynomial.hermite_e.hermegauss(201)
SIGMOID = 1 / (1 + np.exp(-Z))
FUNCTIONS = {"tanh": (np.tanh(Z), 1 - np.tanh(Z) ** 2), "sigmoid": (SIGMOID, SIGMOID * (1 - SIGMOID))}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def expected(activation: str) -> float:
    """√(E φ′² / Var φ) of a standard normal argument."""
    if activation == "relu":  # E φ′² = ½, Var φ = ½ − 1/2π
        return math.sqrt(math.pi / (math.pi - 1))
    value, slope = FUNCTIONS[activation]
    mean = np.average(value, weights=WEIGHTS)
    return math.sqrt(np.average(slope**2, weights=WEIGHTS) / np.average((value - mean) ** 2, weights=WEIGHTS))


def of_perceptron(norm, activation, depth=7, scale=1.0):
    layers = Layers(norm, activation=activation)
    model = build_model("mlp", layers, (3,), depth=depth, width=512, init_scale=scale).double()
    return growth(*observe(model, normal(512, 3, 32, 32), torch.arange(512) % 10))


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_a_wide_network_with_batch_normalization_explodes_as_the_theory_says(activation):
    assert of_perceptron("batch", activation)["gradient_growth"] == pytest.approx(expected(activation), rel=0.015)
    assert expected(activation) > 1


def test_without_normalization_it_is_the_gain_of_the_weights():
    assert of_perceptron("none", "relu")["gradient_growth"] == pytest.approx(1, rel=0.03)
    assert of_perceptron("none", "relu", scale=0.5)["gradient_growth"] == pytest.approx(0.5, rel=0.03)


def test_batch_normalization_knows_no_scale_of_weights():
    plain, scaled = (of_perceptron("batch", "relu", depth=3, scale=scale) for scale in (1, 10))
    assert scaled["gradient_growth"] == pytest.approx(plain["gradient_growth"], rel=1e-4)  # but for ε


def test_what_grows_is_told_a_layer():
    found = growth([8 * 1.5 ** (4 - layer) for layer in range(5)], [0.1 * 3**layer for layer in range(5)])
    assert found["gradient_growth"] == pytest.approx(1.5)
    assert found["gradient_drift"] == pytest.approx(math.log(1.5))
    assert found["variance_growth"] == pytest.approx(3)
    vanishing = growth([0.5, 1.0], [1.0, 2.0])
    assert (vanishing["gradient_growth"], vanishing["gradient_drift"]) == pytest.approx((0.5, math.log(2)))
    for power in (1, 2):
        assert growth([1.0] * 9, [3 * place**power for place in range(1, 10)])["variance_power"] == pytest.approx(power)


def test_where_nothing_is_left_nothing_is_told():
    assert growth([0.0, 1.0], [1.0, math.inf]) == dict.fromkeys(growth([1.0, 1.0], [1.0, 1.0]))
    assert growth([1.0], [1.0])["gradient_growth"] is None


@pytest.mark.parametrize("residual", [False, True])
def test_places_and_gradients_are_those_of_autograd(residual):
    model = build_model("uniform", Layers("none"), (1,), depth=4, width=3, residual=residual).double()
    x, labels = normal(6, 3, 16, 16), torch.arange(6) % 10
    found = observe(model, x, labels)

    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    h, places = F.conv2d(x, convs[0].weight, convs[0].bias, stride=4, padding=1).relu(), []
    for number, conv in enumerate(convs[1:]):
        if not residual or number % 2 == 0:
            places.append(h)
        h = F.conv2d(h, conv.weight, conv.bias, padding=1)
        h = (h + places[-1] if residual and number % 2 else h).relu()
    places += [h] if residual else []
    logits = h.mean((2, 3)) @ model.classifier.weight[0].T + model.classifier.bias[0]
    gradients = torch.autograd.grad(F.cross_entropy(logits, labels), places)
    assert found[0] == pytest.approx([gradient.norm().item() for gradient in gradients], rel=1e-10)
    variances = [np.var(place.detach().numpy(), axis=(0, 2, 3)).mean() for place in places]
    assert found[1] == pytest.approx(variances, rel=1e-10)
    assert len(places) == (3 if residual else 4)


def test_a_network_is_as_before():
    model = build_model("uniform", Layers("batch"), (1,), depth=2, width=3).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    observe(model, normal(6, 3, 16, 16).float(), torch.arange(6))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training


def test_seeds_of_a_stack_are_what_each_is_alone(run):
    together, rows, _ = run(*HOW, "replicates=2", "stack=2")
    singles = [run(*HOW, f"seed={seed}") for seed in (0, 1)]
    assert rows == [row for _, of_one, _ in singles for row in of_one]
    assert len(rows) == 2 * 4
    names = [outcome.name for outcome in of_measurement("depth") if outcome.name.startswith(("gradient", "variance"))]
    for entry, (alone, _, _) in zip(together["replicates"], singles, strict=True):
        assert [entry[name] for name in names] == [alone["replicates"][0][name] for name in names]
        assert None not in [entry[name] for name in names]
