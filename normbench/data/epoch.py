"""The batches of one epoch: which images, cropped, flipped, coloured how, mixed with which others; drawn beforehand."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from normbench.random import derive

SIZE = 32
COLOURS = ("brightness", "contrast", "saturation")  # of an image, distorted in this order
GREY = (0.2989, 0.587, 0.114)  # shares of red, green and blue, as torchvision has them
AHEAD = 64  # images that are cropped in one go: for a small batch it is the number of calls that takes the time


@dataclass(frozen=True)
class Mix:
    """What each image is mixed with: uint8 N×32×32×R×3, labels R×N, and how.

    weight: R×32×32, of the image at each pixel; share: R, of its label. The partner has the rest.
    """

    images: torch.Tensor
    labels: torch.Tensor
    weight: torch.Tensor
    share: torch.Tensor

    def inputs(self, x: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """x, others: N×(R·3)×32×32, the inputs of the images and of their partners."""
        weight = self.weight.to(x.dtype).repeat_interleave(3, 0)
        return x * weight + others * (1 - weight)

    def weighted(self, own: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """own, others: R, what the two labels give: cross-entropies, or shares of right answers.

        Cross-entropy is linear in the target: the result is that with soft targets.
        """
        share = self.share.to(own.dtype)
        return own * share + others * (1 - share)


class Epoch:
    """The batches of one epoch for the replicates of `seeds`, each in its own order with its own augmentation.

    images: uint8 n×(32+2p)×(32+2p)×3, with a border of p = augment.crop black pixels, on the training device.
    labels: n. part: (process, processes) of a batch shared by several processes.
    """

    def __init__(self, images, labels, seeds, epoch, augment, batch_size, part=(0, 1)):
        self.number, self.augment, self.batch_size = epoch, augment, batch_size
        self.images, self.labels = images, labels
        self.local = slice(part[0] * batch_size // part[1], (part[0] + 1) * batch_size // part[1])
        n, device = len(labels), images.device
        self.steps = n // batch_size
        columns = [self._draw(seed, epoch, n) for seed in seeds]
        self.order, self.top, self.left, self.flip = (torch.stack(c, 1).to(device) for c in zip(*columns, strict=True))
        self.factors = {
            name: torch.stack([_draw_factors(seed, name, epoch, n, strength) for seed in seeds], 1).to(device)
            for name in COLOURS
            if (strength := getattr(augment, name)) > 0
        }
        self.boxes = None
        if augment.mixup > 0 or augment.cutmix > 0:
            self.boxes, self.shares = (
                torch.from_numpy(np.stack(drawn, 1)).to(device)
                for drawn in zip(*(_draw_mixes(seed, epoch, self.steps, augment) for seed in seeds), strict=True)
            )
        self.pixels = torch.arange(SIZE, device=device).view(1, -1, 1, 1)
        self.ahead, self.taken = range(0), None

    def _draw(self, seed, epoch, n):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(derive(seed, "order", epoch)))
        generator = torch.Generator().manual_seed(derive(seed, "augment", epoch))
        top, left = torch.randint(2 * self.augment.crop + 1, (2, n), generator=generator)
        flip = torch.randint(2, (n,), generator=generator).bool() & self.augment.flip
        return order, top, left, flip

    def batch(self, step: int):
        """(images uint8 N×32×32×R×3, labels R×N, a Mix or None)."""
        start = step * self.batch_size
        if self.boxes is None:
            return *self._taken(step), None
        rows = torch.arange(self.batch_size, device=self.images.device)
        partners = start + rows.roll(1)[self.local]  # each image with the one before it, the first with the last
        return *self._take(start + rows[self.local]), Mix(*self._take(partners), *self._weights(step))

    def _taken(self, step: int):
        """A step's images and labels, taken together with those of some steps after it."""
        rows = self.local.stop - self.local.start
        if step not in self.ahead:
            self.ahead = range(step, min(step + max(1, AHEAD // (rows * self.order.shape[1])), self.steps))
            starts = torch.arange(self.ahead.start, self.ahead.stop, device=self.order.device) * self.batch_size
            local = torch.arange(self.local.start, self.local.stop, device=self.order.device)
            self.taken = self._take((starts[:, None] + local).flatten())
        images, labels = self.taken
        mine = slice((step - self.ahead.start) * rows, (step - self.ahead.start + 1) * rows)
        return images[mine], labels[:, mine]

    def _weights(self, step):
        """Weights R×32×32 and shares R. A step of mixup has an empty box."""
        share = self.shares[step].view(-1, 1, 1)
        top, bottom, left, right = self.boxes[step].T.unsqueeze(2)
        inside = (self.pixels.view(1, -1) >= top) & (self.pixels.view(1, -1) < bottom)
        across = (self.pixels.view(1, -1) >= left) & (self.pixels.view(1, -1) < right)
        boxed = inside.unsqueeze(2) & across.unsqueeze(1)
        cut = (bottom > top).unsqueeze(2)
        return torch.where(cut, (~boxed).to(share.dtype), share.expand(-1, SIZE, SIZE)), share.view(-1)

    def _take(self, positions):
        order = self.order[positions]
        if self.augment.crop == 0 and not self.augment.flip:
            images = self.images[order].movedim(1, 3)
        else:
            rows = self.top[positions][:, None, None] + self.pixels
            columns = self.left[positions][:, None, None] + torch.where(
                self.flip[positions][:, None, None], SIZE - 1 - self.pixels, self.pixels
            ).transpose(1, 2)
            images = self.images[order[:, None, None], rows, columns]
        for name, factors in self.factors.items():
            images = distorted(images, name, factors[positions])
        return images, self.labels[order].T


def _draw_factors(seed: int, name: str, epoch: int, n: int, strength: float) -> torch.Tensor:
    """A factor for each of n images, uniform from max(0, 1−strength) to 1+strength: (n,)."""
    generator = torch.Generator().manual_seed(derive(seed, name, epoch))
    return torch.empty(n).uniform_(max(0.0, 1 - strength), 1 + strength, generator=generator)


def distorted(images: torch.Tensor, name: str, factors: torch.Tensor) -> torch.Tensor:
    """images uint8 N×32×32×R×3, factors N×R: each image drawn away from black (brightness), from its mean grey
    (contrast) or from the grey of each pixel (saturation): factor·image + (1−factor)·that, cut off at 0 and 255.

    Values are rounded towards 0, and so is grey, as in torchvision's functions of uint8 images (ColorJitter's, which
    takes a random order): the same but where float32 stands within its rounding of a whole number.
    """
    values, factors = images.float(), factors[:, None, None, :, None]
    found = values * factors
    if name != "brightness":
        red, green, blue = values.split(1, -1)
        grey = red.mul(GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2]).floor()
        found += (1 - factors) * (grey if name == "saturation" else grey.mean((1, 2), keepdim=True))
    return found.clamp(0, 255).to(torch.uint8)


def _draw_mixes(seed: int, epoch: int, steps: int, augment):
    """Boxes (steps, 4) of cutmix: top, bottom, left, right, zeros where a step is mixup's; and shares (steps,).

    mixup: λ ~ Beta(α, α) (Zhang et al. 2018, arXiv 1710.09412). cutmix: a box of √(1−λ) of each side around a uniform
    centre, cut off at the border; the share is what is left (Yun et al. 2019, arXiv 1905.04899, rounded as torchvision
    does). With both on, each step has one of them, at even odds.
    """
    boxes, shares = np.zeros((steps, 4), dtype=np.int64), np.ones(steps)
    cut = np.full(steps, augment.cutmix > 0)
    if augment.mixup > 0:
        shares = np.random.default_rng(derive(seed, "mixup", epoch)).beta(augment.mixup, augment.mixup, steps)
    if augment.cutmix > 0:
        if augment.mixup > 0:
            cut = np.random.default_rng(derive(seed, "mix", epoch)).random(steps) < 0.5
        rng = np.random.default_rng(derive(seed, "cutmix", epoch))
        half = (0.5 * np.sqrt(1 - rng.beta(augment.cutmix, augment.cutmix, steps)) * SIZE).astype(np.int64)
        ends = [(c - half, c + half) for c in rng.integers(SIZE, size=(2, steps))]
        drawn = np.clip(np.stack([end for pair in ends for end in pair], 1), 0, SIZE)
        boxes[cut] = drawn[cut]
        area = (drawn[:, 1] - drawn[:, 0]) * (drawn[:, 3] - drawn[:, 2])
        shares = np.where(cut, 1 - area / SIZE**2, shares)
    return boxes, shares


def image_size(schedule, share: float) -> int:
    """The size of the images of a step before which this share of the training, 0 to 1, lies.

    schedule: pairs (share of training, size), or None for 32 throughout (progressive resizing: Howard's DAWNBench entry
    of 2018).
    """
    return [size for start, size in schedule or [(0, SIZE)] if share >= start][-1]


def with_border(images: torch.Tensor, pixels: int) -> torch.Tensor:
    """uint8 n×H×W×3 with a black border: n×(H+2p)×(W+2p)×3."""
    return F.pad(images, (0, 0, pixels, pixels, pixels, pixels)) if pixels else images
