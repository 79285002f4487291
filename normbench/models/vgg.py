"""VGG: a plain stack of 3×3 convolutions, no shortcuts."""

from torch import nn

from normbench.errors import InputError

# Convolutions in each of the five stages: Simonyan & Zisserman 2014, arXiv 1409.1556, table 1 (A, B, D, E).
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(nn.Module):
    """VGG for 32×32 images: max pooling after each of the first four stages, global average and one linear layer.

    depth: 11, 13, 16 or 19, counting three fully connected layers as the paper does. width: channels of the first
    stage; the next have 2×, 4×, 8× and 8× as many (the paper's width is 64). norm_position: before or after a
    convolution's activation.
    """

    def __init__(
        self,
        layers,
        *,
        depth: int = 11,
        width: int = 32,
        norm_position: str = "before",
        num_classes: int = 10,
        dropout: float = 0.0,
    ):
        super().__init__()
        layers.require_no_residual("vgg")
        if depth not in STAGES:
            raise InputError("depth", depth, f"choices: {', '.join(map(str, STAGES))}")
        features, in_channels = [], 3
        for stage, count in enumerate(STAGES[depth]):
            channels = width * min(2**stage, 8)
            if stage > 0:
                features.append(nn.MaxPool2d(2))
            for _ in range(count):
                features += layers.conv_norm_act(in_channels, channels, 3, norm_position=norm_position)
                in_channels = channels
        self.features = nn.Sequential(*features)
        self.dropout = layers.dropout(dropout)
        self.classifier = layers.linear(in_channels, num_classes)

    def forward(self, x):
        return self.classifier(self.dropout(self.features(x).mean((2, 3))))
