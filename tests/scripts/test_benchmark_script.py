"""What scripts/benchmark.py refuses, and what it counts. How fast anything is, no test says."""

import sys
from pathlib import Path

import pytest
import torch

from normbench.norms import Layers

ROOT = Path(__file__).parents[2]


def test_a_case_that_there_is_not(script, tmp_path):
    done = script("benchmark", "--case", "resnet8-group-3", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "case=resnet8-group-3: did you mean resnet8-group-2?" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])


def test_the_multiplications_of_a_step_are_those_of_the_layers():
    """ResNet-8: a stem of 3→16 channels at 32², six convolutions at 32², 16² and 8²; forward and two gradients each."""
    stem = 32**2 * 3 * 16
    others = 32**2 * 2 * 16 * 16 + 16**2 * (16 * 32 + 32 * 32) + 8**2 * (32 * 64 + 64 * 64)
    from benchmarks.train import CASES, products

    assert products(CASES[0]) == pytest.approx(2 * 9 * (2 * stem + 3 * others), rel=0)


def test_what_a_layer_keeps():
    """A convolution keeps its input and its filters, γ and β are the norm's."""
    from benchmarks.layers import kept

    layer = Layers("none").conv_norm(4, 4, 3)
    x = torch.zeros(2, 4, 8, 8, requires_grad=True)
    assert kept(layer, x) == 4 * (x.numel() + layer[0].weight.numel())
    assert kept(Layers("group", {"num_groups": 2}).conv_norm(4, 4, 3), x) > 8 * x.numel()


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_the_rival_in_jax_does_the_plain_loops_work(norm):
    """The same forward pass from the same weights, in the units that both have."""
    pytest.importorskip("jax")
    import jax
    from benchmarks.jax_loop import forward, start
    from benchmarks.train import LAYERS, plain_resnet

    params, _ = start(jax.random.PRNGKey(0), 8)
    model = plain_resnet(8, LAYERS[norm]).train()
    layers = list(model.modules())
    with torch.no_grad():
        convolutions = [one for one in layers if isinstance(one, torch.nn.Conv2d)]
        for conv, unit in zip(convolutions, params["units"], strict=True):
            conv.weight.copy_(torch.tensor(jax.device_get(unit["w"])).permute(3, 2, 0, 1))
        model[-1].weight.copy_(torch.tensor(jax.device_get(params["head"]["w"])).T)
        model[-1].bias.zero_()
        x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        expected = model(x)
    found, _ = forward(params, x.permute(0, 2, 3, 1).numpy(), 8, norm)
    assert torch.allclose(torch.tensor(jax.device_get(found)), expected, rtol=1e-3, atol=1e-3)


def test_what_a_hundred_runs_cost(script, tmp_path):
    done = script("benchmark", "sweep", "--runs", "100", "--runs", "150", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    head, _, row = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()]
    assert head[1:6] == ["planning", "status", "status of stacks", "--dry-run", "collect"]
    count, planning, *statuses, dry_run, collect, memory = map(float, row)
    assert count == 100
    assert min(planning, dry_run, collect) > 0.1  # to start Python takes longer
    assert min(statuses) > 0
    assert 30 < memory < 1500
    assert list(tmp_path.iterdir()) == []


def test_what_it_writes_are_runs_that_are_over(script, tmp_path):
    assert script("benchmarks/many_runs", "write", "all", "200", cwd=tmp_path).returncode == 0
    done = script("benchmarks/many_runs", "ask of stacks", "all", "200", cwd=tmp_path)
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "200", "")
    done = script("collect", "all", cwd=tmp_path)
    assert done.stdout == "all/runs.csv: 200 runs, 200 replicates: 200 finished\n"


def test_fewer_than_a_hundred_are_refused(script, tmp_path):
    done = script("benchmark", "sweep", "--runs", "50", cwd=tmp_path)
    assert done.returncode == 2
    assert "50: must be an integer from 100" in done.stderr
    assert done.stderr.count("\n") == 1
