"""Loss, accuracy and calibration, plainly and averaged over views, against numpy in float64."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch.nn import functional as F

from normbench.data.inputs import Inputs
from normbench.data.views import VIEWS
from normbench.tasks import classify
from normbench.tasks.scores import BINS, calibration_error, evaluate


def inputs():
    return Inputs("symmetric", (0, 0, 0), (1, 1, 1), "cpu", torch.float64)


def images(n, seed=0):
    return torch.randint(256, (n, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def slow_error(confidence, right):
    """Expected calibration error in percent, bin by bin."""
    error = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        inside = [i for i, c in enumerate(confidence) if low < c <= high or (number == 0 and c == 0)]
        if inside:
            gap = np.mean([right[i] for i in inside]) - np.mean([confidence[i] for i in inside])
            error += abs(gap) * len(inside) / len(confidence)
    return 100 * error


def test_evaluation_by_hand_and_logits_that_are_not_finite():
    labels = torch.tensor([0, 1, 2, 3, 4])
    logits = torch.randn(2, 5, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits[0, range(5), labels] = 9.0
    logits[1, 0, 0] = 9.0
    logits[1, 1] = float("nan")  # argmax of NaNs is a class like any other, maybe the right one
    logits[1, 2:, 9] = 20.0
    parts = iter(logits.split(2, 1))
    scores = evaluate(lambda x: next(parts), images(5), labels, inputs(), 2, batch_size=2)
    assert scores.acc == [100.0, 20.0]
    assert scores.right.tolist() == [[True] * 5, [True, False, False, False, False]]
    assert scores.loss[0] == pytest.approx(F.cross_entropy(logits[0], labels).item())
    assert math.isnan(scores.loss[1])
    confidence = softmax(logits[0].numpy(), 1).max(1)
    assert scores.ece[0] == pytest.approx(slow_error(confidence, [True] * 5), rel=1e-9)
    assert math.isnan(scores.ece[1])


# --- Calibration. -----------------------------------------------------------------------------------------------------


def test_a_calibration_error_by_hand():
    """Ten answers at 0.95, nine of them right, and ten at 0.55, three right: (0.05 + 0.25)/2."""
    confidence = torch.tensor([0.95] * 10 + [0.55] * 10, dtype=torch.float64)
    right = torch.tensor([True] * 9 + [False] + [True] * 3 + [False] * 7)
    assert calibration_error(confidence, right) == pytest.approx(15, rel=1e-12)


def test_bins_are_closed_above():
    """0.19 and 0.2 = 3/15 share a bin, in which one of two is right; 0.2 and 0.21 do not."""
    both = torch.tensor([True, False])
    shared = calibration_error(torch.tensor([0.19, 0.2], dtype=torch.float64), both)
    assert shared == pytest.approx(100 * abs(0.5 - 0.195))
    apart = calibration_error(torch.tensor([0.2, 0.21], dtype=torch.float64), both)
    assert apart == pytest.approx(100 * (0.8 + 0.21) / 2)
    assert calibration_error(torch.tensor([1.0]), torch.tensor([True])) == 0
    assert calibration_error(torch.tensor([1.0]), torch.tensor([False])) == 100
    assert BINS == 15


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_a_calibration_error_equals_the_slow_one(n):
    rng = np.random.default_rng(n)
    for power in (1, 4):
        confidence = rng.random(n) ** (1 / power)
        right = rng.random(n) < confidence**2
        found = calibration_error(torch.from_numpy(confidence), torch.from_numpy(right))
        assert found == pytest.approx(slow_error(confidence, right), rel=1e-9)


def test_a_confidence_that_is_not_a_number_gives_none():
    assert math.isnan(calibration_error(torch.tensor([0.5, math.nan]), torch.tensor([True, False])))


# --- Views. -----------------------------------------------------------------------------------------------------------


def linear(seed=0, replicates=2, classes=4):
    """A network of one layer, and its weights in numpy: a function of inputs N×(R·3)×32×32 → R×N×K."""
    weights = torch.randn(replicates, 3072, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    weights /= 30

    def forward(x):
        return torch.einsum("nrf,rfk->rnk", x.unflatten(1, (replicates, 3)).flatten(2), weights)

    return forward, weights.numpy()


@pytest.mark.parametrize("name", ["flip", "flip_shift", "zoom_rotate_crop"])
@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_averages_over_views_by_hand(name, average):
    x, labels = images(30), torch.arange(30) % 4
    forward, weights = linear()
    scores = evaluate(forward, x, labels, inputs(), 2, 7, views=VIEWS[name], average=average)
    views = [view.numpy().reshape(30, -1) / 127.5 - 1 for view in VIEWS[name](x.permute(0, 3, 1, 2))]
    for r in range(2):
        logits = np.stack([view @ weights[r] for view in views])
        if average == "logits":
            log_p = log_softmax(logits.mean(0), 1)
        else:
            log_p = np.log(softmax(logits, 2).mean(0))
        answers = log_p.argmax(1)
        assert scores.right[r].tolist() == (answers == labels.numpy()).tolist()
        assert scores.acc[r] == pytest.approx(100 * (answers == labels.numpy()).mean())
        assert scores.loss[r] == pytest.approx(-log_p[range(30), labels].mean(), rel=1e-9)
        confidence = np.exp(log_p.max(1))
        assert scores.ece[r] == pytest.approx(slow_error(confidence, answers == labels.numpy()), rel=1e-9)


def test_the_two_averages_differ():
    forward, _ = linear()
    kinds = [
        evaluate(forward, images(30), torch.arange(30) % 4, inputs(), 2, 30, views=VIEWS["flip"], average=average).loss
        for average in ("logits", "probabilities")
    ]
    plain = evaluate(forward, images(30), torch.arange(30) % 4, inputs(), 2, 30, average="probabilities").loss
    assert len({*kinds[0], *kinds[1], *plain}) == 6


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_a_view_without_finite_logits_spoils_the_answer(average):
    forward, _ = linear()
    calls = []

    def broken(x):
        calls.append(1)
        logits = forward(x)
        if len(calls) == 2:
            logits[1, 3] = float("nan")
        return logits

    x, labels = images(8), torch.arange(8) % 4
    whole = evaluate(forward, x, labels, inputs(), 2, 8, views=VIEWS["flip"], average=average)
    scores = evaluate(broken, x, labels, inputs(), 2, 8, views=VIEWS["flip"], average=average)
    assert torch.equal(scores.right[0], whole.right[0])
    assert not scores.right[1, 3]
    assert math.isnan(scores.loss[1])
    assert scores.loss[0] == whole.loss[0]


# --- What a run says. -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_a_run_counts_what_the_views_change(run, average):
    """Of the test images, how many the average alone has right, and how many the plain evaluation alone."""
    options = ["norm=group", "replicates=2", "stack=2", "augment.tta=flip_shift", f"augment.tta_average={average}"]
    result, _, _ = run(*options)
    plain, _, _ = run("norm=group", "replicates=2", "stack=2")
    for entry, other in zip(result["replicates"], plain["replicates"], strict=True):
        assert entry["test_acc"] == other["test_acc"]  # views stand beside the plain evaluation
        assert entry["test_acc_tta"] - entry["test_acc"] == pytest.approx(entry["tta_gained"] - entry["tta_lost"])
        assert entry["tta_gained"] + entry["tta_lost"] > 0
        assert entry["test_loss_tta"] != entry["test_loss"]
        assert entry["tta_cost"] > 1  # six views take longer than one
        assert {"val_acc_tta", "val_loss_tta", "val_ece_tta", "test_ece_tta"} <= entry.keys()
        assert not any("tta" in key for key in other)


def test_the_counts_of_a_replicate_that_diverged_are_missing(run):
    result, _, _ = run("norm=none", "optim.lr=1e12", "lr_scaling=none", "augment.tta=flip")
    (entry,) = result["replicates"]
    assert (entry["status"], entry["test_acc_tta"], entry["test_ece_tta"]) == ("diverged", 10, None)
    assert (entry["tta_gained"], entry["tta_lost"]) == (None, None)


def test_the_steps_to_a_target(run, monkeypatch):
    """The first epoch's end at which validation reached it; all steps where none did."""
    accuracies = iter([[30.0, 10.0], [50.0, 20.0], [40.0, 49.9]])
    plain = classify.evaluate

    def told(*arguments, **options):
        scores = plain(*arguments, **options)
        scores.acc[:] = next(accuracies, scores.acc)
        return scores

    monkeypatch.setattr(classify, "evaluate", told)
    options = ("norm=group", "replicates=2", "stack=2", "epochs=3", "evaluation.precise_images=0")
    result, _, _ = run(*options, "evaluation.target_acc=50")
    reached = [(entry["steps_to_target"], entry["target_reached"]) for entry in result["replicates"]]
    assert reached == [(24, True), (36, False)]  # twelve steps an epoch
    assert "steps_to_target" not in run(*options)[0]["replicates"][0]


def test_the_accuracy_early_in_training_is_that_of_the_first_validation_from_there_on(run):
    """A quarter of 10 steps lies between 2 and 3, after which the next validation is at 4."""
    how = ("epochs=1", "data.train_size=80", "batch_size=8", "evaluation.every_steps=2")
    result, rows, _ = run(*how, "evaluation.early_acc=0.25")
    [entry], [row] = result["replicates"], [row for row in rows if row["step"] == "4"]
    assert entry["val_acc_early"] == float(row["val_acc"])
    lost, _, _ = run(*how, "evaluation.early_acc=0.25", "norm=none", "optim.lr=1e20")
    [entry] = lost["replicates"]
    assert (entry["status"], entry["val_acc_early"]) == ("diverged", 10)
