"""The same of a deep linear network that learns a linear map by gradient descent on all of its data.

Santurkar et al. 2018, arXiv 1805.11604, §3 and appendix: 25 layers of 10×10, the squared distance of W₁…W₂₅x to Ax,
1,000 Gaussian x. It is not convex, has no nonlinearity but what a method brings, and nothing in it is sampled.
"""

import time
from dataclasses import dataclass, field

import torch
from torch import nn

from normbench.config.sizes import MOST_WIDTH
from normbench.data.inputs import DTYPES
from normbench.errors import InputError
from normbench.measures.alike import entries_of
from normbench.measures.landscape import Landscape, check_looks
from normbench.models import draw_weights
from normbench.norms import Layers, get_method
from normbench.processes import ALONE, Processes
from normbench.random import derive
from normbench.records.metrics import LANDSCAPE_LINEAR
from normbench.tasks.build import norm_options, of_the_method
from normbench.training.network import Network
from normbench.training.steps import Plan


def check(config, processes: int) -> None:
    """Raises InputError for numbers that cannot be, and where a method has no layer of that size."""
    how = config.measure
    for key, least in (("depth", 2), ("size", 1), ("samples", 1), ("steps", 1)):
        if not least <= how[key] <= MOST_WIDTH:
            raise InputError(f"measure.{key}", how[key], f"must be an integer from {least} to {MOST_WIDTH}")
    if not how.lr > 0:
        raise InputError("measure.lr", how.lr, "must be a number > 0")
    check_looks(config)
    task = LinearMap(config, [config.seed], "cpu")
    with of_the_method(config), torch.no_grad(), torch.random.fork_rng(devices=[]):
        task.network([0])(task.first_inputs(2).float())


def measure(config, task, session) -> tuple[list[dict], list[dict]]:
    """Descend with the configured optimizer at measure.lr, and look. An entry a seed; and a row a look and seed."""
    started, how = time.perf_counter(), config.measure
    session.begin(task.seeds, how.steps, 0, images=how.samples * len(task.seeds))
    own = LinearMap(config, task.seeds, task.device)
    plan = Plan(how.steps, rate=lambda step: how.lr, share=lambda step: step / how.steps)
    network = Network(config, own)
    landscape = Landscape(network, own, plan, how)
    losses = [done.losses for done in landscape.train(session)]
    told = [landscape.told(index) | {"final_loss": loss} for index, loss in enumerate(losses[-1].tolist())]
    return entries_of(network, told, started, dict.fromkeys(one.name for one in LANDSCAPE_LINEAR)), landscape.rows


@dataclass(frozen=True)
class Samples:
    """Inputs N×(R·size)×1×1 and what they are to become, R×N×size."""

    inputs: torch.Tensor
    targets: torch.Tensor


@dataclass
class LinearMap:
    """To learn x ↦ Ax, a map and N samples a seed: what of tasks.Task a training takes. All samples are one batch."""

    config: object  # resolved
    seeds: list[int]
    device: str
    processes: Processes = ALONE
    steps_per_epoch: int = 1
    samples: Samples = field(init=False)

    def __post_init__(self):
        how, dtype = self.config.measure, DTYPES[self.config.precision]
        inputs, targets = [], []
        for seed in self.seeds:
            draw = torch.Generator().manual_seed(derive(seed, "linear_map"))
            wanted = torch.randn(how.size, how.size, generator=draw, dtype=torch.float64)
            x = torch.randn(how.samples, how.size, generator=draw, dtype=torch.float64)
            inputs.append(x)
            targets.append(x @ wanted.T)
        x = torch.cat(inputs, 1)[:, :, None, None].contiguous(memory_format=torch.channels_last)
        self.samples = Samples(x.to(self.device, dtype), torch.stack(targets).to(self.device, dtype))

    def network(self, seeds) -> nn.Module:
        """Its weights are normal with variance 1/size, Glorot's of a square layer."""
        how = self.config.measure
        layers = Layers(self.config.norm.name, norm_options(self.config), replicates=len(seeds))
        with torch.random.fork_rng(devices=[]):  # the layers' own first draws are overwritten
            model = DeepLinear(layers, how.depth, how.size)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        draw_weights(model, generators, gain=1.0)
        get_method(self.config.norm.name).initialize(model, generators)
        return model.to(memory_format=torch.channels_last)

    def first_inputs(self, count: int) -> torch.Tensor:
        return self.samples.inputs[:count]

    def batch(self, epoch: int, at: int) -> Samples:
        return self.samples

    def losses(self, network, batch: Samples, share: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The squared distances, summed over samples as the paper's objective is; R, and as the score once more."""
        found = network(batch.inputs).movedim(1, 0)
        losses = (found - batch.targets).square().sum((1, 2))
        return losses, losses.detach()


class DeepLinear(nn.Module):
    """`depth` square layers without activations, each but the last with the method's norm: N×(R·C)×1×1 → N×R×C."""

    def __init__(self, layers: Layers, depth: int, size: int):
        super().__init__()
        layers.require_no_residual("linear")
        inner = [layers.conv_norm(size, size, 1) for _ in range(depth - 1)]
        self.layers, self.replicates = nn.Sequential(*inner, layers.conv(size, size, 1)), layers.replicates

    def forward(self, x):
        return self.layers(x).flatten(1).unflatten(1, (self.replicates, -1))
