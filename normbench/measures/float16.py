"""What of a forward and a backward pass float16 cannot hold."""

from dataclasses import dataclass

import torch
from torch import nn

from normbench.tasks.classify import batch_loss


@dataclass(frozen=True)
class Float16Shares:
    """Values in percent: those that become infinite in float16, and those other than 0 that become 0.

    forward: of the inputs and of every layer's output. backward: of the loss's gradients by those outputs and by the
    parameters.
    """

    forward_overflow: float
    forward_underflow: float
    backward_overflow: float
    backward_underflow: float


def float16_shares(
    model: nn.Module, x: torch.Tensor, labels: torch.Tensor, *, label_smoothing: float = 0.0
) -> Float16Shares:
    """Which part of a forward and a backward pass float16 cannot hold: |value| from 65,520 on, or up to 2⁻²⁵.

    model: of one replicate, in the mode that counts. x: inputs N×3×H×W, labels: N. The pass is computed in their
    precision and each value is cast by itself, so that an overflow counts where it arises and not again in all that it
    would turn into NaN; kernels differ in what they accumulate in. Without loss scaling.
    """
    outputs = {}  # by identity: what a layer hands on unchanged is there once

    def note(layer, inputs, output):
        outputs[id(output)] = output

    layers = [module for module in model.modules() if not list(module.children())]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        loss = batch_loss(model, x, labels, label_smoothing)
    finally:
        for hook in hooks:
            hook.remove()
    outputs.pop(id(x), None)
    gradients = torch.autograd.grad(loss, [*outputs.values(), *model.parameters()])
    return Float16Shares(*_float16([x, *outputs.values()]), *_float16(gradients))


def _float16(tensors) -> tuple[float, float]:
    """Shares in percent that overflow and underflow. What is not finite already overflows."""
    over = under = count = 0
    for values in tensors:
        cast = values.detach().half()
        over += (~cast.isfinite()).sum().item()
        under += ((cast == 0) & (values != 0)).sum().item()
        count += values.numel()
    return 100 * over / count, 100 * under / count
