"""The range test: its steps against plain PyTorch, and what it leaves alone."""

import math
import random
import signal
from dataclasses import fields
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from training_runs import SMALL, outcomes

from normbench.analysis.lr_curve import LrTest, divergence
from normbench.config.overrides import normalize, plan
from normbench.config.resolve import resolve
from normbench.config.values import to_yaml
from normbench.data import load_dataset
from normbench.data.epoch import Epoch, with_border
from normbench.data.inputs import Inputs
from normbench.errors import InputError
from normbench.measures import train as train_module
from normbench.measures.range_test import HIGH, LOW, STEPS, find_lr
from normbench.random import derive
from normbench.signals import Stopped
from normbench.tasks import classify
from normbench.tasks.build import make_model
from normbench.training.session import Session

RATES = np.geomspace(LOW, HIGH, STEPS)
CHANCE = math.log(10)

# --- Measuring them. --------------------------------------------------------------------------------------------------


def configured(*overrides):
    jobs, _, _ = plan(normalize([*SMALL, *overrides]), False)
    return resolve(jobs[0].config)


@pytest.fixture(scope="module")
def data():
    return load_dataset("patterns", root=None, train_size=96, val_size=100, test_size=100)


def losses_of(data, *overrides, seeds=(0,), **how):
    return find_lr(configured(*overrides), data, list(seeds), "cpu", **{"steps": 50} | how).losses


def test_each_step_is_that_of_a_plain_loop_at_its_rate(data):
    """Momentum SGD by torch over the same batches, past the end of an epoch of 12 steps, in float64."""
    options = ["norm=group", "precision=float64", "optim.weight_decay=0", "optim.warmup_samples=48", "epochs=1"]
    config = configured(*options)
    test = find_lr(config, data, [3], "cpu", low=1e-4, high=1.0, steps=50)
    assert test.rates == pytest.approx(np.geomspace(1e-4, 1, 50))
    assert test.optimizer_rates == pytest.approx(np.geomspace(1e-4, 1, 50) * 8 / 128)
    assert test.chance == pytest.approx(CHANCE)
    model = make_model(config, [derive(3, "init")]).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1, momentum=0.9, nesterov=True)
    inputs = Inputs("zscore", data.mean, data.std, "cpu", torch.float64)
    border = with_border(data.train_images, config.augment.crop)
    for step, rate in enumerate(test.optimizer_rates):
        if step % 12 == 0:
            batches = Epoch(border, data.train_labels, [3], step // 12, config.augment, 8)
        images, labels, _ = batches.batch(step % 12)
        loss = F.cross_entropy(model(inputs(images))[0], labels[0])
        assert test.losses[3][step] == pytest.approx(loss.item(), rel=1e-7)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_the_unit_of_the_rates_is_that_of_optim_lr(data):
    for scaling, factor in (("linear", 1 / 16), ("sqrt", 1 / 4), ("none", 1)):
        config = configured(f"lr_scaling={scaling}")
        test = find_lr(config, data, [0], "cpu", low=1e-2, high=1, steps=50)
        assert np.divide(test.optimizer_rates, test.rates) == pytest.approx(factor)


@pytest.mark.parametrize("norm", ["batch", "weight_norm"])
def test_a_replicate_has_the_curve_that_it_has_alone(data, norm):
    options = [f"norm={norm}", "precision=float64", "augment.mixup=0.3", "model.dropout=0.1", "replicates=3"]
    stacked = losses_of(data, *options, "stack=3", seeds=[4, 5, 6], high=0.1)
    parts = losses_of(data, *options, "stack=2", seeds=[4, 5, 6], high=0.1)
    assert list(stacked) == list(parts) == [4, 5, 6]
    for seed in (4, 6):
        alone = losses_of(data, *options, "stack=1", seeds=[seed], high=0.1)[seed]
        assert stacked[seed] == pytest.approx(alone, rel=1e-6)
        assert parts[seed] == pytest.approx(alone, rel=1e-6)


def test_one_that_diverges_stops_no_other(data, monkeypatch):
    options = ["norm=batch", "replicates=3", "stack=3"]
    clean = losses_of(data, *options, seeds=[0, 1, 2])
    make = classify.make_model

    def poisoned(config, seeds):
        model = make(config, seeds)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.chunk(3)[1].fill_(math.nan)
        return model

    monkeypatch.setattr(classify, "make_model", poisoned)
    config = configured(*options)
    test = find_lr(config, data, [0, 1, 2], "cpu", steps=50)
    assert (test.losses[0], test.losses[2]) == (clean[0], clean[2])
    assert test.suggestions("steepest")[1].diverged == 0
    assert len(test.losses[1]) == 50


def test_it_ends_once_all_have_diverged(data):
    losses = losses_of(data, "norm=none", "replicates=2", "stack=2", seeds=[0, 1], low=1e-3, high=1e9, steps=100)
    assert len(losses[0]) == len(losses[1]) < 80
    lost = [divergence(curve, 100) for curve in losses.values()]
    assert max(lost) == len(losses[0]) - 1


def test_lost_within_an_epoch_no_image_but_training_ones_is_looked_at(data, monkeypatch):
    """At the first rates, in epochs of three steps, and with it ends the test."""
    looked, evaluate = [], classify.evaluate

    def looking(model, images, *rest, **more):
        looked.append(len(images))
        return evaluate(model, images, *rest, **more)

    monkeypatch.setattr(classify, "evaluate", looking)
    test = find_lr(configured("norm=none", "data.input=raw", "batch_size=32"), data, [0], "cpu", low=1e20, high=1e30)
    assert len(test.losses[0]) < 10
    assert set(looked) <= {0}
    assert "lost from the start" in test.suggestions("steepest")[0].verdict


def test_progressive_resizing_stands_at_its_last_size(data):
    resized = losses_of(data, "augment.resize=[[0,16],[0.5,32]]")
    assert resized == losses_of(data)
    assert losses_of(data, "augment.resize=[[0,32],[0.5,16]]") != resized


def test_nothing_else_is_touched(data):
    config = configured("replicates=2", "stack=2", "epochs=1")
    text = to_yaml(config)
    tensors = {f.name: getattr(data, f.name).clone() for f in fields(data) if torch.is_tensor(getattr(data, f.name))}
    model = make_model(config, [derive(0, "init"), derive(1, "init")])
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    first = find_lr(config, data, [0, 1], "cpu", steps=50)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])
    assert to_yaml(config) == text
    for name, tensor in tensors.items():
        assert torch.equal(getattr(data, name), tensor), name
    again = make_model(config, [derive(0, "init"), derive(1, "init")]).state_dict()
    for key, value in weights.items():
        assert torch.equal(model.state_dict()[key], value), key
        assert torch.equal(again[key], value), key
    assert find_lr(config, data, [0, 1], "cpu", steps=50) == first


