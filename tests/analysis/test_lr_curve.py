"""Range tests with a known answer, and what a rate is read off."""

import math

import numpy as np
import pytest

from normbench.analysis.lr_curve import LrTest, divergence, median_rate, suggest
from normbench.errors import InputError
from normbench.measures.range_test import HIGH, LOW, STEPS

RATES = np.geomspace(LOW, HIGH, STEPS)
CHANCE = math.log(10)


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
