"""Networks for the tests of the kernels, and what they are compared by."""

import copy

import torch

from normbench.kernels.native import Native
from normbench.models import build_model
from normbench.norms import Layers

METHODS = {
    "batch": {},
    "batch without affine": {"affine": False},
    "ghost_batch": {"ghost_size": 2},
    "group": {"num_groups": 2},
    "layer": {},
    "instance": {},
    "instance without affine": {"affine": False},
    "none": {},
    "skipinit": {},
    "weight_norm": {},
    "weight_standardization": {"num_groups": 2},
    "weight_standardization by batch": {"norm": "batch"},
}
# With layers that the kernels do not know.
MIXED = {
    "layer2d": {},
    "lp_batch": {},
    "noisy_batch": {},
    "noisy_batch without batch": {"normalize": False},
    "batch detached": {"detach_statistics": True},
    "batch running": {"statistics": "running"},
    "weight_norm mean only": {"mean_only_bn": True},
}


def network(method="batch", replicates=2, model="resnet8", dtype=torch.float64, activation="relu", **options):
    """A network whose parameters are none of those that it starts with. method: a name, or one in METHODS or MIXED."""
    layers = Layers(method.split()[0], (METHODS | MIXED).get(method, {}), replicates=replicates, activation=activation)
    made = build_model(model, layers, range(replicates), **{"width": 6, **options}).to(dtype)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw, dtype=dtype))
    return made


def images(count=3, replicates=2, size=(8, 8), dtype=torch.float64, seed=2):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3 * replicates, *size, generator=draw, dtype=torch.float64)
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def step(forward, model, x):
    """What a training step gives: the logits, all gradients, all buffers."""
    model.zero_grad()
    logits = forward(x)
    draw = torch.Generator().manual_seed(3)
    (logits * torch.randn(logits.shape, generator=draw, dtype=torch.float64).to(logits.dtype)).sum().backward()
    state = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return {"logits": logits.detach(), **state, **{name: one.clone() for name, one in model.named_buffers()}}


def assert_same(found, expected, tolerance):
    largest = max(one.abs().max() for one in expected.values())
    for name, one in expected.items():  # some gradients are 0 but for rounding
        scale = one.abs().max().clamp(min=1e-4 * largest)
        assert ((found[name] - one).abs().max() / scale).item() <= tolerance, name


def compared(model, x, steps=2, tolerance=1e-10):
    """Both kernels on a network, in training and then in evaluation; returns the native one."""
    other = copy.deepcopy(model)
    native = Native(other, x.shape[1] // 3)
    for seed in range(steps):
        both = []
        for forward, own in ((native, other), (model, model)):
            torch.manual_seed(seed)  # of what draws
            both.append(step(forward, own.train(), x))
        assert_same(*both, tolerance)
    assert native._program(x) is not None
    with torch.no_grad():
        expected, found = model.eval()(x), native.model.eval() and native(x)
    assert_same({"logits": found}, {"logits": expected}, tolerance)
    return native
