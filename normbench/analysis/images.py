"""How sure a difference of accuracies is where other seeds and other test images might have been drawn as well."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from normbench.analysis.statistics import FEWEST_RESAMPLED, Interval

DRAWS = 1000


def images_interval(a: np.ndarray, b: np.ndarray, generator: np.random.Generator, draws: int = DRAWS) -> Interval:
    """The difference of two arms' mean accuracies, a − b in points, with a 95 % interval over seeds and test images.

    a, b: (n seeds, images) bool, whether an image was told rightly, paired by seed, of the same images. The ends are
    NaN below ten seeds. Seeds and images are drawn anew at once (the pigeonhole bootstrap: Owen 2007,
    doi 10.1214/07-AOAS122, which errs on the side of a larger variance); the interval is a t interval, of one degree of
    freedom less than seeds, with the standard deviation of the draws, by √(n / (n − 1)) larger as that of few seeds has
    to be.
    """
    a, b = np.asarray(a, dtype=np.int8), np.asarray(b, dtype=np.int8)
    if a.shape != b.shape or a.ndim != 2 or not a.size:
        raise ValueError(f"needs two arrays of the same seeds and images; got {a.shape} and {b.shape}")
    n = len(a)
    estimate = 100 * float((a - b).mean())
    if n < FEWEST_RESAMPLED:
        return Interval(estimate, math.nan, math.nan, n)
    spread = resampled(a - b, generator, draws).std(ddof=1) * math.sqrt(n / (n - 1))
    half = 100 * float(stats.t.ppf(0.975, n - 1) * spread)
    return Interval(estimate, estimate - half, estimate + half, n)


def components(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """The parts of the standard error of a difference of mean accuracies a − b, in points: of seeds, images, and both.

    a, b: (n seeds, N images) bool, n, N ≥ 2, as for `images_interval`. Seeds and images are two crossed random effects
    on the difference at an image; their variances are those of the analysis of variance (Henderson 1953,
    doi 10.2307/3001853; 0 for one below it), σ²/n of the seeds, σ²/N of the images, σ²/(n N) of what is left.
    """
    x = 100 * (np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64))
    n, columns = x.shape
    rows, means = x.mean(axis=1, keepdims=True), x.mean(axis=0)
    rest = float(((x - rows - means + x.mean()) ** 2).sum() / ((n - 1) * (columns - 1)))
    seeds, images = columns * rows.var(ddof=1), n * means.var(ddof=1)  # mean squares
    parts = max(seeds - rest, 0.0), max(images - rest, 0.0), rest
    return tuple(math.sqrt(part / (n * columns)) for part in parts)


def of_arms(
    right: Mapping[tuple[str, int, str], np.ndarray],
) -> Callable[[pd.DataFrame, pd.DataFrame], Interval | None]:
    """From the rows of two arms to the interval of their difference, a − b, over the seeds that both have.

    right: as `records.correct.correctness` gives it. None where it lacks a replicate, or the images are not the same.
    """

    def interval(a: pd.DataFrame, b: pd.DataFrame) -> Interval | None:
        runs = [arm.set_index("seed")["run_id"] for arm in (a, b)]
        seeds = sorted(set(runs[0].index) & set(runs[1].index))
        found = [[right.get((run[seed], seed, "")) for seed in seeds] for run in runs]
        if (
            not seeds
            or any(one is None for arm in found for one in arm)
            or len({len(o) for arm in found for o in arm}) > 1
        ):
            return None
        return images_interval(*map(np.stack, found), np.random.default_rng(len(seeds)))

    return interval


def resampled(x: np.ndarray, generator: np.random.Generator, draws: int) -> np.ndarray:
    """Means of draws of rows and of columns at once, each with replacement: x (n, N) → (draws,)."""
    n, columns = x.shape
    telling = x[:, x.any(axis=0)].astype(np.float64)  # the columns of nothing but 0 are drawn as one
    rest = columns - telling.shape[1]
    shares = np.append(np.full(telling.shape[1], 1 / columns), rest / columns)
    rows = generator.multinomial(n, np.full(n, 1 / n), draws)
    drawn = generator.multinomial(columns, shares, draws)[:, :-1]
    return ((rows @ telling) * drawn).sum(axis=1) / (n * columns)
