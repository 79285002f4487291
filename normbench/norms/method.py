"""What a normalization method is: what stands in each place of a network, and what it does in the course of training.

Every default does nothing. A method's options are the keyword-only parameters of its parts, with types and defaults.
"""

import inspect
import operator
import typing
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from normbench.norms.plain import Conv2d, Linear, PadShortcut


def identity(num_channels: int, replicates: int = 1):
    """No normalization. The convolution before it gets a bias."""
    return nn.Identity()


def plain_sum(block: int, blocks: int, replicates: int = 1):
    """shortcut + branch, without a layer of its own."""
    return operator.add


def nothing(*_) -> None:
    """A part of its life in which a method does nothing."""


def one_form(model: nn.Module, step: int) -> object:
    """Every step is the same operations."""
    return None


def no_factors(model: nn.Module) -> dict:
    """Every parameter learns at the rate of the optimizer."""
    return {}


@dataclass(frozen=True)
class Method:
    """A normalization method. Layers are made for `replicates` side by side; no replicate may touch another.

    Its layers:
    norm(num_channels, replicates, **options): the layer after a convolution. Where that has no shift of its own (its
    `bias`), the convolution gets one.
    norm_act(num_channels, replicates, **options): one layer in place of a norm and the activation after it; None: the
    two, one after the other. Where no activation follows (the end of a residual branch) `norm` stands alone. One with
    a parameter `act` gets there what makes the network's activation; the others have their own.
    conv, linear: with the parameters of plain.Conv2d and plain.Linear. A convolution that asks for it, by parameters of
    these names, is told its `place`: stem, shortcut, end (of a residual branch) or inside (anywhere else), and gets
    what makes the network's activation (`act`).
    pad(new_channels, stride, replicates): the shortcut without a convolution of a block that changes the shape.
    residual_sum(block, blocks, replicates, **options): from a shortcut and a branch to their sum, in block `block`,
    counted from 0, of `blocks`.
    residual(replicates, **options): what ends a residual branch, if anything.

    Its life:
    initialize(model, generators): after the first draw of the weights, with the generators that drew, one a replicate.
    prepare(model, inputs): before the first step, with inputs of training images, N×(R·3)×H×W.
    before_step(model, step, share): before every step, counted from 0, at that share of training (0 to below 1).
    lr_factor(model): parameter → factor on its learning rate; 1 for those that it leaves out.
    form(model, step): of steps with equal ones, one may be recorded in place of all.
    What happens at a step depends on its arguments alone, so that a stopped run resumes bit for bit. The residual
    networks have their blocks in `model.blocks`, each with a `branch`, a `shortcut` and a `sum`.

    model: the only one that it is made for; None: any.
    """

    norm: Callable = identity
    norm_act: Callable | None = None
    conv: Callable = Conv2d
    linear: Callable = Linear
    pad: Callable = PadShortcut
    residual_sum: Callable = plain_sum
    residual: Callable | None = None

    initialize: Callable[..., None] = nothing
    prepare: Callable[..., None] = nothing
    before_step: Callable[..., None] = nothing
    lr_factor: Callable[[nn.Module], dict] = no_factors
    form: Callable[[nn.Module, int], object] = one_form

    model: str | None = None

    def parts(self) -> list[Callable]:
        """What makes its layers."""
        parts = (self.norm, self.norm_act, self.conv, self.linear, self.pad, self.residual_sum, self.residual)
        return [part for part in parts if part is not None]

    @property
    def of_branches(self) -> bool:
        """Whether it acts on residual branches, and so needs a network that has some."""
        return self.residual is not None or self.residual_sum is not plain_sum

    def options(self) -> dict[str, tuple[type, object]]:
        """Option name → (type, default), from the signatures of the parts."""
        return {name: option for part in self.parts() for name, option in _options_of(part).items()}

    @property
    def keeps_activation(self) -> bool:
        """Whether what stands in place of norm and activation has the network's activation in it."""
        return self.norm_act is not None and "act" in inspect.signature(self.norm_act).parameters

    def of_conv(self, **told) -> dict:
        """What of this a convolution asks to be told."""
        asked = inspect.signature(self.conv).parameters
        return {name: value for name, value in told.items() if name in asked}

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
