"""The range test: curves with a known answer, its steps against plain PyTorch, and what it leaves alone."""

import math
import random
import signal
from dataclasses import fields
from functools import partial

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.nn import functional as F
from training_runs import SMALL, outcomes

from normbench.cli import normalize, plan
from normbench.config import make_model, resolve
from normbench.data import load_dataset
from normbench.data.inputs import Inputs
from normbench.errors import InputError
from normbench.random import derive
from normbench.training import loop
from normbench.training import run as run_module
from normbench.training.augment import Epoch, with_border
from normbench.training.find_lr import HIGH, LOW, STEPS, LrTest, divergence, find_lr, median_rate, suggest
from normbench.training.signals import Stopped

RATES = np.geomspace(LOW, HIGH, STEPS)
CHANCE = math.log(10)

# --- Reading curves. --------------------------------------------------------------------------------------------------


def quadratic(curvature, rates=RATES, noise=0.02, floor=0.1):
    """The expected losses of SGD on ½·λ·w² with noisy gradients, exactly: E w² ← (1−rλ)²·E w² + r²σ², from 1 + floor.

    It converges below 2/λ and diverges above. Little noise: σ² is `noise` · λ.
    """
    square, losses = 2 / curvature, []
    with np.errstate(over="ignore"):
        for rate in rates:
            losses.append(floor + curvature * square / 2)
            square = (1 - rate * curvature) ** 2 * square + rate**2 * noise * curvature
    return losses


@pytest.mark.parametrize("curvature", [1, 3, 300, 3e4])
def test_a_quadratic_diverges_above_two_over_its_curvature(curvature):
    """The nearer, the finer the range: the loss takes its steps to grow."""
    for steps, nearest in ((200, 4), (1000, 2.5)):
        rates = np.geomspace(LOW, HIGH, steps)
        losses = quadratic(curvature, rates)
        said = suggest(rates, losses, chance=losses[0])
        assert 2 < rates[said.diverged] * curvature < nearest
        assert len(said.smoothed) == len(said.smoothed_rates) == said.diverged
        assert said.verdict.endswith(f"diverged at {rates[said.diverged]:.2g}")


@pytest.mark.parametrize("curvature", [1, 3, 300, 3e4])
def test_a_quadratics_suggestions(curvature):
    """While rλ is small the loss is exp(−2λr/ln q), steepest over log r where 2λr = ln q; q is from rate to rate."""
    losses = quadratic(curvature)
    steepest, tenth = (suggest(RATES, losses, losses[0], rule) for rule in ("steepest", "minimum/10"))
    place = math.log(RATES[1] / RATES[0]) / (2 * curvature)
    # The average over a twentieth of eight decades blurs by a factor of 2.5: as much at every curvature.
    assert steepest.lr / place == pytest.approx(0.685, rel=0.03)
    assert steepest.verdict.startswith("steepest descent; diverged")
    lowest = RATES[int(np.argmin(losses))]
    assert lowest <= 10 * tenth.lr < 2 / curvature
    assert 10 * tenth.lr / lowest < 2
    assert tenth.verdict.startswith("a tenth of the rate at the lowest loss; diverged")


def test_the_average_is_that_of_explicit_weights_and_stands_at_the_average_of_its_log_rates():
    losses = quadratic(3)
    said = suggest(RATES, losses, losses[0])
    for step in (0, 1, 7, 60, said.diverged - 1):
        weights = (10 / 11) ** np.arange(step, -1, -1.0)  # a mean age of ten steps: a twentieth of 200
        assert said.smoothed[step] == pytest.approx(np.average(losses[: step + 1], weights=weights), rel=1e-9)
        mean = np.average(np.log(RATES[: step + 1]), weights=weights)
        assert said.smoothed_rates[step] == pytest.approx(math.exp(mean), rel=1e-9)
    line = suggest(RATES, 2.0 - 0.05 * np.log(RATES / LOW), chance=2.0)  # an average without lag leaves it a line
    assert line.smoothed == pytest.approx(2.0 - 0.05 * np.log(line.smoothed_rates / LOW), rel=1e-12)


