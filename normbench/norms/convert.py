"""Put a method into a model that was built with BatchNorm."""

import warnings
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from normbench.errors import InputError
from normbench.norms.batch import BatchNorm, MeanOnlyBatchNorm
from normbench.norms.methods import get_method, require_options
from normbench.norms.plain import Conv2d, ScaleShift

# What comes before a BatchNorm of 1, 2 or 3 dimensions, and so takes the shift that the method put there does not have.
BEFORE = {
    1: (nn.Linear, nn.Conv1d, nn.ConvTranspose1d),
    2: (nn.Conv2d, nn.ConvTranspose2d),
    3: (nn.Conv3d, nn.ConvTranspose3d),
}
DIMENSIONS = {nn.BatchNorm1d: (1,), nn.BatchNorm2d: (2,), nn.BatchNorm3d: (3,)}  # torch's SyncBatchNorm: any


def convert_norms(model: nn.Module, norm: str, /, **options) -> nn.Module:
    """Turn every BatchNorm layer of a model into another method, in place, and return the model.

    model: any nn.Module, torchvision's for instance. norm: a name in NORMS; options: the method's, such as
    `num_groups=32`. The new layers have the parameters of the old where they have such (γ, β, filters, biases: the same
    objects, so that an optimizer's, frozen and tied ones remain so), their running averages, mode, dtype, device and
    hooks; ε and momentum unless given. Methods that normalize weights replace nn.Conv2d as well, starting from the same
    filters. Where no new layer has a shift, the convolutions without a bias get one of 0, and before BatchNorm1d the
    linear layers too. A state dict of the model from before loads as if it had been loaded first.

    Raises InputError, and changes nothing, where the method cannot be put: an unknown method or option, groups that do
    not divide the channels, BatchNorm1d or 3d for a method of feature maps or weights, transposed convolutions for one
    of weights, a layer that is more than torch's (a `forward` of its own, a weight made from other parameters, no shape
    yet), one that evaluates by the batch for a method with running averages, a method that acts on residual branches
    or is norm and activation in one, a model without BatchNorm. The layer is named. Warns of what else is called
    BatchNorm (torchvision's FrozenBatchNorm2d): it stays.
    """
    method = get_method(norm)
    require_options(norm, options)
    if method.of_branches:
        raise InputError("norm", norm, "acts on residual branches, which cannot be told in a finished model")
    if method.model is not None:
        raise InputError("norm", norm, f"is for model={method.model} alone, with the weights that it starts from")
    if method.norm_act is not None:
        raise InputError("norm", norm, "is norm and activation in one, which are apart in a finished model")

    new_of, biased = _plan(model, norm, method, options)  # nothing changes before all of it is known to be possible
    _warn_of_others(model)
    for layer in biased:
        _add_bias(layer)
    _take_over(new_of)
    if model in new_of:  # the model itself is the layer
        return new_of[model]
    for path, old in list(model.named_modules(remove_duplicate=False)):
        if old in new_of:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, new_of[old])
    return model


def _plan(model, norm, method, options) -> tuple[dict, list]:
    """Old layer → new layer, and the layers that stay but get a bias. A layer used in several places is one."""
    layers = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, _BatchNorm)]
    if not layers:
        raise InputError("norm", norm, "the model has no BatchNorm layer to convert")
    new_of = {layer: _in_place_of(layer, path, norm, method, options) for path, layer in layers}
    shifts = any(getattr(new, "bias", None) is not None for new in new_of.values())
    weights = method.conv is not Conv2d
    before = tuple(kind for d in {d for old in new_of for d in _dimensions(old)} for kind in BEFORE[d])
    biased = []
    for path, layer in model.named_modules():
        if weights and isinstance(layer, nn.Conv2d):
            _require_torchs(layer, path, norm)
            new_of[layer] = _convolution(layer, path, method, options, with_bias=not shifts)
        elif weights and isinstance(layer, _ConvNd) and isinstance(layer, before):
            raise _refusal(norm, layer, path, "has filters that the method does not normalize: Conv2d's alone")
        elif not shifts and isinstance(layer, before) and layer.bias is None:
            _require_torchs(layer, path, norm, made_weight=True)
            biased.append(layer)
    return new_of, biased


