"""What is told of trained networks by other statistics: accuracies, batch mates, errors of the statistics."""

import math

import pytest
import torch
from small_runs import last_of_each

from normbench.config.resolve import resolve
from normbench.config.values import to_yaml
from normbench.data.cache import dataset
from normbench.errors import InputError
from normbench.measures import MEASURES
from normbench.measures.mates import slope, spread
from normbench.measures.mismatch import Evaluation
from normbench.measures.statistics import correlation, errors
from normbench.norms.batch import BatchNorm
from normbench.norms.evaluation import moments
from normbench.random import derive
from normbench.records.metrics import outcomes
from normbench.tasks import make_task
from normbench.training import kept
from normbench.training.network import Network

HOW = ("model.width=4", "epochs=1", "data.train_size=32", "data.test_size=30", "data.val_size=20")
OF = {
    "mismatch": ("measure.batches=[2,64]", "measure.shuffles=2", "measure.images=20"),
    "mates": ("measure.batches=[2,8]", "measure.images=3", "measure.draws=4"),
    "statistics": ("measure.batches=[2,8]", "measure.images=30", "measure.draws=50"),
}


@pytest.mark.parametrize("measure", OF)
def test_a_finished_training_is_taken_and_one_that_is_not_is_done(measure, run, tmp_path, monkeypatch):
    """What is taken is left as it was kept."""
    loaded, read = [], kept.Networks.__init__

    def reads(networks, *arguments):
        read(networks, *arguments)
        loaded.append((networks.model, {name: value.clone() for name, value in networks.model.state_dict().items()}))

    monkeypatch.setattr(kept.Networks, "__init__", reads)
    how = (f"measure={measure}", *HOW, *OF[measure], "replicates=2", "stack=2", "precision=float64")
    here, rows, _ = run(*how, output=tmp_path / "here")
    trained, _, _ = run(*HOW, "replicates=2", "stack=1", "precision=float64", output=tmp_path / "there")
    there, rows_there, _ = run(*how, output=tmp_path / "there")
    [(model, before)] = loaded
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    names = [name for name in here["replicates"][0] if name in outcomes() and name not in ("seconds", "stack")]
    assert len(names) > 4
    for one, other in zip(here["replicates"], there["replicates"], strict=True):
        given = [name for name in names if one[name] is not None]
        assert given == [name for name in names if other[name] is not None]
        assert [one[name] for name in given] == [pytest.approx(other[name], rel=1e-6) for name in given]
    assert (len(rows), [row["seed"] for row in rows]) == (len(rows_there), [row["seed"] for row in rows_there])
    if measure == "mismatch":
        running = [entry["test_acc_running"] for entry in there["replicates"]]
        assert running == [entry["test_acc"] for entry in trained["replicates"]]
        assert there["replicates"][0]["test_acc_batch_1"] is None  # it was not asked for


@pytest.mark.parametrize("measure", OF)
def test_what_diverged_is_an_outcome(measure, run):
    result, rows, _ = run(f"measure={measure}", *HOW, *OF[measure], "optim.lr=1e30", "optim.warmup_samples=0")
    assert (result["status"], rows) == ("diverged", [])
    assert {value for name, value in result["replicates"][0].items() if name.startswith(("test_acc_", "mates_"))} <= {
        None
    }


@pytest.fixture
def network(compose):
    """network("norm=…") → (configuration, task, network before training)."""

    def make(*typed):
        small = ("batch_size=8", "replicates=2", "stack=2", "precision=float64")
        words = last_of_each(["data=patterns", "device=cpu", *small, *HOW, *typed])
        config = resolve(compose(*words))
        task = make_task(config, [0, 1], "cpu")
        return config, task, Network(config, task)

    return make


def test_accuracies_are_those_of_each_network_batch_by_batch(network):
    config, task, both = network("measure=mismatch", "norm=batch")
    for layer in (one for one in both.model.modules() if isinstance(one, BatchNorm)):
        layer.running_mean.fill_(3)  # what statistics of batches do not use
    found = Evaluation(config, task, both, 20).of_batches(30, 1)  # of all test images at once
    data = dataset("cpu", to_yaml(config.data))
    both.model.train()
    right = (both.model(task.test_inputs.repeated(data.test_images, 2)).argmax(2) == data.test_labels).double()
    assert found == [pytest.approx((100 * right.mean(1)).tolist())]
    [first], [again] = (Evaluation(config, task, both, 20).of_batches(64, 1) for _ in range(2))
    assert (len(first), first) == (2, again)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_mates_do_nothing_where_an_image_is_normalized_by_itself(norm, network):
    """The same bits, in float64."""
    groups = ["norm.num_groups=2"] if norm == "group" else []
    config, task, both = network("measure=mates", f"norm={norm}", *OF["mates"], *groups)
    assert spread(config, task, both, 8).tolist() == [0, 0]


