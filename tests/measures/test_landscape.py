"""The loss along a gradient: on quadratics in closed form, in float64; and that looking at it is no training."""

from io import StringIO

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from normbench.analysis import landscape_page, step_page
from normbench.config.resolve import resolve
from normbench.errors import InputError
from normbench.measures import landscape, landscape_linear, step
from normbench.measures.line import Line
from normbench.models import take_replicate
from normbench.records.metrics import COLUMNS
from normbench.runs.collect import gather
from normbench.tasks import make_task
from normbench.training.network import Network
from normbench.training.schedule import configured_plan
from normbench.training.steps import steps

RATES = [0.01, 0.05, 0.2, 0.5]
R, D = 2, 5


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Quadratics:
    """R functions ½(w−c)ᵀH(w−c) of a vector in two parts, of 2 and 3, each a parameter with R outermost."""

    def __init__(self):
        roots = normal(R, D, D, seed=1)
        self.h, self.c = roots @ roots.mT, normal(R, D, seed=2)
        self.w = normal(R, D, seed=3)
        self.parts = [nn.Parameter(part.clone()) for part in self.w.split([2, 3], 1)]

    def losses(self):
        away = torch.cat(self.parts, 1) - self.c
        return 0.5 * (away * (self.h @ away[:, :, None])[:, :, 0]).sum(1)

    def by_hand(self, index):
        """w, g, Hg and the loss at w − ηg as a function of η, in numpy."""
        h, w, away = (one[index].numpy() for one in (self.h, self.w, self.w - self.c))
        g = h @ away
        return w, g, h @ g, lambda eta: 0.5 * away @ h @ away - eta * g @ g + 0.5 * eta**2 * g @ h @ g


def test_of_a_quadratic_all_is_known():
    of = Quadratics()
    with Line(of.parts, of.losses) as line:
        found = landscape.observe(line, RATES, [0, 1])
    for index in range(R):
        w, g, hg, loss = of.by_hand(index)
        along = [loss(eta) for eta in RATES]
        parts = [slice(2), slice(2, 5)]
        sizes = [np.linalg.norm(w[part]) for part in parts]
        change = np.hypot(*(size * np.linalg.norm(hg[part]) for size, part in zip(sizes, parts, strict=True)))
        way = np.hypot(*(np.linalg.norm(g[part]) / size for size, part in zip(sizes, parts, strict=True)))
        expected = {
            "loss": loss(0),
            "grad_norm": np.linalg.norm(g),
            "loss_min": min(along),
            "loss_max": max(along),
            "loss_range": max(along) - min(along),
            "grad_change_min": RATES[0] * np.linalg.norm(hg),
            "grad_change": RATES[-1] * np.linalg.norm(hg),
            "beta": np.linalg.norm(hg) / np.linalg.norm(g),
            "beta_relative": change / way,
            "finite": len(RATES),
        }
        assert {name: values[index].item() for name, values in found.items()} == pytest.approx(expected, rel=1e-11)
    assert torch.equal(torch.cat([part.detach() for part in of.parts], 1), of.w)
    assert all(part.grad is None for part in of.parts)


def test_rates_of_their_own_take_each_replicate_its_own_way():
    of = Quadratics()
    with Line(of.parts, of.losses) as line:
        line.go(torch.tensor([0.1, 0.3], dtype=torch.float64))
        found = line.look_at_losses().tolist()
    assert found == pytest.approx([of.by_hand(0)[3](0.1), of.by_hand(1)[3](0.3)], rel=1e-12)


def test_the_way_back_is_taken_from_an_error_too():
    of = Quadratics()
    with Line(of.parts, of.losses) as line, pytest.raises(IndexError):
        landscape.observe(line, [0.1], [7])
    with pytest.raises(TypeError), Line(of.parts, of.losses) as line:
        landscape.observe(line, [0.1, None], [0])
    assert torch.equal(torch.cat([part.detach() for part in of.parts], 1), of.w)


def test_relative_beta_does_not_depend_on_the_scale_of_what_is_normalized():
    """f(w/‖w‖) at w and 10w, where steps are 100 times as long."""
    weights, target = normal(1, 6), normal(1, 6, seed=4)
    found = []
    for scale in (1, 10):
        w = nn.Parameter(scale * weights)
        with Line([w], lambda w=w: ((w / w.norm()) - target).pow(4).sum(1)) as line:
            found.append(landscape.observe(line, [0.01 * scale**2, 0.1 * scale**2], [0]))
    assert found[0]["beta_relative"].item() == pytest.approx(found[1]["beta_relative"].item(), rel=1e-10)
    assert found[0]["beta"].item() == pytest.approx(100 * found[1]["beta"].item(), rel=1e-10)


