"""A small BN-Inception for 32×32 images."""

from torch import nn


class InceptionBlock(nn.Module):
    """Four branches, concatenated: 1×1; 1×1 then 3×3; 1×1 then two 3×3 in place of a 5×5; 3×3 average pooling then 1×1.

    Ioffe & Szegedy 2015, arXiv 1502.03167, appendix. Each branch gives a quarter of `channels`.
    """

    def __init__(self, layers, in_channels, channels, *, norm_position):
        super().__init__()
        quarter = channels // 4

        def conv(inputs, outputs, size):
            return nn.Sequential(*layers.conv_norm_act(inputs, outputs, size, norm_position=norm_position))

        self.branches = nn.ModuleList(
            [
                conv(in_channels, quarter, 1),
                nn.Sequential(conv(in_channels, quarter, 1), conv(quarter, quarter, 3)),
                nn.Sequential(conv(in_channels, quarter, 1), conv(quarter, quarter, 3), conv(quarter, quarter, 3)),
                nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), conv(in_channels, quarter, 1)),
            ]
        )
        self.concatenate = layers.concatenate()

    def forward(self, x):
        return self.concatenate([branch(x) for branch in self.branches])


class Inception(nn.Module):
    """A 3×3 stem, three stages of two inception blocks with max pooling between them, global average, classifier.

    width: channels of a branch in the first stage (a block has four); the next stages have 2× and 4× as many.
    norm_position: before or after a convolution's activation. lrn: local response normalization after the stem and
    after the first pooling.
    """

    def __init__(
        self,
        layers,
        *,
        width: int = 16,
        lrn: bool = False,
        norm_position: str = "before",
        num_classes: int = 10,
        dropout: float = 0.0,
    ):
        super().__init__()
        layers.require_no_residual("inception")
        how = {"norm_position": norm_position}
        stages, in_channels = [], 2 * width

        def response():
            return [layers.local_response()] if lrn else []

        self.stem = nn.Sequential(*layers.conv_norm_act(3, in_channels, 3, **how), *response())
        for stage in range(3):
            channels = 4 * width * 2**stage
            if stage > 0:
                pool = nn.MaxPool2d(3, stride=2, padding=1)
                # As one module: the names of the blocks' parameters stay what they are without it.
                stages.append(nn.Sequential(pool, *response()) if stage == 1 and lrn else pool)
            for _ in range(2):
                stages.append(InceptionBlock(layers, in_channels, channels, **how))
                in_channels = channels
        self.stages = nn.Sequential(*stages)
        self.dropout = layers.dropout(dropout)
        self.classifier = layers.linear(in_channels, num_classes)

    def forward(self, x):
        x = self.stages(self.stem(x)).mean((2, 3))
        return self.classifier(self.dropout(x))