@pytest.mark.parametrize("rule", ["steepest", "minimum/10"])
@pytest.mark.parametrize("loss", [0.0, CHANCE, CHANCE + 1e-9, 100.0])
def test_nothing_is_learned_on_a_flat_curve(rule, loss):
    said = suggest(RATES, [loss] * STEPS, max(loss, CHANCE) if loss else 0.0, rule)
    assert (said.lr, said.diverged) == (None, None)
    assert said.verdict.startswith("nothing learned: the loss never fell clearly below that of guessing")
    assert said.verdict.endswith("nothing diverged up to 10")


def test_coming_down_to_the_loss_of_guessing_is_no_learning():
    losses = quadratic(300)[:150]
    above = [CHANCE + 50 * loss for loss in losses] + [CHANCE] * 50
    assert suggest(RATES, above, CHANCE).verdict.startswith("nothing learned")
    assert suggest(RATES, above, above[0]).lr is not None


def test_a_loss_that_falls_to_the_end_diverges_nowhere():
    falling = quadratic(0.1, noise=0)
    steepest, tenth = (suggest(RATES, falling, falling[0], rule) for rule in ("steepest", "minimum/10"))
    words = "nothing diverged up to 10, where the loss was still falling: the range may end too low"
    assert steepest.verdict == f"steepest descent; {words}"
    assert steepest.lr == pytest.approx(0.685 * 0.0926 / 0.2, rel=0.05)
    assert (tenth.lr, tenth.verdict) == (None, f"learned at the end; {words}")
    # Here the steepest descent lies beyond the range as well.
    beyond = quadratic(0.003)
    assert suggest(RATES, beyond, beyond[0]).lr is None


def test_a_range_that_begins_too_high():
    for curvature in (1e7, 1e9):  # it learns at the first rates, or diverges there
        losses = quadratic(curvature)
        for rule in ("steepest", "minimum/10"):
            said = suggest(RATES, losses, losses[0], rule)
            assert said.lr is None
            assert "the range may begin too high" in said.verdict


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("step", [0, 5, 25, 150, 199])
def test_a_curve_ends_where_it_is_not_finite(bad, step):
    losses = quadratic(1, noise=0)  # lowest at its end
    losses[step:] = [bad] * (STEPS - step)
    said = suggest(RATES, losses, losses[0] if step else 1.0)
    assert said.diverged == step
    assert np.isfinite(said.smoothed).all()
    if step == 199:
        assert said.lr == suggest(RATES, quadratic(1, noise=0), 1.1).lr
        assert said.verdict == "steepest descent; diverged at 10"
    if step <= 25:
        assert (said.lr, said.verdict[:14]) == (None, "lost from the ")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("step", [0, 5])
def test_a_loss_that_is_not_finite_is_divergence_before_the_first_tenth_is_over(bad, step):
    losses = [2.3] * step + [bad]
    assert divergence(losses[:-1], STEPS) is None
    assert divergence(losses, STEPS) == divergence([*losses, 2.3], STEPS) == step
    said = suggest(RATES, losses, CHANCE)
    assert (said.lr, said.diverged, len(said.smoothed)) == (None, step, step)
    assert said.verdict == f"lost from the start: the range may begin too high; diverged at {RATES[step]:.2g}"


@pytest.mark.parametrize("high", [8.0, 20.0])
def test_divergence_by_hand_and_step_by_step(high):
    """Four times the lowest average, about 2.0, is reached by one of the two."""
    losses = [2.3] * 100 + [2.0] * 50 + [high] * 50
    averages = [np.average(losses[: n + 1], weights=(10 / 11) ** np.arange(n, -1, -1.0)) for n in range(STEPS)]
    lost = next((n for n in range(STEPS) if averages[n] > 4 * min(averages[: n + 1])), None)
    assert (lost is None) == (high == 8.0)
    # Seen from within the test: not before that step, and at it from then on.
    for done in range(1, STEPS + 1):
        assert divergence(losses[:done], STEPS) == (lost if lost is not None and done > lost else None)


def test_one_batch_without_loss_is_no_yardstick():
    generator = np.random.default_rng(0)
    losses = [0.01, *generator.gamma(4, CHANCE / 4, STEPS - 1)]
    assert divergence(losses, STEPS) is None
    assert divergence([130.0, *np.geomspace(120, 2.4, 18), *[2.3] * 181], STEPS) is None  # nor is a fast start