def test_where_the_loss_is_not_finite_the_others_count():
    """log(4 − w) at 1 and ½: the gradients are −1/3 and −1/3.5, and w is 4 at η = 9 and 12.25."""
    w = nn.Parameter(torch.tensor([[1.0], [0.5]], dtype=torch.float64))
    with Line([w], lambda: (4 - w[:, 0]).log()) as line:
        found = landscape.observe(line, [1.0, 10.0], [0])
    assert found["finite"].tolist() == [1, 2]
    largest = [np.log(3 - 1 / 3), np.log(3.5 - 1 / 3.5)]
    assert found["loss_max"].tolist() == pytest.approx(largest)
    assert found["loss_min"].tolist() == pytest.approx([largest[0], np.log(3.5 - 10 / 3.5)])


# --- Steps. -----------------------------------------------------------------------------------------------------------


def test_a_step_along_a_round_quadratic():
    """½h‖w‖²: L(w−ηg)/L(w) = (1−ηh)², beyond the limit from η = (1+√limit)/h on."""
    h = torch.tensor([1.0, 100.0, 1e-3], dtype=torch.float64)
    w = nn.Parameter(normal(3, 4))
    rates = landscape.geometric(1e-4, 10, 51)
    with Line([w], lambda: 0.5 * h * w.square().sum(1)) as line:
        ratios = step.relative_losses(line, rates)
    eta = np.array(rates)[:, None]
    np.testing.assert_allclose(ratios.numpy(), (1 - eta * h.numpy()) ** 2, rtol=1e-9, atol=1e-12)
    ends, exploded = step.explosions(ratios, rates, 25.0)
    assert ends.tolist() == [min(r for r in rates if r > 6 / one) if 6 / one < 10 else 10 for one in h.tolist()]
    assert exploded.tolist() == [True, True, False]
    ratios[3, 2] = float("inf")
    assert step.explosions(ratios, rates, 25.0)[0].tolist()[2] == rates[3]


# --- Of networks. -----------------------------------------------------------------------------------------------------

TINY = ("model=vgg", "model.width=2", "model.dropout=0.2", "data.train_size=32", "data.val_size=10", "batch_size=8")
FEW = {
    "landscape": ("measure.every=2", "measure.rates=2"),
    "landscape_linear": ("measure.depth=3", "measure.size=4", "measure.samples=20", "measure.steps=5"),
    "step": ("measure.batches=[1,3]", "measure.rates=5", "measure.high=100", "measure.shares=3", "measure.explodes=2"),
}


@pytest.mark.parametrize("measure", FEW)
def test_looking_is_no_training(measure, run, monkeypatch):
    """Networks are afterwards what the same steps make of them without a look; no gradient, hook or draw is left."""
    made, begin = [], Network.__init__

    def begins(network, config, task, saved=None):
        begin(network, config, task, saved)
        made.append((network, config, task))

    monkeypatch.setattr(Network, "__init__", begins)
    drawn = torch.get_rng_state()
    how = ("precision=float64", "epochs=1", "norm=noisy_batch", "replicates=2", "stack=2", *TINY, *FEW[measure])
    run(f"measure={measure}", *how)
    assert torch.equal(torch.get_rng_state(), drawn)
    network, config, task = made[0]
    assert all(parameter.grad is None for parameter in network.parameters)
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in network.model.modules())
    if measure == "landscape_linear":
        plan = landscape_linear.Plan(network.step, lambda _: config.measure.lr, lambda at: at / network.step)
    else:
        plan = configured_plan(config, task)
    expected = Network(config, task)
    assert network.step > 1
    for _ in steps(expected, task, plan):
        if expected.step == network.step:
            break
    found = network.model.state_dict()
    for name, value in expected.model.state_dict().items():
        assert torch.equal(found[name], value), name


@pytest.fixture(scope="module")
def landscapes(run_in, tmp_path_factory):
    """Landscapes of two replicates side by side, of the second alone, of other settings, and of linear networks."""
    output = tmp_path_factory.mktemp("landscapes")
    how = ("measure=landscape", "precision=float64", "epochs=2", *TINY, *FEW["landscape"])
    together = run_in(output, *how, "norm=batch", "replicates=2", "stack=2")
    for more in (["norm=lp_batch"], ["norm=lp_batch", "norm.p=linf"], ["norm=none", "measure.until=1"]):
        run_in(output, *how, *more)
    linear = run_in(output, "measure=landscape_linear", "norm=batch", "replicates=2", *TINY, *FEW["landscape_linear"])
    alone = run_in(tmp_path_factory.mktemp("alone"), *how, "norm=batch", "seed=1")
    return together, alone, linear, output


