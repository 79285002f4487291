"""The factory that models ask for their layers."""

from collections.abc import Callable

from torch import nn

from normbench.config.keys import NORM_POSITIONS
from normbench.errors import InputError, require_choice
from normbench.norms.methods import get_method, require_options
from normbench.norms.plain import Concatenate, Conv2d, Dropout, Linear, LocalResponse

ACTIVATIONS: dict[str, Callable] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


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
        require_choice("model.activation", activation, ACTIVATIONS)
        self.replicates, self.activation, self.zero_init_residual = replicates, activation, zero_init_residual

    # Lists of modules are to stand one after the other: nn.Sequential(*layers.conv_norm_act(3, 16, 3)).
    # place: of a convolution in a residual network, as method.py has it; ends_branch: its place is the end.

    def conv(self, in_channels, out_channels, kernel_size, stride=1, *, ends_branch=False, place="inside"):
        """A convolution alone, with same padding. ends_branch: the last layer of a residual branch."""
        shift = _shifts(self.norm_act(out_channels)[0])
        place = "end" if ends_branch else place
        conv = self._conv(in_channels, out_channels, kernel_size, stride, bias=not shift, place=place)
        return self._branch_end(conv) if ends_branch else conv

    def norm_act(self, num_channels) -> list[nn.Module]:
        """The method's norm and the activation, or what the method has for both."""
        if self.method.norm_act is None:
            return [self.norm(num_channels), self.act()]
        more = {"act": self.act} if self.method.keeps_activation else {}
        return [self._build(self.method.norm_act, num_channels, self.replicates, **more)]

    def conv_norm(self, in_channels, out_channels, kernel_size, stride=1, *, ends_branch=False, place="inside"):
        """A convolution with same padding and the method's norm. ends_branch: the last of a residual branch."""
        norm = self.norm(out_channels)
        place = "end" if ends_branch else place
        conv = self._conv(in_channels, out_channels, kernel_size, stride, bias=not _shifts(norm), place=place)
        return self._branch_end(conv, norm) if ends_branch else nn.Sequential(conv, norm)

    def conv_norm_act(
        self, in_channels, out_channels, kernel_size, stride=1, *, norm_position="before", place="inside"
    ) -> list[nn.Module]:
        """A convolution with its norm and activation. norm_position: in NORM_POSITIONS.

        Raises InputError for another, and for a norm to be set after an activation that the method has made part of it.
        """
        self._require_position(norm_position)
        if norm_position == "after":  # no shift of the norm stands in for the convolution's bias
            conv = self._conv(in_channels, out_channels, kernel_size, stride, bias=True, place=place)
            return [conv, self.act(), self.norm(out_channels)]
        norm, *act = self.norm_act(out_channels)
        conv = self._conv(in_channels, out_channels, kernel_size, stride, bias=not _shifts(norm), place=place)
        return [nn.Sequential(conv, norm), *act]

    def branch_end(
        self, in_channels, out_channels, kernel_size, *, norm_position="before"
    ) -> tuple[nn.Module, nn.Module]:
        """The last convolution of a residual branch, and what follows the sum: its norm stands in the one or the other.

        A convolution's activation is here the one after the sum, so a norm after that is a norm of the sum.
        """
        self._require_position(norm_position)
        if norm_position == "before":
            return self.conv_norm(in_channels, out_channels, kernel_size, ends_branch=True), self.act()
        conv = self._conv(in_channels, out_channels, kernel_size, 1, bias=True, place="end")
        return self._branch_end(conv), nn.Sequential(self.act(), self.norm(out_channels))

    def residual_sum(self, block: int, blocks: int) -> Callable:
        """From a shortcut and a branch to their sum, in block `block`, counted from 0, of `blocks`."""
        return self._build(self.method.residual_sum, block, blocks, self.replicates)

    def norm(self, num_channels):
        """The method's norm alone, for a model that has its own place for it."""
        return self._build(self.method.norm, num_channels, self.replicates)

    def linear(self, in_features, out_features, **options):
        """A linear layer. options: bias=False for one without."""
        return self._build(self.method.linear, in_features, out_features, replicates=self.replicates, **options)

    def act(self):
        return ACTIVATIONS[self.activation]()

    def dropout(self, p):
        return Dropout(p, self.replicates)

    def pad_shortcut(self, new_channels, stride):
        return self._build(self.method.pad, new_channels, stride, self.replicates)

    def concatenate(self):
        return Concatenate(self.replicates)

    def local_response(self):
        return LocalResponse(self.replicates)

    def require_model(self, model: str):
        """Refuse a method that is made for another model alone."""
        if self.method.model not in (None, model):
            raise InputError("norm", self.name, f"is for model={self.method.model} alone, not for model={model}")

    def require_no_residual(self, model: str):
        """Called by a model without residual branches: a method that acts only on those would do nothing there."""
        if self.method.of_branches:
            raise InputError("norm", self.name, f"acts on residual branches, and model={model} has none")
        if self.zero_init_residual:
            raise InputError("model.zero_init_residual", True, f"model={model} has no residual branches")

    def require_no_convolutions(self, model: str):
        """Called by a model of linear layers: a method that acts only on others would do nothing there, or half."""
        if self.method.of_branches:
            raise InputError("norm", self.name, f"acts on residual blocks of convolutions, and model={model} has none")
        if self.method.conv is not Conv2d and self.method.linear is Linear:
            raise InputError("norm", self.name, f"acts on convolutions, and model={model} has none")
        if self.zero_init_residual:
            raise InputError("model.zero_init_residual", True, f"model={model} has no residual blocks of convolutions")

    def _build(self, part, *args, **more):
        try:
            return self.method.build(part, *args, options=self.options, **more)
        except InputError as error:
            raise error.within("norm") from None

    def _conv(self, in_channels, out_channels, kernel_size, stride, *, bias, place):
        return self._build(
            self.method.conv,
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=bias,
            replicates=self.replicates,
            **self.method.of_conv(place=place, act=self.act),
        )

    def _branch_end(self, conv, norm=None):
        """The last layers of a residual branch, with what the method ends it with. norm: where one stands there."""
        if self.zero_init_residual:
            if norm is None:
                raise InputError("model.zero_init_residual", True, "no norm ends a residual branch of this model")
            if getattr(norm, "weight", None) is None:
                raise InputError("model.zero_init_residual", True, f"norm={self.name} has no γ that could start at 0")
            nn.init.zeros_(norm.weight)
        end = [] if self.method.residual is None else [self._build(self.method.residual, self.replicates)]
        return nn.Sequential(conv, *([] if norm is None else [norm]), *end)

    def _require_position(self, norm_position):
        key = "model.norm_position"
        require_choice(key, norm_position, NORM_POSITIONS)
        if norm_position == "after" and self.method.norm_act is not None:
            raise InputError(key, norm_position, f"norm={self.name} is norm and activation in one")


def _shifts(norm: nn.Module) -> bool:
    """Whether a norm has a shift β, which makes the bias of a convolution before it superfluous."""
    return getattr(norm, "bias", None) is not None
