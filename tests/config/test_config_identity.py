"""The name of a run."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from normbench.config.files import default_choices, default_leaves
from normbench.config.identity import DIGITS, EARLIER_DIGITS, digest, earlier, identity, run_id
from normbench.config.keys import KEYS
from normbench.config.overrides import normalize, plan
from normbench.config.resolve import resolve
from normbench.config.values import plain

OF_OTHER_MODELS = {"model.depth", "model.residual", "model.sequence", "model.placement", "model.carry", "model.lrn"}
OF_OTHER_MODELS |= {"model.init_gamma", "model.heads", "model.patch", "norm.channels_per_group"}
# Key → another valid value; and the choices that the key needs.
CHANGES = {
    "batch_size": 64,
    "epochs": 3,
    "seed": 1,
    "replicates": 2,
    "arm": "mine",
    "lr_scaling": "sqrt",
    "precision": "float64",
    "model.width": 24,
    "model.shortcut": "projection",
    "model.norm_position": "after",
    "norm.detach_statistics": True,
    "norm.statistics": "running",
    "norm.running_from": 0.5,
    "model.activation": "gelu",
    "model.dropout": 0.1,
    "model.init_scale": 0.5,
    "model.zero_init_residual": True,
    "data.val_size": 500,
    "data.train_size": 4000,
    "data.test_size": 100,
    "data.split_seed": 1,
    "data.input": "min_max",
    "data.labels": "brightness",
    "data.label_noise": 0.2,
    "data.noise": "gaussian",
    "data.noise_strength": 0.2,
    "data.bits": 5,
    "data.channel_scale": 2.5,
    "data.test_noise": "rician",
    "data.test_noise_strength": 0.3,
    "data.test_bits": 4,
    "data.test_channel_scale": 0.5,
    "augment.crop": 2,
    "augment.flip": False,
    "augment.brightness": 0.2,
    "augment.contrast": 0.2,
    "augment.saturation": 0.2,
    "augment.mixup": 0.2,
    "augment.cutmix": 0.5,
    "augment.label_smoothing": 0.1,
    "augment.resize": [[0, 16], [0.5, 32]],
    "augment.tta": "flip_shift",
    "augment.tta_average": "probabilities",
    "optim.lr": 0.05,
    "optim.lr_factor": 5.0,
    "optim.momentum": 0.8,
    "optim.nesterov": False,
    "optim.weight_decay": 0.001,
    "optim.schedule": "step",
    "optim.warmup_samples": 10,
    "optim.milestones": [0.25],
    "optim.gamma": 0.5,
    "optim.gamma_every": 0.25,
    "optim.clip_norm": 1.0,
    "optim.agc": 0.01,
    "optim.rates_from": "tuned",
    "norm.momentum": 0.2,
    "norm.eps": 1e-4,
    "norm.affine": False,
    "norm.scale": False,
    "norm.shift": False,
    "evaluation.precise_images": 100,
    "evaluation.precise_augment": True,
    "evaluation.target_acc": 42.5,
    "evaluation.suggest_lr": True,
    "evaluation.every_steps": 5,
    "evaluation.early_acc": 0.5,
    "evaluation.train": True,
}
SAME = {
    "device": "cuda",
    "stack": 3,
    "deterministic": True,
    "threads": 1,
    "kernels": "torch",
    "output": "elsewhere",
    "force": True,
    "reuse": "results/noise",
    "study": "demo",
    "checkpoint_seconds": 1,
    "evaluation.batch_size": 10,
    "data.root": "elsewhere",
    "optim.rates": "elsewhere.csv",
    "optim.rates_of": "none",
    "logging.progress": "none",
    "logging.tensorboard": False,
    "logging.histogram_epochs": 0,
    "logging.grad_norm_steps": 1,
}


@pytest.fixture
def base(compose):
    return resolve(compose("data=patterns", "device=cpu"))


def changed(config, key, value):
    config = OmegaConf.create(plain(config))
    OmegaConf.update(config, key, value)
    return config


def test_the_tables_above_name_every_key(base):
    elsewhere = {"optim.betas", "optim.eps", *OF_OTHER_MODELS}  # adamw's, other models'
    names = {key for key in KEYS if key.endswith(".name")}
    checked = set(KEYS) | {f"norm.{key}" for key in ("momentum", "eps", "affine")}
    assert checked - elsewhere - names == CHANGES.keys() | SAME.keys()
    assert SAME.keys() == {name for name, key in KEYS.items() if key.identity == "never"}


def test_a_run_is_named_after_what_it_is(compose):
    assert re.fullmatch(r"resnet8-batch-b128-s0-[0-9a-f]{16}", run_id(resolve(compose("device=cpu"))))
    short = resolve(compose("norm=group", "batch_size=2", "device=cpu"))
    assert re.fullmatch(r"resnet8-group-b2-s0-[0-9a-f]{16}", run_id(short))
    long = resolve(
        compose(
            "model=vgg", "norm=group", "norm.num_groups=4", "data=patterns", "optim=adamw", "optim.lr=0.002", "epochs=3"
        )
    )
    assert re.fullmatch(r"vgg-group-patterns-adamw-num_groups4-b128-s0-epochs3-lr0\.002-[0-9a-f]{16}", run_id(long)), (
        run_id(long)
    )
    many = resolve(compose("seed=7", "replicates=3", "augment=none"))
    assert re.fullmatch(r"resnet8-batch-none-b128-s7-r3-[0-9a-f]{16}", run_id(many))


def test_sizes_and_evaluation_come_last_in_a_name_that_is_cut(compose):
    sizes = ("data.train_size=1500", "data.val_size=1000", "data.test_size=5000", "evaluation.precise_images=0")
    more = ("evaluation.target_acc=25", "augment.mixup=0.4", "model.dropout=0.25", "optim.weight_decay=0.0001")
    name = run_id(resolve(compose(*sizes, *more, "data.input=three_sigma", "optim.lr=0.01", "device=cpu")))
    assert "-inputthree_sigma-" in name
    assert "-lr0.01-" in name
    assert "test_size5000" not in name


def test_what_averages_no_views_is_no_other_run(compose):
    plain, typed = (resolve(compose("device=cpu", *words)) for words in ([], ["augment.tta_average=probabilities"]))
    assert run_id(plain) == run_id(typed)


@pytest.mark.parametrize("key", CHANGES)
def test_what_can_change_the_result_changes_the_name(key, base):
    other = run_id(changed(base, key, CHANGES[key]))
    assert other.rpartition("-")[2] != run_id(base).rpartition("-")[2]
    # Settled by default, or without meaning while there is no noise: these show in the hash alone.
    if key in ("precision", "optim.warmup_samples", "data.noise_strength", "data.test_noise_strength"):
        return
    spelt = {"batch_size": "b64", "seed": "s1", "replicates": "r2", "optim.milestones": "milestones0.25"}
    spelt["augment.resize"] = "resize0_16_0.5_32"
    value = CHANGES[key]
    word = spelt.get(key, f"{key.rpartition('.')[2]}{f'{value:g}' if isinstance(value, float) else value}")
    assert word in other.split("-") or f"-{word}-" in other


def test_test_images_that_are_as_the_training_images_have_no_words(compose):
    def name(*typed):
        return run_id(resolve(compose("device=cpu", *typed)))

    noisy = name("data.noise=gaussian", "data.noise_strength=0.2", "data.bits=6", "data.channel_scale=2")
    assert "-noisegaussian-noise_strength0.2-bits6-channel_scale2-" in noisy
    assert "test_" not in noisy
    spelt = [f"data.test_{word}" for word in ("noise=gaussian", "noise_strength=0.2", "bits=6", "channel_scale=2")]
    typed = [word.replace("test_", "") for word in spelt]
    assert name(*typed, *spelt) == noisy
    clean = name(*typed, "data.test_noise=none")
    assert clean != noisy
    assert "-test_noisenone-" in clean
    assert "test_noise_strength" not in clean
    assert "-test_bits8-" in name(*typed, "data.test_bits=8")


def test_the_strength_of_no_noise_is_no_other_run(compose):
    def name(*typed):
        return run_id(resolve(compose("device=cpu", *typed)))

    assert name("data.noise_strength=0.3") == name("data.test_noise_strength=0.3") == name()
    noisy = ("data.noise=rician", "data.test_noise=none")
    assert name(*noisy, "data.test_noise_strength=0.3") == name(*noisy)
    assert name(*noisy, "data.noise_strength=0.3") != name(*noisy)


@pytest.mark.parametrize("key", SAME)
def test_what_cannot_change_the_result_does_not(key, base):
    assert run_id(changed(base, key, SAME[key])) == run_id(base)


def test_choices_of_the_groups_change_the_name(compose):
    typed = [[], ["model=resnet14"], ["norm=layer"], ["data=patterns"], ["augment=none"], ["optim=adamw"]]
    names = [run_id(resolve(compose(*words))) for words in typed]
    assert len(set(names)) == len(names)
    adamw, vgg = resolve(compose("optim=adamw")), resolve(compose("model=vgg"))
    assert run_id(changed(adamw, "optim.betas", [0.9, 0.99])) != run_id(adamw)
    assert run_id(changed(adamw, "optim.eps", 1e-7)) != run_id(adamw)
    assert run_id(changed(vgg, "model.depth", 13)) != run_id(vgg)


def test_processes_are_part_of_the_name(base):
    """Batch normalization sees each process's share alone."""
    assert run_id(base, 2) != run_id(base)
    assert "-p2-" in run_id(base, 2)
    assert identity(base, 2) == identity(base) | {"processes": 2}


