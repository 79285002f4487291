"""Steps from places that a batch is put in, and as a CUDA graph where there is a GPU: those of the plain loop."""

from dataclasses import replace

import pytest
import torch

from normbench.config.resolve import resolve
from normbench.errors import InputError
from normbench.kernels import fastest
from normbench.tasks import make_task
from normbench.training import graph
from normbench.training.network import Network
from normbench.training.schedule import configured_plan
from normbench.training.steps import steps

WORDS = ("data=patterns", "data.train_size=48", "model.width=8", "batch_size=4", "epochs=2", "replicates=2", "stack=2")
RECIPES = {
    "plain": (),
    "mixed": ("augment.mixup=0.4", "augment.cutmix=1"),
    "resized": ("augment.resize=[[0,16],[0.5,32]]",),
    "clipped": ("optim.clip_norm=0.1",),
    "adamw": ("optim=adamw",),
    "group": ("norm=group", "norm.num_groups=2"),
    "weight_norm": ("norm=weight_norm",),
}
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def trained(config, device, recorded=None):
    """Losses of all steps, gradient norms, and what the network ends as."""
    task = make_task(config, range(2), device)
    network = Network(config, task)
    if recorded is not None:
        network.recorded = recorded
    plan = replace(configured_plan(config, task), norm_steps=2)
    done = list(steps(network, task, plan))
    norms = [step.norms for step in done if step.norms is not None]
    gradients = [one.grad.clone() for one in network.parameters]
    return torch.stack([step.losses for step in done]), torch.stack(norms), gradients, network.model.state_dict()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_from_its_places_is_that_of_the_plain_loop(recipe, compose, monkeypatch):
    """On the CPU, bit for bit."""
    config = resolve(compose(*WORDS, *RECIPES[recipe], "device=cpu"))
    put = []
    monkeypatch.setattr(graph, "mapped", lambda batch, of, mapped=graph.mapped: put.append(1) or mapped(batch, of))
    found, expected = trained(config, "cpu", recorded=True), trained(config, "cpu")
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert all(torch.equal(a, b) for a, b in zip(found[2], expected[2], strict=True))
    assert all(torch.equal(found[3][name], one) for name, one in expected[3].items())
    # A form of measured steps and one of the others, of each size of images; those seen thrice or less keep no places.
    assert len(put) >= (4 if recipe == "resized" else 2)


@pytest.mark.parametrize(
    ("words", "processes", "told"),
    [
        ((), 1, "device=cpu has no CUDA graphs"),
        (("device=cuda", "model.dropout=0.2"), 1, "model.dropout=0.2 draws at each step"),
        (("device=cuda",), 2, "a batch over several processes"),
    ],
)
def test_what_cannot_be_recorded_is_one_line(words, processes, told, compose):
    config = resolve(compose(*WORDS, "kernels=graph", *(word for word in words if "device" not in word), "device=cpu"))
    if "device=cuda" in words:
        config = config.with_value("device", "cuda")
    with pytest.raises(InputError, match=told):
        fastest(config, torch.nn.Identity(), 2, processes)


@CUDA
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_graph_is_the_plain_loop(recipe, compose):
    """To rounding, in float64."""
    words = (*WORDS, *RECIPES[recipe], "device=cuda", "precision=float64")
    found = trained(resolve(compose(*words, "kernels=graph")), "cuda")
    expected = trained(resolve(compose(*words, "kernels=torch")), "cuda")
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)  # the rate of a graph is a float32
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-6)
    for name, one in expected[3].items():
        torch.testing.assert_close(found[3][name], one, rtol=1e-3, atol=1e-5)


@CUDA
def test_in_bfloat16_a_graph_keeps_its_statistics_in_float32(compose):
    words = (*WORDS, "device=cuda", "precision=bfloat16")
    found = trained(resolve(compose(*words, "kernels=graph")), "cuda")
    expected = trained(resolve(compose(*words, "kernels=torch")), "cuda")
    assert found[3]["stem.0.1.running_var"].dtype == torch.float32
    torch.testing.assert_close(found[0], expected[0], rtol=0.05, atol=0.05)
