"""What each key takes, and what a resolved configuration settles."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import ListConfig, OmegaConf

from normbench import data
from normbench.config import keys
from normbench.config.files import GROUPS, OF_ALL, choice_config, choices, conf_dir, flatten
from normbench.config.keys import KEYS, measure_keys, method_keys
from normbench.config.overrides import normalize, plan
from normbench.config.resolve import resolve
from normbench.config.sizes import IMAGES, LABELS
from normbench.config.values import to_yaml, value_at
from normbench.data import patterns
from normbench.data.corruption import NOISES
from normbench.data.inputs import KINDS
from normbench.data.views import VIEWS
from normbench.errors import InputError
from normbench.models import MODELS
from normbench.norms import ACTIVATIONS, NORMS

ROOT = Path(__file__).parents[2]

NAN, INF = float("nan"), float("inf")
NO_INTEGER = [None, True, "1", 1.0, 2.5, [1]]
NO_NUMBER = [None, True, "1", NAN, INF, -INF, [0.5]]
NO_BOOLEAN = [None, 0, 1, "true", "yes"]
NO_NAME = [None, "", 3, True]

# Key → (values that it takes, values that it does not).
EXAMPLES = {
    "batch_size": ([1, 2, 4096], [0, -1, *NO_INTEGER]),
    "epochs": ([1, 300], [0, -1, *NO_INTEGER]),
    "seed": ([0, 1, 2**40], [-1, *NO_INTEGER]),
    "replicates": ([1, 64], [0, *NO_INTEGER]),
    "stack": (["auto", 1, 64], [0, "many", None, 1.5]),
    "arm": ([None, "bn_x5"], ["", 3, True]),
    "lr_scaling": (["linear", "sqrt", "none"], ["Linear", "lin", None, 1]),
    "study": ([None, "demo"], ["", 3, True]),
    "device": (["auto", "cpu", "cuda", "cuda:0", "cuda:12"], ["gpu", "cuda:", "cuda:x", "cuda:-1", None, 0]),
    "precision": (["auto", "float32", "bfloat16", "float64"], ["float16", "fp32", None, 32]),
    "deterministic": ([True, False], NO_BOOLEAN),
    "threads": ([0, 1, 8], [-1, *NO_INTEGER]),
    "kernels": (["auto", "native", "torch"], ["c", None, True]),
    "output": (["outputs", "/tmp/x"], NO_NAME),
    "force": ([True, False], NO_BOOLEAN),
    "reuse": ([None, "results/noise", ["mine", "yours"]], ["", 1, [], [None]]),
    "checkpoint_seconds": ([0, 0.5, 30], [-1, *NO_NUMBER]),
    "model.name": (["resnet8", "resnet110", "resnet18", "inception", "vgg", "preact_resnet20"], ["resnet9", "", None]),
    "model.width": ([1, 64], [0, *NO_INTEGER]),
    "model.depth": ([11, 19], [0, *NO_INTEGER]),
    "model.residual": ([True, False], NO_BOOLEAN),
    "model.shortcut": (["pad", "projection"], ["identity", None, True]),
    "model.lrn": ([True, False], NO_BOOLEAN),
    "model.norm_position": (["before", "after"], ["pre", None, 1]),
    "model.sequence": (["rows", "pixels"], ["columns", None, 1]),
    "model.placement": (["gates", "per_gate", "cell_only", "pre", "post"], ["before", None, 1]),
    "model.carry": (["raw", "normalized"], ["both", None, 1]),
    "model.init_gamma": ([0.1, 0, 2], [-0.1, None, "one", float("nan")]),
    "model.heads": ([1, 8], [0, 1.5, None, "two"]),
    "model.patch": ([1, 8], [0, 1.5, None, "two"]),
    "model.activation": (["relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh"], ["rleu", "ReLU", None]),
    "model.dropout": ([0, 0.0, 0.99], [1, -0.1, *NO_NUMBER]),
    "model.init_scale": ([0.01, 1, 10], [0, -1, *NO_NUMBER]),
    "model.zero_init_residual": ([True, False], NO_BOOLEAN),
    "norm.name": (["none", "group"], ["gruop", None]),
    "norm.scale": ([True, False], NO_BOOLEAN),
    "norm.shift": ([True, False], NO_BOOLEAN),
    "norm.channels_per_group": ([0, 4], [-1, *NO_INTEGER]),
    "norm.detach_statistics": ([True, False], NO_BOOLEAN),
    "norm.statistics": (["batch", "running"], ["group", *NO_NAME]),
    "norm.running_from": ([0, 0.8, 1.0], [-0.1, 1.1, *NO_NUMBER]),
    "data.name": (["cifar10", "patterns"], ["cifar", None]),
    "data.root": ([None, "data"], ["", 3]),
    "data.val_size": ([1, 5000], [0, *NO_INTEGER]),
    "data.train_size": ([None, 1, 45000], [0, -1, True, 1.5, "all"]),
    "data.test_size": ([None, 1, 10000], [0, -1, True, 1.5, "all"]),
    "data.split_seed": ([0, 7], [-1, *NO_INTEGER]),
    "data.input": (
        ["raw", "unit", "symmetric", "zscore", "per_image", "min_max", "percentile", "three_sigma"],
        ["z-score", "", None, 1],
    ),
    "data.labels": (["class", "brightness"], ["classes", None]),
    "data.label_noise": ([0, 0.99], [1, -0.1, *NO_NUMBER]),
    "data.noise": (["none", "gaussian", "rician", "non_uniformity"], ["normal", None, 0]),
    "data.noise_strength": ([0, 0.1, 10], [-0.1, 10.1, *NO_NUMBER]),
    "data.bits": ([4, 5, 6, 7, 8], [3, 9, 0, *NO_INTEGER]),
    "data.channel_scale": ([1e-9, 0.001, 1, 1000, 1e9], [0, -1, 1e10, *NO_NUMBER]),
    "data.test_noise": ([None, "none", "gaussian", "rician", "non_uniformity"], ["normal", "null", 0]),
    "data.test_noise_strength": ([None, 0, 2], [-0.1, 11, "0", True, NAN, INF]),
    "data.test_bits": ([None, 4, 8], [3, 9, True, 5.0, "5"]),
    "data.test_channel_scale": ([None, 0.5, 3], [0, -1, 1e10, "1", True, NAN, INF]),
    "augment.name": (["standard"], NO_NAME),
    "augment.crop": ([0, 4, 31], [-1, 32, *NO_INTEGER]),
    "augment.flip": ([True, False], NO_BOOLEAN),
    **{f"augment.{name}": ([0, 0.4, 2], [-0.1, *NO_NUMBER]) for name in ("brightness", "contrast", "saturation")},
    "augment.mixup": ([0, 0.2, 1], [-0.1, *NO_NUMBER]),
    "augment.cutmix": ([0, 0.2, 1], [-0.1, *NO_NUMBER]),
    "augment.label_smoothing": ([0, 0.1, 0.99], [1, -0.1, *NO_NUMBER]),
    "augment.resize": (
        [None, [[0, 16]], [[0.0, 4], [0.5, 128]], [[0, 16], [0.5, 24], [0.75, 32]]],
        [
            *([], 16, "16", [16], [[]], [[0]], [[0, 16, 1]], [[0, 3]], [[0, 129]], [[0, 0]], [[0, 16.0]], [[0, True]]),
            *([[0.1, 16]], [[0, 16], [1, 32]], [[0, 16], [0, 32]], [[0, 16], [0.6, 24], [0.5, 32]], [[NAN, 16]]),
        ],
    ),
    "augment.tta": (["none", "flip", "flip_shift", "zoom_rotate_crop"], ["flips", None, True]),
    "augment.tta_average": (["logits", "probabilities"], ["logit", None]),
    "optim.name": (["sgd", "adamw"], ["adam", "SGD", None]),
    "optim.lr": (
        [1e-8, 0.1, 100, "tuned", "tuned*2", "tuned*0.5"],
        [0, -0.1, "tuned*", "tuned*0", "tuned*-1", "tuned/2", "2*tuned", "best", *NO_NUMBER],
    ),
    "optim.lr_factor": ([0.5, 5], [0, -1, *NO_NUMBER]),
    "optim.rates_of": ([None, "none"], ["nothing", "", 1]),
    "optim.rates": (["rates.csv", "results/tune_lr/rates.csv"], ["", None, 1]),
    "optim.momentum": ([0, 0.9], [1, -0.1, *NO_NUMBER]),
    "optim.nesterov": ([True, False], NO_BOOLEAN),
    "optim.betas": ([[0.9, 0.999], [0, 0]], [[0.9], [0.9, 1], [0.9, -0.1], [0.9, 0.9, 0.9], 0.9, None, ["a", "b"]]),
    "optim.eps": ([1e-8], [0, -1e-8, *NO_NUMBER]),
    "optim.weight_decay": ([0, 5e-4], [-1e-4, *NO_NUMBER]),
    "optim.schedule": (["cosine", "step", "exponential", "constant"], ["cos", None]),
    "optim.warmup_samples": ([None, 0, 1000], [-1, 0.05, True, "auto"]),
    "optim.milestones": ([[0.5, 0.75], [0.1], []], [[0.75, 0.5], [0], [1], [2], 0.5, None, ["a"]]),
    "optim.gamma": ([0.1, 1], [0, 1.1, -1, *NO_NUMBER]),
    "optim.gamma_every": ([0.1, 1, 3], [0, -1, *NO_NUMBER]),
    "optim.clip_norm": ([None, 0.1, 5], [0, -1, NAN, INF, "no", True]),
    "optim.agc": ([None, 0.01, 5], [0, -1, NAN, INF, "no", True]),
    "optim.rates_from": (["theory", "tuned"], ["tune", None]),
    "evaluation.batch_size": ([1, 500], [0, *NO_INTEGER]),
    "evaluation.precise_images": ([0, 10_000], [-1, *NO_INTEGER]),
    "evaluation.precise_augment": ([True, False], NO_BOOLEAN),
    "evaluation.target_acc": ([None, 0.5, 40, 100], [0, 101, -1, NAN, INF, "40", True]),
    "evaluation.every_steps": ([None, 1, 250], [0, -1, True, 1.5, "all"]),
    "evaluation.early_acc": ([None, 0.05, 1], [0, 1.1, -1, NAN, INF, "0.1", True]),
    "evaluation.train": ([True, False], NO_BOOLEAN),
    "evaluation.suggest_lr": ([True, False], NO_BOOLEAN),
    "task.name": (["classify"], ["classification", None]),
    "measure.name": (["train"], ["training", None]),
    "logging.progress": (["auto", "bar", "lines", "none"], ["line", None, True]),
    "logging.tensorboard": ([True, False], NO_BOOLEAN),
    "logging.histogram_epochs": ([0, 1], [-1, *NO_INTEGER]),
    "logging.grad_norm_steps": ([1, 50], [0, *NO_INTEGER]),
}


def resolved(*typed, processes=1):
    return resolve(plan(normalize(["device=cpu", *typed]), False)[0][0].config, processes)


def test_every_key_has_examples():
    assert EXAMPLES.keys() == KEYS.keys()


@pytest.mark.parametrize("key", EXAMPLES)
def test_a_key_takes_what_it_should_and_nothing_else(key):
    good, bad = EXAMPLES[key]
    for value in good:
        assert KEYS[key].check(value) is None, value
    for value in bad:
        wrong = KEYS[key].check(value)
        assert isinstance(wrong, str), value
        assert wrong
        assert "\n" not in wrong


def keys_of_the_files():
    found = {}
    config = OmegaConf.load(conf_dir() / "config.yaml")
    leaves = flatten(OmegaConf.create({k: v for k, v in config.items() if k not in ("defaults", "hydra")}))
    for key in leaves:
        found.setdefault(key, "config.yaml")
    for group in GROUPS:
        for choice in choices(group):
            for key in OmegaConf.load(conf_dir() / group / f"{choice}.yaml"):
                if group not in OF_ALL and key != "defaults":
                    found.setdefault(f"{group}.{key}", f"{group}/{choice}.yaml")
    return found


def test_every_key_of_the_files_has_a_check_and_every_check_a_key():
    options = {f"norm.{option}" for method in NORMS.values() for option in method.options()}
    options |= {key for measure in choices("measure") for key in measure_keys(measure)}
    found = set(keys_of_the_files())
    assert found - (options - set(KEYS)) == set(KEYS)
    assert options <= found


@pytest.mark.parametrize("name", sorted(NORMS))
def test_an_option_of_a_method_takes_its_type_alone(name):
    wrong = {int: 1.5, float: "much", bool: 1, str: 3, list: 0.5}
    for key, (kind, default) in NORMS[name].options().items():
        check = method_keys(name)[f"norm.{key}"].check
        assert check(default) is None
        assert check(wrong[kind])
        assert check(None)
    if "momentum" in NORMS[name].options():
        assert method_keys(name)["norm.momentum"].check("scaled") is None


def test_what_resolve_settles_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = resolve(plan([], False)[0][0].config)
    assert (config.device, config.precision, config.stack) == ("cpu", "float32", 1)
    assert config.optim.warmup_samples == 10 * (45_000 // 128 * 128) // 20
    with pytest.raises(TypeError, match="read-only"):
        config.optim.lr = 1
    assert resolved("precision=float64").precision == "float64"
    assert resolved("precision=bfloat16").precision == "bfloat16"


@pytest.mark.parametrize(
    ("batch_size", "replicates", "typed", "stack"),
    [(2, 8, [], 8), (2, 32, [], 16), (8, 8, [], 4), (128, 8, [], 1), (128, 8, ["stack=8"], 8), (2, 3, ["stack=9"], 3)],
)
def test_replicates_side_by_side_on_the_cpu(batch_size, replicates, typed, stack):
    config = resolved(f"batch_size={batch_size}", f"replicates={replicates}", *typed)
    assert config.stack == stack


@pytest.mark.parametrize("batch_size", [2, 16, 128, 500])
def test_scaled_momentum_keeps_the_running_averages_horizon_in_images(batch_size):
    momentum = resolved(f"batch_size={batch_size}", "norm.momentum=scaled").norm.momentum
    assert momentum == pytest.approx(1 - 0.9 ** (batch_size / 128), rel=1e-12)
    # after the same 128·k images an old value weighs the same
    assert (1 - momentum) ** (1280 / batch_size) == pytest.approx(0.9**10, rel=1e-9)


def test_scaled_momentum_counts_the_images_of_a_statistic():
    ghost = resolved("norm=ghost_batch", "norm.ghost_size=16", "batch_size=128", "norm.momentum=scaled")
    assert ghost.norm.momentum == pytest.approx(1 - 0.9 ** (16 / 128), rel=1e-12)
    sync = resolved("norm=sync_batch", "batch_size=64", "norm.momentum=scaled", processes=2)
    assert sync.norm.momentum == pytest.approx(1 - 0.9 ** (64 / 128), rel=1e-12)
    local = resolved("norm=batch", "batch_size=64", "norm.momentum=scaled", processes=2)
    assert local.norm.momentum == pytest.approx(1 - 0.9 ** (32 / 128), rel=1e-12)
    assert resolved("norm.momentum=0.3").norm.momentum == 0.3


def test_warm_up_is_a_twentieth_of_training_and_what_is_typed_stays():
    config = resolved("data=patterns", "data.train_size=1000", "batch_size=100", "epochs=3")
    assert config.optim.warmup_samples == 150
    assert resolved("optim.warmup_samples=0").optim.warmup_samples == 0


def test_test_images_are_treated_as_training_images_unless_told_otherwise():
    def settled(*typed):
        data = resolved(*typed).data
        return [
            [data[f"{p}{key}"] for key in ("noise", "noise_strength", "bits", "channel_scale")] for p in ("", "test_")
        ]

    assert settled() == [["none", 0, 8, 1]] * 2
    assert settled("data.noise=rician", "data.bits=6") == [["rician", 0.1, 6, 1]] * 2
    assert settled("data.noise=rician", "data.noise_strength=0.3", "data.test_noise=none") == [
        ["rician", 0.3, 8, 1],
        ["none", 0, 8, 1],
    ]
    # noise in the test images alone has the strength of the training images' key, though that is without meaning there
    assert settled("data.test_noise=gaussian", "data.test_channel_scale=3") == [
        ["none", 0, 8, 1],
        ["gaussian", 0.1, 8, 3],
    ]
    assert settled("data.noise=gaussian", "data.test_noise_strength=0.5")[1] == ["gaussian", 0.5, 8, 1]


def test_processes_divide_the_batch():
    with pytest.raises(InputError, match=r"batch_size=5: .*2 processes"):
        resolved("batch_size=5", processes=2)
    with pytest.raises(InputError, match=r"norm.ghost_size=16: must divide batch_size=8"):
        resolved("norm=ghost_batch", "batch_size=16", processes=2)


def test_resolve_leaves_its_argument_alone():
    config = plan(["batch_size=2"], False)[0][0].config
    before = to_yaml(config)
    resolve(config)
    assert to_yaml(config) == before


def test_resolving_twice_changes_nothing():
    once = resolved("norm.momentum=scaled", "replicates=4", "batch_size=2")
    assert resolve(once) == once


def test_devices_of_a_machine_with_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = resolve(plan(["replicates=5"], False)[0][0].config)
    assert (config.device, config.precision, config.stack) == ("cuda", "bfloat16", 5)
    assert resolve(plan(["device=cuda:1"], False)[0][0].config).device == "cuda:1"
    with pytest.raises(InputError, match="device=cuda:2: this machine has 2 CUDA devices"):
        resolve(plan(["device=cuda:2"], False)[0][0].config)


def test_threads_of_a_run():
    """As typed, or torch's own choice: OMP_NUM_THREADS where it is set, whatever an earlier run of a sweep took."""
    code = """
import torch
from omegaconf import OmegaConf
from normbench.training.machine import cpu_threads
torch.set_num_threads(2)
print(*(cpu_threads(OmegaConf.create({"threads": n})) for n in (0, 2)))
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["1", "2"], done.stderr


def test_infinity_is_no_number():
    assert KEYS["optim.lr"].check(math.inf) is not None


# --- What the keys know of modules that they do not import. -----------------------------------------------------------


def test_the_names_are_those_of_the_modules_that_do_the_work():
    assert tuple(ACTIVATIONS) == keys.ACTIVATIONS
    assert tuple(NOISES) == keys.NOISES
    assert KINDS == keys.INPUTS
    assert tuple(VIEWS) == keys.VIEWS
    assert data.LABELS == LABELS
    assert list(IMAGES) == list(data.LOADERS) == choices("data")
    assert sorted(MODELS) == choices("model")
    assert IMAGES["patterns"] == (patterns.TRAIN, patterns.TEST)


@pytest.mark.parametrize("name", sorted(NORMS))
def test_the_values_of_a_methods_file_have_the_types_of_its_options(name):
    written = {key: type(value) for key, value in choice_config("norm", name).items() if key != "name"}
    written = {key: list if kind is ListConfig else kind for key, kind in written.items()}
    assert written == {key: kind for key, (kind, _) in NORMS[name].options().items()}


def test_the_options_of_a_measurement_are_checked_by_the_types_of_its_file(monkeypatch):
    written = {"name": "probe", "steps": 3, "low": 0.1, "whole": True, "rule": "a", "shares": [0.1, 1]}
    monkeypatch.setattr(keys, "choice_config", lambda group, choice: OmegaConf.create(written))
    options = measure_keys("probe")
    examples = {
        "steps": ([1, -1], NO_INTEGER),
        "low": ([1, 0.5], NO_NUMBER),
        "whole": ([True], NO_BOOLEAN),
        "rule": (["b"], NO_NAME),
        "shares": ([[], [0.5, 2]], [None, 0.5, ["a"], [NAN], "0.5"]),
    }
    assert options.keys() == {f"measure.{name}" for name in examples}
    for name, (good, bad) in examples.items():
        key = options[f"measure.{name}"]
        assert key.identity == "unless_default"
        assert [key.check(value) for value in good] == [None] * len(good), name
        assert all(key.check(value) for value in bad), name


def test_what_has_settled_stays():
    for typed in (["data.noise_strength=0.3", "data.test_noise=rician"], ["augment.tta_average=probabilities"]):
        once = resolved(*typed, "replicates=3", "stack=9", "norm.momentum=scaled", "optim.lr=tuned*2")
        settling = {name: key for name, key in (KEYS | method_keys("batch")).items() if key.settles}
        assert len(settling) > 10
        for name, key in settling.items():
            assert key.settled(once, 1) == value_at(once, name), name
