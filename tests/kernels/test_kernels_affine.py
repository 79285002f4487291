"""Norms with a scale alone, or a shift alone, by the native kernels and by torch."""

import copy

import pytest
import torch

from normbench.kernels import library
from normbench.kernels.native import Native
from normbench.models import build_model
from normbench.norms import Layers

try:
    library.library()
except library.NoKernels as reason:
    pytest.skip(str(reason), allow_module_level=True)


@pytest.mark.parametrize("part", ["scale", "shift"])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_a_part_alone(norm, part):
    torch.manual_seed(0)
    model = build_model("resnet8", Layers(norm, {part: False}, replicates=2), (0, 1), width=4).double()
    for one in model.parameters():
        if one.dim() == 1:
            one.data.add_(0.3 * torch.randn_like(one))
    other = copy.deepcopy(model)
    native = Native(other, 2)
    x = torch.randn(3, 6, 8, 8, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    assert native._program(x) is not None
    g = torch.randn(2, 3, 10, dtype=torch.float64)
    for forward in (native, model):
        (forward(x) * g).sum().backward()
    for name, one in model.named_parameters():
        scale = one.grad.abs().max().clamp(min=1e-4)  # that of a bias before a batch norm is 0 but for rounding
        assert ((other.get_parameter(name).grad - one.grad).abs().max() / scale).item() < 1e-8, name
    with torch.no_grad():
        torch.testing.assert_close(native.model.eval() and native(x), model.eval()(x), rtol=1e-10, atol=1e-10)
