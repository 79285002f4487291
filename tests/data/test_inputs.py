"""Input normalization against its formulas in numpy, float64."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from PIL import Image

from normbench.data import channel_moments
from normbench.data.inputs import ALIKE, KINDS, PER_IMAGE, Inputs, resized
from normbench.errors import InputError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def constant_is(value, low, high):
    """(x − low)/(high − low); `value` where an image is constant."""

    def normalized(x):
        bottom, top = low(x), high(x)
        return np.full(x.shape, value) if top == bottom else np.clip((x - bottom) / (top - bottom), 0, 1)

    return normalized


# Grey levels H×W×3 of one image → its inputs.
REFERENCE = {
    "raw": lambda x: x,
    "unit": lambda x: x / 255,
    "symmetric": lambda x: x / 127.5 - 1,
    "zscore": lambda x: (x / 255 - np.array(MEAN)) / np.array(STD),
    "per_image": lambda x: (x - x.mean()) / (x.std() or 1),
    "min_max": constant_is(0, np.min, np.max),
    "percentile": lambda x: np.clip((x - np.percentile(x, 1)) / (np.percentile(x, 99) - np.percentile(x, 1)), 0, 1),
    "three_sigma": constant_is(0.5, lambda x: x.mean() - 3 * x.std(), lambda x: x.mean() + 3 * x.std()),
}


def images():
    """Of every contrast: noise over the full range, noise of few levels, dark, bright, and two levels."""
    rng = np.random.default_rng(0)
    full = rng.integers(0, 256, (5, 32, 32, 3))
    faint = rng.integers(100, 104, (3, 32, 32, 3))
    skewed = (255 * rng.random((4, 32, 32, 3)) ** 6).astype(int)
    bright = 255 - skewed
    two = np.where(rng.random((2, 32, 32, 3)) < 0.5, 0, 255)
    return np.concatenate([full, faint, skewed, bright, two]).astype(np.uint8)


def inputs(kind, dtype=torch.float64, **options):
    return Inputs(kind, MEAN, STD, "cpu", dtype, **options)


def expected(kind, x):
    return np.stack([REFERENCE[kind](image.astype(np.float64)) for image in x]).transpose(0, 3, 1, 2)


def test_every_kind_has_a_reference():
    assert tuple(REFERENCE) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_equals_its_formula(kind):
    x = images()
    found = inputs(kind)(torch.from_numpy(x))
    np.testing.assert_allclose(found, expected(kind, x), rtol=1e-12, atol=1e-12)
    assert found.is_contiguous(memory_format=torch.channels_last)
    near = inputs(kind, torch.float32)(torch.from_numpy(x))
    assert near.dtype == torch.float32
    np.testing.assert_allclose(near, expected(kind, x), rtol=1e-5, atol=1e-5)


def test_standardization_equals_torchvisions():
    x = torch.from_numpy(images())
    wanted = tv.normalize(x.permute(0, 3, 1, 2).double() / 255, MEAN, STD)
    torch.testing.assert_close(inputs("zscore")(x), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_replicates_side_by_side_are_each_what_they_are_alone(kind):
    x = torch.from_numpy(images())
    parts = x[:6], x[6:12], x[12:]  # three replicates, each with images of its own
    normalize = inputs(kind)
    found = normalize(torch.stack(parts, 3))
    assert found.shape == (6, 9, 32, 32)
    assert found.is_contiguous(memory_format=torch.channels_last)
    for r, part in enumerate(parts):
        torch.testing.assert_close(found[:, 3 * r : 3 * r + 3], normalize(part), rtol=1e-12, atol=1e-12)
    same = normalize.repeated(x, 2)
    assert torch.equal(same, torch.cat([normalize(x)] * 2, 1))
    assert same.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(normalize.repeated(x, 1), normalize(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "value"), [("per_image", 0), ("min_max", 0), ("percentile", 0), ("three_sigma", 0.5)])
def test_constant_images_of_any_level_become_a_constant(kind, value, dtype):
    x = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 32, 32, 3)
    assert torch.equal(inputs(kind, dtype)(x), torch.full((256, 3, 32, 32), value, dtype=dtype))


@pytest.mark.parametrize("level", [0, 1, 127, 200, 254])
def test_the_faintest_image_still_has_the_full_spread(level):
    """One value of 3,072 off by one grey level."""
    x = torch.full((1, 32, 32, 3), level, dtype=torch.uint8)
    x[0, 5, 7, 1] += 1
    found = inputs("per_image")(x)
    assert found.mean().item() == pytest.approx(0, abs=1e-9)
    assert found.std(correction=0).item() == pytest.approx(1, rel=1e-9)
    near = inputs("per_image", torch.float32)(x)
    assert near.std(correction=0).item() == pytest.approx(1, rel=1e-3)
    assert inputs("min_max")(x).unique().tolist() == [0, 1]
    # a spike that the percentiles leave out
    assert inputs("percentile")(x).unique().tolist() == pytest.approx([0, 1])


def test_percentiles_leave_out_the_extremes():
    """Of values 0, 0, …, 100 … 200, …, 255 the outermost hundredth does not matter, and is clipped."""
    x = np.full(3072, 100, dtype=np.uint8)
    x[1536:] = 200
    x[:20], x[-20:] = 0, 255
    shuffled = np.random.default_rng(3).permutation(x).reshape(1, 32, 32, 3)
    found = inputs("percentile")(torch.from_numpy(shuffled)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(found, shuffled >= 150)


def test_the_moments_of_scaled_images_take_the_scale_back():
    x = images()
    mean, std = channel_moments(x)
    plain = Inputs("zscore", mean, std, "cpu", torch.float64)(torch.from_numpy(x))
    scaled = (7 * mean[0], *mean[1:]), (7 * std[0], *std[1:])
    same = Inputs("zscore", *scaled, "cpu", torch.float64, 7.0)(torch.from_numpy(x))
    torch.testing.assert_close(same, plain, rtol=1e-12, atol=1e-12)
    # where the images of another sensor meet the moments of this one
    other = Inputs("zscore", mean, std, "cpu", torch.float64, 7.0)(torch.from_numpy(x))
    wanted = (7 * (x[..., 0] / 255) - mean[0]) / std[0]
    np.testing.assert_allclose(other[:, 0], wanted, rtol=1e-12, atol=1e-12)
    assert torch.equal(other[:, 1:], plain[:, 1:])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "zscore"])
def test_no_other_kind_takes_the_scale_of_a_channel_back(kind):
    x = images()
    found = inputs(kind, channel_scale=2.5)(torch.from_numpy(x))
    np.testing.assert_allclose(found, expected(kind, x * np.array([2.5, 1, 1])), rtol=1e-12, atol=1e-12)
    assert not np.allclose(found, expected(kind, x), atol=0.1)


def test_an_unknown_kind_is_told():
    with pytest.raises(InputError, match=r"data.input=percentiles: did you mean percentile\? choices: min_max"):
        inputs("percentiles")
    assert set(KINDS) == set(ALIKE) | set(PER_IMAGE)


@pytest.mark.parametrize("size", [4, 13, 16, 24, 31, 48, 128])
def test_resizing_equals_torchvisions_and_pillows(size):
    x = inputs("zscore", torch.float32)(torch.from_numpy(images()[:4]))
    found = resized(x, size)
    assert found.shape == (4, 3, size, size)
    torch.testing.assert_close(found, tv.resize(x, [size, size], antialias=True), rtol=1e-5, atol=1e-5)
    one = Image.fromarray(x[2, 1].numpy()).resize((size, size), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(found[2, 1], np.asarray(one), rtol=1e-4, atol=1e-5)
    # a constant stays what it is, up to the border
    torch.testing.assert_close(resized(torch.full_like(x, 0.7), size), torch.full_like(found, 0.7))


def test_the_usual_size_is_left_alone():
    x = inputs("unit")(torch.from_numpy(images()))
    assert resized(x, 32) is x


def test_zscore_of_a_split_without_spread_is_zero():
    images = torch.full((4, 32, 32, 3), 255, dtype=torch.uint8)
    x = Inputs("zscore", (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), "cpu", torch.float64)(images)
    assert x.abs().max() < 1e-12
