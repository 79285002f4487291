"""How often each kind of claim errs, and its interval misses, where the truth lies at the claim's margin: simulated.

python scripts/error_rates.py                           → docs/error_rates.md (about ten minutes)
python scripts/error_rates.py --times 200 --to here.md  → fewer simulations, elsewhere
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from normbench.analysis.censored import Steps, p_speedup, speedup
from normbench.analysis.evidence import Cell
from normbench.analysis.kinds import (
    Difference,
    DifferenceOfDifferences,
    Equivalence,
    Interaction,
    Level,
    NonInferiority,
    Recovery,
    ShareOf,
    Spread,
    Trend,
)
from normbench.analysis.samples import Sample
from normbench.analysis.sequential import sequential_p
from normbench.analysis.statistics import Interval, Mean, probability_of_improvement
from normbench.cli import CommandLine, one_line, whole
from normbench.records.files import require_writable, write_whole
from normbench.words import markdown

SEEDS = (3, 5, 10)
HEAD = """# How often a verdict errs

`python scripts/error_rates.py` draws values at the very margin of a claim, where neither it nor its contrary is so,
{times} times for each number of seeds n. A verdict that holds or does not is an error there, and at most 5 % may be.
Coverage is how often the interval, of 95 %, holds the truth. The noise of a seed is normal, of one variance in every
cell, or of four times the standard deviation in the first one: *uneven*. Uncertainty of a share of 5 %: ± {error:.1f}
points.
"""


def sample(columns: dict, metric="test_acc", levels=None, scale="linear", paired=True) -> Sample:
    """columns: cell → values."""
    values = pd.DataFrame({key: pd.Series(column) for key, column in columns.items()})
    none = pd.Series(False, values.index)
    cells = {key: Cell(str(key), metric, values[key], ~none, none, none, none) for key in columns}
    return Sample(np.log(values) if scale == "log" else values, cells, levels or {}, metric, scale, paired)


class Noise:
    """Values of n seeds about a truth: each cell's own noise, and what the seed gives to all of them."""

    def __init__(self, generator: np.random.Generator, n: int, uneven: bool):
        self.generator, self.n, self.uneven = generator, n, uneven
        self.seed, self.drawn = generator.normal(0, 1, n), 0

    def __call__(self, truth: float) -> np.ndarray:
        spread = 4 if self.uneven and not self.drawn else 1
        self.drawn += 1
        return truth + self.seed + self.generator.normal(0, spread, self.n)


def _linear(kind, truths: dict, truth: float, **options):
    """Of a kind that takes test accuracies: one simulation gives its evidence."""

    def once(noise):
        columns = {key: noise(value) for key, value in truths.items()}
        if options.get("scale") == "log":
            columns = {key: np.exp(column) for key, column in columns.items()}
        found = kind.evidence(sample(columns, **options))
        return min(found.p_for, found.p_against), found.interval, truth

    return once


def _levels(kind, truths: list[float], truth: float | None):
    """Of a kind over levels 2, 4, 8, …"""

    def once(noise):
        columns = {2 ** (1 + at): noise(value) for at, value in enumerate(truths)}
        found = kind.evidence(sample(columns, levels={"batch_size": list(columns)}))
        return min(found.p_for, found.p_against), found.interval, truth

    return once


def _interaction(noise):
    kind = Interaction({}, ["data.noise", "data.input"])
    columns = {(row, column): noise(row + 2.0 * column) for row in range(3) for column in range(2)}
    found = kind.evidence(sample(columns, levels={"data.noise": [0, 1, 2], "data.input": [0, 1]}))
    return found.p_for, found.interval, None


def _share(noise):
    values = (noise.generator.random(noise.n) < 0.3).astype(float)
    found = ShareOf({}, "greater", 30.0).evidence(sample({"a": values}, metric="diverged"))
    return min(found.p_for, found.p_against), found.interval, 30.0


def _speedup(noise):
    """Validated every 20 of 400 steps; a sixth to a third of the slower arm never arrive."""

    def arm(median, spread):
        times = noise.generator.lognormal(math.log(median), spread, noise.n)
        high = np.ceil(times / 20) * 20
        return Steps(np.where(high <= 400, high - 20, 400), np.where(high <= 400, high, math.inf), 400)

    a, b = arm(150, 0.8 if noise.uneven else 0.4), arm(300, 0.4)
    return min(p_speedup(a, b, 2.0), p_speedup(b, a, 0.5)), speedup(a, b), 2.0


