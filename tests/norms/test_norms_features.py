"""Layers that normalize features, each against torch's own, timm's, or the formula written out; in float64."""

import re

import pytest
import timm.layers
import torch
from torch import nn
from torch.func import functional_call

from normbench.errors import InputError
from normbench.norms.batch import BatchNorm, GhostBatchNorm, MeanOnlyBatchNorm, SyncBatchNorm
from normbench.norms.sample import GroupNorm, InstanceNorm, LayerNorm, LayerNorm2d

C, G, EPS = 6, 3, 1e-3  # an ε large enough to be seen


def over(*dims, groups=None):
    """The formula x̂ = (x−μ)/√(σ²+ε), σ² biased, μ and σ² taken over these axes (of N×G×C/G×H×W, given groups)."""

    def formula(x):
        shape = x.shape
        if groups:
            x = x.reshape(shape[0], groups, shape[1] // groups, *shape[2:])
        mean = x.mean(dims, keepdim=True)
        var = ((x - mean) ** 2).mean(dims, keepdim=True)
        return ((x - mean) / (var + EPS) ** 0.5).reshape(shape)

    return formula


class Formula(nn.Module):
    """γx̂+β with x̂ from a formula."""

    def __init__(self, formula):
        super().__init__()
        self.formula, self.weight, self.bias = formula, nn.Parameter(torch.ones(C)), nn.Parameter(torch.zeros(C))

    def forward(self, x):
        return self.weight.view(-1, 1, 1) * self.formula(x) + self.bias.view(-1, 1, 1)


class InChunks(nn.BatchNorm2d):
    """torch's batch norm over consecutive chunks of the batch in turn."""

    def __init__(self, size):
        super().__init__(C, eps=EPS)
        self.size = size

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        starts = range(0, len(x), self.size)
        return torch.cat([super(InChunks, self).forward(x[start : start + self.size]) for start in starts])


def group_norm_of(groups):
    return nn.GroupNorm(groups, C, eps=EPS)


# name: (ours for R replicates, an independent reference for one)
CASES = {
    "batch, torch": (lambda r: BatchNorm(C, r, eps=EPS), lambda: nn.BatchNorm2d(C, eps=EPS)),
    "batch, formula": (lambda r: BatchNorm(C, r, eps=EPS), lambda: Formula(over(0, 2, 3))),
    "sync_batch of one process": (lambda r: SyncBatchNorm(C, r, eps=EPS), lambda: nn.BatchNorm2d(C, eps=EPS)),
    "ghost_batch 2": (lambda r: GhostBatchNorm(C, r, ghost_size=2, eps=EPS), lambda: InChunks(2)),
    "ghost_batch 3, uneven": (lambda r: GhostBatchNorm(C, r, ghost_size=3, eps=EPS), lambda: InChunks(3)),
    "ghost_batch 8 = batch": (
        lambda r: GhostBatchNorm(C, r, ghost_size=8, eps=EPS),
        lambda: nn.BatchNorm2d(C, eps=EPS),
    ),
    "ghost_batch 100 = batch": (
        lambda r: GhostBatchNorm(C, r, ghost_size=100, eps=EPS),
        lambda: nn.BatchNorm2d(C, eps=EPS),
    ),
    "layer, torch": (lambda r: LayerNorm(C, r, eps=EPS), lambda: group_norm_of(1)),
    "layer, formula": (lambda r: LayerNorm(C, r, eps=EPS), lambda: Formula(over(1, 2, 3))),
    "layer2d, timm": (lambda r: LayerNorm2d(C, r, eps=EPS), lambda: timm.layers.LayerNorm2d(C, eps=EPS)),
    "layer2d, formula": (lambda r: LayerNorm2d(C, r, eps=EPS), lambda: Formula(over(1))),
    "instance, torch": (lambda r: InstanceNorm(C, r, eps=EPS), lambda: nn.InstanceNorm2d(C, eps=EPS, affine=True)),
    "instance, formula": (lambda r: InstanceNorm(C, r, eps=EPS), lambda: Formula(over(2, 3))),
    "group, torch": (lambda r: GroupNorm(C, r, num_groups=G, eps=EPS), lambda: group_norm_of(G)),
    "group, formula": (lambda r: GroupNorm(C, r, num_groups=G, eps=EPS), lambda: Formula(over(2, 3, 4, groups=G))),
}

LAYERS = {name: ours for name, (ours, _) in CASES.items() if "formula" not in name}
LAYERS["mean-only batch"] = lambda r: MeanOnlyBatchNorm(C, r)


def randomize(layer):
    """γ and β unlike 1, 0 and each other."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(0.5, 2.0).mul_(torch.where(torch.rand_like(parameter) < 0.3, -1.0, 1.0))


def features(n=8, replicates=1, size=5):
    x = torch.randn(n, replicates * C, size, size - 1, dtype=torch.float64)
    return x * torch.rand(1, replicates * C, 1, 1, dtype=torch.float64) * 3 + torch.randn(replicates * C, 1, 1)


def close(ours, reference):
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("replicates", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference_in_training_and_evaluation(name, replicates):
    torch.manual_seed(0)
    ours, reference = CASES[name]
    layer, references = ours(replicates).double(), [reference().double() for _ in range(replicates)]
    randomize(layer)
    for part, alone in enumerate(references):
        alone.load_state_dict(
            {
                key: value.chunk(replicates)[part].clone()
                for key, value in layer.state_dict().items()
                if "running" not in key
            },
            strict=False,
        )
    for step in range(4):
        if step == 3:
            if isinstance(references[0], Formula) and isinstance(layer, BatchNorm):
                return  # the formula keeps no running averages
            for module in (layer, *references):
                module.eval()
        x = features(replicates=replicates).requires_grad_()
        apart = [part.detach().clone().requires_grad_() for part in x.chunk(replicates, 1)]
        y, expected = layer(x), torch.cat([alone(part) for alone, part in zip(references, apart, strict=True)], 1)
        close(y, expected)
        towards = torch.randn_like(y)
        layer.zero_grad()
        y.backward(towards)
        for alone in references:
            alone.zero_grad()
        expected.backward(towards)
        close(x.grad, torch.cat([part.grad for part in apart], 1))
        for key in ("weight", "bias"):
            close(getattr(layer, key).grad, torch.cat([getattr(alone, key).grad for alone in references]))
    for key, _ in layer.named_buffers():
        close(getattr(layer, key), torch.cat([getattr(alone, key) for alone in references]))
    assert not layer.training


def test_mean_only_batch_norm_is_its_formula_and_keeps_a_running_mean():
    torch.manual_seed(0)
    layer = MeanOnlyBatchNorm(C, momentum=0.3).double()
    randomize(layer)
    beta, running = layer.bias.detach().clone().view(-1, 1, 1), torch.zeros(C, dtype=torch.float64)
    assert layer.weight is None
    for _ in range(3):
        x, towards = features().requires_grad_(), features()
        y = layer(x)
        close(y, x - x.mean((0, 2, 3), keepdim=True) + beta)
        layer.zero_grad()
        y.backward(towards)
        close(x.grad, towards - towards.mean((0, 2, 3), keepdim=True))
        close(layer.bias.grad, towards.sum((0, 2, 3)))
        running = 0.7 * running + 0.3 * x.detach().mean((0, 2, 3))
    close(layer.running_mean, running)
    x = features()
    close(layer.eval()(x), x - running.view(-1, 1, 1) + beta)


def test_running_variance_is_unbiased_and_the_normalizing_one_biased():
    layer = BatchNorm(1, eps=1e-30, momentum=1.0).double()
    x = torch.tensor([0.0, 2.0], dtype=torch.float64).view(2, 1, 1, 1)
    assert layer(x).flatten().tolist() == pytest.approx([-1, 1], rel=1e-14)
    assert (layer.running_mean.item(), layer.running_var.item()) == (1, 2)


@pytest.mark.parametrize("name", LAYERS)
def test_affine_false_is_no_scale_and_no_shift(name):
    torch.manual_seed(0)
    layer = LAYERS[name](2).double()
    plain = type(layer)(C, 2, affine=False, **_options(layer)).double()
    assert not list(plain.parameters())
    x = features(replicates=2)
    close(plain(x), layer(x))  # γ=1 and β=0 at the start
    close(plain.eval()(x), layer.eval()(x))


@pytest.mark.parametrize("part", ["scale", "shift"])
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "mean-only batch"])
def test_without_a_part_a_layer_is_the_one_whose_part_stays_as_it_starts(name, part):
    torch.manual_seed(0)
    layer = LAYERS[name](2).double()
    less = type(layer)(C, 2, **{part: False}, **_options(layer)).double()
    gone, kept = ("weight", "bias") if part == "scale" else ("bias", "weight")
    assert [key for key, _ in less.named_parameters()] == [kept]
    value = torch.linspace(-1, 2, 2 * C, dtype=torch.float64)
    getattr(less, kept).data.copy_(value)
    getattr(layer, kept).data.copy_(value)
    x, other = (one.requires_grad_() for one in features(replicates=2).repeat(2, 1, 1, 1, 1))
    g = torch.randn(x.shape, dtype=torch.float64)
    for one, images in ((less, x), (layer, other)):
        (one(images) * g).sum().backward()
    close(x.grad, other.grad)
    close(getattr(less, kept).grad, getattr(layer, kept).grad)
    close(less.eval()(x), layer.eval()(other))
    assert getattr(less, gone) is None


@pytest.mark.parametrize("training", [True, False])
def test_gamma_and_beta_can_undo_batch_normalization(training):
    """γ = √(var+ε), β = mean: the identity. Ioffe & Szegedy 2015, arXiv 1502.03167, §3."""
    torch.manual_seed(0)
    x = features(n=16)
    layer = BatchNorm(C, eps=EPS, momentum=1.0).double()
    layer(x)
    var = x.var((0, 2, 3), correction=0) if training else layer.running_var
    layer.weight.data.copy_((var + EPS).sqrt())
    layer.bias.data.copy_(x.mean((0, 2, 3)))
    torch.testing.assert_close(layer.train(training)(x), x, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("scale", [0.1, 7.0])
def test_the_scale_of_the_weights_before_a_batch_normalization(scale):
    """BN(aWu) = BN(Wu), with the same gradient by u and 1/a of that by W: arXiv 1502.03167, section 3.3."""
    torch.manual_seed(0)
    u = torch.randn(4, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(C, 3, 3, 3, dtype=torch.float64)
    layer, g = BatchNorm(C, eps=1e-30).double(), torch.randn(4, C, 4, 4, dtype=torch.float64)

    def of(w):
        w = w.requires_grad_()
        y = layer(torch.nn.functional.conv2d(u, w))
        return y, *torch.autograd.grad((y * g).sum(), (u, w))

    (y, by_u, by_w), (scaled, scaled_by_u, scaled_by_w) = of(weight.clone()), of(scale * weight)
    close(scaled, y)
    close(scaled_by_u, by_u)
    close(scale * scaled_by_w, by_w)


def _options(layer):
    kept = {"num_groups": GroupNorm, "ghost_size": GhostBatchNorm}
    options = {key: getattr(layer, key) for key, kind in kept.items() if type(layer) is kind}
    return options if isinstance(layer, MeanOnlyBatchNorm) else options | {"eps": layer.eps}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_by_finite_differences(name, training):
    torch.manual_seed(0)
    layer = LAYERS[name](2).double().train(training)
    randomize(layer)
    parameters = {key: value.detach().requires_grad_() for key, value in layer.named_parameters()}
    x = features(n=3, replicates=2, size=3).requires_grad_()

    def run(x, *values):
        return functional_call(layer, dict(zip(parameters, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *parameters.values()), fast_mode=True)


@pytest.mark.parametrize("replicates", [1, 2])
@pytest.mark.parametrize("name", LAYERS)
def test_bfloat16_features_under_autocast_are_measured_in_float32(name, replicates):
    torch.manual_seed(0)
    layer, exact = LAYERS[name](replicates), LAYERS[name](replicates)
    randomize(layer)
    exact.load_state_dict(layer.state_dict())
    x = (features(16, replicates, 8) + 8).bfloat16()  # a mean that a bfloat16 statistic would miss by 0.02
    expected = exact(x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype in (torch.bfloat16, torch.float32)
    rounding = 2**-8  # of bfloat16, relative: once for the output, once for γx̂ before β
    assert ((y.float() - expected).abs() <= 2 * rounding * (1 + expected.abs())).all()
    for key, buffer in layer.named_buffers():
        assert buffer.dtype == torch.float32
        torch.testing.assert_close(buffer, exact.get_buffer(key), rtol=1e-5, atol=1e-5)


LAYOUTS = {
    "contiguous": torch.Tensor.contiguous,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "expanded": lambda x: x[:, :, :1, :1].expand_as(x),
}


@pytest.mark.parametrize("of_gradient", LAYOUTS)
@pytest.mark.parametrize("samples", [1, 2, 8])
@pytest.mark.parametrize("name", LAYERS)
def test_the_layout_in_memory_changes_nothing(name, samples, of_gradient):
    """Not of the input, nor of the gradient that comes back: torch's instance norm of one sample got that wrong."""
    torch.manual_seed(0)
    x, gradient = features(samples, replicates=2), LAYOUTS[of_gradient](features(samples, replicates=2))
    found = []
    for of_input, by in (("channels_last", gradient), ("contiguous", gradient.clone().contiguous())):
        torch.manual_seed(1)
        layer = LAYERS[name](2).double()
        randomize(layer)
        one = LAYOUTS[of_input](x).detach().requires_grad_()
        y = layer(one)
        y.backward(by)
        found.append([y.detach(), one.grad, *(parameter.grad for parameter in layer.parameters())])
    for ours, plain in zip(*found, strict=True):
        close(ours, plain)


ONE = torch.ones(1, C, 1, 1)


@pytest.mark.parametrize(
    ("layer", "x", "blamed"),
    [
        (BatchNorm(C), ONE, "batch_size=1"),
        (SyncBatchNorm(C), ONE, "batch_size=1"),
        (GhostBatchNorm(C, ghost_size=1), ONE.repeat(4, 1, 1, 1), "batch_size=1"),
        (GhostBatchNorm(C, ghost_size=2), ONE.repeat(5, 1, 1, 1), "batch_size=1"),
        (InstanceNorm(C), ONE.repeat(4, 1, 1, 1), "norm=instance"),
        (GroupNorm(C, num_groups=C), ONE.repeat(4, 1, 1, 1), "num_groups=6"),
        (GroupNorm(C, 2, num_groups=C), ONE.repeat(4, 2, 1, 1), "num_groups=6"),
        (LayerNorm2d(1), torch.ones(4, 1, 3, 3), "num_channels=1"),
    ],
)
def test_a_statistic_over_a_single_value_is_refused(layer, x, blamed):
    with pytest.raises(InputError, match=f"^{blamed}: .* single value"):
        layer(x)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (BatchNorm(C), torch.randn(1, C, 4, 4)),
        (BatchNorm(C), torch.randn(2, C, 1, 1)),
        (BatchNorm(C).eval(), ONE),
        (GhostBatchNorm(C, ghost_size=1), torch.randn(3, C, 4, 4)),
        (InstanceNorm(C), torch.randn(1, C, 4, 4)),
        (LayerNorm(C), ONE),
        (LayerNorm2d(C), ONE),
        (GroupNorm(C, num_groups=3), ONE),
    ],
)
def test_a_statistic_over_two_values_is_not(layer, x):
    assert torch.isfinite(layer(x)).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "layer",
    [
        BatchNorm(C),
        SyncBatchNorm(C),
        GhostBatchNorm(C, ghost_size=2),
        MeanOnlyBatchNorm(C),
        LayerNorm(C),
        LayerNorm2d(C),
        InstanceNorm(C),
        GroupNorm(C, num_groups=3),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_an_empty_batch_gives_an_empty_output_and_moves_no_average_as_in_torch(layer, training):
    layer.train(training)
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    x = torch.zeros((0, C, 4, 4), requires_grad=True)
    y = layer(x)
    assert y.shape == x.shape
    y.sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in layer.named_buffers())