def test_mates_of_batch_normalization_count_the_less_the_more_they_are(network):
    """From 8 on, where what they change is small, with the root of their number."""
    how = ("measure.images=5", "measure.draws=12", "data.train_size=500", "precision=float32", "model.width=2")
    config, task, both = network("measure=mates", "norm=batch", *how)
    found = {size: spread(config, task, both, size) for size in (8, 64)}
    assert (found[8] / found[64]).tolist() == pytest.approx([8**0.5, 8**0.5], rel=0.3)


def test_spread_is_the_deviation_of_a_logit_over_batches(network):
    """One network, one image, batches made by hand from the same draws."""
    config, task, both = network("measure=mates", "norm=batch", "measure.images=1", "measure.draws=3")
    data, logits = task.data, []
    pools = [torch.Generator().manual_seed(derive(seed, "mates", 4)) for seed in (0, 1)]
    both.model.train()
    for _ in range(3):
        drawn = [torch.randint(32, (1, 3), generator=pool)[0] for pool in pools]
        images = torch.stack([torch.cat([data.val_images[:1], data.train_images[one]]) for one in drawn], 3)
        logits.append(both.model(task.inputs(images))[:, 0])
    expected = torch.stack(logits).std(0).mean(1)
    torch.testing.assert_close(spread(config, task, both, 4), expected.detach(), rtol=1e-9, atol=0)


def test_errors_of_independent_data_fall_with_the_root_of_their_number():
    """Images whose positions are independent: σ/√(B·HW) of the mean, √(2/(B·HW)) of the variance."""
    generator = torch.Generator().manual_seed(0)
    maps = 2 * torch.randn(4000, 3, 2, 2, generator=generator, dtype=torch.float64) + 5
    mean, var = moments(maps)
    squares = var + mean.square()
    found = {}
    for size in (16, 64, 256, 512):
        drawn = torch.randint(4000, (1000, size), generator=generator)
        shares = torch.zeros(1000, 4000, dtype=torch.float64).scatter_add_(
            1, drawn, torch.full(drawn.shape, 1 / size, dtype=torch.float64)
        )
        found[size] = errors(mean, squares, shares)
        assert found[size] == pytest.approx(((4 * size) ** -0.5, (4 * size / 2) ** -0.5), rel=0.06)
    for which in (0, 1):
        assert slope({size: both[which] for size, both in found.items()}) == pytest.approx(-0.5, abs=0.03)
    assert correlation(mean, squares, 4) == pytest.approx(0, abs=0.02)


def test_correlated_positions_count_less():
    """Of variance 1 within and 3 between images the correlation is ¾; the mean of B images has σ/√n_eff."""
    generator = torch.Generator().manual_seed(1)
    between = 3**0.5 * torch.randn(20_000, 1, 1, 1, generator=generator, dtype=torch.float64)
    mean, var = moments(between + torch.randn(20_000, 1, 2, 2, generator=generator, dtype=torch.float64))
    rho = correlation(mean, var + mean.square(), 4)
    assert rho == pytest.approx(0.75, abs=0.02)
    drawn = torch.randint(20_000, (500, 10), generator=generator)
    shares = torch.zeros(500, 20_000, dtype=torch.float64).scatter_add_(
        1, drawn, torch.full(drawn.shape, 0.1, dtype=torch.float64)
    )
    effective = 10 * 4 / (1 + 3 * rho)
    assert errors(mean, var + mean.square(), shares)[0] == pytest.approx(effective**-0.5, rel=0.08)


def test_slope_is_a_power():
    assert slope({size: 3 * size**-0.4 for size in (2, 8, 64)} | {16: None}) == pytest.approx(-0.4)
    assert slope({2: 1.0}) is slope({2: 1.0, 4: 0.0}) is None
    assert math.isnan(correlation(torch.ones(3, 1), torch.ones(3, 1), 4))  # nothing varies


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("measure=mismatch", "norm=group"), "norm=group: takes no statistics over a batch"),
        (("measure=statistics", "norm=none"), "norm=none: takes no statistics over a batch"),
        (
            ("measure=mates", "measure.batches=[1,2]"),
            r"measure\.batches=\[1, 2\]: must be a list of different ones of 2, 4",
        ),
        (
            ("measure=mismatch", "measure.batches=[3]"),
            r"measure\.batches=\[3\]: must be a list of different ones of 1, 2",
        ),
        (("measure=mismatch", "measure.shuffles=0"), r"measure\.shuffles=0: must be an integer ≥ 1"),
        (("measure=mates", "measure.draws=1"), r"measure\.draws=1: must be an integer ≥ 2"),
        (("measure=statistics", "measure.images=1"), r"measure\.images=1: must be an integer ≥ 2"),
    ],
)
def test_a_mistake_is_told_before_any_run(typed, told, compose):
    config = resolve(compose("data=patterns", "device=cpu", *typed))
    with pytest.raises(InputError, match=told):
        MEASURES[config.measure.name].check(config, 1)
