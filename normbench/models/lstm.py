"""A long short-term memory that reads an image step by step."""

import torch
from torch import nn
from torch.nn import functional as F

from normbench.config.keys import CARRIES, CELL_PLACEMENTS, SEQUENCES
from normbench.errors import InputError, require_choice
from normbench.models.samples import StepNorm
from normbench.norms.plain import Linear

SIZE = 32  # pixels, the height and width of an image
COARSE = 8  # of one that is read pixel by pixel


class LSTM(nn.Module):
    """One layer of LSTM over the steps of an image, and a classifier on its last hidden state.

    With gates i, f, g, o in this order, N the method's norm and h₀ = c₀ = 0, a step is

        c′ = σ(f)·c + σ(i)·tanh(g),   h′ = σ(o)·tanh(N(c′))

    placement says where else the method normalizes, carry what the next step takes for c:

        gates      i, f, g, o = N(W_h h) + N(W_x x) + b, each norm over all four gates together
        per_gate   i = N(W_h h + W_x x)_i + b_i, and so f, g, o: a norm a gate
        cell_only  i, f, g, o = W_h h + W_x x + b
        raw        c′
        normalized N(c′)

    Three published cells: `gates` and `raw` is Ba et al.'s (arXiv 1607.06450, equations 20 to 22) and, of batch norm,
    Cooijmans et al.'s (arXiv 1603.09025, equations 6 to 8, with init_gamma=0.1); `gates` and `normalized` that of
    PyTorch's fastrnns benchmark; `per_gate` and `normalized` that of the code of Chiley et al. (arXiv 1905.05894),
    which adds b before the norms: here it comes after them everywhere, since a mean taken out would take b's as well.
    Statistics are of one step (see StepNorm). Without a norm all are torch's LSTM.

    width: features of h and of c. sequence: `rows`, 32 steps of 3·32 values, or `pixels`, 64 steps of one grey value of
    the image at 8×8. init_gamma: γ of every norm at the start. The forget gate's b starts at 1 (Jozefowicz et al.
    2015), the others at 0; W_h starts orthogonal, gate by gate.
    """

    def __init__(
        self,
        layers,
        *,
        width: int = 128,
        sequence: str = "rows",
        placement: str = "gates",
        carry: str = "raw",
        init_gamma: float = 1.0,
        num_classes: int = 10,
        dropout: float = 0.0,
    ):
        super().__init__()
        layers.require_no_convolutions("lstm")
        require_choice("sequence", sequence, SEQUENCES)
        require_choice("carry", carry, CARRIES)
        self.width, self.carry, self.replicates = width, carry, layers.replicates
        self.read = _rows if sequence == "rows" else _pixels
        steps, inputs = (SIZE, 3 * SIZE) if sequence == "rows" else (COARSE**2, 1)
        self.from_input = layers.linear(inputs, 4 * width, bias=False)
        self.gates = Gates(layers, width, steps, placement)
        self.norm = StepNorm(lambda: layers.norm(width), steps)
        _start_at(init_gamma, self, layers.name)
        self.dropout = layers.dropout(dropout)
        self.classifier = layers.linear(width, num_classes)

    def forward(self, x):
        x = self.read(x, self.replicates)
        given = self.from_input.of(x.flatten(1, 2)).unflatten(1, x.shape[1:3])
        h = c = given.new_zeros(self.replicates, x.shape[2], self.width)
        for step in range(x.shape[1]):
            i, f, g, o = self.gates(given[:, step], h, step).chunk(4, 2)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            normalized = self.norm(c, step)
            h = o.sigmoid() * normalized.tanh()
            if self.carry == "normalized":
                c = normalized
        return self.classifier(self.dropout(h.transpose(0, 1).flatten(1)))


class Gates(nn.Module):
    """What the four gates of a step are given, R×N×4H: of W_x x, R×N×4H, and h, R×N×H. See LSTM."""

    def __init__(self, layers, width: int, steps: int, placement: str):
        super().__init__()
        require_choice("placement", placement, CELL_PLACEMENTS)
        if layers.method.linear is Linear:
            self.from_hidden = Recurrent(width, 4 * width, replicates=layers.replicates, bias=False)
        else:
            self.from_hidden = layers.linear(width, 4 * width, bias=False)
        self.placement = placement
        norms, features = {"gates": (2, 4 * width), "per_gate": (4, width), "cell_only": (0, 0)}[placement]
        self.norms = nn.ModuleList([StepNorm(lambda: layers.norm(features), steps) for _ in range(norms)])
        b = torch.zeros(layers.replicates, 4, width)
        b[:, 1] = 1
        self.bias = nn.Parameter(b.flatten(1))

    def forward(self, given, h, step: int):
        recurrent = self.from_hidden.of(h)
        if self.placement == "gates":
            of_hidden, of_input = self.norms
            total = of_hidden(recurrent, step) + of_input(given, step)
        else:
            total = recurrent + given
        if self.placement == "per_gate":
            gates = zip(self.norms, total.chunk(4, 2), strict=True)
            total = torch.cat([norm(gate, step) for norm, gate in gates], 2)
        return total + self.bias.unsqueeze(1)


class Recurrent(Linear):
    """A linear layer from a state to several of its size, each of which starts orthogonal."""

    def draw(self, weight, generator, gain):
        """Orthogonal blocks, uniformly distributed (Saxe et al. 2014, arXiv 1312.6120), whatever the activation."""
        for block in weight.view(-1, self.in_features, self.in_features):
            nn.init.orthogonal_(block, generator=generator)
        return weight


def _rows(x: torch.Tensor, replicates: int) -> torch.Tensor:
    """Images N×(R·3)×32×32 as R×32×N×96: a row of all colours a step, from the top."""
    return x.unflatten(1, (replicates, 3)).permute(1, 3, 0, 2, 4).flatten(3)


def _pixels(x: torch.Tensor, replicates: int) -> torch.Tensor:
    """Images N×(R·3)×32×32 as R×64×N×1: the mean of the colours and of 4×4 pixels a step, row by row."""
    grey = x.unflatten(1, (replicates, 3)).mean(2)
    return F.avg_pool2d(grey, grey.shape[-1] // COARSE).flatten(2).permute(1, 2, 0).unsqueeze(3)


def _start_at(gamma: float, model: nn.Module, method: str) -> None:
    """Start every γ of a model at one value. Raises InputError where there is none and the value is not 1."""
    norms = [norm for one in model.modules() if isinstance(one, StepNorm) for norm in one.norms]
    scales = [norm.weight for norm in norms if getattr(norm, "weight", None) is not None]
    if not scales and gamma != 1:
        raise InputError("init_gamma", gamma, f"norm={method} has no γ here")
    for scale in scales:
        nn.init.constant_(scale, gamma)
