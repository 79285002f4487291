"""Noise, few grey levels, wrong labels: against formulas in numpy and what is known of their distributions."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from normbench import data
from normbench.config.overrides import normalize, plan
from normbench.config.resolve import resolve
from normbench.data import Dataset, channel_moments, corruption, prepare
from normbench.data.corruption import CHUNK, NOISES, brightness, corrupted, mislabelled, non_uniformity
from normbench.errors import InputError

NOISY = [name for name in NOISES if name != "none"]


def drawn(n, low=0, high=256, seed=0):
    return torch.randint(low, high, (n, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def level(n, value):
    return torch.full((n, 32, 32, 3), value, dtype=torch.uint8)


def noisy(images, noise="none", strength=0.1, bits=8, seed=0):
    found = corrupted(images, noise=noise, strength=strength, bits=bits, seed=seed)
    assert found.dtype == torch.uint8
    assert found.shape == images.shape
    return found


# --- Noise. -----------------------------------------------------------------------------------------------------------


def test_without_noise_images_stay_what_they_are():
    x = drawn(20)
    assert noisy(x) is x
    for noise in NOISY:  # the way through floats loses nothing
        assert torch.equal(noisy(x, noise, strength=0), x)
    with pytest.raises(InputError, match=r"data.noise=gauss: did you mean gaussian\? choices: gaussian, non"):
        noisy(x, "gauss")


@pytest.mark.parametrize("strength", [0.05, 0.1])
def test_gaussian_noise_has_the_mean_and_spread_it_says(strength):
    """On mid-grey no value is clipped to speak of. Rounding to whole levels adds a variance of 1/12."""
    n = 200
    found = noisy(level(n, 128), "gaussian", strength).double().numpy()
    values, sigma = found.size, math.hypot(255 * strength, math.sqrt(1 / 12))
    assert abs(found.mean() - 128) < 4 * sigma / math.sqrt(values)
    assert abs(found.std() / sigma - 1) < 4 / math.sqrt(2 * values)
    # each pixel and channel of each image its own
    for axis in range(4):
        one, other = found.take(range(0, found.shape[axis] - 1), axis), found.take(range(1, found.shape[axis]), axis)
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / math.sqrt(one.size)
    assert stats.kstest((found.ravel()[:5000] - 128) / sigma, stats.norm.cdf).pvalue > 1e-4


def test_rician_noise_is_the_magnitude_of_a_complex_signal():
    x = drawn(6)
    generator = torch.Generator().manual_seed(9)
    real, imaginary = (torch.randn(x.shape, generator=generator).double().numpy() for _ in range(2))
    signal = x.double().numpy() / 255
    magnitude = np.sqrt((signal + 0.2 * real) ** 2 + (0.2 * imaginary) ** 2)
    wanted = np.round(255 * np.clip(magnitude, 0, 1))
    found = noisy(x, "rician", 0.2, seed=9).numpy()
    assert np.abs(found - wanted).max() <= 1  # float32 rounds a half the other way now and then
    assert (found == wanted).mean() > 0.999


def test_rician_noise_brightens_the_dark():
    """On black it has Rayleigh's distribution, with mean σ·√(π/2) and variance σ²·(2 − π/2)."""
    found = noisy(level(200, 0), "rician", 0.1).double() / 255
    spread = 0.1 * math.sqrt(2 - math.pi / 2)
    assert found.mean().item() == pytest.approx(0.1 * math.sqrt(math.pi / 2), abs=4 * spread / math.sqrt(found.numel()))
    assert found.std().item() == pytest.approx(spread, rel=0.005)
    # and hardly the bright: by σ²/2s
    grey = (noisy(level(200, 153), "rician", 0.05).double() / 255).mean().item()
    assert grey == pytest.approx(0.6 + 0.05**2 / 1.2, abs=2e-4)


def test_an_uneven_field_is_smooth_and_the_same_for_all_channels():
    x = torch.full((300, 32, 32, 3), 0.5, dtype=torch.float64)
    field = non_uniformity(x, 0.4, torch.Generator().manual_seed(0)) / 0.5 - 1
    assert torch.equal(field[..., 0], field[..., 1])
    assert torch.equal(field[..., 0], field[..., 2])
    field = field[..., 0] / 0.4
    assert field.abs().amax((1, 2)).numpy() == pytest.approx(1, abs=1e-12)
    # neighbours differ little, where white noise of that range would differ by 1 at times
    assert max(field.diff(dim=axis).abs().max().item() for axis in (1, 2)) < 0.2
    assert field.diff(n=2, dim=1).abs().max() < 0.05
    # neither brighter nor darker on average, and no two alike
    assert abs(field.mean().item()) < 4 * field.mean((1, 2)).std().item() / math.sqrt(300)
    assert field.flatten(1).corrcoef().triu(1).max() < 0.9999


