"""A multilayer perceptron on the pixels of an image."""

from torch import nn

PIXELS = 3 * 32 * 32  # values of an image


class MLP(nn.Module):
    """Fully connected layers of one width, each with its norm and activation, and a linear layer at the end.

    A layer is a 1×1 convolution on maps of one position, so that every method has its place: a statistic over H and W
    is one over nothing there. After Ioffe & Szegedy 2015, arXiv 1502.03167, §4.1, whose network for MNIST has 3 layers
    of 100. depth: layers before the classifier. width: features of each. norm_position: before or after a layer's
    activation. Images are of 32×32 pixels.
    """

    def __init__(
        self,
        layers,
        *,
        depth: int = 3,
        width: int = 128,
        norm_position: str = "before",
        num_classes: int = 10,
        dropout: float = 0.0,
    ):
        super().__init__()
        layers.require_no_residual("mlp")
        hidden, features = [], PIXELS
        for _ in range(depth):
            hidden += layers.conv_norm_act(features, width, 1, norm_position=norm_position)
            features = width
        self.hidden = nn.Sequential(*hidden)
        self.dropout = layers.dropout(dropout)
        self.classifier = layers.linear(features, num_classes)

    def forward(self, x):
        x = self.hidden(x.flatten(1).unflatten(1, (-1, 1, 1)))  # replicates stay outermost
        return self.classifier(self.dropout(x.flatten(1)))