def _looks(noise):
    """Judged at half of the seeds, and at all of them."""
    contrast = noise(0.0) - noise(0.0)
    looks = [Mean.of(contrast[: max(2, noise.n // 2)]), Mean.of(contrast)]
    times = (looks[0].n / noise.n, 1.0)
    p = min(sequential_p([getattr(look, side)() for look in looks], times) for side in ("above", "below"))
    return p, looks[-1].interval(), 0.0


def _improvement(noise):
    """P(A > B) of two equal arms has an interval alone."""
    a, b = (noise.generator.normal(0, 1, noise.n) for _ in range(2))
    return 1.0, probability_of_improvement(a, b), 0.5


SIMULATIONS: dict[str, Callable] = {
    "level": _linear(Level({}, "greater", 52.0), {"a": 52}, 52),
    "difference": _linear(Difference({}, {}, "greater", 1.0), {"a": 51, "b": 50}, 1),
    "difference, scale: log": _linear(
        Difference({}, {}, "greater", math.log(10)), {"a": math.log(10), "b": 0}, math.log(10), scale="log"
    ),
    "difference, pairing: none": _linear(Difference({}, {}, "greater", 1.0), {"a": 51, "b": 50}, 1, paired=False),
    "difference, two looks": _looks,
    "equivalence": _linear(Equivalence({}, {}, 1.0), {"a": 51, "b": 50}, 1),
    "non_inferiority": _linear(NonInferiority({}, {}, 1.0), {"a": 49, "b": 50}, -1),
    "difference_of_differences": _linear(
        DifferenceOfDifferences({}, {}, {}, {}, "greater", 1.0), {"a": 52, "b": 50, "c": 51, "d": 50}, 1
    ),
    "recovery": _linear(Recovery({}, {}, {}, 0.5), {"a": 55, "b": 50, "reference": 60}, 0),
    "spread, six levels, half at either end": _levels(Spread({}, "batch_size", 2.0), [50, 50, 50, 52, 52, 52], 2),
    "spread, six levels, one at either end": _levels(Spread({}, "batch_size", 2.0), [50, 51, 51, 51, 51, 52], 2),
    "trend, five equal levels": _levels(Trend({}, "batch_size", "greater", 0.0), [50] * 5, 0),
    "trend with a margin": _levels(Trend({}, "batch_size", "greater", 1.0), [50, 51, 52, 53, 54], 1),
    "interaction": _interaction,
    "share of 30 %": _share,
    "speedup of 2": _speedup,
    "P(A > B) of equal arms": _improvement,
}


def rates(once: Callable, n: int, uneven: bool, times: int) -> tuple[float, float]:
    """Shares, in percent, of errors (NaN where nothing is tested) and of intervals that hold the truth."""
    generator = np.random.default_rng([n, uneven])
    errors, covered = [], []
    for _ in range(times):
        p, interval, truth = once(Noise(generator, n, uneven))
        errors.append(2 * p <= 0.05)
        if truth is not None:
            covered.append(_covers(interval, truth))
    return 100 * float(np.mean(errors)), 100 * float(np.mean(covered)) if covered else math.nan


def _covers(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def table(times: int) -> str:
    """A row a kind and a noise."""
    rows = []
    for name, once in SIMULATIONS.items():
        for uneven in (False, True):
            found = [rates(once, n, uneven, times) for n in SEEDS]
            cells = [f"{error:.1f}" for error, _ in found] + ["–" if c != c else f"{c:.0f}" for _, c in found]
            rows.append([name, "uneven" if uneven else "even", *cells])
            print(*rows[-1], sep="  ")
    head = ["claim", "noise", *(f"errors, n = {n}" for n in SEEDS), *(f"coverage, n = {n}" for n in SEEDS)]
    return markdown(head, "ll" + "r" * 6, rows)


@one_line
def main() -> None:
    parser = CommandLine(__doc__)
    parser.add_argument("--times", type=whole(1, 10**6), default=2000, help="simulations of each (2000)")
    parser.add_argument("--to", type=Path, default=Path("docs/error_rates.md"), help="file for the table")
    arguments = parser.parse_args()
    require_writable(arguments.to.parent)
    head = HEAD.format(times=arguments.times, error=100 * math.sqrt(0.05 * 0.95 / arguments.times))
    write_whole(arguments.to, f"{head}\n{table(arguments.times)}\n{REMARKS}")
    print(arguments.to)


REMARKS = """
* `spread` against its claim is an F test with Greenhouse–Geisser's correction, for it the bands of all pairs at once:
  with few seeds a spread is seldom shown to be small. Its interval is the band of the pair furthest apart, or last
  within.
* `trend` without a margin is a test of order, whatever the shape; its interval is that of the last level less the
  first.
* `speedup` is an exact test: three seeds a side have 20 orders, too few for 5 %. Its intervals are wide because of what
  a validation every so many steps cannot see.
* `interaction` has no interval of its own: that of the largest difference is not corrected for the choice.
"""


if __name__ == "__main__":
    main()