def test_an_uneven_field_goes_through_its_grid():
    """Drawn from −1 to 1 at 3×3 points: the corners, the middles of the sides, the middle."""
    x = torch.ones((4, 33, 33, 3), dtype=torch.float64)  # an odd size has a pixel there
    field = non_uniformity(x, 0.3, torch.Generator().manual_seed(5))[..., 0] - 1
    grid = torch.rand((4, 3, 3), generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 2 - 1
    for at, points in zip(field[:, ::16, ::16], grid, strict=True):
        assert (at / points).numpy() == pytest.approx((at[0, 0] / points[0, 0]).item(), rel=1e-9)


def test_an_uneven_field_multiplies():
    x = level(50, 100)
    found = noisy(x, "non_uniformity", 0.5).double()
    assert torch.equal(noisy(level(3, 0), "non_uniformity", 0.5), level(3, 0))
    extremes = (found - 100).abs().amax((1, 2, 3))
    assert extremes.tolist() == [50.0] * 50
    assert found.mean().item() == pytest.approx(100, abs=3)
    assert noisy(level(50, 200), "non_uniformity", 0.5).max() == 255  # clipped


@pytest.mark.parametrize("noise", NOISY)
def test_noise_follows_its_seed_alone(noise):
    x = drawn(5)
    first = noisy(x, noise)
    torch.manual_seed(4)
    assert torch.equal(noisy(x, noise), first)
    assert not torch.equal(noisy(x, noise, seed=1), first)


@pytest.mark.parametrize("noise", NOISY)
def test_images_further_on_change_nothing_before_them(noise, monkeypatch):
    """Noise is drawn chunk by chunk: so it is up to the last whole one, and for one draw a value within it too."""
    monkeypatch.setattr(corruption, "CHUNK", 4)
    x = drawn(11)
    whole = noisy(x, noise)
    assert torch.equal(noisy(x[:8], noise), whole[:8])
    rest = torch.equal(noisy(x[:10], noise), whole[:10])
    assert rest == (noise != "rician")  # which draws the chunk's real parts, then its imaginary ones
    assert not torch.equal(whole[:4] - x[:4], whole[4:8] - x[4:8])
    assert CHUNK == 5000


# --- Grey levels. -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 5, 6, 7, 8])
def test_an_image_of_few_bits_has_the_nearest_of_so_many_levels(bits):
    every = torch.arange(256).to(torch.uint8).repeat(12).view(1, 32, 32, 3)
    found = noisy(every, bits=bits).flatten()[:256].double().numpy()
    levels = np.linspace(0, 255, 2**bits)
    nearest = levels[np.abs(np.arange(256)[:, None] - levels).argmin(1)]
    np.testing.assert_array_equal(found, np.round(nearest))
    assert len(np.unique(found)) == 2**bits
    assert np.abs(found - np.arange(256)).max() <= 255 / (2**bits - 1) / 2 + 0.5
    if bits == 4:
        np.testing.assert_array_equal(np.unique(found), 17 * np.arange(16))


def test_noise_comes_before_the_bits():
    found = noisy(level(20, 128), "gaussian", 0.1, bits=4)
    assert set(found.unique().tolist()) <= set(range(0, 256, 17))
    assert len(found.unique()) > 8


# --- Labels. ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.999])
def test_wrong_labels_are_drawn_from_all_classes(share):
    """Each class so often wrong that every tenth of those drawn is right by chance."""
    labels = torch.arange(20_000) % 10
    found = mislabelled(labels, share, 10, seed=3)
    assert torch.equal(labels, torch.arange(20_000) % 10)  # untouched
    wrong, chosen = (found != labels).sum().item(), round(share * 20_000)
    assert abs(wrong - 0.9 * chosen) <= 4 * math.sqrt(chosen * 0.9 * 0.1)
    assert set(found.tolist()) <= set(range(10))
    for label in range(10):
        of_class = (found != labels)[labels == label].sum().item()
        assert abs(of_class - wrong / 10) <= 5 * math.sqrt(wrong / 10)
    assert torch.equal(mislabelled(labels, share, 10, seed=3), found)
    assert torch.equal(mislabelled(labels, share, 10, seed=4), found) == (share == 0)


def test_the_share_of_labels_drawn_is_exact():
    """With a class of which there is no other, what was drawn anew shows: all labels are −1 before."""
    for share, drawn_anew in ((0.2, 20), (0.125, 12), (0.004, 0), (0.006, 1)):
        found = mislabelled(torch.full((100,), -1), share, 10, seed=0)
        assert (found >= 0).sum() == drawn_anew


def test_brightness_is_the_mean_grey_level():
    x = drawn(7)
    np.testing.assert_allclose(brightness(x), x.double().numpy().mean((1, 2, 3)), rtol=1e-14)
    assert brightness(level(2, 255)).tolist() == [255, 255]


# --- All of it, on a dataset. -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clean():
    images = data.LOADERS["patterns"](None)
    every = [torch.from_numpy(images[f"{split}_images"]) for split in ("train", "test")]
    labels = [torch.from_numpy(images[f"{split}_labels"]).long() for split in ("train", "test")]
    parts = (every[0][:301], labels[0][:301], every[0][-100:], labels[0][-100:], every[1][:120], labels[1][:120])
    return Dataset("patterns", *parts, *channel_moments(parts[0].numpy()))


def prepared(dataset, *typed):
    job = plan(normalize(["data=patterns", "device=cpu", *(f"data.{word}" for word in typed)]), False)[0][0]
    return prepare(dataset, resolve(job.config).data)


def parts(dataset, kind):
    return [getattr(dataset, f"{split}_{kind}") for split in ("train", "val", "test")]


def test_by_default_nothing_is_changed(clean):
    found = prepared(clean)
    for kind in ("images", "labels"):
        for one, other in zip(parts(found, kind), parts(clean, kind), strict=True):
            assert torch.equal(one, other)
    assert (found.mean, found.std, found.num_classes) == (clean.mean, clean.std, 10)
    assert (found.channel_scale, found.test_channel_scale) == (1, 1)


def changed(found, clean, kind="images"):
    return [not torch.equal(a, b) for a, b in zip(parts(found, kind), parts(clean, kind), strict=True)]


def test_validation_images_are_treated_as_test_images(clean):
    assert changed(prepared(clean, "noise=gaussian"), clean) == [True, True, True]
    assert changed(prepared(clean, "noise=gaussian", "test_noise=none"), clean) == [True, False, False]
    assert changed(prepared(clean, "test_noise=gaussian"), clean) == [False, True, True]
    assert changed(prepared(clean, "bits=5", "test_bits=8"), clean) == [True, False, False]
    assert changed(prepared(clean, "test_bits=5"), clean) == [False, True, True]
    stronger = prepared(clean, "noise=gaussian", "noise_strength=0.01", "test_noise_strength=0.2")
    pairs = zip(parts(stronger, "images"), parts(clean, "images"), strict=True)
    spreads = [(a.float() - b.float()).std().item() for a, b in pairs]
    assert spreads[0] < 5 < 30 < min(spreads[1:])


def test_no_two_splits_share_their_noise(clean):
    same = level(50, 128)
    grey = SimpleNamespace(**vars(clean) | {f"{split}_images": same for split in ("train", "val", "test")})
    found = parts(prepared(Dataset(**vars(grey)), "noise=gaussian"), "images")
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])
    again = parts(prepared(Dataset(**vars(grey)), "noise=gaussian"), "images")
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    other = parts(prepared(Dataset(**vars(grey)), "noise=gaussian", "split_seed=1"), "images")
    assert not any(torch.equal(a, b) for a, b in zip(found, other, strict=True))


