"""Datasets as tensors in memory, with a fixed split into training, validation and test images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from normbench.data import cifar10, patterns
from normbench.errors import InputError, choices_text


@dataclass(frozen=True)
class Dataset:
    """Images are uint8 (N, 32, 32, 3), RGB, 0…255; labels are int64 (N,).

    `mean` and `std` are per channel, of pixels scaled to 0…1, over all training images before any split.
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    val_images: torch.Tensor
    val_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    num_classes: int = 10


# A loader takes the root folder and returns uint8 arrays as `cifar10.load_arrays` does.
LOADERS: dict[str, Callable[[str], dict[str, np.ndarray]]] = {
    "cifar10": cifar10.load_arrays,
    "patterns": lambda root: patterns.generate(),
}

# The published constants of CIFAR-10, to eight digits; other datasets have theirs computed.
MOMENTS = {
    "cifar10": ((0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784)),
}


def load_dataset(
    name: str,
    *,
    root: str,
    train_size: int | None = None,
    val_size: int = 5000,
    split_seed: int = 0,
    test_size: int | None = None,
) -> Dataset:
    """Load "cifar10" (fetched into the folder `root` at the first call) or "patterns" (generated; `root` is unused).

    val_size: images held out of the training images for validation; the rest is the training split.
    train_size: images kept of the training split, test_size: of the test images; None keeps all. A smaller subset lies
    inside every larger one.
    split_seed: fixes all three choices. Each of the three is stratified (the counts of two classes differ by at most
    one) and keeps the images in their original order.

    Raises InputError for an unknown name, or for a size or seed out of range, and UserError where CIFAR-10 can be
    neither read nor fetched.
    """
    if name not in LOADERS:
        raise InputError("name", name, choices_text(name, LOADERS))
    arrays = LOADERS[name](root)
    images, labels = arrays["train_images"], arrays["train_labels"]
    test_images, test_labels = arrays["test_images"], arrays["test_labels"]

    if not _is_integer(split_seed) or split_seed < 0:
        raise InputError("split_seed", split_seed, "takes an integer from 0")
    _check_size("val_size", val_size, len(labels) - 1)
    _check_size("train_size", train_size, len(labels) - val_size, optional=True)
    _check_size("test_size", test_size, len(test_labels), optional=True)

    val = stratified_pick(labels, val_size, (split_seed, 0))
    train = np.setdiff1d(np.arange(len(labels)), val, assume_unique=True)
    if train_size is not None:
        train = train[stratified_pick(labels[train], train_size, (split_seed, 1))]
    test = np.arange(len(test_labels))
    if test_size is not None:
        test = stratified_pick(test_labels, test_size, (split_seed, 2))

    mean, std = MOMENTS[name] if name in MOMENTS else channel_moments(images)
    return Dataset(
        name=name,
        train_images=torch.from_numpy(images[train]),
        train_labels=torch.from_numpy(labels[train].astype(np.int64)),
        val_images=torch.from_numpy(images[val]),
        val_labels=torch.from_numpy(labels[val].astype(np.int64)),
        test_images=torch.from_numpy(test_images[test]),
        test_labels=torch.from_numpy(test_labels[test].astype(np.int64)),
        mean=mean,
        std=std,
    )


def stratified_pick(labels: np.ndarray, size: int, seed) -> np.ndarray:
    """Ascending indices of `size` random items of `labels` (N,), the classes in equal numbers.

    The counts of two classes differ by at most one while no class runs out. With one seed, a smaller pick lies inside
    every larger one. seed: what `numpy.random.default_rng` takes.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    # The first of every class, then the second of every class, and so on: each head of this order is stratified.
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = labels[shuffled] == label
        turn[members] = np.arange(members.sum())
    order = shuffled[np.argsort(turn, kind="stable")]
    return np.sort(order[:size])


def channel_moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (population) per channel, in float64, of uint8 images (N, H, W, C) scaled to 0…1."""
    levels = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[-1]):
        # A histogram holds all there is to know, exactly, and takes no float copy of the images.
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        mean = share @ levels
        means.append(float(mean))
        stds.append(float(np.sqrt(share @ (levels - mean) ** 2)))
    return tuple(means), tuple(stds)


def _is_integer(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_size(key: str, value, most: int, optional: bool = False) -> None:
    if optional and value is None:
        return
    if not _is_integer(value) or not 1 <= value <= most:
        raise InputError(key, value, f"takes an integer from 1 to {most}" + (", or null for all" if optional else ""))
