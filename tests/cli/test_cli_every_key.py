"""Every key given every kind of wrong value: one line that names the key, and never a traceback."""

import math

import pytest
from omegaconf import OmegaConf

from normbench.config.files import default_leaves
from normbench.config.keys import KEYS, method_keys, model_keys
from normbench.config.overrides import normalize, plan
from normbench.config.resolve import resolve
from normbench.config.values import plain
from normbench.errors import UserError

HUGE = 10**400
# As OmegaConf holds what is typed.
VALUES = {
    "word": "nonsense",
    "unicode": "ünï [bold]$x",
    "empty": "",
    "true": True,
    "null": None,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "-1": -1,
    "-0.5": -0.5,
    "0.3": 0.3,
    "huge": HUGE,
    "beyond float32": 1e39,
    "below float32": 1e-50,
    "[]": [],
    "[nan]": [math.nan],
    "{a: 1}": {"a": 1},
}
# What turns out wrong within a configuration alone.
IN_PLACE = {"a section": "${norm}", "unknown": "${nope}", "missing": "???"}
# What may be what: said here anew, key by key, for what shows in no default.
NULL = {
    "arm",
    "study",
    "reuse",
    "optim.rates_of",
    "optim.warmup_samples",
    "optim.clip_norm",
    "optim.agc",
    "augment.resize",
}
NULL |= {f"evaluation.{name}" for name in ("target_acc", "every_steps", "early_acc")}
NULL |= {f"data.{name}" for name in ("train_size", "test_size", "root")}  # the root is for CIFAR-10 alone
NULL |= {f"data.test_{name}" for name in ("noise", "noise_strength", "bits", "channel_scale")}
TEXTS = {"arm", "study", "reuse", "output", "data.root", "optim.rates", "augment.name"}
# Shares, strengths and factors that take 0.3.
NUMBERS = {"norm.eps", "norm.momentum", "norm.initial", "model.dropout", "model.init_scale", "checkpoint_seconds"}
NUMBERS |= {"model.init_gamma"}
NUMBERS |= {f"data.{name}" for name in ("label_noise", "channel_scale", "test_channel_scale")}
NUMBERS |= {f"data.{name}" for name in ("noise_strength", "test_noise_strength")}
NUMBERS |= {
    f"augment.{name}" for name in ("brightness", "contrast", "saturation", "mixup", "cutmix", "label_smoothing")
}
NUMBERS |= {
    f"optim.{name}"
    for name in ("lr", "lr_factor", "momentum", "eps", "weight_decay", "gamma", "gamma_every", "clip_norm", "agc")
}
NUMBERS |= {"evaluation.target_acc", "evaluation.early_acc", "norm.running_from"}
# The ranges of a method's options are its layers' own to know, which refuse these in a later step.
OPTIONS = {("norm.eps", "-1"), ("norm.eps", "-0.5"), ("norm.momentum", "-1"), ("norm.momentum", "-0.5")}
OPTIONS |= {("norm.initial", "-1"), ("norm.initial", "-0.5")}


def allowed(key, name, default) -> bool:
    if (key, name) in OPTIONS:
        return True
    if name == "null":
        return key in NULL
    if name == "true":
        return isinstance(default, bool)
    if name in ("word", "unicode"):
        return key in TEXTS
    if name == "[]":
        return key == "optim.milestones"
    return name == "0.3" and key in NUMBERS


@pytest.fixture(scope="module")
def composed():
    """A composed configuration of no data."""
    return OmegaConf.create(plain(plan(normalize(["data=patterns", "device=cpu"]), False)[0][0].config))


KEYS_TRIED = KEYS | method_keys("batch") | method_keys("skipinit") | model_keys("resnet8")


@pytest.mark.parametrize("key", KEYS_TRIED)
def test_each_wrong_value_of_a_key_is_told(key, composed):
    """By the key itself, of all values; through a whole configuration, of one that is another a key."""
    leaves = default_leaves((("model", "inception" if key == "model.lrn" else "uniform"),))
    leaves |= default_leaves((("norm", "skipinit" if key == "norm.initial" else "batch"),))
    default = leaves.get(key, OmegaConf.select(composed, key))
    for name, value in VALUES.items():
        wrong = KEYS_TRIED[key].check(value)
        assert (wrong is None) == allowed(key, name, default), (name, wrong)
        assert wrong is None or "\n" not in wrong
    if OmegaConf.select(composed, key, default=VALUES) is VALUES:  # with another choice of its group
        return
    refused = [name for name in (*VALUES, *IN_PLACE) if not allowed(key, name, default)]
    name = refused[list(KEYS_TRIED).index(key) % len(refused)]
    value = (VALUES | IN_PLACE)[name]
    changed = composed.copy()
    OmegaConf.update(changed, key, value, merge=False)
    with pytest.raises(UserError) as told:
        resolve(changed)
    assert str(told.value).startswith((f"{key}=", f"{key}: ")), name
    assert "\n" not in str(told.value)


def test_the_choices_of_the_groups_are_tried_too():
    """Keys that only another choice has: those of the other optimizer and methods, through the same checks."""
    for method in ("group", "ghost_batch", "weight_standardization", "skipinit"):
        for key in method_keys(method).values():
            for value in (math.nan, math.inf, 1e39, HUGE, -HUGE, [], {}, None, True, "???"):
                wrong = key.check(value)
                boolean = isinstance(value, bool) and key.check(False) is None
                name = isinstance(value, str) and key.check("any") is None
                assert wrong or boolean or name, (key.name, value)


def test_default_leaves_pass_their_own_checks():
    leaves = default_leaves((("data", "patterns"), ("norm", "batch"), ("optim", "adamw")))
    assert [key for key in leaves if key in KEYS and KEYS[key].check(leaves[key])] == []
