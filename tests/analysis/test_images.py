"""The bootstrap over seeds and test images: its variance by the closed form, its coverage by simulation."""

import numpy as np
import pytest

from normbench.analysis.images import components, images_interval, resampled


def test_the_variance_of_the_draws_is_that_of_the_closed_form():
    """Exactly, given the data: counts of a multinomial have E[w w′] = I + (1 − 1/n) 11ᵀ."""
    rng = np.random.default_rng(1)
    x = rng.integers(-1, 2, (6, 30)) * (rng.random(30) < 0.7)
    n, columns = x.shape
    row, column = np.eye(n) + 1 - 1 / n, np.eye(columns) + 1 - 1 / columns
    second = np.einsum("ik,jl,ij,kl->", row, column, x, x) / (n * columns) ** 2
    drawn = resampled(x, np.random.default_rng(2), 100_000)
    assert drawn.mean() == pytest.approx(x.mean(), abs=4 * drawn.std() / 100_000**0.5)
    assert drawn.var() == pytest.approx(second - x.mean() ** 2, rel=0.02)


def arms(rng, n, images, effect=0.0):
    """Two arms of a two-way model: how good a seed is, how hard an image, for each arm also by itself."""
    hardness = rng.normal(0, 1.5, images)
    return [
        rng.normal(0, 0.15, (n, 1)) + hardness + rng.normal(0, 0.6, images) + rng.normal(0, 1, (n, images)) > shift
        for shift in (-effect, 0.0)
    ]


@pytest.mark.parametrize("n", [10, 20])
def test_it_covers_what_it_says(n):
    """95 % or more within the error of the simulation; it errs on the wide side (98.5 % in 1,500 trials)."""
    rng, hits, trials = np.random.default_rng(n), 0, 300
    for _ in range(trials):
        interval = images_interval(*arms(rng, n, 200), rng, draws=300)
        hits += interval.low <= 0 <= interval.high
    assert 0.925 <= hits / trials <= 0.995


def test_it_sees_the_images_that_the_seeds_alone_do_not():
    """Seeds that agree leave the images to chance: as wide as a paired comparison of two networks."""
    rng = np.random.default_rng(3)
    x, y = rng.random(2000) < 0.7, rng.random(2000) < 0.7
    interval = images_interval(np.tile(x, (10, 1)), np.tile(y, (10, 1)), rng)
    difference = x.astype(float) - y
    half = 2.262 * np.sqrt(10 / 9) * difference.std() / 2000**0.5  # t with 9 degrees of freedom
    assert interval.estimate == pytest.approx(100 * difference.mean())
    assert interval.high - interval.estimate == pytest.approx(100 * half, rel=0.06)


def test_few_seeds_have_no_ends_and_mistakes_are_told():
    a, b = np.ones((9, 5), bool), np.zeros((9, 5), bool)
    interval = images_interval(a, b, np.random.default_rng(0))
    assert interval.estimate == 100
    assert np.isnan([interval.low, interval.high]).all()
    assert interval.n == 9
    with pytest.raises(ValueError, match="the same seeds and images"):
        images_interval(a, b[:, :4], np.random.default_rng(0))


def test_the_parts_of_an_error_are_those_of_the_model():
    """Crossed random effects of known variances; of the same data by sums over all pairs, as a textbook has them."""
    rng, n, images = np.random.default_rng(4), 12, 3000
    x = rng.normal(0, 0.02, (n, 1)) + rng.normal(0, 0.3, images) + rng.normal(0, 0.1, (n, images))
    seeds, hard, both = components(x, np.zeros_like(x))
    assert seeds == pytest.approx(100 * 0.02 / n**0.5, rel=0.5)  # eleven degrees of freedom
    assert hard == pytest.approx(100 * 0.3 / images**0.5, rel=0.06)
    assert both == pytest.approx(100 * 0.1 / (n * images) ** 0.5, rel=0.03)
    small = np.rint(x[:4, :5] * 10) / 10
    between = {
        axis: np.mean([(i - j) ** 2 for i in m for j in m if i is not j]) / 2
        for axis, m in (("seeds", [*map(np.float64, small.mean(1))]), ("images", [*map(np.float64, small.mean(0))]))
    }
    left = [
        (small[i, j] - small[i, m] - small[k, j] + small[k, m]) ** 2
        for i in range(4)
        for k in range(i)
        for j in range(5)
        for m in range(j)
    ]
    rest = np.mean(left) / 4
    parts = [max(between["seeds"] / 4 - rest / 20, 0), max(between["images"] / 5 - rest / 20, 0), rest / 20]
    assert components(small, np.zeros_like(small)) == pytest.approx([100 * part**0.5 for part in parts])


def test_together_they_are_the_error_of_the_bootstrap():
    rng = np.random.default_rng(5)
    a, b = arms(rng, 20, 2000)
    parts = components(a, b)
    drawn = 100 * resampled(a.astype(int) - b, rng, 2000).std()
    assert np.hypot(*parts[:2]) < drawn
    # The draws' variance is the estimate's and once more the rest's two shares (Owen 2007, theorem 2).
    assert drawn**2 == pytest.approx(sum(p**2 for p in parts) + 2 * parts[2] ** 2, rel=0.15)