def test_a_replicate_sees_what_it_sees_alone(landscapes):
    (together, rows, _), (alone, own, _), _, _ = landscapes
    mine = [row for row in rows if row["seed"] == "1"]
    assert [int(row["step"]) for row in mine] == [0, 2, 4, 6]
    for row, expected in zip(mine, own, strict=True):
        assert {key: float(value) for key, value in row.items()} == pytest.approx(
            {key: float(value) for key, value in expected.items()}, rel=1e-4
        )
    for name in ("loss_range", "beta", "mean_variance", "train_acc_end", "val_acc_end"):
        assert together["replicates"][1][name] == pytest.approx(alone["replicates"][0][name], rel=1e-6)


def test_outcomes_are_geometric_means_over_the_first_looks(landscapes):
    together, rows, _ = landscapes[0]
    for entry in together["replicates"]:
        mine = [row for row in rows if int(row["seed"]) == entry["seed"]]
        for name in ("loss_range", "grad_change", "beta", "beta_relative"):
            logs = np.log([float(row[name]) for row in mine])
            assert entry[name] == pytest.approx(np.exp(logs.mean()), rel=1e-4)
    [found] = [row for row in gather(str(landscapes[3])).runs.to_dict("records") if row["method"] == "none"]
    first = gather(str(landscapes[3])).series.query("run_id == @found['run_id'] and step == '0'")
    assert found["beta"] == pytest.approx(float(first["beta"].iloc[0]), rel=1e-4)
    assert np.isnan(found["mean_variance"])  # of one look there is none


def test_a_look_is_at_the_batch_of_the_next_step(landscapes, compose):
    """By autograd alone: the first step's batch, its gradient, and the loss and gradient at w − 4ηg and w − ½ηg."""
    _, rows, _ = landscapes[0]
    how = ("data=patterns", "device=cpu", "threads=1", "data.test_size=100", "precision=float64", "epochs=2", *TINY)
    config = resolve(compose("measure=landscape", "norm=batch", "seed=1", *how, *FEW["landscape"]))
    task = make_task(config, [1], "cpu")
    network, batch, rate = Network(config, task), task.batch(0, 0), configured_plan(config, task).rate(0)
    model = network.model.train()

    def loss():
        network.draw_as_at(0, 0)
        return nn.functional.cross_entropy(model(batch.inputs)[0], batch.labels[0])

    w = [one.detach().clone() for one in network.parameters]
    g = torch.autograd.grad(loss(), network.parameters)
    losses, changes = [], []
    for eta in (0.5 * rate, 4 * rate):
        with torch.no_grad():
            for one, start, slope in zip(network.parameters, w, g, strict=True):
                one.copy_(start - eta * slope)
        value = loss()
        there = torch.autograd.grad(value, network.parameters)
        losses.append(value.item())
        changes.append(sum((a - b).square().sum().item() for a, b in zip(there, g, strict=True)) ** 0.5)
    norm = sum(one.square().sum().item() for one in g) ** 0.5
    [row] = [row for row in rows if (row["seed"], row["step"]) == ("1", "0")]
    expected = {"loss_min": min(losses), "loss_max": max(losses), "grad_norm": norm, "grad_change": max(changes)}
    expected |= {"beta": max(changes[0] / (0.5 * rate * norm), changes[1] / (4 * rate * norm)), "lr": rate}
    assert {name: float(row[name]) for name in expected} == pytest.approx(expected, rel=1e-4)


def test_a_linear_network_is_its_formula(compose):
    """‖W₃N(W₂N(W₁x)) − Ax‖², N by batch statistics without an activation; and biases where there is no norm."""
    for norm in ("none", "batch"):
        config = resolve(compose("measure=landscape_linear", f"norm={norm}", "data=patterns", "device=cpu",
                                 "precision=float64", *FEW["landscape_linear"]))  # fmt: skip
        task = landscape_linear.LinearMap(config, [5, 6], "cpu")
        network = Network(config, task)
        losses, _ = task.losses(network, task.batch(0, 0), 0.0)
        x = task.samples.inputs.flatten(1).chunk(2, 1)[1]
        state = take_replicate(network.model.state_dict(), 1, 2)
        layers = [state[f"layers.{place}.weight"] for place in ("0.0", "1.0", "2")]
        for weight in layers:
            if norm == "batch" and weight is not layers[0]:
                x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
            x = x @ weight[:, :, 0, 0].T
        wanted = task.samples.targets[1]
        assert losses[1].item() == pytest.approx((x - wanted).square().sum().item(), rel=1e-10)