def test_the_moments_are_those_of_the_images_that_train(clean):
    found = prepared(clean, "noise=rician", "noise_strength=0.3", "channel_scale=3")
    pixels = found.train_images.double().numpy().reshape(-1, 3) / 255 * np.array([3, 1, 1])
    np.testing.assert_allclose(found.mean, pixels.mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.std, pixels.std(0), rtol=1e-9)
    assert abs(found.mean[1] - clean.mean[1]) > 0.01
    assert (found.channel_scale, found.test_channel_scale) == (3, 3)
    only_there = prepared(clean, "test_noise=rician", "test_channel_scale=3")
    assert (only_there.mean, only_there.std) == (clean.mean, clean.std)
    assert (only_there.channel_scale, only_there.test_channel_scale) == (1, 3)


def test_wrong_labels_are_in_the_training_split_alone(clean):
    found = prepared(clean, "label_noise=0.5")
    assert changed(found, clean, "labels") == [True, False, False]
    share = (found.train_labels != clean.train_labels).double().mean().item()
    assert share == pytest.approx(0.45, abs=4 * math.sqrt(0.5 * 0.1 * 0.9 / 301))
    assert changed(found, clean) == [False, False, False]


def test_brightness_splits_the_training_images_in_halves(clean):
    found = prepared(clean, "labels=brightness")
    assert found.num_classes == 2
    means = [images.double().numpy().mean((1, 2, 3)) for images in parts(clean, "images")]
    threshold = np.median(means[0])  # of the training split, for all three
    for labels, values in zip(parts(found, "labels"), means, strict=True):
        np.testing.assert_array_equal(labels, values > threshold)
    assert found.train_labels.sum() == 150  # of 301, without the median itself
    assert changed(found, clean) == [False, False, False]
    assert np.median(means[1]) != threshold != np.median(means[2])


def test_brightness_is_told_from_the_clean_images_and_spoilt_among_two_classes(clean):
    plain = prepared(clean, "labels=brightness")
    noisy = prepared(clean, "labels=brightness", "noise=rician", "noise_strength=0.5", "channel_scale=9", "bits=4")
    assert changed(noisy, plain, "labels") == [False, False, False]
    wrong = prepared(clean, "labels=brightness", "label_noise=0.6")
    assert set(wrong.train_labels.tolist()) == {0, 1}
    share = (wrong.train_labels != plain.train_labels).double().mean().item()
    assert share == pytest.approx(0.3, abs=4 * math.sqrt(0.6 * 0.25 / 301))
