"""Networks of which the kernels know some layers: torch's come between, and the whole is torch's to rounding."""

import copy

import pytest
import torch
from native_networks import MIXED, assert_same, compared, images, network, step
from torch import nn

from normbench.kernels import fastest, library
from normbench.kernels.library import NoKernels
from normbench.kernels.native import Native
from normbench.norms.plain import Conv2d, Dropout, Linear
from normbench.tasks.build import kernels_of

try:
    library.library()
except NoKernels as reason:
    pytest.skip(str(reason), allow_module_level=True)


def mixed(model, x, tolerance=1e-10):
    native = compared(model, x, tolerance=tolerance)
    assert native.mixed
    assert native._program(x) is None  # in evaluation
    native.model.train()
    assert native._program(x) is not None
    return native


@pytest.mark.parametrize("method", MIXED)
@pytest.mark.parametrize("replicates", [1, 3])
def test_every_method_that_they_do_not_know(method, replicates):
    for model in ("resnet8", "inception"):
        mixed(network(method, replicates, model, width=3), images(3, replicates))


@pytest.mark.parametrize("activation", ["tanh", "gelu", "silu"])
@pytest.mark.parametrize("model", ["resnet8", "preact_resnet8", "vgg"])
def test_other_activations(activation, model):
    mixed(network(model=model, activation=activation, width=3), images(3, size=(16, 17)))
    mixed(network("group", model=model, activation=activation, width=4), images(1, size=(16, 16)))


@pytest.mark.parametrize("options", [{"shortcut": "projection"}, {"norm_position": "after"}, {"dropout": 0.5}])
def test_shortcuts_past_an_unknown_layer(options):
    mixed(network("layer2d", **options), images(5))


@pytest.mark.parametrize("method", ["layer2d", "batch detached"])
def test_float32(method):
    mixed(network(method, dtype=torch.float32), images(8, dtype=torch.float32), tolerance=1e-4)


def test_statistics_that_freeze_in_the_course_of_training():
    model = network("batch running")
    native, other = Native(copied := copy.deepcopy(model), 2), copied
    for frozen in (False, True):
        for own in (model, other):
            for module in own.modules():
                if hasattr(module, "frozen"):
                    module.frozen = frozen
        assert_same(step(native, other.train(), images()), step(model, model.train(), images()), 1e-10)


class Own(nn.Module):
    """A user's network: two convolutions, what `between` makes of the images and both their maps, a linear layer."""

    def __init__(self, between):
        super().__init__()
        self.first, self.second = Conv2d(3, 4, 3, padding=1), Conv2d(4, 4, 3, padding=1)
        self.third, self.classifier = Conv2d(4, 6, 3, padding=1), Linear(6, 10)
        self.images, self.dropout = nn.InstanceNorm2d(3, affine=True), Dropout(0.5)
        self.factor, self.between = nn.Parameter(torch.tensor(2.0)), between

    def forward(self, x):
        a = self.first(x)
        b = self.second(a)
        return self.classifier(self.third(self.between(self, x, a, b)).relu().mean((2, 3)))


@pytest.mark.parametrize(
    "between",
    [
        lambda own, x, a, b: own.dropout(b),
        lambda own, x, a, b: own.dropout(a) + own.dropout(b),
        lambda own, x, a, b: b + a.tanh() + a,  # a shortcut that both read
        lambda own, x, a, b: own.factor * b + a,
        lambda own, x, a, b: own.second(a.sigmoid()) + b,  # a layer that is called twice
        lambda own, x, a, b: b * a.mean((2, 3)).sigmoid()[:, :, None, None],  # squeeze and excite
        lambda own, x, a, b: torch.cat([a[:, :2], b[:, 2:]], 1)[:, :, ::2, 1:],  # of another size
        lambda own, x, a, b: own.first(own.images(x)) + b,  # the images by torch
        lambda own, x, a, b: a.detach().tanh() + b.detach(),  # no gradient goes back
    ],
)
def test_what_is_between_in_a_users_network(between):
    torch.manual_seed(0)
    mixed(Own(between).double(), images(replicates=1))


def test_a_loss_that_does_not_depend_on_the_last_part():
    class Two(Own):
        def forward(self, x):
            a = self.first(x).tanh()
            b = self.second(a)
            return self.classifier(self.third(b).mean((2, 3)).detach()) + 0 * self.classifier.weight.sum() + b.mean()

    torch.manual_seed(0)
    mixed(Two(None).double(), images(replicates=1))


def test_hooks_and_two_batches_that_wait():
    model = network("layer2d")
    found = []
    for own in (model, copy.deepcopy(model)):
        forward = own if own is model else Native(own, 2)
        own.zero_grad()
        next(own.parameters()).register_hook(lambda gradient: 3 * gradient)
        (forward(images()).square().sum() + forward(images(seed=5)).sum()).backward()
        found.append({name: one.grad for name, one in own.named_parameters()})
    assert_same(found[1], found[0], 1e-10)
    again = Native(model, 2)(images()).sum()
    again.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass"):
        again.backward()


def test_auto_takes_them_for_small_batches_and_says_so(compose):
    from normbench.config.resolve import resolve

    def way(*typed):
        return kernels_of(resolve(compose("device=cpu", "threads=1", "norm=layer2d", *typed)))

    assert way("batch_size=8") == "native and torch"
    assert way("batch_size=32", "kernels=native") == "native and torch"
    assert way("batch_size=32") == "torch"
    config = resolve(compose("device=cpu", "batch_size=2", "norm=layer2d"))
    assert fastest(config, model := network("layer2d"), 2) is not model
