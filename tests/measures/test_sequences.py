"""What passes along the steps of an LSTM, and the last gradient of a transformer: against loops and closed forms."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from normbench.errors import InputError, UserError
from normbench.measures.last_layer import last_gradient
from normbench.measures.recurrent import observe, stability
from normbench.models import build_model
from normbench.norms import Layers

SEEDS = (1, 2)


def batch(count=4):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, 32, 32, generator=generator).double()
    return x, torch.randint(10, (count,), generator=generator)


@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
def test_along_the_steps_it_sees_what_a_loop_sees(norm):
    model = build_model("lstm", Layers(norm, replicates=2), SEEDS, width=5).double()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    x, labels = batch()
    sizes, gradients = observe(model, x.repeat(1, 2, 1, 1), labels.expand(2, -1))
    assert sizes.shape == gradients.shape == (2, 32)
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    for index, seed in enumerate(SEEDS):
        alone = build_model("lstm", Layers(norm), (seed,), width=5).double()
        rows = x.permute(2, 0, 1, 3).flatten(2)
        h = c = torch.zeros(1, 4, 5).double()
        states, found = [], []
        for step, row in enumerate(rows):
            total = alone.gates(alone.from_input.of(row.unsqueeze(0)), h, step)
            i, f, g, o = total.chunk(4, 2)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * alone.norm(c, step).tanh()
            states.append(h)
            found.append(np.exp(np.mean([np.log(one.norm().item()) for one in total[0]])))
        loss = F.cross_entropy(alone.classifier.of(h)[0], labels)
        expected = [one.norm().item() for one in torch.autograd.grad(loss, states)]
        np.testing.assert_allclose(sizes[index], found, rtol=1e-9)
        np.testing.assert_allclose(gradients[index], expected, rtol=1e-9)


def test_stability_in_numbers():
    growing = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    told = stability(growing, growing)
    assert told["preactivation_spread"] == pytest.approx(np.std(np.log([1, 2, 4, 8])))
    assert told["gradient_back"] == pytest.approx(1 / 8)
    assert told["gradient_back_drift"] == pytest.approx(np.log(8))
    assert set(stability(growing, 0 * growing).values()) == {told["preactivation_spread"], None}


@pytest.mark.parametrize("trained", [False, True])
def test_a_run_of_it(run, trained):
    how = ("model=lstm", "norm=layer", "model.width=4", "batch_size=8", "data.train_size=16", "epochs=1")
    small = ("data.val_size=10", "data.test_size=10")
    result, _, folder = run(
        "measure=recurrent", f"measure.trained={str(trained).lower()}", "replicates=2", *how, *small
    )
    rows = pd.read_csv(folder / "metrics.csv")
    for entry in result["replicates"]:
        mine = rows[rows["seed"] == entry["seed"]]
        assert list(mine["position"]) == list(range(1, 33))
        assert entry["preactivation_spread"] == pytest.approx(np.std(np.log(mine["preactivation"])), rel=1e-3)
        first, last = mine["gradient"].iloc[[0, -1]]
        assert entry["gradient_back"] == pytest.approx(first / last, rel=1e-3)


def test_of_another_model_it_is_refused(run):
    with pytest.raises((InputError, UserError), match="looks at the steps of model=lstm, not model=resnet8"):
        run("measure=recurrent", "model=resnet8")


@pytest.mark.parametrize("model", ["vit", "resnet8"])
def test_the_last_gradient_is_autograds(model):
    network = build_model(model, Layers("batch"), (3,), width=8).double()
    last = network.layers[-1].part.outer if model == "vit" else network.blocks[-1].branch[-1][0]
    x, labels = batch()
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    found = last_gradient(network, x, labels)
    assert all(torch.equal(kept[name], value) for name, value in network.state_dict().items())
    F.cross_entropy(network(x)[0], labels).backward()
    assert found == pytest.approx(last.weight.grad.norm().item(), rel=1e-9)


def test_with_norms_before_the_parts_it_falls_with_depth_and_with_norms_after_it_does_not():
    """Xiong et al. 2020, theorem 1, at the sizes of a test: 16 times the depth, √16 expected."""
    x, labels = batch(16)
    found = {}
    for placement in ("pre", "post"):
        for depth in (1, 16):
            layers = Layers("layer", activation="relu")
            network = build_model("vit", layers, (3,), depth=depth, width=32, patch=8, placement=placement).double()
            found[placement, depth] = last_gradient(network, x, labels)
    assert found["pre", 1] / found["pre", 16] > 1.5
    assert 0.5 < found["post", 1] / found["post", 16] < 1.5
