"""Conv4: a stem and four equal convolutions at full resolution."""

from torch import nn


class Conv4(nn.Module):
    """A 3×3 convolution for a stem, four 3×3 convolutions with norm and activation, global average, one linear layer.

    Nothing is pooled and nothing skipped, the stem has neither norm nor activation: the network of a published sweep
    over batch sizes (github.com/gdd72582/AI-Lectures-and-Tutorials, assignment1, Q5), less the biases that a norm makes
    superfluous. width: channels of every convolution.
    """

    def __init__(self, layers, *, width: int = 64, num_classes: int = 10, dropout: float = 0.0):
        super().__init__()
        layers.require_no_residual("conv4")
        self.stem = layers.conv(3, width, 3)
        self.blocks = nn.Sequential(*[layer for _ in range(4) for layer in layers.conv_norm_act(width, width, 3)])
        self.dropout = layers.dropout(dropout)
        self.classifier = layers.linear(width, num_classes)

    def forward(self, x):
        return self.classifier(self.dropout(self.blocks(self.stem(x)).mean((2, 3))))
