"""The optimizer, and gradient norms, replicate by replicate."""

import torch

from normbench.norms.plain import Conv2d, Linear


def make_optimizer(model, optim) -> torch.optim.Optimizer:
    """SGD or AdamW; weight decay on the weights of convolutions and linear layers alone, told by the module's type.

    γ, β, biases, gains of weight normalization and residual scalars are never decayed, whatever the method.
    """
    decayed = [module.weight for module in model.modules() if isinstance(module, Conv2d | Linear)]
    kept = {id(weight) for weight in decayed}
    others = [parameter for parameter in model.parameters() if id(parameter) not in kept]
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, lr=optim.lr, betas=tuple(optim.betas), eps=optim.eps, fused=True)
    return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov, fused=True)


def gradient_norms(parameters, replicates: int) -> torch.Tensor:
    """The Euclidean norm of each replicate's whole gradient: R."""
    squares = [p.grad.reshape(replicates, -1).square().sum(1) for p in parameters if p.grad is not None]
    return torch.stack(squares).sum(0).sqrt()


def clip_gradients(parameters, norms: torch.Tensor, limit: float) -> None:
    """Scale each replicate's gradient, by itself, to a norm of at most `limit`. norms: from gradient_norms."""
    factors = (limit / (norms + 1e-6)).clamp(max=1.0)
    for p in parameters:
        if p.grad is not None:
            rows = factors.repeat_interleave(len(p.grad) // len(norms)).to(p.grad.dtype)
            p.grad.mul_(rows.view(-1, *(1,) * (p.grad.dim() - 1)))
