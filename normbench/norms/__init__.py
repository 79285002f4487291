"""Every normalization method by name, and the factory that models ask for their layers.

A method says which convolution, which norm layer, which linear layer and what on a residual branch; its options are the
keyword-only parameters of those, with their types and defaults. To add one: a class in its family's file, a line in
NORMS, a file in conf/norm/.
"""

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from normbench.errors import InputError, choices_text
from normbench.norms.batch import BatchNorm, GhostBatchNorm, SyncBatchNorm
from normbench.norms.plain import Concatenate, Conv2d, Dropout, Linear, PadShortcut, ResidualScalar
from normbench.norms.sample import GroupNorm, InstanceNorm, LayerNorm, LayerNorm2d
from normbench.norms.weight import (
    WeightNormConv2d,
    WeightNormLinear,
    WeightStandardizationConv2d,
    mean_only_or_none,
    standardization_norm,
)

__all__ = ["ACTIVATIONS", "NORMS", "Layers", "Method", "convert_norms", "get_method"]


def identity(num_channels: int, replicates: int = 1):
    """No normalization. The convolution before it gets a bias."""
    return nn.Identity()


@dataclass(frozen=True)
class Method:
    """A normalization method: what stands in each place of a network.

    norm(num_channels, replicates, **options) gives the layer after a convolution; where that has no shift of its own,
    the convolution gets a bias. residual(replicates, **options), if any, ends a residual branch.
    """

    norm: Callable = identity
    conv: Callable = Conv2d
    linear: Callable = Linear
    residual: Callable | None = None

    def parts(self):
        return [part for part in (self.norm, self.conv, self.linear, self.residual) if part is not None]

    def options(self) -> dict[str, tuple[type, object]]:
        """Option name → (type, default), from the signatures of the parts."""
        return {name: option for part in self.parts() for name, option in _options_of(part).items()}

    def build(self, part: Callable, *args, options: dict, **more):
        """Make one part with those of the method's options that it takes."""
        taken = _options_of(part)
        return part(*args, **more, **{name: value for name, value in options.items() if name in taken})


def _options_of(part) -> dict[str, tuple[type, object]]:
    function = part.__init__ if inspect.isclass(part) else part
    types = typing.get_type_hints(function)
    return {
        name: (types[name], parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name in types  # untyped ones are the layer's geometry
    }


NORMS: dict[str, Method] = {
    "none": Method(),
    "skipinit": Method(residual=ResidualScalar),
    "batch": Method(BatchNorm),
    "sync_batch": Method(SyncBatchNorm),
    "ghost_batch": Method(GhostBatchNorm),
    "layer": Method(LayerNorm),
    "layer2d": Method(LayerNorm2d),
    "instance": Method(InstanceNorm),
    "group": Method(GroupNorm),
    "weight_norm": Method(mean_only_or_none, conv=WeightNormConv2d, linear=WeightNormLinear),
    "weight_standardization": Method(standardization_norm, conv=WeightStandardizationConv2d),
}

ACTIVATIONS: dict[str, Callable] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


def get_method(name: str) -> Method:
    """The method of that name. Raises InputError with the choices for an unknown one."""
    if name not in NORMS:
        raise InputError("norm", name, f"unknown method; {choices_text(name, NORMS)}")
    return NORMS[name]


def require_options(name: str, options) -> None:
    """Raises InputError with the choices for an option that the method of that name does not have."""
    known = get_method(name).options()
    for key, value in options.items():
        if key not in known:
            choices = choices_text(key, known) if known else "it has none"
            raise InputError(key, value, f"norm={name} has no such option; {choices}")


class Layers:
    """The factory: a model asks for a layer of C channels and gets one of the chosen method, for R replicates.

    norm: a name in NORMS; options: the method's. activation: a name in ACTIVATIONS. zero_init_residual: γ of the last
    norm of each residual branch starts at 0. Raises InputError for a bad option, its key within `norm` or `model`.
    """

    def __init__(
        self,
        norm: str = "batch",
        options: dict | None = None,
        *,
        replicates: int = 1,
        activation: str = "relu",
        zero_init_residual: bool = False,
    ):
        self.method, self.name, self.options = get_method(norm), norm, dict(options or {})
        try:
            require_options(norm, self.options)
        except InputError as error:
            raise error.within("norm") from None
        if activation not in ACTIVATIONS:
            raise InputError("model.activation", activation, choices_text(activation, ACTIVATIONS))
        self.replicates, self.activation, self.zero_init_residual = replicates, activation, zero_init_residual

    def _build(self, part, *args, **more):
        try:
            return self.method.build(part, *args, options=self.options, **more)
        except InputError as error:
            raise error.within("norm") from None

    def conv_norm(self, in_channels, out_channels, kernel_size, stride=1, *, ends_branch=False):
        """A convolution with same padding and the method's norm. ends_branch: the last of a residual branch."""
        norm = self._build(self.method.norm, out_channels, self.replicates)
        conv = self._build(
            self.method.conv,
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=getattr(norm, "bias", None) is None,
            replicates=self.replicates,
        )
        if not ends_branch:
            return nn.Sequential(conv, norm)
        if self.zero_init_residual:
            if getattr(norm, "weight", None) is None:
                raise InputError("model.zero_init_residual", True, f"norm={self.name} has no γ that could start at 0")
            nn.init.zeros_(norm.weight)
        if self.method.residual is None:
            return nn.Sequential(conv, norm)
        return nn.Sequential(conv, norm, self._build(self.method.residual, self.replicates))

    def linear(self, in_features, out_features):
        return self._build(self.method.linear, in_features, out_features, replicates=self.replicates)

    def act(self):
        return ACTIVATIONS[self.activation]()

    def dropout(self, p):
        return Dropout(p, self.replicates)

    def pad_shortcut(self, new_channels, stride):
        return PadShortcut(new_channels, stride, self.replicates)

    def concatenate(self):
        return Concatenate(self.replicates)

    def require_no_residual(self, model: str):
        """Called by a model without residual branches: a method that acts only on those would do nothing there."""
        if self.method.residual is not None:
            raise InputError("norm", self.name, f"acts on residual branches, and model={model} has none")
        if self.zero_init_residual:
            raise InputError("model.zero_init_residual", True, f"model={model} has no residual branches")


from normbench.norms.convert import convert_norms  # noqa: E402  (needs NORMS)