def test_mistakes_are_told_before_any_run(compose):
    def check(measurement, *typed):
        how = ("data=patterns", "device=cpu", f"measure={measurement.__name__.rpartition('.')[2]}")
        measurement.check(resolve(compose(*how, *typed)), 1)

    for typed, said in {
        "measure.every=0": r"measure\.every=0: must be an integer ≥ 1",
        "measure.rates=1": r"measure\.rates=1: must be an integer ≥ 2",
        "measure.high=0.1": r"measure\.high=0\.1: must be a number above measure\.low=0\.5",
    }.items():
        with pytest.raises(InputError, match=said):
            check(landscape, typed)
    with pytest.raises(InputError, match=r"measure\.depth=1: must be an integer from 2"):
        check(landscape_linear, "measure.depth=1")
    with pytest.raises(InputError, match=r"norm\.num_groups=8: does not divide the 10 channels"):
        check(landscape_linear, "norm=group")
    with pytest.raises(InputError, match=r"measure\.layers=.*from 1 to 7, the convolutions of model=resnet8"):
        check(step, "measure.layers=[8]")
    with pytest.raises(InputError, match=r"measure\.batches=.*the training has 3 steps"):
        check(step, "data.train_size=384", "epochs=1")


def test_its_series_are_drawn_an_arm_a_line(landscapes):
    found = gather(str(landscapes[3]))
    series = pd.read_csv(StringIO(found.series.to_csv(index=False)))
    drawn = landscape_page.figures(found.runs, series)
    assert list(drawn) == ["smoothness", "losses", "smoothness_linear", "losses_linear"]
    names = [text.get_text() for text in drawn["smoothness"].legends[0].get_texts()]
    assert sorted(names) == ["batch", "lp_batch p=l1", "lp_batch p=linf", "none"]
    beta = drawn["smoothness"].axes[2]
    [line] = [line for line in beta.lines if line.get_label() == "batch"]
    rows = series[series["run_id"].str.contains("-batch-landscape-") & series["step"].eq(2)]
    assert line.get_ydata()[1] == pytest.approx(np.median(rows["beta"]))
    assert landscape_page.figures(found.runs.drop(columns="loss_range"), series) == {}


def test_steps_of_a_network(run):
    result, rows, folder = run("measure=step", "norm=batch", "precision=float64", "replicates=2", *TINY, *FEW["step"])
    rows = pd.read_csv(folder / "metrics.csv")
    assert list(rows) == list(COLUMNS["step"])
    curves, channels = rows[rows["layer"].isna()], rows[rows["layer"].notna()]
    assert curves.groupby("batch").size().to_dict() == {1: 2 * 5, 3: 2 * 5}
    for entry in result["replicates"]:
        mine = curves[curves["seed"].eq(entry["seed"])]
        ends = [(some[some["relative_loss"].fillna(np.inf) > 2]["rate"].min()) for _, some in mine.groupby("batch")]
        ends = [100 if np.isnan(end) else end for end in ends]
        assert entry["exploding_rate"] == pytest.approx(np.sqrt(np.prod(ends)), rel=1e-3)
        assert entry["exploding_rate_first"] == pytest.approx(ends[0], rel=1e-3)
        least = mine.groupby("batch")["relative_loss"].min()
        assert entry["best_ratio"] == pytest.approx(np.sqrt(least.prod()), rel=1e-3)
    assert sorted(channels["share"].unique()) == [0, 50, 100]
    assert sorted(channels["layer"].unique()) == [1, 4, 8]
    found = gather(str(folder.parent))
    series = pd.read_csv(StringIO(found.series.to_csv(index=False)))
    drawn = step_page.figures(found.runs, series)
    assert list(drawn) == ["relative_loss", "channels_batch"]
    assert len(drawn["relative_loss"].axes) == 2
    assert len(drawn["channels_batch"].axes) == 2 * 2 * 3  # with their scales

    twice = pd.concat(
        [found.runs.assign(**{"model.init_scale": 1.0}), found.runs.assign(run_id="it", **{"model.init_scale": 0.5})]
    )
    both = pd.concat([series, series.assign(run_id="it")])
    panels = step_page.figures(twice, both)["relative_loss"].axes  # settings are never pooled
    assert [axes.get_title("left").partition("\n")[2] for axes in panels] == [
        f"scale of the initial weights {scale}" for scale in (1, 1, 0.5, 0.5)
    ]
