"""The curve of a learning-rate range test, loss over rate, and the rate that it suggests.

Numbers in, numbers and words out: `normbench.measures.range_test` measures the curves, `lr_figure` draws them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from normbench.errors import require_choice

RULES = ("steepest", "minimum/10")
DIVERGED = 4.0  # times the lowest smoothed loss, as fastai has it
ERRORS, SHARE = 3.5, 0.01  # a clear fall of the smoothed loss: so many standard errors, and this share


@dataclass(frozen=True)
class Suggestion:
    """What the curve of one replicate says. Rates are in the unit of optim.lr.

    lr: the rate to train with, or None where the curve does not tell. verdict: why, in words. diverged: the step,
    counted from 0, at which the curve ends for that reason, or None. smoothed: the moving average of the loss before
    that step, in nats; smoothed_rates: the same average of the rates, geometric.
    """

    lr: float | None
    verdict: str
    diverged: int | None
    smoothed: np.ndarray
    smoothed_rates: np.ndarray


@dataclass(frozen=True)
class LrTest:
    """What a range test measured.

    rates: (steps,), in the unit of optim.lr, which is at batch size 128. optimizer_rates: (steps,), what the optimizer
    got. losses: of each seed, in nats, one for each step done: of its batch, before the step was taken. They are fewer
    than the rates where every replicate of a stack had diverged. chance: the loss of guessing, in nats.
    """

    rates: list[float]
    optimizer_rates: list[float]
    losses: dict[int, list[float]]
    chance: float

    def suggestions(self, rule: str) -> dict[int, Suggestion]:
        """By seed. Raises InputError for an unknown rule."""
        return {seed: suggest(self.rates, losses, self.chance, rule) for seed, losses in self.losses.items()}


def suggest(rates: Sequence[float], losses: Sequence[float], chance: float, rule: str = "steepest") -> Suggestion:
    """The rate that one curve of a range test suggests, or why it suggests none.

    rates: (steps,), rising exponentially. losses: (n ≤ steps,), of the first n rates. chance: the loss of guessing;
    what lies above counts as that, since coming down to it from confident nonsense is no learning yet.

    The loss is smoothed by fastai's moving average with bias correction, over a twentieth of the range. An average lags
    behind; so each is set at the average of its own log rates. The curve ends where `divergence` finds it lost. Then:

    * `steepest`: the rate at the steepest descent over log rate before the minimum, by slopes over a twentieth of the
      range. `minimum/10`: a tenth of the rate at the minimum.
    * No rate where nothing was learned: the minimum is not below `chance` by 1 % of it and by 3.5 standard errors of
      the smoothed loss, which follow from the median difference between one loss and the next. A network that guesses
      throughout passes for one that learns about once in thirty times.
    * No rate where the rule's place lies at an end of the range: in its last twentieth if nothing diverged, or right
      after its first tenth, in which averages are still short. The curve may go on beyond.

    Raises InputError for an unknown rule.
    """
    require_choice("rule", rule, RULES)
    width, start = _widths(len(rates))
    lost = divergence(losses, len(rates))
    smoothed = _smooth(losses, width)[:lost]
    log_rates = _smooth(np.log(rates[: len(losses)]), width)[:lost]
    last = len(smoothed) - 1
    ending = f"nothing diverged up to {rates[last]:.2g}" if lost is None else f"diverged at {rates[lost]:.2g}"

    def say(lr, words):
        return Suggestion(lr, f"{words}; {ending}", lost, smoothed, np.exp(log_rates))

    if last < start + width:
        return say(None, "lost from the start: the range may begin too high")
    curve = np.minimum(smoothed, chance)
    lowest = start + int(curve[start:].argmin())
    noise = np.median(np.abs(np.diff(losses[: last + 1]))) / 0.954  # that median is 0.954 σ of normal losses
    error = noise / math.sqrt(2 * width + 1)  # of a moving average of independent losses
    if chance - curve[lowest] <= max(ERRORS * error, SHARE * chance):
        return say(None, f"nothing learned: the loss never fell clearly below that of guessing, {chance:.3g}")

    inside = last if lost is not None else last - width
    if lowest > inside:
        ending += ", where the loss was still falling: the range may end too low"
    if rule == "minimum/10":
        words, place, factor = "a tenth of the rate at the lowest loss", [lowest], 0.1
    else:
        firsts = np.arange(start, max(start, lowest - width) + 1)
        slopes = (curve[firsts + width] - curve[firsts]) / (log_rates[firsts + width] - log_rates[firsts])
        first = firsts[slopes.argmin()]
        words, place, factor = "steepest descent", [first, first + width], 1.0
    if place[-1] <= start + width:
        return say(None, "learned from the start: the range may begin too high")
    if place[-1] > inside:
        return say(None, "learned at the end")
    return say(factor * math.exp(np.mean(log_rates[place])), words)


def median_rate(suggestions: Iterable[Suggestion]) -> float | None:
    """The median, on a log scale, of the rates that were suggested; None if none was."""
    rates = [suggestion.lr for suggestion in suggestions if suggestion.lr is not None]
    return math.exp(np.median(np.log(rates))) if rates else None


def divergence(losses: Sequence[float], steps: int) -> int | None:
    """The first step, counted from 0, at which the smoothed loss is not finite or above four times its lowest so far.

    losses: of the first n ≤ steps steps. Before a tenth of all is over, only whether they are finite is told. In that
    tenth the lowest is not below the median of its losses: one batch of two images may have hardly any loss.
    """
    width, start = _widths(steps)
    smoothed = _smooth(losses, width)
    lost = ~np.isfinite(smoothed)
    if len(losses) >= start and not lost[:start].any():
        first = np.maximum(np.minimum.accumulate(smoothed[:start]), np.median(losses[:start]))
        lost |= smoothed > DIVERGED * np.minimum.accumulate([*first, *smoothed[start:]])
    return int(lost.argmax()) if lost.any() else None


def _widths(steps: int) -> tuple[int, int]:
    """In steps: the mean age of what is averaged, a twentieth of the range; and the start, a tenth or ten steps."""
    return max(1, steps // 20), max(10, steps // 10)


def _smooth(values: Sequence[float], width: int) -> np.ndarray:
    """The exponential moving average whose weights have a mean age of `width`, corrected for its start: (n,)."""
    beta, average, averages = width / (width + 1), 0.0, []
    for count, value in enumerate(values, 1):
        average = beta * average + (1 - beta) * float(value)
        averages.append(average / (1 - beta**count))
    return np.array(averages)
