"""What convert_norms does not do: told with the layer's path and type, before anything has changed."""

import copy
import warnings

import pytest
import timm.layers
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d

from normbench.errors import InputError
from normbench.norms import convert_norms


class Doubled(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


class Padded(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(nn.functional.pad(x, (0, 1)), weight, bias)


class Equalized(nn.Conv2d):
    """A weight that is made from another parameter, without torch's parametrizations."""

    weight = property(lambda self: 0.1 * self.raw)

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.raw = nn.Parameter(torch.randn(8, 3, 3, 3))

    def reset_parameters(self):
        del self._parameters["weight"]


def patched(layer):
    forward = layer.forward
    layer.forward = lambda x: forward(x).relu()
    return layer


def pruned(layer):
    return prune.l1_unstructured(layer, "weight", 0.5)


def conv():
    return nn.Conv2d(3, 8, 3)


def behind(first, norm=None):
    return nn.Sequential(nn.Identity(), first, norm or nn.BatchNorm2d(8))


OWN, MADE, NO_SHAPE = "has a forward of its own", "has more parameters or modules", "has no shape yet"
UNNORMALIZED, MAPS = "that the method does not normalize", "is no feature map"
REFUSED = {
    "activation inside": (lambda: behind(conv(), timm.layers.BatchNormAct2d(8)), "batch", 2, "BatchNormAct2d", OWN),
    "forward of a norm": (lambda: behind(conv(), Doubled(8)), "none", 2, "Doubled", OWN),
    "patched forward of a norm": (lambda: behind(conv(), patched(nn.BatchNorm2d(8))), "group", 2, "BatchNorm2d", OWN),
    "padding of its own": (lambda: behind(timm.layers.Conv2dSame(3, 8, 3)), "weight_norm", 1, "Conv2dSame", OWN),
    "padding and no bias": (lambda: behind(Padded(3, 8, 3, bias=False)), "none", 1, "Padded", OWN),
    "patched convolution": (lambda: behind(patched(conv())), "weight_standardization", 1, "Conv2d", OWN),
    "property": (lambda: behind(Equalized(3, 8, 3)), "weight_norm", 1, "Equalized", MADE),
    "parametrized": (
        lambda: behind(parametrizations.weight_norm(conv())),
        "weight_standardization",
        1,
        "ParametrizedConv2d",
        MADE,
    ),
    "parametrized spectrally": (
        lambda: behind(parametrizations.spectral_norm(conv())),
        "weight_norm",
        1,
        "ParametrizedConv2d",
        MADE,
    ),
    "hook of weight norm": (lambda: behind(nn.utils.weight_norm(conv())), "weight_norm", 1, "Conv2d", MADE),
    "hook of spectral norm": (lambda: behind(nn.utils.spectral_norm(conv())), "weight_norm", 1, "Conv2d", MADE),
    "pruned": (lambda: behind(pruned(conv())), "weight_norm", 1, "Conv2d", MADE),
    "pruned norm": (lambda: behind(conv(), pruned(nn.BatchNorm2d(8))), "batch", 2, "BatchNorm2d", MADE),
    "lazy norm": (lambda: behind(conv(), nn.LazyBatchNorm2d()), "batch", 2, "LazyBatchNorm2d", NO_SHAPE),
    "lazy convolution": (lambda: behind(nn.LazyConv2d(8, 3)), "weight_norm", 1, "LazyConv2d", NO_SHAPE),
    "lazy without bias": (lambda: behind(nn.LazyConv2d(8, 3, bias=False)), "none", 1, "LazyConv2d", NO_SHAPE),
    "no running averages": (
        lambda: behind(conv(), nn.BatchNorm2d(8, track_running_stats=False)),
        "ghost_batch",
        2,
        "BatchNorm2d",
        "evaluates by the batch",
    ),
    "transposed": (lambda: behind(nn.ConvTranspose2d(3, 8, 3)), "weight_norm", 1, "ConvTranspose2d", UNNORMALIZED),
    "vectors": (lambda: behind(nn.Linear(3, 8), nn.BatchNorm1d(8)), "weight_norm", 2, "BatchNorm1d", UNNORMALIZED),
    "videos": (lambda: behind(nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8)), "weight_norm", 2, "BatchNorm3d", UNNORMALIZED),
    "any dimensions": (
        lambda: behind(nn.Conv1d(3, 8, 3), nn.SyncBatchNorm(8)),
        "weight_standardization",
        1,
        "Conv1d",
        UNNORMALIZED,
    ),
    "sequences": (lambda: behind(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8)), "group", 2, "BatchNorm1d", MAPS),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("case", REFUSED)
def test_a_layer_that_is_more_than_torchs_is_refused_and_the_model_left_alone(case):
    make, norm, place, kind, text = REFUSED[case]
    # what comes before the layer at fault could be converted, and is not
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3), make())
    modules, parameters = list(model.named_modules()), dict(model.named_parameters())
    with pytest.raises(InputError, match=rf"norm={norm}: at 2\.{place}: a {kind} .*{text}"):
        convert_norms(model, norm, **({"num_groups": 1} if norm in ("group", "weight_standardization") else {}))
    assert all(a[0] == b[0] and a[1] is b[1] for a, b in zip(model.named_modules(), modules, strict=True))
    assert {name: id(value) for name, value in model.named_parameters()} == {n: id(v) for n, v in parameters.items()}


def test_a_video_network_without_any_norm_is_refused():
    with pytest.raises(InputError, match=r"at stem\.1: a BatchNorm3d stands beside filters"):
        convert_norms(models.video.r3d_18(num_classes=2), "weight_norm")


def test_a_lone_layer_is_told_as_the_model_itself():
    with pytest.raises(InputError, match="num_groups=8: at the model itself: does not divide the 6 channels"):
        convert_norms(nn.BatchNorm2d(6), "group")


def test_what_is_not_replaced_may_be_anything():
    class Renamed(nn.BatchNorm2d):
        """A subclass that overrides nothing."""

    first = timm.layers.Conv2dSame(3, 8, 3, bias=False)
    model = convert_norms(nn.Sequential(first, Renamed(8), nn.LazyConv2d(4, 1)), "group")
    assert model[0] is first
    assert model(torch.randn(2, 3, 5, 5)).shape == (2, 4, 5, 5)


def test_a_lazy_layer_converts_once_it_has_a_shape():
    model = nn.Sequential(nn.LazyConv2d(8, 3, bias=False), nn.LazyBatchNorm2d()).eval()
    x = torch.randn(2, 3, 5, 5)
    expected = model(x)
    assert torch.equal(convert_norms(copy.deepcopy(model), "batch")(x), expected)
    assert convert_norms(model, "weight_norm")[0].gain.shape == (8,)


def test_a_frozen_batch_norm_stays_and_is_told():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), FrozenBatchNorm2d(8), FrozenBatchNorm2d(8))
    frozen = model[2]
    with pytest.warns(UserWarning, match=r"left as it is: 2 \(FrozenBatchNorm2d\) and 1 more$"):
        convert_norms(model, "group")
    assert model[2] is frozen
    with warnings.catch_warnings(action="error"):
        convert_norms(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)), "ghost_batch")


def test_a_warning_made_an_error_leaves_the_model_alone():
    model = nn.Sequential(nn.BatchNorm2d(8), FrozenBatchNorm2d(8))
    with warnings.catch_warnings(action="error"), pytest.raises(UserWarning, match="FrozenBatchNorm2d"):
        convert_norms(model, "group")
    assert type(model[0]) is nn.BatchNorm2d