def test_no_two_of_some_thousand_configurations_share_a_name(compose):
    norms = [resolve(compose(f"norm={name}", "device=cpu")) for name in ("batch", "group", "none", "layer")]
    names, count = set(), 0
    for config in norms:
        config = OmegaConf.create(plain(config))
        for size, seed, lr, epochs, decay, width in itertools.product(
            (2, 4, 8, 32, 128), range(5), (0.01, 0.0101, 0.1), (1, 10), (0.0, 5e-4), (16, 32)
        ):
            config.batch_size, config.seed, config.optim.lr = size, seed, lr
            config.epochs, config.optim.weight_decay, config.model.width = epochs, decay, width
            names.add(run_id(config))
            count += 1
    assert count == 2400
    assert len(names) == count


def test_a_number_is_the_same_however_it_is_typed(base, compose):
    ids = {run_id(resolve(compose("data=patterns", "device=cpu", word))) for word in ("augment.mixup=0", "seed=0")}
    assert ids == {run_id(base)}
    ids = [run_id(resolve(compose(f"optim.lr={word}"))) for word in ("1", "1.0", "1e0")]
    assert len(set(ids)) == 1


def test_numbers_that_print_alike_are_told_apart(base):
    close = [run_id(changed(base, "optim.lr", lr)) for lr in (0.05, 0.05 + 1e-9, 0.05 + 1e-15)]
    assert len(set(close)) == 3


