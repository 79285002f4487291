"""The optimizer, its learning rate at each step, and gradient norms, replicate by replicate."""

import math

import torch

from normbench.norms.plain import Conv2d, Linear


def make_optimizer(model, optim, factors=None) -> torch.optim.Optimizer:
    """SGD or AdamW; weight decay on the weights of convolutions and linear layers alone, told by the module's type.

    γ, β, biases, gains of weight normalization and residual scalars are never decayed, whatever the method.
    factors: parameter → factor on its rate (a method's `lr_factor`), 1 where it has none. See set_lr.
    """
    factors = factors or {}
    decayed = [module.weight for module in model.modules() if isinstance(module, Conv2d | Linear)]
    kept = {id(weight) for weight in decayed}
    others = [parameter for parameter in model.parameters() if id(parameter) not in kept]
    groups = []
    for parameters, decay in ((decayed, optim.weight_decay), (others, 0.0)):
        for factor in sorted({factors.get(parameter, 1.0) for parameter in parameters}):
            mine = [parameter for parameter in parameters if factors.get(parameter, 1.0) == factor]
            groups.append({"params": mine, "weight_decay": decay} | ({} if factor == 1 else {"lr_factor": factor}))
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, lr=optim.lr, betas=tuple(optim.betas), eps=optim.eps, fused=True)
    return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Every parameter's rate for the next step: its factor of `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)


def scaled_lr(lr: float, batch_size: int, scaling: str) -> float:
    """The peak rate at a batch size, from that at 128: linear (Goyal et al. 2017, arXiv 1706.02677), sqrt or none."""
    ratio = batch_size / 128
    return lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[scaling]


def lr_factor(samples: int, batch_size: int, total: int, optim) -> float:
    """The share of the peak rate for the step that starts after `samples` of `total` samples.

    Warm-up: linear, over optim.warmup_samples. Then cosine to 0 at `total`; or ×gamma after each milestone's share of
    training; or constant.
    """
    warmup = optim.warmup_samples
    if samples < warmup:
        return min(1.0, (samples + batch_size) / warmup)
    if optim.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (samples - warmup) / (total - warmup)))
    if optim.schedule == "step":
        return optim.gamma ** sum(samples >= share * total for share in optim.milestones)
    return 1.0


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
