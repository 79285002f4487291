"""What is told of gradients, against autograd, numpy and scipy in float64; and the figures made of it."""

from io import StringIO

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from normbench.analysis.gradients_page import figures
from normbench.config.resolve import resolve
from normbench.errors import InputError
from normbench.measures import gradients
from normbench.models import build_model
from normbench.norms import Layers
from normbench.norms.plain import Conv2d, Linear
from normbench.records.metrics import BINS, COLUMNS, of_measurement
from normbench.runs.collect import gather
from normbench.signals import Stopped

HOW = ("measure=gradients", "model.width=2", "batch_size=8", "data.train_size=16", "logging.tensorboard=false")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- Numbers of a few values. -----------------------------------------------------------------------------------------


def test_tails_are_those_of_scipy():
    values = normal(40, 25) ** 3 + 0.1
    found, flat = gradients.tails(values), values.numpy().ravel()
    assert found["grad_std"] == pytest.approx(flat.std())
    assert found["grad_tails"] == pytest.approx(stats.kurtosis(flat, fisher=True, bias=True) + 3)
    assert found["grad_max"] == pytest.approx(np.abs(flat).max() / flat.std())
    assert found["grad_beyond_5"] == pytest.approx(100 * np.mean(np.abs(flat) > 5 * flat.std()))
    assert found["grad_beyond_5"] > 0
    tiny = gradients.tails((1e-15 * values).float())  # whose fourth powers float32 does not have
    assert tiny["grad_tails"] == pytest.approx(found["grad_tails"], rel=1e-5)


def test_what_does_not_vary_has_no_tails():
    assert gradients.tails(torch.zeros(5)) == {
        "grad_std": 0.0,
        "grad_tails": None,
        "grad_max": None,
        "grad_beyond_5": None,
    }
    assert gradients.counts(torch.zeros(5)) is None


def test_counts_are_those_of_numpy():
    values = normal(4000) ** 5
    found = np.array(gradients.counts(values).split(), dtype=int)
    in_stds = values.numpy() / values.numpy().std()
    expected = np.histogram(in_stds, [-np.inf, *BINS, np.inf])[0]
    assert found.tolist() == expected.tolist()
    assert (found[0] + found[-1], found.sum()) == ((np.abs(in_stds) > 10).sum(), 4000)
    assert found[[0, -1]].sum() > 0


def test_channel_moments_are_those_of_numpy():
    output = normal(5, 3, 4, 4) + torch.tensor([-2.0, 0.0, 1.0]).view(1, 3, 1, 1)
    by_channel = output.transpose(0, 1).flatten(1).numpy()
    found = gradients.channel_moments(output)
    assert found["channel_mean"] == pytest.approx(np.abs(by_channel.mean(1)).mean())
    assert found["channel_std"] == pytest.approx(by_channel.std(1).mean())


def test_growth_is_a_power_of_ten_per_ten_layers():
    assert gradients.slope([3 * 10 ** (0.02 * layer) for layer in range(30)]) == pytest.approx(0.2)
    uneven = [1.0, 5.0, 2.0, 30.0]
    line = stats.linregress(np.arange(4) / 10, np.log10(uneven))
    assert gradients.slope(uneven) == pytest.approx(line.slope)
    assert gradients.slope([1.0, 0.0]) is gradients.slope([1.0]) is None


def test_the_share_of_a_class_is_that_of_softmax_less_one_hot():
    logits, labels = 2 * normal(6, 4) + torch.tensor([3.0, 0, 0, 0]), torch.tensor([0, 1, 2, 3, 1, 1])
    by_logits = (logits.softmax(1) - F.one_hot(labels, 4)) / 6
    squares = by_logits.numpy() ** 2
    squares[np.arange(6), labels.numpy()] = 0
    assert gradients.class_share(by_logits, labels) == pytest.approx(100 * squares.sum(0).max() / squares.sum())
    certain = F.one_hot(torch.zeros(6, dtype=torch.int64), 4).double() - F.one_hot(labels, 4)
    assert gradients.class_share(certain, labels) == 100  # every image is taken for class 0
    alike = (torch.full((6, 4), 0.25) - F.one_hot(labels, 4)).double()
    assert gradients.class_share(alike, labels) == pytest.approx(100 * 5 / 18)  # 5 images do not show class 0, or 2


# --- A network. -------------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """Two convolutions, the mean over the positions, a linear layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Conv2d(3, 4, 3, padding=1), Conv2d(4, 5, 3, stride=2, padding=1, bias=False)
        self.classifier = Linear(5, 3)

    def forward(self, x):
        return self.classifier(self.second(self.first(x).relu()).relu().mean((2, 3)))


