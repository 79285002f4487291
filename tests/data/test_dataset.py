"""The split, the subsets, and the generated patterns."""

import hashlib

import numpy as np
import pytest
import torch

from normbench import data
from normbench.data import channel_moments, load_dataset, patterns, stratified_pick
from normbench.errors import InputError


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


def counts(labels):
    return np.bincount(np.asarray(labels), minlength=10)


@pytest.fixture
def numbered(monkeypatch):
    """A dataset "numbered" in whose images the first two bytes spell the image's index."""

    def arrays(n):
        images = np.zeros((n, 32, 32, 3), dtype=np.uint8)
        images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(n) // 256, np.arange(n) % 256
        return images, np.random.default_rng(0).permutation(np.arange(n) % 10).astype(np.uint8)

    train_images, train_labels = arrays(3000)
    test_images, test_labels = arrays(500)
    known = {
        "train_images": train_images,
        "train_labels": train_labels,
        "test_images": test_images,
        "test_labels": test_labels,
    }
    monkeypatch.setitem(data.LOADERS, "numbered", lambda root: known)
    return known


def load_numbered(**sizes):
    return load_dataset("numbered", root="unused", **{"val_size": 500, **sizes})


def numbers(images):
    return (images[:, 0, 0, 0].int() * 256 + images[:, 0, 0, 1]).tolist()


# --- the split -------------------------------------------------------------------------------------------------------


def test_split_is_disjoint_stratified_and_in_order(numbered):
    dataset = load_numbered()
    train, val, test = (numbers(getattr(dataset, f"{split}_images")) for split in ("train", "val", "test"))
    assert sorted(train + val) == list(range(3000))
    assert (train, val, test) == (sorted(train), sorted(val), list(range(500)))
    assert counts(dataset.val_labels).tolist() == [50] * 10
    assert counts(dataset.train_labels).tolist() == [250] * 10


def test_labels_stay_with_their_images(numbered):
    dataset = load_numbered(train_size=77, test_size=33)
    for split, known in (("train", "train"), ("val", "train"), ("test", "test")):
        images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
        assert labels.tolist() == numbered[f"{known}_labels"][numbers(images)].tolist()
        assert images.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert images.shape == (len(labels), 32, 32, 3)


def test_split_follows_its_seed_alone(numbered):
    val = numbers(load_numbered().val_images)
    np.random.seed(1)
    torch.manual_seed(1)
    assert numbers(load_numbered(train_size=100, test_size=10).val_images) == val
    assert numbers(load_numbered(split_seed=1).val_images) != val


@pytest.mark.parametrize("size", [1, 7, 503])
def test_odd_sizes_spread_over_the_classes(numbered, size):
    dataset = load_numbered(val_size=size, train_size=size, test_size=min(size, 499))
    for labels in (dataset.val_labels, dataset.train_labels, dataset.test_labels):
        assert np.ptp(counts(labels)) == 1
    assert len(dataset.val_labels) == len(dataset.train_labels) == size


@pytest.mark.parametrize(("key", "split"), [("train_size", "train"), ("test_size", "test")])
def test_subsets_are_nested(numbered, key, split):
    picked = [set(numbers(getattr(load_numbered(**{key: size}), f"{split}_images"))) for size in (20, 200, 345)]
    assert [len(subset) for subset in picked] == [20, 200, 345]
    assert picked[0] < picked[1] < picked[2]


def test_pick_is_pinned():
    """Whoever changes this changes the split, and makes earlier results incomparable."""
    labels = np.arange(50_000) % 10
    val = stratified_pick(labels, 5000, (0, 0))
    assert sha256(val.astype("<i8")) == "975baafc710f18145e98581f5db9790d7fbc894bae31bd0e3ca1cab7bfb6ad4a"


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("val_size", 0, "1 to 2999"),
        ("val_size", 3000, "1 to 2999"),
        ("val_size", None, "1 to 2999"),
        ("train_size", 0, "1 to 2500, or null for all"),
        ("train_size", -5, "1 to 2500, or null for all"),
        ("train_size", 2501, "1 to 2500, or null for all"),
        ("train_size", 10.0, "1 to 2500, or null for all"),
        ("train_size", True, "1 to 2500, or null for all"),
        ("test_size", 501, "1 to 500, or null for all"),
        ("test_size", "all", "1 to 500, or null for all"),
        ("split_seed", -1, "from 0"),
        ("split_seed", None, "from 0"),
    ],
)
def test_bad_values_are_named_with_their_range(numbered, key, value, allowed):
    with pytest.raises(InputError) as caught:
        load_numbered(**{key: value})
    assert (caught.value.key, caught.value.value) == (key, value)
    assert caught.value.text.endswith(allowed)


