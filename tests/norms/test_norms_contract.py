"""Methods defined here, through the contract alone: norm and activation in one, and a residual sum that scales."""

import math

import pytest
import timm.layers
import torch
from torch import nn
from torch.nn import functional as F

from normbench.errors import InputError
from normbench.models import build_model, take_replicate
from normbench.models.resnet import BasicBlock, PreactBlock
from normbench.norms import NORMS, Layers, Method, convert_norms
from normbench.norms.plain import Conv2d, Norm
from normbench.training.optimizer import make_optimizer, set_lr


class FilterResponse(Norm):
    """Filter response normalization: x/√(mean_{H,W} x² + ε)·γ + β. Singh & Krishnan 2019, arXiv 1911.09737."""

    def __init__(self, num_channels: int, replicates: int = 1, *, frn_eps: float = 1e-6):
        super().__init__(num_channels, replicates, frn_eps, affine=True)

    def forward(self, x):
        x = x * torch.rsqrt(x.square().mean((2, 3), keepdim=True) + self.eps)
        return x * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class FilterResponseThreshold(FilterResponse):
    """With its activation: max(y, τ), τ learned."""

    def __init__(self, num_channels: int, replicates: int = 1, *, frn_eps: float = 1e-6, tau: float = 0.0):
        super().__init__(num_channels, replicates, frn_eps=frn_eps)
        self.tau = nn.Parameter(torch.full((replicates * num_channels,), tau))

    def forward(self, x):
        return torch.maximum(super().forward(x), self.tau.view(1, -1, 1, 1))


class ScaledSum(nn.Module):
    """RescaleNet's α·x + β·s·f(x), β² = 1/(l+L), α² = 1−β², one learned s a replicate. Shao et al. 2020."""

    def __init__(self, block: int, blocks: int, replicates: int = 1, *, start: float = 1.0):
        super().__init__()
        self.beta = 1 / math.sqrt(block + blocks)
        self.scale = nn.Parameter(torch.full((replicates,), start))

    def forward(self, shortcut, branch):
        scale = self.scale.repeat_interleave(branch.shape[1] // len(self.scale)).view(1, -1, 1, 1)
        return math.sqrt(1 - self.beta**2) * shortcut + self.beta * scale * branch


def smaller_branches(model, generators):
    """Initialization: the first convolution of block l drawn again, at half its spread and more the deeper it is."""
    for index, block in enumerate(model.blocks):
        conv = next(module for module in block.branch.modules() if isinstance(module, Conv2d))
        rows = conv.weight.shape[0] // len(generators)
        drawn = [torch.empty(rows, *conv.weight.shape[1:]).normal_(generator=g) for g in generators]
        conv.set_filters(0.1 / (1 + index) * torch.cat(drawn))


def scales_learn_slowly(model):
    return {module.scale: 0.1 for module in model.modules() if isinstance(module, ScaledSum)}


def shrink_scales(model, step, share):
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ScaledSum):
                module.scale.mul_(1 - 0.5 * share)


@pytest.fixture(autouse=True)
def methods(monkeypatch):
    monkeypatch.setitem(NORMS, "frn", Method(FilterResponse, norm_act=FilterResponseThreshold))
    monkeypatch.setitem(
        NORMS,
        "rescale",
        Method(
            residual_sum=ScaledSum,
            initialize=smaller_branches,
            before_step=shrink_scales,
            lr_factor=scales_learn_slowly,
        ),
    )


class Optim:
    name, lr, momentum, nesterov, weight_decay = "sgd", 0.1, 0.9, False, 5e-4


def train(model, method, steps, part=slice(None)):
    """As the training loop does it, R replicates or those of a part alone. Returns their losses, a row a step."""
    optimizer, trace = make_optimizer(model, Optim, method.lr_factor(model)), []
    for step, (images, labels) in enumerate(steps):
        set_lr(optimizer, 0.1)
        method.before_step(model, step, step / len(steps))
        channels = part if part == slice(None) else slice(3 * part.start, 3 * part.stop)
        logits = model(images[:, channels])
        losses = torch.stack([F.cross_entropy(*pair) for pair in zip(logits, labels[:, part].unbind(1), strict=True)])
        losses.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        trace.append(losses.detach())
    return torch.stack(trace)


def batches(replicates, image):
    torch.manual_seed(0)
    return [
        (torch.randn(4, 3 * replicates, image, image, dtype=torch.float64), torch.randint(10, (4, replicates)))
        for _ in range(3)
    ]


PAIRS = [("frn", model) for model in ("resnet8", "resnet18", "preact_resnet8", "inception", "vgg", "conv4")]
PAIRS += [("rescale", model) for model in ("resnet8", "resnet18", "preact_resnet8")]


@pytest.mark.parametrize(("norm", "name"), PAIRS)
def test_replicates_train_as_each_alone(norm, name):
    seeds, method = (11, 12, 13), NORMS[norm]
    steps = batches(3, 16 if name.startswith("resnet") else 32 if name == "vgg" else 8)
    together = build_model(name, Layers(norm, replicates=3), seeds, width=4).double()
    trace = train(together, method, steps)
    for index, seed in enumerate(seeds):
        alone = build_model(name, Layers(norm), (seed,), width=4).double()
        start = {key: value.clone() for key, value in alone.state_dict().items()}
        losses = train(alone, method, steps, slice(index, index + 1))
        torch.testing.assert_close(trace[:, index], losses[:, 0], rtol=1e-10, atol=1e-10)
        for key, value in alone.state_dict().items():
            mine = take_replicate(together.state_dict(), index, 3)[key]
            torch.testing.assert_close(mine, value, rtol=1e-9, atol=1e-10)
            assert not torch.equal(value, start[key]), key


