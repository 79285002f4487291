"""Put a method into a model that was built with BatchNorm."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normbench.errors import InputError
from normbench.norms.batch import BatchNorm, MeanOnlyBatchNorm
from normbench.norms.methods import get_method, require_options
from normbench.norms.plain import Conv2d


def convert_norms(model: nn.Module, norm: str, /, **options) -> nn.Module:
    """Turn every BatchNorm layer of a model into another method, in place, and return the model.

    model: any nn.Module, torchvision's for instance. norm: a name in NORMS; options: the method's, such as
    `num_groups=32`. γ and β are kept where the new layer has them, running averages too; ε and momentum are those of
    the layer replaced unless given. Methods that normalize weights replace the model's nn.Conv2d as well, starting from
    the same filters; where the new layer has no shift, convolutions without a bias get one of 0. Linear layers stay.

    Raises InputError, and changes nothing, where the method cannot be put: an unknown method or option, groups that do
    not divide the channels (the layer is named), BatchNorm1d or 3d for a method of feature maps, a method that acts on
    residual branches or is norm and activation in one, a model without BatchNorm.
    """
    method = get_method(norm)
    require_options(norm, options)
    if method.of_branches:
        raise InputError("norm", norm, "acts on residual branches, which cannot be told in a finished model")
    if method.norm_act is not None:
        raise InputError("norm", norm, "is norm and activation in one, which are apart in a finished model")

    new_of, shifts = {}, False  # a layer used in several places stays one
    for path, layer in model.named_modules():
        if isinstance(layer, _BatchNorm):
            new_of[layer] = _in_place_of(layer, path, norm, method, options)
            shifts = shifts or getattr(new_of[layer], "bias", None) is not None
    if not new_of:
        raise InputError("norm", norm, "the model has no BatchNorm layer to convert")
    if method.conv is not Conv2d or not shifts:
        for path, layer in model.named_modules():
            if isinstance(layer, nn.Conv2d):
                new_of[layer] = _convolution(layer, path, method, options, with_bias=not shifts)

    if model in new_of:  # the model itself is the layer
        return new_of[model]
    for path, old in list(model.named_modules(remove_duplicate=False)):
        if old in new_of:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, new_of[old])
    return model


def _in_place_of(old: _BatchNorm, path, norm, method, options):
    inherited = {"eps": old.eps, "momentum": old.momentum, "affine": old.affine}
    if old.momentum is None:  # torch: a cumulative average, which no method here keeps
        inherited["momentum"] = 0.1
    try:
        new = method.build(method.norm, old.num_features, options=inherited | options)
    except InputError as error:
        raise InputError(error.key, error.value, f"at {path}: {error.text}") from None
    if not isinstance(old, nn.BatchNorm2d | nn.SyncBatchNorm) and not isinstance(new, BatchNorm | nn.Identity):
        raise InputError("norm", norm, f"at {path}: a {type(old).__name__} is no feature map N×C×H×W")
    kept = {name: value for name, value in old.state_dict().items() if name in new.state_dict()}
    if isinstance(new, MeanOnlyBatchNorm):
        kept.pop("running_var", None)  # stays 1: it does not divide
    new.load_state_dict(new.state_dict() | kept)
    if old.running_mean is not None:
        new.to(old.running_mean.device, old.running_mean.dtype)
    elif old.weight is not None:
        new.to(old.weight)
    return new.train(old.training)


def _convolution(old: nn.Conv2d, path, method, options, with_bias):
    try:
        new = method.build(
            method.conv,
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
        ).to(old.weight)
    except InputError as error:
        raise InputError(error.key, error.value, f"at {path}: {error.text}") from None
    with torch.no_grad():
        new.set_filters(old.weight)
        if new.bias is not None:
            new.bias.copy_(0 if old.bias is None else old.bias)
    return new.train(old.training)
