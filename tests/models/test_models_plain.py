"""The networks without stages: fully connected layers, and convolutions of one width, against torch's own functions."""

import pytest
import torch
from torch.nn import functional as F

from normbench.errors import InputError
from normbench.models import build_model
from normbench.norms import Layers


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_a_perceptron_is_linear_layers_on_the_pixels(norm):
    model, x = (
        build_model("mlp", Layers(norm, activation="tanh"), (1,), depth=2, width=6).double(),
        normal(5, 3, 32, 32),
    )
    h = x.flatten(1)
    for conv in (module for module in model.modules() if isinstance(module, torch.nn.Conv2d)):
        h = F.linear(h, conv.weight.flatten(1), conv.bias)
        h = F.batch_norm(h, None, None, training=True) if norm == "batch" else h
        h = F.layer_norm(h, (6,)) if norm == "layer" else h
        h = h.tanh()
    expected = F.linear(h, model.classifier.weight[0], model.classifier.bias[0])
    torch.testing.assert_close(model.train()(x)[0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("residual", [False, True])
def test_convolutions_of_one_width(residual):
    model = build_model("uniform", Layers("none"), (1,), depth=4, width=5, residual=residual).double()
    convs = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    x = normal(2, 3, 32, 32)
    h = F.conv2d(x, convs[0].weight, convs[0].bias, stride=4, padding=1).relu()
    for place, conv in enumerate(convs[1:]):
        if place % 2 == 0:
            shortcut = h
        h = F.conv2d(h, conv.weight, conv.bias, padding=1)
        h = (h + shortcut if residual and place % 2 else h).relu()
    expected = F.linear(h.mean((2, 3)), model.classifier.weight[0], model.classifier.bias[0])
    assert (len(convs), h.shape) == (5, (2, 5, 8, 8))
    torch.testing.assert_close(model(x)[0], expected, rtol=1e-10, atol=1e-10)


def test_what_acts_on_branches_needs_branches():
    build_model("uniform", Layers("skipinit"), depth=2, width=4, residual=True)
    with pytest.raises(InputError, match="norm=skipinit: acts on residual branches"):
        build_model("uniform", Layers("skipinit"), depth=2, width=4)
    with pytest.raises(InputError, match=r"model\.depth=3: must be even with residual=true"):
        build_model("uniform", Layers("batch"), depth=3, width=4, residual=True)