def test_the_watch_may_break_it_off(data):
    calls = []

    def watch():
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_lr(configured(), data, [0], "cpu", steps=50, poll=watch)
    assert len(calls) == 20


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"low": 0}, "low=0: must be a number > 0"),
        ({"low": math.nan}, "low=nan: must be a number > 0"),
        ({"low": 10.0}, "high=10.0: must be a number above low=10.0"),
        ({"high": math.inf}, "high=inf: must be a number above"),
        ({"steps": 49}, "steps=49: must be an integer ≥ 50"),
    ],
)
def test_ranges_that_cannot_be(data, how, words):
    with pytest.raises(InputError, match=words):
        find_lr(configured(), data, [0], "cpu", **how)


# --- As part of a run. ------------------------------------------------------------------------------------------------

TWO = ("norm=batch", "replicates=2", "stack=1")


def test_a_run_notes_the_suggestion_of_each_replicate(run, data, monkeypatch, tmp_path):
    quick = partial(find_lr, low=1e-4, steps=100)
    monkeypatch.setattr(train_module, "find_lr", quick)
    # Rates not scaled down to the batch: their range then reaches far beyond the steepest descent.
    options = ("norm=batch", "replicates=2", "stack=2", "batch_size=32", "lr_scaling=none")
    result, rows, _ = run(*options, "evaluation.suggest_lr=true")
    plain, plain_rows, _ = run(*options, output=tmp_path / "plain")
    assert rows == plain_rows
    without = [{key: entry[key] for key in entry if key != "suggested_lr"} for entry in outcomes(result)]
    assert without == outcomes(plain)
    said = quick(configured(*options), data, [0, 1], "cpu").suggestions("steepest")
    assert [entry["suggested_lr"] for entry in result["replicates"]] == [said[seed].lr for seed in (0, 1)]
    assert all(1e-4 < entry["suggested_lr"] < HIGH for entry in result["replicates"])


