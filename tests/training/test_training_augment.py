"""The batches of an epoch, and what they are mixed and smoothed with, against torchvision's transforms."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as v2
import torchvision.transforms.v2.functional as tv
from scipy import stats
from torch.nn import functional as F

from normbench.data.epoch import Epoch, image_size, with_border
from normbench.data.inputs import Inputs
from normbench.random import derive
from normbench.tasks import classify
from normbench.tasks.classify import mean_losses, right_answers

BOTH = {"mixup": 0.4, "cutmix": 1.0}


def augment(crop=0, flip=False, mixup=0.0, cutmix=0.0, brightness=0.0, contrast=0.0, saturation=0.0):
    return SimpleNamespace(**locals())


def images(n, seed=0):
    return torch.randint(256, (n, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# --- Crop and flip. ---------------------------------------------------------------------------------------------------


def test_crop_and_flip_equal_torchvisions():
    originals, labels = images(20), torch.arange(20)
    epoch = Epoch(with_border(originals, 4), labels, [7, 8], 3, augment(crop=4, flip=True), batch_size=6)
    assert epoch.steps == 3
    seen = []
    for step in range(3):
        batch, truth, partners = epoch.batch(step)
        assert partners is None
        assert batch.shape == (6, 32, 32, 2, 3)
        for r in range(2):
            for i in range(6):
                at = 6 * step + i
                index = epoch.order[at, r]
                padded = tv.pad(originals[index].permute(2, 0, 1), [4])
                expected = tv.crop(padded, int(epoch.top[at, r]), int(epoch.left[at, r]), 32, 32)
                if epoch.flip[at, r]:
                    expected = tv.horizontal_flip(expected)
                assert torch.equal(batch[i, :, :, r].permute(2, 0, 1), expected)
                assert truth[r, i] == index
                seen.append((r, int(index)))
    assert len(set(seen)) == 36  # each image at most once a replicate
    assert epoch.top.min() >= 0
    assert epoch.top.max() <= 8


def test_a_step_has_its_batch_wherever_one_begins():
    def epoch():
        return Epoch(
            with_border(images(200), 4), torch.arange(200), [7, 8], 3, augment(crop=4, flip=True), batch_size=2
        )

    one, expected = epoch(), [epoch().batch(step) for step in range(100)]
    for step in [*range(40, 100), *range(60), 99, 0, 50]:
        assert all(torch.equal(a, b) for a, b in zip(one.batch(step)[:2], expected[step][:2], strict=True))


def test_augmentation_is_drawn_over_its_whole_range_and_anew_each_epoch():
    epochs = [Epoch(images(2000), torch.zeros(2000), [1], e, augment(4, True), 10) for e in (0, 1)]
    for epoch in epochs:
        assert set(epoch.top.flatten().tolist()) == set(epoch.left.flatten().tolist()) == set(range(9))
        assert 0.45 < epoch.flip.double().mean() < 0.55
        assert torch.equal(epoch.order.flatten().sort().values, torch.arange(2000))
    assert not torch.equal(epochs[0].order, epochs[1].order)
    assert not torch.equal(epochs[0].flip, epochs[1].flip)


def test_processes_take_the_parts_of_one_batch():
    def epoch(*part):
        return Epoch(with_border(images(32), 4), torch.arange(32), [0, 1], 0, augment(4, True, **BOTH), 8, *part)

    for step in range(4):
        x, labels, mix = epoch().batch(step)
        pieces = [epoch((k, 2)).batch(step) for k in (0, 1)]
        assert torch.equal(x, torch.cat([piece[0] for piece in pieces]))
        assert torch.equal(labels, torch.cat([piece[1] for piece in pieces], 1))
        assert torch.equal(mix.images, torch.cat([piece[2].images for piece in pieces]))
        assert torch.equal(mix.labels, torch.cat([piece[2].labels for piece in pieces], 1))
        for piece in pieces:
            assert torch.equal(mix.share, piece[2].share)
            assert torch.equal(mix.weight, piece[2].weight)


# --- Colours. ---------------------------------------------------------------------------------------------------------

COLOURED = {"brightness": 0.4, "contrast": 0.7, "saturation": 1.5}


def test_distorted_colours_equal_torchvisions():
    """Brightness, contrast, saturation, after crop and flip; but for numbers that float32 has on the other side of a
    whole one, which a later distortion makes a few grey levels of."""
    how = {"labels": torch.arange(24), "seeds": [7, 8], "epoch": 3, "batch_size": 8}
    plain = Epoch(with_border(images(24), 4), augment=augment(4, True), **how)
    found = Epoch(with_border(images(24), 4), augment=augment(4, True, **COLOURED), **how)
    pixels = []
    for step in range(3):
        before, after = plain.batch(step)[0], found.batch(step)[0]
        for i in range(8):
            for r in range(2):
                image = before[i, :, :, r].permute(2, 0, 1)
                for name, function in (
                    ("brightness", tv.adjust_brightness),
                    ("contrast", tv.adjust_contrast),
                    ("saturation", tv.adjust_saturation),
                ):
                    image = function(image, found.factors[name][8 * step + i, r].item())
                pixels.append(after[i, :, :, r].permute(2, 0, 1).int() - image.int())
        assert (before != after).double().mean() > 0.5
    pixels = torch.stack(pixels).abs()
    assert (pixels > 0).double().mean() < 0.001
    assert pixels.max() <= 4


def test_colours_are_drawn_as_colour_jitter_draws_them_and_anew_each_epoch():
    epochs = [Epoch(images(2000), torch.zeros(2000), [1, 2], e, augment(**COLOURED), 10) for e in (0, 1)]
    for name, strength in COLOURED.items():
        low, high = v2.ColorJitter(**{name: strength}).__dict__[name]
        for drawn in epochs[0].factors[name].T:
            assert stats.kstest(drawn, stats.uniform(low, high - low).cdf).pvalue > 0.01
        both = [epochs[0].factors[name][:, 0], epochs[0].factors[name][:, 1], epochs[1].factors[name][:, 0]]
        assert len(torch.stack(both).unique(dim=0)) == 3
    alone = Epoch(images(8), torch.zeros(2000), [1], 0, augment(saturation=1.5), 10)
    assert list(alone.factors) == ["saturation"]
    assert torch.equal(alone.factors["saturation"][:, 0], epochs[0].factors["saturation"][:, 0])


def test_the_partner_of_a_mix_is_distorted_as_it_is_alone():
    epoch = Epoch(images(8), torch.arange(8), [3], 0, augment(mixup=0.5, **COLOURED), 8)
    found, _, mix = epoch.batch(0)
    assert torch.equal(mix.images, found.roll(1, 0))


# --- Mixup and cutmix. ------------------------------------------------------------------------------------------------


def mixed(epoch, step):
    """Inputs 0…1 N×(R·3)×32×32, those of the images alone, labels R×N and the Mix, as the loop makes them."""
    x, labels, mix = epoch.batch(step)
    inputs = Inputs("unit", (0, 0, 0), (1, 1, 1), "cpu", torch.float64)
    return mix.inputs(inputs(x), inputs(mix.images)), inputs(x), labels, mix


def assert_mixed_as_by(transform, epoch, step, r):
    """One replicate of a step, its images and its loss with soft targets and label smoothing."""
    found, alone, labels, mix = mixed(epoch, step)
    own = slice(3 * r, 3 * r + 3)
    wanted, soft = transform(alone[:, own], labels[r])
    torch.testing.assert_close(found[:, own], wanted, rtol=1e-6, atol=1e-6)  # its λ is a float32
    logits = torch.randn(2, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
    for smoothing in (0.0, 0.2):
        losses = mix.weighted(mean_losses(logits, labels, smoothing), mean_losses(logits, mix.labels, smoothing))
        wanted = F.cross_entropy(logits[r], soft.double(), label_smoothing=smoothing)
        assert losses[r].item() == pytest.approx(wanted.item(), rel=1e-6)
    right = mix.weighted(right_answers(logits, labels), right_answers(logits, mix.labels))
    wanted = soft.gather(1, logits[r].argmax(1, keepdim=True)).mean()  # the soft target's share of what is answered
    assert right[r].item() == pytest.approx(wanted.item(), abs=1e-6)


def with_share(transform, share):
    transform._dist = SimpleNamespace(sample=lambda shape: torch.tensor([share]))
    return transform


def test_mixup_equals_torchvisions():
    epoch = Epoch(images(32), torch.arange(32) % 10, [5, 6], 0, augment(mixup=0.4), 8)
    for step in range(4):
        _, _, labels, mix = mixed(epoch, step)
        assert torch.equal(mix.labels, labels.roll(1, 1))
        for r in range(2):
            share = mix.share[r].item()
            assert 0 < share < 1
            assert_mixed_as_by(with_share(v2.MixUp(num_classes=10), share), epoch, step, r)


def test_mixup_by_hand():
    """x = λ·x₁ + (1−λ)·x₂, in float64, for cropped and flipped images too."""
    epoch = Epoch(with_border(images(16), 4), torch.arange(16), [3], 2, augment(4, True, mixup=0.7), 8)
    share = np.random.default_rng(derive(3, "mixup", 2)).beta(0.7, 0.7, 2)
    for step in range(2):
        found, alone, _, _ = mixed(epoch, step)
        wanted = share[step] * alone + (1 - share[step]) * alone.roll(1, 0)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_cutmix_equals_torchvisions(monkeypatch):
    """Given the same λ and centre of the box."""
    epoch = Epoch(images(160), torch.arange(160) % 10, [5, 6], 1, augment(cutmix=1.0), 8)
    cut_off = 0
    for r, seed in enumerate((5, 6)):
        rng = np.random.default_rng(derive(seed, "cutmix", 1))
        shares, (rows, columns) = rng.beta(1, 1, 20), rng.integers(32, size=(2, 20))
        for step in range(20):
            centre = iter((columns[step], rows[step]))  # torchvision draws x, then y
            transform = with_share(v2.CutMix(num_classes=10), float(shares[step]))
            with monkeypatch.context() as patch:
                patch.setattr(torch, "randint", lambda high, size, centre=centre: torch.tensor([next(centre)]))
                assert_mixed_as_by(transform, epoch, step, r)
            half = int(16 * math.sqrt(1 - shares[step]))
            mix = epoch.batch(step)[2]
            cut_off += mix.share[r] > 1 - (2 * half / 32) ** 2
            # the label's share is that of the pixels
            assert mix.share[r].item() == pytest.approx(mix.weight[r].mean().item(), rel=1e-12)
            assert set(mix.weight[r].unique().tolist()) <= {0, 1}
    assert 5 < cut_off <= 35  # boxes at the border and boxes inside


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixups_share_has_its_distribution(alpha):
    epoch = Epoch(images(8), torch.zeros(4000), [1], 0, augment(mixup=alpha), 2)
    assert stats.kstest(epoch.shares.flatten(), stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_cutmixs_boxes_have_their_distribution():
    epoch = Epoch(images(8), torch.zeros(8000), [1], 0, augment(cutmix=1.0), 2)
    top, bottom, left, right = epoch.boxes.flatten(1).T.double()
    assert min(top.min(), left.min()) == 0
    assert max(bottom.max(), right.max()) == 32
    # Where nothing is cut off, area = (1−λ)·32² but for rounding down; on the whole it is less.
    inside = (top > 0) & (left > 0) & (bottom < 32) & (right < 32)
    assert torch.equal((bottom - top)[inside], (right - left)[inside])
    # rows and columns alike, either way around
    for a, b in ((top, left), (bottom, right), (top, 32 - bottom)):
        assert abs(a.mean() - b.mean()) < 5 * (a - b).std() / math.sqrt(4000)
    assert 0.5 < epoch.shares.mean() < 0.75


def test_with_both_on_each_step_has_one_of_them():
    steps = 1000
    epoch = Epoch(images(8), torch.zeros(2 * steps), [1, 2], 0, augment(**BOTH), 2)
    alone = {
        name: Epoch(images(8), torch.zeros(2 * steps), [1, 2], 0, augment(**{name: BOTH[name]}), 2) for name in BOTH
    }
    counts = {"mixup": 0, "cutmix": 0}
    for step in range(steps):
        weight, share = epoch._weights(step)
        for r in range(2):
            name = "mixup" if weight[r].unique().numel() == 1 and share[r] < 1 else "cutmix"
            other_weight, other_share = alone[name]._weights(step)
            assert share[r] == other_share[r]
            assert torch.equal(weight[r], other_weight[r])
            counts[name] += 1
    assert abs(counts["mixup"] - steps) < 4 * math.sqrt(2 * steps / 4)
    one, other = (epoch.boxes[:, r, 1] > 0 for r in range(2))
    assert 0.4 < (one == other).double().mean() < 0.6  # each replicate decides for itself


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}, BOTH], ids=["mixup", "cutmix", "both"])
def test_a_replicate_is_mixed_as_it_is_alone_and_each_anew(options):
    def epoch(*seeds, number=0):
        return Epoch(images(64), torch.arange(64), seeds, number, augment(**options), 8)

    together, alone = epoch(7, 8, 9), [epoch(seed) for seed in (7, 8, 9)]
    for step in range(8):
        found, _, labels, mix = mixed(together, step)
        for r in range(3):
            wanted, _, own_labels, own = mixed(alone[r], step)
            assert torch.equal(found[:, 3 * r : 3 * r + 3], wanted)
            assert torch.equal(labels[r], own_labels[0])
            assert torch.equal(mix.labels[r], own.labels[0])
            assert mix.share[r] == own.share[0]
    shares = torch.stack([*together.shares.T, epoch(7, number=1).shares[:, 0]])
    assert len(shares.unique(dim=0)) == 4  # another seed, another epoch


# --- The loss. --------------------------------------------------------------------------------------------------------


def test_label_smoothing_of_three_classes():
    """ε = 0.15: the target is 0.9 for the class and 0.05 for each other."""
    logits = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 1, 2, 0, 1, 2], [2, 2, 1, 1, 0, 0]])
    target = torch.full((2, 6, 3), 0.05, dtype=torch.float64).scatter(2, labels[..., None], 0.9)
    wanted = -(target * logits.log_softmax(2)).sum(2).mean(1)
    torch.testing.assert_close(mean_losses(logits, labels, 0.15), wanted, rtol=1e-12, atol=0)
    for r in range(2):
        torchs = F.cross_entropy(logits[r], labels[r], label_smoothing=0.15)
        torch.testing.assert_close(mean_losses(logits, labels, 0.15)[r], torchs, rtol=1e-12, atol=0)
    plain = mean_losses(logits, labels)
    torch.testing.assert_close(plain[0], F.cross_entropy(logits[0], labels[0]), rtol=1e-12, atol=0)


# --- Progressive resizing. --------------------------------------------------------------------------------------------


def test_the_schedule_of_sizes():
    assert [image_size(None, samples / 100) for samples in (0, 50, 99)] == [32] * 3
    schedule = [[0, 16], [0.5, 24], [0.75, 32]]
    assert [image_size(schedule, samples / 100) for samples in (0, 49, 50, 74, 75, 99)] == [16, 16, 24, 24, 32, 32]
    assert image_size([[0, 48]], 7 / 8) == 48
    assert [image_size([[0, 32], [0.3, 16]], samples / 1000) for samples in (299, 300)] == [32, 16]


def test_training_sees_the_sizes_of_the_schedule_and_evaluation_the_full_one(run, monkeypatch):
    seen, make_model = [], classify.make_model

    def watched(config, seeds):
        model = make_model(config, seeds)
        model.register_forward_pre_hook(lambda module, x: seen.append((module.training, *x[0].shape[2:])))
        return model

    monkeypatch.setattr(classify, "make_model", watched)
    sizes = "augment.resize=[[0,16],[0.4,24],[0.75,32]]"
    _, rows, _ = run("norm=group", "data.train_size=80", sizes)  # ten steps in each of two epochs
    trained = [size for training, *size in seen if training]
    assert trained == [[16, 16]] * 8 + [[24, 24]] * 7 + [[32, 32]] * 5
    assert {tuple(size) for training, *size in seen if not training} == {(32, 32)}
    assert [row["image_size"] for row in rows] == ["24", "32"]
