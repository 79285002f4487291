"""Residual networks for 32×32 images."""

from torch import nn

from normbench.errors import InputError


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: act(shortcut(x) + branch(x)). He et al. 2015, arXiv 1512.03385, figure 5."""

    def __init__(self, layers, in_channels, channels, stride, *, projection):
        super().__init__()
        self.branch = nn.Sequential(
            layers.conv_norm(in_channels, channels, 3, stride),
            layers.act(),
            layers.conv_norm(channels, channels, 3, ends_branch=True),
        )
        if stride == 1 and in_channels == channels:
            self.shortcut = nn.Identity()
        elif projection:
            self.shortcut = layers.conv_norm(in_channels, channels, 1, stride)
        else:
            self.shortcut = layers.pad_shortcut(channels - in_channels, stride)
        self.act = layers.act()

    def forward(self, x):
        return self.act(self.shortcut(x) + self.branch(x))


class _ResNet(nn.Module):
    """A 3×3 stem, stages of basic blocks (each stage after the first halves the image), global average, classifier."""

    def __init__(self, layers, widths, blocks_per_stage, *, projection, num_classes, dropout):
        super().__init__()
        self.stem = nn.Sequential(layers.conv_norm(3, widths[0], 3), layers.act())
        blocks, in_channels = [], widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks_per_stage):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(BasicBlock(layers, in_channels, width, stride, projection=projection))
                in_channels = width
        self.blocks = nn.Sequential(*blocks)
        self.dropout = layers.dropout(dropout)
        self.classifier = layers.linear(in_channels, num_classes)

    def forward(self, x):
        x = self.blocks(self.stem(x)).mean((2, 3))
        return self.classifier(self.dropout(x))


class CifarResNet(_ResNet):
    """He's CIFAR family of depth 6n+2: three stages of n blocks, shortcuts without parameters. He et al. 2015, §4.2.

    width: channels of the first stage; the next two have 2× and 4× as many.
    """

    def __init__(self, layers, *, depth: int, width: int = 16, num_classes: int = 10, dropout: float = 0.0):
        if depth < 8 or depth % 6 != 2:
            raise InputError("depth", depth, "must be 6n+2: 8, 14, 20, 32, 44, 56, 110, …")
        super().__init__(
            layers,
            (width, 2 * width, 4 * width),
            (depth - 2) // 6,
            projection=False,
            num_classes=num_classes,
            dropout=dropout,
        )


class ResNet18(_ResNet):
    """ResNet-18 with a stem for small images: a 3×3 convolution of stride 1, no pooling. He et al. 2015, table 1.

    width: channels of the first of four stages; each next one has twice as many.
    """

    def __init__(self, layers, *, width: int = 64, num_classes: int = 10, dropout: float = 0.0):
        widths = (width, 2 * width, 4 * width, 8 * width)
        super().__init__(layers, widths, 2, projection=True, num_classes=num_classes, dropout=dropout)
