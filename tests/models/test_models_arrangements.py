"""Shortcuts, the position of the norm and pre-activation, against networks written with torch, torchvision and timm."""

from functools import partial
from itertools import pairwise

import pytest
import torch
import torchvision
from timm.models.resnetv2 import PreActBasic
from torch import nn
from torch.nn import functional as F

from normbench.errors import InputError
from normbench.models import MODELS, build_model
from normbench.models.resnet import PreactBlock
from normbench.norms import NORMS, Layers
from normbench.norms.batch import BatchNorm
from normbench.norms.plain import Conv2d, Linear, LocalResponse


def conv(inputs, outputs, size=3, stride=1, bias=False):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=bias)


def padded(x, channels, stride):
    return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, channels - x.shape[1]))


SHAPES = [(4, 4, 1), (4, 8, 2), (8, 16, 2)]  # blocks of a ResNet-8 of width 4


class PlainPreact(nn.Module):
    """A pre-activation ResNet-8 with identity shortcuts, written out."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_bn = conv(3, 4), nn.BatchNorm2d(4)
        self.blocks = nn.ModuleList()
        for i, (inputs, outputs, stride) in enumerate(SHAPES):
            block = {} if i == 0 else {"bn1": nn.BatchNorm2d(inputs)}
            block |= {"conv1": conv(inputs, outputs, 3, stride), "bn2": nn.BatchNorm2d(outputs)}
            self.blocks.append(nn.ModuleDict(block | {"conv2": conv(outputs, outputs)}))
        self.end_bn, self.fc = nn.BatchNorm2d(16), nn.Linear(16, 10)

    def forward(self, x):
        x = F.relu(self.stem_bn(self.stem(x)))
        for block, (_, outputs, stride) in zip(self.blocks, SHAPES, strict=True):
            y = F.relu(block["bn1"](x)) if "bn1" in block else x
            y = block["conv2"](F.relu(block["bn2"](block["conv1"](y))))
            x = padded(x, outputs, stride) + y
        return self.fc(F.relu(self.end_bn(x)).mean((2, 3)))


class PlainAfter(nn.Module):
    """A ResNet-8 whose norms stand after the activations, written out: the second one's after the sum's."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_bn = conv(3, 4, bias=True), nn.BatchNorm2d(4)
        parts = [
            (conv(i, o, 3, s, bias=True), nn.BatchNorm2d(o), conv(o, o, bias=True), nn.BatchNorm2d(o))
            for i, o, s in SHAPES
        ]
        self.blocks = nn.ModuleList(map(nn.ModuleList, parts))
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem_bn(F.relu(self.stem(x)))
        for (conv1, bn1, conv2, bn2), (_, outputs, stride) in zip(self.blocks, SHAPES, strict=True):
            x = bn2(F.relu(padded(x, outputs, stride) + conv2(bn1(F.relu(conv1(x))))))
        return self.fc(x.mean((2, 3)))


