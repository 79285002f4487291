"""The views that test-time augmentation averages over."""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from scipy import ndimage

from normbench.data.views import VIEWS, flip, flip_shift, zoom_rotate_crop


def images(n=6):
    """Smooth enough that interpolation is well defined, and without any symmetry."""
    drawn = torch.randint(256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    return tv.resize(drawn, [32, 32], antialias=True).round().to(torch.uint8)


@pytest.mark.parametrize(("name", "number"), [("flip", 2), ("flip_shift", 6), ("zoom_rotate_crop", 8)])
def test_views_are_so_many_images_of_the_same_kind(name, number):
    x = images()
    views = VIEWS[name](x)
    assert len(views) == number
    for view in views:
        assert (view.shape, view.dtype) == (x.shape, torch.uint8)
    assert torch.equal(views[0], x)
    assert len({view.numpy().tobytes() for view in views}) == number


def test_flip():
    x = images()
    assert torch.equal(flip(x)[1], x.flip(3))
    assert torch.equal(flip(x)[1], tv.horizontal_flip(x))


def test_shifts_move_whole_pixels():
    x = images()
    found = iter(flip_shift(x))
    for image in (x, x.flip(3)):
        for by in (0, 2, -2):
            wanted = torch.zeros_like(x)
            if by == 0:
                wanted = image
            elif by > 0:
                wanted[:, :, 2:, 2:] = image[:, :, :-2, :-2]
            else:
                wanted[:, :, :-2, :-2] = image[:, :, 2:, 2:]
            assert torch.equal(next(found), wanted)


def transformed(x, degrees, zoom):
    """x in float64, turned clockwise about its centre and enlarged: bilinear, by scipy."""
    angle = math.radians(degrees)
    back = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) / zoom
    centre = np.full(2, 15.5)
    return np.stack(
        [
            [ndimage.affine_transform(c, back, centre - back @ centre, order=1, mode="nearest") for c in image]
            for image in x.double().numpy()
        ]
    )


def test_zooms_and_rotations():
    x = images()
    zoomed, right, left = zoom_rotate_crop(x)[1:4]
    assert torch.equal(zoomed, tv.affine(x, 0, [0, 0], 1.1, [0.0, 0.0], tv.InterpolationMode.BILINEAR))
    assert torch.equal(right, tv.affine(x, 8, [0, 0], 1.14, [0.0, 0.0], tv.InterpolationMode.BILINEAR))
    assert torch.equal(left, tv.affine(x, -8, [0, 0], 1.14, [0.0, 0.0], tv.InterpolationMode.BILINEAR))
    for view, degrees, zoom in ((zoomed, 0, 1.1), (right, 8, 1.14), (left, -8, 1.14)):
        assert np.abs(view.numpy() - transformed(x, degrees, zoom)).max() <= 1
    assert math.cos(math.radians(8)) + math.sin(math.radians(8)) < 1.14  # no corner is left empty


def test_corners():
    x = images()
    corners = zoom_rotate_crop(x)[4:]
    crops = x[:, :, :28, :28], x[:, :, :28, 4:], x[:, :, 4:, :28], x[:, :, 4:, 4:]
    for view, crop in zip(corners, crops, strict=True):
        assert torch.equal(view, tv.resize(crop, [32, 32], antialias=True))
        wanted = torch.nn.functional.interpolate(crop.double(), (32, 32), mode="bilinear")
        assert (view.double() - wanted).abs().max() <= 1


@pytest.mark.parametrize("level", [0, 97, 255])
def test_no_corner_is_black_but_where_an_image_is_moved(level):
    x = torch.full((2, 3, 32, 32), level, dtype=torch.uint8)
    for view in [*flip(x), *zoom_rotate_crop(x)]:
        assert torch.equal(view, x)
    for view in flip_shift(x)[1:3] + flip_shift(x)[4:]:
        assert (view == level).sum() == 2 * 3 * (30 * 30 if level else 32 * 32)


def test_each_image_is_treated_alike():
    x = images()
    for name in ("flip", "flip_shift", "zoom_rotate_crop"):
        alone = [torch.cat(parts) for parts in zip(*(VIEWS[name](one) for one in x.split(1)), strict=True)]
        assert all(torch.equal(a, b) for a, b in zip(alone, VIEWS[name](x), strict=True))