def _dimensions(norm: _BatchNorm) -> tuple[int, ...]:
    return next((found for kind, found in DIMENSIONS.items() if isinstance(norm, kind)), tuple(BEFORE))


def _refusal(norm, layer, path, text) -> InputError:
    return InputError("norm", norm, f"at {_place(path)}: a {type(layer).__name__} {text}")


def _place(path) -> str:
    return path or "the model itself"


def _require_torchs(layer, path, norm, *, made_weight=False) -> None:
    """Refuse a layer that computes what its class of torch does not: that would be lost, or its bias not used.

    made_weight: whether its weight may be made from other parameters, as torch's own weight and spectral norm do.
    """
    kind = type(layer)
    torchs = next(base for base in kind.__mro__ if base.__module__.startswith("torch.nn.modules."))
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin) and layer.has_uninitialized_params():
        raise _refusal(norm, layer, path, "has no shape yet; pass a batch through the model first")
    same = all(getattr(kind, name, None) is getattr(torchs, name, None) for name in ("forward", "_conv_forward"))
    if not same or "forward" in vars(layer):
        raise _refusal(norm, layer, path, "has a forward of its own, which would be lost")
    made = hasattr(kind, "weight") or set(layer._parameters) != {"weight", "bias"} or len(layer._modules) > 0
    if made and not made_weight:
        raise _refusal(
            norm, layer, path, "has more parameters or modules than torch's (a weight norm, for instance); remove them"
        )


def _in_place_of(old: _BatchNorm, path, norm, method, options):
    _require_torchs(old, path, norm)
    inherited = {"eps": old.eps, "momentum": old.momentum, "affine": old.weight is not None}
    if old.momentum is None:  # torch: a cumulative average, which no method here keeps
        inherited["momentum"] = 0.1
    if not old.track_running_stats:  # averages that stand still, if there are any
        inherited["momentum"] = 0.0
    new = _build(method, method.norm, old.running_mean if old.weight is None else old.weight, path)(
        old.num_features, options=inherited | options
    )
    of_maps = isinstance(old, nn.BatchNorm2d | nn.SyncBatchNorm)
    if not of_maps and (not isinstance(new, BatchNorm | nn.Identity) or getattr(new, "maps_only", False)):
        raise _refusal(norm, old, path, "is no feature map N×C×H×W")
    if not of_maps and method.conv is not Conv2d:
        raise _refusal(norm, old, path, "stands beside filters that the method does not normalize: Conv2d's alone")
    if isinstance(new, BatchNorm) and old.running_mean is None:
        raise _refusal(norm, old, path, "has no running averages and evaluates by the batch, which the method does not")
    if old.bias is None and not {"affine", "shift"} & options.keys() and getattr(new, "bias", None) is not None:
        new.bias = None
    return new


def _convolution(old: nn.Conv2d, path, method, options, with_bias):
    return _build(method, method.conv, old.weight, path)(
        old.in_channels,
        old.out_channels,
        old.kernel_size,
        options=options,
        groups=old.groups,
        stride=old.stride,
        padding=old.padding,
        dilation=old.dilation,
        padding_mode=old.padding_mode,
        bias=with_bias or old.bias is not None,
    )


def _build(method, part, like, path):
    """How to make a part of the method on the device and in the dtype of a tensor; errors name the layer."""

    def build(*args, **more):
        try:
            with torch.device("cpu" if like is None else like.device):
                new = method.build(part, *args, **more)
        except InputError as error:
            raise InputError(error.key, error.value, f"at {_place(path)}: {error.text}") from None
        return new if like is None else new.to(like.dtype)

    return build