@pytest.mark.parametrize("kind", [BatchNorm, SyncBatchNorm, GhostBatchNorm, MeanOnlyBatchNorm])
@pytest.mark.parametrize("momentum", [-0.1, 1.5, float("nan")])
def test_momentum_outside_0_to_1_is_refused(kind, momentum):
    with pytest.raises(InputError, match=f"momentum={momentum}: must lie between 0 and 1"):
        kind(C, momentum=momentum)


@pytest.mark.parametrize("kind", [BatchNorm, GhostBatchNorm, SyncBatchNorm, LayerNorm, LayerNorm2d, InstanceNorm])
@pytest.mark.parametrize("eps", [-1e-5, 0.0, float("nan"), 1e-50, 1e39, float("inf")])
def test_eps_that_is_not_positive_in_float32_is_refused(kind, eps):
    with pytest.raises(InputError, match=f"eps={re.escape(str(eps))}: "):
        kind(C, eps=eps)


@pytest.mark.parametrize("num_groups", [0, -2, 4, 12])
def test_groups_that_do_not_divide_are_refused_with_those_that_do(num_groups):
    with pytest.raises(InputError) as caught:
        GroupNorm(C, num_groups=num_groups)
    assert (
        str(caught.value) == f"num_groups={num_groups}: does not divide the 6 channels of a layer; choices: 1, 2, 3, 6"
    )


def test_ghost_size_below_one_is_refused():
    with pytest.raises(InputError, match="ghost_size=0: "):
        GhostBatchNorm(C, ghost_size=0)
