"""A small vision transformer."""

import torch
from torch import nn
from torch.nn import functional as F

from normbench.config.keys import BLOCK_PLACEMENTS
from normbench.errors import InputError, require_choice
from normbench.models.samples import of_samples
from normbench.norms.plain import Filters

SIZE = 32  # pixels, the height and width of an image
POSITION_STD = 0.02


class ViT(nn.Module):
    """Patches of an image as tokens, blocks of attention and of two linear layers, the mean token, a classifier.

    Dosovitskiy et al. 2021, arXiv 2010.11929, with learned positions and the mean in place of a class token. With f the
    attention, then the linear layers, and N the method's norm of each token, a block is x + f(N(x)) with placement
    `pre`, and a last N follows the blocks; N(x + f(x)) with `post` (Xiong et al. 2020, arXiv 2002.04745, figure 1).
    A norm with batch statistics takes them over the tokens of all images.

    depth: blocks. width: features of a token. heads: of the attention, divides width. patch: pixels of a side, divides
    32. The inner linear layer has 4 times the width. No dropout but before the classifier.
    """

    def __init__(
        self,
        layers,
        *,
        depth: int = 6,
        width: int = 64,
        heads: int = 4,
        patch: int = 4,
        placement: str = "pre",
        num_classes: int = 10,
        dropout: float = 0.0,
    ):
        super().__init__()
        layers.require_no_convolutions("vit")
        require_choice("placement", placement, BLOCK_PLACEMENTS)
        for key, value, of in (("heads", heads, width), ("patch", patch, SIZE)):
            if of % value:
                raise InputError(key, value, f"must divide {'the width ' if of == width else ''}{of}")
        self.patch, self.replicates = patch, layers.replicates
        self.embedding = layers.linear(3 * patch**2, width)
        self.positions = Positions((SIZE // patch) ** 2, width, layers.replicates)
        pre = placement == "pre"
        blocks = [Residual(layers, part, width, pre) for _ in range(depth) for part in _parts(layers, width, heads)]
        self.layers = nn.Sequential(*blocks)
        self.norm = layers.norm(width) if pre else nn.Identity()
        self.dropout = layers.dropout(dropout)
        self.classifier = layers.linear(width, num_classes)

    def forward(self, x):
        x = self.positions(_each(self.embedding, _patches(x, self.patch, self.replicates)))
        x = _normalized(self.norm, self.layers(x)).mean(2)  # R×N×C
        return self.classifier(self.dropout(x.transpose(0, 1).flatten(1)))


class Positions(Filters, nn.Module):
    """A learned vector for each of T positions, added to tokens R×N×T×C: weight (R·T)×C."""

    def __init__(self, count: int, width: int, replicates: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(replicates * count, width))
        self.count = count

    def forward(self, x):
        return x + self.filters().unflatten(0, (-1, 1, self.count))

    def draw(self, weight, generator, gain):
        """Normal, of standard deviation 0.02, whatever the activation."""
        return weight.normal_(0, POSITION_STD, generator=generator)


class Residual(nn.Module):
    """A part of a block, with its shortcut and its norm. See ViT."""

    def __init__(self, layers, part: nn.Module, width: int, pre: bool):
        super().__init__()
        self.norm, self.part, self.pre = layers.norm(width), part, pre

    def forward(self, x):
        if self.pre:
            return x + self.part(_normalized(self.norm, x))
        return _normalized(self.norm, x + self.part(x))


class Attention(nn.Module):
    """Attention of each token to all of its image, R×N×T×C → R×N×T×C (Vaswani et al. 2017, arXiv 1706.03762, §3.2)."""

    def __init__(self, layers, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.queries_keys_values = layers.linear(width, 3 * width)
        self.output = layers.linear(width, width)

    def forward(self, x):
        # R×N×T×(3·heads·d) → three of (R·N)×heads×T×d
        parts = (
            _each(self.queries_keys_values, x).flatten(0, 1).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(*parts)
        return _each(self.output, mixed.transpose(1, 2).flatten(2).unflatten(0, x.shape[:2]))


class Perceptron(nn.Module):
    """Two linear layers on each token, the activation between them, 4 times as wide there: R×N×T×C → R×N×T×C."""

    def __init__(self, layers, width: int):
        super().__init__()
        self.inner, self.act, self.outer = (
            layers.linear(width, 4 * width),
            layers.act(),
            layers.linear(4 * width, width),
        )

    def forward(self, x):
        return _each(self.outer, self.act(_each(self.inner, x)))


def _parts(layers, width: int, heads: int) -> tuple[nn.Module, nn.Module]:
    return Attention(layers, width, heads), Perceptron(layers, width)


def _each(linear, x: torch.Tensor) -> torch.Tensor:
    """A linear layer on every token: R×N×T×in → R×N×T×out."""
    return linear.of(x.flatten(1, 2)).unflatten(1, x.shape[1:3])


def _normalized(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A norm of every token: R×N×T×C."""
    return of_samples(norm, x.flatten(1, 2)).unflatten(1, x.shape[1:3])


def _patches(x: torch.Tensor, size: int, replicates: int) -> torch.Tensor:
    """Images N×(R·3)×H×W as the values of their patches, row by row: R×N×T×(3·size²)."""
    x = x.unflatten(1, (replicates, 3)).unflatten(3, (-1, size)).unflatten(5, (-1, size))  # N×R×3×h×s×w×s
    return x.permute(1, 0, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)
