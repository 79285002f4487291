"""The batches of one epoch: which images, cropped and flipped how, mixed with which others; all drawn beforehand."""

import numpy as np
import torch
from torch.nn import functional as F

from normbench.training.random import derive

SIZE = 32


class Epoch:
    """The batches of one epoch for the replicates of `seeds`, each in its own order with its own augmentation.

    images: uint8 n×(32+2p)×(32+2p)×3, with a border of p = augment.crop black pixels, on the training device.
    labels: n. part: (process, processes) of a batch shared by several processes.
    batch(step) gives uint8 N×32×32×R×3, labels R×N and, under mixup, the same of the partners with λ (R).
    """

    def __init__(self, images, labels, seeds, epoch, augment, batch_size, part=(0, 1)):
        self.images, self.labels, self.augment, self.batch_size = images, labels, augment, batch_size
        self.local = slice(part[0] * batch_size // part[1], (part[0] + 1) * batch_size // part[1])
        n, device = len(labels), images.device
        self.steps = n // batch_size
        columns = [self._draw(seed, epoch, n) for seed in seeds]
        self.order, self.top, self.left, self.flip = (torch.stack(c, 1).to(device) for c in zip(*columns, strict=True))
        self.mix = None
        if augment.mixup > 0:
            draws = [
                np.random.default_rng(derive(seed, "mixup", epoch)).beta(augment.mixup, augment.mixup, self.steps)
                for seed in seeds
            ]
            self.mix = torch.from_numpy(np.stack(draws, 1)).to(device)
        self.pixels = torch.arange(SIZE, device=device).view(1, -1, 1, 1)

    def _draw(self, seed, epoch, n):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(derive(seed, "order", epoch)))
        generator = torch.Generator().manual_seed(derive(seed, "augment", epoch))
        top, left = torch.randint(2 * self.augment.crop + 1, (2, n), generator=generator)
        flip = torch.randint(2, (n,), generator=generator).bool() & self.augment.flip
        return order, top, left, flip

    def batch(self, step: int):
        """(images, labels, None) or, under mixup, (images, labels, (partners' images, their labels, λ))."""
        rows = torch.arange(self.batch_size, device=self.images.device) if self.mix is not None else None
        start = step * self.batch_size
        if rows is None:
            return *self._take(slice(start + self.local.start, start + self.local.stop)), None
        partners = start + rows.roll(1)[self.local]  # each image with the one before it, the first with the last
        return *self._take(start + rows[self.local]), (*self._take(partners), self.mix[step])

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
        return images, self.labels[order].T


def with_border(images: torch.Tensor, pixels: int) -> torch.Tensor:
    """uint8 n×H×W×3 with a black border: n×(H+2p)×(W+2p)×3."""
    return F.pad(images, (0, 0, pixels, pixels, pixels, pixels)) if pixels else images


def mean_losses(logits, labels, label_smoothing=0.0):
    """Cross-entropy of each replicate, averaged over its batch: logits R×N×K, labels R×N, result R."""
    replicates, n = labels.shape
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=label_smoothing, reduction="none")
    return losses.view(replicates, n).mean(1)
