"""The optimizer, and gradient norms, replicate by replicate."""

import inspect

import torch

from normbench.norms.plain import Conv2d, Linear

# Spare each start a second: at the first call of one of these torch loads its compiler, only to have it pass them by.
for _function in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
    if _inner := getattr(getattr(torch.optim.Optimizer, _function), "__wrapped__", None):
        _inner.__dynamo_disable = _inner  # what torch leaves there itself once it has


def make_optimizer(model, optim, factors=None, recorded: bool = False) -> torch.optim.Optimizer:
    """SGD or AdamW; weight decay on the weights of convolutions and linear layers alone, told by the module's type.

    γ, β, biases, gains of weight normalization and residual scalars are never decayed, whatever the method.
    factors: parameter → factor on its rate (a method's `lr_factor`), 1 where it has none. See set_lr. recorded: the
    rate is a tensor beside the parameters, which a CUDA graph reads anew at each step.
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
            if recorded:
                groups[-1]["lr"] = torch.tensor(optim.lr, dtype=torch.float32, device=parameters[0].device)
    if optim.name == "adamw":
        how = {"betas": tuple(optim.betas), "eps": optim.eps, "fused": True, "capturable": recorded}
        return torch.optim.AdamW(groups, lr=optim.lr, **how)
    return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov, fused=True)


@torch.no_grad()
def take_step(optimizer: torch.optim.Optimizer) -> None:
    """One step along the gradients, without what torch wraps around it for its compiler and its profiler."""
    inspect.unwrap(type(optimizer).step)(optimizer)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Every parameter's rate for the next step: its factor of `lr`."""
    for group in optimizer.param_groups:
        own = lr * group.get("lr_factor", 1.0)
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


def adaptive_units(model, replicates: int) -> list[tuple[torch.nn.Parameter, int]]:
    """The parameters that adaptive clipping is for, and how many units each has: all but the classifier's.

    A unit is a filter, a feature of a linear layer, or of other parameters what a replicate has of them.
    """
    units = []
    for name, parameter in model.named_parameters():
        if not name.startswith("classifier."):
            linear = parameter.shape[:2].numel()  # R×out×in
            units.append((parameter, {4: len(parameter), 3: linear}.get(parameter.dim(), replicates)))
    return units


def clip_adaptively(units, limit: float) -> None:
    """Scale the gradient of each unit whose norm is above limit·max(norm of its weights, 1e-3) down to that.

    units: from adaptive_units. Brock et al. 2021, arXiv 2102.06171, equation 3 and §4.1.
    """
    for parameter, count in units:
        if parameter.grad is not None:
            weights, gradient = parameter.detach().reshape(count, -1), parameter.grad.reshape(count, -1)
            most = limit * weights.norm(dim=1, keepdim=True).clamp(min=1e-3)
            norms = gradient.norm(dim=1, keepdim=True)
            factors = torch.where(norms > most, most / norms.clamp(min=1e-6), torch.ones_like(norms))
            parameter.grad.copy_((gradient * factors).view_as(parameter))


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
