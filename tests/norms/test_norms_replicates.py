"""The layers that hold replicates side by side, each replicate against itself alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normbench.errors import InputError
from normbench.norms.plain import Concatenate, Conv2d, Dropout, Linear, PadShortcut


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_dropout_masks_of_a_replicate_are_those_it_has_alone():
    x = torch.rand(50, 3 * 8) + 1
    layer = Dropout(0.3, 3)
    layer.generators = generators(5, 6, 7)
    for_all = [layer(x) for _ in range(2)]
    for part, seed in enumerate((5, 6, 7)):
        alone = Dropout(0.3)
        alone.generators = generators(seed)
        for y in for_all:
            assert torch.equal(alone(x.chunk(3, 1)[part]), y.chunk(3, 1)[part])
    assert not torch.equal(for_all[0] == 0, for_all[1] == 0)
    first, second, _ = for_all[0].chunk(3, 1)
    assert not torch.equal(first == 0, second == 0)


def test_dropout_drops_its_share_and_scales_the_rest():
    x = torch.ones(1000, 20, requires_grad=True)
    layer = Dropout(0.3)
    for own in (None, generators(0)):
        layer.generators = own
        y = layer(x)
        assert abs((y == 0).float().mean() - 0.3) < 5 * (0.21 / 20000) ** 0.5
        torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / 0.7))
        assert torch.equal(torch.autograd.grad(y.sum(), x)[0], y)
    assert layer.eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_dropout_leaves_the_global_generator_alone_when_it_has_its_own():
    layer = Dropout(0.5, 2)
    layer.generators = generators(1, 2)
    before = torch.get_rng_state()
    layer(torch.ones(4, 6))
    assert torch.equal(torch.get_rng_state(), before)
    layer.generators = generators(1)
    with pytest.raises(ValueError, match="shorter"):  # one generator a replicate
        layer(torch.ones(4, 6))


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan")])
def test_dropout_share_outside_its_range_is_refused(p):
    with pytest.raises(InputError, match=f"dropout={p}: must be at least 0 and below 1"):
        Dropout(p)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("replicates", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_pad_shortcut_pads_each_replicate(replicates, stride, memory_format):
    x = torch.randn(2, replicates * 4, 5, 5).contiguous(memory_format=memory_format)
    y = PadShortcut(3, stride, replicates)(x)
    for mine, part in zip(y.chunk(replicates, 1), x.chunk(replicates, 1), strict=True):
        kept = part[:, :, ::stride, ::stride]
        assert torch.equal(mine, torch.cat([kept, torch.zeros(2, 3, *kept.shape[2:])], 1))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("replicates", [1, 3])
def test_concatenate_joins_the_maps_of_each_replicate(replicates, memory_format):
    maps = [torch.randn(2, replicates * c, 5, 4).contiguous(memory_format=memory_format) for c in (2, 3, 1)]
    y = Concatenate(replicates)(maps)
    parts = zip(*(x.chunk(replicates, 1) for x in maps), strict=True)
    assert torch.equal(y, torch.cat([torch.cat(part, 1) for part in parts], 1))


@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_is_one_convolution_for_each_replicate(groups):
    torch.manual_seed(0)
    layer = Conv2d(4, 6, 3, replicates=3, groups=groups, stride=2, padding=1).double()
    x = torch.randn(2, 12, 7, 7, dtype=torch.float64)
    parts = zip(x.chunk(3, 1), layer.weight.chunk(3), layer.bias.chunk(3), strict=True)
    expected = torch.cat([F.conv2d(*part, stride=2, padding=1, groups=groups) for part in parts], 1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_a_linear_layer_starts_as_torchs_does():
    torch.manual_seed(0)
    weight = Linear(25, 400, replicates=3).weight
    assert 0.19 < weight.abs().max() <= 0.2
    assert weight.std().item() == pytest.approx(0.2 / 3**0.5, rel=0.02)


def test_linear_is_one_linear_layer_for_each_replicate():
    torch.manual_seed(0)
    layer = Linear(4, 5, replicates=3).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 12, dtype=torch.float64)
    parts = zip(x.chunk(3, 1), layer.weight, layer.bias, strict=True)
    expected = torch.stack([F.linear(*part) for part in parts])
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