class PlainProjection(nn.Module):
    """Torchvision's blocks, with a projection where the shape changes."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_bn = conv(3, 4), nn.BatchNorm2d(4)
        down = [None, *(nn.Sequential(conv(i, o, 1, s), nn.BatchNorm2d(o)) for i, o, s in SHAPES[1:])]
        self.blocks = nn.Sequential(
            *[
                torchvision.models.resnet.BasicBlock(i, o, s, downsample=d)
                for (i, o, s), d in zip(SHAPES, down, strict=True)
            ]
        )
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        return self.fc(self.blocks(F.relu(self.stem_bn(self.stem(x)))).mean((2, 3)))


def same_weights(ours, theirs):
    """Random weights in both; theirs has its modules in the order of ours, kind by kind."""
    for mine, their in ((Conv2d, nn.Conv2d), (BatchNorm, nn.BatchNorm2d), (Linear, nn.Linear)):
        pairs = [[m for m in net.modules() if isinstance(m, kind)] for net, kind in ((ours, mine), (theirs, their))]
        for a, b in zip(*pairs, strict=True):
            assert (a.bias is None) == (b.bias is None)
            for x, y in zip(a.parameters(), b.parameters(), strict=True):
                with torch.no_grad():
                    y.normal_(0.5 if isinstance(b, nn.BatchNorm2d) else 0, 0.5)
                    x.copy_(y)


@pytest.mark.parametrize(
    ("name", "options", "reference"),
    [
        ("preact_resnet8", {}, PlainPreact),
        ("resnet8", {"norm_position": "after"}, PlainAfter),
        ("resnet8", {"shortcut": "projection"}, PlainProjection),
    ],
)
def test_a_network_is_the_one_written_out(name, options, reference):
    torch.manual_seed(0)
    ours, theirs = build_model(name, Layers("batch"), width=4, **options).double(), reference().double()
    same_weights(ours, theirs)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    for training in (True, False):  # in evaluation with the averages that training left
        x = torch.randn(5, 3, 16, 16, dtype=torch.float64)
        mine, their = (x.clone().requires_grad_() for _ in range(2))
        y, expected = ours.train(training)(mine)[0], theirs.train(training)(their)
        torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
        towards = torch.randn_like(y)
        torch.testing.assert_close(
            *(torch.autograd.grad(out, into, towards)[0] for out, into in ((y, mine), (expected, their))),
            rtol=1e-9,
            atol=1e-9,
        )


@pytest.mark.parametrize("shortcut", ["pad", "projection"])
@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 16, 2)])
def test_a_preactivation_block_is_timms(shape, shortcut):
    torch.manual_seed(0)
    inputs, outputs, stride = shape
    plus = lambda shortcut, branch: shortcut + branch  # noqa: E731
    ours = PreactBlock(Layers("group", {"num_groups": 2}), *shape, sum=plus, shortcut=shortcut, activated=False)

    class NormAct(nn.GroupNorm):
        def __init__(self, channels, **_):
            super().__init__(2, channels)

        def forward(self, x):
            return F.relu(super().forward(x))

    theirs = PreActBasic(
        inputs,
        outputs,
        stride=stride,
        conv_layer=lambda i, o, k, stride=1, **_: conv(i, o, k, stride),
        norm_layer=NormAct,
        proj_layer=lambda i, o, stride, **_: conv(i, o, 1, stride),
    )
    if stride == 2 and shortcut == "pad":  # of the input itself: timm's hands on the activated one
        x = torch.randn(3, inputs, 8, 8)
        torch.testing.assert_close(ours(x) - ours.branch(ours.before(x)), padded(x, outputs, stride))
        return
    ours, theirs = ours.double(), theirs.double()
    names = {"before.0": "norm1", "branch.0": "conv1", "branch.1": "norm2", "branch.3.0": "conv2"}
    names["shortcut"] = "downsample"
    for mine, their in names.items():
        if mine != "shortcut" or theirs.downsample is not None:
            ours.get_submodule(mine).load_state_dict(theirs.get_submodule(their).state_dict())
    x = torch.randn(3, inputs, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)


AFTER = ["resnet8", "resnet18", "vgg", "inception"]


@pytest.mark.parametrize("name", AFTER)
def test_where_nothing_is_normalized_the_position_means_nothing(name):
    before, after = (
        build_model(name, Layers("none", activation="tanh"), (3,), width=4, norm_position=position)
        for position in ("before", "after")
    )
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(before(x), after(x))


@pytest.mark.parametrize("name", AFTER)
def test_a_norm_after_the_activation_normalizes_what_that_gives(name):
    model = build_model(name, Layers("batch"), width=4, norm_position="after")
    order = []
    for module in model.modules():
        if isinstance(module, Conv2d | BatchNorm | nn.ReLU):
            module.register_forward_hook(lambda m, x, y: order.append((type(m), x[0], y)))
    model(torch.randn(2, 3, 32, 32))
    projections = [(a, b) for a, b in pairwise(order) if a[0] is Conv2d and b[0] is BatchNorm]
    assert len(projections) == (3 if name == "resnet18" else 0)
    normalized = [b for a, b in pairwise(order) if a[0] is nn.ReLU and b[0] is BatchNorm and b[1] is a[2]]
    assert len(normalized) == sum(kind is nn.ReLU for kind, *_ in order)
    assert all(m.bias is not None or m.kernel_size == (1, 1) for m in model.modules() if isinstance(m, Conv2d))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("preact_resnet8", {}),
        ("preact_resnet8", {"shortcut": "projection"}),
        ("resnet8", {"norm_position": "after", "shortcut": "projection"}),
        ("inception", {"norm_position": "after"}),
    ],
)
def test_every_method_learns_in_every_arrangement(norm, name, options):
    """Two replicates: each gets a gradient for all that it has, and none from the other."""
    if NORMS[norm].model or (name == "inception" and NORMS[norm].of_branches):
        pytest.skip("is for other networks")
    if "norm_position" in options and NORMS[norm].norm_act is not None:
        pytest.skip("is norm and activation in one")
    norm_options = {"initial": 0.5} if "initial" in NORMS[norm].options() else {}
    model = build_model(name, Layers(norm, norm_options, replicates=2), (1, 2), width=8, **options)
    for parameter in model.parameters() if norm == "fixup" else ():  # whose branches and logits are 0 at the start
        torch.nn.init.normal_(parameter, 0, 0.1)
    NORMS[norm].prepare(model, torch.randn(4, 6, 16, 16))
    logits = model(torch.randn(4, 6, 16, 16))
    logits[0].logsumexp(1).sum().backward()
    for key, parameter in model.named_parameters():
        mine, other = parameter.grad.chunk(2)
        assert mine.any() or key.endswith("bias"), key  # of a bias before a norm it may be rounding
        assert not other.any(), key


@pytest.mark.parametrize("norm", [norm for norm in NORMS if NORMS[norm].model is None])
def test_convolutions_before_the_activation_have_a_bias_where_the_norm_has_no_shift(norm):
    model = build_model("preact_resnet8", Layers(norm), width=8)
    none = norm in ("none", "skipinit", "weight_norm", "rms", "scaled_ws")  # rescale and fixup have shifts of their own
    assert {m.bias is not None for m in model.modules() if isinstance(m, Conv2d)} == {none}


def test_skipinit_silences_the_branches_of_a_preactivation_network():
    model = build_model("preact_resnet8", Layers("skipinit"), width=4)
    x = torch.randn(2, 4, 8, 8)
    for block in model.blocks:
        assert torch.equal(block(x), block.shortcut(x))
        x = block(x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            partial(build_model, "resnet8", Layers(), shortcut="pda"),
            r"shortcut=pda: did you mean pad\? choices: ",
        ),
        (partial(build_model, "preact_resnet8", Layers(), shortcut="none"), "model.shortcut=none: choices: pad, proj"),
        (partial(build_model, "vgg", Layers(), norm_position="behind"), "norm_position=behind: choices: after, before"),
        (
            partial(build_model, "resnet8", Layers(zero_init_residual=True), norm_position="after"),
            "model.zero_init_residual=true: no norm ends a residual branch of this model",
        ),
        (
            partial(build_model, "preact_resnet8", Layers(zero_init_residual=True)),
            "model.zero_init_residual=true: no norm ends a residual branch of this model",
        ),
        (partial(MODELS["preact_resnet8"], Layers(), depth=9), r"depth=9: must be 6n\+2"),
    ],
)
def test_what_cannot_be_arranged_is_told_in_a_line(build, message):
    with pytest.raises(InputError, match=message):
        build()


# --- Local response normalization. ------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 4, 8])
def test_local_response_normalization_is_torchs_in_each_replicate(channels):
    """AlexNet's k = 2, n = 5, α = 1e-4 and β = 0.75; torch divides α by n."""
    generator = torch.Generator().manual_seed(channels)
    x = 50 * torch.randn(3, 2 * channels, 5, 5, dtype=torch.float64, generator=generator)
    upstream = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    found, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    mine = LocalResponse(2)(found)
    parts = [F.local_response_norm(part, 5, alpha=5e-4, beta=0.75, k=2.0) for part in expected.chunk(2, 1)]
    torch.testing.assert_close(mine, torch.cat(parts, 1), rtol=1e-12, atol=1e-12)
    (mine * upstream).sum().backward()
    (torch.cat(parts, 1) * upstream).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-10, atol=1e-12)
    assert (mine / x).max() < 0.6  # k alone would leave 0.59 of a value


def test_inception_has_it_after_the_stem_and_the_first_pooling():
    plain, lrn = (build_model("inception", Layers("none"), width=2, lrn=lrn) for lrn in (False, True))
    assert {name: value.shape for name, value in lrn.state_dict().items()} == {
        name: value.shape for name, value in plain.state_dict().items()
    }
    pool = next(module for module in plain.modules() if isinstance(module, nn.MaxPool2d))
    for module in (plain.stem, pool):
        module.register_forward_hook(lambda _, __, y: F.local_response_norm(y, 5, 5e-4, 0.75, 2.0))
    x = 3 * torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(lrn(x), plain(x), rtol=1e-5, atol=1e-6)
    assert sum(isinstance(module, LocalResponse) for module in lrn.modules()) == 2
