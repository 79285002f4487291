"""Batch normalization as part of the layer before it: in evaluation it is one affine map a channel."""

import copy

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from normbench.errors import InputError
from normbench.norms.batch import BatchNorm
from normbench.norms.plain import Conv2d, Norm

OWN_STATISTICS = (Norm, nn.GroupNorm, nn.LayerNorm, _InstanceNorm)  # less batch normalization, which is a Norm as well
NORMS = tuple(kind.forward for kind in (BatchNorm, _BatchNorm, nn.SyncBatchNorm))
# What a layer computes → the layer that takes its place.
LAYERS = {nn.Conv1d.forward: nn.Conv1d, nn.Conv2d.forward: Conv2d, Conv2d.forward: Conv2d, nn.Conv3d.forward: nn.Conv3d}
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def fold(model: nn.Module) -> nn.Module:
    """A copy of a network for evaluation, without its batch normalizations: the layers before them do what they did.

    model: of normbench, or any nn.Module that torch.fx can trace, in whichever mode; it stays as it is. Filters become
    w·γ/√(σ²+ε) and biases (b−μ)·γ/√(σ²+ε) + β with the running averages μ and σ² (Ioffe & Szegedy 2015, arXiv
    1502.03167, algorithm 2, line 11), for all replicates that it holds. Folded are convolutions, those of weight norm
    and weight standardization among them, and nn.Linear on inputs N×features. The copy is in evaluation mode, and
    computes what the network did there, to rounding.

    Raises InputError, naming the layer, for a norm that takes its statistics of what it evaluates (GroupNorm,
    LayerNorm, InstanceNorm, BatchNorm without running averages), one that does not stand right behind a convolution
    which nothing else reads, as in pre-activation networks, a layer with hooks or a forward of its own, a network
    without batch normalization, and one without a trace.
    """
    folded = copy.deepcopy(model).eval()
    for layer, norm in _pairs(folded):
        made = _folded(folded.get_submodule(layer), folded.get_submodule(norm))
        _put(folded, layer, made)
        _put(folded, norm, nn.Identity().eval())
    return folded


class FoldedLinear(nn.Linear):
    """A linear layer that holds a batch normalization. Input N×in_features, output N×out_features."""

    def forward(self, x):
        if x.dim() != 2:  # batch normalization would have gone over the second axis, this goes over the last
            raise InputError("input", "×".join(map(str, x.shape)), "must be N×features, as the layer was folded for")
        return super().forward(x)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        return super().is_leaf_module(module, name) or not any(True for _ in module.children())


def _pairs(model) -> list[tuple[str, str]]:
    """The paths of each batch normalization and of the layer before it, which can take it in. Raises InputError."""
    modules = dict(model.named_modules())
    norms = [path for path, one in modules.items() if isinstance(one, BatchNorm | _BatchNorm)]
    for path, one in modules.items():
        if isinstance(one, OWN_STATISTICS) and path not in norms:
            raise _refusal(model, path, "takes its statistics of what it evaluates")
    if not norms:
        raise InputError("model", type(model).__name__, "has no batch normalization to fold")
    try:
        nodes = [node for node in _Tracer().trace(model).nodes if node.op == "call_module"]
    except Exception as error:  # its forward decides by numbers, or does to them what only a tensor can
        wrong = f"torch.fx cannot trace it, which folding takes: {type(error).__name__}"
        raise InputError("model", type(model).__name__, wrong) from None
    called = [node.target for node in nodes]
    return [(_before(model, node, called), node.target) for node in nodes if node.target in norms]


def _before(model, node, called: list[str]) -> str:
    """The path of the layer that takes in the norm of a node. called: the paths of all calls."""
    norm = model.get_submodule(node.target)
    if norm.running_mean is None:
        raise _refusal(model, node.target, "takes its statistics of what it evaluates")
    source = node.args[0]
    layer = model.get_submodule(source.target) if source.op == "call_module" else None
    kind = getattr(type(layer), "forward", None)
    if kind not in LAYERS and type(layer) is not nn.Linear:
        raise _refusal(model, node.target, "does not stand right behind a convolution or a linear layer")
    if len(source.users) > 1 or called.count(source.target) > 1 or called.count(node.target) > 1:
        raise _refusal(model, node.target, "or the layer before it, has another use in the network")
    if any(getattr(one, hooks) for one in (layer, norm) for hooks in HOOKS):
        raise _refusal(model, node.target, "or the layer before it, has hooks")
    if type(norm).forward not in NORMS:
        raise _refusal(model, node.target, "has a forward of its own")
    return source.target


def _refusal(model, path: str, text: str) -> InputError:
    kind = type(model.get_submodule(path)).__name__
    return InputError("model", type(model).__name__, f"at {path}: a {kind} {text}")


@torch.no_grad()
def _folded(layer, norm) -> nn.Module:
    """One layer in place of the two."""
    filters = layer.filters() if hasattr(layer, "filters") else layer.weight
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale if layer.bias is None else (layer.bias - norm.running_mean) * scale
    shift = shift if norm.bias is None else shift + norm.bias
    with torch.device("meta"):
        made = _like(layer)
    made.weight = nn.Parameter((filters * scale.view(-1, *[1] * (filters.dim() - 1))).to(filters.dtype))
    made.bias = nn.Parameter(shift.to(filters.dtype))
    return made.eval()


def _like(layer) -> nn.Module:
    """A layer of the same shape, with a bias."""
    if isinstance(layer, nn.Linear):
        return FoldedLinear(layer.in_features, layer.out_features)
    geometry = ("stride", "padding", "dilation", "groups", "padding_mode")
    how = {name: getattr(layer, name) for name in geometry}
    return LAYERS[type(layer).forward](layer.in_channels, layer.out_channels, layer.kernel_size, **how)


def _put(model, path: str, module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
