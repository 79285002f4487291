"""Datasets as tensors in memory, with a fixed split into training, validation and test images."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from normbench.config.sizes import LABELS
from normbench.data import cifar10, patterns
from normbench.data.corruption import brightness, corrupted, mislabelled
from normbench.errors import InputError, require_choice
from normbench.random import derive


@dataclass(frozen=True)
class Dataset:
    """Images are uint8 (N, 32, 32, 3), RGB, 0…255; labels are int64 (N,).

    `mean` and `std` are per channel, of the training split's pixels scaled to 0…1 (times `channel_scale`).
    `channel_scale` is a factor on the red channel of the training images, `test_channel_scale` on that of the others;
    the inputs apply it (8 bits cannot hold it).
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
    channel_scale: float = 1.0
    test_channel_scale: float = 1.0


# A loader takes the root folder and returns uint8 arrays as `cifar10.load_arrays` does.
LOADERS: dict[str, Callable[[str], dict[str, np.ndarray]]] = {
    "cifar10": cifar10.load_arrays,
    "patterns": lambda root: patterns.generate(),
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
    require_choice("name", name, LOADERS)
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

    mean, std = channel_moments(images[train])
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


def prepare(dataset: Dataset, options) -> Dataset:
    """The dataset with the labels and corruptions of a resolved configuration's `data`, as conf/data/ describes them.

    Validation images are treated as test images are. Raises InputError for a value out of range.
    """
    images, labels = {}, {}
    train_brightness = brightness(dataset.train_images)
    for number, split in enumerate(("train", "val", "test")):
        clean, labels[split] = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
        if options.labels == "brightness":
            labels[split] = (brightness(clean) > train_brightness.median()).long()
        prefix = "" if split == "train" else "test_"
        images[split] = corrupted(
            clean,
            noise=options[f"{prefix}noise"],
            strength=options[f"{prefix}noise_strength"],
            bits=options[f"{prefix}bits"],
            seed=derive(options.split_seed, "noise", number),
        )
    classes = LABELS[options.labels]
    seed = derive(options.split_seed, "label_noise")
    labels["train"] = mislabelled(labels["train"], options.label_noise, classes, seed)
    mean, std = dataset.mean, dataset.std
    if images["train"] is not dataset.train_images:
        mean, std = channel_moments(images["train"].cpu().numpy())
    return replace(
        dataset,
        **{f"{split}_images": value for split, value in images.items()},
        **{f"{split}_labels": value for split, value in labels.items()},
        mean=(mean[0] * options.channel_scale, *mean[1:]),
        std=(std[0] * options.channel_scale, *std[1:]),
        num_classes=classes,
        channel_scale=options.channel_scale,
        test_channel_scale=options.test_channel_scale,
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
