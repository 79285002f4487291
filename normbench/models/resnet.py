"""Residual networks for 32×32 images: a stem, stages of blocks, each half as large as the last, average, classifier."""

from torch import nn

from normbench.config.keys import SHORTCUTS
from normbench.errors import InputError, require_choice


def block_shapes(widths, blocks_per_stage: int) -> list[tuple[int, int, int]]:
    """Channels in, channels out and stride of each block: each stage after the first starts with stride 2."""
    shapes, in_channels = [], widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks_per_stage):
            shapes.append((in_channels, width, 2 if stage > 0 and block == 0 else 1))
            in_channels = width
    return shapes


def cifar_stages(depth: int, width: int) -> tuple[tuple[int, int, int], int]:
    """The widths of the three stages of He's CIFAR family, and the blocks in each: depth is 6n+2."""
    if depth < 8 or depth % 6 != 2:
        raise InputError("depth", depth, "must be 6n+2: 8, 14, 20, 32, 44, 56, 110, …")
    return (width, 2 * width, 4 * width), (depth - 2) // 6


def projects(in_channels, channels, stride, *, shortcut: str) -> bool:
    """Whether a block of this shape has a projection for its shortcut."""
    require_choice("shortcut", shortcut, SHORTCUTS)
    return shortcut == "projection" and (stride != 1 or in_channels != channels)


def without_parameters(layers, in_channels, channels, stride) -> nn.Module:
    """The identity, or where the shape changes a padding with zeros."""
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return layers.pad_shortcut(channels - in_channels, stride)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: act(shortcut(x) + branch(x)). He et al. 2015, arXiv 1512.03385, figure 5.

    sum: joins the two. norm_position=after: conv, act, norm; the second convolution's activation is that of the sum.
    """

    def __init__(self, layers, in_channels, channels, stride, *, sum, shortcut, norm_position):
        super().__init__()
        end, act = layers.branch_end(channels, channels, 3, norm_position=norm_position)
        self.branch = nn.Sequential(
            *layers.conv_norm_act(in_channels, channels, 3, stride, norm_position=norm_position), end
        )
        if projects(in_channels, channels, stride, shortcut=shortcut):
            self.shortcut = layers.conv_norm(in_channels, channels, 1, stride, place="shortcut")
        else:
            self.shortcut = without_parameters(layers, in_channels, channels, stride)
        self.sum, self.act = sum, act

    def forward(self, x):
        return self.act(self.sum(self.shortcut(x), self.branch(x)))


class _ResNet(nn.Module):
    """A 3×3 stem, stages of basic blocks, global average, classifier."""

    def __init__(self, layers, widths, blocks_per_stage, *, shortcut, norm_position, num_classes, dropout):
        super().__init__()
        how = {"norm_position": norm_position}
        shapes = block_shapes(widths, blocks_per_stage)
        self.stem = nn.Sequential(*layers.conv_norm_act(3, widths[0], 3, place="stem", **how))
        self.blocks = nn.Sequential(
            *[
                BasicBlock(layers, *shape, sum=layers.residual_sum(i, len(shapes)), shortcut=shortcut, **how)
                for i, shape in enumerate(shapes)
            ]
        )
        self.dropout = layers.dropout(dropout)
        self.classifier = layers.linear(widths[-1], num_classes)

    def forward(self, x):
        x = self.blocks(self.stem(x)).mean((2, 3))
        return self.classifier(self.dropout(x))


class CifarResNet(_ResNet):
    """He's CIFAR family of depth 6n+2: three stages of n blocks, shortcuts without parameters. He et al. 2015, §4.2.

    width: channels of the first stage; the next two have 2× and 4× as many. shortcut: pad (option A of the paper) or
    projection (option B). norm_position: before or after a convolution's activation.
    """

    def __init__(
        self,
        layers,
        *,
        depth: int,
        width: int = 16,
        shortcut: str = "pad",
        norm_position: str = "before",
        num_classes: int = 10,
        dropout: float = 0.0,
    ):
        widths, blocks = cifar_stages(depth, width)
        super().__init__(
            layers,
            widths,
            blocks,
            shortcut=shortcut,
            norm_position=norm_position,
            num_classes=num_classes,
            dropout=dropout,
        )


class ResNet18(_ResNet):
    """ResNet-18 with a stem for small images: a 3×3 convolution of stride 1, no pooling. He et al. 2015, table 1.

    width: channels of the first of four stages; each next one has twice as many. shortcut, norm_position: as for
    CifarResNet.
    """

    def __init__(
        self,
        layers,
        *,
        width: int = 64,
        shortcut: str = "projection",
        norm_position: str = "before",
        num_classes: int = 10,
        dropout: float = 0.0,
    ):
        super().__init__(
            layers,
            (width, 2 * width, 4 * width, 8 * width),
            2,
            shortcut=shortcut,
            norm_position=norm_position,
            num_classes=num_classes,
            dropout=dropout,
        )


class PreactBlock(nn.Module):
    """Norm, activation, 3×3 convolution, twice, and a shortcut: shortcut(x) + branch(x), nothing after the sum.

    He et al. 2016, arXiv 1603.05027, figure 4e. sum: joins the two. A projection takes the input normalized and
    activated, as the branch does. activated: the input is so already, and passes on that way (the first block's).
    """

    def __init__(self, layers, in_channels, channels, stride, *, sum, shortcut, activated):
        super().__init__()
        self.before = nn.Sequential(*([] if activated else layers.norm_act(in_channels)))
        self.branch = nn.Sequential(
            layers.conv(in_channels, channels, 3, stride),
            *layers.norm_act(channels),
            layers.conv(channels, channels, 3, ends_branch=True),
        )
        self.projects = projects(in_channels, channels, stride, shortcut=shortcut)
        if self.projects:
            self.shortcut = layers.conv(in_channels, channels, 1, stride, place="shortcut")
        else:
            self.shortcut = without_parameters(layers, in_channels, channels, stride)
        self.sum = sum

    def forward(self, x):
        y = self.before(x)
        return self.sum(self.shortcut(y if self.projects else x), self.branch(y))


class PreactResNet(nn.Module):
    """The CIFAR family of depth 6n+2 with norm and activation before the convolutions. He et al. 2016, §3 and appendix.

    The stem's convolution is normalized and activated before the first block splits, the last sum once more.
    width: channels of the first stage; the next two have 2× and 4× as many. shortcut: pad or projection.
    """

    def __init__(
        self,
        layers,
        *,
        depth: int,
        width: int = 16,
        shortcut: str = "pad",
        num_classes: int = 10,
        dropout: float = 0.0,
    ):
        super().__init__()
        widths, blocks = cifar_stages(depth, width)
        shapes = block_shapes(widths, blocks)
        self.stem = nn.Sequential(*layers.conv_norm_act(3, width, 3, place="stem"))
        self.blocks = nn.Sequential(
            *[
                PreactBlock(
                    layers, *shape, sum=layers.residual_sum(i, len(shapes)), shortcut=shortcut, activated=i == 0
                )
                for i, shape in enumerate(shapes)
            ]
        )
        self.end = nn.Sequential(*layers.norm_act(widths[-1]))
        self.dropout = layers.dropout(dropout)
        self.classifier = layers.linear(widths[-1], num_classes)

    def forward(self, x):
        x = self.end(self.blocks(self.stem(x))).mean((2, 3))
        return self.classifier(self.dropout(x))
