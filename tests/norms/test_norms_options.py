"""The names, options and defaults of the methods, and what is said of wrong ones."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from normbench.errors import InputError
from normbench.norms import ACTIVATIONS, NORMS, Layers, get_method
from normbench.norms.plain import ScaleShift

EPS_OF_ITS_PAPER = {"frn": 1e-6, "rms": 1e-6, "evonorm_b0": 1e-3}
CONF = Path(__file__).parents[2] / "conf" / "norm"


def test_every_method_has_a_file_of_its_own_and_every_file_a_method():
    assert {path.stem for path in CONF.glob("*.yaml")} == set(NORMS)


# Methods whose norm has no shift; and those whose convolutions add one of their own instead of a bias.
WITHOUT_SHIFT = ("none", "skipinit", "weight_norm", "rms", "rescale", "fixup", "scaled_ws", "mean_field")
SHIFTED = ("rescale", "fixup")


@pytest.mark.parametrize("name", NORMS)
def test_the_file_of_a_method_names_its_options_and_their_defaults(name):
    given = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    expected = {key: default for key, (_, default) in NORMS[name].options().items()}
    assert given == {"name": name} | expected
    assert {key: type(given[key]) for key in expected} == {key: type(value) for key, value in expected.items()}


@pytest.mark.parametrize("name", NORMS)
def test_defaults_are_of_their_type_and_eps_is_the_same_for_all_but_where_the_paper_has_its_own(name):
    for key, (kind, default) in NORMS[name].options().items():
        assert type(default) is kind
        same = {"eps": EPS_OF_ITS_PAPER.get(name, 1e-5), "ws_eps": 1e-5, "momentum": 0.1} | dict.fromkeys(
            ("affine", "scale", "shift"), True
        )
        assert default == same.get(key, default)


@pytest.mark.parametrize("name", NORMS)
def test_every_option_reaches_its_layer(name):
    """A value unlike the default changes the attribute or the layer it makes; a wrong one is an error."""
    changed = {"eps": 0.25, "momentum": 0.25, "affine": False, "num_groups": 4, "ghost_size": 5, "ws_eps": 0.25}
    changed |= {"mode": "std_only", "norm": "batch", "mean_only_bn": True, "initial": 0.25}
    changed |= {"detach_statistics": True, "statistics": "running", "running_from": 0.25}
    changed |= {"scale": False, "shift": False}
    changed |= {"p": "l2", "centre_first": False, "normalize": False}
    changed |= {"r_max": 2.0, "d_max": 2.0, "about": "channel", "over": "sample", "alpha": 0.25, "window": 3}
    changed |= {"forward_decay": 0.25, "backward_decay": 0.25, "layer_scaling": False, "sigma": 0.25}
    changed |= {"learn_eps": True, "proxy_eps": 0.25}
    changed |= {"channels_per_group": 8, "mean_batches": 4, "dropout": 0.25, "alpha": 0.25, "gammas": [0.5]}
    changed |= {"n_mean": 0.25, "n_std": 2.0, "r_mean": 0.25, "r_std": 0.25}
    for key in NORMS[name].options():
        also = {("weight_norm", "momentum"): {"mean_only_bn": True}, ("weight_norm", "affine"): {"mean_only_bn": True}}
        also |= {("weight_standardization", "momentum"): {"norm": "batch"}}
        also |= {("batch", "running_from"): {"statistics": "running"}}
        others = also.get((name, key), {})
        default, other = (
            [*layers.conv_norm(8, 16, 3, ends_branch=True), *layers.norm_act(16)]
            for layers in (Layers(name, others | option) for option in ({}, {key: changed[key]}))
        )
        assert described(other) != described(default), key


def described(branch):
    attributes = ("eps", "momentum", "num_groups", "ghost_size", "mode", "ws_eps", "running_from")
    attributes += ("r_max", "d_max", "about", "over", "window", "sigma", "forward_decay", "backward_decay")
    attributes += ("layer_scaling", "proxy_eps", "p", "centre_first", "n_mean", "n_std", "r_mean", "r_std")
    attributes += ("mean_batches", "dropout", "alpha", "gammas")
    attributes += ("p", "centre_first", "n_mean", "n_std", "r_mean", "r_std")
    return [
        (type(layer), {key: getattr(layer, key, None) for key in attributes}, _parameters(layer)) for layer in branch
    ]


def _parameters(layer):
    return {
        key: tuple(value.shape) if value.dim() > 1 else value.tolist()
        for key, value in layer.named_parameters()
        if isinstance(layer, ScaleShift) or "scale" in key
    }  # not the filters: those are random


def test_an_unknown_method_is_answered_with_the_nearest():
    with pytest.raises(InputError) as caught:
        get_method("gruop")
    choices = ", ".join(sorted(NORMS))
    assert str(caught.value) == f"norm=gruop: unknown method; did you mean group? choices: {choices}"
    with pytest.raises(InputError, match="norm=gruop: unknown method; did you mean group"):
        Layers("gruop")


@pytest.mark.parametrize("name", NORMS)
def test_an_unknown_option_is_refused(name):
    with pytest.raises(InputError, match=f"norm.epss=1: norm={name} has no such option; ") as caught:
        Layers(name, {"epss": 1})
    options = NORMS[name].options()
    assert str(caught.value).endswith(f"choices: {', '.join(sorted(options))}" if options else "it has none")
    assert ("did you mean eps?" in str(caught.value)) == ("eps" in options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "group",
            {"num_groups": 3},
            "norm.num_groups=3: does not divide the 16 channels of a layer; choices: 1, 2, 4, 8, 16",
        ),
        ("batch", {"eps": -1.0}, "norm.eps=-1.0: must be a number > 0"),
        ("batch", {"momentum": 2.0}, "norm.momentum=2.0: must lie between 0 and 1: the weight of the new batch"),
        ("ghost_batch", {"ghost_size": 0}, "norm.ghost_size=0: must be an integer ≥ 1"),
        ("lp_batch", {"p": "l3"}, "norm.p=l3: choices: l1, l2, linf"),
        ("batch_renorm", {"r_max": 0.5}, "norm.r_max=0.5: must be a number ≥ 1: r lies within 1/r_max and r_max"),
        ("batch_renorm", {"d_max": -1.0}, "norm.d_max=-1.0: must be a number ≥ 0: d lies within ±d_max"),
        (
            "online",
            {"forward_decay": 1.0},
            "norm.forward_decay=1.0: must be at least 0 and below 1: the weight of what was before",
        ),
        ("extended_batch", {"about": "al"}, "norm.about=al: did you mean all? choices: all, channel"),
        ("rms", {"over": "samples"}, "norm.over=samples: did you mean sample? choices: position, sample"),
        ("dyt", {"alpha": 0.0}, "norm.alpha=0.0: must be a number > 0"),
        ("divisive", {"window": 4}, "norm.window=4: must be an odd integer ≥ 1: positions, with one in the middle"),
        ("noisy_batch", {"r_mean": -0.5}, "norm.r_mean=-0.5: must be a number ≥ 0"),
        (
            "noisy_batch",
            {"n_std": 0.5},
            "norm.n_std=0.5: must be a number ≥ 1: the upper end of a range that begins at 1",
        ),
        (
            "weight_standardization",
            {"mode": "ful"},
            "norm.mode=ful: did you mean full? choices: full, mean_only, std_only",
        ),
        ("weight_standardization", {"norm": "layer"}, "norm.norm=layer: choices: batch, group"),
    ],
)
def test_a_bad_option_names_its_key_within_the_norm_group(name, options, message):
    with pytest.raises(InputError) as caught:
        Layers(name, options).conv_norm(3, 16, 3)
    assert str(caught.value) == message


def test_an_unknown_activation_is_refused():
    with pytest.raises(InputError, match=r"model.activation=reul: did you mean relu\? choices: elu, gelu"):
        Layers(activation="reul")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_torchs_functions_of_that_name(name):
    x = torch.linspace(-3, 3, 13)
    function = getattr(torch.nn.functional, name)
    assert torch.equal(Layers(activation=name).act()(x), function(x))


@pytest.mark.parametrize("name", NORMS)
def test_a_convolution_has_a_bias_where_its_norm_has_no_shift(name):
    conv, norm = Layers(name).conv_norm(8, 16, 3)
    shifts = getattr(norm, "bias", None) is not None
    assert shifts == (name not in WITHOUT_SHIFT)
    assert (conv.bias is None) == (shifts or name in SHIFTED)
    if "affine" in NORMS[name].options():
        conv, _ = Layers(name, {"affine": False}).conv_norm(8, 16, 3)
        assert conv.bias is not None


@pytest.mark.parametrize("name", NORMS)
def test_zero_init_residual_starts_the_last_scale_at_zero_or_says_why_not(name):
    layers = Layers(name, zero_init_residual=True)
    inner = layers.conv_norm(8, 16, 3)
    gamma = getattr(inner[1], "weight", None)
    if gamma is None:
        with pytest.raises(InputError, match=f"model.zero_init_residual=true: norm={name} has no γ"):
            layers.conv_norm(8, 16, 3, ends_branch=True)
    else:
        assert gamma.tolist() == [1] * 16
        branch = layers.conv_norm(8, 16, 3, ends_branch=True)
        assert branch[1].weight.tolist() == [0] * 16
        branch.train(name != "noisy_batch")  # whose noise comes after γ
        assert torch.equal(branch(torch.randn(4, 8, 5, 5)), torch.zeros(4, 16, 5, 5))


def test_mean_only_batch_norm_has_no_scale_to_start_at_zero():
    with pytest.raises(InputError, match="has no γ"):
        Layers("weight_norm", {"mean_only_bn": True}, zero_init_residual=True).conv_norm(3, 4, 3, ends_branch=True)