def test_a_network_is_that_of_autograd():
    torch.manual_seed(0)
    model, x, labels = Small().double(), normal(6, 3, 8, 8), torch.arange(6) % 3
    rows, (by_logits, told) = gradients.observe(model, x, labels, layer=2)

    one, two = model.first, model.second
    first = F.conv2d(x, one.weight, one.bias, padding=1)
    second = F.conv2d(first.relu(), two.weight, stride=2, padding=1)
    logits = second.relu().mean((2, 3)) @ model.classifier.weight[0].T + model.classifier.bias[0]
    by = torch.autograd.grad(F.cross_entropy(logits, labels), [one.weight, two.weight, first, second, logits])

    for row, weight, output, by_weight, by_output in zip(rows, by[:2], by[2:4], (first, second), (1, 2), strict=True):
        expected = {"layer": by_output} | gradients.channel_moments(by_weight) | gradients.tails(weight)
        expected |= {f"output_{name}": value for name, value in gradients.tails(output).items()}
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(by_logits, by[4])
    assert torch.equal(told, labels)
    assert ("counts" in rows[0], rows[1]["counts"]) == (False, gradients.counts(by[1]))
    assert rows[1]["output_counts"] == gradients.counts(by[3])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_layers_are_counted_as_the_paper_counts():
    deep = build_model("resnet110", Layers("none"))
    layers = gradients.convolutions(deep)
    close = layers[gradients.middle(len(layers))]
    assert len(layers) == 109
    assert close is layers[54] is deep.blocks[18 + 8].branch[-1][0]  # the second one of block 9 of stage 2
    assert close.weight.shape == (32, 32, 3, 3)
    assert len(gradients.convolutions(build_model("resnet8", Layers("none"), shortcut="projection"))) == 7


def test_what_ends_in_0_has_no_gradient_and_goes_on():
    """SkipInit's branches give nothing at the start, and get nothing."""
    model = build_model("resnet8", Layers("skipinit"), width=2).double().train()
    rows, _ = gradients.observe(model, normal(6, 3, 16, 16), torch.arange(6) % 3)
    assert [row["grad_std"] > 0 for row in rows] == [True] + 6 * [False]
    assert all(row["channel_std"] > 0 for row in rows)


def test_a_layer_that_is_not_there_is_told_before_any_run(compose):
    config = resolve(compose("data=patterns", "device=cpu", "measure=gradients", "measure.layer=8"))
    with pytest.raises(InputError, match=r"measure\.layer=8: must be an integer from 1 to 7, .*model=resnet8, or 0"):
        gradients.check(config, 1)


# --- Runs. ------------------------------------------------------------------------------------------------------------


def test_seeds_of_a_stack_are_what_each_is_alone(run):
    together, rows, _ = run(*HOW, "replicates=2", "stack=2", "norm=batch")
    singles = [run(*HOW, "norm=batch", f"seed={seed}") for seed in (0, 1)]
    assert rows == [row for _, of_one, _ in singles for row in of_one]
    names = [outcome.name for outcome in of_measurement("gradients") if outcome.name in together["replicates"][0]]
    for entry, (alone, _, _) in zip(together["replicates"], singles, strict=True):
        assert {name: entry[name] for name in names if name not in ("seconds", "stack")} == {
            name: alone["replicates"][0][name] for name in names if name not in ("seconds", "stack")
        }


def test_a_stopped_run_goes_on_where_it_was(run, monkeypatch, tmp_path):
    how = (*HOW, "replicates=3", "stack=1", "norm=none")
    whole, rows, _ = run(*how)
    observe, seen = gradients.observe, []

    def stops(*args):
        seen.append(len(seen))
        if len(seen) == 2:
            raise Stopped(15)
        return observe(*args)

    monkeypatch.setattr(gradients, "observe", stops)
    with pytest.raises(Stopped):
        run(*how, output=tmp_path / "again")
    again, rows_again, _ = run(*how, output=tmp_path / "again")
    assert len(seen) == 4  # the first seed, the second twice, the third
    assert rows_again == rows
    assert [entry["grad_std"] for entry in again["replicates"]] == [entry["grad_std"] for entry in whole["replicates"]]


def test_its_series_is_collected_and_drawn(run):
    for norm, scale in (("none", 1), ("none", 0.5), ("skipinit", 1)):
        _, _, folder = run(*HOW, f"norm={norm}", f"model.init_scale={scale}", "replicates=2")
    found = gather(str(folder.parent))
    runs, table = found.runs, found.series
    assert (list(table), len(table)) == (["run_id", *COLUMNS["gradients"]], 3 * 2 * 7)
    table = pd.read_csv(StringIO(table.to_csv(index=False)))
    assert table["counts"].notna().sum() == 2 * 2
    drawn = figures(runs, table)
    histograms, moments = drawn["histograms"], drawn["moments"]
    assert len(histograms.axes) == len(moments.axes) == 2 * 2
    names = [text.get_text().partition(":")[0] for text in histograms.axes[0].get_legend().get_texts()]
    assert names == ["normal", "none"]
    assert "Layer 4. Mean over n = 2 seeds" in histograms.get_supxlabel()
    assert "Not drawn, for it is 0: skipinit in 6 of 7 layers." in drawn["depth"].get_supxlabel()
    axes = next(axes for axes in moments.axes if axes.get_title(loc="left").endswith("0.5"))
    last = table[table["run_id"].str.contains("init_scale0.5") & table["layer"].eq(7)]
    odd = next(line for line in axes.lines if line.get_xdata()[-1] == 7)
    assert odd.get_ydata()[-1] == pytest.approx(stats.gmean(last["channel_mean"]))