@pytest.mark.parametrize("name", ["resnet8", "preact_resnet8", "vgg"])
def test_the_fused_layer_stands_in_place_of_norm_and_activation(name):
    model = build_model(name, Layers("frn", {"tau": -0.25}), width=4)
    blocks = sum(isinstance(module, BasicBlock) for module in model.modules())
    convs = sum(isinstance(module, Conv2d) for module in model.modules())
    fused = sum(isinstance(module, FilterResponseThreshold) for module in model.modules())
    plain = sum(isinstance(module, FilterResponse) for module in model.modules()) - fused
    activations = sum(isinstance(module, nn.ReLU) for module in model.modules())
    # the end of a branch is normalized without an activation, which follows the sum
    assert (fused, plain, activations) == (convs - blocks, blocks, blocks)
    assert all(module.bias is None for module in model.modules() if isinstance(module, Conv2d))
    assert all(m.tau.eq(-0.25).all() for m in model.modules() if isinstance(m, FilterResponseThreshold))


def test_a_network_of_fused_layers_is_that_of_timms():
    ours = build_model("vgg", Layers("frn", {"frn_eps": 1e-5}), width=4).double()
    theirs = nn.Sequential(*[part for module in ours.features for part in _with_timms(module)])
    with torch.no_grad():
        for module in ours.modules():
            if isinstance(module, FilterResponseThreshold):
                module.tau.normal_()
    for mine, their in zip(
        [m for m in ours.modules() if isinstance(m, FilterResponse)],
        [m for m in theirs if isinstance(m, timm.layers.FilterResponseNormTlu2d)],
        strict=True,
    ):
        their.load_state_dict(mine.state_dict())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(ours.features(x), theirs(x), rtol=1e-4, atol=1e-5)  # timm's statistic is in float32


def _with_timms(module):
    if not isinstance(module, nn.Sequential):
        return [module]
    conv, norm = module
    plain = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=False).double()
    plain.load_state_dict(conv.state_dict())
    return [plain, timm.layers.FilterResponseNormTlu2d(norm.num_channels, eps=1e-5).double()]


@pytest.mark.parametrize("name", ["resnet14", "preact_resnet8"])
def test_the_sum_is_told_its_block_and_scales_both_parts(name):
    model = build_model(name, Layers("rescale", {"start": 3.0}), width=4).double()
    blocks = [module for module in model.modules() if isinstance(module, BasicBlock | PreactBlock)]
    assert [block.sum.beta**2 for block in blocks] == pytest.approx(
        [1 / (index + len(blocks)) for index in range(len(blocks))]
    )
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    block, length = blocks[0], len(blocks)
    expected = math.sqrt(1 - 1 / length) * x + 3 * math.sqrt(1 / length) * block.branch(x)
    torch.testing.assert_close(block(x), expected.relu() if name == "resnet14" else expected)


def test_it_initializes_after_the_first_draw_with_the_generators_of_it():
    plain, model = (build_model("resnet8", Layers(norm, replicates=2), (1, 2), width=4) for norm in ("none", "rescale"))
    ours, theirs = ([m for m in net.modules() if isinstance(m, Conv2d)] for net in (model, plain))
    redrawn = [not torch.equal(a.weight, b.weight) for a, b in zip(ours, theirs, strict=True)]
    assert redrawn == [False, True, False, True, False, True, False]
    weight = ours[1].weight
    assert abs(weight.std() / 0.1 - 1) < 5 / math.sqrt(2 * weight.numel())
    assert not torch.equal(*weight.chunk(2))
    # what follows the first draw, not a repetition of it
    generator = torch.Generator().manual_seed(1)
    for layer in [m for m in plain.modules() if hasattr(m, "set_filters")]:
        shape = (layer.weight.shape[0] // 2, *layer.weight.shape[1:])
        draw = torch.empty(shape).normal_ if isinstance(layer, Conv2d) else torch.empty(shape).uniform_
        draw(generator=generator)
    drawn = torch.empty(4, 4, 3, 3).normal_(generator=generator)
    assert torch.equal(weight[:4], 0.1 * drawn)


def test_what_needs_branches_or_an_activation_of_its_own_says_so():
    with pytest.raises(InputError, match="norm=rescale: acts on residual branches, and model=vgg has none"):
        build_model("vgg", Layers("rescale"))
    with pytest.raises(InputError, match=r"norm_position=after: norm=frn is norm and activation in one"):
        build_model("vgg", Layers("frn"), norm_position="after")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    with pytest.raises(InputError, match="norm=frn: is norm and activation in one"):
        convert_norms(model, "frn")
    with pytest.raises(InputError, match="norm=rescale: acts on residual branches"):
        convert_norms(model, "rescale")


def test_its_options_are_those_of_all_its_parts():
    assert NORMS["frn"].options() == {"frn_eps": (float, 1e-6), "tau": (float, 0.0)}
    assert NORMS["rescale"].options() == {"start": (float, 1.0)}
    with pytest.raises(InputError, match=r"norm.tua=1: norm=frn has no such option; did you mean tau"):
        Layers("frn", {"tua": 1})
