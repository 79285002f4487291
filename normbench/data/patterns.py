"""Generated images of ten shapes and textures: a stand-in for CIFAR-10 that needs no download.

Position, size, tilt, phase, both colours and the contrast vary from image to image under noise, so the colours tell
nothing about the class. Every class is its own mirror image, so random crops and flips keep the labels true.
"""

from functools import cached_property

import numpy as np

TRAIN = 6_000
TEST = 1_000
SEED = 32

# Amplitude of the uniform noise on each pixel and channel, in grey levels.
NOISE = 32


def generate(train: int = TRAIN, test: int = TEST, seed: int = SEED) -> dict[str, np.ndarray]:
    """The same images at every call and on every platform.

    Returns uint8 arrays: train_images (train, 32, 32, 3), train_labels (train,), test_images (test, 32, 32, 3),
    test_labels (test,). Images are RGB, 0…255; labels index PATTERNS, and their counts differ by at most one.
    """
    train_images, train_labels = _draw(train, np.random.Generator(np.random.PCG64([seed, 0])))
    test_images, test_labels = _draw(test, np.random.Generator(np.random.PCG64([seed, 1])))
    return {
        "train_images": train_images,
        "train_labels": train_labels,
        "test_images": test_images,
        "test_labels": test_labels,
    }


class Geometry:
    """Where and how n patterns lie: pixel coordinates (n, 32, 32), and the numbers that vary per image (n, 1, 1)."""

    def __init__(self, n: int, rng: np.random.Generator):
        def uniform(low, high):
            return low + (high - low) * rng.random((n, 1, 1))

        tilt = uniform(-0.15, 0.15)  # radians
        row, column = np.mgrid[:32, :32] - 15.5
        x, y = self._upright = column - uniform(-6, 6), row - uniform(-6, 6)
        self.x = x * np.cos(tilt) + y * np.sin(tilt)
        self.y = y * np.cos(tilt) - x * np.sin(tilt)
        self.side = np.where(rng.random((n, 1, 1)) < 0.5, -1, 1)  # the way a diagonal leans
        self.size = uniform(6, 11)  # pixels
        self.frequency = 2 * np.pi * uniform(0.1, 0.2)  # radians per pixel
        self.phase = uniform(0, 2 * np.pi)
        self.spokes = rng.integers(5, 9, (n, 1, 1))

    @cached_property
    def r(self):
        return np.hypot(*self._upright)

    @cached_property
    def angle(self):
        return np.arctan2(self.y, self.x)

    def wave(self, distance):
        return np.sin(self.frequency * distance + self.phase)


def plus(g):
    horizontal = np.minimum(g.size - abs(g.x), g.size / 4 - abs(g.y))
    vertical = np.minimum(g.size / 4 - abs(g.x), g.size - abs(g.y))
    return np.maximum(horizontal, vertical)


# Each maps a Geometry to values (n, 32, 32) that are above zero in the pattern's one colour and below in the other.
PATTERNS = {
    "horizontal stripes": lambda g: g.wave(g.y),
    "vertical stripes": lambda g: g.wave(g.x),
    "diagonal stripes": lambda g: g.wave((g.x + g.side * g.y) / np.sqrt(2)),
    "checks": lambda g: 1.5 * g.wave(g.x) * g.wave(g.y),
    "rings": lambda g: g.wave(g.r),
    "spokes": lambda g: np.sin(g.spokes * g.angle + g.phase),
    "disc": lambda g: g.size - g.r,
    "square": lambda g: g.size - np.maximum(abs(g.x), abs(g.y)),
    "circle": lambda g: g.size / 5 - abs(g.size - g.r),
    "plus": plus,
}


def _draw(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.permutation(np.arange(n) % len(PATTERNS)).astype(np.uint8)
    mask = np.empty((n, 32, 32, 1), dtype=np.int32)
    for label, pattern in enumerate(PATTERNS.values()):
        (members,) = np.nonzero(labels == label)
        # Whole numbers from here on: they come out the same whatever the platform's last bit of a sine.
        mask[members, ..., 0] = np.rint(256 * np.clip(pattern(Geometry(len(members), rng)), -1, 1))

    middle = rng.integers(80, 176, (n, 1, 1, 3), dtype=np.int32)
    contrast = rng.integers(25, 65, (n, 1, 1, 1), dtype=np.int32) * rng.choice([-1, 1], (n, 1, 1, 3)).astype(np.int32)
    noise = rng.integers(-NOISE, NOISE, (n, 32, 32, 3), dtype=np.int8, endpoint=True)
    images = np.empty(noise.shape, dtype=np.uint8)
    for start in range(0, n, 100):  # a part at a time stays in the processor's cache
        part = slice(start, start + 100)
        images[part] = np.clip(middle[part] + (contrast[part] * mask[part] >> 8) + noise[part], 0, 255)
    return images, labels