def test_what_suggests_nothing_is_null(run, monkeypatch):
    flat = LrTest(list(RATES), list(RATES), {seed: [CHANCE] * STEPS for seed in range(2)}, CHANCE)
    monkeypatch.setattr(train_module, "find_lr", lambda *_, **__: flat)
    result, _, folder = run(*TWO, "evaluation.suggest_lr=true")
    assert [entry["suggested_lr"] for entry in result["replicates"]] == [None] * 2
    assert '"suggested_lr": null' in (folder / "result.json").read_text()


@pytest.mark.parametrize("stack", [1, 2])
def test_stopped_within_the_range_test_of_a_stack_and_resumed(run, monkeypatch, tmp_path, stack):
    """By a signal; the run goes on to the same result, and only what was broken off is done again."""
    found, begun, sessions, session_poll = [], [], [], Session.poll

    def watching(session, state):
        sessions.append(session)
        session_poll(session, state)

    def seeking(config, data, seeds, device, poll):
        begun.append(list(seeds))
        calls = []

        def asked():
            calls.append(1)
            if stops and len(begun) == stack and len(calls) == 30:
                sessions[-1].request.number = signal.SIGTERM
            poll()

        found.append(find_lr(config, data, seeds, device, steps=60, poll=asked))
        return found[-1]

    monkeypatch.setattr(Session, "poll", watching)
    monkeypatch.setattr(train_module, "find_lr", seeking)
    stops = False
    whole, rows, _ = run(*TWO, "evaluation.suggest_lr=true")
    tests = found[:]
    found.clear()
    begun.clear()
    stops = True
    with pytest.raises(Stopped) as stopped:
        run(*TWO, "evaluation.suggest_lr=true", output=tmp_path / "resumed")
    assert stopped.value.exit_status == 143
    assert begun == [[0], [1]][:stack]
    resumed, resumed_rows, _ = run(*TWO, "evaluation.suggest_lr=true", output=tmp_path / "resumed")
    assert begun == ([[0], [0], [1]] if stack == 1 else [[0], [1], [1]])
    assert "repeated" not in resumed
    assert (resumed_rows, outcomes(resumed)) == (rows, outcomes(whole))
    assert found == tests


# --- As a measurement of its own. -------------------------------------------------------------------------------------


def test_its_runs_are_collected_told_and_drawn_like_any_others(run, tmp_path, run_script, capsys):
    typed = ("measure=range_test", "measure.steps=60", "measure.low=0.001", "replicates=2", "batch_size=32")
    result, _, folder = run(*typed, "norm=batch", "lr_scaling=none")
    said = find_lr(
        configured(*typed, "norm=batch", "lr_scaling=none"),
        load_dataset("patterns", root=None, val_size=100, train_size=96, test_size=100),
        [0, 1],
        "cpu",
        low=0.001,
        steps=60,
    ).suggestions("steepest")
    assert [entry["suggested_lr"] for entry in result["replicates"]] == [said[seed].lr for seed in (0, 1)]
    assert (
        (folder / "metrics.csv")
        .read_text()
        .startswith("seed,step,lr,optimizer_lr,loss,smoothed,smoothed_lr,diverged\n")
    )
    for script in ("collect", "table"):
        run_script(script, folder.parent, "--to", tmp_path / "made", cwd=tmp_path)
    summary = (tmp_path / "made" / "summary.md").read_text()
    assert "| suggested rate |" in summary
    assert "regret" not in summary
    if any(entry["lr_found"] for entry in result["replicates"]):
        run_script("plot", folder.parent, "--to", tmp_path / "made", cwd=tmp_path)
        assert (tmp_path / "made" / "figure.png").is_file()


def test_runs_without_any_suggestion_are_told_in_one_line(run, tmp_path, run_script, capsys):
    _, _, folder = run("measure=range_test", "measure.steps=60", "measure.low=1e-9", "measure.high=1e-8", "norm=group")
    run_script("collect", folder.parent, "--to", tmp_path / "made", cwd=tmp_path)
    with pytest.raises(SystemExit):
        run_script("plot", folder.parent, "--to", tmp_path / "made", cwd=tmp_path)
    assert "no replicate has an outcome with a value" in capsys.readouterr().err
