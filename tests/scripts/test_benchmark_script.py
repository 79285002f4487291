"""What scripts/benchmark.py refuses, and what it counts. How fast anything is, no test says."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def test_a_case_that_there_is_not(script, tmp_path):
    done = script("benchmark", "--case", "resnet8-group-3", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "case=resnet8-group-3: did you mean resnet8-group-2?" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def benchmark(monkeypatch):
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("benchmark", ROOT / "scripts" / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmark", module)
    spec.loader.exec_module(module)
    return module


def test_the_multiplications_of_a_step_are_those_of_the_layers(benchmark):
    """ResNet-8: a stem of 3→16 channels at 32², six convolutions at 32², 16² and 8²; forward and two gradients each."""
    stem = 32**2 * 3 * 16
    others = 32**2 * 2 * 16 * 16 + 16**2 * (16 * 32 + 32 * 32) + 8**2 * (32 * 64 + 64 * 64)
    assert benchmark.products(benchmark.CASES[0]) == pytest.approx(2 * 9 * (2 * stem + 3 * others), rel=0)


def test_what_a_layer_keeps(benchmark):
    """A convolution keeps its input and its filters, γ and β are the norm's."""
    layer = benchmark.Layers("none").conv_norm(4, 4, 3)
    x = torch.zeros(2, 4, 8, 8, requires_grad=True)
    assert benchmark.kept(layer, x) == 4 * (x.numel() + layer[0].weight.numel())
    assert benchmark.kept(benchmark.Layers("group", {"num_groups": 2}).conv_norm(4, 4, 3), x) > 8 * x.numel()