def test_pure_noise_is_seldom_taken_for_learning():
    generator = np.random.default_rng(0)
    for noise in (generator.normal(0, 0.3, (500, STEPS)), generator.gamma(4, CHANCE / 4, (500, STEPS)) - CHANCE):
        taken = [suggest(RATES, CHANCE + row, CHANCE).lr is not None for row in noise]
        assert np.mean(taken) < 0.06


def test_a_suggestion_stands_in_noise():
    clean = quadratic(3)
    found = suggest(RATES, clean, clean[0]).lr
    generator = np.random.default_rng(0)
    noisy = [suggest(RATES, clean + generator.normal(0, 0.1, STEPS), clean[0]).lr for _ in range(200)]
    assert None not in noisy
    assert np.quantile(noisy, [0.05, 0.5, 0.95]) == pytest.approx(np.array([found] * 3), rel=0.6)
    assert np.median(noisy) == pytest.approx(found, rel=0.15)


def test_an_unknown_rule():
    with pytest.raises(InputError, match=r"rule=steep: did you mean steepest\? choices: minimum/10, steepest"):
        suggest(RATES, quadratic(3), 1.1, "steep")


def test_the_median_of_what_was_suggested():
    test = LrTest(list(RATES), list(RATES), {s: quadratic(c) for s, c in enumerate((1, 4, 100))}, chance=1.1)
    said = test.suggestions("steepest")
    assert list(said) == [0, 1, 2]
    assert median_rate(said.values()) == pytest.approx(said[1].lr)
    assert median_rate([said[0], said[1]]) == pytest.approx(math.sqrt(said[0].lr * said[1].lr))
    none = suggest(RATES, [1.1] * STEPS, 1.1)
    assert median_rate([none, said[2]]) == pytest.approx(said[2].lr)
    assert median_rate([none]) is None


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
    make = loop.make_model

    def poisoned(config, seeds):
        model = make(config, seeds)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.chunk(3)[1].fill_(math.nan)
        return model

    monkeypatch.setattr(loop, "make_model", poisoned)
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
    looked, evaluate = [], loop.evaluate

    def looking(model, images, *rest, **more):
        looked.append(len(images))
        return evaluate(model, images, *rest, **more)

    monkeypatch.setattr(loop, "evaluate", looking)
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
    text = OmegaConf.to_yaml(config)
    tensors = {f.name: getattr(data, f.name).clone() for f in fields(data) if torch.is_tensor(getattr(data, f.name))}
    model = make_model(config, [derive(0, "init"), derive(1, "init")])
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    first = find_lr(config, data, [0, 1], "cpu", steps=50)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])
    assert OmegaConf.to_yaml(config) == text
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
        find_lr(configured(), data, [0], "cpu", steps=50, watch=watch)
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
    monkeypatch.setattr(run_module, "find_lr", quick)
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
    monkeypatch.setattr(run_module, "find_lr", lambda *_, **__: flat)
    result, _, folder = run(*TWO, "evaluation.suggest_lr=true")
    assert [entry["suggested_lr"] for entry in result["replicates"]] == [None] * 2
    assert '"suggested_lr": null' in (folder / "result.json").read_text()


@pytest.mark.parametrize("stack", [1, 2])
def test_stopped_within_the_range_test_of_a_stack_and_resumed(run, monkeypatch, tmp_path, stack):
    """By a signal; the run goes on to the same result, and only what was broken off is done again."""
    found, begun, sessions, watch = [], [], [], run_module.Session.watch

    def watching(session, state):
        sessions.append(session)
        watch(session, state)

    def seeking(config, data, seeds, device, watch):
        begun.append(list(seeds))
        calls = []

        def asked():
            calls.append(1)
            if stops and len(begun) == stack and len(calls) == 30:
                sessions[-1].request.number = signal.SIGTERM
            watch()

        found.append(find_lr(config, data, seeds, device, steps=60, watch=asked))
        return found[-1]

    monkeypatch.setattr(run_module.Session, "watch", watching)
    monkeypatch.setattr(run_module, "find_lr", seeking)
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
