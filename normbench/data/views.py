"""The views of an image that test-time augmentation averages over."""

from collections.abc import Callable
from itertools import product

import torch

SHIFT = 2  # pixels, either way along the diagonal
ZOOM = 1.1
ANGLE, FILL = 8, 1.14  # degrees, and the zoom at which a square so rotated leaves no corner empty: cos 8° + sin 8°
CORNER = 28  # pixels of a corner's crop, which is enlarged to the full size


def flip(images):
    """The image and its mirror image."""
    return [images, _v2().horizontal_flip(images)]


def flip_shift(images):
    """The image and its mirror image, each as it is and moved by (2, 2) and (−2, −2) pixels, black beyond the edge."""
    moves = [lambda x, by=by: _affine(x, translate=(by, by)) for by in (0, SHIFT, -SHIFT)]
    return [move(view) for view, move in product(flip(images), moves)]


def zoom_rotate_crop(images):
    """The image; enlarged by 1.1; rotated by 8° and −8°, enlarged to leave no corner empty; its four corners of 28².

    A corner is enlarged to the full size. Eight views, bilinear.
    """
    size = images.shape[-1]
    corners = product((0, size - CORNER), repeat=2)
    return [
        images,
        _affine(images, scale=ZOOM),
        *(_affine(images, angle=angle, scale=FILL) for angle in (ANGLE, -ANGLE)),
        *(_v2().resized_crop(images, top, left, CORNER, CORNER, [size, size], antialias=True) for top, left in corners),
    ]


# Each takes uint8 images N×3×H×W and returns a list of such.
VIEWS: dict[str, Callable[[torch.Tensor], list[torch.Tensor]] | None] = {
    "none": None,
    "flip": flip,
    "flip_shift": flip_shift,
    "zoom_rotate_crop": zoom_rotate_crop,
}


def _v2():
    from torchvision.transforms.v2 import functional  # slow to import, and seldom needed

    return functional


def _affine(images, *, angle=0.0, translate=(0, 0), scale=1.0):
    # Whole pixels are moved exactly without interpolation.
    mode = _v2().InterpolationMode
    interpolation = mode.NEAREST if angle == 0 and scale == 1 else mode.BILINEAR
    return _v2().affine(images, angle, list(translate), scale, [0.0, 0.0], interpolation=interpolation)