def _take_over(new_of) -> None:
    """Give each new layer what the old one has: parameters, running averages, mode and hooks."""
    tied = {}  # filters → the first new layer that has them
    for old, new in new_of.items():
        added = [name for name, _ in new.named_parameters() if getattr(old, name, None) is None]
        for name in ("weight", "bias", "running_mean", "running_var"):
            if getattr(new, name, None) is not None and getattr(old, name, None) is not None:
                setattr(new, name, getattr(old, name))
        if isinstance(new, MeanOnlyBatchNorm):
            new.running_var = torch.ones_like(old.running_var)  # it does not divide
        for name, hooks in vars(old).items():  # the same dicts: handles remain able to remove them
            if name.startswith(("_forward_", "_backward_", "_is_full_backward")):
                setattr(new, name, hooks)
        new.train(old.training)
        if isinstance(old, nn.Conv2d):
            _start_from(old.weight, new, added, tied.setdefault(old.weight, new))
        else:
            for name in added:
                getattr(new, name).requires_grad_(old.weight is None or old.weight.requires_grad)
            new.register_load_state_dict_pre_hook(_as_converted)


def _start_from(filters, new, added, first) -> None:
    """Set what a convolution has beside the old one's filters. first: the one with the same; it has the same gains."""
    new.set_filters(filters.detach().clone())
    for name in added:
        if name == "bias":
            new.bias.detach().zero_()
        else:
            setattr(new, name, getattr(first, name))
        getattr(new, name).requires_grad_(filters.requires_grad)
    _load_without(new, added)


def _add_bias(layer) -> None:
    """A bias of 0 in a layer of torch without one; frozen if the layer is."""
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    learns = any(value.requires_grad for value in layer.parameters())
    layer.bias = nn.Parameter(layer.weight.detach().new_zeros(channels), requires_grad=learns)
    _load_without(layer, ["bias"])


def _load_without(layer, added) -> None:
    """Let the layer load states from before it was converted, which are without these parameters."""
    layer.register_load_state_dict_pre_hook(partial(_with_what_is_new, added))


def _with_what_is_new(added, layer, state, prefix, *_) -> None:
    """Add to a state dict what the conversion gave the layer, as it does: gains of the filters, a bias of 0."""
    made, filters = {}, state.get(prefix + "weight")
    if filters is not None and hasattr(layer, "parameters_for"):
        made |= layer.parameters_for(filters)
    like = next((value for name, value in state.items() if name.startswith(prefix)), None)
    if like is not None and layer.bias is not None:
        made["bias"] = like.new_zeros(layer.bias.shape)
    for name in made.keys() & set(added):
        state.setdefault(prefix + name, made[name])


def _as_converted(layer, state, prefix, *_) -> None:
    """Make of a BatchNorm's state that of the layer in its place: without what is gone, and with what starts there."""
    if isinstance(layer, MeanOnlyBatchNorm) and {prefix + "weight", prefix + "num_batches_tracked"} & state.keys():
        state[prefix + "running_var"] = torch.ones_like(state[prefix + "running_var"])
    like = state.get(prefix + "num_batches_tracked")
    if like is not None and isinstance(layer, ScaleShift):
        for name, start in layer.added().items():
            state[prefix + name] = torch.full_like(getattr(layer, name), start, device=like.device)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        if getattr(layer, name, None) is None:
            state.pop(prefix + name, None)


def _warn_of_others(model) -> None:
    """Of what is called BatchNorm without being torch's."""
    others = [
        f"{path} ({type(layer).__name__})"
        for path, layer in model.named_modules()
        if "BatchNorm" in type(layer).__name__ and not isinstance(layer, BatchNorm | _BatchNorm)
    ]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        warnings.warn(f"not torch's BatchNorm, and so left as it is: {others[0]}{more}", stacklevel=3)
