"""What convert_norms keeps of the layers it replaces: parameters, ties, hooks, modes, dtypes, devices, states."""

import copy
import pickle

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torchvision import models

from normbench.norms import NORMS, convert_norms
from normbench.norms.batch import BatchNorm

METHODS = [
    (name, {}) for name, method in NORMS.items() if not (method.of_branches or method.model) and method.norm_act is None
]
METHODS += [("weight_norm", {"mean_only_bn": True}), ("batch", {"affine": False})]


def network():
    """Convolutions with and without a bias, groups, γ and β and running averages unlike their start."""
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False), nn.BatchNorm2d(8)]
    convs = [nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 8, 1, bias=False)]
    layers = [layer for conv, norm in zip(convs, norms, strict=True) for layer in (conv, norm, nn.ReLU())]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    for norm in norms:
        for value in norm.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5)
    return model


def images(dtype=torch.float32):
    return torch.randn(4, 3, 9, 9).to(dtype)


def same_states(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(value, b[key]) for key, value in a.items())


# States


@pytest.mark.parametrize(("name", "options"), METHODS)
@pytest.mark.parametrize("assign", [False, True])
def test_loading_an_old_state_after_conversion_is_converting_the_loaded_model(name, options, assign):
    trained = network()
    state = {key: value.clone() for key, value in trained.state_dict().items()}
    fresh = network()
    for value in fresh.parameters():
        nn.init.normal_(value)
    convert_norms(fresh, name, **options).load_state_dict(state, assign=assign)
    assert state.keys() == trained.state_dict().keys()  # the caller's own stays as it was
    same_states(fresh.state_dict(), convert_norms(trained, name, **options).state_dict())


@pytest.mark.parametrize(("name", "options"), METHODS)
def test_a_converted_models_own_state_loads_and_copies_do_too(name, options):
    model = convert_norms(network(), name, **options)
    for value in model.parameters():
        nn.init.normal_(value)
    other = pickle.loads(pickle.dumps(copy.deepcopy(convert_norms(network(), name, **options))))
    other.load_state_dict(model.state_dict())
    same_states(other.state_dict(), model.state_dict())
    other.load_state_dict(network().state_dict())
    same_states(other.state_dict(), convert_norms(network(), name, **options).state_dict())


def test_a_state_that_lacks_what_the_old_model_had_is_still_refused():
    model = convert_norms(network(), "weight_norm")
    state = network().state_dict()
    del state["3.bias"], state["3.weight"]
    state["1.other"] = torch.ones(1)
    with pytest.raises(RuntimeError, match=r'(?s)Missing.*"3.weight", "3.bias", "3.gain".*Unexpected.*"1.other"'):
        model.load_state_dict(state)


@pytest.mark.parametrize(("name", "options"), METHODS)
def test_on_the_meta_device_it_is_materialized_later(name, options):
    with torch.device("meta"):
        model = nn.Sequential(*network())
    model = convert_norms(model.to("meta"), name, **options)
    assert {value.device.type for value in model.state_dict().values()} == {"meta"}
    assert model(images().to("meta")).device.type == "meta"
    expected = convert_norms(network(), name, **options)
    model.to_empty(device="cpu").load_state_dict(network().state_dict())
    same_states(model.state_dict(), expected.state_dict())
    model = convert_norms(network().to("meta"), name, **options)
    model.load_state_dict(network().state_dict(), assign=True)
    same_states(model.state_dict(), expected.state_dict())


# Parameters and modules


@pytest.mark.parametrize(("name", "options"), METHODS)
def test_parameters_stay_the_same_objects_frozen_or_not(name, options):
    model = network()
    for layer in model[:4]:
        layer.requires_grad_(False)
    before = dict(model.named_parameters())
    after = dict(convert_norms(model, name, **options).named_parameters())
    assert all(value is before[key] for key, value in after.items() if key in before)
    assert all(value.requires_grad == (int(key.split(".")[0]) >= 4) for key, value in after.items())


@pytest.mark.parametrize("name", ["batch", "group", "weight_norm", "weight_standardization", "none"])
def test_tied_parameters_stay_tied(name):
    convs, norms = [nn.Conv2d(8, 8, 1, bias=False) for _ in range(2)], [nn.BatchNorm2d(8) for _ in range(2)]
    convs[1].weight, norms[1].weight = convs[0].weight, norms[0].weight
    model = convert_norms(nn.Sequential(convs[0], norms[0], convs[1], norms[1]), name)
    assert model[0].weight is model[2].weight
    if name == "weight_norm":  # one filter, one gain
        assert model[0].gain is model[2].gain
    if name in ("batch", "group", "weight_standardization"):
        assert model[1].weight is model[3].weight
        assert model[1].bias is not model[3].bias
    if name in ("none", "weight_norm"):
        assert model[0].bias is not model[2].bias


@pytest.mark.parametrize("name", ["none", "batch", "group", "weight_norm"])
def test_hooks_go_on_and_can_be_removed(name):
    model, called = network(), []
    handles = [
        register(lambda layer, *_, what=what: called.append((what, layer)))
        for place in (0, 1)
        for what, register in {
            f"before {place}": model[place].register_forward_pre_hook,
            f"after {place}": model[place].register_forward_hook,
            f"back before {place}": model[place].register_full_backward_pre_hook,
            f"back {place}": model[place].register_full_backward_hook,
        }.items()
    ]
    keywords = model[1].register_forward_hook(lambda *_: called.append(("keywords", model[1])), with_kwargs=True)
    convert_norms(model, name)
    model(images().requires_grad_()).sum().backward()
    assert sorted(what for what, _ in called) == sorted(
        [f"{what} {place}" for what in ("before", "after", "back before", "back") for place in (0, 1)] + ["keywords"]
    )
    assert {layer for _, layer in called} == {model[0], model[1]}
    for handle in (*handles, keywords):
        handle.remove()
    called.clear()
    model(images()).sum().backward()
    assert called == []


