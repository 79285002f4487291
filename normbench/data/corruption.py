"""What can be wrong with images and labels: noise, an uneven field, few grey levels, wrong labels.

A corrupted image is 8-bit again, as if it had been taken so: one draw an image, the same in every epoch, for every
method and replicate. Everything is drawn on the CPU, so that each device gets the same, and computed where the images
lie.
"""

import numpy as np
import torch
from torch.nn import functional as F

from normbench.errors import require_choice

CHUNK = 5000  # images whose noise is in memory at a time
GRID = 3  # points along a side that the field of non_uniformity passes through


def gaussian(x, strength, generator):
    """x + σ·n, n standard normal per pixel and channel."""
    return x + strength * _normal(x, generator)


def rician(x, strength, generator):
    """√((x + σ·n₁)² + (σ·n₂)²): the magnitude of a complex signal with Gaussian noise (Gudbjartsson & Patz 1995)."""
    real = x + strength * _normal(x, generator)
    return torch.hypot(real, strength * _normal(x, generator))


def non_uniformity(x, strength, generator):
    """x·(1 + s·f), f a smooth field over the image, the same for its channels, scaled to a largest |f| of 1.

    f: bicubic through a grid of 3×3 uniform values from −1 to 1.
    """
    grid = torch.rand((len(x), 1, GRID, GRID), generator=generator, dtype=torch.float64) * 2 - 1
    field = F.interpolate(grid, x.shape[1:3], mode="bicubic", align_corners=True)
    field /= field.abs().amax((2, 3), keepdim=True)
    return x * (1 + strength * field.movedim(1, 3).to(x.device, x.dtype))


def _normal(x, generator):
    return torch.randn(x.shape, generator=generator).to(x.device, x.dtype)


NOISES = {"none": None, "gaussian": gaussian, "rician": rician, "non_uniformity": non_uniformity}


def corrupted(images: torch.Tensor, *, noise: str, strength: float, bits: int, seed: int) -> torch.Tensor:
    """uint8 images N×H×W×3 with noise, clipped to 0…255, in 2^bits grey levels; uint8 of the same shape.

    noise: in NOISES. strength: σ as a share of the full range (gaussian, rician), or the field's amplitude
    (non_uniformity). bits: of the intensity; each value becomes the nearest of 2^bits levels evenly spread over 0…255,
    rounded to a whole grey level. seed: of the draws. Raises InputError for an unknown noise.
    """
    require_choice("data.noise", noise, NOISES)
    if NOISES[noise] is None and bits == 8:
        return images
    generator, levels = torch.Generator().manual_seed(seed), 2**bits - 1
    parts = []
    for part in images.split(CHUNK):
        x = part.float() / 255
        if NOISES[noise] is not None:
            x = NOISES[noise](x, strength, generator).clamp(0, 1)
        parts.append(((x * levels).round() * (255 / levels)).round().to(torch.uint8))
    return torch.cat(parts)


def mislabelled(labels: torch.Tensor, share: float, num_classes: int, seed: int) -> torch.Tensor:
    """Labels (N,) of which this share, chosen at random, is drawn anew from all classes (Zhang et al. 2017).

    About share/num_classes of all are right by chance. arXiv 1611.03530.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(labels))[: round(share * len(labels))]
    drawn = rng.integers(num_classes, size=len(chosen))
    labels = labels.clone()
    labels[torch.from_numpy(chosen).to(labels.device)] = torch.from_numpy(drawn).to(labels.device)
    return labels


def brightness(images: torch.Tensor) -> torch.Tensor:
    """Mean grey level, 0…255, of each of N uint8 images: (N,), float64."""
    return images.flatten(1).sum(1, dtype=torch.int64).double() / images[0].numel()
