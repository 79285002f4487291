"""Mean-field scaling: a layer's features over a power of their number, and the rates that theory has for that."""

import math
from collections.abc import Iterator

import torch

from normbench.errors import InputError
from normbench.norms.plain import Conv2d, Linear

GAMMAS = [1.0, 1.0, 1.0]

# By the number of hidden layers, for each layer, the output layer last: a of the factors N^(2γ−a) on its rate, one a
# hidden layer of N features, or None where there is no such factor. From the authors' code, which has no others.
RATES = {
    2: ((1, 3), (1, 2), (None, 2)),
    3: ((1, 2, 3), (1, 1, 3), (None, 1, 2), (None, None, 2)),
}


class _Scaled:
    """A layer whose N inputs come divided by N^γ: so are its filters, which is the same. `factor`: N^(−γ).

    gammas: γ of the network's hidden layers, the first one's first. Yu & Spiliopoulos 2022, arXiv 2209.01018, and their
    code, github.com/kspiliopoulos/NENN_Deep. Biases are not divided.
    """

    factor: float = 1.0

    def _keep(self, gammas) -> None:
        if not all(0.5 <= gamma <= 1 for gamma in gammas):
            raise InputError("gammas", list(gammas), "must be numbers from 0.5 to 1, one a hidden layer")
        self.gammas, self.factor = list(gammas), 1.0

    def filters(self):
        return self.weight * self.factor

    @torch.jit.unused
    def parameters_for(self, filters):
        return {"weight": filters / self.factor}


class MeanFieldConv2d(_Scaled, Conv2d):
    """A hidden layer, see _Scaled."""

    def __init__(self, *args, gammas: list = GAMMAS, **how):
        super().__init__(*args, **how)
        self._keep(gammas)
        self.fan_in = self.weight[0].numel()


class MeanFieldLinear(_Scaled, Linear):
    """The output layer, likewise."""

    def __init__(self, in_features, out_features, *, replicates=1, gammas: list = GAMMAS):
        super().__init__(in_features, out_features, replicates=replicates)
        self._keep(gammas)
        self.fan_in = in_features


def _layers(model) -> list:
    """The layers of the network, the output layer last. Raises InputError where the γ are not of its hidden layers."""
    layers = [module for module in model.modules() if isinstance(module, _Scaled)]
    hidden, gammas = len(layers) - 1, layers[-1].gammas
    if hidden not in RATES:
        raise InputError("model.depth", hidden, "norm=mean_field has rates for 2 and 3 hidden layers")
    if len(gammas) != hidden:
        raise InputError("norm.gammas", gammas, f"must be {hidden} numbers, one a hidden layer (model.depth)")
    return layers


@torch.no_grad()
def mean_field_weights(model, generators) -> None:
    """Initialization: hidden weights N(0,1), output weights uniform in 0…1, biases uniform within ±1/√fan-in."""
    *hidden, output = layers = _layers(model)
    for layer, gamma in zip(layers[1:], output.gammas, strict=True):
        layer.factor = layer.fan_in**-gamma
    for generator, parts in zip(generators, _replicates(layers, len(generators)), strict=True):
        for layer, (weight, bias) in zip(layers, parts, strict=True):
            if layer in hidden:
                weight.copy_(torch.empty(weight.shape).normal_(generator=generator))
            else:
                weight.copy_(torch.empty(weight.shape).uniform_(generator=generator))
            bound = layer.fan_in**-0.5
            bias.copy_(torch.empty(bias.shape).uniform_(-bound, bound, generator=generator))


def _replicates(layers, count: int) -> Iterator[list]:
    """Of each replicate the weights and biases of the layers, as views."""
    for number in range(count):
        yield [(layer.weight.chunk(count)[number], layer.bias.chunk(count)[number]) for layer in layers]


def mean_field_rates(model) -> dict:
    """Each layer's rate over optim.lr, of its weight and its bias: see RATES."""
    layers = _layers(model)
    widths, gammas = [layer.fan_in for layer in layers[1:]], layers[-1].gammas
    return {
        parameter: math.prod(
            1.0 if power is None else width ** (2 * gamma - power)
            for width, gamma, power in zip(widths, gammas, powers, strict=True)
        )
        for layer, powers in zip(layers, RATES[len(widths)], strict=True)
        for parameter in (layer.weight, layer.bias)
    }