def test_a_name_is_a_folder_name_whatever_the_values(base):
    config = base
    for key, value in CHANGES.items():
        config = changed(config, key, value)
    name = run_id(config)
    assert re.fullmatch(r"[A-Za-z0-9_.+-]+", name)
    assert len(name) <= 140
    assert name.startswith(
        "resnet8-batch-patterns-momentum0.2-eps0.0001-affineFalse-scaleFalse-shiftFalse-detach_statisticsTrue-"
    )


def test_the_parts_of_affine_name_a_run_where_there_is_one(compose):
    def name(*words):
        return run_id(resolve(compose("device=cpu", *words)))

    assert earlier(name("norm.affine=false")) == "resnet8-batch-affineFalse-b128-s0-c254e2"  # as before there were any
    assert name("norm.affine=false", "norm.scale=false") == name("norm.affine=false")
    assert name("norm.scale=true", "norm.shift=true") == name()
    assert name("norm.shift=false").startswith("resnet8-batch-shiftFalse-b128-s0-")


def test_a_name_is_the_same_in_every_process(compose):
    expected = run_id(resolve(compose("norm=group", "optim.milestones=[0.3,0.6]", "device=cpu")))
    code = """
from normbench.config.overrides import plan
from normbench.config.resolve import resolve
from normbench.config.identity import run_id
jobs, _, _ = plan(["optim.milestones=[0.3,0.6]", "device=cpu", "norm=group"], False)
print(run_id(resolve(jobs[0].config)))
"""
    environment = os.environ | {"PYTHONHASHSEED": "5", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == expected


# --- Names that must stand. -------------------------------------------------------------------------------------------

NEW = [name for name, key in KEYS.items() if key.identity == "unless_default"]


def test_a_new_key_at_its_default_leaves_every_name_as_it_was(base):
    """A config.yaml of before there was the key has the name that it had."""
    old = OmegaConf.create(plain(base))
    defaults = default_leaves(DEFAULTS)
    for name in (name for name in NEW if name not in OF_OTHER_MODELS):
        assert OmegaConf.select(old, name, throw_on_missing=True) == defaults[name]
        group, _, option = name.rpartition(".")
        del OmegaConf.select(old, group)[option]
    for group in ("task", "measure"):
        del old[group]
    assert run_id(old) == run_id(base)
    assert identity(old) == identity(base)
    assert not identity(base).keys() & set(NEW)


DEFAULTS = tuple(default_choices().items())


def test_another_measurement_is_told_before_the_data(base):
    other = changed(base, "measure", {"name": "gradients", "steps": 3})
    assert re.fullmatch(r"resnet8-batch-gradients-patterns-b128-s0-steps3-[0-9a-f]{16}", run_id(other))
    assert identity(other) == identity(base) | {"measure.name": "gradients", "measure.steps": 3}
    task = changed(other, "task.name", "layout")
    assert run_id(task).startswith("resnet8-batch-gradients-layout-patterns-b128-")


@pytest.mark.parametrize(("command", "names"), json.loads(Path(__file__).with_name("run_ids.json").read_text()).items())
def test_the_runs_that_there_are_keep_their_names(command, names):
    """Every study, method, model, optimizer and technique: names that were given to runs."""
    words = command.split()
    jobs, _, _ = plan(normalize([word for word in words if word != "-m"]), "-m" in words)
    ids = [run_id(resolve(job.config)) for job in jobs]
    assert [earlier(name) for name in ids] == names
    assert len(set(ids)) == len(set(names))


def test_no_two_of_many_rates_share_a_hash(base):
    leaves = identity(base)
    hashes = [digest(leaves | {"optim.lr": number / 1e6}) for number in range(1, 20_001)]
    assert len({whole[:EARLIER_DIGITS] for whole in hashes}) < len(hashes)  # as the earlier names did
    assert len({whole[:DIGITS] for whole in hashes}) == len(hashes)