@pytest.mark.parametrize(("name", "options"), METHODS)
def test_mode_and_dtype_of_each_layer_are_kept(name, options):
    model = network().bfloat16()
    model[0].eval()
    model[4].eval()
    modes = [layer.training for layer in model]
    convert_norms(model, name, **options)
    assert [layer.training for layer in model] == modes
    assert {value.dtype for value in model.state_dict().values()} == {torch.bfloat16}
    assert model(images(torch.bfloat16)).isfinite().all()


def test_running_averages_keep_a_dtype_of_their_own():
    model = nn.Sequential(nn.BatchNorm2d(4))
    model[0].weight.data, model[0].bias.data = torch.ones(4).half(), torch.zeros(4).half()
    convert_norms(model, "batch")
    assert (model[0].weight.dtype, model[0].running_var.dtype) == (torch.float16, torch.float32)


def test_a_norm_without_shift_or_whose_averages_stand_still():
    x = torch.randn(6, 4, 3, 3).double()
    still = nn.BatchNorm2d(4, bias=False).double()
    still.track_running_stats = False  # with averages: used in evaluation, not updated
    reference = copy.deepcopy(still)
    model = convert_norms(nn.Sequential(still), "batch")
    assert model[0].bias is None
    assert torch.equal(model(x), reference(x))
    assert torch.equal(model.eval()(x), reference.eval()(x))
    assert convert_norms(nn.Sequential(reference), "group", num_groups=2)[0].bias is None


# A shift where the new method has none


@pytest.mark.parametrize(
    ("first", "norm", "x"),
    [
        (nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), torch.randn(5, 3)),
        (nn.Conv1d(3, 4, 2, bias=False), nn.BatchNorm1d(4), torch.randn(5, 3, 6)),
        (nn.ConvTranspose1d(3, 4, 2, bias=False), nn.BatchNorm1d(4), torch.randn(5, 3, 6)),
        (nn.ConvTranspose2d(3, 4, 2, bias=False), nn.BatchNorm2d(4), torch.randn(5, 3, 6, 6)),
        (nn.Conv3d(3, 4, 2, bias=False), nn.BatchNorm3d(4), torch.randn(5, 3, 4, 4, 4)),
        (nn.ConvTranspose3d(3, 4, 2, bias=False), nn.SyncBatchNorm(4), torch.randn(5, 3, 4, 4, 4)),
        (parametrizations.weight_norm(nn.Conv2d(3, 4, 2, bias=False)), nn.BatchNorm2d(4), torch.randn(5, 3, 6, 6)),
    ],
)
def test_whatever_comes_before_the_norm_gets_its_shift(first, norm, x):
    expected = copy.deepcopy(first)(x)
    state = copy.deepcopy(nn.Sequential(first, norm).state_dict())
    model = convert_norms(nn.Sequential(first, norm), "none")
    assert torch.equal(model(x), expected)
    nn.init.ones_(model[0].bias)
    torch.testing.assert_close(model(x), expected + 1)
    model.load_state_dict(state)
    assert torch.equal(model[0].bias, torch.zeros(4))


def test_a_linear_layer_far_from_any_norm_of_vectors_gets_none():
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2, bias=False))
    convert_norms(model, "none")
    assert model[0].bias is not None
    assert model[3].bias is None


# Numbers, in float64


def test_a_converted_network_is_timms_of_the_other_norm():
    """timm's own ResNet with GroupNorm and standardized convolutions, from the same weights."""
    torch.manual_seed(0)
    standardized = timm.layers.StdConv2d
    norm = lambda channels, **_: nn.GroupNorm(4, channels)  # noqa: E731
    theirs = timm.models.resnet.ResNet(timm.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=4, norm_layer=norm)
    for path, conv in list(theirs.named_modules()):
        if isinstance(conv, nn.Conv2d):
            new = standardized(
                conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=False, eps=1e-5
            )
            parent, _, name = path.rpartition(".")
            setattr(theirs.get_submodule(parent), name, new)
    ours = timm.models.resnet.ResNet(timm.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=4)
    convert_norms(ours, "weight_standardization", num_groups=4)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 32, 32).double()
    torch.testing.assert_close(ours.double()(x), theirs.double()(x), rtol=1e-9, atol=1e-9)


def test_a_pretrained_video_network_keeps_its_evaluation():
    model = models.video.r3d_18(num_classes=2).eval()
    x = torch.randn(1, 3, 2, 16, 16)
    before = model(x)
    assert torch.equal(convert_norms(model, "ghost_batch")(x), before)
    assert any(isinstance(layer, BatchNorm) for layer in model.modules())


def test_the_gain_of_weight_norm_is_torchs():
    conv = nn.Conv2d(3, 4, 3).double()
    reference = parametrizations.weight_norm(copy.deepcopy(conv))
    model = convert_norms(nn.Sequential(conv, nn.BatchNorm2d(4).double()), "weight_norm")
    assert torch.equal(model[0].gain, reference.parametrizations.weight.original0.flatten())
    x = torch.randn(2, 3, 5, 5).double()
    torch.testing.assert_close(model(x), F.conv2d(x, reference.weight, reference.bias), rtol=1e-12, atol=1e-12)
