"""No measurement trains by accident: it leaves networks as they were, or as their training alone would leave them."""

import numpy as np
import pytest
import torch

from normbench.measures import MEASURES
from normbench.training.network import Network
from normbench.training.schedule import configured_plan
from normbench.training.steps import steps

HOW = ("model.width=2", "model.dropout=0.2", "epochs=1", "data.train_size=32", "data.val_size=20", "data.test_size=20")
# What they need, and what makes them quick.
OPTIONS = {
    "biases": ("norm.affine=false", "measure.every=2"),
    "gaussian": ("measure.images=20",),
    "landscape_linear": ("measure.steps=200", "measure.until=200"),
    "mates": ("measure.batches=[2,4]", "measure.draws=2", "measure.images=2"),
    "matrices": ("measure.size=10",),
    "mismatch": ("measure.batches=[2]", "measure.shuffles=1", "measure.images=20"),
    "range_test": ("measure.steps=50",),
    "recurrent": ("model=lstm", "measure.trained=true"),
    "shift": ("measure.every=2", "measure.images=10"),
    "speed": ("measure.size=16", "measure.passes=1"),
    "step": ("measure.batches=[1,2]", "measure.rates=3"),
    "statistics": ("measure.batches=[2,4]", "measure.images=20", "measure.draws=4"),
}


@pytest.mark.parametrize("measure", MEASURES)
def test_a_measurement_leaves_networks_as_they_were(measure, run, monkeypatch):
    made, begin = [], Network.__init__

    def begins(network, config, task, saved=None):
        begin(network, config, task, saved)
        made.append((network, config, task))

    monkeypatch.setattr(Network, "__init__", begins)
    drawn = torch.get_rng_state(), np.random.get_state()[1]
    run(f"measure={measure}", *HOW, *OPTIONS.get(measure, ()))
    assert torch.equal(torch.get_rng_state(), drawn[0])
    assert np.array_equal(np.random.get_state()[1], drawn[1])

    assert made or not MEASURES[measure].images
    for network, config, task in made[:2]:
        assert all(parameter.grad is None for parameter in network.parameters)
        assert not any(one._forward_hooks or one._forward_pre_hooks for one in network.model.modules())
        if measure in ("range_test", "landscape_linear"):  # their trainings have rates of their own
            continue
        expected = Network(config, task)
        plan = configured_plan(config, task)
        for _ in steps(expected, task, plan) if network.step else ():
            if expected.step == network.step:
                break
        found = network.model.state_dict()
        for name, value in expected.model.state_dict().items():
            assert torch.equal(found[name], value), name
