"""The three measures against independent float64 references, and the tables made of them."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from normbench.analysis.inputs_page import MATRICES, _interval_cell, figure, text
from normbench.config.resolve import resolve
from normbench.data.inputs import KINDS
from normbench.errors import InputError, UserError
from normbench.measures.curvature import condition_number, hessian_extremes
from normbench.measures.float16 import float16_shares
from normbench.models import build_model
from normbench.norms import Layers
from normbench.norms.plain import Linear
from normbench.norms.weight import _WeightNorm
from normbench.random import derive
from normbench.runs.probe import planned, probe_inputs
from normbench.tasks import make_task
from normbench.training.network import Network

ROOT = Path(__file__).parents[2]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the condition number --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0, 10])
def test_condition_number_is_that_of_the_matrix_squared(shift):
    x = normal(80, 30) * torch.logspace(0, 2, 30) + shift
    found = condition_number(x)
    assert found.condition == pytest.approx(np.linalg.cond(x.numpy()) ** 2, rel=1e-8)
    assert found.condition == found.condition_nonzero
    assert (found.rank, found.features, found.rows) == (30, 30, 80)


def test_condition_number_is_of_the_second_moments_and_not_of_the_covariance():
    x = normal(80, 30) + 100
    covariance = np.cov(x.numpy().T)
    assert condition_number(x - x.mean(0)).condition == pytest.approx(np.linalg.cond(covariance), rel=1e-8)
    assert condition_number(x).condition > 1000 * np.linalg.cond(covariance)


def test_float32_counts_in_float64():
    x = (normal(80, 30) * torch.logspace(0, 3, 30)).float()
    assert condition_number(x).condition == pytest.approx(np.linalg.cond(x.double().numpy()) ** 2, rel=1e-6)


def test_a_singular_matrix_has_an_infinite_condition_number_and_a_finite_one_over_the_rest():
    x = normal(80, 30)
    x -= x.mean(1, keepdim=True)  # as per_image does: each row sums to 0
    found, singular_values = condition_number(x), np.linalg.svd(x.numpy(), compute_uv=False)
    assert (found.condition, found.rank) == (math.inf, 29)
    assert found.condition_nonzero == pytest.approx((singular_values[0] / singular_values[28]) ** 2, rel=1e-8)


def test_fewer_rows_than_features_are_singular():
    x = normal(20, 30)
    found, singular_values = condition_number(x), np.linalg.svd(x.numpy(), compute_uv=False)
    assert (found.condition, found.rank, found.features, found.rows) == (math.inf, 20, 30, 20)
    assert found.condition_nonzero == pytest.approx((singular_values[0] / singular_values[-1]) ** 2, rel=1e-8)


def test_what_float64_cannot_tell_is_infinite_rather_than_garbage():
    x = normal(80, 30) * torch.tensor([1e10, *[1.0] * 29])  # λmax/λmin near 1e20
    found = condition_number(x)
    assert (found.condition, found.rank) == (math.inf, 1)
    assert condition_number(torch.zeros(80, 30)).rank == 0


# --- the Hessian -----------------------------------------------------------------------------------------------------


def network(norm, seed=0, **options):
    layers = Layers(norm, options, activation="tanh")
    return build_model("resnet8", layers, [seed], width=1, num_classes=3).double().train()


def batch(seed=0, images=6):
    return normal(images, 3, 8, 8, seed=seed), torch.arange(images) % 3


def dense_extremes(model, x, labels, label_smoothing=0.0):
    """By the whole matrix: the Hessian column by column, then all its eigenvalues."""
    names, shapes = zip(*((name, p.shape) for name, p in model.named_parameters()), strict=True)

    def loss(vector):
        parts = vector.split([shape.numel() for shape in shapes])
        parameters = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        logits = functional_call(model, parameters, (x,))[0]
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)

    vector = torch.cat([p.detach().flatten() for p in model.parameters()])
    values = np.linalg.eigvalsh(torch.autograd.functional.hessian(loss, vector).numpy())
    return values[0], values[-1]


@pytest.mark.parametrize(("norm", "smoothing"), [("none", 0.0), ("batch", 0.0), ("group", 0.1)])
def test_extremes_are_those_of_the_whole_hessian(norm, smoothing):
    options = {"num_groups": 1} if norm == "group" else {}
    model, (x, labels) = network(norm, **options), batch()
    reference = dense_extremes(model, x, labels, smoothing)
    assert reference[0] < 0 < reference[1]
    exact = hessian_extremes(model, x, labels, label_smoothing=smoothing, tolerance=1e-8)
    assert exact == pytest.approx(reference, rel=1e-8)
    assert hessian_extremes(model, x, labels, label_smoothing=smoothing) == pytest.approx(reference, rel=1e-2)


def test_float32_and_any_first_vector_give_the_same_extremes():
    model, (x, labels) = network("batch"), batch()
    reference = dense_extremes(model, x, labels)
    assert hessian_extremes(model.float(), x.float(), labels, seed=1) == pytest.approx(reference, rel=1e-2)


def test_extremes_under_batch_norm_do_not_depend_on_the_scale_of_the_inputs():
    (x, labels), options = batch(), {"tolerance": 1e-8}
    one = hessian_extremes(network("batch", eps=1e-12), x, labels, **options)
    assert hessian_extremes(network("batch", eps=1e-12), 255 * x, labels, **options) == pytest.approx(one, rel=1e-5)
    plain = hessian_extremes(network("none"), x, labels, **options)
    assert hessian_extremes(network("none"), 255 * x, labels, **options)[1] > 10 * plain[1]


class Times(nn.Module):
    """Logits R×N×3 that are the mean of the inputs times a parameter, to a power: flat, or not finite, at 0."""

    def __init__(self, power):
        super().__init__()
        self.weight, self.power = nn.Parameter(torch.zeros(20, 3)), power

    def forward(self, x):
        return (x.mean() * self.weight.sum(0) ** self.power).expand(1, len(x), 3)


def test_a_flat_loss_has_extremes_of_0_and_one_that_is_not_finite_none():
    x, labels = batch()
    assert hessian_extremes(Times(3).double(), x, labels) == (0.0, 0.0)
    assert np.isnan(hessian_extremes(Times(-1).double(), x, labels)).all()


# --- float16 ---------------------------------------------------------------------------------------------------------


def test_overflow_is_what_a_linear_network_in_float16_shows():
    layer = Linear(4, 3)
    layer.weight.data = 40 * normal(1, 3, 4, seed=1).float()
    x, labels = 1000 * normal(50, 4).float(), torch.zeros(50, dtype=torch.int64)
    found = float16_shares(layer, x, labels)

    half, inputs = Linear(4, 3).half(), x.half()
    half.load_state_dict({name: value.half() for name, value in layer.state_dict().items()})
    logits = half(inputs)
    lost = logits.isinf().sum().item()
    assert 10 < lost < 140  # of 150
    assert found.forward_overflow == pytest.approx(100 * lost / (x.numel() + logits.numel()))


def test_underflow_of_the_gradients_of_a_linear_network_is_what_arithmetic_says():
    layer, x, labels = Linear(4, 3).double(), normal(50, 4), torch.zeros(50, dtype=torch.int64)
    layer.weight.data = 8 * normal(1, 3, 4, seed=1)
    by_logits = ((x @ layer.weight[0].detach().T).softmax(1) - torch.tensor([1, 0, 0])) / 50
    gradients = torch.cat([by_logits.flatten(), (by_logits.T @ x).flatten(), by_logits.sum(0)])
    lost = ((gradients != 0) & (gradients.abs() <= 2**-25)).sum().item()
    assert 10 < lost < 140
    found = float16_shares(layer, x, labels)
    assert found.backward_underflow == pytest.approx(100 * lost / gradients.numel())
    assert found.backward_overflow == 0


def test_overflow_counts_where_it_arises():
    """x → 10⁴x → 10⁻⁴ of it: of three values a sample the middle one alone is lost."""
    up, down = Linear(1, 1), Linear(1, 2)
    up.weight.data, down.weight.data = torch.full((1, 1, 1), 1e4), torch.full((1, 2, 1), 1e-4)
    model = nn.Sequential(up, Squeeze(), nn.Identity(), down)
    x, labels = torch.full((5, 1), 10.0), torch.zeros(5, dtype=torch.int64)
    # x, the product, the same without its axis of replicates, two logits; nn.Identity hands on what is there.
    assert float16_shares(model, x, labels).forward_overflow == pytest.approx(100 * 2 / 5)


class Squeeze(nn.Module):
    def forward(self, x):
        return x[0]


@pytest.mark.parametrize(
    ("value", "lost"), [(65504.0, (0, 0)), (65519.0, (0, 0)), (65520.0, (1, 0)), (2.0**-25, (0, 1)), (2.0**-24, (0, 0))]
)
def test_the_limits_are_those_of_the_cast(value, lost):
    layer = Linear(1, 2)
    nn.init.zeros_(layer.weight)
    found = float16_shares(layer, torch.tensor([[value]]), torch.zeros(1, dtype=torch.int64))
    shares = found.forward_overflow, found.forward_underflow  # one input, two logits that are 0
    assert shares == pytest.approx(tuple(100 * n / 3 for n in lost))


def test_gradients_by_the_parameters_count():
    layer = Linear(1, 2)
    nn.init.zeros_(layer.weight)
    x, labels = torch.full((1, 1), 2e5), torch.zeros(1, dtype=torch.int64)
    # (p − y)·x is ∓10⁵ by the two weights; ∓½ by two logits and by two biases.
    assert float16_shares(layer, x, labels).backward_overflow == pytest.approx(100 * 2 / 6)


# --- the network and the tables --------------------------------------------------------------------------------------

SMALL = (
    "data=patterns",
    "data.train_size=50",
    "model.width=1",
    "replicates=2",
    "batch_size=8",
    "threads=1",
)


def test_the_network_is_the_one_that_a_run_starts_from(compose):
    config = resolve(compose(*SMALL, "norm=weight_norm", "device=cpu"))
    images = normal(16, 3, 32, 32).float()
    task = make_task(config, [5], "cpu")
    task.first_inputs = lambda count: images
    model = Network(config, task).model
    assert model.training
    plain = build_model("resnet8", Layers("weight_norm"), [derive(5, "init")], width=1)
    first = next(module for module in model.modules() if isinstance(module, _WeightNorm))
    other = next(module for module in plain.modules() if isinstance(module, _WeightNorm))
    direction = [F.normalize(layer.filters().detach().flatten(1)) for layer in (first, other)]
    torch.testing.assert_close(*direction)  # the seed's filters, scaled by the data
    assert not torch.allclose(first.filters(), other.filters())


def test_dropout_draws_from_the_seed(tmp_path):
    options = [*SMALL, "model.dropout=0.5", "data.input=unit", "norm=none", "replicates=1", "force=true"]
    once, again, other = (
        probe_inputs([*options, f"output={tmp_path}", f"seed={seed}"]).tables["networks"].iloc[0] for seed in (5, 5, 6)
    )
    assert once.equals(again)
    assert once.hessian_largest != other.hessian_largest


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    output = f"output={tmp_path_factory.mktemp('probe')}"
    return probe_inputs([output, *SMALL, "data.input=raw,per_image", "norm=batch,none", "seed=3"])


def test_tables_have_a_row_a_matrix_and_a_row_a_seed(findings):
    conditions, networks = findings.tables["conditions"], findings.tables["networks"]
    assert list(zip(conditions["input"], conditions["matrix"], strict=True)) == [
        (kind, matrix) for kind in ("raw", "per_image") for matrix in MATRICES
    ]
    assert list(zip(networks["input"], networks["norm"], networks["seed"], strict=True)) == [
        (kind, norm, seed) for kind in ("raw", "per_image") for norm in ("batch", "none") for seed in (3, 4)
    ]
    assert networks.notna().all(axis=None)
    pixels = conditions.set_index(["input", "matrix"])
    assert pixels.loc[("raw", "pixels"), ["features", "rows", "rank"]].tolist() == [3072, 50, 50]
    assert pixels.loc[("per_image", "pixels, centred"), "rank"] == 49
    assert pixels.loc[("raw", "channels"), ["features", "rows", "rank"]].tolist() == [3, 50 * 1024, 3]


def test_under_batch_norm_raw_inputs_curve_the_loss_no_more_than_others(findings):
    means = findings.tables["networks"].groupby(["norm", "input"])["hessian_largest"].mean()
    assert means["none", "raw"] > 10 * means["none", "per_image"]
    assert means["batch", "raw"] < 3 * means["batch", "per_image"]


def test_the_summary_says_what_was_measured(findings):
    assert "X of 50 training images × 3072 features" in findings.scale
    assert "loss on 8 training images in float32, 2 seeds (3 to 4)" in findings.scale
    assert "| raw | > 1.5e+12 (50 of 3072 told: " in findings.text
    assert "| per_image | none | 2 | " in findings.text


def test_what_is_not_finite_lowers_n_and_is_said(findings):
    networks = findings.tables["networks"].copy()
    networks.loc[0, "hessian_largest"] = np.nan
    drawn = figure(findings.tables["conditions"], networks)
    assert "n = 1–2 seeds" in drawn.get_supxlabel()
    networks["hessian_largest"] = np.nan
    figure(findings.tables["conditions"], networks)  # an empty panel, no error
    assert _interval_cell(pd.Series([np.inf, np.nan])) == "not finite"
    assert _interval_cell(pd.Series([1.0, 3.0, np.nan])) == "1, 3 (n = 2)"


def test_no_interval_on_a_log_axis_leaves_it():
    """The tables of results/: eigenvalues over two decades, and shares of which some are 0."""
    folder = ROOT / "results" / "probe_inputs"
    networks, conditions = (pd.read_csv(folder / f"{name}.csv") for name in ("networks", "conditions"))
    _, middle, right = figure(conditions, networks).axes
    ends = np.concatenate([s[:, 0] for lines in middle.collections for s in lines.get_segments()])
    low, high = middle.get_xlim()
    assert (ends > low).all()
    assert (ends < high).all()
    assert not right.collections
    values = networks[(networks["input"] == "raw") & (networks["norm"] == "none")]["hessian_largest"]
    logs = np.log(values)
    half = stats.t.ppf(0.975, 4) * stats.sem(logs)
    told = "{:.3g} [{:.3g}, {:.3g}]".format(*np.exp(logs.mean() + half * np.array([0, -1, 1])))
    row = next(line for line in text(conditions, networks).splitlines() if line.startswith("| raw | none"))
    assert f"| {told} | {values.median():.3g} |" in row


def test_defaults_are_what_is_not_typed():
    def arms(*typed):
        configs = [run.config for run in planned("inputs", typed)]
        return [(c.data.input, c.norm.name, c.replicates) for c in configs]

    assert arms() == [(kind, norm, 5) for kind in KINDS for norm in ("batch", "none")]
    assert arms("norm=group", "+data.input=raw", "replicates=2") == [("raw", "group", 2)]
    config = planned("inputs", ["data=patterns", "data.channel_scale=10000"])[0].config
    assert (config.data.name, config.data.test_channel_scale) == ("patterns", 10000)


def test_another_sweep_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"data\.input and norm may have several values, any other key only one"):
        probe_inputs([*SMALL, "seed=0,1"])
    with pytest.raises(InputError, match=r"data\.input=grey: choices: "):
        probe_inputs([*SMALL, "data.input=grey"])
