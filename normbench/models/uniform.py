"""3×3 convolutions of one width at one resolution, plain or residual: what depth alone does."""

from torch import nn

from normbench.errors import InputError
from normbench.models.resnet import BasicBlock


class Uniform(nn.Module):
    """A stem of stride 4, then `depth` 3×3 convolutions on maps of a quarter of the image's size, average, classifier.

    No layer but the stem changes the shape, so that whatever changes from one to the next is the work of depth.
    residual: the convolutions stand in blocks of two with an identity as their shortcut, He's (arXiv 1512.03385); depth
    is even then. width: channels of every layer. norm_position: before or after a convolution's activation.
    """

    def __init__(
        self,
        layers,
        *,
        depth: int = 20,
        width: int = 32,
        residual: bool = False,
        norm_position: str = "before",
        num_classes: int = 10,
        dropout: float = 0.0,
    ):
        super().__init__()
        how = {"norm_position": norm_position}
        self.stem = nn.Sequential(*layers.conv_norm_act(3, width, 3, stride=4, place="stem", **how))
        if residual:
            if depth % 2:
                raise InputError("depth", depth, "must be even with residual=true: blocks have two convolutions")
            self.blocks = nn.Sequential(
                *[
                    BasicBlock(layers, width, width, 1, sum=layers.residual_sum(i, depth // 2), shortcut="pad", **how)
                    for i in range(depth // 2)
                ]
            )
        else:
            layers.require_no_residual("uniform model.residual=false")
            stack = [layer for _ in range(depth) for layer in layers.conv_norm_act(width, width, 3, **how)]
            self.features = nn.Sequential(*stack)
        self.residual = residual
        self.dropout = layers.dropout(dropout)
        self.classifier = layers.linear(width, num_classes)

    def forward(self, x):
        x = self.stem(x)
        x = self.blocks(x) if self.residual else self.features(x)
        return self.classifier(self.dropout(x.mean((2, 3))))