def test_largest_sizes_are_allowed(numbered):
    dataset = load_numbered(train_size=2500, test_size=500)
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (2500, 500)
    assert len(load_numbered(val_size=2999).train_labels) == 1


def test_unknown_name():
    with pytest.raises(InputError, match=r"name=cifar: did you mean cifar10\? choices: cifar10, patterns"):
        load_dataset("cifar", root="unused")


@pytest.mark.parametrize("sizes", [{}, {"train_size": 50}])
def test_moments_are_those_of_the_training_split(numbered, sizes):
    dataset = load_numbered(**sizes)
    pixels = dataset.train_images.numpy().reshape(-1, 3) / 255
    np.testing.assert_allclose(dataset.mean, pixels.mean(0), rtol=1e-9)
    np.testing.assert_allclose(dataset.std, pixels.std(0), rtol=1e-9)


def test_cifar10_loads_with_the_default_split(cifar10_root):
    dataset = load_dataset("cifar10", root=cifar10_root)
    assert [len(labels) for labels in (dataset.train_labels, dataset.val_labels, dataset.test_labels)] == [
        45_000,
        5_000,
        10_000,
    ]
    assert counts(dataset.train_labels).tolist() == [4500] * 10
    assert sha256(dataset.val_images) == "1fe40dff874e8f23b9df428098cb7da8be18de40e6fcbc3dafa5c4e17304ce53"
    pixels = dataset.train_images.numpy().reshape(-1, 3)
    np.testing.assert_allclose(dataset.mean, pixels.mean(0, dtype=np.float64) / 255, rtol=1e-9)
    # All 50,000 have the moments that are published of them; those of the split are close.
    known = (0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784)
    every = np.concatenate([dataset.train_images, dataset.val_images])
    np.testing.assert_allclose(channel_moments(every), known, rtol=0, atol=5e-9)
    np.testing.assert_allclose((dataset.mean, dataset.std), known, rtol=0, atol=2e-3)


# --- patterns --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generated():
    return patterns.generate()


def test_patterns_are_the_same_everywhere(generated):
    assert sha256(generated["train_images"]) == "0f9abac6aa0c7a535c768156ca14c89bfbff45232ed3effa91f2787962a60b30"
    assert sha256(generated["test_images"]) == "a2498f0feac9705c5f54988332aef8907e101f179984e99c14ba2aea8c40330b"
    again = patterns.generate()
    for name, array in generated.items():
        np.testing.assert_array_equal(array, again[name])


def test_patterns_are_balanced_and_distinct(generated):
    assert generated["train_images"].shape == (6000, 32, 32, 3)
    assert generated["test_images"].shape == (1000, 32, 32, 3)
    assert counts(generated["train_labels"]).tolist() == [600] * 10
    assert counts(generated["test_labels"]).tolist() == [100] * 10
    images = np.concatenate([generated["train_images"], generated["test_images"]])
    assert len({image.tobytes() for image in images}) == 7000


def test_mean_colour_does_not_give_the_class_away(generated):
    def features(images):
        colour = images.mean((1, 2)) / 255
        return np.concatenate([colour, np.ones((len(colour), 1))], axis=1)

    targets = np.eye(10)[generated["train_labels"]]
    weights = np.linalg.lstsq(features(generated["train_images"]), targets, rcond=None)[0]
    predicted = (features(generated["test_images"]) @ weights).argmax(1)
    assert (predicted == generated["test_labels"]).mean() < 0.15


def test_patterns_are_learnable(generated):
    """Two epochs of a small network do far better than the 10% of chance."""
    torch.manual_seed(0)

    def block(inputs, outputs):
        conv = torch.nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return torch.nn.Sequential(conv, torch.nn.BatchNorm2d(outputs), torch.nn.ReLU(), torch.nn.MaxPool2d(2))

    def inputs(split):
        return torch.from_numpy(generated[f"{split}_images"]).permute(0, 3, 1, 2) / 127.5 - 1

    def labels(split):
        return torch.from_numpy(generated[f"{split}_labels"]).long()

    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(64, 10)]
    model = torch.nn.Sequential(block(3, 16), block(16, 32), block(32, 64), *head)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train_inputs, train_labels = inputs("train"), labels("train")
    for _ in range(2):
        for batch in torch.randperm(6000).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(train_inputs[batch]), train_labels[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (model.eval()(inputs("test")).argmax(1) == labels("test")).float().mean().item()
    assert accuracy > 0.5
